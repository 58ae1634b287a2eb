"""Vehicles as meshes: painted bodies on wheels, with mirrors, what is on the roof, loads and dirt."""

import numpy as np

from .bodywork import Shell, above, below, between
from .meshes import Mesh, ellipsoid, loft, merge, normals, subdivide
from .paintwork import Job, block, letters, paint_body
from .patterns import value_noise
from .vehicles import Vehicle

__all__ = ['build_vehicle']

_MUD = np.array([0.13, 0.11, 0.085])
#: For each style of hub: spokes (None: of the vehicle), segments for each of them, those that are open.
_HUBS = {'spokes': (None, 5, (2, 3, 4)), 'twin': (None, 8, (2, 3, 6, 7)), 'many': (12, 3, (1, 2)), 'disc': (4, 8, ())}
_HUBS |= {'steel': (8, 4, (0,))}
# Of a wheel, shares of its radius and of its width, from its inner side to its hub; the first ones are the tyre.
_PROFILE = np.array([(0.3, -1), (0.92, -1), (1, -0.8), (1, -0.15), (0.93, 0), (0.7, 0), (0.66, -0.06), (0.6, -0.15)])
_PROFILE = np.concatenate([_PROFILE, [(0.26, -0.07), (0.2, -0.04), (0, 0)]])
_TYRE, _SPOKES = 5, 7


def _wheel(job: Job, radius: float, wide: float) -> tuple[Mesh, np.ndarray]:
    """A wheel about (0, 0, 0), its outer side at x = 0, and the materials of its faces."""
    spokes, each, open_ = _HUBS[job.v.hub]
    count = (spokes or job.v.spokes) * each
    turn = 2 * np.pi * np.arange(count) / count
    r, x = (_PROFILE * [radius, wide]).T[..., None]
    mesh = loft(np.stack([x + 0 * turn, r * np.cos(turn), r * np.sin(turn)], 2))
    row, step = np.divmod(np.arange(count * (len(_PROFILE) - 1)), count)
    rim = job.add(job.v.rim, 0.2 if job.v.hub == 'steel' else 0.62)
    material = np.where(row < _TYRE, job.rubber, rim)
    material[(row == _SPOKES) & np.isin(step % each, open_)] = job.add(0.02)
    return Mesh(mesh.faces, {'position': mesh.position}), np.tile(material, 2)


def _wheels(job: Job, axles: list[float]) -> None:
    m, wide = job.m, 0.2 if job.m.wheel < 0.4 else 0.28
    mesh, material = _wheel(job, m.wheel, wide)
    for number, along in enumerate(axles):
        out = (job.shell.side_at(along, m.wheel + 0.1) if along < job.length else m.width / 2) - 0.01
        twin = number and (job.model.cab or job.bus)
        for inwards in (0, wide + 0.03) if twin else (0,):
            job.sides(Mesh(mesh.faces, {'position': mesh.position + [out - inwards, along, m.wheel]}), material)
    if job.model.body == 'suv' and job.model_rng.random() < 0.15:  # a spare one at the back
        turned = mesh.position[:, [1, 0, 2]] * 0.97 + [0, job.length + 0.14, m.tail - 0.32]
        job.part(Mesh(mesh.faces[:, ::-1], {'position': turned}), material)


def _mirrors(job: Job) -> None:
    v, m = job.v, job.m
    material = job.add(v.mirror, 0.8 if v.mirror.min() > 0.5 else v.gloss)
    if job.model.cab or job.bus:
        up, half = m.cowl + 0.45, m.width / 2
        job.sides(block([half + 0.06, 0.15, up + 0.2], [0.24, 0.03, 0.03]), job.black)
        job.sides(ellipsoid([half + 0.16, 0.05, up], [0.1, 0.05, 0.2], 0.4, 12), material)
        return
    at, tall = m.bonnet + 0.36, 0.14 if job.boxy else 0.075
    out = job.shell.side_at(at, m.cowl) + 0.05
    job.sides(ellipsoid([out, at, m.cowl + 0.06 + tall], [0.1, 0.06, tall], 0.55, 12), material)
    job.sides(block([out - 0.06, at + 0.01, m.cowl + 0.05], [0.16, 0.05, 0.04]), job.black)


