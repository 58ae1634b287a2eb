"""Market-1501, and whatever is laid out like it.

Three folders of pictures named `<identity>_c<camera>s<sequence>_<frame>_<box>.jpg`, as in `0002_c1s1_000451_03.jpg`.
Identity -1 is junk (a bad detection), dropped; identity 0000 is a distractor, kept in the gallery.
"""

import os
import re
from pathlib import Path

from ..commands import InputError
from .records import Record, ReIDDataset

__all__ = ['read_market1501']

_PARTS = {'train': 'bounding_box_train', 'query': 'query', 'gallery': 'bounding_box_test'}
_SUBFOLDERS = ('', 'Market-1501-v15.09.15', 'market1501', 'Market-1501')
_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')
_NAME = re.compile(r'(-1|\d+)_c(\d+)s\d+_\d+_\d+\.\w+', re.ASCII)
_JUNK = -1


def read_market1501(root: str | None, name: str = 'market1501') -> ReIDDataset:
    """Reads the lists of a folder with `bounding_box_train`, `query` and `bounding_box_test`.

    Args:
        root: that folder, or its parent if it has one of the names the data set is distributed under.
        name: name of the resulting data set.

    Raises:
        InputError: no root, a folder missing or without pictures, or a picture whose name does not parse.
    """
    if root is None:
        raise InputError(f"data set '{name}' needs its folder: give --data-dir, or root in Python")
    folder = _find_folder(Path(root))
    parts = {part: _read_folder(folder / subfolder) for part, subfolder in _PARTS.items()}
    return ReIDDataset(name, str(folder), **parts)


def _find_folder(root: Path) -> Path:
    """The first candidate that holds one of the parts; the message of a missing part comes later, and is better."""
    for candidate in (root / subfolder for subfolder in _SUBFOLDERS):
        if any((candidate / part).is_dir() for part in _PARTS.values()):
            return candidate
    state = 'has none of them' if root.is_dir() else 'is no folder'
    raise InputError(f'expected a folder with {", ".join(_PARTS.values())}, but {root} {state}')


def _read_folder(folder: Path) -> tuple[Record, ...]:
    """Records of a folder in order of file names, without junk."""
    if not folder.is_dir():
        raise InputError(f'{folder} is missing: expected the folders {", ".join(_PARTS.values())} side by side')
    # hidden files such as macOS's ._0002_c1s1_000451_03.jpg are no pictures
    names = sorted(n for n in os.listdir(folder) if n.lower().endswith(_IMAGE_SUFFIXES) and not n.startswith('.'))
    records = tuple(record for record in (_parse(folder, n) for n in names) if record.identity != _JUNK)
    if not records:
        raise InputError(f'{folder} holds no pictures: expected files named like 0002_c1s1_000451_03.jpg')
    return records


def _parse(folder: Path, name: str) -> Record:
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f'{folder / name}: expected <identity>_c<camera>s<sequence>_<frame>_<box>, like 0002_c1s1_000451_03.jpg'
        )
    return Record(str(folder / name), identity=int(match[1]), camera=int(match[2]))
