"""What a vehicle's body is painted with: colours, glass, lamps, seams, plates, lettering and stickers."""

import numpy as np

from .bodywork import Shell, above, below, between, body_shell, disc, octagon
from .meshes import Mesh, box, ellipsoid
from .vehicles import BOXY, Vehicle

__all__ = ['HEADLAMP', 'TAILLAMP', 'Job', 'block', 'letters', 'paint_body', 'plate']

#: Numbers of what may shine.
HEADLAMP, TAILLAMP = 1, 2


class Job:
    """A vehicle while it is put together: its materials, its body, and the other parts.

    Attributes:
        v: the vehicle; m: the measures of its model, whose cab alone counts as the body of a truck.
        rng, model_rng: for what differs between vehicles, or between models only.
        materials: colour [3], gloss (of a metal above 0.5) and lamp of each.
        parts: meshes, and the materials of their faces.
        length: of the body; end: where its boot's lid, or a pickup's bed, begins; roof: where its roof begins.
    """

    def __init__(self, vehicle: Vehicle):
        self.v, self.model, self.m = vehicle, vehicle.model, vehicle.model.shape
        self.rng = np.random.default_rng([vehicle.seed, 21])
        self.model_rng = np.random.default_rng([vehicle.model.seed, 22])
        self.materials: list[tuple[float, ...]] = []
        self.parts: list[tuple[Mesh, np.ndarray]] = []
        self.boxy, self.bus = self.model.body in BOXY, self.model.body == 'bus'
        self.length = self.model.cab or self.m.length
        self.end, self.roof = self.length - self.m.deck, self.m.bonnet + self.m.screen
        add, bright = self.add, vehicle.trim.max() > 0.3
        self.paint, self.second = add(vehicle.paint, vehicle.gloss), add(vehicle.second, vehicle.gloss)
        self.black, self.rubber, self.dark = add(0.012, 0.3), add(0.022), add(0.006)
        self.grey, self.chrome = add(0.16, 0.1), add((0.6, 0.61, 0.63), 0.8)
        self.trim, self.metal = add(vehicle.trim, 0.8 if bright else 0.3), self.chrome if bright else self.black
        self.glass, self.privacy = add(vehicle.glass, 0.5), add(vehicle.privacy, 0.5)
        self.seam = add(vehicle.paint * 0.12)
        self.bumper = self.paint if vehicle.bumper is None else add(vehicle.bumper, 0.1)
        self.lens, self.bulb = add(0.34, 0.5), add(0.74, 0.5, HEADLAMP)
        self.red, self.amber = add((0.26, 0.012, 0.014), 0.42, TAILLAMP), add((0.5, 0.17, 0.02), 0.42)
        self.painted = (self.paint, self.second)
        self.shell = body_shell(self.model, self.paint)

    def add(self, colour, gloss: float = 0.0, lamp: int = 0) -> int:
        self.materials.append((*np.broadcast_to(colour, 3), gloss, lamp))
        return len(self.materials) - 1

    def part(self, mesh: Mesh, material) -> None:
        self.parts.append((mesh, np.broadcast_to(material, len(mesh.faces))))

    def sides(self, mesh: Mesh, material) -> None:
        """A part, and its mirror image on the other side."""
        self.part(mesh, material)
        self.part(Mesh(mesh.faces[:, ::-1], {'position': mesh.position * [-1, 1, 1]}), material)

    def badge(self, up: float, front: bool) -> None:
        s = self.shell
        here = (s['w'] < 0.02) & ((s['l'] < 0.8) if front else (s['l'] > self.length - 0.8))
        at = float(s['l'][np.abs(s['h'] - up + 9 * ~here).argmin()])
        self.part(ellipsoid([0, at, up], [0.048, 0.012, 0.04], 1.0, 10), self.chrome)


def block(centre, size) -> Mesh:
    """A box whose faces all look outwards."""
    mesh = box(centre, size)
    a, b, c = mesh.position[mesh.faces].swapaxes(0, 1)
    inwards = (np.cross(b - a, c - a) * (a - np.asarray(centre))).sum(1) < 0
    mesh.faces[inwards] = mesh.faces[inwards, ::-1]
    return mesh


