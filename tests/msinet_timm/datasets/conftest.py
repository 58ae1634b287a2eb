"""Miniatures of data sets on disk, for the tests of their readers."""

import pytest
from PIL import Image

# What operating systems and people leave in folders of images.
RUBBISH = ('Thumbs.db', 'readme.txt', '._0002_c1s1_000451_03.jpg')


@pytest.fixture
def plant(tmp_path):
    """Writes folders of empty images with rubbish among them (folder: names), and text files (file: its text)."""

    def write(files, root='data'):
        for name, content in files.items():
            path = tmp_path / root / name
            if isinstance(content, str):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding='utf-8')
                continue
            path.mkdir(parents=True, exist_ok=True)
            for file in (*content, *RUBBISH):
                (path / file).touch()
        return tmp_path / root

    return write


@pytest.fixture
def paint(tmp_path):
    """Writes an image of one colour, by default another one for each call."""
    count = iter(range(256))

    def write(name, color=None, size=(24, 48)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', size, color or (next(count), 90, 160)).save(path)
        return path

    return write


@pytest.fixture
def brief():
    """Records without what is known of them everywhere: (path below a root, fields that are not None)."""

    def of(records, root):
        return [(r.path.removeprefix(f'{root}/'), *(v for v in r[1:] if v is not None)) for r in records]

    return of
