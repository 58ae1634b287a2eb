"""Vehicles as meshes: bodies with glass, lamps, seams, lettering and dirt, on wheels, with what is fixed to them."""

import numpy as np

from .bodywork import Shell, body_shell, side_at
from .meshes import Mesh, box, ellipsoid, loft, merge, normals, subdivide
from .patterns import value_noise
from .vehicles import Vehicle

__all__ = ['HEADLAMP', 'TAILLAMP', 'build_vehicle']

#: Numbers in `lamp` of what may shine.
HEADLAMP, TAILLAMP = 1, 2
_BLACK, _RUBBER, _DARK = (0.012, 0.012, 0.013), (0.022, 0.022, 0.023), (0.006, 0.006, 0.006)
_CHROME, _RED, _AMBER = (0.6, 0.61, 0.63), (0.26, 0.012, 0.014), (0.5, 0.17, 0.02)


class _Materials(list):
    """Colour, gloss and lamp of each; a gloss above 0.5 is a metal's."""

    def add(self, colour, gloss: float = 0.0, lamp: int = 0) -> int:
        self.append((*np.broadcast_to(colour, 3), gloss, lamp))
        return len(self) - 1


def _from(name: str, low: float):
    return lambda shell: shell[name] - low


def _to(name: str, high: float):
    return lambda shell: high - shell[name]


def _between(name: str, low: float, high: float) -> tuple:
    return _from(name, low), _to(name, high)


def _shape(x, y, wide: float, high: float, corners: float = 1.5) -> tuple:
    """An octagon: `corners` is 2 for a rectangle, less where corners are cut. `x` and `y` are functions of a shell."""
    out = [lambda s: wide - x(s), lambda s: wide + x(s), lambda s: high - y(s), lambda s: high + y(s)]
    for a in (-1, 1):
        for b in (-1, 1):
            out.append(lambda s, a=a, b=b: corners + a * x(s) / wide + b * y(s) / high)
    return tuple(out)


def _disc(along: float, up: float, radius: float, sides: int = 14) -> list:
    turns = 2 * np.pi * np.arange(sides) / sides
    return [
        lambda s, c=np.cos(t), d=np.sin(t): radius - (s['l'] - along) * c - (s['h'] - up) * d for t in turns
    ]


