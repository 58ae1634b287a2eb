"""The demo for the Hub's Spaces."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from msinet_timm import datasets
from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError

SPACE = Path(__file__).parents[3] / 'docs' / 'gallery_space.py'


@pytest.mark.slow
def test_the_demo_answers(tmp_path, monkeypatch):
    pytest.importorskip('gradio')
    from gradio_client import Client, handle_file

    monkeypatch.setenv('GALLERY', str(tmp_path / 'people.gallery'))
    monkeypatch.setenv('GRADIO_ANALYTICS_ENABLED', 'False')
    space = runpy.run_path(str(SPACE))
    try:
        _, url, _ = space['demo'].launch(prevent_thread_lock=True, server_name='127.0.0.1', quiet=True)
        client = Client(url, verbose=False)
        asked = handle_file(create_dataset('sample').query[0].path)
        found = client.predict(asked, 4, [], api_name='/search')
        assert len(found) == 4 and all(': ' in one['caption'] for one in found)
        distances = [float(one['caption'].split(', ')[1].split(':')[0]) for one in found]
        assert distances == sorted(distances)
        found = client.predict(asked, 3, ['2'], api_name='/search')
        assert [one['caption'].split(',')[0] for one in found] == ['camera 2'] * 3
    finally:
        space['demo'].close()
        space['gallery'].close()


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Without Gradio: what is filled in, and what becomes of an image that another process erases meanwhile."""
    records = create_dataset('sample').gallery[:4]
    given = []
    monkeypatch.setattr(datasets, 'create_dataset', lambda name: SimpleNamespace(gallery=given))
    monkeypatch.setitem(sys.modules, 'gradio', MagicMock(Error=type('Error', (Exception,), {})))
    monkeypatch.setenv('GALLERY', str(tmp_path / 'people.gallery'))
    for count in (2, 4, 4):
        given[:] = records[:count]
        space = runpy.run_path(str(SPACE))
        assert len(space['gallery']) == count
        space['gallery'].close()
    space = runpy.run_path(str(SPACE))
    with space['gallery'] as gallery:
        assert len(space['search'](records[0].path, 3, [])) == 3

        def gone(id):
            raise InputError(f'crop {id} is gone')

        monkeypatch.setattr(gallery, 'jpeg', gone)
        with pytest.raises(space['gr'].Error, match='is gone'):
            space['search'](records[0].path, 3, [])
