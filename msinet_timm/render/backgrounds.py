"""What stands around: ground, walls and things of a camera's place, as triangle meshes and textures."""

import numpy as np

from .cameras import Camera
from .meshes import Mesh, box, ellipsoid, merge
from .patterns import value_noise

__all__ = ['coloured', 'ground', 'leaves', 'things', 'walls']

_ROADSIDE = 3.6  # metres from where vehicles drive to what stands behind


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(np.arange(height), np.arange(width), indexing='ij')


def _noise(height: int, width: int, cell: float, seed: int) -> np.ndarray:
    points = np.stack([g.ravel() for g in _grid(height, width)], 1).astype(float)
    return value_noise(points, cell, seed).reshape(height, width, 1)


def ground(camera: Camera, domain: str) -> np.ndarray:
    """A texture [256, 256, 3] of 4 m x 4 m of ground, linear reflectance."""
    rng = np.random.default_rng([camera.seed, 1])
    kinds = ('tiles', 'stone', 'boards') if domain == 'mall' else ('asphalt', 'paving', 'grass', 'asphalt', 'cobbles')
    if camera.road:
        kinds = ('stone', 'asphalt') if domain == 'mall' else ('asphalt', 'asphalt', 'asphalt', 'paving', 'cobbles')
    kind = rng.choice(kinds)
    base = {
        'tiles': (0.55, 0.52, 0.47), 'stone': (0.3, 0.27, 0.24), 'boards': (0.3, 0.18, 0.09),
        'asphalt': (0.13, 0.13, 0.135), 'paving': (0.34, 0.32, 0.29),
        'grass': (0.1, 0.125, 0.05), 'cobbles': (0.22, 0.2, 0.18),
    }[str(kind)]  # fmt: skip
    grain = 0.75 + 0.3 * _noise(256, 256, 40, camera.seed) + 0.3 * (_noise(256, 256, 3, camera.seed + 1) - 0.4)
    texture = np.array(base) * rng.uniform(0.7, 1.3) * grain
    rows, columns = _grid(256, 256)
    if kind in ('tiles', 'stone', 'paving', 'cobbles', 'boards'):
        step = {'tiles': 64, 'stone': 128, 'paving': 32, 'cobbles': 8, 'boards': 16}[str(kind)]
        joint = (rows % step < 2) | (
            (columns + (rows // step % 2) * step // 2) % (step * (4 if kind == 'boards' else 1)) < 2
        )
        texture = np.where(joint[..., None], texture * 0.6, texture)
        if kind == 'tiles' and rng.random() < 0.5:
            texture = np.where((((rows // step) + (columns // step)) % 2 == 0)[..., None], texture * 0.55, texture)
    return np.clip(texture, 0.01, 0.9)


def _facade(rng: np.random.Generator, shops: bool) -> np.ndarray:
    """A wall [192, 384, 3] with windows, or with shop fronts and signs; 6 m x 12 m."""
    wall = rng.choice([(0.4, 0.36, 0.3), (0.25, 0.11, 0.07), (0.5, 0.5, 0.48), (0.2, 0.2, 0.22), (0.45, 0.33, 0.2)])
    out = wall * (0.85 + 0.3 * _noise(192, 384, 25, int(rng.integers(1 << 30))))
    rows, columns = _grid(192, 384)
    if not shops:
        courses = (rows % 6 < 1) | ((columns + (rows // 6 % 2) * 6) % 12 < 1)
        out = np.where(courses[..., None], out * 0.8, out)
    left = 0
    while left < 384:
        width = int(rng.integers(40, 90))
        high, low = (rng.integers(50, 80), 185) if shops else (rng.integers(20, 60), rng.integers(110, 150))
        glass = rng.uniform(0.02, 0.5) * rng.uniform(0.6, 1.2, 3) if shops else np.array([0.05, 0.07, 0.1])
        pane = out[high:low, left + 6 : left + width - 6]
        pane[:] = glass * (0.6 + 0.9 * _noise(pane.shape[0], max(pane.shape[1], 1), 14, int(rng.integers(1 << 30))))
        for _ in range(5 if shops else 1):  # goods in the window, curtains
            a, b = rng.integers(0, max(pane.shape[0] - 20, 1)), rng.integers(0, max(pane.shape[1] - 10, 1))
            pane[a : a + rng.integers(8, 50), b : b + rng.integers(4, 22)] = rng.uniform(0.02, 0.75, 3)
        if shops:
            out[high - 22 : high - 5, left + 4 : left + width - 4] = rng.uniform(0.02, 0.9, 3)
        left += width + int(rng.integers(4, 40))
    return np.clip(out, 0.01, 0.9)


def walls(camera: Camera, domain: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Textured walls: the texture and the corners [4, 3] of each (lower left, lower right, upper right, upper left)."""
    rng = np.random.default_rng([camera.seed, 2])
    depth = camera.far + rng.uniform(1.5, 4 if domain == 'mall' else 9) + (_ROADSIDE if camera.road else 0)
    slope, high = rng.uniform(-0.25, 0.25), rng.uniform(5, 7)
    out = []
    for k in range(-2, 3):
        if domain == 'street' and k != 0 and rng.random() < 0.3:
            continue
        x0, x1 = 12 * k - 6, 12 * k + 6
        corners = np.array([[x0, depth + slope * x0, 0], [x1, depth + slope * x1, 0]])
        corners = np.concatenate([corners, corners[::-1] + [0, 0, high]])
        out.append((_facade(rng, domain == 'mall' or rng.random() < 0.35), corners))
    return out


def coloured(mesh: Mesh, colour) -> Mesh:
    """The mesh with one colour [3] on all of its vertices, and nothing else but positions."""
    return Mesh(mesh.faces, {'position': mesh.position, 'colour': np.broadcast_to(colour, mesh.position.shape).copy()})


def leaves(rng: np.random.Generator, centre, radius: float, count: int) -> Mesh:
    """A bush or a crown: small leaves in a ball."""
    place = rng.normal(0, 1, (count, 3))
    place *= (radius * rng.random((count, 1)) ** 0.4) / np.linalg.norm(place, axis=1, keepdims=True)
    corners = place[:, None] + rng.normal(0, 0.045, (count, 3, 3)) + np.asarray(centre)
    green = np.array([0.05, 0.12, 0.025]) * rng.uniform(0.4, 1.7, (count, 1))
    faces = np.arange(3 * count).reshape(-1, 3)
    return Mesh(faces, {'position': corners.reshape(-1, 3), 'colour': np.repeat(green, 3, 0)})


def _car(rng: np.random.Generator, place: np.ndarray) -> Mesh:
    colour = rng.choice([(0.6, 0.6, 0.6), (0.03, 0.03, 0.03), (0.3, 0.02, 0.02), (0.05, 0.08, 0.25), (0.3, 0.3, 0.32)])
    parts = [
        coloured(ellipsoid(place + [0, 0, 0.6], [2.1, 0.85, 0.38], 0.4), colour),
        coloured(ellipsoid(place + [0.1, 0, 1.1], [1.15, 0.75, 0.38], 0.5), (0.03, 0.035, 0.04)),
    ]
    wheels = [ellipsoid(place + [x, y, 0.32], [0.32, 0.12, 0.32], 0.8) for x in (-1.3, 1.3) for y in (-0.8, 0.8)]
    return merge(parts + [coloured(w, 0.02) for w in wheels])


def _marks(camera: Camera, domain: str) -> list[Mesh]:
    """Lines on a road, along the way that most vehicles go, or bays of a car park; and the pavement behind."""
    rng = np.random.default_rng([camera.seed, 4])
    c, s = np.cos(camera.heading), np.sin(camera.heading)
    colour = np.array([0.5, 0.5, 0.48] if rng.random() < 0.8 else [0.5, 0.33, 0.06]) * rng.uniform(0.4, 1.1)
    middle, shift, quads = (camera.near + camera.far) / 2, rng.uniform(0, 3.3), []
    for line in range(-5, 6):
        aside, solid = 3.3 * line + shift, rng.random() < 0.3
        for start in np.arange(-18, 18, 6.0):
            long = 2.2 if domain == 'mall' else 3.0 if solid else 1.5
            x, y = np.array([[-0.07, 0.07, 0.07, -0.07], [-long, -long, long, long]]) + [[aside], [start]]
            corners = np.stack([c * x + s * y, s * x - c * y + middle, 0 * x + 0.004], 1)
            if (np.abs(corners[:, 0]) < 16).all() and 2 < corners[:, 1].min() and corners[:, 1].max() < camera.far + 3:
                quads.append(coloured(Mesh(np.array([[0, 1, 2], [0, 2, 3]]), {'position': corners}), colour))
    pavement = box([0, camera.far + 3.2 + 6, 0.06], [40, 12, 0.12])
    return [*quads, coloured(pavement, rng.uniform(0.12, 0.35) * np.ones(3))]


def things(camera: Camera, domain: str) -> Mesh:
    """Cars, hedges, trees, posts, pillars, kiosks and benches behind and beside where people walk."""
    rng = np.random.default_rng([camera.seed, 3])
    parts = []
    if camera.road:
        parts += _marks(camera, domain)
    for _ in range(rng.integers(7, 13)):
        y = camera.far + rng.uniform(0.3, 2.5) + (_ROADSIDE if camera.road else 0)
        place = np.array([rng.uniform(-0.6, 0.6) * y, y, 0.0])
        kinds = ['pillar', 'kiosk', 'bench', 'plant'] if domain == 'mall' else ['car', 'hedge', 'tree', 'post', 'kiosk']
        kind = rng.choice([k for k in kinds if not (camera.road and k == 'car')])
        colour = rng.uniform(0.02, 0.6) * rng.uniform(0.5, 1.4, 3)
        if kind == 'pillar':
            parts.append(coloured(box(place + [0, 0, 3], [0.6, 0.6, 6]), np.clip(colour + 0.15, 0, 0.8)))
        elif kind == 'kiosk':
            size = rng.uniform([0.8, 0.5, 0.9], [2.0, 0.9, 2.1])
            parts += [coloured(box(place + [0, 0, size[2] / 2], size), np.clip(colour, 0.02, 0.8))]
            parts += [
                coloured(
                    box(place + [0, -size[1] / 2, size[2] * 0.65], [size[0] * 0.8, 0.05, 0.4]),
                    rng.uniform(0.05, 0.8, 3),
                )
            ]
        elif kind == 'bench':
            parts += [coloured(box(place + [0, 0, z], [1.6, 0.5, 0.07]), (0.25, 0.14, 0.06)) for z in (0.45, 0.75)]
        elif kind == 'plant':
            parts += [
                coloured(box(place + [0, 0, 0.3], [0.5, 0.5, 0.6]), colour),
                leaves(rng, place + [0, 0, 1.1], 0.55, 260),
            ]
        elif kind == 'car':
            parts.append(_car(rng, place))
        elif kind == 'hedge':
            parts += [leaves(rng, place + [dx, 0, 0.5], 0.6, 350) for dx in (-0.8, 0, 0.8)]
        elif kind == 'tree':
            parts += [
                coloured(box(place + [0, 0, 1.5], [0.25, 0.25, 3]), (0.09, 0.06, 0.04)),
                leaves(rng, place + [0, 0, 3.4], 1.3, 900),
            ]
        else:
            parts += [
                coloured(box(place + [0, 0, 1.8], [0.09, 0.09, 3.6]), 0.15),
                coloured(box(place + [0, 0, 2.4], [0.6, 0.04, 0.6]), colour),
            ]
    return merge(parts)