class _Builder:
    """Puts a vehicle together."""

    def __init__(self, vehicle: Vehicle):
        self.v, self.model, self.m = vehicle, vehicle.model, vehicle.model.shape
        self.rng = np.random.default_rng([vehicle.seed, 21])
        self.model_rng = np.random.default_rng([vehicle.model.seed, 22])
        self.materials = _Materials()
        add = self.materials.add
        self.paint, self.second = add(vehicle.paint, vehicle.gloss), add(vehicle.second, vehicle.gloss)
        self.black, self.rubber, self.dark = add(_BLACK, 0.3), add(_RUBBER), add(_DARK)
        self.chrome, self.trim = add(_CHROME, 0.8), add(vehicle.trim, 0.8 if vehicle.trim.max() > 0.3 else 0.3)
        self.glass, self.privacy = add(vehicle.glass, 0.5), add(vehicle.privacy, 0.5)
        self.seam = add(np.asarray(vehicle.paint) * 0.12)
        self.bumper = self.paint if vehicle.bumper is None else add(vehicle.bumper, 0.1)
        self.lens, self.bulb = add((0.33, 0.34, 0.35), 0.5), add((0.75, 0.75, 0.72), 0.5, HEADLAMP)
        self.red, self.amber = add(_RED, 0.42, TAILLAMP), add(_AMBER, 0.42)
        self.grey = add((0.16, 0.16, 0.165), 0.1)
        self.parts: list[tuple[Mesh, np.ndarray]] = []
        self.length = self.model.cab or self.m.length
        self.end = self.length - self.m.deck
        self.boxy = self.m.taper < 0.12
        self.shell = body_shell(self.model, self.paint)

    def part(self, mesh: Mesh, material) -> None:
        self.parts.append((mesh, np.broadcast_to(material, len(mesh.faces))))

    def sides(self, mesh: Mesh, material) -> None:
        """A part, and its mirror image on the other side."""
        self.part(mesh, material)
        other = Mesh(mesh.faces[:, ::-1], {'position': mesh.position * [-1, 1, 1]})
        self.part(other, material)

    # What is painted on the body

    def livery(self) -> None:
        v, s, m = self.v, self.shell, self.m
        if v.split == 'roof':
            s.paint(self.second, _from('upper', 0), lambda s: s['h'] - s['edge'] + 0.05, _from('l', m.bonnet + m.screen - 0.05),
                    _to('l', self.end - m.back + 0.05))  # fmt: skip
        elif v.split == 'below':
            s.paint(self.second, _to('h', m.cowl * float(self.model_rng.uniform(0.62, 0.95))))
        elif v.split == 'ends':
            s.paint(self.second, _to('l', m.bonnet + 0.15))
            s.paint(self.second, _from('l', self.end - 0.1))
        elif v.split == 'wave':
            start, lean = self.length * 0.35, self.model_rng.uniform(-1.2, 1.2) or 1.0
            for k in range(3):
                material = (self.second, self.materials.add(v.decals[0], v.gloss), self.second)[k]
                low = start + 0.22 * k * self.length
                s.paint(material, lambda s, low=low: s['l'] + lean * s['h'] - low,
                        lambda s, low=low: low + 0.12 * self.length - s['l'] - lean * s['h'])  # fmt: skip
        elif v.split == 'stripes':
            line = m.cowl * float(self.model_rng.uniform(0.5, 0.85))
            for low, wide in ((line, 0.16), (line - 0.12, 0.06)):
                s.paint(self.second, *_between('h', low, low + wide * m.height / 2), _from('l', 0.2), _to('l', self.length - 0.1))
        if v.bumper is not None:
            s.paint(self.bumper, _to('h', m.clearance + 0.2))
            line = m.clearance + 0.42 * (m.nose - m.clearance) + 0.12
            s.paint(self.bumper, _to('h', line), _to('l', 0.5))
            s.paint(self.bumper, _to('h', line), _from('l', self.length - 0.5))
        if v.decal == 'stripe':
            ink = self.materials.add(v.decals[0], v.gloss)
            if self.boxy:
                s.paint(ink, *_between('h', m.cowl * 0.55, m.cowl * 0.62))
            else:
                for at in (0.16, 0.3):  # along the bonnet and the roof
                    s.paint(ink, *_between('w', at, at + 0.1), _from('upper', 0))
        if v.odd and v.odd[0] == 'bonnet' and not self.boxy:
            s.paint(self.materials.add(v.odd[1], v.gloss), *_between('l', 0.15, m.bonnet - 0.03), _from('upper', 0), _to('w', 0.62))

    def windows(self) -> None:
        v, s, m, model = self.v, self.shell, self.m, self.model
        bus = model.body == 'bus'
        roof = m.bonnet + m.screen
        front = [_from('l', 0.9 if bus else m.bonnet + 0.2)]
        last = self.length - 0.25 if self.boxy else self.end - (0.1 if m.deck > 0.2 else 0.28)
        if model.body == 'pickup':
            last = self.end - 0.12
        if model.cab:
            last = self.length - 0.35
        door = min(roof + (0.62 if not self.boxy else 0.55), last)
        if model.windows > 1:
            rest = np.linspace(door, last, model.windows + (0 if bus else 0))
            ends = [door, *rest[1:]] if not bus else list(np.linspace(0.9, last, model.windows + 1)[1:])
        else:
            ends = [min(door, last)]
        lean = model.pillar
        side = (lambda s: s['h'] - s['belt'] - 0.03, lambda s: s['edge'] - 0.075 - s['h'], lambda s: s['w'] - s['rail'] + 0.03)
        until = lambda end, bent: (lambda s: end - s['l'] - bent * (s['h'] - s['belt']))  # noqa: E731
        since = lambda start, bent: (lambda s: s['l'] + bent * (s['h'] - s['belt']) - start)  # noqa: E731
        if bus:
            high = m.height - 0.42
            side = (_from('h', m.cowl + 0.05), _to('h', high), _from('upper', -2), lambda s: s['w'] - 0.85 * m.width / 2)
            side = tuple(f for k, f in enumerate(side) if k != 2)
        # The frame, then each pane.
        wider = (lambda s: s['h'] - s['belt'] - 0.005, lambda s: s['edge'] - 0.05 - s['h'], side[-1]) if not bus else side
        framed = self.trim if not bus else self.black
        s.paint(framed, *wider, *front, until(ends[-1] + 0.03, lean))
        s.paint(self.black, *side, *front, until(ends[-1], lean))
        low = 0.9 if bus else m.bonnet + 0.24
        for k, end in enumerate(ends):
            bent = lean if k == len(ends) - 1 else 0.0
            glass = self.glass if k == 0 else self.privacy
            s.paint(glass, *side, since(low, 0.0), until(end - 0.035, bent), over=(self.black,))
            low = end + 0.035
        if model.windows == 1 and self.rng.random() < 0.25 and model.body == 'van':
            s.paint(self.privacy, *side, since(door + 0.15, 0), until(door + 1.15, 0))
        # Front and back.
        lag = lambda s: s['l'] - s['lag']  # noqa: E731
        wide = lambda gap: (lambda s: s['rail'] - gap - s['w'])  # noqa: E731
        head = [_to('h', m.height - 0.5), _to('l', 0.6)] if bus else [lambda s: roof - 0.04 - lag(s)]
        screen = [_from('h', m.cowl + 0.02), *head, _to('l', roof + 0.3)]
        s.paint(self.black, *screen, wide(0.02 if self.boxy else 0.045))
        inner = [_from('h', m.cowl + 0.07), *(head[:1] if bus else [lambda s: roof - 0.08 - lag(s)]), *head[1:], _to('l', roof + 0.3)]
        s.paint(self.glass, *inner, wide(0.07 if self.boxy else 0.085), over=(self.black,))
        if bus:
            s.paint(self.black, *_between('h', m.height - 0.46, m.height - 0.16), _to('l', 0.5), _to('w', 0.8))
            orange = self.materials.add((1.2, 0.5, 0.05))
            for k in range(int(self.rng.integers(3, 8))):
                x = -0.55 + 0.15 * k
                s.paint(orange, *_between('x', x, x + self.rng.uniform(0.05, 0.12)), *_between('h', m.height - 0.4, m.height - 0.24), _to('l', 0.5))
        if model.body in ('box truck', 'flatbed'):
            return
        rear = [_from('h', m.tail + (0.25 if bus else 0.07)), _to('h', m.height - (0.45 if bus else 0.15)), _from('l', self.length - 0.35)]
        if not self.boxy:
            rear[2] = _from('l', self.end - m.back - 0.05)
            rear[1] = lambda s: lag(s) - (self.end - m.back + 0.05)
        if model.body == 'van' and self.rng.random() < 0.4:
            return
        s.paint(self.black, *rear, _from('l', 0.6 * self.length), wide(0.06))
        s.paint(self.privacy, _from('h', m.tail + (0.3 if bus else 0.1)), *rear[1:], _from('l', 0.6 * self.length), wide(0.1), over=(self.black,))

    def seams(self) -> None:
        """Gaps between doors, lids and bumpers; handles."""
        v, s, m, model = self.v, self.shell, self.m, self.model
        if model.body == 'bus':
            for start in (0.35, self.length * 0.52):  # doors, on the right
                door = [*_between('l', start, start + 1.15), *_between('h', m.clearance + 0.1, m.height - 0.5), _to('x', -0.6 * m.width / 2)]
                s.paint(self.black, *door)
                for k in (0.06, 0.62):
                    s.paint(self.glass, *_between('l', start + k, start + k + 0.48), *door[2:3], _to('h', m.height - 0.58), door[4], _from('h', m.clearance + 0.3))
            for start in np.arange(1.2, self.length - 1, 1.6):
                self._gap(start, m.clearance, m.cowl - 0.2)
            return
        roof = m.bonnet + m.screen
        rear = roof + (0.62 if not self.boxy else 0.55)
        starts = [min(m.bonnet + 0.12, roof - 0.2), rear]
        if model.windows > 1 and model.body not in ('pickup', 'microvan') or (self.boxy and not model.cab):
            starts.append(rear + (0.85 if not self.boxy else 1.05))
        if model.cab:
            starts = [max(m.bonnet + 0.35, 0.4), self.length - 0.3]
        self.doors = starts
        if v.odd and v.odd[0] == 'door':
            k = self.rng.integers(len(starts) - 1)
            sign = (_from, _to)[self.rng.integers(2)]
            s.paint(self.materials.add(v.odd[1], v.gloss), *_between('l', starts[k], starts[k + 1]), sign('x', 0.0),
                    *_between('h', m.clearance + 0.14, m.cowl - 0.03), over=(self.paint, self.second))  # fmt: skip
        for start in starts:
            self._gap(start, m.clearance + 0.13, None)
        if not self.boxy:
            s.paint(self.seam, *_between('h', m.clearance + 0.115, m.clearance + 0.135), *_between('l', starts[0], starts[-1]), lambda s: s['w'] - 0.6)
            gap = [_from('upper', 0), lambda s: 0.9 * s['rail'] - s['w']]
            s.paint(self.seam, *gap, *_between('l', m.bonnet - 0.02, m.bonnet + 0.005), over=(self.paint, self.second))
            s.paint(self.seam, *_between('w', 0.7 * m.width / 2, 0.7 * m.width / 2 + 0.016), _from('upper', 0), *_between('l', 0.3, m.bonnet), over=(self.paint, self.second))
        else:
            if model.body in ('van', 'minibus', 'microvan'):  # the rail of a sliding door
                s.paint(self.seam, *_between('h', m.cowl - 0.18, m.cowl - 0.155), *_between('l', starts[-1], self.length - 0.5), lambda s: s['w'] - 0.6)
            if model.body == 'van' and m.back < 0.2:  # two doors at the back
                s.paint(self.seam, _to('w', 0.012), _from('l', self.length - 0.4), _from('h', 0.5))
        s.paint(self.seam, *_between('h', m.tail - 0.42, m.tail - 0.405), _from('l', self.length - 0.35), _to('w', 0.62 * m.width / 2))
        handle = self.materials.add(v.handle, 0.8 if v.handle.min() > 0.5 else 0.3)
        for end in starts[1:]:
            up = m.cowl - 0.13
            at = end - 0.16
            grip = ellipsoid([side_at(self.shell, at, up) + 0.008, at, up], [0.022, 0.085, 0.016], 0.6, 8)
            self.sides(grip, handle)

    def _gap(self, along: float, low: float, high: float | None) -> None:
        up = (lambda s: s['belt'] - s['h']) if high is None else _to('h', high)
        self.shell.paint(self.seam, *_between('l', along - 0.009, along + 0.009), _from('h', low), up,
                         lambda s: s['w'] - 0.6 * self.m.width / 2, over=(self.paint, self.second))  # fmt: skip

    def front(self) -> None:
        v, s, m, model = self.v, self.shell, self.m, self.model
        near, half = _to('l', 0.25 if self.boxy else 0.6), m.width / 2
        large = model.cab or model.body == 'bus'
        wide, high, lean, corners = model.lamp
        up = m.clearance + 0.3 if large else m.nose - 0.09 - high * 0.7
        if model.body in ('van', 'minibus'):
            up = m.nose - 0.16
        out = half * (0.93 if large else 0.95) - wide * 0.9
        a, b, bars = model.grille[0], model.grille[1], int(model.grille[3])
        grille_up = up + (0.0 if not large else 0.25)
        flat = lambda at, tilt=0.0: (lambda s: s['w'] - at), 0  # noqa: E731
        y = lambda at, tilt, middle: (lambda s: s['h'] - at - tilt * (s['w'] - middle))  # noqa: E731
        x = lambda at: (lambda s: s['w'] - at)  # noqa: E731
        a = min(a, out - wide - 0.03) if not large else a
        corner = 1.25 + 0.09 * min(model.grille[2], 8)
        across = lambda s: s['w']  # noqa: E731
        shape = _shape(across, y(grille_up, 0, 0), a, b, corner)
        s.paint(self.trim if self.v.trim.max() > 0.3 else self.black, near, *_shape(across, y(grille_up, 0, 0), a + 0.02, b + 0.02, corner))
        s.paint(self.dark, near, *shape)
        metal = self.chrome if v.trim.max() > 0.3 or bars > 4 else self.grey
        if bars > 0:
            for k in range(bars):
                at = grille_up - b + 2 * b * (k + 0.5) / bars
                s.paint(metal, near, *shape, *_between('h', at - 0.3 * b / bars, at + 0.3 * b / bars))
        for k in range(-bars):
            at = a * (k + 0.5) / -bars
            s.paint(metal, near, *shape, *_between('w', at - 0.25 * a / -bars, at + 0.25 * a / -bars))
        for material, size in ((self.black, 1.0), (self.lens, 0.86)):
            s.paint(material, near, *_shape(x(out), y(up, lean, out), wide * size, high * size, 1.2 + 0.12 * min(corners, 6)))
        bulb = out + wide * (-0.3 + 0.5 * (model.seed % 3) / 2)
        s.paint(self.bulb, near, *_shape(x(bulb), y(up, lean, out), min(wide, high) * 0.55, min(wide, high) * 0.5, 1.45))
        if model.seed % 2 and not large:
            s.paint(self.amber, near, *_between('w', out + wide * 0.55, out + wide * 0.8), *_shape(x(out), y(up, lean, out), wide * 0.9, high * 0.8, 1.6))
        low = m.clearance + 0.13 if not large else m.clearance + 0.1
        mouth = _shape(across, y(low, 0, 0), *model.mouth, 1.75)
        s.paint(self.dark, near, *mouth)
        fog = out - wide * 0.2
        if self.rng.random() < 0.6:
            s.paint(self.black, near, *_shape(x(fog), y(low + 0.02, 0, 0), 0.09, 0.05, 1.6))
            s.paint(self.lens, near, *_shape(x(fog), y(low + 0.02, 0, 0), 0.04, 0.035, 1.45))
        plate_up = (m.clearance + 0.26) if not large else m.clearance + 0.2
        self.plate(near, plate_up, y)
        badge = ellipsoid([0, self.face(0.0, grille_up + b + 0.035, front=True), grille_up + (b + 0.035 if model.seed % 3 else 0)], [0.05, 0.012, 0.042], 1.0, 10)
        self.part(badge, self.chrome)

    def face(self, across: float, up: float, front: bool) -> float:
        """Where the front or the rear of the body is along the vehicle."""
        s = self.shell
        near = (s['l'] < 0.8) if front else (s['l'] > self.length - 0.8)
        away = np.hypot(s['w'] - across, s['h'] - up) + np.where(near, 0, 9)
        best = np.argsort(away)[:3]
        return float(s['l'][best].min() if front else s['l'][best].max())

    def top(self, across: float, along: float) -> float:
        """How high the body is at a place."""
        s = self.shell
        near = np.hypot(s['w'] - across, s['l'] - along) < 0.12
        return float(s['h'][near].max())

    def plate(self, near, up: float, y) -> None:
        tall = self.model_rng.choice([0.055, 0.07])
        across = lambda s: s['w']  # noqa: E731
        self.shell.paint(self.black, near, *_shape(across, y(up, 0, 0), 0.25, tall + 0.015, 2.0))
        self.shell.paint(self.materials.add(self.v.plates, 0.15), near, *_shape(across, y(up, 0, 0), 0.235, tall, 1.9))

    def back(self) -> None:
        v, s, m, model = self.v, self.shell, self.m, self.model
        if model.cab:
            return
        near, half = _from('l', self.length - (0.2 if self.boxy else 0.38)), m.width / 2
        wide, high, lean, corners = model.tail_lamp
        bus = model.body == 'bus'
        y = lambda at, tilt, middle: (lambda s: s['h'] - at - tilt * (s['w'] - middle))  # noqa: E731
        x = lambda at: (lambda s: s['w'] - at)  # noqa: E731
        across = lambda s: s['w']  # noqa: E731
        up = m.tail - model.low - high * (0.55 if high > 0.12 else 1.2)
        if model.body in ('van', 'minibus', 'microvan', 'bus'):
            up = m.cowl - 0.25 if not bus else 0.95
        out = half * 0.99 - wide
        if model.band:
            s.paint(self.red, near, *_shape(across, y(up, 0, 0), out, 0.025, 1.9))
        elif model.seed % 5 == 0 and not self.boxy:
            s.paint(self.chrome, near, *_shape(across, y(up - high * 0.9, 0, 0), 0.4, 0.014, 1.9))
        corner = 1.25 + 0.1 * min(corners, 6)
        s.paint(self.black, near, *_shape(x(out), y(up, lean, out), wide * 1.06, high * 1.06, corner))
        lamp = _shape(x(out), y(up, lean, out), wide * 0.95, high * 0.95, corner)
        s.paint(self.red, near, *lamp)
        inner = (self.lens, self.amber)[model.seed % 2]
        if high > wide:
            s.paint(inner, near, *lamp, _from('h', up - high * 0.35), _to('h', up + high * (0.0 if model.seed % 4 else 0.25)))
        else:
            s.paint(inner, near, *lamp, _from('w', out - wide * 0.6), _to('w', out - wide * 0.1))
        plate = m.clearance + 0.3 + model.plate * max(m.tail - 0.55 - m.clearance, 0.05) if not bus else 0.75
        if plate > 0.55 and not bus:
            s.paint(self.black, near, *_shape(across, y(plate, 0, 0), 0.32, 0.1, 1.8))
        self.plate(near, plate, y)
        if not bus:
            s.paint(self.seam, near, *_between('h', m.clearance + 0.3, m.clearance + 0.315))
            s.paint(self.black, near, *_shape(across, y(m.clearance + 0.08, 0, 0), half * 0.7, 0.07, 1.8))
            at = plate + 0.17
            self.part(ellipsoid([0, self.face(0.0, at, front=False), at], [0.045, 0.012, 0.04], 1.0, 10), self.chrome)
            for k in range(self.rng.integers(0, 3)):  # the model's name
                a = 0.35 + 0.09 * k
                s.paint(self.chrome, near, *_between('x', a, a + 0.06), *_between('h', plate + 0.14, plate + 0.165))
        for what, a, b, size, colour in v.stickers:
            material = self.materials.add(colour, 0.1)
            if what == 'back':
                place = (_from('l', self.end - m.back - 0.05), _aside(a * 0.55), y((m.tail + m.height) / 2 + 0.2 * b, 0, 0))
                s.paint(material, place[0], *_shape(place[1], place[2], size / 2, size / 3, 1.7), over=(self.privacy,))
            elif what == 'boot':
                s.paint(material, near, *_shape(_aside(a * 0.6), y(m.tail - 0.3 + 0.15 * b, 0, 0), size / 2, size / 4, 1.7), over=(self.paint, self.second))

    def behind_glass(self) -> None:
        s, m = self.shell, self.m
        top = m.height - (0.55 if self.model.body == 'bus' else 0.14)
        for what, a, b, size, colour in self.v.stickers:
            if what == 'front':
                up = (m.cowl + 0.1 + top) / 2 + b * (top - m.cowl - 0.2) / 2
                high = size / 2 if size < 0.3 else 0.05
                s.paint(self.materials.add(colour, 0.3), *_shape(_aside(a * (0.5 * m.width - 0.25)), lambda s, up=up: s['h'] - up, size / 2, high, 1.9),
                        _to('l', m.bonnet + m.screen + 0.2), over=(self.glass,))  # fmt: skip

    def arches(self) -> None:
        m, s = self.m, self.shell
        for along in self.axles():
            if along > self.length:
                continue
            radius = m.wheel * 1.14
            outer = lambda s: s['w'] - 0.55 * m.width / 2  # noqa: E731
            if self.v.bumper is not None and not self.boxy:
                s.paint(self.bumper, *_disc(along, m.wheel, radius + 0.06), outer)
            s.paint(self.dark, *_disc(along, m.wheel, radius), outer)

    def axles(self) -> list[float]:
        m = self.m
        return [min(m.front, 0.55 * self.model.cab or 99), m.length - m.rear]

    # What is fixed to it

    def wheels(self) -> None:
        v, m = self.v, self.m
        rim = self.materials.add(v.rim, 0.62 if v.hub != 'steel' else 0.2)
        dark = self.materials.add((0.02, 0.02, 0.021))
        wide = 0.2 if self.m.wheel < 0.4 else 0.28
        mesh, material = _wheel(v, m.wheel, wide, self.rubber, rim, dark)
        for number, along in enumerate(self.axles()):
            out = side_at(self.shell, along, m.wheel + 0.1) if along < self.length else m.width / 2
            out = out - 0.01
            moved = Mesh(mesh.faces, {'position': mesh.position + [out, along, m.wheel]})
            self.sides(moved, material)
            if number and (self.model.cab or self.model.body == 'bus'):
                moved = Mesh(mesh.faces, {'position': mesh.position + [out - wide - 0.03, along, m.wheel]})
                self.sides(moved, material)

    def mirrors(self) -> None:
        v, m = self.v, self.m
        material = self.materials.add(v.mirror, 0.8 if v.mirror.min() > 0.5 else v.gloss)
        tall = 0.075 if not self.boxy else 0.14
        if self.model.cab or self.model.body == 'bus':
            at, up, out = 0.05, m.cowl + 0.45, m.width / 2 + 0.16
            self.sides(_block([m.width / 2 + 0.06, at + 0.1, up + 0.2], [0.24, 0.03, 0.03]), self.black)
            self.sides(ellipsoid([out, at, up], [0.1, 0.05, 0.2], 0.4, 12), material)
            return
        at, up = m.bonnet + 0.36, m.cowl + 0.06 + tall
        out = side_at(self.shell, at, m.cowl) + 0.05
        self.sides(ellipsoid([out, at, up], [0.1, 0.06, tall], 0.55, 12), material)
        self.sides(_block([out - 0.06, at + 0.01, m.cowl + 0.05], [0.16, 0.05, 0.04]), self.black)

    def roof(self) -> None:
        v, m, s = self.v, self.m, self.shell
        start, end = m.bonnet + m.screen, self.end - m.back
        if self.model.cab:
            if self.rng.random() < 0.4:
                self.part(ellipsoid([0, self.length - 0.4, m.height + 0.1], [0.7, 0.45, 0.3], 0.6, 16), self.paint)
            return
        if v.roof in ('sunroof', 'glass'):
            stop = start + 0.75 if v.roof == 'sunroof' else end - 0.1
            s.paint(self.glass, _from('upper', 0), *_between('l', start + 0.12, stop), _to('w', 0.36 if v.roof == 'sunroof' else 0.48))
        elif v.roof == 'vents':
            for at in np.linspace(start + 0.6, end - 0.8, 2 if m.length < 7 else 3):
                self.part(ellipsoid([0, at, m.height + 0.04], [0.5, 0.7 if m.length > 7 else 0.4, 0.14], 0.4, 14), self.grey if self.rng.random() < 0.3 else self.paint)
        rail = m.width / 2 - 0.14 - m.taper * (m.height - m.cowl)
        up = self.top(rail, (start + end) / 2)
        rack, black = v.rack, self.black
        if rack in ('rails', 'bars', 'box', 'boards', 'ladder', 'basket'):
            metal = self.chrome if v.trim.max() > 0.3 else black
            if rack in ('rails', 'box', 'boards', 'basket'):
                self.sides(_block([rail - 0.03, (start + end) / 2 + 0.1, up + 0.02], [0.035, end - start - 0.45, 0.1]), metal)
            if rack in ('bars', 'box', 'boards', 'basket', 'ladder'):
                for at in np.linspace(start + 0.45, end - 0.4, 2 if m.length < 5 else 4):
                    self.part(_block([0, at, up + 0.09], [2 * rail, 0.05, 0.03]), black)
            if rack == 'box':
                colour = self.materials.add(0.5 if self.rng.random() < 0.4 else 0.02, 0.35)
                side = self.rng.choice([-0.2, 0, 0.2])
                self.part(ellipsoid([side, (start + end) / 2, up + 0.27], [0.38, 0.85, 0.17], 0.5, 20), colour)
            elif rack == 'boards':
                colour = self.materials.add(self.rng.uniform(0.05, 0.6, 3), 0.3)
                self.part(ellipsoid([0.1, (start + end) / 2, up + 0.15], [0.28, 1.1, 0.05], 0.8, 18), colour)
            elif rack == 'ladder':
                wood = self.materials.add((0.45, 0.42, 0.4))
                for side in (-0.05, 0.3):
                    self.part(_block([side, (start + end) / 2, up + 0.14], [0.04, end - start, 0.06]), wood)
                for at in np.arange(start + 0.2, end - 0.2, 0.35):
                    self.part(_block([0.125, at, up + 0.14], [0.35, 0.04, 0.03]), wood)
            elif rack == 'basket':
                load = self.materials.add(self.rng.uniform(0.03, 0.4, 3))
                for _ in range(self.rng.integers(1, 4)):
                    at = [self.rng.uniform(-0.3, 0.3), self.rng.uniform(start + 0.6, end - 0.6), up + 0.22]
                    self.part(_block(at, self.rng.uniform([0.3, 0.4, 0.15], [0.7, 1.0, 0.3])), load)
        if v.sign:
            sign = self.materials.add((0.75, 0.7, 0.5) if v.seed % 2 else (0.7, 0.4, 0.05), 0.2)
            self.part(_block([0, start + 0.45, m.height + 0.09], [0.55, 0.16, 0.14]), sign)
            self.part(_block([0, start + 0.364, m.height + 0.09], [0.36, 0.01, 0.07]), self.black)
        elif self.rng.random() < 0.5 and not self.boxy:
            self.part(ellipsoid([0, end - 0.15, self.top(0.0, end - 0.15)], [0.025, 0.1, 0.06], 1.0, 10), self.paint)
        if v.spoiler and not self.boxy and self.model.body != 'pickup':
            if m.deck > 0.2:
                self.part(ellipsoid([0, self.length - 0.16, m.tail + 0.09], [m.width * 0.36, 0.1, 0.022], 0.5, 16), self.paint)
                self.sides(_block([m.width * 0.27, self.length - 0.17, m.tail + 0.04], [0.03, 0.08, 0.1]), self.paint)
            else:
                at = self.end - m.back
                self.part(ellipsoid([0, at + 0.06, self.top(0.2, at) - 0.01], [rail * 0.95, 0.16, 0.03], 0.5, 16), self.paint)
        if self.model.body == 'suv' and self.model_rng.random() < 0.15:
            mesh, material = _wheel(v, m.wheel * 0.97, 0.2, self.rubber, self.grey, self.dark)
            turned = mesh.position[:, [1, 0, 2]] * [1, 1, 1]
            self.part(Mesh(mesh.faces[:, ::-1], {'position': turned + [0, self.length + 0.14, m.tail - 0.32]}), material)

    def cargo(self) -> None:
        """What is behind a truck's cab, and the load of a pickup."""
        v, m, model = self.v, self.m, self.model
        add, half = self.materials.add, m.width / 2
        if model.body == 'pickup':
            if v.load == 'sheet':  # a cover
                self.part(_block([0, (self.end + self.length) / 2, m.tail + 0.01], [2 * half - 0.2, m.deck - 0.1, 0.05]), self.black)
            elif v.load == 'boxes':
                self._boxes(self.end + 0.2, self.length - 0.2, m.clearance + 0.47, half - 0.25)
            return
        if not model.cab:
            return
        start, end, floor = model.cab + 0.12, m.length, m.clearance + 0.52
        self.part(_block([0, (start + end) / 2 - 0.3, floor - 0.2], [0.9, end - start + 0.5, 0.22]), self.dark)
        self.part(_block([0, end - 0.05, m.clearance + 0.2], [2 * half - 0.2, 0.1, 0.12]), self.black)
        for at in (start + 0.5, (start + end) / 2):
            self.sides(_block([half - 0.2, at, m.clearance + 0.25], [0.3, 0.55, 0.32]), self.grey)
        self.sides(_block([half - 0.3, end - 0.02, m.clearance + 0.32], [0.22, 0.05, 0.1]), self.red)
        self.part(_block([0, end, m.clearance + 0.36], [0.48, 0.03, 0.13]), add(v.plates, 0.15))
        paint = add(v.cargo, 0.12)
        if model.body == 'box truck':
            high = m.height + v.height - floor
            self.panel(_block([0, (start + end) / 2, floor + high / 2], [m.width + 0.12, end - start, high]), paint, start, end, floor, high)
            if v.height > 0.6 and v.seed % 2:
                self.part(_block([0, start - 0.25, m.height + v.height - 0.35], [1.1, 0.4, 0.45]), self.grey)
            return
        tall = 0.25 + 0.4 * v.height
        for x, y, wide, long in ((half, (start + end) / 2, 0.06, end - start), (-half, (start + end) / 2, 0.06, end - start),
                                 (0, start, 2 * half, 0.06), (0, end, 2 * half, 0.06)):  # fmt: skip
            self.part(_block([x, y, floor + tall / 2], [wide, long, tall]), paint)
        for at in np.arange(start + 0.4, end, 0.55):
            self.sides(_block([half + 0.04, at, floor + tall / 2], [0.04, 0.06, tall]), self.grey)
        self.part(_block([0, (start + end) / 2, floor + 0.03], [2 * half, end - start, 0.06]), self.grey)
        if v.load == 'sheet':
            cover = add(self.rng.uniform(0.03, 0.3) * self.rng.uniform(0.5, 1.3, 3))
            middle, deep = (start + end) / 2, 0.3 + 0.9 * v.height
            self.part(ellipsoid([0, middle, floor + tall + deep * 0.4], [half, (end - start) / 2, deep], 0.35, 24), cover)
        elif v.load == 'boxes':
            self._boxes(start + 0.3, end - 0.3, floor + 0.06, half - 0.25)

    def _boxes(self, start: float, end: float, floor: float, half: float) -> None:
        for _ in range(self.rng.integers(2, 9)):
            size = self.rng.uniform([0.3, 0.3, 0.3], [1.0, 1.0, 0.9])
            at = [self.rng.uniform(-half, half) * 0.7, self.rng.uniform(start, end), floor + size[2] / 2]
            self.part(_block(at, size), self.materials.add(self.rng.uniform(0.03, 0.5) * self.rng.uniform(0.5, 1.3, 3)))

    def panel(self, mesh: Mesh, paint: int, start: float, end: float, floor: float, high: float) -> None:
        """A truck's box: ribs or smooth sides, a frame, doors, lettering."""
        for _ in range(3):
            mesh = subdivide(mesh)
        position = mesh.position
        mesh.data |= {'normal': normals(position, mesh.faces), 'w': np.abs(position[:, 0]), 'x': position[:, 0]}
        mesh.data |= {'l': position[:, 1], 'h': position[:, 2]}
        shell = Shell(mesh, paint)
        v = self.v
        ribs, frame = self.materials.add(v.cargo * 0.62), self.materials.add(v.cargo * 0.45, 0.2)
        if v.seed % 3 == 0:
            for at in np.arange(start + 0.15, end - 0.1, 0.2):
                shell.paint(ribs, *_between('l', at, at + 0.05))
        for fields in ([_to('l', start + 0.06)], [_from('l', end - 0.05), _from('w', self.m.width / 2 - 0.01)], [_to('h', floor + 0.08)], [_from('h', floor + high - 0.07)]):
            shell.paint(frame, *fields)
        rear = _from('l', end - 0.01)
        shell.paint(self.dark, rear, _to('w', 0.015))
        for at in (0.3, 0.62):
            shell.paint(self.grey, rear, *_between('w', at, at + 0.04))
        self.letters(shell, start + 0.3, end - 0.3, floor + 0.35, floor + high - 0.3, paint)
        self.parts.append((shell.mesh, shell.material))

    def letters(self, shell: Shell, start: float, end: float, low: float, high: float, over: int) -> None:
        """Lettering, a disc or a poster on both sides, between two places along and two heights."""
        inks = [self.materials.add(c, 0.2) for c in self.v.decals]
        for side in (1, -1):
            rng = np.random.default_rng([int(self.v.decals[0, 0] * 1e6), 23])  # the same for all of a fleet
            self._letters(_Wall(shell, side, start, end, 0.8 * self.m.width / 2), rng, inks, low, high, (over, self.second, self.paint))

    def _letters(self, wall, rng, inks: list[int], low: float, high: float, over: tuple) -> None:
        decal, (one, two), start, end = self.v.decal, inks, 0.0, wall.long
        tall = high - low
        if decal == 'disc' or decal == 'letters' and rng.random() < 0.6:
            radius = min(0.42 * tall, 0.4)
            at, up = start + radius + 0.05, low + tall * rng.uniform(0.45, 0.6)
            wall.disc(one, at, up, radius, 10, over)
            wall.disc(two, at, up, radius * rng.uniform(0.4, 0.75), int(rng.integers(3, 7)), (one,))
            start = at + radius + 0.1
        if decal == 'poster':
            a, b = rng.uniform(0, 0.4) * end, rng.uniform(0.65, 1) * end
            wall.bar(one, a, b, low, high, over)
            for _ in range(4):
                at, up, size = rng.uniform(a, b), rng.uniform(low, high), rng.uniform(0.1, 0.5)
                wall.disc(two, at, up, size, int(rng.integers(3, 9)), (one,))
        if decal != 'letters':
            return
        size = min(tall * rng.uniform(0.25, 0.5), 0.6)
        for ink, line, scale in ((one, 0.62, 1.0), (two, 0.25, 0.5)):
            at, up, step = start, low + tall * line - size * scale / 2, size * scale * 0.72
            for _ in range(int(rng.integers(4, 11))):
                if at + step > end:
                    break
                _letter(wall, rng, ink, at, up, step * 0.8, size * scale, over)
                at += step * (1.0 if rng.random() < 0.85 else 1.8)

    def build(self) -> Mesh:
        self.livery()
        self.windows()
        self.behind_glass()
        if self.v.decal and not self.model.cab:
            m = self.m
            low = m.clearance + 0.25
            first = m.bonnet + m.screen - 0.25 if self.model.body in ('sedan', 'suv', 'hatchback', 'estate', 'mpv', 'pickup') else m.bonnet + m.screen + 0.7
            stop = first + 1.5 if not self.boxy else self.length - 0.4
            top = m.height - 0.25 if self.model.body == 'van' else m.cowl - 0.08
            self.letters(self.shell, first, stop, low if not self.boxy else max(low, 0.6), top, self.paint)
        self.seams()
        self.front()
        self.back()
        self.arches()
        self.wheels()
        self.mirrors()
        self.roof()
        self.cargo()
        self.parts.append((self.shell.mesh, self.shell.material))
        return self._finish()

    def _finish(self) -> Mesh:
        """One mesh: vertices of several materials become several."""
        meshes, materials = [], []
        for mesh, material in self.parts:
            data = {'position': mesh.position, 'normal': mesh.data.get('normal')}
            faces = mesh.faces
            if _volume(mesh) < 0:
                faces = faces[:, ::-1]
            if data['normal'] is None:
                data['normal'] = normals(mesh.position, faces)
            meshes.append(Mesh(faces, data))
            materials.append(material)
        whole, material = merge(meshes), np.concatenate(materials)
        codes, inverse = np.unique(whole.faces * len(self.materials) + material[:, None], return_inverse=True)
        vertex, kind = np.divmod(codes, len(self.materials))
        table = np.array(self.materials)
        position, colour, gloss = whole.position[vertex], table[kind, :3], table[kind, 3]
        dirt = value_noise(position + 5, 0.5, self.v.seed % 997) * 0.6 + 0.4 * value_noise(position + 5, 0.12, self.v.seed % 991)
        dirt = np.clip(self.v.dirt * (1.5 * np.clip(1.05 - position[:, 2] / 0.95, 0, 1) + 0.25) * (0.3 + 1.2 * dirt), 0, 0.85)[:, None]
        colour = colour + (np.array([0.13, 0.11, 0.085]) - colour) * dirt
        centre = [0, self.m.length / 2, 0]
        data = {'position': position - centre, 'normal': whole.data['normal'][vertex], 'colour': colour}
        data |= {'gloss': gloss * (1 - dirt[:, 0]), 'lamp': table[kind, 4]}
        return Mesh(inverse.reshape(-1, 3), {k: v.astype(np.float32) for k, v in data.items()})


