"""Bags, and what else people carry, as meshes around a body in rest pose."""

import numpy as np

from .body import Body
from .identity import Identity
from .meshes import Mesh, box, ellipsoid, turned
from .poses import arm, ground_of
from .shells import behind, solid
from .wheels import bicycle, skateboard, stroller

__all__ = ['add_straps', 'make_bag']


def _in_hand(body: Body, mesh: Mesh, colour: np.ndarray) -> Mesh:
    """Hangs something from the right hand: at (0, 0, 0), which points down once the arm does."""
    upper, lower = arm(body, 'R', 0, 9, 6)
    hand = body.heads['wrist.R'] + (lower.T @ upper.T) @ [0.0, 0.0, -0.09]
    mesh.data['position'] = mesh.position @ (upper @ lower) + hand
    return solid(mesh, {'lowerarm01.R': 1}, colour)


def make_bag(body: Body, identity: Identity, top: Mesh) -> list[Mesh]:
    """What `identity.bag` names, for a wearer of this outermost `top`."""
    heads, colour, size, floor = body.heads, identity.bag_colour, identity.bag_size, body.mesh.position[:, 2].min()
    if identity.bag == 'backpack':
        middle = (heads['spine01'] + heads['spine03'])[2] / 2
        back = behind(top, middle - 0.18 * size, middle + 0.18 * size)
        pack = ellipsoid([0, back + 0.07 * size, middle], np.array([0.15, 0.085, 0.22]) * size, 0.45)
        pocket = ellipsoid([0, back + 0.145 * size, middle - 0.08], np.array([0.11, 0.04, 0.1]) * size, 0.45)
        weights = {'spine01': 0.6, 'spine03': 0.4}
        second = colour if identity.seed % 3 else np.clip(3 * colour[::-1], 0.02, 0.5)
        return [solid(pack, weights, colour), solid(pocket, weights, second * 0.65)]
    if identity.bag in ('shoulder', 'crossbody'):
        side, half = heads['upperleg01.L'] + [0.15, 0.03, 0.05], np.array([0.055, 0.17, 0.13])
        if identity.bag == 'crossbody':
            side, half = heads['upperleg01.L'] + [0.06, -0.17, 0.08], np.array([0.11, 0.045, 0.085])
        return [solid(ellipsoid(side, half * size, 0.4), {'root': 1}, colour)]
    if identity.bag in ('tote', 'handbag', 'briefcase'):
        half, drop = {
            'tote': ([0.05, 0.16, 0.18], 0.3), 'handbag': ([0.06, 0.14, 0.1], 0.22),
            'briefcase': ([0.045, 0.21, 0.15], 0.18),
        }[identity.bag]  # fmt: skip
        bag = ellipsoid([0, 0, -drop], np.array(half) * size, 0.25 if identity.bag == 'briefcase' else 0.4)
        handle = box([0, 0, -drop / 2 + 0.02], [0.012, 0.1, drop - 0.06])
        return [_in_hand(body, bag, colour), _in_hand(body, handle, 0.7 * colour)]
    if identity.bag == 'trolley':
        place = np.array([heads['upperleg01.R'][0] - 0.16, 0.42, floor])
        case = ellipsoid(place + [0, 0, 0.34], [0.2 * size, 0.12 * size, 0.29], 0.25)
        rods = box(place + [0.03, -0.09, 0.72], [0.2, 0.02, 0.3])
        return [solid(case, {'root': 1}, colour), solid(rods, {'root': 1}, np.full(3, 0.04))]
    if identity.bag == 'umbrella':
        top = np.array([-0.12, body.eyes[1] - 0.03, body.eyes[2] + 0.32])
        roof = ellipsoid(top, [0.52, 0.52, 0.2], segments=16)
        roof.data['position'][:, 2] = np.maximum(roof.position[:, 2], top[2] - 0.01)
        stick = box(top - [0, 0, 0.4], [0.02, 0.02, 0.8])
        return [solid(roof, {'spine01': 1}, colour), solid(stick, {'spine01': 1}, np.full(3, 0.03))]
    if identity.bag in ('stroller', 'bicycle', 'cycling', 'skating', 'skateboard'):
        return [_rolling(body, identity)]
    return []


def _rolling(body: Body, identity: Identity) -> Mesh:
    """What somebody rides, pushes, or carries under an arm."""
    colour, (place, scale) = identity.bag_colour, ground_of(body, identity.bag)
    if identity.bag == 'stroller':
        made = stroller(colour, identity.seed)
    elif identity.bag in ('bicycle', 'cycling'):
        made = bicycle(colour, identity.seed)
    else:
        made = skateboard(colour)
    if identity.bag == 'skating':
        made = turned(made, np.pi / 2)
    if identity.bag == 'skateboard':
        made.data['position'] = made.position[:, [2, 1, 0]] * [-1, 1, 1] + [0.05, 0.0, -0.02]
        return _in_hand(body, made, made.data['colour'])
    made.data['position'] = made.position * scale + place
    return solid(made, {'root': 1}, made.data['colour'])


def add_straps(body: Body, identity: Identity, mesh: Mesh) -> None:
    """Paints the straps of a bag onto the outermost top."""
    p, arm_ = mesh.position, mesh.data['arm']
    if identity.bag == 'backpack':
        strap = (np.abs(np.abs(p[:, 0]) - 0.115) < 0.022) & (p[:, 2] > body.heads['spine03'][2]) & (arm_ < 0.6)
    elif identity.bag == 'crossbody':
        low, high = body.heads['upperleg01.L'] + [0.1, 0, 0.05], body.heads['shoulder01.R'] + [0.02, 0, 0.04]
        along = (p[:, 0] - low[0]) * (high[2] - low[2]) - (p[:, 2] - low[2]) * (high[0] - low[0])
        strap = (np.abs(along) / np.hypot(high[2] - low[2], high[0] - low[0]) < 0.02) & (arm_ < 0.5)
    elif identity.bag == 'shoulder':
        strap = (np.abs(p[:, 0] - body.heads['shoulder01.L'][0] - 0.02) < 0.018) & (arm_ < 0.6)
    else:
        return
    mesh.data['colour'] = np.where(strap[:, None], identity.bag_colour, mesh.data['colour'])
