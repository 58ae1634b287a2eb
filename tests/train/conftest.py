import sys

import numpy as np
import pytest
from PIL import Image


def write_market(root, trained, tested):
    """A folder laid out as Market-1501: each identity in one colour, `trained` lists (identity, camera) of images."""
    rng = np.random.default_rng(0)
    colors = rng.integers(20, 235, (40, 3))
    parts = {
        'bounding_box_train': trained,
        'query': [(identity, 1) for identity in tested],
        'bounding_box_test': [(identity, camera) for identity in tested for camera in (1, 2, 3)],
    }
    for folder, images in parts.items():
        (root / folder).mkdir()
        for number, (identity, camera) in enumerate(images):
            pixels = colors[identity] + rng.normal(0, 10, (48, 24, 3))
            name = f'{identity:04d}_c{camera}s1_{number:06d}_00.jpg'
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / folder / name)
    return root


@pytest.fixture(scope='session')
def market(tmp_path_factory):
    """Six identities to train on and three to find."""
    trained = [(identity, image % 3 + 1) for identity in range(1, 7) for image in range(5)]
    return write_market(tmp_path_factory.mktemp('market'), trained, (7, 8, 9))


@pytest.fixture(scope='session')
def market_to_search(tmp_path_factory):
    """Fifteen identities to search on and four to find."""
    trained = [(identity, image % 3 + 1) for identity in range(1, 16) for image in range(8)]
    return write_market(tmp_path_factory.mktemp('search'), trained, (20, 21, 22, 23))


@pytest.fixture(autouse=True)
def _charts(request, monkeypatch):
    """Trainings draw only where a test is marked `charts`, and in fixtures of a wider scope."""
    if not request.node.get_closest_marker('charts'):
        monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
