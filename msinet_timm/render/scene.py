"""Who and what is in an image, and where its camera looks; `traced` and `raster` render it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .body import Body, load_body, pose_transforms, skin
from .cameras import Camera
from .garments import dress
from .identity import draw_identity, generator
from .meshes import Mesh, box
from .occluders import occluder
from .poses import pose

__all__ = ['KINDS', 'PASSERS', 'Person', 'Scene', 'compose', 'keep_people', 'make_person']

#: Numbers of the people who only walk by.
PASSERS = range(900_000_000, 900_000_020)
KINDS = ('person', 'place', 'partial', 'small')
_STRETCHES = (0.7, 0.85, 1.0, 1.25)
_LEAST_ROWS = 28.0  # a detector finds nobody smaller
#: Gives a body, and all that is seen of a person in rest pose, for the number of a person.
Person = Callable[[int], tuple[Body, Mesh]]


class Scene(NamedTuple):
    """What is seen in one image only, and how; lengths in metres.

    Attributes:
        target: the person whom the image is of; None for a place.
        others: people who pass by, and what hides a part of the person.
        at: point [3] that the camera looks at.
        field: vertical field of view, degrees.
        sun: irradiance [3] of the camera's sun, as clouds leave it.
        rows: of the camera's sensor that the image shows.
        stretch: width of what is seen, by that of an image of the same height: the image squeezes it.
        noise: seed of the renderer's rays.
        rng: for what the camera does to the image.
    """

    target: Mesh | None
    others: list[Mesh]
    at: np.ndarray
    field: float
    sun: np.ndarray
    rows: float
    stretch: float
    noise: int
    rng: np.random.Generator

    @property
    def moving(self) -> list[Mesh]:
        return [mesh for mesh in (self.target, *self.others) if mesh is not None]


def keep_people(make: Callable[[int, str, int, int], tuple[Body, Mesh]]) -> Callable:
    """Keeps what a renderer makes of people, by seed, domain, height and number: of all who walk by, and few others."""
    passers, others = functools.lru_cache(maxsize=len(PASSERS))(make), functools.lru_cache(maxsize=4)(make)

    @functools.wraps(make)
    def kept(seed: int, domain: str, height: int, number: int) -> tuple[Body, Mesh]:
        return (passers if number in PASSERS else others)(seed, domain, height, number)

    def forget() -> None:
        passers.cache_clear()
        others.cache_clear()

    kept.cache_clear = forget
    return kept


def make_person(seed: int, domain: str, number: int, exact: type = np.float64) -> tuple[Body, Mesh]:
    """The body of the person with a number, and all that is seen of them in rest pose, computed in numbers `exact`."""
    identity = draw_identity(seed, domain, number)
    body = load_body(identity.phenotype, exact)
    body.carries = identity.bag
    return body, dress(body, identity)


def _stand(body: Body, mesh: Mesh, place: np.ndarray, heading: float, rng: np.random.Generator) -> Mesh:
    """The person in some pose on the ground at `place`, turned by `heading`."""
    posed = skin(mesh, pose_transforms(body, pose(rng.spawn(1)[0], body)))
    c, s = np.cos(heading), np.sin(heading)
    posed = {name: values @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T for name, values in posed.items()}
    position = posed['position']
    position -= [*position.mean(0)[:2], position[:, 2].min()]
    posed['position'] = position + place
    return dataclasses.replace(mesh, data=posed | {'colour': mesh.data['colour']})


def _frame(points: np.ndarray, eye: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """What a detector's box around `points` shows to a camera at `eye`.

    Returns:
        Where the camera looks, its vertical field of view in degrees, and the box's width by that of an image.
    """
    axis = points.mean(0) - eye
    axis /= np.linalg.norm(axis)
    right = np.cross(axis, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, axis)
    away = points - eye
    depth = away @ axis
    x, y = away @ right / depth, away @ up / depth
    sides = np.array([x.min(), x.max(), y.min(), y.max()])
    tall, fault = sides[3] - sides[2], rng.random()
    sides += rng.normal(0.03, 0.022, 4) * tall * [-1, 1, -1, 1]  # a detector is never exact
    if kind == 'partial':
        scale, shift = rng.uniform(0.3, 0.65), rng.uniform([-0.25, -0.8], [0.25, 0.8]) * tall / 2
        middle = (sides[[0, 2]] + sides[[1, 3]]) / 2 + shift
        sides = np.repeat(middle, 2) + np.array([-0.25, 0.25, -0.5, 0.5]) * tall * scale
    elif kind == 'small':
        scale, shift = rng.uniform(2.2, 3.5), rng.uniform(-0.8, 0.8, 2) * tall / 2
        middle = (sides[[0, 2]] + sides[[1, 3]]) / 2 + shift
        sides = np.repeat(middle, 2) + np.array([-0.25, 0.25, -0.5, 0.5]) * tall * scale
    elif fault < 0.13:
        sides[2] += rng.uniform(0.08, 0.34) * tall  # no feet
    elif fault < 0.17:
        sides[3] -= rng.uniform(0.04, 0.12) * tall  # no hair
    elif fault < 0.27:
        sides += rng.uniform(0.03, 0.2, 4) * tall * [-1, 1, -1, 1]  # too wide
    elif fault < 0.33:
        sides[:2] += rng.choice([-1, 1]) * rng.uniform(0.05, 0.12) * tall  # off the centre
    elif fault < 0.37:
        sides[:2] = sides[:2].mean() + (sides[:2] - sides[:2].mean()) * rng.uniform(0.65, 0.85)  # too narrow
    tall, wide = sides[3] - sides[2], sides[1] - sides[0]
    least = tall * rng.choice([0.34, 0.42, 0.5])  # some detectors know boxes of one shape alone
    stretch = min(_STRETCHES, key=lambda s: abs(s - max(wide, least) / tall / 0.5))
    tall = max(tall, wide / stretch / 0.5 * (0.9 if kind == 'person' else 1))
    at = eye + axis + right * sides[:2].mean() + up * sides[2:].mean()
    return at, float(np.rad2deg(2 * np.arctan(tall / 2))), stretch


def _cast(
    person: Person, identity: int, view: Camera, kind: str, distance: float, rng: np.random.Generator
) -> tuple[np.ndarray, Mesh | None, list[Mesh]]:
    """What an image is about (points [N, 3] that it frames), the person, and what else is there for this image only."""
    place = np.array([rng.uniform(-0.35, 0.35) * distance, distance, 0])
    heading = view.heading + rng.choice([0, np.pi]) + rng.normal(0, 0.45)
    if rng.random() < 0.2:
        heading = rng.uniform(0, 2 * np.pi)
    target, others = None, []
    if kind != 'place':
        target = _stand(*person(identity), place, heading, rng)

    def passer(there: np.ndarray, facing: float) -> Mesh:
        return _stand(*person(PASSERS[rng.integers(len(PASSERS))]), there, facing, rng)

    if rng.random() < 0.17:
        others.append(occluder(rng, passer, place))
    if rng.random() < 0.15:  # somebody passes behind
        behind = place * rng.uniform(1.1, 1.35) + [rng.choice([-1, 1]) * rng.uniform(0.25, 0.6), 0, 0]
        others.append(passer(behind, rng.uniform(0, 2 * np.pi)))
    framed = target or box(place + [0, 0, 0.85], [0.5, 0.3, 1.7])
    if rng.random() < 0.08:  # somebody goes along
        side = rng.choice([-1, 1]) * rng.uniform(0.5, 0.7)
        along = place + [side * np.cos(heading), side * np.sin(heading), 0]
        others.append(passer(along, heading + rng.normal(0, 0.1)))
        if kind == 'person' and rng.random() < 0.3:  # one box for most of two
            there = others[-1].position
            close = np.abs(there[:, 0] - place[0])
            return np.concatenate([framed.position, there[close < np.median(close)]]), target, others
    return framed.position, target, others


def compose(
    person: Person, view: Camera, seed: int, domain: str, identity: int, camera: int, index: int, kind: str
) -> Scene:
    """Draws who stands where in an image, and how the camera sees them; the same for the same arguments.

    Args:
        person: gives meshes of people by number; a coarser one moves things by no more than it differs itself.
        view: the camera with the number `camera`.
        seed: of the whole data set.
        domain: one of `identity.DOMAINS`.
        identity: number of the person.
        camera: number of the camera, from 1.
        index: number of the image of this person under this camera.
        kind: one of `KINDS`.
    """
    rng = generator(seed, domain, 4, identity, camera, index, KINDS.index(kind))
    distance = rng.uniform(view.near, view.far)
    points, target, others = _cast(person, identity, view, kind, distance, rng)
    at, field, stretch = _frame(points, np.array([0, 0, view.height]), kind, rng)
    rows = max(2 * np.tan(np.deg2rad(field) / 2) * view.rows, _LEAST_ROWS)
    sun = view.sun * (rng.uniform(0.55, 1) if domain == 'street' else 1.0)  # clouds
    return Scene(target, others, at, field, sun, rows, stretch, int(rng.integers(1 << 31)), rng)