def _roof(job: Job) -> None:
    v, m, top = job.v, job.m, job.shell.top_at
    start, end = job.roof, job.end - m.back
    if job.model.cab:
        if job.rng.random() < 0.4:  # leads the wind over the cargo
            job.part(ellipsoid([0, job.length - 0.4, m.height + 0.1], [0.7, 0.45, 0.3], 0.6, 16), job.paint)
        return
    if v.roof in ('sunroof', 'glass'):
        stop, half = (start + 0.75, 0.36) if v.roof == 'sunroof' else (end - 0.1, 0.48)
        job.shell.paint(job.glass, above('upper', 0), *between('l', start + 0.12, stop), below('w', half))
    elif v.roof == 'vents':
        for at in np.linspace(start + 0.6, end - 0.8, 2 if m.length < 7 else 3):
            size = [0.5, 0.4 if m.length < 7 else 0.7, 0.14]
            job.part(ellipsoid([0, at, m.height + 0.04], size, 0.4, 14), (job.grey, job.paint)[v.seed % 3 > 0])
    if v.rack:
        _rack(job, start, end)
    if v.sign:
        job.part(block([0, start + 0.45, m.height + 0.09], [0.55, 0.16, 0.14]), job.add(v.decals[1] * 0.5 + 0.4, 0.2))
        job.part(block([0, start + 0.364, m.height + 0.09], [0.36, 0.01, 0.07]), job.black)
    elif job.rng.random() < 0.5 and not job.boxy:  # an antenna
        job.part(ellipsoid([0, end - 0.15, top(0.0, end - 0.15)], [0.025, 0.1, 0.06], 1.0, 10), job.paint)
    if v.spoiler and not job.boxy and job.model.body != 'pickup':
        if m.deck > 0.2:
            at, wide = job.length - 0.16, m.width * 0.36
            job.part(ellipsoid([0, at, m.tail + 0.09], [wide, 0.1, 0.022], 0.5, 16), job.paint)
            job.sides(block([wide * 0.75, at, m.tail + 0.04], [0.03, 0.08, 0.1]), job.paint)
        else:
            job.part(ellipsoid([0, end + 0.06, top(0.2, end) - 0.01], [0.33 * m.width, 0.16, 0.03], 0.5, 16), job.paint)


def _rack(job: Job, start: float, end: float) -> None:
    m, rng, rack = job.m, job.rng, job.v.rack
    rail, middle = m.width / 2 - 0.14 - m.taper * (m.height - m.cowl), (start + end) / 2
    up = job.shell.top_at(rail, middle)
    if rack not in ('bars', 'ladder'):
        job.sides(block([rail - 0.03, middle + 0.1, up + 0.02], [0.035, end - start - 0.45, 0.1]), job.metal)
    if rack != 'rails':
        for at in np.linspace(start + 0.45, end - 0.4, 2 if m.length < 5 else 4):
            job.part(block([0, at, up + 0.09], [2 * rail, 0.05, 0.03]), job.black)
    if rack == 'box':
        at = [rng.choice([-0.2, 0, 0.2]), middle, up + 0.27]
        job.part(ellipsoid(at, [0.38, 0.85, 0.17], 0.5, 20), job.add(0.5 if rng.random() < 0.4 else 0.02, 0.35))
    elif rack == 'boards':
        job.part(
            ellipsoid([0.1, middle, up + 0.15], [0.28, 1.1, 0.05], 0.8, 18), job.add(rng.uniform(0.05, 0.6, 3), 0.3)
        )
    elif rack == 'ladder':
        metal = job.add((0.45, 0.42, 0.4))
        for side in (-0.05, 0.3):
            job.part(block([side, middle, up + 0.14], [0.04, end - start, 0.06]), metal)
        for at in np.arange(start + 0.2, end - 0.2, 0.35):
            job.part(block([0.125, at, up + 0.14], [0.35, 0.04, 0.03]), metal)
    elif rack == 'basket':
        load = job.add(rng.uniform(0.03, 0.4, 3))
        for _ in range(rng.integers(1, 4)):
            at = [rng.uniform(-0.3, 0.3), rng.uniform(start + 0.6, end - 0.6), up + 0.22]
            job.part(block(at, rng.uniform([0.3, 0.4, 0.15], [0.7, 1.0, 0.3])), load)


