"""Renders one image: a dressed person, or a vehicle, in front of a camera."""

import functools
from typing import NamedTuple

import numpy as np

from . import raster
from .scene import compose
from .sensor import develop

__all__ = ['Rendered', 'render_image']


class Rendered(NamedTuple):
    """A JPEG file, and a PNG file [H, W] of how much of each pixel is the person (0 to 255), if that was asked for."""

    image: bytes
    mask: bytes | None


def render_image(
    seed: int, domain: str, identity: int, camera: int, index: int, kind: str, width: int, height: int,
    mask: bool = False, objects: str = 'people',
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
        mask: also give the mask of the person or vehicle.
        objects: one of `scene.OBJECTS`.

    Raises:
        InputError: anny, moderngl or a driver for OpenGL is not installed.
    """
    view, place = raster.place(seed, domain, camera, objects == 'vehicles')
    maker = functools.partial(raster.MAKERS[objects], seed, domain, height)
    # Where the sensor has no more rows than half of the image, half of its pixels are drawn.
    least = height / 2
    fewer = least if objects == 'people' else 0.0
    scene = compose(maker, view, seed, domain, identity, camera, index, kind, objects, width / height, fewer)
    # A box of another shape than the image's is squeezed into it.
    size = max(8, round(width * scene.stretch)), height
    if scene.rows <= least:
        size = max(8, size[0] // 2), max(16, height // 2)
    radiance, alpha = raster.render(scene, view, place, *size)
    layers = np.concatenate([radiance, alpha[..., None]], 2) if mask else radiance
    layers = scene.crop.bend(layers, scene.axes, scene.field)
    alpha = layers[..., 3] if mask else None
    return Rendered(*develop(layers[..., :3], view, (width, height), scene.rows, scene.rng, alpha))
