"""Cameras that differ as real ones do, what they make of light, and boxes as detectors draw them."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from msinet_timm.render.cameras import draw_camera
from msinet_timm.render.sensor import develop


def shown(radiance, camera, size=(64, 128), rows=1000, alpha=None, seed=0):
    image, mask = develop(radiance.astype(np.float32), camera, size, rows, np.random.default_rng(seed), alpha)
    image = np.asarray(Image.open(io.BytesIO(image)).convert('RGB')).astype(float)
    return image, None if mask is None else np.asarray(Image.open(io.BytesIO(mask))).astype(float)


@pytest.fixture
def plain():
    """A camera that changes little."""
    changes = dict(exposure=1.0, balance=np.ones(3), gamma=np.ones(3), veil=np.zeros(3), contrast=0.0, saturation=1.0)
    changes |= dict(blur=0.0, sharpen=0.0, noise=0.0, comb=0.0, quality=95)
    return dataclasses.replace(draw_camera(0, 'street', 1), **changes)


@pytest.mark.parametrize('domain', ['street', 'mall'])
def test_cameras_of_a_place_see_colours_each_in_its_way(domain):
    grey = np.full((128, 64, 3), 0.2)
    for seed in range(8):
        cameras = [draw_camera(seed, domain, number) for number in range(1, 7)]
        seen = np.array([shown(grey, c)[0].mean((0, 1)) for c in cameras])
        warm = np.log2((seen[:, 0] + 1) / (seen[:, 2] + 1))
        assert np.ptp(warm) > 0.35
        assert np.ptp(np.log2([c.rows / c.far for c in cameras])) > 0.5
    assert len({draw_camera(0, domain, 3).seed, draw_camera(1, domain, 3).seed, draw_camera(0, domain, 4).seed}) == 3


def test_people_are_25_to_250_rows_high():
    cameras = [draw_camera(seed, 'street', number) for seed in range(40) for number in range(1, 7)]
    high = 1.7 * np.array([[c.rows / c.near, c.rows / c.far] for c in cameras])
    assert np.percentile(high, 1) > 20 and np.percentile(high, 99) < 300
    assert (high < 60).mean() > 0.2 and (high > 130).mean() > 0.2


def test_some_cameras_see_by_night_and_without_colour():
    cameras = [draw_camera(seed, 'street', number) for seed in range(60) for number in range(1, 7)]
    grey = np.array([c.saturation == 0 for c in cameras])
    assert 0.02 < grey.mean() < 0.12
    assert 0.04 < np.mean([c.comb > 0 for c in cameras]) < 0.25
    radiance = np.random.default_rng(0).random((128, 64, 3))
    image, _ = shown(radiance, cameras[int(grey.argmax())])
    assert np.ptp(image, axis=2).max() <= 3


def test_each_setting_of_a_camera_is_seen(plain):
    radiance = np.random.default_rng(0).random((16, 8, 3)).repeat(8, 0).repeat(8, 1) * [0.7, 0.4, 0.2]
    base, _ = shown(radiance, plain)
    changed = dict(exposure=2.0, balance=np.array([1.5, 1, 0.7]), gamma=np.full(3, 1.3), veil=np.full(3, 0.2))
    changed |= dict(contrast=0.7, saturation=0.4, blur=2.0, sharpen=1.0, noise=0.05, comb=0.8, quality=20)
    for name, value in changed.items():
        image, _ = shown(radiance, dataclasses.replace(plain, **{name: value}))
        assert np.abs(image - base).mean() > 1, name
    coarse, _ = shown(radiance, plain, rows=32)
    assert np.abs(np.diff(coarse, axis=1)).mean() < 0.8 * np.abs(np.diff(base, axis=1)).mean()
    edge = dataclasses.replace(plain, soft=not plain.soft)
    assert np.abs(shown(radiance, edge, rows=32)[0] - coarse).mean() > 0.3


def test_the_darkest_shows_the_veil(plain):
    image, _ = shown(np.zeros((128, 64, 3)), dataclasses.replace(plain, veil=np.array([0.3, 0.2, 0.1])))
    assert np.allclose(image.mean((0, 1)), [76, 51, 26], atol=3)


def test_the_mask_is_squeezed_like_the_image(plain):
    radiance, alpha = np.zeros((128, 80, 3)), np.zeros((128, 80))
    radiance[40:90, 20:50], alpha[40:90, 20:50] = 5.0, 1.0
    for rows in (1000, 60):
        image, mask = shown(radiance, plain, rows=rows, alpha=alpha)
        assert image.shape == (128, 64, 3) and mask.shape == (128, 64)
        assert np.abs(image.mean(2) / image.mean(2).max() - mask / 255).mean() < 0.03


def test_boxes_are_those_of_a_detector():
    from msinet_timm.render.scene import _frame

    rng = np.random.default_rng(0)
    tall = np.linspace(0, 1.7, 40)
    points = np.stack([0.25 * np.cos(9 * tall), 8 + 0.15 * np.sin(9 * tall), tall], 1)
    eye, feet, hair, wide, aside, shapes = np.array([0, 0, 3.0]), 0, 0, 0, [], set()
    for _ in range(600):
        crop, stretch = _frame(points, eye, 'person', rng)
        x, y = ((crop.lens.seen(points - eye) - crop.middle) / (crop.tall / 2)).T
        feet, hair, wide = feet + (y.min() < -1.04), hair + (y.max() > 1.03), wide + (np.ptp(y) < 1.6)
        aside.append((x.max() + x.min()) / 2)
        shapes.add(stretch)
        inside = (np.abs(y) < 1) & (np.abs(x) < 0.5 * stretch)
        assert inside.mean() > 0.4
    assert 0.08 < feet / 600 < 0.3 and 0.02 < hair / 600 < 0.25 and 0.02 < wide / 600 < 0.3
    assert np.std(aside) > 0.02 and len(shapes) > 2