def _boxes(job: Job, start: float, end: float, floor: float, half: float) -> None:
    for _ in range(job.rng.integers(2, 9)):
        size = job.rng.uniform([0.3, 0.3, 0.3], [1.0, 1.0, 0.9])
        at = [job.rng.uniform(-half, half) * 0.7, job.rng.uniform(start, end), floor + size[2] / 2]
        job.part(block(at, size), job.add(job.rng.uniform(0.03, 0.5) * job.rng.uniform(0.5, 1.3, 3)))


def _bed(job: Job) -> None:
    """The load of a pickup, or its cover."""
    m, half = job.m, job.m.width / 2
    if job.v.load == 'sheet':
        job.part(block([0, (job.end + job.length) / 2, m.tail + 0.01], [2 * half - 0.2, m.deck - 0.1, 0.05]), job.black)
    elif job.v.load == 'boxes':
        floor = max(m.clearance + 0.45, 2.16 * m.wheel) + 0.02
        _boxes(job, job.end + 0.2, job.length - 0.2, floor, half - 0.25)


def _chassis(job: Job) -> None:
    """What is behind a truck's cab."""
    v, m, half = job.v, job.m, job.m.width / 2
    start, end, floor = job.model.cab + 0.12, m.length, m.clearance + 0.52
    middle, long, paint = (start + end) / 2, end - start, job.add(v.cargo, 0.12)
    job.part(block([0, middle - 0.3, floor - 0.2], [0.9, long + 0.5, 0.22]), job.dark)
    job.part(block([0, end - 0.05, m.clearance + 0.2], [2 * half - 0.2, 0.1, 0.12]), job.black)
    for at in (start + 0.5, middle):
        job.sides(block([half - 0.2, at, m.clearance + 0.25], [0.3, 0.55, 0.32]), job.grey)
    job.sides(block([half - 0.3, end - 0.02, m.clearance + 0.32], [0.22, 0.05, 0.1]), job.red)
    job.part(block([0, end, m.clearance + 0.36], [0.48, 0.03, 0.13]), job.add(v.plates, 0.15))
    if job.model.body == 'box truck':
        _cargo_box(job, paint, start, end, floor)
        if v.height > 0.6 and v.seed % 2:  # it cools
            job.part(block([0, start - 0.25, m.height + v.height - 0.35], [1.1, 0.4, 0.45]), job.grey)
        return
    tall = 0.25 + 0.4 * v.height
    up = floor + tall / 2
    job.sides(block([half, middle, up], [0.06, long, tall]), paint)
    for at in (start, end):
        job.part(block([0, at, up], [2 * half, 0.06, tall]), paint)
    for at in np.arange(start + 0.4, end, 0.55):
        job.sides(block([half + 0.04, at, up], [0.04, 0.06, tall]), job.grey)
    job.part(block([0, middle, floor + 0.03], [2 * half, long, 0.06]), job.grey)
    if v.load == 'sheet':
        cover, deep = job.add(job.rng.uniform(0.03, 0.3) * job.rng.uniform(0.5, 1.3, 3)), 0.3 + 0.9 * v.height
        job.part(ellipsoid([0, middle, floor + tall + deep * 0.4], [half, long / 2, deep], 0.35, 24), cover)
    elif v.load == 'boxes':
        _boxes(job, start + 0.3, end - 0.3, floor + 0.06, half - 0.25)


