"""Garments as meshes around a body in rest pose, and people dressed in them."""

import numpy as np

from .bags import add_straps, make_bag
from .body import BONES, Body
from .hair import make_face, make_hair, make_hat
from .identity import BESIDE, Identity
from .meshes import Mesh, ellipsoid, loft, merge, normals, submesh
from .patterns import paint, value_noise
from .shells import behind, measure, quilt, shell, solid, wrinkle
from .wardrobe import Garment

__all__ = ['dress']

_FINE = (
    'stripes',
    'vertical stripes',
    'checks',
    'diamonds',
    'dots',
    'flowers',
    'lettering',
    'heather',
)  # patterns that need small triangles
_TRIANGLE = 0.02  # metres: of a body
_SEEN_INSIDE = 0.05  # metres from an edge, how far one sees into a garment
_NEVER = 9.0  # metres: a field value for 'this edge of the garment does not matter here'


def _top_field(body: Body, garment: Garment, hem: float) -> np.ndarray:
    data, p, heads = body.mesh.data, body.mesh.position, body.heads
    arm_length = np.linalg.norm(heads['lowerarm01.L'] - heads['upperarm01.L']) * 2
    sleeve = np.where(data['arm'] > 0.02, garment.sleeve * arm_length - data['sleeve'], _NEVER)
    collar = heads['neck01'] + [0, 0.0, garment.collar]
    slope = np.array([0, -0.42, 0.91])
    neck = -(p - collar) @ slope
    if garment.vneck:
        neck = np.minimum(
            neck, np.where(p[:, 1] < collar[1], 0.9 * np.abs(p[:, 0]) + (collar[2] - 0.17 - p[:, 2]), _NEVER)
        )
    lower = np.where(data['arm'] > 0.5, _NEVER, p[:, 2] - hem)
    field = np.minimum.reduce([sleeve, neck, lower])
    if garment.open:
        front = (p[:, 1] < heads['spine03'][1]) & (data['arm'] < 0.5)
        field = np.minimum(field, np.where(front, np.abs(p[:, 0]) - garment.open, _NEVER))
    return field


def _splits(most: int, fine: float) -> int:
    """How often to split a body's triangles for a garment: until they are `fine` metres wide, or `most` times."""
    return int(np.clip(np.ceil(np.log2(_TRIANGLE / max(fine, 1e-6))), 0, most))


def _finish(mesh: Mesh, garment: Garment, folds: float) -> Mesh:
    """Gives a garment its folds and its colours."""
    wrinkle(mesh, folds, garment.seed)
    if garment.fabric == 'quilted':
        quilt(mesh, 0.07 + 0.05 * (garment.seed % 3) / 2)
    data = mesh.data
    colour = paint(garment.pattern, data, garment.colours, garment.size, garment.seed)
    if garment.trim is not None:
        edge = (data['field'] < 0.03) if garment.trim_on == 'edges' else data['arm'] > 0.55
        if garment.trim_on == 'zip':
            edge = (np.abs(data['position'][:, 0]) < 0.014) & (data['normal'][:, 1] < 0)
        colour = np.where(edge[:, None], garment.trim, colour)
    data['colour'] = np.clip(_cloth(garment, data, colour), 0.008, 0.85)
    return mesh


def _cloth(garment: Garment, data: dict[str, np.ndarray], colour: np.ndarray) -> np.ndarray:
    """Colours [V, 3] as a fabric shows them: darker in its folds, worn, ribbed or shiny."""
    colour = colour * (1 + 0.45 * data['fold'])[:, None]
    if garment.fabric == 'knit':
        colour = colour * (0.88 + 0.24 * (np.mod(data['u'] / 0.022, 1) < 0.5))[:, None]
    elif garment.fabric == 'denim':  # bleached where it rubs
        worn = value_noise(data['position'], 0.16, garment.seed + 5) * (0.4 + 0.6 * (data['normal'][:, 1] < 0))
        colour = colour * (0.6 + 1.3 * worn)[:, None]
    elif garment.fabric == 'leather':  # a sheen of the sky, for want of a surface that mirrors
        colour = (
            colour + (0.25 * np.maximum(data['normal'][:, 2], 0) ** 3 + 0.4 * np.maximum(data['fold'], 0) ** 2)[:, None]
        )
    return colour


def _top(body: Body, garment: Garment, layer: float, fine: float) -> Mesh:
    root = body.heads['root'][2]
    field = _top_field(body, garment, root + max(garment.length, -0.15))
    # A loose top falls from the chest instead of following the waist; smoothing does the rest.
    waist = np.exp(-(((body.mesh.position[:, 2] - body.heads['spine04'][2]) / 0.13) ** 2))
    offset = layer + garment.loose * np.where(body.mesh.data['arm'] < 0.5, 1 + waist, 0.8)
    detailed = garment.pattern in _FINE or garment.fabric == 'knit'
    splits = _splits(2, fine / 2) if detailed else _splits(1, fine)
    upper = _finish(shell(body, field, offset, garment.smooth, splits), garment, 0.006 + 0.2 * garment.loose)
    upper.data['inside'] = upper.data['field'] < _SEEN_INSIDE * (2 if garment.open else 1)
    if garment.length > -0.15:
        return upper
    return merge([upper, _hang(body, garment, root + 0.06, root + garment.length, layer + 1.1 * garment.loose)])


