"""What people ride and push: bicycles, strollers and skateboards, as meshes that stand at (0, 0, 0) and face -y."""

from typing import NamedTuple

import numpy as np

from .backgrounds import coloured
from .meshes import Mesh, box, ellipsoid, merge, tube, tyre

__all__ = ['BICYCLE', 'Bicycle', 'bicycle', 'skateboard', 'stroller']

_DARK, _STEEL = np.full(3, 0.025), np.full(3, 0.3)


class Bicycle(NamedTuple):
    """Where a bicycle of an adult is touched, metres: `crank` is the middle of the pedals' circle."""

    saddle: np.ndarray
    grips: np.ndarray
    crank: np.ndarray
    pedal: float


BICYCLE = Bicycle(np.array([0, 0.2, 0.94]), np.array([0.27, -0.3, 1.04]), np.array([0, -0.03, 0.29]), 0.16)


def bicycle(colour: np.ndarray, kind: int = 0) -> Mesh:
    """A bicycle; some kinds have a basket in front, a carrier behind, or mudguards."""
    (_, back, high), (half, front, bar), (_, mid, low), _ = BICYCLE
    axle, fork, top = np.array([0, 0.52, 0.34]), np.array([0, -0.54, 0.34]), np.array([0, -0.36, 0.86])
    crank, post = np.array([0, mid, low]), np.array([0, back - 0.05, 0.78])
    down = top - [0, 0.02, 0.12]
    pairs = [(crank, post), (crank, down), (post, down if kind % 2 else crank - [0, 0.2, -0.24])]
    pairs += [(axle, crank), (axle, post), (top, down), (down, fork)]
    parts = [coloured(tube(a, b, 0.021), colour) for a, b in pairs]
    parts += [coloured(tyre(place, 0.345, 0.02), _DARK) for place in (axle, fork)]
    for place in (axle, fork):  # so many spokes as are seen
        turns = np.linspace(0, 2 * np.pi, 9, endpoint=False)
        ends = place + 0.31 * np.stack([0 * turns, np.cos(turns), np.sin(turns)], 1)
        parts += [coloured(tube(place, end, 0.0025, 3), _STEEL) for end in ends]
    parts.append(coloured(tube(post, [0, back, high - 0.02], 0.014), _STEEL))
    parts.append(coloured(ellipsoid([0, back + 0.01, high - 0.02], [0.075, 0.13, 0.04], 0.8, 10), _DARK))
    parts.append(coloured(tube(top, [0, front - 0.08, bar], 0.015), _STEEL))
    for side in (-1, 1):
        grip = np.array([side * half, front, bar])
        parts.append(coloured(tube([0, front - 0.08, bar], grip, 0.013), _STEEL))
        parts.append(coloured(tube(grip, grip + [0, 0.1, 0], 0.018), _DARK))
    parts.append(coloured(ellipsoid(crank, [0.015, 0.09, 0.09], 1.0, 12), _STEEL))
    if kind % 3 == 1:
        parts.append(coloured(box([0, front - 0.28, bar - 0.12], [0.34, 0.24, 0.2]), (0.12, 0.09, 0.06)))
    if kind % 5 > 1:
        parts.append(coloured(box([0, 0.5, 0.73], [0.13, 0.34, 0.02]), _DARK))
        parts += [coloured(tube([x, 0.6, 0.73], axle, 0.008, 4), _DARK) for x in (-0.05, 0.05)]
    return merge(parts)


def stroller(colour: np.ndarray, kind: int = 0) -> Mesh:
    """A stroller with its handle at (0, 0, 1): for one who sits, or one who lies."""
    lying, parts = kind % 3 == 0, []
    for side in (-0.24, 0.24):
        parts.append(coloured(tube([side, 0, 1.0], [side, -0.62, 0.22], 0.014), _STEEL))
        parts.append(coloured(tube([side, -0.62, 0.45], [side, -0.12, 0.2], 0.012), _STEEL))
        parts += [coloured(tyre([side, y, r], r, 0.024), _DARK) for y, r in ((-0.1, 0.16), (-0.74, 0.13))]
    parts.append(coloured(tube([-0.24, 0, 1.0], [0.24, 0, 1.0], 0.017), _DARK))
    parts.append(coloured(ellipsoid([0, -0.4, 0.3], [0.19, 0.24, 0.07], 0.5, 10), _DARK))  # for shopping
    if lying:
        parts.append(coloured(ellipsoid([0, -0.48, 0.62], [0.2, 0.42, 0.13], 0.55, 16), colour))
        hood = ellipsoid([0, -0.24, 0.7], [0.21, 0.22, 0.25], 0.8, 16)
    else:
        parts.append(coloured(ellipsoid([0, -0.28, 0.7], [0.19, 0.07, 0.26], 0.6, 12), colour))
        parts.append(coloured(ellipsoid([0, -0.46, 0.5], [0.19, 0.22, 0.07], 0.6, 12), colour))
        parts.append(coloured(ellipsoid([0, -0.4, 0.66], [0.11, 0.09, 0.16]), (0.3, 0.28, 0.3)))  # a child
        parts.append(coloured(ellipsoid([0, -0.38, 0.86], [0.075, 0.085, 0.095]), (0.35, 0.22, 0.16)))
        hood = ellipsoid([0, -0.3, 0.88], [0.21, 0.25, 0.2], 0.8, 16)
        hood.data['position'][:, 2] = np.maximum(hood.position[:, 2], 0.93 - 0.4 * (hood.position[:, 1] + 0.3))
    parts.append(coloured(hood, colour * (0.75 if kind % 2 else 1.0)))
    return merge(parts)


def skateboard(colour: np.ndarray) -> Mesh:
    """A skateboard, its deck 0.1 m high."""
    deck = ellipsoid([0, 0, 0.09], [0.1, 0.4, 0.012], 0.5, 16)
    deck.data['position'][:, 2] += 0.5 * np.maximum(np.abs(deck.position[:, 1]) - 0.28, 0)  # nose and tail
    top = deck.position[:, 2:] > 0.09 + 0.5 * np.maximum(np.abs(deck.position[:, 1:2]) - 0.28, 0)
    wheels = [ellipsoid([x, y, 0.028], [0.02, 0.028, 0.028], 0.7, 8) for x in (-0.075, 0.075) for y in (-0.22, 0.22)]
    axles = [box([0, y, 0.055], [0.14, 0.05, 0.045]) for y in (-0.22, 0.22)]
    parts = [coloured(deck, np.where(top, _DARK, colour))]
    return merge(parts + [coloured(w, 0.5) for w in wheels] + [coloured(a, _STEEL) for a in axles])
