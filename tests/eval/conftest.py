import numpy as np
import pytest
from PIL import Image

COLORS = {1: (220, 40, 40), 2: (40, 200, 60), 3: (50, 70, 230), 4: (230, 220, 40)}


def write_image(path, color, seed):
    noise = np.random.default_rng(seed).normal(0, 4, (48, 24, 3))
    Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=95)


@pytest.fixture
def market(tmp_path):
    """A folder laid out as Market-1501, where everybody wears one colour: colour alone finds everything."""
    root = tmp_path / 'market'
    parts = {
        'bounding_box_train': [(4, camera) for camera in (1, 2)],
        'query': [(identity, 1) for identity in (1, 2, 3)],
        'bounding_box_test': [(identity, camera) for identity in (1, 2, 3) for camera in (1, 2, 3)],
    }
    for folder, images in parts.items():
        (root / folder).mkdir(parents=True)
        for number, (identity, camera) in enumerate(images):
            name = f'{identity:04d}_c{camera}s1_{number:06d}_00.jpg'
            write_image(root / folder / name, COLORS[identity], seed=100 * len(folder) + number)
    write_image(root / 'bounding_box_test' / '0000_c1s1_000099_00.jpg', (128, 128, 128), seed=7)
    return root
