"""What people do before a camera: walking, standing, running, carrying, holding a phone."""

import numpy as np

from .body import BONES, Body, pose_transforms
from .identity import RIDDEN
from .wheels import BICYCLE

__all__ = ['POSES', 'arm', 'ground_of', 'pose', 'sit']

#: What people do, and how often.
POSES = {
    'walk': 0.58, 'stand': 0.15, 'pockets': 0.07, 'phone': 0.07, 'call': 0.04, 'strap': 0.04, 'crossed': 0.015,
    'behind': 0.015, 'run': 0.02,
}  # fmt: skip
_HANGING = ('tote', 'briefcase', 'handbag', 'trolley', 'skateboard')


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


def _reach(body: Body, side: str, target: np.ndarray, bend: np.ndarray, names: tuple[str, str, str]) -> tuple:
    """Rotations [3, 3] of the upper and the lower part of a limb that ends at `target`, or reaches for it.

    Args:
        body: whose rest pose counts, and in whose axes before the limb turns all is given.
        side: L or R.
        target: [3] where its third joint goes.
        bend: direction to which its second joint goes.
        names: of the bones that start at its joints.
    """
    first, second, third = (body.heads[f'{name}.{side}'] for name in names)
    long, short = np.linalg.norm(second - first), np.linalg.norm(third - second)
    away = target - first
    far = float(np.clip(np.linalg.norm(away), abs(long - short) + 0.05, long + short - 0.004))
    along = away / np.linalg.norm(away)
    aside = bend - along * (along @ bend)
    cosine = (long**2 + far**2 - short**2) / (2 * long * far)
    joint = long * (cosine * along + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside))
    upper = _turning(second - first, joint)
    return upper, _turning(third - second, upper.T @ (far * along - joint))


def ground_of(body: Body, thing: str | None) -> tuple[np.ndarray, float]:
    """Where something on wheels stands [3] in a body's rest pose, and its size by that of an adult's."""
    hip, floor = body.heads['upperleg01.L'][2], body.mesh.position[:, 2].min()
    scale, back = (hip - floor) / 0.87, body.heads['upperleg01.L'][1]
    if thing == 'cycling':  # a leg is straight where its pedal is low
        return np.array([0, back + 0.03, hip - 0.07]) - scale * BICYCLE.saddle, scale
    if thing == 'bicycle':
        return np.array([0.46, back - 0.1, floor]), scale
    if thing == 'stroller':
        return np.array([0, back - 0.42, floor]), 0.95 + 0.05 * scale
    return np.array([0, back, floor]), 1.0


def _hold(body: Body, out: dict[str, np.ndarray], side: str, grip: np.ndarray) -> None:
    """Lets a hand hold something at `grip` [3], whatever the back does."""
    parent = pose_transforms(body, out)[BONES.index(f'shoulder01.{side}')]
    target = parent[:, :3].T @ (grip + [0, 0.06, 0.03] - parent[:, 3])
    bend = parent[:, :3].T @ np.array([0.5 if side == 'L' else -0.5, 0.4, -1.0])
    turns = _reach(body, side, target, bend, ('upperarm01', 'lowerarm01', 'wrist'))
    out[f'upperarm01.{side}'], out[f'lowerarm01.{side}'] = turns


def _step_on(body: Body, out: dict[str, np.ndarray], side: str, ankle: np.ndarray, aside: float, toes: float) -> None:
    """Puts a foot somewhere, its toes `toes` degrees down; the knee goes forwards, and aside."""
    bend = np.array([aside if side == 'L' else -aside, -1.0, 0.2])
    turns = _reach(body, side, ankle, bend, ('upperleg01', 'lowerleg01', 'foot'))
    out[f'upperleg01.{side}'], out[f'lowerleg01.{side}'] = turns
    out[f'foot.{side}'] = (turns[0] @ turns[1]).T @ _rotation('x', toes)


def _ride(rng: np.random.Generator, body: Body, out: dict[str, np.ndarray]) -> None:
    """Sits on a bicycle, or stands on a skateboard."""
    place, scale = ground_of(body, body.carries)
    if body.carries == 'skating':
        wide, lean = rng.uniform(0.14, 0.24), rng.uniform(5, 22)
        for side, sign in (('L', 1), ('R', -1)):
            ankle = body.heads[f'foot.{side}']
            _step_on(body, out, side, np.array([sign * wide, ankle[1], ankle[2] + 0.1]), 0.3, 0)
            turns = arm(body, side, rng.uniform(-10, 25), rng.uniform(15, 45), rng.uniform(10, 50), 10)
            out[f'upperarm01.{side}'], out[f'lowerarm01.{side}'] = turns
        out['spine05'] = _rotation('x', lean)
        out['neck02'] = _rotation('z', rng.choice([-1, 1]) * rng.uniform(20, 60))
        return
    turn, lean = rng.uniform(0, 2 * np.pi), rng.uniform(4, 16)
    out['spine05'], out['spine03'] = _rotation('x', lean), _rotation('x', lean)
    out['spine01'] = np.eye(3)
    out['neck02'] = _rotation('z', rng.normal(0, 15)) @ _rotation('x', -lean)
    for side, sign in (('L', 1), ('R', -1)):
        pedal = BICYCLE.crank + BICYCLE.pedal * sign * np.array([0, np.cos(turn), np.sin(turn)])
        ankle = place + scale * (pedal + [0, 0.09, 0.1])
        _step_on(body, out, side, np.array([sign * 0.1 * scale, *ankle[1:]]), 0.15, rng.uniform(0, 15))
        if side == 'L' or rng.random() < 0.85:
            _hold(body, out, side, place + scale * BICYCLE.grips * [sign, 1, 1])


def sit(rng: np.random.Generator, body: Body) -> tuple[dict[str, np.ndarray], float]:
    """Somebody who sits: rotations as of `pose`, and how high the seat is in rest pose."""
    out = pose(rng, body, (0.0, 0.0))
    hip, ankle = body.heads['upperleg01.L'], body.heads['foot.L']
    drop = np.linalg.norm(body.heads['lowerleg01.L'] - ankle) * rng.uniform(0.94, 1.0)
    wide, crossed = rng.uniform(0.07, 0.2), rng.random() < 0.2
    for side, sign in (('L', 1), ('R', -1)):
        away = np.linalg.norm(body.heads['lowerleg01.L'] - hip) + rng.uniform(-0.2, 0.15)
        foot = np.array([sign * wide, hip[1] - away, hip[2] - drop])
        if crossed and side == 'R':
            foot = np.array([0.16, hip[1] - away - 0.12, hip[2] - 0.55 * drop])
        _step_on(body, out, side, foot, 0.25, 10 * (crossed and side == 'R'))
    if rng.random() < 0.7:  # hands on thighs
        for side in 'LR':
            turns = arm(body, side, rng.uniform(15, 40), rng.uniform(4, 14), rng.uniform(35, 60), rng.uniform(0, 30))
            out[f'upperarm01.{side}'], out[f'lowerarm01.{side}'] = turns
    return out, hip[2] - 0.1


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
    if body.carries in RIDDEN:
        _ride(rng, body, out)
    elif body.carries in ('stroller', 'bicycle'):
        place, scale = ground_of(body, body.carries)
        for side, sign in (('L', 1), ('R', -1)):
            if body.carries == 'stroller':
                _hold(body, out, side, place + scale * np.array([0.2 * sign, 0, 1.0]))
            elif side == 'L':
                _hold(body, out, side, place + scale * BICYCLE.grips * [-1, 1, 1])
    return out
