"""What other cameras make of an image."""

import colorsys
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from msinet_train.data import cameras
from msinet_train.data.augment import training_transform
from msinet_train.data.cameras import CameraQuality, CameraTone, Miscrop

STEPS = (CameraTone, CameraQuality, Miscrop)


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)


@pytest.fixture(scope='module')
def image():
    """Colours that change slowly, with something sharp in the middle."""
    y, x = np.mgrid[:64, :32]
    pixels = np.stack([y * 3 + 20, x * 6 + 30, 200 - y - x], 2)
    pixels[20:40, 10:20] = (250, 30, 60)
    return Image.fromarray(pixels.astype(np.uint8))


def array(image):
    return np.asarray(image).astype(float)


@pytest.mark.parametrize('kind', STEPS)
def test_size_and_seed(kind, image):
    step, before = kind(), array(image)
    for size in ((32, 64), (31, 57), (128, 64), (8, 8)):
        found = step(image.resize(size))
        assert (found.size, found.mode) == (size, 'RGB')
    several = []
    for _ in range(2):
        random.seed(7)
        several.append([array(step(image)) for _ in range(20)])
    assert all(np.array_equal(a, b) for a, b in zip(*several, strict=True))
    assert len({a.tobytes() for a in several[0]}) > 15
    assert np.array_equal(array(image), before)


@pytest.mark.parametrize('name', ['miscrop', 'camera_tone', 'camera_quality'])
def test_probability(name, image):
    config = dict(input_size=(3, 64, 32), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation='bilinear')
    assert len(training_transform(config).transforms) == len(training_transform(config, **{name: 0.0}).transforms)
    (step,) = (t for t in training_transform(config, **{name: 0.3}).transforms if isinstance(t, T.RandomApply))
    torch.manual_seed(0)
    assert np.mean([step(image) is not image for _ in range(600)]) == pytest.approx(0.3, abs=0.06)


def test_tone_by_hand(image, monkeypatch):
    for _ in range(20):
        state = random.getstate()
        found = CameraTone()(image)
        random.setstate(state)
        saturation = random.uniform(0.2, 1.4)
        curves = np.array(CameraTone.draw_curves()).reshape(3, 256)
        pixels = array(image)
        grey = pixels @ (0.299, 0.587, 0.114)
        colored = (grey[..., None] + saturation * (pixels - grey[..., None])).clip(0, 255)
        around = [
            np.stack([curves[c][np.clip(np.round(colored[..., c]) + d, 0, 255).astype(int)] for c in range(3)], 2)
            for d in (-1, 1)
        ]
        assert (found >= around[0]).all() and (found <= around[1]).all()


def test_tones_of_all_kinds():
    curves = np.array([CameraTone.draw_curves() for _ in range(500)]).reshape(500, 3, 256)
    assert curves.min() >= 0 and curves.max() <= 255 and (np.diff(curves, axis=2) >= 0).all()
    middle = curves[:, :, 128] / 255
    assert middle.mean(1).min() < 0.3 and middle.mean(1).max() > 0.7
    hues = [colorsys.rgb_to_hsv(*m)[0] for m in middle]
    assert (np.histogram(hues, 6, (0, 1))[0] > 30).all()  # light of every colour
    black = curves[:, :, 0] / 255
    assert 0.3 < black.max() <= 0.6 and 0.05 < np.median(black) < 0.15
    assert (np.ptp(black, axis=1) > 0.05).mean() > 0.2  # a veil has a hue of its own


def test_quality_keeps_what_is_there(image):
    plain, defects = array(image), [array(CameraQuality()(image)) for _ in range(400)]
    assert all(abs(d.mean() - plain.mean()) < 12 for d in defects)
    grey = np.mean([np.ptp(d, axis=2).max() <= 1 for d in defects])
    assert grey == pytest.approx(0.1, abs=0.05)
    # sharp edges go, more or less
    edges = np.array([abs(np.diff(d[30, :, 0])).max() for d in defects if np.ptp(d, axis=2).max() > 1])
    sharp = abs(np.diff(plain[30, :, 0])).max()
    assert edges.min() < sharp / 4 and edges.max() > 0.9 * sharp


@pytest.mark.parametrize('deviation', [0.0, 4.0, 16.0])
@pytest.mark.parametrize('size', [(32, 64), (400, 600)])
def test_noise(deviation, size):
    """Also of images that are larger than what is kept of noise."""
    flat = Image.new('RGB', size, (128, 100, 150))
    found = array(cameras._with_noise(flat, deviation)) - array(flat)
    assert found.std() == pytest.approx(deviation, rel=0.05, abs=0.01)
    assert abs(found.mean()) < 0.5 + deviation / 20
    if deviation:
        assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize('edges', [(0.1, 0.15, 0.1, 0.3), (-0.1, -0.07, -0.1, -0.15), (-0.1, 0.1, 0.2, -0.1), (0,) * 4])
def test_miscrop_by_hand(edges, image, monkeypatch):
    monkeypatch.setattr(Miscrop, 'draw_edges', staticmethod(lambda: edges))
    found = Miscrop()(image)
    left, top, right, bottom = (round(e * n) for e, n in zip(edges, (32, 64, 0, 0), strict=True))
    right, bottom = 32 - round((1 - edges[2]) * 32), 64 - round((1 - edges[3]) * 64)
    wide = np.pad(np.asarray(image), ((64, 64), (32, 32), (0, 0)), 'edge')
    cut = wide[64 + top : 128 - bottom, 32 + left : 64 - right]
    expected = array(Image.fromarray(cut).resize((32, 64), Image.Resampling.BILINEAR))
    assert abs(array(found) - expected).max() <= 1


def test_miscrops_of_all_kinds():
    edges = np.array([Miscrop.draw_edges() for _ in range(1000)])
    assert (edges.min(0) > (-0.1, -0.075, -0.1, -0.15)).all() and (edges.min(0) < (-0.09, -0.06, -0.09, -0.14)).all()
    assert (edges.max(0) < (0.2, 0.15, 0.2, 0.3)).all() and (edges.max(0) > (0.19, 0.14, 0.19, 0.28)).all()
    assert abs(np.corrcoef(edges.T) - np.eye(4)).max() < 0.15  # each edge by itself: off-centre as well
