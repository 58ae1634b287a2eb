"""What stands between a camera and a person."""

from collections.abc import Callable

import numpy as np

from .backgrounds import coloured, leaves
from .meshes import Mesh, box, ellipsoid, merge, turned
from .wheels import bicycle

__all__ = ['OCCLUDERS', 'bench', 'occluder']

OCCLUDERS = ('post', 'box', 'wall', 'leaves', 'car', 'rail', 'bicycle', 'person')


def occluder(rng: np.random.Generator, passer: Callable[[np.ndarray, float], Mesh], place: np.ndarray) -> Mesh:
    """Something that hides a part of a person at `place`, from one side or up from the feet.

    Args:
        rng: for what it is and where.
        passer: gives somebody who stands at a place and faces a direction.
        place: [3] metres.
    """
    front = place * rng.uniform(0.65, 0.85)
    side = np.array([rng.choice([-1, 1]) * rng.uniform(0.12, 0.3), 0, 0])
    kind = rng.choice(OCCLUDERS)
    colour = np.clip(rng.uniform(0.02, 0.45) * np.exp(rng.normal(0, 0.2, 3)), 0.01, 0.7)
    if kind == 'post':
        return coloured(box(front + side * 0.8 + [0, 0, 1.5], [rng.uniform(0.08, 0.2), 0.1, 3]), colour)
    if kind == 'box':
        height = rng.uniform(0.4, 0.9)
        return coloured(box(front + side * 2 + [0, 0, height / 2], [rng.uniform(0.6, 1.2), 0.4, height]), colour)
    if kind == 'wall':  # also a counter or a parapet
        height = rng.uniform(0.3, 0.75)
        return coloured(box(front + [0, 0, height / 2], [5, 0.2, height]), colour)
    if kind == 'leaves':
        return leaves(rng, front + side * 1.3 + [0, 0, rng.uniform(0.3, 1.6)], 0.35, 110)
    if kind == 'car':
        end = front + [np.sign(side[0]) * rng.uniform(1.4, 2.2), 0, 0]
        body = ellipsoid(end + [0, 0, 0.62], [2.1, 0.85, 0.38], 0.4)
        return merge([coloured(body, colour), coloured(ellipsoid(end + [0, 0, 1.15], [1.1, 0.75, 0.36], 0.5), 0.03)])
    if kind == 'rail':
        bars = [box(front + [x, 0, 0.5], [0.03, 0.03, 1.0]) for x in np.arange(-2, 2, rng.uniform(0.14, 0.5))]
        return merge([coloured(b, colour) for b in [*bars, box(front + [0, 0, 1.0], [4, 0.05, 0.05])]])
    if kind == 'bicycle':
        return turned(bicycle(colour, int(rng.integers(30))), rng.choice([-1, 1]) * np.pi / 2, front + 2 * side)
    return passer(place * rng.uniform(0.75, 0.9) + side * 1.6, rng.uniform(0, 2 * np.pi))


def bench(rng: np.random.Generator, height: float, y: float) -> Mesh:
    """A bench, chair or low wall to sit on at (0, y), facing -y: its seat is `height` metres high."""
    kind, wood = rng.integers(4), np.clip(rng.uniform(0.05, 0.35) * np.array([1, 0.75, 0.5]), 0.02, 0.6)
    wide = rng.uniform(0.45, 0.55) if kind == 0 else rng.uniform(1.3, 2.0)
    aside, y = (wide / 2 - 0.25) * rng.uniform(-1, 1), y + 0.02
    if kind == 3:
        return coloured(box([aside, y + 0.1, height / 2], [wide, 0.5, height]), rng.uniform(0.1, 0.4))
    boards = [box([aside, y + d, height - 0.025], [wide, 0.12, 0.05]) for d in (-0.16, -0.02, 0.12)]
    if kind < 2:
        boards += [box([aside, y + 0.27, height + z], [wide, 0.03, 0.1]) for z in (0.16, 0.32, 0.44)[: 2 + kind]]
    feet = [
        box([aside + x * (wide / 2 - 0.06), y + d, height / 2], [0.05, 0.05, height])
        for x in (-1, 1)
        for d in (-0.18, 0.22)
    ]
    return merge([coloured(b, wood) for b in boards] + [coloured(f, 0.04) for f in feet])