class _Wall:
    """A side of a vehicle, to write on: places along it are from the left of who looks at it."""

    def __init__(self, shell: Shell, side: int, start: float, end: float, out: float):
        self.shell, self.side, self.first, self.long = shell, side, start if side > 0 else end, end - start
        self.wall = lambda s: side * s['x'] - out

    def bar(self, ink: int, start: float, end: float, low: float, high: float, over: tuple) -> None:
        along = sorted(self.first + self.side * at for at in (start, end))
        self.shell.paint(ink, self.wall, *_between('l', *along), *_between('h', low, high), over=over)

    def disc(self, ink: int, at: float, up: float, radius: float, sides: int, over: tuple) -> None:
        self.shell.paint(ink, self.wall, *_disc(self.first + self.side * at, up, radius, sides), over=over)


def _letter(wall: _Wall, rng, ink: int, at: float, up: float, wide: float, tall: float, over: tuple) -> None:
    """Strokes that read like a letter from afar."""
    stroke = 0.24 * wide
    wall.bar(ink, at, at + stroke, up, up + tall, over)
    if rng.random() < 0.6:
        wall.bar(ink, at + wide - stroke, at + wide, up, up + tall, over)
    for share in (0.0, 0.42, 0.84):
        if rng.random() < 0.55:
            wall.bar(ink, at, at + wide, up + share * tall, up + (share + 0.16) * tall, over)


