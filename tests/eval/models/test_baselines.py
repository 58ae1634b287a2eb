import colorsys

import pytest
import torch

from msinet_eval.models.baselines import BASELINES, ColorHistogram, rgb_to_hsv
from msinet_timm.errors import InputError


@pytest.fixture
def images():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 7, 5)
    images[0, :, 0] = 0.5  # grays, black, white, pure colours
    images[1, :, 0] = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0]])
    return images


def hsv(image, row, column):
    return colorsys.rgb_to_hsv(*image[:, row, column].tolist())


def test_hsv_equals_colorsys(images):
    result = rgb_to_hsv(images)
    for image, converted in zip(images, result, strict=True):
        for row in range(7):
            for column in range(5):
                assert converted[:, row, column].tolist() == pytest.approx(hsv(image, row, column), abs=1e-5)


@pytest.mark.parametrize('stripes', [1, 3, 7])
def test_equals_counting_pixel_by_pixel(images, stripes):
    bins = (5, 3, 2)
    expected = torch.zeros(2, stripes, *bins)
    for image, histogram in zip(images, expected, strict=True):
        for row in range(7):
            for column in range(5):
                place = (min(int(v * n), n - 1) for v, n in zip(hsv(image, row, column), bins, strict=True))
                histogram[(row * stripes // 7, *place)] += 1
    expected = (expected / expected.sum((2, 3, 4), keepdim=True)).sqrt().flatten(1)
    model = ColorHistogram(stripes, bins)
    torch.testing.assert_close(model(images), expected)
    assert expected.shape == (2, model.num_features)


def test_stripes_tell_top_from_bottom():
    red, blue = torch.tensor([1.0, 0, 0]).view(3, 1, 1), torch.tensor([0, 0, 1.0]).view(3, 1, 1)
    images = torch.stack([torch.cat([a.expand(3, 6, 4), b.expand(3, 6, 4)], 1) for a, b in ((red, blue), (blue, red))])
    whole, stripes = (BASELINES[name]()(images) for name in ('color_histogram', 'color_histogram_stripes'))
    torch.testing.assert_close(whole[0], whole[1])
    assert (stripes[0] * stripes[1]).sum() == 0
    assert stripes.shape == (2, 6 * 256)


def test_fewer_rows_than_stripes():
    with pytest.raises(InputError, match='6 stripes need an input height of at least 6, got 5'):
        BASELINES['color_histogram_stripes']()(torch.zeros(1, 3, 5, 5))
