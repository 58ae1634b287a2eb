"""Boxes of records: crops made on the fly."""

import numpy as np
import pytest
from PIL import Image

from msinet_timm.datasets import Record
from msinet_timm.datasets.images import ReIDImages, load_image
from msinet_timm.errors import InputError


@pytest.fixture
def image(tmp_path):
    """An image whose pixels differ, stored lying on its side."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # upright after a quarter turn
    Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
    return str(tmp_path / 'a.png'), np.rot90(pixels, -1)


def test_box_is_of_the_upright_image(image):
    path, upright = image
    assert upright.shape == (8, 6, 3)
    assert np.array_equal(load_image(path), upright)
    assert np.array_equal(load_image(path, (1, 2, 5, 8)), upright[2:8, 1:5])
    assert np.array_equal(load_image(path, (0, 0, 6, 8)), upright)


def test_records_with_boxes_are_cropped(image):
    path, upright = image
    images = ReIDImages([Record(path, 'a'), Record(path, 'a', box=(0, 1, 2, 3))], np.asarray)
    assert np.array_equal(images[0][0], upright)
    assert np.array_equal(images[1][0], upright[1:3, :2])


@pytest.mark.parametrize('box', [(0, 0, 7, 8), (0, 0, 6, 9), (0, 0, 600, 900)])
def test_box_beyond_the_image_is_cut_off(image, box):
    path, upright = image
    assert np.array_equal(load_image(path, box), upright)


@pytest.mark.parametrize('box', [(6, 0, 7, 8), (0, 8, 6, 9)])
def test_box_outside_of_the_image(image, box):
    with pytest.raises(InputError, match=r'a.png: the box .* shows nothing of its 6x8 pixels'):
        load_image(image[0], box)
