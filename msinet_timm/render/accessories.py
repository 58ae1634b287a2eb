"""Hair, hats and bags as meshes around a body in rest pose."""

import numpy as np

from .body import BONES, Body
from .identity import Identity
from .meshes import Mesh, ellipsoid, loft
from .patterns import value_noise
from .shells import shell, wrinkle

__all__ = ['add_straps', 'make_bag', 'make_hair', 'make_hat']


def _solid(mesh: Mesh, weights: dict[str, float], colour) -> Mesh:
    w = np.zeros((len(mesh.position), len(BONES)))
    for bone, value in weights.items():
        w[:, BONES.index(bone)] = value
    colours = np.broadcast_to(colour, (len(w), 3)).copy()
    return Mesh(mesh.faces, {'position': mesh.position, 'weights': w, 'colour': colours})


def make_hair(body: Body, identity: Identity) -> list[Mesh]:
    style, eye, p = identity.hair, body.eyes, body.mesh.position
    if style == 'bald':
        return []
    back, up = p[:, 1] - eye[1], p[:, 2] - eye[2]
    nape = {'buzz': -0.04, 'short': -0.06}.get(style, -0.09)
    field = np.maximum(up - 0.058 - 0.3 * np.maximum(0.04 - back, 0), np.minimum(back - 0.088, up - nape))
    field = np.where(body.weight('head', 'neck') > 0.5, field, -1.0)
    thick = {'buzz': 0.004, 'afro': 0.06, 'curly': 0.035, 'long': 0.02, 'bob': 0.022}.get(style, 0.014)
    cap = shell(body, field, thick * np.clip(field / 0.04, 0.3, 1), 4, 1)
    wrinkle(cap, 0.35 * thick, identity.seed)
    shade = 0.75 + 0.5 * value_noise(cap.position * [1, 1, 0.3], 0.012, identity.seed)
    cap.data['colour'] = identity.hair_colour * shade[:, None]
    parts = [cap]
    crown = np.array([0.0, eye[1] + 0.105, eye[2] + 0.03])
    if style in ('long', 'bob'):
        parts.append(_curtain(body, identity, crown, {'long': 0.36 + 0.12 * identity.volume, 'bob': 0.16}[style]))
    if style == 'bun':
        parts.append(_solid(ellipsoid(crown + [0, 0.09, 0.07], [0.05, 0.045, 0.05]), {'head': 1}, identity.hair_colour))
    if style == 'ponytail':
        tail = ellipsoid(crown + [0, 0.12, -0.1], [0.035, 0.035, 0.15])
        parts.append(_solid(tail, {'head': 0.7, 'spine01': 0.3}, identity.hair_colour))
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
    eye, colour = body.eyes, identity.hat_colour
    centre = np.array([0.0, eye[1] + 0.095, eye[2] + 0.062])
    if identity.hat == 'beanie':
        dome = ellipsoid(centre + [0, 0.005, 0], [0.088, 0.112, 0.1])
        roll = ellipsoid(centre + [0, 0.005, -0.012], [0.094, 0.118, 0.026], 0.8)
        return [_solid(dome, {'head': 1}, colour), _solid(roll, {'head': 1}, colour * 0.7)]
    dome = ellipsoid(centre, [0.086, 0.112, 0.085])
    if identity.hat == 'cap':
        brim = ellipsoid(centre + [0, -0.13, -0.012], [0.075, 0.075, 0.009])
    else:
        brim = ellipsoid(centre + [0, 0, -0.015], [0.17, 0.19, 0.012])
    return [_solid(dome, {'head': 1}, colour), _solid(brim, {'head': 1}, colour * 0.8)]


def make_bag(body: Body, identity: Identity, back: float) -> list[Mesh]:
    heads, colour, size = body.heads, identity.bag_colour, identity.bag_size
    if identity.bag == 'backpack':
        middle = (heads['spine01'] + heads['spine03']) / 2
        pack = ellipsoid([0, back + 0.075 * size, middle[2]], np.array([0.15, 0.085, 0.22]) * size, 0.45)
        pocket = ellipsoid([0, back + 0.15 * size, middle[2] - 0.08], np.array([0.11, 0.04, 0.1]) * size, 0.45)
        weights = {'spine01': 0.6, 'spine03': 0.4}
        return [_solid(pack, weights, colour), _solid(pocket, weights, colour * 0.65)]
    if identity.bag == 'shoulder':
        side = heads['upperleg01.L'] + [0.13, 0.02, 0.03]
        pouch = ellipsoid(side, np.array([0.055, 0.15, 0.12]) * size, 0.4)
        return [_solid(pouch, {'root': 1}, colour)]
    # The arm turns inwards from the rest pose to hang down: so turn the bag outwards by as much about the hand.
    hand = heads['wrist.R'] + [-0.03, -0.06, -0.06]
    tote = ellipsoid([0, 0, -0.22], np.array([0.05, 0.15, 0.17]) * size, 0.35)
    c, s = np.cos(0.43), np.sin(0.43)
    tote.data['position'] = tote.position @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + hand
    return [_solid(tote, {'lowerarm01.R': 1}, colour)]


def add_straps(body: Body, identity: Identity, mesh: Mesh) -> None:
    """Paints the straps of a bag onto the outermost top."""
    p, arm = mesh.position, mesh.data['arm']
    if identity.bag == 'backpack':
        strap = (np.abs(np.abs(p[:, 0]) - 0.115) < 0.022) & (p[:, 2] > body.heads['spine03'][2]) & (arm < 0.6)
    elif identity.bag == 'shoulder':
        low, high = body.heads['upperleg01.L'] + [0.1, 0, 0.05], body.heads['shoulder01.R'] + [0.02, 0, 0.04]
        along = (p[:, 0] - low[0]) * (high[2] - low[2]) - (p[:, 2] - low[2]) * (high[0] - low[0])
        strap = (np.abs(along) / np.hypot(high[2] - low[2], high[0] - low[0]) < 0.02) & (arm < 0.5)
    else:
        return
    mesh.data['colour'] = np.where(strap[:, None], identity.bag_colour, mesh.data['colour'])
