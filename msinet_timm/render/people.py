"""People as they walk by: who stands where, in which pose, and what boxes detectors give them."""

import dataclasses
from collections.abc import Callable

import numpy as np

from .body import Body, load_body, pose_transforms, skin
from .cameras import Camera
from .crowd import Moment
from .garments import dress
from .identity import BESIDE, RIDDEN, draw_identity
from .meshes import Mesh, box, turned
from .occluders import bench, occluder
from .poses import pose, sit

__all__ = ['boxed', 'cast', 'make_person', 'stride']

_STRETCHES = (0.7, 0.85, 1.0, 1.25)
_SWING = np.deg2rad(24)  # of a leg, forwards and back, see `pose`
_EVEN = 0.8
_UPRIGHT = (*BESIDE, 'trolley', 'umbrella', 'skateboard')  # who has these does not sit


def make_person(
    seed: int,
    domain: str,
    number: int,
    like: int | None = None,
    afoot: bool = False,
    fine: float = 0.0,
) -> tuple[Body, Mesh]:
    """The body of the person with a number, and all that is seen of them in rest pose; `like`: see `draw_identity`,
    `fine`: see `dress`. When `afoot`, they push or carry what they would ride."""
    identity = draw_identity(seed, domain, number, like)
    if afoot:
        identity = dataclasses.replace(identity, bag=RIDDEN.get(identity.bag, identity.bag))
    body = load_body(identity.phenotype)
    body.carries = identity.bag
    return body, dress(body, identity, fine)


def _stand(body: Body, mesh: Mesh, place: np.ndarray, heading: float, rng: np.random.Generator) -> Mesh:
    """The person in some pose on the ground at `place`, turned by `heading`."""
    posed = _turned(mesh, body, pose(rng.spawn(1)[0], body), heading)
    position = posed['position']
    position -= [*position.mean(0)[:2], position[:, 2].min()]
    posed['position'] = position + place
    return dataclasses.replace(mesh, data=posed | {'colour': mesh.data['colour']})


def _sit(body: Body, mesh: Mesh, place: np.ndarray, heading: float, rng: np.random.Generator) -> tuple[Mesh, Mesh]:
    """The same of somebody who sits; and on what."""
    turns, level = sit(rng.spawn(1)[0], body)
    posed = _turned(mesh, body, turns, heading)
    shift = place - [*posed['position'].mean(0)[:2], posed['position'][:, 2].min()]
    posed['position'] += shift
    seat = turned(bench(rng, level + shift[2], body.heads['upperleg01.L'][1]), heading, shift * [1, 1, 0])
    return dataclasses.replace(mesh, data=posed | {'colour': mesh.data['colour']}), seat


def _turned(mesh: Mesh, body: Body, pose: dict[str, np.ndarray], heading: float) -> dict[str, np.ndarray]:
    posed, c, s = skin(mesh, pose_transforms(body, pose)), np.cos(heading), np.sin(heading)
    return {name: values @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T for name, values in posed.items()}


def stride(body: Body, mesh: Mesh, moment: Moment, rng: np.random.Generator) -> Mesh:
    """The person at a moment of a walk; an `rng` of the same state gives the same gait."""
    hip = body.heads['upperleg01.L'][2] - mesh.position[:, 2].min()
    turn = moment.way / (4 * np.sin(_SWING) * hip) % 1 * 2 * np.pi
    # A foot on the ground stays where it is: a leg swings more evenly than a sine does.
    half = np.arcsin(np.sin(turn))
    half += _EVEN * (np.arcsin(2 / np.pi * half) - half)
    phase = half if np.cos(turn) >= 0 else np.pi - half
    data = _turned(mesh, body, pose(rng, body, (phase, moment.stride)), moment.heading)
    data['position'] += [*moment.place, -data['position'][:, 2].min()]
    return dataclasses.replace(mesh, data=data | {'colour': mesh.data['colour']})


def boxed(sides: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """What a detector gives for somebody who is seen between `sides` [4] (left, right, lower, upper).

    Returns:
        The sides of the box, its height, and its width by that of an image.
    """
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
    return sides, tall, stretch


def cast(
    person: Callable[[], tuple[Body, Mesh]],
    passing: Callable[[], tuple[Body, Mesh]],
    view: Camera,
    kind: str,
    distance: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, Mesh | None, list[Mesh]]:
    """Draws who stands where, in which pose.

    Args:
        person, passing: give the person, and somebody who walks by.
        view: the camera.
        kind: one of `scene.KINDS`.
        distance: of the person, metres.
        rng: for all that is random.

    Returns:
        Points [N, 3] that the image frames, the person (None for a place), and what else is there in this image only.
    """
    place = np.array([rng.uniform(-0.35, 0.35) * distance, distance, 0])
    heading = view.heading + rng.choice([0, np.pi]) + rng.normal(0, 0.45)
    if rng.random() < 0.2:
        heading = rng.uniform(0, 2 * np.pi)
    target, others, shown = None, [], slice(None)
    if kind != 'place':
        body, mesh = person()
        if body.carries not in _UPRIGHT and rng.random() < 0.03:
            target, seat = _sit(body, mesh, place, heading, rng)
            others.append(seat)
        else:
            target = _stand(body, mesh, place, heading, rng)
        if body.carries in BESIDE and rng.random() < 0.65:  # the box is around the person alone
            shown = mesh.data['part'] < body.beside

    def passer(there: np.ndarray, facing: float) -> Mesh:
        return _stand(*passing(), there, facing, rng)

    if rng.random() < 0.17:
        others.append(occluder(rng, passer, place))
    if rng.random() < 0.15:  # somebody passes behind
        behind = place * rng.uniform(1.1, 1.35) + [rng.choice([-1, 1]) * rng.uniform(0.25, 0.6), 0, 0]
        others.append(passer(behind, rng.uniform(0, 2 * np.pi)))
    framed = target.position[shown] if target else box(place + [0, 0, 0.85], [0.5, 0.3, 1.7]).position
    if rng.random() < 0.08:  # somebody goes along
        side = rng.choice([-1, 1]) * rng.uniform(0.5, 0.7)
        along = place + [side * np.cos(heading), side * np.sin(heading), 0]
        others.append(passer(along, heading + rng.normal(0, 0.1)))
        if kind == 'person' and rng.random() < 0.3:  # one box for most of two
            there = others[-1].position
            close = np.abs(there[:, 0] - place[0])
            return np.concatenate([framed, there[close < np.median(close)]]), target, others
    return framed, target, others
