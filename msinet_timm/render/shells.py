"""What garments are cut from: measures of a body, layers that stand off it, and folds."""

import numpy as np

from .body import BONES, Body
from .meshes import Mesh, clip, normals, smooth, subdivide, submesh
from .patterns import value_noise

__all__ = ['behind', 'measure', 'quilt', 'shell', 'solid', 'wrinkle']

_ARM, _LEG = ('shoulder01', 'upperarm', 'lowerarm', 'wrist'), ('upperleg', 'lowerleg', 'foot')


def _along(points: np.ndarray, joints: list[np.ndarray]) -> np.ndarray:
    """Metres along a chain of joints of each point's nearest place; negative before the first joint."""
    best, out, start = np.full(len(points), np.inf), np.zeros(len(points)), 0.0
    for k, (a, b) in enumerate(zip(joints, joints[1:], strict=False)):
        length = np.linalg.norm(b - a)
        t = (points - a) @ (b - a) / length
        t = np.clip(t, -1.0 if k == 0 else 0.0, length if k < len(joints) - 2 else 9.0)
        distance = np.linalg.norm(points - a - t[:, None] * (b - a) / length, axis=1)
        out = np.where(distance < best, start + t, out)
        best = np.minimum(best, distance)
        start += length
    return out


def measure(body: Body) -> None:
    """Adds to a body's mesh what clothes are cut by: `arm`, `leg` (weights), `sleeve` (metres down it), `u`, `v`."""
    data, heads = body.mesh.data, body.heads
    p = data['position']
    arm, leg = body.weight(*_ARM), body.weight(*_LEG)
    sleeve, around, up = (
        np.full(len(p), -1.0),
        np.arctan2(p[:, 0], -p[:, 1] + heads['root'][1]) * 0.17,
        p[:, 2] - heads['root'][2],
    )
    for side, mask in (('L', p[:, 0] > 0), ('R', p[:, 0] <= 0)):
        chain = [heads[f'{b}.{side}'] for b in ('upperarm01', 'lowerarm01', 'wrist')]
        there = mask & (arm > 0.02)
        sleeve[there] = _along(p[there], chain)
        on = mask & (arm > 0.6)
        around[on] = p[on, 1] - chain[0][1]
        up[on] = np.linalg.norm(chain[1] - chain[0]) * 2 - sleeve[on] - 0.06
        hip = heads[f'upperleg01.{side}']
        on = mask & (leg > 0.6) & (p[:, 2] < hip[2] - 0.05)
        around[on] = np.arctan2(p[on, 0] - hip[0], hip[1] - p[on, 1]) * 0.11 * (1 if side == 'L' else -1)
    data |= {'arm': arm, 'leg': leg, 'sleeve': sleeve, 'u': around, 'v': up}


def wrinkle(mesh: Mesh, amount: float, seed: int) -> None:
    """Moves vertices along their normals by folds that run across the limbs, and refreshes the normals.

    Adds `fold`, how high each vertex lies in them, about -0.6 to 0.6.
    """
    p = mesh.position
    warped = p * [1.0, 1.0, 1.6] + 0.08 * value_noise(p, 0.15, seed + 1)[:, None]
    height = value_noise(warped, 0.11, seed) - 0.5 + 0.3 * (value_noise(warped, 0.05, seed + 2) - 0.5)
    mesh.data['position'] = p + mesh.data['normal'] * (amount * height)[:, None]
    mesh.data['normal'] = normals(mesh.position, mesh.faces)
    mesh.data['fold'] = height


def quilt(mesh: Mesh, step: float) -> None:
    """Sews a padded layer down every `step` metres."""
    seam = np.abs(np.sin(np.pi * mesh.data['v'] / step)) ** 0.6
    mesh.data['position'] = mesh.position + mesh.data['normal'] * (0.016 * (seam - 0.75))[:, None]
    mesh.data['normal'] = normals(mesh.position, mesh.faces)
    mesh.data['fold'] = mesh.data['fold'] + 0.5 * (seam - 0.75)


def shell(body: Body, field: np.ndarray, offset: np.ndarray, rounds: int, splits: int, least: float = 0.6) -> Mesh:
    """A smoothed layer `offset` [V] metres off the body where `field` [V] is positive, cut clean at its zero line.

    `least` is the share of the offset that smoothing must leave.
    """
    cut = {name: values.astype(body.mesh.position.dtype) for name, values in (('field', field), ('offset', offset))}
    part = Mesh(body.mesh.faces, body.mesh.data | cut)
    part = submesh(part, field > -0.03)
    base, normal, offset = part.position, part.data['normal'], part.data['offset']
    position = smooth(base + normal * offset[:, None], part.faces, rounds)
    out = ((position - base) * normal).sum(1)
    part.data['position'] = position + normal * np.maximum(least * offset - out, 0)[:, None]
    part.data['normal'] = normals(part.position, part.faces)
    for _ in range(splits):
        part = subdivide(part)
    return clip(part, part.data['field'])


def solid(mesh: Mesh, weights: dict[str, float], colour) -> Mesh:
    """The mesh in one `colour` [3], or one for each vertex, that follows bones by these weights."""
    w = np.zeros((len(mesh.position), len(BONES)), np.float32)
    for bone, value in weights.items():
        w[:, BONES.index(bone)] = value
    colours = np.broadcast_to(colour, (len(w), 3)).copy()
    return Mesh(mesh.faces, {'position': mesh.position, 'weights': w, 'colour': colours})


def behind(top: Mesh, low: float, high: float) -> float:
    """How far backwards (y) the back of a top reaches between two heights: elsewhere, what lies on it would float."""
    x, y, z = top.position.T
    return y[(top.data['arm'] < 0.3) & (np.abs(x) < 0.12) & (low < z) & (z < high)].max()
