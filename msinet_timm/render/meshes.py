"""Triangle meshes with any number of per-vertex arrays, and the few operations that clothing a body needs."""

from dataclasses import dataclass

import numpy as np

__all__ = ['Mesh', 'box', 'clip', 'ellipsoid', 'loft', 'merge', 'normals', 'simplify', 'smooth', 'submesh']
__all__ += ['split', 'subdivide', 'tube', 'turned', 'tyre']


@dataclass
class Mesh:
    """A triangle mesh.

    Attributes:
        faces: [F, 3] vertex numbers.
        data: arrays of shape [V] or [V, ...], interpolated together. `position` ([V, 3], metres) is always there.
    """

    faces: np.ndarray
    data: dict[str, np.ndarray]

    @property
    def position(self) -> np.ndarray:
        return self.data['position']

    def lerp(self, i: np.ndarray, j: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """Vertices at `t` (0 to 1) of the way from vertices `i` to `j`."""
        return {
            k: v[i] + (v[j] - v[i]) * t.reshape(-1, *[1] * (v.ndim - 1)).astype(v.dtype) for k, v in self.data.items()
        }


def normals(position: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit vertex normals [V, 3], weighted by face area."""
    a, b, c = (position[faces[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    index = faces.ravel()
    total = np.stack([np.bincount(index, np.repeat(face[:, k], 3), len(position)) for k in range(3)], 1)
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)).astype(position.dtype)


def smooth(position: np.ndarray, faces: np.ndarray, rounds: int) -> np.ndarray:
    """Moves each vertex half the way to the mean of its neighbours, `rounds` times."""
    i = np.concatenate([faces[:, 0], faces[:, 1], faces[:, 2]])
    j = np.concatenate([faces[:, 1], faces[:, 2], faces[:, 0]])
    i, j = np.concatenate([i, j]), np.concatenate([j, i])
    count = np.maximum(np.bincount(i, minlength=len(position)), 1)
    for _ in range(rounds):
        mean = np.stack([np.bincount(i, position[j, k], len(position)) for k in range(3)], 1) / count[:, None]
        position = ((position + mean) / 2).astype(position.dtype)
    return position


def simplify(mesh: Mesh, cell: float | np.ndarray) -> Mesh:
    """Joins vertices of a `part` in the same cube of edge length `cell`, the same for a part, or one for all.

    What is interpolated is averaged; `weights`, and arrays of one number for a vertex, are those of the first of them.
    """
    key = np.floor(mesh.position / np.reshape(cell, (-1, 1))).astype(np.int64)
    key = np.concatenate([key - key.min(0), mesh.data['part'][:, None].astype(np.int64)], 1)
    codes = np.ravel_multi_index(tuple(key.T), tuple(key.max(0) + 1))
    _, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    data = {}
    for name, values in mesh.data.items():
        data[name] = values[first]
        if name != 'weights' and values.ndim == 2:
            sums = [np.bincount(inverse, column, len(first)) for column in values.T]
            data[name] = (np.stack(sums, 1) / counts[:, None]).astype(values.dtype)
    faces = inverse.reshape(-1)[mesh.faces]
    return Mesh(faces[(faces != np.roll(faces, 1, 1)).all(1)], data)


def submesh(mesh: Mesh, keep: np.ndarray) -> Mesh:
    """The part of a mesh whose faces have at least one vertex in the mask `keep` [V]."""
    faces = mesh.faces[keep[mesh.faces].any(1)]
    used, faces = np.unique(faces, return_inverse=True)
    return Mesh(faces.reshape(-1, 3), {k: v[used] for k, v in mesh.data.items()})


def subdivide(mesh: Mesh) -> Mesh:
    """Splits every triangle into four."""
    f = mesh.faces
    edges = np.sort(np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]), 1)
    size = len(mesh.position)
    codes, inverse = np.unique(edges[:, 0].astype(np.int64) * size + edges[:, 1], return_inverse=True)
    middle = mesh.lerp(codes // size, codes % size, np.full(len(codes), 0.5))
    ab, bc, ca = (inverse.reshape(3, -1) + size).astype(f.dtype)
    a, b, c = f.T
    faces = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return Mesh(faces, {k: np.concatenate([v, middle[k]]) for k, v in mesh.data.items()})


def split(mesh: Mesh, field: np.ndarray) -> tuple[Mesh, int, np.ndarray]:
    """Cuts a mesh along the zero line of `field` [V], with a clean edge.

    Returns:
        The mesh, how many of its faces are on the positive side (they come first), and of which face each is a part.
    """
    f = mesh.faces
    inside = field[f] > 0
    count = inside.sum(1)
    # Turn mixed triangles so that the vertex that differs from the two others comes first.
    lone = np.where(count == 1, inside.argmax(1), (~inside).argmax(1))
    turned = np.take_along_axis(f, (lone[:, None] + np.arange(3)) % 3, 1)
    one, two = turned[count == 1], turned[count == 2]
    pairs = np.concatenate([one[:, [0, 1]], one[:, [0, 2]], two[:, [0, 1]], two[:, [0, 2]]])
    a, b = field[pairs[:, 0]], field[pairs[:, 1]]
    cut = mesh.lerp(pairs[:, 0], pairs[:, 1], a / (a - b))
    new = np.arange(len(pairs)) + len(field)
    p, q = np.split(new[: 2 * len(one)], 2)
    r, s = np.split(new[2 * len(one) :], 2)
    kept = [f[count == 3], np.stack([one[:, 0], p, q], 1)]
    kept += [np.stack([r, two[:, 1], two[:, 2]], 1), np.stack([r, two[:, 2], s], 1)]
    left = [f[count == 0], np.stack([two[:, 0], r, s], 1)]
    left += [np.stack([p, one[:, 1], one[:, 2]], 1), np.stack([p, one[:, 2], q], 1)]
    three, ones, twos, none = (np.flatnonzero(count == k) for k in (3, 1, 2, 0))
    whole = Mesh(np.concatenate(kept + left), {k: np.concatenate([v, cut[k]]) for k, v in mesh.data.items()})
    return whole, sum(map(len, kept)), np.concatenate([three, ones, twos, twos, none, twos, ones, ones])


def clip(mesh: Mesh, field: np.ndarray) -> Mesh:
    """Cuts a mesh along the zero line of `field` [V] and keeps the positive side, with a clean edge."""
    whole, kept, _ = split(mesh, field)
    return submesh(Mesh(whole.faces[:kept], whole.data), np.ones(len(whole.position), bool))


def loft(rings: np.ndarray, closed: bool = True) -> Mesh:
    """A surface through rings of points [R, P, 3], with `ring` and `angle` (both 0 to 1) for each vertex."""
    rows, columns = rings.shape[:2]
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing='ij')
    index = lambda i, j: (i * columns + j % columns).ravel()  # noqa: E731
    a, b, d, e = index(r, c), index(r, c + 1), index(r + 1, c), index(r + 1, c + 1)
    faces = np.concatenate([np.stack([a, d, b], 1), np.stack([b, d, e], 1)])
    ring, angle = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns, endpoint=not closed), indexing='ij')
    return Mesh(faces, {'position': rings.reshape(-1, 3), 'ring': ring.ravel(), 'angle': angle.ravel()})


def ellipsoid(centre, radii, power: float = 1.0, segments: int = 20) -> Mesh:
    """A closed ellipsoid; `power` below 1 makes it boxy (0.4: a box with round edges)."""
    theta = np.linspace(0, np.pi, segments // 2 + 1)[:, None]
    phi = np.linspace(0, 2 * np.pi, segments, endpoint=False)[None]
    bend = lambda v: np.sign(v) * np.abs(v) ** power  # noqa: E731
    rings = np.stack(
        [
            bend(np.sin(theta)) * bend(np.cos(phi)),
            bend(np.sin(theta)) * bend(np.sin(phi)),
            bend(np.cos(theta)) + 0 * phi,
        ],
        2,
    )
    return loft(rings * np.asarray(radii) + np.asarray(centre))


def tube(start, end, radius: float, sides: int = 6) -> Mesh:
    """A closed tube from one point to another."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = (end - start) / np.linalg.norm(end - start)
    side = np.cross(along, [1.0, 0, 0] if abs(along[0]) < 0.7 else [0, 1.0, 0])
    side /= np.linalg.norm(side)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[:, None]
    ring = radius * (np.cos(angle) * side + np.sin(angle) * np.cross(along, side))
    return loft(np.stack([start + 0 * ring, start + ring, end + ring, end + 0 * ring]))


def tyre(centre, radius: float, thick: float) -> Mesh:
    """A wheel's tyre, which rolls along y."""
    turn = np.linspace(0, 2 * np.pi, 25)[:, None, None]
    angle = np.linspace(0, 2 * np.pi, 6, endpoint=False)[None, :, None]
    out = radius - thick + thick * np.cos(angle)
    rings = [thick * np.sin(angle) + 0 * turn, out * np.cos(turn), out * np.sin(turn)]
    return loft(np.concatenate(rings, 2) + np.asarray(centre))


def turned(mesh: Mesh, heading: float, place=(0.0, 0.0, 0.0)) -> Mesh:
    """The mesh turned about the upright axis by `heading` radians, then moved by `place`."""
    c, s = np.cos(heading), np.sin(heading)
    position = mesh.position @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T + np.asarray(place)
    return Mesh(mesh.faces, mesh.data | {'position': position})


def box(centre, size) -> Mesh:
    """An axis-parallel box of edge lengths `size` with sharp edges (no vertex is shared between sides)."""
    corners, faces = [], []
    for axis in range(3):
        for side in (-0.5, 0.5):
            quad = np.zeros((4, 3))
            quad[:, axis] = side
            quad[:, (axis + 1) % 3] = [-0.5, 0.5, 0.5, -0.5]
            quad[:, (axis + 2) % 3] = [-0.5, -0.5, 0.5, 0.5]
            corners.append(quad)
            faces += [[4 * len(corners) - 4 + k for k in t] for t in ((0, 1, 2), (0, 2, 3))]
    return Mesh(np.array(faces), {'position': np.concatenate(corners) * np.asarray(size) + np.asarray(centre)})


def merge(meshes: list[Mesh]) -> Mesh:
    """One mesh out of several; keeps the arrays that all of them have."""
    keys = set.intersection(*[set(m.data) for m in meshes])
    starts = np.cumsum([0, *[len(m.position) for m in meshes[:-1]]])
    faces = np.concatenate([m.faces + s for m, s in zip(meshes, starts, strict=True)])
    return Mesh(faces, {k: np.concatenate([m.data[k] for m in meshes]) for k in sorted(keys)})
