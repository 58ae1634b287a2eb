"""Vehicles on a road: what drives where, what hides it, and what boxes detectors give it."""

import dataclasses
from collections.abc import Callable

import numpy as np

from .backgrounds import coloured, leaves
from .cameras import Camera
from .fittings import build_vehicle
from .meshes import Mesh, box, merge
from .paintwork import HEADLAMP, TAILLAMP
from .vehicles import Vehicle, draw_vehicle

__all__ = ['boxed', 'cast', 'make_vehicle']

_STRETCHES = (0.75, 0.95, 1.2, 1.5, 1.9, 2.4)
_LANE = 3.1


def make_vehicle(seed: int, domain: str, number: int) -> tuple[Vehicle, Mesh]:
    """The vehicle with a number, and all that is seen of it, facing -y."""
    vehicle = draw_vehicle(seed, domain, number)
    return vehicle, build_vehicle(vehicle)


def _drive(vehicle: Vehicle, mesh: Mesh, place: np.ndarray, heading: float, rng: np.random.Generator) -> Mesh:
    """The vehicle on the ground at `place`, turned by `heading`, its lamps on or off."""
    c, s = np.cos(heading), np.sin(heading)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    data = mesh.data | {'position': mesh.position @ turn + place, 'normal': mesh.data['normal'] @ turn}
    shining = {HEADLAMP: rng.random() < 0.3, TAILLAMP: rng.random() < 0.25}
    strength = np.select(
        [mesh.data['lamp'] == k for k, on in shining.items()], [4.0 * on for on in shining.values()], 0
    )
    data['colour'] = mesh.data['colour'] * (1 + strength[:, None])
    return dataclasses.replace(mesh, data=data)


