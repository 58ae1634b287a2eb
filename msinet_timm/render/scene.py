"""Who and what is in an image, and where its camera looks; `traced` and `raster` render it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .backgrounds import coloured, leaves
from .body import Body, load_body, pose_transforms, skin, walk
from .cameras import Camera
from .garments import dress
from .identity import draw_identity, generator
from .meshes import Mesh, box

__all__ = ['KINDS', 'PASSERS', 'Person', 'Scene', 'compose', 'keep_people', 'make_person']

#: Numbers of the people who only walk by.
PASSERS = range(900_000_000, 900_000_020)
KINDS = ('person', 'place', 'partial', 'small')
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
        distance: of the person along the ground.
        noise: seed of the renderer's rays.
        rng: for what the camera does to the image.
    """

    target: Mesh | None
    others: list[Mesh]
    at: np.ndarray
    field: float
    sun: np.ndarray
    distance: float
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
    return body, dress(body, identity)


def _stand(body: Body, mesh: Mesh, place: np.ndarray, heading: float, rng: np.random.Generator) -> Mesh:
    """The person in a walking pose on the ground at `place`, turned by `heading`."""
    posed = skin(mesh, pose_transforms(body, walk(rng)))
    c, s = np.cos(heading), np.sin(heading)
    posed = {name: values @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T for name, values in posed.items()}
    position = posed['position']
    position -= [*position.mean(0)[:2], position[:, 2].min()]
    posed['position'] = position + place
    return dataclasses.replace(mesh, data=posed | {'colour': mesh.data['colour']})


def _occluder(rng: np.random.Generator, person: Person, place: np.ndarray) -> Mesh:
    """Something between the camera and a person at `place` that hides a part."""
    front = place * rng.uniform(0.6, 0.8)
    side = np.array([rng.choice([-1, 1]) * rng.uniform(0.12, 0.3), 0, 0])
    kind = rng.choice(['post', 'box', 'leaves', 'person'])
    colour = rng.uniform(0.03, 0.5) * rng.uniform(0.6, 1.3, 3)
    if kind == 'post':
        return coloured(box(front + side * 0.8 + [0, 0, 1.5], [rng.uniform(0.08, 0.2), 0.1, 3]), colour)
    if kind == 'box':
        height = rng.uniform(0.4, 0.9)
        return coloured(box(front + side * 2 + [0, 0, height / 2], [rng.uniform(0.6, 1.2), 0.4, height]), colour)
    if kind == 'leaves':
        return leaves(rng, front + side * 1.3 + [0, 0, rng.uniform(0.3, 1.6)], 0.35, 110)
    body, mesh = person(PASSERS[rng.integers(len(PASSERS))])
    return _stand(body, mesh, place * rng.uniform(0.75, 0.9) + side * 1.6, rng.uniform(0, 2 * np.pi), rng)


def _frame(points: np.ndarray, eye: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Where a camera at `eye` looks, and its vertical field of view in degrees, to see `points` as a detector crops."""
    axis = points.mean(0) - eye
    axis /= np.linalg.norm(axis)
    right = np.cross(axis, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, axis)
    away = points - eye
    depth = away @ axis
    x, y = away @ right / depth, away @ up / depth
    half = max(np.ptp(y), 1.6 * np.ptp(x)) / 2
    shift, scale = rng.normal(0, [0.05, 0.035]), rng.uniform(1.0, 1.22)
    if kind == 'partial':
        scale, shift = rng.uniform(0.3, 0.65), rng.uniform([-0.25, -0.8], [0.25, 0.8])
    elif kind == 'small':
        scale, shift = rng.uniform(2.2, 3.5), rng.uniform(-0.8, 0.8, 2)
    x0, y0 = (x.max() + x.min()) / 2 + shift[0] * half, (y.max() + y.min()) / 2 + shift[1] * half
    return eye + axis + right * x0 + up * y0, float(np.rad2deg(2 * np.arctan(half * scale)))


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
    if rng.random() < 0.15:
        others.append(_occluder(rng, person, place))
    if rng.random() < 0.15:  # somebody passes behind
        passer = person(PASSERS[rng.integers(len(PASSERS))])
        behind = place * rng.uniform(1.1, 1.35) + [rng.choice([-1, 1]) * rng.uniform(0.25, 0.6), 0, 0]
        others.append(_stand(*passer, behind, rng.uniform(0, 2 * np.pi), rng))
    framed = target or box(place + [0, 0, 0.85], [0.5, 0.3, 1.7])
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
    at, field = _frame(points, np.array([0, 0, view.height]), kind, rng)
    sun = view.sun * (rng.uniform(0.55, 1) if domain == 'street' else 1.0)  # clouds
    return Scene(target, others, at, field, sun, distance, int(rng.integers(1 << 31)), rng)
