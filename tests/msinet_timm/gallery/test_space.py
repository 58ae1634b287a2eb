"""The demo for the Hub's Spaces, where Gradio is installed."""

import runpy
from pathlib import Path

import pytest

from msinet_timm.datasets import create_dataset

gradio = pytest.importorskip('gradio')
SPACE = Path(__file__).parents[3] / 'docs' / 'gallery_space.py'


@pytest.mark.slow
def test_the_demo_answers(tmp_path, monkeypatch):
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
