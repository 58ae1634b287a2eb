"""A vehicle's body: a surface through sections along its length, cut where glass, lamps and seams begin."""

from collections.abc import Callable, Sequence

import numpy as np

from .meshes import Mesh, loft, normals, split
from .vehicles import BOXY, Model

__all__ = ['Field', 'Shell', 'above', 'below', 'between', 'body_shell', 'disc', 'octagon']

_ROOF = 6  # points from a roof's edge to its middle
_ACROSS = np.linspace(0.88, 0, _ROOF)
_CAP = 10  # sections of each rounded end
_EXACT = 1e-6


#: What is positive on one side of a line on a shell: gives a number for each vertex.
Field = Callable[['Shell'], np.ndarray]


class Shell:
    """A surface whose faces are made of numbered materials, and that can be cut where another one begins.

    Attributes:
        mesh: with `position` [V, 3] (across, along from the front, up; metres), `normal`, and what fields are made of:
            `x`, `l` and `h`, the same; `w`, how far it is to the middle; and others.
        material: [F].
    """

    def __init__(self, mesh: Mesh, material: int):
        x, along, up = mesh.position.T
        self.mesh = Mesh(mesh.faces, mesh.data | {'x': x, 'w': np.abs(x), 'l': along, 'h': up})
        self.material = np.full(len(mesh.faces), material)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.mesh.data[name]

    def side_at(self, along: float, up: float) -> float:
        """How far the side is from the middle, at a place of it."""
        return float(self['w'][np.hypot(self['l'] - along, self['h'] - up).argmin()])

    def top_at(self, across: float, along: float) -> float:
        """How high the surface reaches at a place."""
        return float(self['h'][np.hypot(self['w'] - across, self['l'] - along) < 0.12].max())

    def paint(self, material: int, *fields: Field, over: Sequence[int] = ()) -> None:
        """Gives a material to where all `fields` are positive, which are functions of this shell; all edges are clean.

        Args:
            material: its number.
            fields: each gives [V].
            over: materials that it may cover; none for all.
        """
        chosen = np.flatnonzero(np.isin(self.material, over)) if over else np.arange(len(self.material))
        for field in fields:  # all that some field leaves out is left out of all cuts
            chosen = chosen[_any(field(self) > _EXACT, self.mesh.faces[chosen])]
        if not len(chosen):
            return
        used, faces = np.unique(self.mesh.faces[chosen], return_inverse=True)
        part = Shell(Mesh(faces.reshape(-1, 3), {k: v[used] for k, v in self.mesh.data.items()}), material)
        part.material, inside = self.material[chosen], np.ones(len(chosen), bool)
        for field in fields:
            values = field(part)
            values = np.where(np.abs(values) < _EXACT, 0, values)  # no slivers where an edge is already
            inside &= _any(values > 0, part.mesh.faces)
            mixed = inside & _any(values < 0, part.mesh.faces)
            if mixed.any():
                cut, count, source = split(Mesh(part.mesh.faces[mixed], part.mesh.data), values)
                part.mesh = Mesh(np.concatenate([part.mesh.faces[~mixed], cut.faces]), cut.data)
                part.material = np.concatenate([part.material[~mixed], part.material[mixed][source]])
                inside = np.concatenate([inside[~mixed], np.arange(len(source)) < count])
        part.material[inside] = material
        size, rest = len(self['h']), np.delete(np.arange(len(self.material)), chosen)
        data = {k: np.concatenate([v, part[k]]) for k, v in self.mesh.data.items()}
        self.mesh = Mesh(np.concatenate([self.mesh.faces[rest], part.mesh.faces + size]), data)
        self.material = np.concatenate([self.material[rest], part.material])