def _block(centre, size) -> Mesh:
    """A box whose faces all look outwards."""
    mesh = box(centre, size)
    a, b, c = mesh.position[mesh.faces].swapaxes(0, 1)
    inwards = (np.cross(b - a, c - a) * (a - np.asarray(centre))).sum(1) < 0
    mesh.faces[inwards] = mesh.faces[inwards, ::-1]
    return mesh


def _aside(at: float):
    return lambda s: s['x'] - at


def _volume(mesh: Mesh) -> float:
    a, b, c = (mesh.position[mesh.faces[:, k]] - mesh.position.mean(0) for k in range(3))
    return float((a * np.cross(b, c)).sum())


def _wheel(v: Vehicle, radius: float, wide: float, rubber: int, rim: int, dark: int) -> tuple[Mesh, np.ndarray]:
    """A wheel about (0, 0, 0), its outer side at x = 0, and the materials of its faces."""
    spokes = {'many': 12, 'disc': 4, 'steel': 8, 'twin': 2 * v.spokes}.get(v.hub, v.spokes)
    segments = spokes * {'many': 3, 'disc': 8, 'steel': 4, 'twin': 4}.get(v.hub, 5)
    profile = [(0.3, -wide), (0.92, -wide), (1.0, -0.8 * wide), (1.0, -0.15 * wide), (0.93, 0), (0.7, 0.0), (0.66, -0.012)]
    profile += [(0.6, -0.03), (0.26, -0.015), (0.2, -0.008), (0.0, 0.0)]
    turn = 2 * np.pi * np.arange(segments) / segments
    rings = [np.stack([np.full(segments, x), r * radius * np.cos(turn), r * radius * np.sin(turn)], 1) for r, x in profile]
    mesh = loft(np.stack(rings))
    row = np.tile(np.repeat(np.arange(len(profile) - 1), segments), 2)
    step = np.tile(np.arange(segments), 2 * (len(profile) - 1)) % (segments // spokes)
    open_ = {'many': step > 0, 'disc': np.zeros(len(row), bool), 'steel': step == 0, 'twin': step % 4 > 1}.get(v.hub, step > 1)
    material = np.where(row < 5, rubber, rim)
    material[(row == 7) & open_] = dark
    return Mesh(mesh.faces, {'position': mesh.position}), material


def build_vehicle(vehicle: Vehicle) -> Mesh:
    """A vehicle on the ground about (0, 0, 0), facing -y, with `normal`, `colour`, `gloss` and `lamp` for each vertex."""
    return _Builder(vehicle).build()
