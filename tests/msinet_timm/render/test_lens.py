"""Lenses: what is seen where, boxes that follow, and images and masks bent alike."""

import dataclasses
import functools
import io

import numpy as np
import pytest
from PIL import Image

from msinet_timm.render.cameras import draw_camera, draw_film_camera
from msinet_timm.render.lens import Crop, Lens, upright


@pytest.fixture
def wide():
    """A camera with a strong lens, which looks beside those who walk before it."""
    return dataclasses.replace(draw_camera(0, 'street', 1), height=4.0, pan=0.3, barrel=0.25)


def test_cameras_have_lenses_of_their_own():
    cameras = [draw_camera(seed, 'street', number) for seed in range(20) for number in range(1, 7)]
    barrel, pan = (np.array([getattr(c, name) for c in cameras]) for name in ('barrel', 'pan'))
    assert 0.1 < (barrel == 0).mean() < 0.4 and barrel.max() > 0.2 and barrel.min() == 0
    assert pan.min() < -0.25 and pan.max() > 0.25 and np.abs(pan).max() < 0.33
    film = draw_film_camera(0, 'street', 1)
    assert film.barrel == film.pan == 0


def test_rays_lead_back_to_where_things_are_seen(wide):
    lens, rng = Lens.of(wide), np.random.default_rng(0)
    at = rng.uniform(-0.8, 0.8, (200, 2))
    assert np.allclose(lens.seen(lens.rays(at) * rng.uniform(2, 9, (200, 1))), at, atol=1e-9)
    assert np.allclose(lens.axes @ lens.axes.T, np.eye(3))
    right, up, forward = lens.axes
    assert right[2] == 0 and up[2] > 0 and forward[2] < 0 and np.isclose(np.arctan2(*forward[:2]), wide.pan)


def test_a_barrel_bends_lines_and_draws_edges_in(wide):
    lens, straight = Lens.of(wide), Lens(Lens.of(wide).axes)
    away = lens.axes[2] * 5 + np.linspace(-4, 4, 41)[:, None] * lens.axes[0] + 2 * lens.axes[1]
    bent, plain = lens.seen(away), straight.seen(away)
    assert np.ptp(plain[:, 1]) < 1e-9 and np.argmax(bent[:, 1]) == 20 and np.ptp(bent[:, 1]) > 0.02
    far, near = (np.linalg.norm(x, axis=1) for x in (plain, bent))
    assert (near < far).all() and (near / far)[20] > (near / far)[0]
    # the model: r = s / (1 - barrel s^2)
    assert np.allclose(far, near / (1 - 0.25 * near**2))


def test_somebody_beside_the_axis_leans(wide):
    """Seen from above, heads are farther out than feet."""
    lens = Lens.of(dataclasses.replace(wide, barrel=0.0, pan=0.0))
    eye = np.array([0, 0, wide.height])
    for side in (-1, 0, 1):
        feet, head = lens.seen(np.array([[2.0 * side, 6, 0], [2.0 * side, 6, 1.7]]) - eye)
        assert np.sign(round(head[0] - feet[0], 9)) == side


def test_a_view_shows_all_of_a_crop(wide):
    rng = np.random.default_rng(0)
    for _ in range(30):
        crop = Crop(Lens.of(wide), rng.uniform(-0.6, 0.6, 2), rng.uniform(0.1, 0.6))
        aspect = rng.uniform(0.35, 0.8)
        axes, field = crop.sight(aspect)
        assert np.allclose(axes @ axes.T, np.eye(3))
        edge = np.linspace(-1, 1, 33)
        border = np.concatenate([np.stack([edge, 0 * edge + s], 1) for s in (-1, 1)])
        at = crop.middle + crop.tall / 2 * np.concatenate([border, border[:, ::-1]]) * [aspect, 1]
        right, up, forward = axes @ crop.lens.rays(at).T
        half = np.tan(np.deg2rad(field) / 2)
        x, y = right / forward / half / aspect, up / forward / half
        assert max(np.abs(x).max(), np.abs(y).max()) <= 1
        assert max(np.abs(x).max(), np.abs(y).max()) > 0.97  # and little else