def _livery(job: Job) -> None:
    """Colours besides the first: of a fleet, of bumpers, of a panel that was painted anew."""
    v, m, paint, line = job.v, job.m, job.shell.paint, job.model_rng.uniform(0, 1, 2)
    if v.split == 'roof':
        along = between('l', job.roof - 0.05, job.end - m.back + 0.05)
        paint(job.second, above('upper', 0), lambda s: s['h'] - s['edge'] + 0.05, *along)
    elif v.split == 'below':
        paint(job.second, below('h', m.cowl * (0.62 + 0.33 * line[0])))
    elif v.split == 'ends':
        paint(job.second, below('l', m.bonnet + 0.15))
        paint(job.second, above('l', job.end - 0.1))
    elif v.split == 'wave':
        third, lean = job.add(v.decals[0], v.gloss), 2.4 * line[0] - 1.2
        for k, ink in enumerate((job.second, third, job.second)):
            low = job.length * (0.35 + 0.22 * k)
            high = low + 0.12 * job.length
            paint(ink, lambda s, a=low: s['l'] + lean * s['h'] - a, lambda s, b=high: b - s['l'] - lean * s['h'])
    elif v.split == 'stripes':
        low = m.cowl * (0.5 + 0.35 * line[0])
        for at, wide in ((low, 0.08), (low - 0.12, 0.03)):
            paint(job.second, *between('h', at, at + wide * m.height), *between('l', 0.2, job.length - 0.1))
    if v.bumper is not None:
        high = m.clearance + 0.42 * (m.nose - m.clearance) + 0.12
        for fields in ([below('h', m.clearance + 0.2)], [below('h', high), below('l', 0.5)]):
            paint(job.bumper, *fields)
        paint(job.bumper, below('h', high), above('l', job.length - 0.5))
    if v.decal == 'stripe' and job.boxy:
        paint(job.add(v.decals[0], v.gloss), *between('h', m.cowl * 0.55, m.cowl * 0.62))
    elif v.decal == 'stripe':  # along the bonnet and the roof
        for at in (0.16, 0.3):
            paint(job.add(v.decals[0], v.gloss), *between('w', at, at + 0.1), above('upper', 0))
    if v.odd and v.odd[0] == 'bonnet' and not job.boxy:
        paint(job.add(v.odd[1], v.gloss), *between('l', 0.15, m.bonnet - 0.03), above('upper', 0), below('w', 0.62))


def _side_windows(job: Job) -> None:
    m, model, paint, bus = job.m, job.model, job.shell.paint, job.bus
    last = job.length - 0.25 if job.boxy else job.end - (0.1 if m.deck > 0.2 else 0.28)
    if model.body == 'pickup':
        last = job.end - 0.12
    elif model.cab:
        last = job.length - 0.35
    door = min(job.roof + (0.55 if job.boxy else 0.62), last)
    first = 0.9 if bus else m.bonnet + 0.2
    ends = np.linspace(0.9, last, model.windows + 1)[1:] if bus else np.linspace(door, last, model.windows)
    side = (
        lambda s: s['w'] - s['rail'] + 0.03,
        lambda s: s['h'] - s['belt'] - 0.03,
        lambda s: s['edge'] - 0.075 - s['h'],
    )
    frame = (side[0], lambda s: s['h'] - s['belt'] - 0.005, lambda s: s['edge'] - 0.05 - s['h'])
    if bus:
        side = frame = (above('w', 0.425 * m.width), *between('h', m.cowl + 0.05, m.height - 0.42))

    def pane(start: float, end: float, lean: float = 0.0) -> tuple:
        return above('l', start), lambda s: end - s['l'] - lean * (s['h'] - s['belt'])

    paint(job.black if bus else job.trim, *frame, *pane(first, ends[-1] + 0.03, model.pillar))
    paint(job.black, *side, *pane(first, ends[-1], model.pillar))
    for k, end in enumerate(ends):
        start, lean = first + 0.04 if k == 0 else ends[k - 1] + 0.035, model.pillar * (k == len(ends) - 1)
        paint(job.privacy if k else job.glass, *side, *pane(start, end - 0.035, lean), over=(job.black,))
    if model.body == 'van' and job.rng.random() < 0.25:
        paint(job.privacy, *side, *pane(door + 0.15, door + 1.15))