def _legs(body: Body, garment: Garment, fine: float) -> Mesh:
    data, heads, p = body.mesh.data, body.heads, body.mesh.position
    waist, ankle = heads['root'][2] + 0.1, heads['foot.L'][2]
    bottom = waist + (ankle - waist) * garment.length
    field = np.where(data['arm'] > 0.3, -1.0, np.minimum(waist - p[:, 2], p[:, 2] - bottom))
    down = np.clip((heads['root'][2] - p[:, 2]) / (heads['root'][2] - ankle), 0, 1)
    width = 0.12 + 0.88 * np.minimum(4 * down, 1) + garment.flare * np.maximum(down - 0.3, 0)
    legs = shell(body, field, 0.01 + garment.loose * width, 6 if garment.kind == 'leggings' else 14, _splits(1, fine))
    return _finish(legs, garment, 0.008 + 0.15 * garment.loose)


def _hang(body: Body, garment: Garment, top: float, bottom: float, gap: float) -> Mesh:
    """A skirt or a coat's lower part: a loft over the hips that swings the more with the legs the lower it is."""
    heads, p = body.heads, body.mesh.position
    torso = body.mesh.data['arm'] < 0.3
    cut = garment.open / 0.16
    angle = np.linspace(cut, 2 * np.pi - cut, 97)[: None if cut else 96]
    rings, hips = [], np.zeros(2)
    for depth in np.linspace(0, 1, 40):
        level = top + (bottom - top) * depth
        if level > heads['upperleg02.L'][2] - 0.06:
            near = p[torso & (np.abs(p[:, 2] - level) < 0.025)]
            half = np.array([np.abs(near[:, 0]).max(), np.ptp(near[:, 1]) / 2]) + gap
            centre, hips = (near[:, 1].max() + near[:, 1].min()) / 2, np.maximum(hips, half)
        grown = hips * (1 + garment.flare * depth)
        fold = 1 + garment.flare * 0.14 * depth * np.sin(angle * 11 + garment.seed % 7)
        ring = [grown[0] * fold * np.sin(angle), centre - grown[1] * fold * np.cos(angle), np.full(len(angle), level)]
        rings.append(np.stack(ring, 1))
    mesh = loft(np.array(rings), closed=not cut)
    q = mesh.position
    follow = 0.75 * np.clip((heads['root'][2] - q[:, 2]) / (heads['root'][2] - heads['foot.L'][2]) * 2.2, 0, 1)
    left = np.clip(0.5 + q[:, 0] / 0.2, 0, 1)
    weights = np.zeros((len(q), len(BONES)), np.float32)
    weights[:, BONES.index('root')] = 1 - follow
    weights[:, BONES.index('upperleg01.L')], weights[:, BONES.index('upperleg01.R')] = (
        follow * left,
        follow * (1 - left),
    )
    around = np.tile(np.where(angle > np.pi, angle - 2 * np.pi, angle) * 0.17, 40)
    mesh.data |= {'weights': weights, 'u': around, 'v': q[:, 2] - heads['root'][2], 'field': q[:, 2] - bottom}
    mesh.data |= {'normal': normals(q, mesh.faces), 'arm': 0 * follow}
    mesh.data['inside'] = (mesh.data['field'] < _SEEN_INSIDE) | (cut > 0)
    return _finish(mesh, garment, 0.012)


def _shoes(body: Body, garment: Garment, skin: np.ndarray) -> Mesh:
    p = body.mesh.position
    level = body.heads['foot.L'][2] + garment.length
    field = np.where(body.mesh.data['leg'] > 0.5, level - p[:, 2], -1.0)
    sandals = garment.kind == 'sandals'
    off = np.full(len(p), 0.006 if sandals else 0.018 + garment.loose)
    mesh = shell(body, field, off, 14 if sandals else 40, 0, least=-9)
    up = mesh.position[:, 2] - mesh.position[:, 2].min()
    mesh.data['field'] = up
    _finish(mesh, garment, 0.002)
    if sandals:
        straps = (up < 0.02) | (np.mod(mesh.position[:, 1], 0.085) < 0.03)
        mesh.data['colour'] = np.where(straps[:, None], garment.colours[0], skin)
    return mesh


def _hood(body: Body, garment: Garment, top: Mesh, up: bool) -> Mesh:
    """A hood, over the head or down on the back of the outermost top."""
    if up:
        eye = body.eyes
        field = np.where(body.weight('head', 'neck') > 0.3, body.mesh.position[:, 1] - eye[1] - 0.022, -1.0)
        hood = shell(body, field, np.full(len(field), 0.03), 30, 0)
        colour = garment.colours[0] * np.where(hood.data['field'] < 0.012, 0.6, 1.0)[:, None]
        data = {'position': hood.position, 'weights': hood.data['weights'], 'colour': colour}
        return Mesh(hood.faces, data | {'inside': np.ones(len(colour))})
    neck = body.heads['neck01'][2]
    back = behind(top, neck - 0.1, neck)
    fold = ellipsoid([0, back - 0.025, neck - 0.04], [0.125, 0.045, 0.095], 0.8)
    return solid(fold, {'spine01': 1}, 0.9 * garment.colours[0])


