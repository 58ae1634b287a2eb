import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope='session')
def market(tmp_path_factory):
    """A folder laid out as Market-1501: six identities to train on and three to find, each in one colour."""
    root = tmp_path_factory.mktemp('market')
    rng = np.random.default_rng(0)
    colors = rng.integers(20, 235, (10, 3))
    parts = {
        'bounding_box_train': [(identity, image % 3 + 1) for identity in range(1, 7) for image in range(5)],
        'query': [(identity, 1) for identity in (7, 8, 9)],
        'bounding_box_test': [(identity, camera) for identity in (7, 8, 9) for camera in (1, 2, 3)],
    }
    for folder, pictures in parts.items():
        (root / folder).mkdir()
        for number, (identity, camera) in enumerate(pictures):
            pixels = colors[identity] + rng.normal(0, 10, (48, 24, 3))
            name = f'{identity:04d}_c{camera}s1_{number:06d}_00.jpg'
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / folder / name)
    return root