def _screens(job: Job) -> None:
    """Windscreen and rear window, in black frames, and a bus's display."""
    m, model, paint, bus = job.m, job.model, job.shell.paint, job.bus
    lag = lambda s: s['l'] - s['lag']  # noqa: E731 - screens are bowed
    inside = lambda gap: lambda s: s['rail'] - gap - s['w']  # noqa: E731
    near, gap = below('l', 0.6 if bus else job.roof + 0.3), 0.0 if job.boxy else 0.02
    for material, low, high in ((job.black, 0.02, 0.04), (job.glass, 0.07, 0.08)):
        top = below('h', m.height - 0.5) if bus else lambda s, a=high: job.roof - a - lag(s)
        paint(material, near, above('h', m.cowl + low), top, inside(low + gap))
    if bus:
        paint(job.black, *between('h', m.height - 0.46, m.height - 0.16), below('l', 0.5), below('w', 0.8))
        ink = job.add((1.2, 0.5, 0.05))
        for at in -0.55 + 0.15 * np.arange(job.rng.integers(3, 8)):
            wide = job.rng.uniform(0.05, 0.12)
            paint(ink, *between('x', at, at + wide), *between('h', m.height - 0.4, m.height - 0.24), below('l', 0.5))
    if model.cab or model.body == 'van' and job.rng.random() < 0.4:
        return
    far, top = above('l', job.length - 0.35), below('h', m.height - (0.45 if bus else 0.15))
    if not job.boxy:
        far, top = above('l', job.end - m.back - 0.05), lambda s: lag(s) - (job.end - m.back + 0.05)
    for material, low in ((job.black, 0.06), (job.privacy, 0.1)):
        paint(material, far, above('l', 0.6 * job.length), above('h', m.tail + low + 0.2 * bus), top, inside(low))


def _stickers(job: Job) -> None:
    m, paint = job.m, job.shell.paint
    top = m.height - (0.55 if job.bus else 0.14)
    for where, a, b, size, colour in job.v.stickers:
        material = job.add(colour, 0.2)
        if where == 'front':
            up = (m.cowl + 0.1 + top) / 2 + b * (top - m.cowl - 0.2) / 2
            shape = octagon(a * (0.5 * m.width - 0.25), up, size / 2, min(size / 2, 0.1), 1.9, name='x')
            paint(material, *shape, below('l', job.roof + 0.2), over=(job.glass,))
        elif where == 'back' and not job.model.cab:
            shape = octagon(a * 0.55, (m.tail + m.height) / 2 + 0.2 * b, size / 2, size / 3, 1.7, name='x')
            paint(material, *shape, above('l', job.end - m.back - 0.05), over=(job.privacy,))
        elif not job.model.cab:
            shape = octagon(a * 0.6, m.tail - 0.3 + 0.15 * b, size / 2, size / 4, 1.7, name='x')
            paint(material, *shape, above('l', job.length - 0.38), over=job.painted)


def _seams(job: Job) -> None:
    """Gaps between doors, lids and bumpers; handles."""
    v, m, model, paint = job.v, job.m, job.model, job.shell.paint
    wall = above('w', 0.3 * m.width)

    def gap(along: float, low: float, *top) -> None:
        paint(job.seam, *between('l', along - 0.009, along + 0.009), above('h', low), wall, *top, over=job.painted)

    if job.bus:
        for start in (0.35, job.length * 0.52):  # doors, on the right
            door, right = between('h', m.clearance + 0.1, m.height - 0.5), below('x', -0.3 * m.width)
            paint(job.black, *between('l', start, start + 1.15), *door, right)
            for at in (start + 0.06, start + 0.62):
                wing = between('h', m.clearance + 0.3, m.height - 0.58)
                paint(job.glass, *between('l', at, at + 0.48), *wing, right)
        for start in np.arange(1.2, job.length - 1, 1.6):
            gap(start, m.clearance, below('h', m.cowl - 0.2))
        return
    rear = job.roof + (0.55 if job.boxy else 0.62)
    starts = [min(m.bonnet + 0.12, job.roof - 0.2), rear]
    if model.cab:
        starts = [max(m.bonnet + 0.35, 0.4), job.length - 0.3]
    elif model.body not in ('pickup', 'microvan'):
        starts.append(rear + (1.05 if job.boxy else 0.85))
    if v.odd and v.odd[0] == 'door':
        k, side = job.rng.integers(len(starts) - 1), (above, below)[job.rng.integers(2)]
        door = (*between('l', starts[k], starts[k + 1]), *between('h', m.clearance + 0.14, m.cowl - 0.03))
        paint(job.add(v.odd[1], v.gloss), *door, side('x', 0.0), over=job.painted)
    for start in starts:
        gap(start, m.clearance + 0.13, lambda s: s['belt'] - s['h'])
    if not job.boxy:
        paint(
            job.seam,
            *between('h', m.clearance + 0.115, m.clearance + 0.135),
            *between('l', starts[0], starts[-1]),
            wall,
        )
        lid, top = (lambda s: 0.9 * s['rail'] - s['w']), above('upper', 0)
        paint(job.seam, top, lid, *between('l', m.bonnet - 0.02, m.bonnet + 0.005), over=job.painted)
        edge = between('w', 0.35 * m.width, 0.35 * m.width + 0.016)
        paint(job.seam, top, *edge, *between('l', 0.3, m.bonnet), over=job.painted)
    elif not model.cab:  # the rail of a sliding door, and two doors at the back
        paint(job.seam, *between('h', m.cowl - 0.18, m.cowl - 0.155), *between('l', starts[-1], job.length - 0.5), wall)
        if model.body == 'van':
            paint(job.seam, below('w', 0.012), above('l', job.length - 0.4), above('h', 0.5))
    lid = between('h', m.tail - 0.42, m.tail - 0.405)
    paint(job.seam, *lid, above('l', job.length - 0.35), below('w', 0.31 * m.width))
    handle, up = job.add(v.handle, 0.8 if v.handle.min() > 0.5 else 0.3), m.cowl - 0.13
    for at in np.array(starts[1:]) - 0.16:
        out = job.shell.side_at(at, up) + 0.008
        job.sides(ellipsoid([out, at, up], [0.022, 0.085, 0.016], 0.6, 8), handle)


