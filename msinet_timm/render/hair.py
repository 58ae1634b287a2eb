"""Hair, hats and what is worn on faces and about necks, as meshes around a body in rest pose."""

import numpy as np

from .body import BONES, Body
from .identity import Identity
from .meshes import Mesh, ellipsoid, loft
from .patterns import value_noise
from .shells import shell, solid, wrinkle

__all__ = ['make_face', 'make_hair', 'make_hat']


_LONG = ('long', 'bob', 'ponytail')
#: Of hair styles: metres above the eyes where the front begins, below them where the nape ends, and off the head.
_CUTS = {
    'buzz': (0.058, 0.045, 0.004), 'receding': (0.09, 0.055, 0.008), 'short': (0.055, 0.06, 0.014),
    'parted': (0.05, 0.065, 0.02), 'fringe': (0.022, 0.08, 0.018), 'curly': (0.05, 0.08, 0.035),
    'afro': (0.055, 0.085, 0.06), 'bob': (0.04, 0.09, 0.022), 'long': (0.052, 0.09, 0.02),
}  # fmt: skip


def make_hair(body: Body, identity: Identity) -> list[Mesh]:
    """Hair, as far as a hat leaves it free."""
    style, eye, p = identity.hair, body.eyes, body.mesh.position
    covered = identity.hat in ('headscarf', 'hood', 'helmet', 'beanie')
    if style == 'bald' or identity.hat in ('headscarf', 'hood') or (covered and style not in _LONG):
        return []
    back, up = p[:, 1] - eye[1], p[:, 2] - eye[2]
    front, nape, thick = _CUTS.get(style, (0.055, 0.09, 0.014))
    if covered:
        front, thick = 0.09, 0.006
    temple = 0.05 + np.clip(0.03 - up, 0, 0.04)
    line = front + 0.3 * np.maximum(0.03 - back, 0) + (0.25 * np.maximum(p[:, 0], 0) if style == 'parted' else 0)
    field = np.maximum(up - line, np.minimum(back - temple, up + nape))
    field = np.where(body.weight('head', 'neck') > 0.5, field, -1.0)
    cap = shell(body, field, thick * np.clip(field / 0.04, 0.3, 1), 4, 1)
    wrinkle(cap, 0.35 * thick, identity.seed)
    shade = 0.75 + 0.5 * value_noise(cap.position * [1, 1, 0.3], 0.012, identity.seed)
    cap.data['colour'] = identity.hair_colour * shade[:, None]
    parts = [cap]
    crown = np.array([0.0, eye[1] + 0.105, eye[2] + 0.03])
    if style in ('long', 'bob'):
        parts.append(_curtain(body, identity, crown, {'long': 0.36 + 0.12 * identity.volume, 'bob': 0.16}[style]))
    if style == 'bun':
        parts.append(solid(ellipsoid(crown + [0, 0.09, 0.07], [0.05, 0.045, 0.05]), {'head': 1}, identity.hair_colour))
    if style == 'ponytail':
        tail = ellipsoid(crown + [0, 0.12, -0.1], [0.035, 0.035, 0.15])
        parts.append(solid(tail, {'head': 0.7, 'spine01': 0.3}, identity.hair_colour))
    return parts


def _curtain(body: Body, identity: Identity, crown: np.ndarray, length: float) -> Mesh:
    """Hair that falls around the back of the head onto the shoulders."""
    p, arm = body.mesh.position, body.mesh.data['arm']
    angle = np.deg2rad(np.linspace(-112, 112, 60))
    rings = []
    for level in np.linspace(crown[2] + 0.02, crown[2] - length, 24):
        fall = crown[2] - level
        near = p[(np.abs(p[:, 2] - level) < 0.03) & (np.abs(p[:, 0]) < 0.1) & (arm < 0.5)]
        deep = max(0.105, near[:, 1].max() - crown[1] + 0.025 if len(near) else 0)
        wide = 0.088 + 0.1 * min(fall, 0.25)
        strand = 1 + 0.05 * np.sin(angle * 17 + identity.seed % 5)
        rings.append(
            np.stack([wide * strand * np.sin(angle), crown[1] + deep * strand * np.cos(angle), 0 * angle + level], 1)
        )
    mesh = loft(np.array(rings), closed=False)
    head = np.clip(1 - (crown[2] - mesh.position[:, 2] - 0.1) / 0.25, 0.15, 1)
    weights = np.zeros((len(head), len(BONES)))
    weights[:, BONES.index('head')], weights[:, BONES.index('spine01')] = head, 1 - head
    shade = 0.75 + 0.5 * value_noise(mesh.position * [1, 1, 0.15], 0.012, identity.seed)
    mesh.data |= {'weights': weights, 'colour': identity.hair_colour * shade[:, None], 'inside': np.ones(len(head))}
    return mesh


