"""Films of one camera: what stands still is lit once, and frames are drawn where somebody is."""

import functools
from typing import NamedTuple

import numpy as np

from .crowd import Visit, World
from .identity import generator
from .people import stride
from .raster import Crowd, Part, around, dressed, gather, load_renderer, look, shine
from .scene import Scene
from .sensor import develop_frame
from .shaders import WHO

__all__ = ['Film', 'Seen']

_SHADOWS = (1024, 1024)  # pixels of the shadow maps: people stand farther apart than those of an image
_ABOUT = 1.3  # metres around somebody where less of the sky is seen
_FADE = 10  # pixels over which what is drawn again passes into what is not
_KEPT = 24  # people, dressed


class Seen(NamedTuple):
    """Somebody in a frame.

    Attributes:
        person: number, from 1.
        box: [4] left, top, right and lower edge of all that they are and wear, hidden or not, in pixels of the frame
            and perhaps outside of it.
        pixels: how many show them.
        alone: how many would, were nothing before them.
    """

    person: int
    box: np.ndarray
    pixels: int
    alone: int


class Film:
    """Draws frames of one camera of a place; each depends on nothing but the arguments and its time.

    Args:
        world: the camera.
        number: of the camera, from 1.
        size: width and height of a frame, pixels.
        seed, domain: see `dataset.render_dataset`.
        alike: by the number of a person, that of whom they are dressed like.
    """

    def __init__(
        self, world: World, number: int, size: tuple[int, int], seed: int, domain: str, alike: dict[int, int]
    ):
        self.gl, self.world, self.number, self.size, self.seed, self.domain = (
            load_renderer(), world, number, size, seed, domain
        )  # fmt: skip
        self.alike, self.place = alike, around(self.gl, world.camera, domain)
        view = world.camera
        at = np.array([0, np.cos(world.tilt), view.height - np.sin(world.tilt)])
        rng = generator(seed, domain, 13, number)
        sun = view.sun * (rng.uniform(0.55, 1) if domain == 'street' else 1.0)
        self.scene = Scene(None, [], at, world.field, sun, size[1], 1.0, 0, rng)
        self.eye, _, self.matrix = look(self.scene, view, size[0] / size[1])
        # Somebody near fills so many pixels: no finer mesh is needed.
        self.fine = int(np.clip(1.8 / (2 * np.tan(np.deg2rad(world.field) / 2) * view.near) * size[1], 48, 512))
        whole = [(0, 0, *size)]
        self.still = shine(self.gl, self.scene, None, view, self.place, size, whole, _SHADOWS)[..., :3].copy()
        context = self.gl.context
        self.who = self.gl.program(*WHO)
        self.solid = [(self.gl.outline, array) for array in self.place.solid]
        self.drawn = context.framebuffer([context.texture(size, 1, dtype='u2')], context.depth_renderbuffer(size))
        self.person = functools.lru_cache(maxsize=_KEPT)(self._dress)

    def _dress(self, person: int) -> tuple:
        return dressed(self.seed, self.domain, self.fine, person, self.alike.get(person))

    def frame(self, time: float, index: int, visits: list[Visit], image: bool = True) -> tuple[list[Seen], bytes]:
        """Draws a frame.

        Args:
            time: seconds from the film's beginning.
            index: number of the frame, from 0, for the noise.
            visits: of those who may be there.
            image: make the image, too.

        Returns:
            Who is seen, and a JPEG file (empty without `image`).
        """
        load_renderer()
        there, meshes = [], []
        for visit in visits:
            if visit.camera == self.number - 1 and visit.start <= time <= visit.end:
                moment = visit.at(time)
                gait = generator(self.seed, self.domain, 12, visit.person, self.number)
                meshes.append(stride(*self.person(visit.person), moment, gait))
                there.append((visit, meshes[-1]))
        scene = self.scene._replace(others=meshes)
        crowd = gather(scene) if meshes else None
        seen = self._measure(crowd, there) if crowd else []
        return seen, self._develop(scene, crowd, index) if image else b''

    def _project(self, points: np.ndarray) -> np.ndarray:
        """Pixels [N, 2] from the left and from above of points [N, 3] in the world."""
        seen = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        at = seen[:, :2] / np.maximum(seen[:, 3:], 0.05)
        return (at * [0.5, -0.5] + 0.5) * self.size

    def _measure(self, crowd: Crowd, there: list) -> list[Seen]:
        """Boxes of all, and counts of their pixels."""
        array, (wide, tall) = self.gl.array(self.who, crowd.vertices, crowd.faces), self.size
        starts = np.cumsum([0, *crowd.counts])
        boxes = []
        for _, mesh in there:
            at = self._project(mesh.position)
            boxes.append(np.concatenate([at.min(0), at.max(0)]))
        self._outline((0, 0, wide, tall), array, range(len(there)), starts)
        whole = np.frombuffer(self.drawn.read(components=1, dtype='u2', alignment=1), np.uint16)
        pixels = np.bincount(whole, minlength=len(there) + 1)
        out = []
        for k, ((visit, _), box) in enumerate(zip(there, boxes, strict=True)):
            left, top = np.clip(np.floor(box[:2]), 0, self.size).astype(int)
            right, low = np.clip(np.ceil(box[2:]), 0, self.size).astype(int)
            if right > left and low > top:
                part = (int(left), int(tall - low), int(right - left), int(low - top))
                self._outline(part, array, [k], starts, solid=False)
                own = np.frombuffer(self.drawn.read(part, components=1, dtype='u2', alignment=1), np.uint16)
                alone = int(np.count_nonzero(own))
                if alone:
                    out.append(Seen(visit.person, box, int(pixels[k + 1]), alone))
        return out

    def _outline(self, part: Part, array, who, starts: np.ndarray, solid: bool = True) -> None:
        """Draws numbers from 1 of those in `who`, where nothing hides them; without `solid`, through all that stands."""
        self.drawn.use()
        self.drawn.scissor = part
        self.drawn.clear(viewport=part)
        if solid:
            self.gl.outline['sun'].write(np.ascontiguousarray(self.matrix.T, 'f4').tobytes())
            self.drawn.color_mask = (False,) * 4
            for still in self.place.solid:
                still.render()
            self.drawn.color_mask = (True,) * 4
        self.who['camera'].write(np.ascontiguousarray(self.matrix.T, 'f4').tobytes())
        for k in who:
            self.who['who'].value = k + 1
            array.render(vertices=int(3 * (starts[k + 1] - starts[k])), first=int(3 * starts[k]))
        self.drawn.scissor = None

    def _develop(self, scene: Scene, crowd: Crowd | None, index: int) -> bytes:
        view, rng = self.world.camera, generator(self.seed, self.domain, 14, self.number, index)
        radiance = self.still
        if crowd:
            parts = _joined([part for mesh in scene.others for part in self._changed(mesh.position)])
            drawn = shine(self.gl, scene, crowd, view, self.place, self.size, parts, _SHADOWS)
            radiance = self.still.copy()
            for part in parts:
                self._paste(radiance, drawn, part)
        return develop_frame(radiance, view, rng)

    def _changed(self, points: np.ndarray) -> list[Part]:
        """What of a frame somebody may change: they, their shadow, and less light about them."""
        low, high = points.min(0), points.max(0)
        corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (0, high[2])])
        light = self.world.camera.light
        fallen = corners - corners[:, 2:] / min(light[2], -0.05) * light
        middle, feet = (low + high) / 2, []
        for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            feet.append([middle[0] + x * _ABOUT, middle[1] + y * _ABOUT, 0])
        out = []
        for group in (corners, np.concatenate([corners, fallen]), np.array(feet)):
            group = group.copy()
            group[:, 1] = np.maximum(group[:, 1], 0.2)
            at = self._project(group)
            left, top = np.floor(at.min(0) / 2 - 1).astype(int) * 2 - _FADE
            right, bottom = np.ceil(at.max(0) / 2 + 1).astype(int) * 2 + _FADE
            left, top = max(left, 0), max(top, 0)
            right, bottom = min(right, self.size[0]), min(bottom, self.size[1])
            if right > left and bottom > top:
                out.append((left, self.size[1] - bottom, right - left, bottom - top))
        return out

    def _paste(self, radiance: np.ndarray, drawn: np.ndarray, part: Part) -> None:
        """Puts a part of a frame over the empty place; at its edges, but for the frame's, it fades."""
        left, low, wide, tall = part
        rows, columns = slice(self.size[1] - low - tall, self.size[1] - low), slice(left, left + wide)
        share = np.outer(
            _ramp(tall, rows.start > 0, rows.stop < self.size[1]), _ramp(wide, left > 0, columns.stop < self.size[0])
        ).astype(np.float32)[..., None]
        still = radiance[rows, columns]
        radiance[rows, columns] = still + share * (drawn[rows, columns, :3] - still)


def _ramp(length: int, first: bool, last: bool) -> np.ndarray:
    """Weights of pixels in a row, which rise from 0 at its first and fall to 0 at its last end, where asked for."""
    out, at = np.ones(length), (np.arange(length) + 0.5) / _FADE
    if first:
        out = np.minimum(out, at)
    if last:
        out = np.minimum(out, at[::-1])
    return out


def _joined(parts: list[Part]) -> list[Part]:
    """The same area, in parts that do not overlap: those that do become one."""
    out: list[Part] = []
    for part in parts:
        while True:
            hit = next((p for p in out if _overlap(p, part)), None)
            if hit is None:
                break
            out.remove(hit)
            left, low = min(hit[0], part[0]), min(hit[1], part[1])
            right, top = (max(hit[k] + hit[k + 2], part[k] + part[k + 2]) for k in (0, 1))
            part = (left, low, right - left, top - low)
        out.append(part)
    return out


def _overlap(a: Part, b: Part) -> bool:
    return all(a[k] < b[k] + b[k + 2] and b[k] < a[k] + a[k + 2] for k in (0, 1))