def _front(job: Job) -> None:
    m, model = job.m, job.model
    large, near = bool(model.cab or job.bus), below('l', 0.25 if job.boxy else 0.6)
    wide, high, lean, outline = model.lamp
    up = m.clearance + 0.3 if large else m.nose - (0.16 if job.boxy else 0.09 + 0.7 * high)
    out = m.width / 2 * (0.93 if large else 0.95) - wide * 0.9

    def paint(material: int, *fields) -> None:
        job.shell.paint(material, near, *fields)

    across, tall, outline_, bars = model.grille
    across, middle = across if large else min(across, out - wide - 0.03), up + 0.25 * large
    corners = 1.25 + 0.09 * min(outline_, 8)
    paint(job.metal, *octagon(0, middle, across + 0.02, tall + 0.02, corners))
    grille = octagon(0, middle, across, tall, corners)
    paint(job.dark, *grille)
    metal = job.chrome if job.metal == job.chrome or bars > 4 else job.grey
    for k in range(abs(int(bars))):
        share = (k + 0.5) / abs(bars)
        name, at, half = ('h', middle + tall * (2 * share - 1), tall) if bars > 0 else ('w', across * share, across)
        paint(metal, *grille, *between(name, at - 0.28 * half / abs(bars), at + 0.28 * half / abs(bars)))
    for material, size in ((job.black, 1.0), (job.lens, 0.86)):
        paint(material, *octagon(out, up, wide * size, high * size, 1.2 + 0.12 * min(outline, 6), lean))
    bulb = out + wide * (0.25 * (model.seed % 3) - 0.3)
    paint(job.bulb, *octagon(bulb, up + lean * (bulb - out), 0.55 * min(wide, high), 0.5 * min(wide, high), 1.45))
    if model.seed % 2 and not large:
        indicator = between('w', out + wide * 0.55, out + wide * 0.8)
        paint(job.amber, *indicator, *octagon(out, up, wide * 0.9, high * 0.8, 1.6, lean))
    low, fog = m.clearance + (0.1 if large else 0.13), out - wide * 0.2
    paint(job.dark, *octagon(0, low, *model.mouth, 1.75))
    if job.rng.random() < 0.6:
        paint(job.black, *octagon(fog, low + 0.02, 0.09, 0.05, 1.6))
        paint(job.lens, *octagon(fog, low + 0.02, 0.04, 0.035, 1.45))
    plate(job, near, m.clearance + (0.2 if large else 0.26))
    job.badge(middle + (tall + 0.035 if model.seed % 3 else 0), front=True)


def plate(job: Job, near, up: float) -> None:
    """A blank plate in its frame."""
    tall = (0.055, 0.07)[job.model.seed % 2]
    job.shell.paint(job.black, near, *octagon(0, up, 0.25, tall + 0.015, 2.0))
    job.shell.paint(job.add(job.v.plates, 0.15), near, *octagon(0, up, 0.235, tall, 1.9))