def boxed(sides: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """What a detector gives for a vehicle that is seen between `sides` [4] (left, right, lower, upper).

    Returns:
        The sides of the box, its height, and its width by that of an image.
    """
    size, fault = sides[1::2] - sides[::2], rng.random()
    spread = np.repeat(size, 2) * [-1, 1, -1, 1]
    sides = sides + rng.normal(0.025, 0.02, 4) * spread
    if kind in ('partial', 'small'):
        low, high = (0.3, 0.65) if kind == 'partial' else (1.8, 2.8)
        middle = (sides[::2] + sides[1::2]) / 2 + rng.uniform(-0.35, 0.35, 2) * size
        sides = np.repeat(middle, 2) + spread / 2 * rng.uniform(low, high)
    elif fault < 0.14:  # at the edge of what the camera sees
        side = rng.integers(2)
        sides[side] -= spread[side] * rng.uniform(0.08, 0.35)
    elif fault < 0.2:
        sides[2] += size[1] * rng.uniform(0.06, 0.2)
    elif fault < 0.24:
        sides[3] -= size[1] * rng.uniform(0.06, 0.2)
    elif fault < 0.34:
        sides += rng.uniform(0.02, 0.14, 4) * spread  # too wide
    elif fault < 0.42:
        shift = rng.normal(0, 0.06, 2) * size
        sides += np.repeat(shift, 2)
    wide, tall = sides[1::2] - sides[::2]
    stretch = min(_STRETCHES, key=lambda s: abs(np.log(s * tall / wide)))
    return sides, max(tall, wide / stretch * 0.97), stretch


def _before(rng: np.random.Generator, place: np.ndarray) -> Mesh:
    """Something that stands between the camera and a vehicle, low or narrow enough to leave most of it."""
    front = place * rng.uniform(0.45, 0.8)
    side = np.array([rng.uniform(-1.4, 1.4), 0, 0])
    kind, colour = rng.integers(5), np.clip(rng.uniform(0.02, 0.45) * np.exp(rng.normal(0, 0.2, 3)), 0.01, 0.7)
    if kind == 0:
        return coloured(box(front + side + [0, 0, 3], [rng.uniform(0.08, 0.22), 0.12, 6]), colour)
    if kind == 1:  # a guard rail
        posts = [box(front + [x, 0, 0.3], [0.08, 0.06, 0.6]) for x in np.arange(-6, 6, 2.0)]
        return merge([coloured(b, 0.3) for b in [*posts, box(front + [0, -0.05, 0.55], [14, 0.03, 0.3])]])
    if kind == 2:  # the railing between lanes
        bars = [box(front + [x, 0, 0.5], [0.03, 0.03, 1.0]) for x in np.arange(-5, 5, rng.uniform(0.25, 0.6))]
        return merge([coloured(b, colour) for b in [*bars, box(front + [0, 0, 1.0], [10, 0.05, 0.05])]])
    if kind == 3:
        return merge([leaves(rng, front + side + [0.5 * k, 0, rng.uniform(0.5, 1.6)], 0.7, 260) for k in range(3)])
    sign = box(front + side + [0, 0, 1.6 + rng.uniform(0, 1)], [rng.uniform(0.5, 1.0), 0.03, rng.uniform(0.4, 0.9)])
    return merge([coloured(sign, colour), coloured(box(front + side + [0, 0.05, 1.2], [0.07, 0.07, 2.4]), 0.2)])


def _hidden(points: np.ndarray, by: np.ndarray) -> float:
    """Which share of the width of `points` [N, 3] is behind others from a camera above (0, 0)."""
    (low, high), (left, right) = ((b.min(), b.max()) for b in (p[:, 0] / p[:, 1] for p in (points, by)))
    return max(0.0, min(high, right) - max(low, left)) / (high - low)


def cast(
    target: Callable[[], tuple[Vehicle, Mesh]],
    passing: Callable[[], tuple[Vehicle, Mesh]],
    view: Camera,
    kind: str,
    distance: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, Mesh | None, list[Mesh]]:
    """Draws what drives where.

    Args:
        target, passing: give the vehicle, and another one.
        view: the camera.
        kind: one of `scene.KINDS`.
        distance: of the vehicle, metres.
        rng: for all that is random.

    Returns:
        Points [N, 3] that the image frames, the vehicle (None for a place), and what else is there in this image only.
    """
    vehicle, mesh = target()
    long = vehicle.model.shape.length
    heading = view.heading + rng.choice([0, np.pi]) + rng.normal(0, 0.15)
    if rng.random() < 0.22:  # turning
        heading = rng.uniform(0, 2 * np.pi)
    along = np.array([np.sin(heading), -np.cos(heading), 0])
    distance = min(max(distance, 4 + 0.6 * long), max(view.far, 4 + 0.6 * long))
    place = np.array([rng.uniform(-0.3, 0.3) * distance, distance, 0])
    seen = _drive(vehicle, mesh, place, heading, rng) if kind != 'place' else None
    framed, others = (seen or box(place + [0, 0, 0.8], [1.8, 4.0, 1.5])).position, []

    def another(aside: float, ahead: float, turned: float) -> None:
        other, its = passing()
        away = abs(ahead) + (long + other.model.shape.length) / 2 if abs(aside) < 2.4 else abs(ahead)
        there = place + np.copysign(away, ahead) * along + aside * np.array([np.cos(heading), np.sin(heading), 0])
        if there[1] > 2.5 + other.model.shape.length / 2:
            driven = _drive(other, its, there, heading + turned, rng)
            if there[1] > place[1] or _hidden(framed, driven.position) < 0.5:
                others.append(driven)

    if rng.random() < 0.3:  # on the next lane, the same way or not
        another(rng.choice([-1, 1]) * _LANE, rng.normal(0, 4), rng.choice([0, np.pi]) + rng.normal(0, 0.03))
    if rng.random() < 0.3:  # in front, or behind
        another(rng.normal(0, 0.2), rng.choice([-1, 1]) * rng.uniform(0.7, 5), rng.normal(0, 0.05))
    if rng.random() < 0.13:
        others.append(_before(rng, place))
    return framed, seen, others
