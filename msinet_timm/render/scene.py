"""Who and what is in an image, and where its camera looks; `raster` renders it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import people, traffic
from .cameras import Camera
from .identity import generator
from .lens import Crop, Lens, upright
from .meshes import Mesh

__all__ = ['KINDS', 'OBJECTS', 'PASSERS', 'Maker', 'Scene', 'compose', 'keep_made']

#: By what a data set shows, the modules that hold `boxed` and `cast`.
OBJECTS = {'people': people, 'vehicles': traffic}
#: Numbers of the people and vehicles that only pass by.
PASSERS = range(900_000_000, 900_000_020)
KINDS = ('person', 'place', 'partial', 'small', 'vehicle')
_LEAST_ROWS = 28.0  # a detector finds nobody smaller
#: Gives for the number of a person or vehicle what it is, and all that is seen of it: of people, in rest pose, and of
#: triangles twice as large if that is asked for.
Maker = Callable[..., tuple[Any, Mesh]]
_TALL = 1.8  # metres


class Scene(NamedTuple):
    """What is seen in one image only, and how; lengths in metres.

    Attributes:
        target: the person or vehicle that the image is of; None for a place.
        others: who pass by, and what hides a part of it.
        axes: [3, 3] of the view that is drawn: right, up and forward.
        field: its vertical field of view, degrees.
        sun: irradiance [3] of the camera's sun, as clouds leave it.
        rows: of the camera's sensor that the image shows.
        stretch: width of what is seen, by that of an image of the same height: the image squeezes it.
        rng: for what the camera does to the image.
        crop: what the lens shows of the view; None for all of it.
    """

    target: Mesh | None
    others: list[Mesh]
    axes: np.ndarray
    field: float
    sun: np.ndarray
    rows: float
    stretch: float
    rng: np.random.Generator
    crop: Crop | None = None

    @property
    def moving(self) -> list[Mesh]:
        return [mesh for mesh in (self.target, *self.others) if mesh is not None]


def keep_made(make: Callable[..., tuple[Any, Mesh]]) -> Callable[..., tuple[Any, Mesh]]:
    """Keeps what `raster` makes, by seed, domain, height, number and what else it is asked for: of all that pass by,
    and of few others."""
    passers, others = functools.lru_cache(maxsize=2 * len(PASSERS))(make), functools.lru_cache(maxsize=8)(make)

    @functools.wraps(make)
    def kept(seed: int, domain: str, height: int, number: int, *how) -> tuple[Any, Mesh]:
        return (passers if number in PASSERS else others)(seed, domain, height, number, *how)

    def forget() -> None:
        passers.cache_clear()
        others.cache_clear()

    kept.cache_clear = forget
    return kept


def _frame(
    points: np.ndarray,
    eye: np.ndarray,
    kind: str,
    rng: np.random.Generator,
    boxed: Callable = people.boxed,
    lens: Lens | None = None,
) -> tuple[Crop, float]:
    """What a detector's box around `points` shows to a camera at `eye`; without a `lens`, it looks straight at them.

    Returns:
        The box, and its width by that of an image.
    """
    lens = lens or Lens(upright(points.mean(0) - eye))
    x, y = lens.seen(points - eye).T
    sides, tall, stretch = boxed(np.array([x.min(), x.max(), y.min(), y.max()]), kind, rng)
    return Crop(lens, sides.reshape(2, 2).mean(1), tall), stretch


def compose(
    maker: Maker,
    view: Camera,
    seed: int,
    domain: str,
    identity: int,
    camera: int,
    index: int,
    kind: str,
    objects: str = 'people',
    aspect: float = 0.5,
    least: float = 0.0,
) -> Scene:
    """Draws who stands where in an image, and how the camera sees them; the same for the same arguments.

    Args:
        maker: gives meshes by number; a coarser one moves things by no more than it differs itself.
        view: the camera with the number `camera`.
        seed: of the whole data set.
        domain: one of `identity.DOMAINS`.
        identity: number of the person or vehicle.
        camera: number of the camera, from 1.
        index: number of the image of this one under this camera.
        kind: one of `KINDS`.
        objects: one of `OBJECTS`.
        aspect: width of the image by its height.
        least: rows of the sensor from which people are not made of larger triangles.
    """
    rng = generator(seed, domain, 4, identity, camera, index, KINDS.index(kind))
    distance = rng.uniform(view.near, view.far)
    whose = OBJECTS[objects]
    how = (True,) if _TALL / distance * view.rows < least else ()

    def passing() -> tuple[Any, Mesh]:
        return maker(PASSERS[rng.integers(len(PASSERS))], *how)

    points, target, others = whose.cast(lambda: maker(identity, *how), passing, view, kind, distance, rng)
    crop, stretch = _frame(points, np.array([0, 0, view.height]), kind, rng, whose.boxed, Lens.of(view))
    rows = max(crop.tall * view.rows, _LEAST_ROWS)
    sun = view.sun * (rng.uniform(0.55, 1) if domain == 'street' else 1.0)  # clouds
    return Scene(target, others, *crop.sight(aspect * stretch), sun, rows, stretch, rng, crop)