def _skin(body: Body, identity: Identity, covered: np.ndarray) -> Mesh:
    """The body where no garment hides it, with eyes, brows, lips and cheeks."""
    mesh = submesh(body.mesh, ~covered)
    p, eye = mesh.position, body.eyes
    colour = identity.skin * (0.92 + 0.16 * value_noise(p, 0.05, identity.seed))[:, None]
    front = p[:, 1] < eye[1] + 0.02
    aside = np.abs(np.abs(p[:, 0]) - 0.032)
    marks = (
        (front & (aside < 0.014) & (np.abs(p[:, 2] - eye[2]) < 0.007), np.array([0.04, 0.03, 0.03])),
        (
            front & (aside < 0.02) & (np.abs(p[:, 2] - eye[2] - 0.02) < 0.005),
            0.3 * identity.skin + 0.3 * identity.hair_colour,
        ),
        (
            front & (np.abs(p[:, 0]) < 0.022) & (np.abs(p[:, 2] - eye[2] + 0.072) < 0.008),
            identity.skin * [0.85, 0.5, 0.5],
        ),
    )
    for mask, value in marks:
        colour = np.where(mask[:, None], value, colour)
    if identity.face == 'beard':
        jaw = front & (p[:, 2] < eye[2] - 0.05) & (p[:, 2] > eye[2] - 0.125) & (mesh.data['arm'] < 0.1)
        colour = np.where(jaw[:, None], 0.25 * identity.skin + 0.6 * identity.hair_colour, colour)
    if identity.face == 'mask':
        low = front & (p[:, 2] < eye[2] - 0.03) & (p[:, 2] > eye[2] - 0.115) & (np.abs(p[:, 0]) < 0.06)
        colour = np.where(low[:, None], [0.55, 0.65, 0.7] if identity.seed % 3 else [0.03, 0.03, 0.03], colour)
    return Mesh(mesh.faces, {k: mesh.data[k] for k in ('position', 'normal', 'weights')} | {'colour': colour})


def dress(body: Body, identity: Identity, fine: float = 0.0) -> Mesh:
    """Everything of a person in one mesh in rest pose, of triangles that need not be smaller than `fine` metres.

    Its arrays: `normal` [V, 3], `weights` [V, len(BONES)], `colour` [V, 3], `part` [V], a number for each garment, and
    `inside` [V], 1 where the side that faces the body can be seen.
    """
    measure(body)
    layers = [_top(body, identity.top, 0.014, fine)]
    if identity.outer:
        layers.append(_top(body, identity.outer, 0.026, fine))
    add_straps(body, identity, layers[-1])
    p, heads = body.mesh.position, body.heads
    hidden = _top_field(body, identity.top, heads['root'][2] + identity.top.length) > 0.025
    waist, ankle = heads['root'][2] + 0.1, heads['foot.L'][2]
    bottom = waist + (ankle - waist) * identity.bottom.length
    hidden |= (body.mesh.data['arm'] < 0.3) & (p[:, 2] < waist) & (p[:, 2] > bottom + 0.03)
    # Under a long top that is closed nothing is seen, but legs would come through where they swing.
    long = [g.length for g in (identity.top, identity.outer) if g and g.length <= -0.15 and not g.open]
    under = heads['root'][2] + min(long, default=0.2) + 0.03
    hidden |= (body.mesh.data['arm'] < 0.3) & (p[:, 2] < waist) & (p[:, 2] > under)
    if identity.shoes.kind != 'sandals':
        hidden |= (body.mesh.data['leg'] > 0.5) & (p[:, 2] < ankle + identity.shoes.length - 0.02)
    if identity.bottom.kind == 'skirt':
        lower = _hang(body, identity.bottom, waist, bottom, 0.018)
    else:
        lower = _legs(body, identity.bottom, fine)
        lower = submesh(lower, lower.position[:, 2] < under) if bottom < under - 0.05 else lower
    parts = [_skin(body, identity, hidden), *layers, lower, _shoes(body, identity.shoes, identity.skin)]
    parts += make_hair(body, identity) + make_hat(body, identity) + make_face(body, identity)
    if (identity.outer or identity.top).hood:
        parts.append(_hood(body, identity.outer or identity.top, layers[-1], identity.hat == 'hood'))
    if identity.bag in BESIDE:
        body.beside = len(parts)
    parts += make_bag(body, identity, layers[-1])
    for number, part in enumerate(parts):
        part.data.setdefault('normal', normals(part.position, part.faces))
        part.data['part'] = np.full(len(part.position), number)
        part.data.setdefault('inside', np.zeros(len(part.position)))
    whole = merge(parts)
    return Mesh(whole.faces.astype(np.uint32), {k: v.astype(np.float32) for k, v in whole.data.items()})
