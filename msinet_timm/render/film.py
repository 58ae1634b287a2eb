"""Films of one camera: what stands still is lit once, and frames are drawn where somebody is."""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .crowd import Visit, World
from .identity import generator
from .lens import upright
from .meshes import Mesh
from .people import stride
from .raster import Crowd, Pass, around, draw_moving, draw_still, dressed, gather, load_renderer, look, shine
from .scene import Scene
from .sensor import develop_frame
from .shaders import WHO

__all__ = ['Film', 'Seen', 'fineness']

_SHADOWS = (1024, 768)  # pixels of the shadow maps: people stand farther apart than those of an image
_ROUGH = (0.04, 0.12)  # metres between vertices of what casts their shadows, see `raster`
_ABOUT = 1.0  # metres around somebody where less of the sky is seen
_TILE, _FADE = 8, 6  # pixels: of what is drawn again as a whole, and over which this passes into what is not
_KEPT = 64  # people, dressed


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
        fine: how fine people are made, see `fineness`, which is taken where this is None; films that have the same
            share them.
    """

    def __init__(
        self, world: World, number: int, size: tuple[int, int], seed: int, domain: str, alike: dict[int, int],
        fine: int | None = None,
    ):  # fmt: skip
        self.gl, self.world, self.number, self.size, self.seed, self.domain = (
            load_renderer(), world, number, size, seed, domain
        )  # fmt: skip
        self.alike, self.place = alike, around(self.gl, world.camera, domain)
        view = world.camera
        axes = upright(np.array([0, np.cos(world.tilt), -np.sin(world.tilt)]))
        rng = generator(seed, domain, 13, number)
        sun = view.sun * (rng.uniform(0.55, 1) if domain == 'street' else 1.0)
        self.scene = Scene(None, [], axes, world.field, sun, size[1], 1.0, rng)
        self.sight = look(self.scene, view, size[0] / size[1])
        self.matrix = self.sight[2]
        self.fine = fineness(world, size[1]) if fine is None else fine
        self.still = self.gl.surfaces(*size)
        draw_still(self.gl, self.still, self.place, self.sight[2])
        self.moving, self.targets = self.gl.surfaces(*size), self.gl.targets(*size)[1:]
        self.moving.clear()
        self.empty = self._light([Pass((self.gl.ambient, self.gl.light), self.still)], None)
        self.dirty: list[tuple] = []
        context = self.gl.context
        self.who = self.gl.program(*WHO)
        self.solid = [self.gl.array(self.who, *one) for one in self.place.solid]
        self.drawn = context.framebuffer([context.texture(size, 1, dtype='f4')], context.depth_renderbuffer(size))
        # Where things stand that may hide somebody.
        self._outline((0, 0, *size), self.solid[0], [], [], self.solid, 1)
        standing = self._numbers().reshape(size[::-1])[::-1] > 0
        deep = np.frombuffer(self.still.read(components=4, attachment=1, dtype='f4'), np.float32)
        deep = deep.reshape(size[1], 2, size[0], 2, 4)[::-1, ..., 3]
        self.before = standing & (deep < view.far + 1.0).any((1, 3))
        self.hiding = self.solid if self.before.any() else []

    def person(self, person: int) -> tuple:
        """Somebody dressed, see `raster.dressed`."""
        return _dressed(self.seed, self.domain, self.fine, person, self.alike.get(person), _ROUGH, True)

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
                there.append(visit)
        if not meshes:
            return [], self._develop(self.empty, index) if image else b''
        crowd = gather(self.scene._replace(others=meshes))
        boxes = [np.concatenate([at.min(0), at.max(0)]) for at in (self._project(mesh.position) for mesh in meshes)]
        seen = self._measure(crowd, there, boxes)
        return seen, self._develop(self._radiance(crowd, meshes, boxes), index) if image else b''

    def _develop(self, radiance: np.ndarray, index: int) -> bytes:
        rng = generator(self.seed, self.domain, 14, self.number, index)
        return develop_frame(radiance, self.world.camera, rng)

    def _project(self, points: np.ndarray) -> np.ndarray:
        """Pixels [N, 2] from the left and from above of points [N, 3] in the world."""
        seen = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        at = seen[:, :2] / np.maximum(seen[:, 3:], 0.05)
        return (at * [0.5, -0.5] + 0.5) * self.size

    def _measure(self, crowd: Crowd, there: list[Visit], boxes: list[np.ndarray]) -> list[Seen]:
        """Who is seen, and how many of their pixels."""
        array, size = self.gl.array(self.who, crowd.vertices, crowd.faces), np.array(self.size)
        starts = np.cumsum([0, *crowd.counts])
        self._outline((0, 0, *self.size), array, range(len(there)), starts, self.hiding)
        pixels = np.bincount(self._numbers(), minlength=len(there) + 1)
        out = []
        for k, (visit, box) in enumerate(zip(there, boxes, strict=True)):
            (left, top), (right, low) = np.clip(np.floor(box[:2]), 0, size), np.clip(np.ceil(box[2:]), 0, size)
            left, top, right, low = (int(side) for side in (left, top, right, low))
            if right <= left or low <= top:
                continue
            own = int(pixels[k + 1])
            alone = own
            if self.before[top:low, left:right].any() or any(_meet(box, other) for other in boxes if other is not box):
                part = (left, self.size[1] - low, right - left, low - top)
                self._outline(part, array, [k], starts, [])
                alone = int(np.count_nonzero(self._numbers(part)))
            if alone:
                out.append(Seen(visit.person, box, own, alone))
        return out

    def _outline(self, part: tuple, array, who, starts: np.ndarray, still: list, number: int = 0) -> None:
        """Draws numbers from 1 of those in `who`, in part of a frame, where none of them or of `still` hides them."""
        self.drawn.use()
        self.drawn.scissor = part
        self.drawn.clear(viewport=part)
        self.who['camera'].write(np.ascontiguousarray(self.matrix.T, 'f4').tobytes())
        self.who['who'].value = number
        for thing in still:
            thing.render()
        for k in who:
            self.who['who'].value = k + 1
            array.render(vertices=int(3 * (starts[k + 1] - starts[k])), first=int(3 * starts[k]))
        self.drawn.scissor = None

    def _numbers(self, part: tuple | None = None) -> np.ndarray:
        """What `_outline` has drawn there, all pixels in a row."""
        return np.frombuffer(self.drawn.read(part, components=1, dtype='f4'), np.float32).astype(np.int64)

    def _light(self, passes: list[Pass], crowd: Crowd | None) -> np.ndarray:
        light = shine(
            self.gl, passes, self.targets, crowd, self.scene.sun, self.world.camera, self.place, self.sight, _SHADOWS
        )
        return light[..., :3]

    def _radiance(self, crowd: Crowd, meshes: list[Mesh], boxes: list[np.ndarray]) -> np.ndarray:
        """The light of a frame [H, W, 3]."""
        for part in self.dirty:
            self.moving.clear(viewport=part)
        self.moving.scissor = None
        self.dirty = [self._quarters(box) for box in boxes]
        draw_moving(self.gl, self.moving, crowd, self.matrix)
        hidden, changed = self._changed(meshes, boxes)
        corners = [_corners(tiles, self.size) for tiles in (_wider(changed), changed & ~hidden, _wider(hidden), hidden)]
        around, over = (
            Pass(self.gl.parts, self.still, None, corners[:2]),
            Pass(self.gl.over, self.moving, self.still, corners[2:]),
        )
        light = self._light([around, over], crowd)
        drawn = Image.fromarray(changed.repeat(_TILE, 0).repeat(_TILE, 1).astype(np.uint8) * 255)
        share = np.asarray(drawn.filter(ImageFilter.BoxBlur(_FADE)), np.float32)
        # where tiles meet in an inner corner, it reaches beyond them, to what earlier frames have left
        share = (np.clip(share / 127.5 - 1, 0, 1) * (np.asarray(drawn) > 0))[: self.size[1], : self.size[0], None]
        return self.empty + share * (light - self.empty)

    def _quarters(self, box: np.ndarray) -> tuple:
        """A box and what is just around it, for a framebuffer of quarters of pixels."""
        limit = 2 * np.array(self.size)
        low = np.clip(2 * np.floor(box[:2] - 1), 0, limit).astype(int)
        high = np.clip(2 * np.ceil(box[2:] + 1), 0, limit).astype(int)
        return int(low[0]), int(limit[1] - high[1]), int(high[0] - low[0]), int(high[1] - low[1])

    def _changed(self, meshes: list[Mesh], boxes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The tiles of a frame [rows, columns] that somebody is before, and those that somebody changes: these, those
        in their shadow, and those where less of the sky is seen."""
        size = tuple(-(-side // _TILE) for side in self.size)
        bodies, tiles, light = Image.new('1', size), Image.new('1', size), self.world.camera.light
        draw = ImageDraw.Draw(tiles)
        for mesh, box in zip(meshes, boxes, strict=True):
            ImageDraw.Draw(bodies).rectangle([tuple(box[:2] // _TILE), tuple(box[2:] // _TILE)], 1)
            low, high = mesh.position.min(0), mesh.position.max(0)
            feet = np.array([*(low[:2] + high[:2]) / 2, 0])
            around = feet + _ABOUT * np.array([[-1, -1, 0], [-1, 1, 0], [1, -1, 0], [1, 1, 0]])
            around[:, 1] = np.maximum(around[:, 1], 0.3)
            around = self._project(around) / _TILE
            draw.ellipse([tuple(around.min(0)), tuple(around.max(0))], 1)
            fall = np.array([*light[:2], 0]) / -light[2] * high[2]
            fall *= min(1.0, (feet[1] - 0.3) / -fall[1]) if fall[1] < 0.3 - feet[1] else 1.0
            points = np.array([feet - [0.4, 0, 0], feet + [0.4, 0, 0], feet, feet + fall])
            left, right, start, end = self._project(points) / _TILE
            draw.line([tuple(start), tuple(end)], 1, int(np.ceil(right[0] - left[0])) + 1)
        there = np.asarray(bodies)
        return there, _wider(np.asarray(tiles) | there)


def fineness(world: World, rows: int) -> int:
    """How high somebody in front of the middle is in frames of so many rows, in pixels: no finer mesh is needed."""
    view = world.camera
    away = 0.7 * view.near + 0.3 * view.far
    return int(np.clip(1.8 / (2 * np.tan(np.deg2rad(world.field) / 2) * away) * rows, 48, 512))


_dressed = functools.lru_cache(maxsize=_KEPT)(dressed)


def _wider(tiles: np.ndarray) -> np.ndarray:
    """Tiles and those next to them."""
    return np.asarray(Image.fromarray(tiles).convert('L').filter(ImageFilter.MaxFilter(3))) > 0


def _corners(tiles: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Corners [T, 2] of triangles, in pixels from the left and from below, which cover tiles: one pair for each run."""
    filled = np.pad(tiles, ((0, 0), (1, 1)))
    row, start = np.nonzero(filled[:, 1:] & ~filled[:, :-1])
    end = np.nonzero(~filled[:, 1:] & filled[:, :-1])[1]
    left, right = _TILE * start, np.minimum(_TILE * end, size[0])
    top, low = size[1] - _TILE * row, np.maximum(size[1] - _TILE * (row + 1), 0)
    corners = [(left, low), (right, low), (right, top), (left, low), (right, top), (left, top)]
    return np.stack([np.stack(corner, 1) for corner in corners], 1).reshape(-1, 2)


def _meet(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[:2] < b[2:] + 1).all() and (b[:2] < a[2:] + 1).all())