def make_hat(body: Body, identity: Identity) -> list[Mesh]:
    """A hat or headscarf; hoods belong to garments."""
    eye, colour, hat = body.eyes, identity.hat_colour, identity.hat
    centre = np.array([0.0, eye[1] + 0.095, eye[2] + 0.062])
    if hat in (None, 'hood'):
        return []
    if hat == 'headscarf':
        p, neck = body.mesh.position, body.heads['neck01']
        face = np.hypot(p[:, 0] / 0.062, (p[:, 2] - eye[2] + 0.03) / 0.088) - 1
        field = np.where(p[:, 1] < eye[1] + 0.06, np.minimum(0.06 * face, 0.05), 0.05)
        field = np.minimum(field, p[:, 2] - neck[2] + 0.05)
        field = np.where(body.weight('head', 'neck', 'spine01') > 0.4, field, -1.0)
        scarf = shell(body, field, np.full(len(p), 0.02), 14, 0)
        wrinkle(scarf, 0.012, identity.seed)
        shade = colour * (1 + 0.5 * scarf.data['fold'])[:, None]
        data = {'position': scarf.position, 'weights': scarf.data['weights'], 'colour': shade}
        return [Mesh(scarf.faces, data)]
    if hat == 'beanie':
        dome = ellipsoid(centre + [0, 0.005, 0], [0.088, 0.112, 0.1])
        roll = ellipsoid(centre + [0, 0.005, -0.012], [0.094, 0.118, 0.026], 0.8)
        return [solid(dome, {'head': 1}, colour), solid(roll, {'head': 1}, colour * 0.7)]
    if hat == 'helmet':
        dome = ellipsoid(centre + [0, 0.0, 0.012], [0.1, 0.132, 0.1], 0.9)
        return [solid(dome, {'head': 1}, np.clip(2.5 * colour, 0.02, 0.7))]
    dome = ellipsoid(centre, [0.086, 0.112, 0.085])
    if hat == 'cap':
        brim = ellipsoid(centre + [0, -0.13, -0.012], [0.075, 0.075, 0.009])
    else:
        brim = ellipsoid(centre + [0, 0, -0.015], [0.17, 0.19, 0.012])
    return [solid(dome, {'head': 1}, colour), solid(brim, {'head': 1}, colour * 0.8)]


def make_face(body: Body, identity: Identity) -> list[Mesh]:
    """Glasses and scarves; beards and masks are painted onto the skin."""
    eye, colour = body.eyes, identity.face_colour
    if identity.face in ('glasses', 'sunglasses'):
        dark = 0.015 if identity.face == 'sunglasses' else 0.12
        tall = 0.021 if identity.face == 'sunglasses' else 0.013
        lenses = [ellipsoid(eye + [x, -0.022, -0.004], [0.027, 0.007, tall], 0.6, 10) for x in (-0.033, 0.033)]
        frame = ellipsoid(eye + [0, -0.016, 0.004], [0.07, 0.012, 0.005], 0.6, 10)
        sides = [ellipsoid(eye + [x, 0.03, 0.004], [0.004, 0.05, 0.005], 0.6, 8) for x in (-0.07, 0.07)]
        return [solid(m, {'head': 1}, np.full(3, dark)) for m in lenses] + [
            solid(m, {'head': 1}, np.full(3, 0.02)) for m in (frame, *sides)
        ]
    if identity.face == 'scarf':
        neck = body.heads['neck01']
        ring = ellipsoid([0, neck[1] - 0.01, neck[2] + 0.005], [0.1, 0.105, 0.06], 0.8)
        parts = [solid(ring, {'neck01': 0.6, 'spine01': 0.4}, colour)]
        if identity.seed % 2:
            end = ellipsoid([0.05, neck[1] - 0.15, neck[2] - 0.18], [0.05, 0.025, 0.17], 0.5)
            parts.append(solid(end, {'spine01': 1}, 0.85 * colour))
        return parts
    return []
