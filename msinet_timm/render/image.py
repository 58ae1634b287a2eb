"""Renders one image: a dressed person, or a vehicle, in front of a camera."""

import functools
import importlib
from types import ModuleType
from typing import NamedTuple

import numpy as np

from .scene import compose
from .sensor import develop

__all__ = ['RENDERERS', 'Rendered', 'load', 'render_image']

#: By name, the modules that hold `load_renderer`, `MAKERS`, `place`, `render` and `versions`.
RENDERERS = {'mitsuba': 'traced', 'raster': 'raster'}


class Rendered(NamedTuple):
    """A JPEG file, and a PNG file [H, W] of how much of each pixel is the person (0 to 255), if that was asked for."""

    image: bytes
    mask: bytes | None


def load(renderer: str) -> ModuleType:
    """The module of a renderer, ready to render.

    Raises:
        InputError: what it needs is not installed.
    """
    module = importlib.import_module(f'{__package__}.{RENDERERS[renderer]}')
    module.load_renderer()
    return module


def render_image(
    seed: int, domain: str, identity: int, camera: int, index: int, kind: str, width: int, height: int,
    samples: int | None = None, renderer: str = 'mitsuba', mask: bool = False, objects: str = 'people',
) -> Rendered:  # fmt: skip
    """Renders an image. The same arguments always give the same bytes with the same versions of what renders.

    Args:
        seed: of the whole data set.
        domain: one of `identity.DOMAINS`.
        identity: number of the person or vehicle.
        camera: number of the camera, from 1.
        index: number of the image of this one under this camera.
        kind: person or vehicle, place (nobody there), or a bad detection: partial or small.
        width, height: of the image, in pixels.
        samples: rays for each pixel; None for a renderer that has no rays.
        renderer: one of `RENDERERS`.
        mask: also give the mask of the person or vehicle, which `raster` alone can.
        objects: one of `scene.OBJECTS`; vehicles are drawn by `raster` alone.

    Raises:
        InputError: anny, or what the renderer needs, is not installed.
    """
    module = load(renderer)
    view, place = module.place(seed, domain, camera, objects == 'vehicles')
    maker = functools.partial(module.MAKERS[objects], seed, domain, height)
    # Where the sensor has no more rows than half of the image, half of its pixels are drawn.
    least = height / 2 if samples is None else 0.0
    fewer = least if objects == 'people' else 0.0
    scene = compose(maker, view, seed, domain, identity, camera, index, kind, objects, width / height, fewer)
    # A box of another shape than the image's is squeezed into it.
    size = max(8, round(width * scene.stretch)), height
    if scene.rows <= least:
        size = max(8, size[0] // 2), max(16, height // 2)
    radiance, alpha = module.render(scene, view, place, *size, samples)
    layers = np.concatenate([radiance, alpha[..., None]], 2) if mask else radiance
    layers = scene.crop.bend(layers, scene.axes, scene.field)
    alpha = layers[..., 3] if mask else None
    return Rendered(*develop(layers[..., :3], view, (width, height), scene.rows, scene.rng, alpha))