def test_images_are_bent_to_where_the_lens_shows_things(wide):
    """Colours that tell a direction, drawn without distortion, are where `seen` says."""
    crop = Crop(Lens.of(wide), np.array([-0.35, 0.1]), 0.5)
    width, height = 96, 192
    axes, field = crop.sight(width / height)
    half = np.tan(np.deg2rad(field) / 2)
    x = ((np.arange(width) + 0.5) * 2 / width - 1) * half * width / height
    y = (1 - (np.arange(height) + 0.5) * 2 / height) * half
    rays = np.stack(np.broadcast_arrays(x, y[:, None], 1.0), -1) @ axes
    where = crop.lens.seen(rays.reshape(-1, 3)).reshape(height, width, 2)
    bent = crop.bend(np.concatenate([where, np.ones((height, width, 1))], 2), axes, field)
    pixel = crop.tall / height
    wanted = crop.middle + np.stack(
        np.broadcast_arrays(
            (np.arange(width) + 0.5 - width / 2) * pixel, (height / 2 - 0.5 - np.arange(height))[:, None] * pixel
        ),
        -1,
    )
    assert bent.shape == (height, width, 3) and (bent[..., 2] > 0.999).all()  # nothing is left unseen
    inside = (slice(2, -2), slice(2, -2))
    assert np.abs(bent[..., :2] - wanted)[inside].max() < 0.3 * pixel
    assert np.abs(where - wanted)[inside].max() > 1.5 * pixel  # and it was elsewhere before


def test_without_distortion_nothing_is_bent():
    lens = Lens(upright(np.array([0.2, 1.0, -0.3])))
    crop = Crop(lens, np.zeros(2), 0.4)
    axes, field = crop.sight(0.5)
    assert np.allclose(axes, lens.axes) and np.isclose(np.tan(np.deg2rad(field) / 2), 0.2 * 1.005)
    layers = np.random.default_rng(0).random((64, 32, 3)).repeat(4, 0).repeat(4, 1)
    bent = crop.bend(layers, axes, field)
    assert np.abs(bent - layers)[8:-8, 8:-8].mean() < 0.08


@pytest.mark.slow
@pytest.mark.parametrize('camera', [1, 2, 4])
def test_boxes_and_masks_follow_the_lens(raster, monkeypatch, camera):
    from msinet_timm.render import image, people, scene

    def exactly(sides, kind, rng):
        tall, wide = sides[3] - sides[2], sides[1] - sides[0]
        return sides, max(tall, 2 * wide), 1.0

    monkeypatch.setitem(scene.OBJECTS, 'people', type('people', (), dict(cast=people.cast, boxed=exactly)))
    real = image.compose
    monkeypatch.setattr(image, 'compose', lambda *args: real(*args)._replace(others=[]))
    monkeypatch.setattr(raster, 'place', functools.partial(_strong, raster.place))
    for index in range(3):
        made = image.render_image(0, 'street', 3, camera, index, 'person', 96, 192, True)
        seen = np.asarray(Image.open(io.BytesIO(made.mask))) > 100
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        touches = rows[0] < 8 and rows[-1] > 183, columns[0] < 8 and columns[-1] > 87
        assert any(touches), (index, rows[[0, -1]], columns[[0, -1]])  # the box is full in one direction
        middle = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
        assert np.allclose(middle, [95.5, 47.5], atol=5)


def _strong(place, seed, domain, number, road=False):
    camera, around = place(seed, domain, number, road)
    return dataclasses.replace(camera, pan=-0.3, barrel=0.25, blur=0.0, rows=4000.0, quality=95), around


@pytest.mark.slow
def test_the_lens_changes_the_image_and_nothing_else_does(raster, monkeypatch):
    from msinet_timm.render import image

    def render():
        return image.render_image(0, 'street', 3, 1, 0, 'person', 48, 96, True)

    first = render()
    assert render() == first
    monkeypatch.setattr(raster, 'place', functools.partial(_strong, raster.place))
    assert render() != first