def _cargo_box(job: Job, paint: int, start: float, end: float, floor: float) -> None:
    """A truck's box: ribbed or smooth, framed, with doors at the back, written on."""
    v, high = job.v, job.m.height + job.v.height - floor
    mesh = block([0, (start + end) / 2, floor + high / 2], [job.m.width + 0.12, end - start, high])
    for _ in range(3):  # dirt is of vertices
        mesh = subdivide(mesh)
    shell = Shell(Mesh(mesh.faces, mesh.data | {'normal': normals(mesh.position, mesh.faces)}), paint)
    if v.seed % 3 == 0:
        ribs = job.add(v.cargo * 0.62)
        for at in np.arange(start + 0.15, end - 0.1, 0.2):
            shell.paint(ribs, *between('l', at, at + 0.05))
    frame, rear = job.add(v.cargo * 0.45, 0.2), above('l', end - 0.01)
    for fields in ([below('l', start + 0.06)], [rear, above('w', job.m.width / 2 - 0.01)], [below('h', floor + 0.08)]):
        shell.paint(frame, *fields)
    shell.paint(frame, above('h', floor + high - 0.07))
    for at, wide, material in ((0, 0.015, job.dark), (0.3, 0.04, job.grey), (0.62, 0.04, job.grey)):
        shell.paint(material, rear, *between('w', at - 0.001, at + wide))
    letters(job, shell, start + 0.3, end - 0.3, floor + 0.35, floor + high - 0.3, (paint,))
    job.parts.append((shell.mesh, shell.material))


def _outwards(mesh: Mesh) -> Mesh:
    """The mesh with faces that look outwards, and with normals."""
    a, b, c = (mesh.position - mesh.position.mean(0))[mesh.faces].swapaxes(0, 1)
    faces = mesh.faces if (a * np.cross(b, c)).sum() > 0 else mesh.faces[:, ::-1]
    normal = mesh.data['normal'] if 'normal' in mesh.data else normals(mesh.position, faces)
    long = np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)  # cuts across edges shorten them
    return Mesh(faces, {'position': mesh.position, 'normal': normal / long})


def _assemble(job: Job) -> Mesh:
    """One mesh, in which vertices of several materials are several, and dirty."""
    whole, material = merge([_outwards(mesh) for mesh, _ in job.parts]), np.concatenate([m for _, m in job.parts])
    table = np.array(job.materials)
    codes, faces = np.unique(whole.faces * len(table) + material[:, None], return_inverse=True)
    vertex, kind = np.divmod(codes, len(table))
    position = whole.position[vertex]
    colour, gloss, lamp = table[kind, :3], table[kind, 3], table[kind, 4]
    spots = sum(share * value_noise(position + 5, cell, job.v.seed % 997) for share, cell in ((0.6, 0.5), (0.4, 0.12)))
    dirt = job.v.dirt * (1.5 * np.clip(1.05 - position[:, 2] / 0.95, 0, 1) + 0.25) * (0.3 + 1.2 * spots)
    dirt = np.clip(dirt, 0, 0.85)
    data = {'position': position - [0, job.m.length / 2, 0], 'normal': whole.data['normal'][vertex], 'lamp': lamp}
    data |= {'colour': colour + (_MUD - colour) * dirt[:, None], 'gloss': gloss * (1 - dirt)}
    return Mesh(faces.reshape(-1, 3), {k: v.astype(np.float32) for k, v in data.items()})


def build_vehicle(vehicle: Vehicle) -> Mesh:
    """A vehicle on the ground about (0, 0, 0), facing -y, with `normal`, `colour`, `gloss` and `lamp` of vertices."""
    job = Job(vehicle)
    front = min(job.m.front, 0.55 * job.model.cab or np.inf)
    axles = [front, job.m.length - job.m.rear]
    paint_body(job, [at for at in axles if at < job.length])
    _wheels(job, axles)
    _mirrors(job)
    _roof(job)
    if job.model.body == 'pickup':
        _bed(job)
    elif job.model.cab:
        _chassis(job)
    job.parts.append((job.shell.mesh, job.shell.material))
    return _assemble(job)