def _any(mask: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Which faces have a vertex in a mask."""
    a, b, c = faces.T
    return mask[a] | mask[b] | mask[c]


def above(name: str, low: float) -> Field:
    return lambda shell: shell[name] - low


def below(name: str, high: float) -> Field:
    return lambda shell: high - shell[name]


def between(name: str, low: float, high: float) -> list[Field]:
    return [above(name, low), below(name, high)]


def octagon(
    at: float, up: float, wide: float, high: float, corners: float = 1.5, lean: float = 0.0, name: str = 'w'
) -> list[Field]:
    """What is at most `wide` aside of a place across and `high` from a height.

    Args:
        at, up: the place, metres from the middle, and the height.
        wide, high: half of the whole.
        corners: 2 for a rectangle, less where corners are cut.
        lean: by how much it rises over a metre across.
        name: `w` for both sides, `x` for one.
    """

    def across(s: Shell) -> np.ndarray:
        return (s[name] - at) / wide

    def rise(s: Shell) -> np.ndarray:
        return (s['h'] - up - lean * (s[name] - at)) / high

    out = [lambda s: 1 - across(s), lambda s: 1 + across(s), lambda s: 1 - rise(s), lambda s: 1 + rise(s)]
    return out + [lambda s, a=a, b=b: corners + a * across(s) + b * rise(s) for a in (-1, 1) for b in (-1, 1)]


def disc(along: float, up: float, radius: float, sides: int = 14) -> list[Field]:
    """A regular polygon on the sides."""
    turns = [(np.cos(t), np.sin(t)) for t in 2 * np.pi * np.arange(sides) / sides]
    return [lambda s, c=c, d=d: radius - (s['l'] - along) * c - (s['h'] - up) * d for c, d in turns]


def _outline(model: Model) -> dict[str, np.ndarray]:
    """Heights of a body by the way from its front: `along` [N], `top` and `belt`, the lower edge of its windows."""
    m, length = model.shape, model.cab or model.shape.length
    high, end = m.height, length - m.deck
    roof = m.bonnet + m.screen
    drop = min(0.03 + 0.02 * (length - roof), 0.1)
    boxy = model.body in BOXY
    top = [(-0.5, m.nose - 0.06), (0, m.nose), (0.35 * m.bonnet, m.nose + 0.62 * (m.cowl - m.nose)), (m.bonnet, m.cowl)]
    if m.bonnet < 0.15:
        top = [(-0.5, m.cowl), (0, m.cowl + 0.15 * (high - m.cowl)), (m.bonnet, m.cowl + 0.3 * (high - m.cowl))]
        if m.bonnet < 0.1:  # a bus, or a cab over the engine: the front is one wall
            top = [(-0.5, high - 0.3), (0, high - 0.16), (0.1, high - 0.08)]
    if boxy:
        top += [(roof, high - 0.06), (roof + 0.25, high - 0.01), (end - m.back - 0.15, high - 0.01)]
        top += [(end - m.back, high - 0.05), (length, high - 0.16), (length + 0.5, high - 0.3)]
    else:
        top += [(roof, high - 0.05), (roof + 0.45, high - 0.005), ((roof + end - m.back) / 2 + 0.2, high)]
        top += [(end - m.back, high - drop)]
        if model.body == 'pickup':
            bed = max(m.clearance + 0.45, 2.16 * m.wheel)  # above the wheels
            top += [(end, m.tail + 0.04), (end + 0.01, bed), (length - 0.07, bed), (length - 0.05, m.tail)]
        elif m.deck > 0.2:
            top += [(end, m.tail + 0.05), (length - 0.1, m.tail + 0.015), (length, m.tail - 0.03)]
        else:
            top += [(end - 0.02, m.tail + 0.06), (length, m.tail - 0.02)]
        top += [(length + 0.5, top[-1][1] - 0.1)]
    along = np.arange(-0.3, length + 0.3, 0.01)
    top = np.interp(along, *np.array(top).T)
    wide = 3 if m.bonnet < 0.1 else 8
    kernel = np.exp(-0.5 * (np.arange(-3 * wide, 3 * wide + 1) / wide) ** 2)
    smoothed = np.convolve(np.pad(top, 3 * wide, mode='edge'), kernel / kernel.sum(), 'valid')
    top = np.where(along > end - 0.02, top, smoothed) if model.body == 'pickup' else smoothed
    belt = np.interp(along, [0, m.bonnet, length - 0.3], [m.nose if m.bonnet > 0.3 else m.cowl, m.cowl, m.tail])
    return {'along': along, 'top': top, 'belt': belt, 'bow': np.full(len(along), 0.0)}


def _stations(model: Model, lines: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where sections are, along the vehicle, and by which share of their width those of the ends are narrower."""
    length, m = model.cab or model.shape.length, model.shape
    turn = np.linspace(0, np.pi / 2, _CAP)
    power = 2 / 3.2
    deep = np.array([model.round, 0.16 if model.cab or m.length > 8 else 0.25])
    share, depth = np.sin(turn) ** power, 1 - np.cos(turn) ** power
    # As dense along the outline as along the ground.
    x = np.linspace(deep[0], length - deep[1], 2000)
    z = np.interp(x, lines['along'], lines['top'])
    way = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
    step = 0.08 if length < 7 else 0.12
    middle = np.interp(np.linspace(0, way[-1], int(way[-1] / step)), way, x)[1:-1]
    along = np.concatenate([deep[0] * depth, middle, length - deep[1] * depth[::-1]])
    return along, np.concatenate([share, np.ones(len(middle)), share[::-1]])


def body_shell(model: Model, material: int) -> Shell:
    """The body without wheels, of one material.

    Its fields are besides `rail` (half the roof's width there), `edge` (height of the roof's edge), `belt` (that of the
    windows' lower edge), `lag` (how far behind the middle's outline it is where screens are bowed), and `upper` (1 on
    bonnet, screens and roof, -1 elsewhere).
    """
    m, lines = model.shape, _outline(model)
    length = model.cab or m.length
    along, share = _stations(model, lines)
    at = lambda name, x: np.interp(x, lines['along'], lines[name])  # noqa: E731
    pickup, boxy = model.body == 'pickup', model.body in BOXY
    middle = 2 * along / length - 1
    half = m.width / 2 * (1 - (0.01 if boxy else 0.035) * middle**2)
    bow = np.where(along < 0.5 * length, 0.06 if boxy else 0.2, -0.03 if boxy else -0.12)
    bow = bow * np.clip(np.abs(middle) * 4 - 0.4, 0, 1)
    crown = 0.03 if boxy else 0.05
    edge = at('top', along - bow) - crown
    bed = pickup & (along > length - m.deck)
    belt = np.where(bed, at('belt', along), np.minimum(at('belt', along), edge - 0.002))
    glass = np.maximum(edge - belt, 0)
    low = np.full(len(along), m.clearance)
    low = low + 0.08 * np.clip(1 - along / 0.5, 0, 1) + 0.1 * np.clip((along - length + 0.6) / 0.6, 0, 1)
    sill, part = low + 0.09, np.clip(glass / 0.12, 0, 1)
    shoulder = half - (0.02 if boxy else 0.05)
    rail = shoulder - 0.02 - (0.02 if boxy else 0.04) * part - m.taper * glass
    points = [(0 * half, low), (0.5 * half, low), (half - 0.12, low), (half - 0.07, low + 0.02), (half - 0.045, sill)]
    for t in np.linspace(0.12, 1, 8):
        z = sill + (belt - 0.05 - sill) * t
        bulge = 0.045 * (1 - t) ** 2 + (half - shoulder) * np.clip(t - 0.55, 0, 1) ** 2 / 0.2
        if model.crease:
            bulge = bulge - 0.014 * np.exp(-0.5 * ((t - model.crease) / 0.1) ** 2)
        points.append((half - bulge, z))
    points += [(shoulder - 0.008, belt - 0.015), (shoulder - 0.02 - 0.02 * part, belt + 0.006 * part)]
    start = shoulder - 0.03 - 0.02 * part
    for t in np.linspace(0.04, 1, 6):
        outwards = 0.02 * np.sin(np.pi * t) * part
        points.append((start + (rail - start) * t + outwards, belt + 0.012 * part + (glass - 0.05 * part) * 0.96 * t))
    points += [(rail - 0.015, edge - 0.018 * part), (rail - 0.05, edge - 0.002)]
    for k in _ACROSS:
        w = (rail - 0.05) * k
        z = at('top', along - bow * k**2) - crown * k**2
        points.append((w, z))
    w, h = (np.array([p[k] for p in points]) for k in (0, 1))  # [P, R]
    rows = [w * share, np.broadcast_to(along, w.shape), h]
    # Ends are no walls: a bumper stands out, what is above leans back.
    rise = np.clip((h - m.clearance) / max(m.nose - m.clearance, 0.3), 0, 1.3)
    lean = np.interp(rise, [0, 0.25, 0.55, 0.62, 1, 1.3], [0.07, 0.0, 0.0, 0.035, 0.06 if boxy else 0.12, 0.16])
    rise = np.clip((h - m.clearance) / max(m.tail - m.clearance, 0.3), 0, 1.3)
    leant = np.interp(rise, [0, 0.25, 0.5, 0.58, 1, 1.3], [0.08, 0.0, 0.0, 0.04, 0.05 if boxy else 0.08, 0.1])
    rows[1] = rows[1] + lean * np.clip(1 - along / 0.7, 0, 1) - leant * np.clip(1 - (length - along) / 0.6, 0, 1)
    right = np.stack(rows, 2).transpose(1, 0, 2)  # [R, P, 3]
    left = right[:, -2:0:-1] * [-1, 1, 1]
    ring = np.concatenate([right, left], 1)
    mesh = loft(ring)
    over = np.arange(len(points)) >= len(points) - _ROOF
    behind = np.concatenate([np.zeros(len(points) - _ROOF), _ACROSS**2])[:, None] * bow

    def mirrored(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values.T, values.T[:, -2:0:-1]], 1).ravel()

    data = {'position': mesh.position, 'normal': normals(mesh.position, mesh.faces), 'lag': mirrored(behind)}
    data['upper'] = mirrored(np.repeat(np.where(np.roll(over, -1) | over, 1.0, -1.0)[:, None], len(along), 1))
    data |= {k: np.repeat(v, ring.shape[1]) for k, v in (('rail', rail), ('edge', edge), ('belt', belt))}
    return Shell(Mesh(mesh.faces, data), material)
