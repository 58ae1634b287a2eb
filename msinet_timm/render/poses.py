"""What people do before a camera: walking, standing, running, carrying, holding a phone."""

import numpy as np

from .body import Body

__all__ = ['POSES', 'arm', 'pose']

#: What people do, and how often.
POSES = {
    'walk': 0.58, 'stand': 0.15, 'pockets': 0.07, 'phone': 0.07, 'call': 0.04, 'strap': 0.04, 'crossed': 0.015,
    'behind': 0.015, 'run': 0.02,
}  # fmt: skip
_HANGING = ('tote', 'briefcase', 'handbag', 'trolley')


def _rotation(axis: str, degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = {'x': (1, 2), 'y': (2, 0), 'z': (0, 1)}[axis]
    out = np.eye(3)
    out[i, i], out[i, j], out[j, i], out[j, j] = c, -s, s, c
    return out


def _turning(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rotation that takes direction `a` to `b` by the shortest way."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    v, c = np.cross(a, b), a @ b
    k = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + k + k @ k / (1 + c)


def arm(
    body: Body, side: str, forward: float, aside: float, elbow: float, inwards: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rotations [3, 3] of the upper and lower arm: angles in degrees from hanging down straight.

    Args:
        body: whose rest pose counts.
        side: L or R.
        forward, aside: of the upper arm.
        elbow: by which it bends, forwards or as far `inwards` as is given.
        inwards: 0 to 90, or more to reach behind the back.
    """
    sign = 1 if side == 'L' else -1
    f, a, e, i = np.deg2rad([forward, aside, elbow, inwards])
    upper = np.array([sign * np.sin(a), -np.sin(f) * np.cos(a), -np.cos(f) * np.cos(a)])
    bend = np.cos(i) * np.array([0, -np.cos(f), np.sin(f)]) - np.sin(i) * np.array([sign, 0, 0])
    bend -= upper * (upper @ bend)
    lower = np.cos(e) * upper + np.sin(e) * bend / np.linalg.norm(bend)
    shoulder, at, wrist = (body.heads[f'{name}.{side}'] for name in ('upperarm01', 'lowerarm01', 'wrist'))
    first = _turning(at - shoulder, upper)
    return first, _turning(wrist - at, first.T @ lower)


def _arms(rng: np.random.Generator, body: Body, what: str, swings: dict[str, float]) -> dict[str, tuple]:
    """What to give `arm` for each side; `swings` are degrees forwards."""
    out = {}
    aside, bent = rng.uniform(5, 12), rng.uniform(6, 28)
    for side in 'LR':
        swing = swings[side] + rng.normal(0, 3)
        out[side] = (swing, aside + rng.normal(0, 2), bent + 0.6 * max(swing, 0))
    one = 'L' if body.carries in _HANGING or body.carries == 'umbrella' or rng.random() < 0.4 else 'R'
    if what == 'pockets':
        out |= {side: (rng.uniform(-22, -8), rng.uniform(14, 24), rng.uniform(35, 55), 25) for side in 'LR'}
    elif what == 'phone':
        out[one] = (rng.uniform(10, 30), 8, rng.uniform(85, 110), rng.uniform(10, 30))
    elif what == 'call':
        out[one] = (rng.uniform(10, 35), rng.uniform(20, 40), rng.uniform(132, 142), 5)
    elif what == 'strap':
        out[one] = (rng.uniform(0, 15), 12, rng.uniform(115, 130), 15)
    elif what == 'crossed':
        out |= {side: (22, 12, rng.uniform(92, 102), 70) for side in 'LR'}
    elif what == 'behind':
        out |= {side: (-22, 16, rng.uniform(50, 65), 120) for side in 'LR'}
    elif what == 'run':
        out |= {side: (1.3 * swings[side], 14, rng.uniform(80, 100), 15) for side in 'LR'}
    if body.carries in _HANGING and what != 'run':
        out['R'] = (-24, 10, 8) if body.carries == 'trolley' else (0.25 * swings['R'], 9, 6)
    elif body.carries == 'umbrella':
        out['R'] = (25, 10, 95, 15)
    return out


def pose(rng: np.random.Generator, body: Body, step: tuple[float, float] | None = None) -> dict[str, np.ndarray]:
    """A moment of what a person does: a rotation [3, 3] in rest-pose axes for each bone that moves.

    Args:
        rng: for all that is random; one of the same state gives the same gait.
        body: of the person.
        step: radians of a cycle of two steps, and how long these are, 0 (stands) to 1: of somebody who walks through a
            film, and does not run. None for any.
    """
    names = list(POSES)
    what = names[rng.choice(len(names), p=np.array(list(POSES.values())) / sum(POSES.values()))]
    if step and what == 'run':
        what = 'walk'
    strides = [1.0, 0.8, 0.55] if what not in ('stand', 'crossed', 'behind') else [0.0, 0.06, 0.2]
    stride = float(rng.choice(strides)) * (1.6 if what == 'run' else 1)
    if what in ('phone', 'call', 'pockets') and rng.random() < 0.4:
        stride = 0.1
    phase = rng.uniform(0, 2 * np.pi)
    phase, stride = step or (phase, stride)
    swing = {'L': np.sin(phase), 'R': -np.sin(phase)}
    speed = {'L': np.cos(phase), 'R': -np.cos(phase)}
    reach, parted = rng.uniform(14, 30), rng.normal(5, 1.5) - (1 - min(stride, 1)) * rng.uniform(0, 4)
    out = {}
    arms = _arms(rng, body, what, {side: -stride * reach * swing[side] for side in 'LR'})
    for side, sign in (('L', 1), ('R', -1)):
        # A leg that moves forward (speed > 0) bends its knee to clear the ground.
        knee = stride * (8 + 38 * max(speed[side], 0) + 10 * max(-swing[side], 0)) + (1 - min(stride, 1)) * 3
        out[f'upperleg01.{side}'] = _rotation('x', -stride * (24 * swing[side] + 4)) @ _rotation('y', sign * parted)
        out[f'lowerleg01.{side}'] = _rotation('x', knee)
        out[f'foot.{side}'] = _rotation('x', stride * (8 * swing[side]) - 0.3 * knee) @ _rotation('z', sign * 8)
        out[f'clavicle.{side}'] = _rotation('y', sign * 3)
        out[f'upperarm01.{side}'], out[f'lowerarm01.{side}'] = arm(body, side, *arms[side])
    twist = 6 * stride * swing['L']
    stoop = rng.uniform(-1, 5) + (rng.uniform(6, 14) if what == 'run' else 0)
    out['spine03'] = _rotation('z', twist + rng.normal(0, 4)) @ _rotation('x', stoop)
    out['spine01'] = _rotation('z', twist / 2) @ _rotation('x', stoop / 2)
    down = rng.uniform(18, 34) if what == 'phone' else rng.normal(6, 7)
    out['neck02'] = _rotation('z', rng.normal(0, 16)) @ _rotation('x', down)
    return out