def _back(job: Job) -> None:
    m, model = job.m, job.model
    near, half = above('l', job.length - (0.2 if job.boxy else 0.38)), m.width / 2
    wide, high, lean, outline = model.tail_lamp

    def paint(material: int, *fields) -> None:
        job.shell.paint(material, near, *fields)

    up = m.tail - model.low - high * (0.55 if high > 0.12 else 1.2)
    if job.boxy:
        up = 0.95 if job.bus else m.cowl - 0.25
    out, corners = half * 0.99 - wide, 1.25 + 0.1 * min(outline, 6)
    if model.band:
        paint(job.red, *octagon(0, up, out, 0.025, 1.9))
    elif model.seed % 5 == 0 and not job.boxy:
        paint(job.chrome, *octagon(0, up - high * 0.9, 0.4, 0.014, 1.9))
    paint(job.black, *octagon(out, up, wide * 1.06, high * 1.06, corners, lean))
    lamp = octagon(out, up, wide * 0.95, high * 0.95, corners, lean)
    paint(job.red, *lamp)
    strip = between('w', out - wide * 0.6, out - wide * 0.1)
    if high > wide:
        strip = between('h', up - high * 0.35, up + high * (0.0 if model.seed % 4 else 0.25))
    paint((job.lens, job.amber)[model.seed % 2], *lamp, *strip)
    if job.bus:
        plate(job, near, 0.75)
        return
    number = m.clearance + 0.3 + model.plate * max(m.tail - 0.55 - m.clearance, 0.05)
    if number > 0.55:
        paint(job.black, *octagon(0, number, 0.32, 0.1, 1.8))
    plate(job, near, number)
    paint(job.seam, *between('h', m.clearance + 0.3, m.clearance + 0.315))
    paint(job.black, *octagon(0, m.clearance + 0.08, half * 0.7, 0.07, 1.8))
    job.badge(number + 0.17, front=False)
    for at in 0.35 + 0.09 * np.arange(job.rng.integers(0, 3)):  # the model's name
        paint(job.chrome, *between('x', at, at + 0.06), *between('h', number + 0.14, number + 0.165))


class _Wall:
    """A side of a vehicle, to write on: places along it are from the left of who looks at it."""

    def __init__(self, shell: Shell, side: int, start: float, end: float, out: float):
        self.shell, self.side, self.first, self.long = shell, side, start if side > 0 else end, end - start
        self.wall = lambda s: side * s['x'] - out

    def bar(self, ink: int, start: float, end: float, low: float, high: float, over: tuple) -> None:
        along = sorted(self.first + self.side * at for at in (start, end))
        self.shell.paint(ink, self.wall, *between('l', *along), *between('h', low, high), over=over)

    def disc(self, ink: int, at: float, up: float, radius: float, sides: int, over: tuple) -> None:
        self.shell.paint(ink, self.wall, *disc(self.first + self.side * at, up, radius, sides), over=over)


def letters(job: Job, shell: Shell, start: float, end: float, low: float, high: float, over: tuple) -> None:
    """Lettering, a disc or a poster on both sides of a shell, between two places along and two heights."""
    inks = [job.add(c, 0.2) for c in job.v.decals]
    for side in (1, -1):
        rng = np.random.default_rng([int(job.v.decals[0, 0] * 1e6), 23])  # the same for all of a fleet
        _write(_Wall(shell, side, start, end, 0.4 * job.m.width), rng, job.v.decal, *inks, low, high, over)


def _write(wall: _Wall, rng, decal: str, one: int, two: int, low: float, high: float, over: tuple) -> None:
    start, end, tall = 0.0, wall.long, high - low
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


def _letter(wall: _Wall, rng, ink: int, at: float, up: float, wide: float, tall: float, over: tuple) -> None:
    """Strokes that read like a letter from afar."""
    stroke = 0.24 * wide
    wall.bar(ink, at, at + stroke, up, up + tall, over)
    if rng.random() < 0.6:
        wall.bar(ink, at + wide - stroke, at + wide, up, up + tall, over)
    for share in (0.0, 0.42, 0.84):
        if rng.random() < 0.55:
            wall.bar(ink, at, at + wide, up + share * tall, up + (share + 0.16) * tall, over)


def paint_body(job: Job, axles: list[float]) -> None:
    """Paints the body of a vehicle whose wheels are at `axles` (metres from the front)."""
    m = job.m
    _livery(job)
    _side_windows(job)
    _screens(job)
    _stickers(job)
    if job.v.decal and not job.model.cab:
        start = job.roof + (0.7 if job.boxy else -0.25)
        end = job.length - 0.4 if job.boxy else start + 1.5
        low, high = m.clearance + 0.25, m.height - 0.25 if job.model.body == 'van' else m.cowl - 0.08
        letters(job, job.shell, start, end, max(low, 0.6) if job.boxy else low, high, job.painted)
    _seams(job)
    _front(job)
    if not job.model.cab:
        _back(job)
    for along in axles:
        outside, radius = above('w', 0.275 * m.width), m.wheel * 1.14
        if job.v.bumper is not None and not job.boxy:
            job.shell.paint(job.bumper, *disc(along, m.wheel, radius + 0.06), outside)
        job.shell.paint(job.dark, *disc(along, m.wheel, radius), outside)
