"""Renders triangles with OpenGL, through EGL and so without a display: on a GPU, or on the CPU by Mesa.

The light is a sun that casts shadows, and a sky of one colour. What a place gets of the sky is
found from the shadows that rough meshes cast from a few suns all over the sky.
"""

import ctypes.util
import functools
import importlib.metadata
import os
import threading
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from msinet_timm.errors import InputError, MissingPackageError, one_line

from .backgrounds import ground, things, walls
from .body import Body
from .cameras import Camera, draw_camera
from .meshes import Mesh, simplify
from .people import make_person
from .scene import Scene, keep_made
from .shaders import AMBIENT, LIGHT, OUTLINE, ROUGH, SURFACE, SURFACE_PIXELS, TILES, WHOLE
from .traffic import make_vehicle
from .vehicles import Vehicle

__all__ = ['MAKERS', 'Crowd', 'Pass', 'Place', 'Renderer', 'around', 'draw_moving', 'draw_still', 'dressed']
__all__ += ['gather', 'load_renderer', 'look', 'person', 'place', 'render', 'shine', 'versions']

_HELP = 'pip install "msinet-timm[render]"; on Debian also apt-get install libegl1 libgl1-mesa-dri'
_SUN, _PLACE_SUN = 384, 1280  # pixels of the sun's shadow maps: of who moves, and of a place
_SKY, _PLACE_SKY = 256, 512  # of those of the sky's suns, `_SIDE` on each side of a square
_SIDE = 4
_ROUGH = (0.03, 0.08)  # metres between vertices of what casts the shadows of these
_ROUGH_VEHICLE = (0.06, 0.16)
_FINE = 1.8  # vertices of skin are this many metres, by an image's height in pixels, apart; those of clothes
_COARSE = 3.0  # so many: smaller triangles than pixels cost time alone
_THIN = 0.002  # metres: of what has thin tubes
_ASIDE = 12.0  # metres to each side of a camera where its place's sun casts shadows
_PLACES = 16  # places kept
_STILL, _MOVING, _TARGET = 0.5, 0.75, 1.0


def _sky_suns() -> np.ndarray:
    """Directions [N, 3] evenly over the sky: a Fibonacci lattice."""
    number = np.arange(_SIDE**2) + 0.5
    up, turn = number / len(number), np.pi * (1 + 5**0.5) * number
    return np.stack([np.sqrt(1 - up**2) * np.cos(turn), np.sqrt(1 - up**2) * np.sin(turn), up], 1)


_SUNS = _sky_suns()


class _Rough(NamedTuple):
    """A rough mesh of some vertices of another one: their numbers, and faces [F, 3] of these."""

    number: np.ndarray
    faces: np.ndarray


@dataclass
class _Made(Mesh):
    """A mesh with `normal`, and rough ones that cast shadows: of the sun, and of the sky's suns; cells of these."""

    sun: _Rough
    sky: _Rough
    cells: tuple[float, float]


class Place(NamedTuple):
    """What never moves before a camera, on the graphics card.

    Attributes:
        surfaces: what is drawn: the vertices, and a texture or None.
        sun: shadow map of the sun, `sun_matrix` [4, 4] from the world into it.
        sky, sky_matrices: the same of all of `_SUNS`; the matrices are [N, 4, 4].
        wall: distance, slope and height of the walls.
        solid: vertices and faces of all that stands there.
    """

    surfaces: list
    sun: object
    sun_matrix: np.ndarray
    sky: object
    sky_matrices: np.ndarray
    wall: tuple[float, ...]
    solid: list


def _open():
    """A context of the first device that gives one."""
    try:
        import moderngl
    except ImportError as e:
        raise MissingPackageError(f'the raster renderer needs {e.name}: {_HELP}') from e
    # Mesa on the CPU draws in this thread: whole images are spread over processes instead. A thread of its own may be
    # unlocking a fence still when this one frees it (llvmpipe's `lp_fence_signalled` asks without the lock): where
    # a long rendering crashed once, a freed chunk had four zero bytes where that writes them.
    os.environ.setdefault('LP_NUM_THREADS', '0')
    library, problem = ctypes.util.find_library('EGL') or 'libEGL.so.1', None
    for device in range(8):
        try:
            # EGL gives OpenGL's functions, too: no other library is needed.
            return moderngl.create_context(
                require=330, standalone=True, backend='egl', device_index=device, libegl=library, libgl=library
            )
        except Exception as e:  # moderngl and glcontext raise nothing more special
            problem = problem or e
    raise InputError(f'the raster renderer needs OpenGL 3.3 through EGL ({one_line(problem)}): {_HELP}') from problem


class Renderer:
    """A context, which only the thread that opened it may use, and what is made once in it."""

    def __init__(self):
        self.context = context = _open()
        # What Python drops waits in a list until this context is the current one: else another one's would be deleted.
        context.gc_mode = 'context_gc'
        weakref.finalize(self, context.release)
        context.enable(context.DEPTH_TEST | context.CULL_FACE)  # what is seen from both sides has faces for both

        program = self.program
        self.outline, self.rough = program(OUTLINE), program(ROUGH)
        self.plain, self.textured = (program(SURFACE, SURFACE_PIXELS, textured) for textured in (False, True))
        self.ambient, self.light = program(WHOLE, AMBIENT), program(WHOLE, LIGHT)

    def program(
        self,
        vertex: str,
        pixels: str = '#version 330\nvoid main() {}',
        textured: bool = False,
        glossy: bool = False,
        over: bool = False,
    ):
        sizes = {'SUNS': _SIDE**2, 'SIDE': _SIDE, 'TEXTURED': int(textured), 'GLOSSY': int(glossy), 'OVER': int(over)}
        for name, value in sizes.items():
            vertex, pixels = (text.replace(name, str(value)) for text in (vertex, pixels))
        return self.context.program(vertex_shader=vertex, fragment_shader=pixels)

    @functools.cached_property
    def glossy(self) -> tuple:
        """The programs for surfaces that shine, and for their light."""
        return self.program(SURFACE, SURFACE_PIXELS, glossy=True), self.program(WHOLE, LIGHT, glossy=True)

    @functools.cached_property
    def over(self) -> tuple:
        """The programs for parts of an image, where something moves before what stands still."""
        return self.program(TILES, AMBIENT, over=True), self.program(TILES, LIGHT, over=True)

    @functools.cached_property
    def parts(self) -> tuple:
        """The programs for parts of an image."""
        return self.program(TILES, AMBIENT), self.program(TILES, LIGHT)

    def shadow_map(self, size: int):
        return self.context.framebuffer([], self.context.depth_texture((size, size)))

    @functools.lru_cache(maxsize=4)  # noqa: B019 - images and films have theirs
    def moving(self, sun: int, sky: int) -> tuple:
        """Shadow maps of who moves, of the sun and of the sky's suns, so many pixels wide."""
        return self.shadow_map(sun), self.shadow_map(sky)

    @functools.lru_cache(maxsize=8)  # noqa: B019 - few sizes are asked for, and few renderers
    def targets(self, width: int, height: int) -> tuple:
        """What is drawn to for images of a size: surfaces, shares of the sky, light."""
        context = self.context
        shares = context.texture(((width + 1) // 2, (height + 1) // 2), 2, dtype='f4')
        return (
            self.surfaces(width, height),
            context.framebuffer([shares]),
            context.framebuffer([context.texture((width, height), 4, dtype='f4')]),
        )

    def surfaces(self, width: int, height: int):
        """What surfaces are drawn to, in quarters of pixels: two textures, see `SURFACE_PIXELS`."""
        size = (2 * width, 2 * height)
        textures = [self.context.texture(size, 4, dtype='f4') for _ in range(2)]
        return self.context.framebuffer(textures, self.context.depth_renderbuffer(size))

    def array(self, program, vertices: np.ndarray, faces: np.ndarray):
        """Vertices of 3 floats for each of `position`, `normal`, `colour` and `place` or 1 `gloss`, for `program`."""
        last = {10: {'gloss': 1}, 12: {'place': 3}}.get(vertices.shape[1], {})
        names = dict.fromkeys(('position', 'normal', 'colour')[: vertices.shape[1] // 3], 3) | last
        read = [name for name in names if name in program]
        layout = ' '.join(f'{size}f' if name in read else f'{4 * size}x' for name, size in names.items())
        buffer, index = self.context.buffer(vertices.astype('f4')), self.context.buffer(faces.astype('u4'))
        return self.context.vertex_array(program, [(buffer, layout, *read)], index)

    def fill(self, program, target, maps: dict, tiles: np.ndarray | None, **values) -> None:
        """Draws pixels of a target from other ones: all, or those in triangles with corners `tiles` [T, 2]."""
        _set(program, **values)
        for unit, (name, texture) in enumerate(maps.items()):
            if name in program:
                program[name].value = unit
                texture.use(unit)
        target.use()
        self.context.disable(self.context.DEPTH_TEST)
        if tiles is None:
            self.context.vertex_array(program, []).render(vertices=3)
        elif len(tiles):
            buffer = self.context.buffer(tiles.astype('f4'))
            self.context.vertex_array(program, [(buffer, '2f', 'corner')]).render()
        self.context.enable(self.context.DEPTH_TEST)

    def cast(self, map_, arrays: list, instances: int = 1) -> None:
        """Draws what casts shadows, where it faces away from the light: half of it, and no shadow of itself."""
        map_.use()
        map_.clear()
        self.context.cull_face = 'front'
        for array in arrays:
            array.render(instances=instances)
        self.context.cull_face = 'back'


def _set(program, **values) -> None:
    """Sets uniforms: numbers, vectors and matrices (rows first), those that the compiler has not left out."""
    for name, value in values.items():
        if name in program:
            value = np.asarray(value)
            turned = value.swapaxes(-1, -2) if value.ndim > 1 and value.shape[-1] == value.shape[-2] else value
            program[name].write(np.ascontiguousarray(turned, 'i4' if value.dtype == bool else 'f4').tobytes())


_here = threading.local()


def load_renderer() -> Renderer:
    """The renderer of this thread; what OpenGL is asked for next, it does in its context.

    Raises:
        InputError: moderngl, a library for EGL or a driver is missing.
    """
    if not hasattr(_here, 'renderer'):
        _here.renderer = Renderer()
    context = _here.renderer.context
    context.__enter__()  # another one, of this program or its user, may be the current one
    context.gc()
    return _here.renderer


def versions(*packages: str) -> dict[str, str]:
    """Of all that an image depends on: these packages, those that this renderer needs, and the driver."""
    info = load_renderer().context.info
    found = {name: importlib.metadata.version(name) for name in ('numpy', 'Pillow', *packages, 'moderngl')}
    return found | {'OpenGL': f'{info["GL_RENDERER"]}, {info["GL_VERSION"]}'}


def _flat(mesh: Mesh) -> Mesh:
    """The mesh with a normal for each face, and each face from both sides."""
    a, b, c = mesh.position[mesh.faces].swapaxes(0, 1)
    normal = np.repeat(np.cross(b - a, c - a), 3, 0)
    data = {k: v[mesh.faces.ravel()] for k, v in mesh.data.items()}
    faces = np.arange(len(normal)).reshape(-1, 3)
    return Mesh(np.concatenate([faces, faces[:, ::-1]]), data | {'normal': normal})


def _columns(mesh: Mesh) -> np.ndarray:
    return np.concatenate([mesh.data[k] for k in ('position', 'normal', 'colour')], 1).astype(np.float32)


@keep_made
def person(seed: int, domain: str, height: int, number: int, half: bool = False) -> tuple[Body, Mesh]:
    """The person with a number, in rest pose, no finer than images of a `height` in pixels, or of half of it, show."""
    if half:
        body, mesh = person(seed, domain, height, number)
        return body, _coarser(body, mesh, height / 2, (1.4 * mesh.cells[0], 1.4 * mesh.cells[1]))
    return dressed(seed, domain, height, number)


def dressed(
    seed: int,
    domain: str,
    height: int,
    number: int,
    like: int | None = None,
    rough: tuple = _ROUGH,
    afoot: bool = False,
) -> tuple[Body, Mesh]:
    """What `person` keeps; `like`, `afoot`: see `people.make_person`, `rough`: `Crowd.cells`."""
    body, mesh = make_person(seed, domain, number, like, afoot, _COARSE / height)
    inner = mesh.faces[(mesh.data['inside'][mesh.faces] > 0).any(1), ::-1]
    return body, _coarser(body, Mesh(np.concatenate([mesh.faces, inner]), mesh.data), height, rough)


def _coarser(body: Body, mesh: Mesh, height: float, rough: tuple) -> Mesh:
    """Somebody in no finer a mesh than images of a `height` in pixels can show."""
    part = mesh.data['part']
    mesh = simplify(mesh, np.where(part < body.beside, np.where(part == 0, _FINE, _COARSE) / height, _THIN))
    return _Made(mesh.faces, mesh.data, *(_rough(mesh, cell) for cell in rough), rough)


@keep_made
def vehicle(seed: int, domain: str, height: int, number: int) -> tuple[Vehicle, Mesh]:
    """The vehicle with a number, the same for images of any `height`."""
    made, mesh = make_vehicle(seed, domain, number)
    return made, _Made(mesh.faces, mesh.data, *(_rough(mesh, cell) for cell in _ROUGH_VEHICLE), _ROUGH_VEHICLE)


#: What this renderer can show, see `scene.OBJECTS`.
MAKERS = {'people': person, 'vehicles': vehicle}


def _rough(mesh: Mesh, cell: float) -> _Rough:
    number = np.arange(len(mesh.position))
    rough = simplify(Mesh(mesh.faces, {'position': mesh.position, 'part': 0 * number, 'number': number}), cell)
    return _Rough(rough.data['number'], rough.faces)


def _axes(towards: np.ndarray) -> np.ndarray:
    """Axes [3, 3] of what a far light sees: to its right, up, and away from it."""
    towards = towards / np.linalg.norm(towards)
    side = np.cross([0.0, 1.0, 0.0] if abs(towards[1]) < 0.9 else [1.0, 0.0, 0.0], towards)
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(towards, side), -towards])


_SUN_AXES = np.stack([_axes(d) for d in _SUNS])


def _light_space(axes: np.ndarray, points: np.ndarray, deep: np.ndarray | None = None) -> np.ndarray:
    """Matrices [N, 4, 4] from the world to what far lights see of `points` [P, 3], from -1 to 1.

    Args:
        axes: [N, 3, 3], see `_axes`.
        points: all that may be in a shadow.
        deep: what may cast one into it.
    """
    seen = axes @ points.T
    low, high = seen.min(2), seen.max(2)
    if deep is not None:
        depth = axes[:, 2] @ deep.T
        low[:, 2], high[:, 2] = np.minimum(low[:, 2], depth.min(1)), np.maximum(high[:, 2], depth.max(1))
    half = np.maximum((high - low) / 2, 0.01) / 0.95
    out = np.tile(np.eye(4), (len(axes), 1, 1))
    out[:, :3, :3], out[:, :3, 3] = axes / half[:, :, None], -(high + low) / 2 / half
    return out


_QUAD = np.array([[0, 1, 2], [0, 2, 3], [2, 1, 0], [3, 2, 0]])


def _quad(texture: np.ndarray, corners: np.ndarray, repeat: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [4, 12] of a quadrilateral on which a texture repeats, and the texture."""
    place = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]) * repeat
    normal = np.cross(corners[1] - corners[0], corners[3] - corners[0])
    return np.concatenate([corners, np.tile(normal, (4, 1)), np.ones((4, 3)), place], 1), texture


def place(seed: int, domain: str, number: int, road: bool = False) -> tuple[Camera, Place]:
    """A camera, and what never moves in its view."""
    return _place(load_renderer(), seed, domain, number, road)


@functools.lru_cache(maxsize=_PLACES)
def _place(gl: Renderer, seed: int, domain: str, number: int, road: bool) -> tuple[Camera, Place]:
    camera = draw_camera(seed, domain, number, road)
    return camera, around(gl, camera, domain)


def around(gl: Renderer, camera: Camera, domain: str) -> Place:
    """What never moves in a camera's view."""
    floor = np.array([[-40.0, -5, 0], [40, -5, 0], [40, 75, 0], [-40, 75, 0]])
    upright, fixed = walls(camera, domain), _flat(things(camera, domain))
    surfaces = []
    for vertices, texture in [_quad(ground(camera, domain), floor, 20), *(_quad(t, c, 1) for t, c in upright)]:
        # Square roots: bytes that tell dark colours apart.
        rgb = gl.context.texture(texture.shape[1::-1], 3, (np.sqrt(texture) * 255 + 0.5).astype('u1').tobytes())
        rgb.build_mipmaps()
        rgb.anisotropy = 4.0
        surfaces.append((gl.array(gl.textured, vertices, _QUAD), rgb))
    columns = _columns(fixed)
    surfaces.append((gl.array(gl.plain, columns, fixed.faces), None))
    (x0, y0, _), (x1, y1, _), (_, _, high) = upright[0][1][:3]
    slope = (y1 - y0) / (x1 - x0)
    deep = y0 - slope * x0
    bounds = np.array([[x, y, z] for x in (-_ASIDE, _ASIDE) for y in (2, deep + 5) for z in (0, 3)])
    standing = np.concatenate([fixed.position, *(corners for _, corners in upright)])
    sun, sky = gl.shadow_map(_PLACE_SUN), gl.shadow_map(_PLACE_SKY)
    (sun_matrix,) = _light_space(_axes(-camera.light)[None], bounds, standing)
    sky_matrices = _light_space(_SUN_AXES, fixed.position)
    solid = [(columns, fixed.faces), *((_quad(t, c, 1)[0], _QUAD) for t, c in upright)]
    _set(gl.outline, sun=sun_matrix)
    gl.cast(sun, [gl.array(gl.outline, *one) for one in solid])
    _set(gl.rough, suns=sky_matrices)
    gl.cast(sky, [gl.array(gl.rough, columns, fixed.faces)], len(_SUNS))
    return Place(surfaces, sun, sun_matrix, sky, sky_matrices, (deep, slope, high), solid)


class Crowd(NamedTuple):
    """All that moves in an image.

    Attributes:
        vertices: [V, 9], or [V, 10] where some have a gloss; faces: [F, 3], those of the image's target first.
        first: how many are the target's.
        counts: how many are whose, in the order of `Scene.moving`.
        sun, sky: positions [V, 3] and faces of rough meshes, which cast the shadows of these.
        cells: metres [2] between vertices of these.
    """

    vertices: np.ndarray
    faces: np.ndarray
    first: int
    counts: list[int]
    sun: tuple[np.ndarray, np.ndarray]
    sky: tuple[np.ndarray, np.ndarray]
    cells: tuple[float, float]

    @property
    def glossy(self) -> bool:
        return self.vertices.shape[1] > 9


def gather(scene: Scene) -> Crowd:
    meshes = [mesh if isinstance(mesh, _Made) else _flat(mesh) for mesh in scene.moving]
    casting = []
    for name in ('sun', 'sky'):
        roughs = [getattr(m, name, _Rough(np.arange(len(m.position)), m.faces)) for m in meshes]
        points = [m.position[r.number].astype(np.float32) for m, r in zip(meshes, roughs, strict=True)]
        casting.append(_joined(points, [r.faces for r in roughs]))
    columns = [_columns(m) for m in meshes]
    if any('gloss' in m.data for m in meshes):
        gloss = [m.data.get('gloss', np.zeros(len(m.position))).astype(np.float32) for m in meshes]
        columns = [np.concatenate([c, g[:, None]], 1) for c, g in zip(columns, gloss, strict=True)]
    whole = _joined(columns, [m.faces for m in meshes])
    cells = max(getattr(m, 'cells', _ROUGH) for m in meshes)
    counts = [len(m.faces) for m in meshes]
    return Crowd(*whole, counts[0] if scene.target else 0, counts, *casting, cells)


def _joined(vertices: list[np.ndarray], faces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *map(len, vertices[:-1])])
    return np.concatenate(vertices), np.concatenate([f + s for f, s in zip(faces, starts, strict=True)])


def _shadows(gl: Renderer, maps: tuple, crowd: Crowd, view: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Draws the shadow maps of who moves; returns their matrices, [4, 4] of the sun and [N, 4, 4] of the sky's suns."""
    (sun,), sky = _light_space(_axes(-view.light)[None], crowd.sun[0]), _light_space(_SUN_AXES, crowd.sky[0])
    _set(gl.outline, sun=sun)
    gl.cast(maps[0], [gl.array(gl.outline, *crowd.sun)])
    _set(gl.rough, suns=sky)
    gl.cast(maps[1], [gl.array(gl.rough, *crowd.sky)], len(_SUNS))
    return sun, sky


def look(scene: Scene, view: Camera, aspect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The camera's place [3]; its axes [3, 3], right, up (as long as half an image, a metre away) and forward; and its
    projection [4, 4]."""
    eye, near, far = np.array([0, 0, view.height]), 0.2, 150.0
    (right, up, forward), tall = scene.axes, np.tan(np.deg2rad(scene.field) / 2)
    wide = tall * aspect
    matrix = np.zeros((4, 4))
    matrix[:, :3] = right / wide, up / tall, forward * (far + near) / (far - near), forward
    matrix[:, 3] = matrix[:, :3] @ -eye
    matrix[2, 3] -= 2 * far * near / (far - near)
    return eye, np.stack([right * wide, up * tall, forward], 1), matrix


def draw_still(gl: Renderer, target, place: Place, camera: np.ndarray) -> None:
    """Draws the surfaces of a place: their colours, kinds, normals and depths."""
    target.use()
    target.clear()
    for program in (gl.plain, gl.textured):
        _set(program, camera=camera, kind=_STILL)
    for array, texture in place.surfaces:
        if texture:
            texture.use(0)
        array.render()


def draw_moving(gl: Renderer, target, crowd: Crowd, camera: np.ndarray) -> None:
    """Draws the surfaces of all that moves."""
    target.use()
    program = gl.glossy[0] if crowd.glossy else gl.plain
    array, first = gl.array(program, crowd.vertices, crowd.faces), 3 * crowd.first
    _set(program, camera=camera, kind=_TARGET)
    array.render(vertices=first)
    _set(program, kind=_MOVING)
    array.render(vertices=crowd.faces.size - first, first=first)


def render(scene: Scene, view: Camera, place: Place, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Radiance [height, width, 3] of a scene at a `place`, and how much of each pixel [height, width] is the target."""
    gl, crowd = load_renderer(), gather(scene) if scene.moving else None
    (surfaces, *targets), sight = gl.targets(width, height), look(scene, view, width / height)
    draw_still(gl, surfaces, place, sight[2])
    if crowd:
        draw_moving(gl, surfaces, crowd, sight[2])
    passes = [Pass((gl.ambient, gl.glossy[1] if crowd and crowd.glossy else gl.light), surfaces)]
    pixels = shine(gl, passes, targets, crowd, scene.sun, view, place, sight, (_SUN, _SKY))
    return pixels[..., :3], pixels[..., 3]


class Pass(NamedTuple):
    """How some pixels of an image are lit.

    Attributes:
        programs: for shares of the sky, and for light.
        surfaces: framebuffer of what is lit.
        still: framebuffer of what stands behind, for `Renderer.over`; None for other programs.
        tiles: for each program, see `Renderer.fill`.
    """

    programs: tuple
    surfaces: object
    still: object = None
    tiles: tuple = (None, None)

    @property
    def maps(self) -> dict:
        maps = dict(zip(('colours', 'surfaces'), self.surfaces.color_attachments, strict=True))
        if self.still:
            maps |= zip(('still_colours', 'still_surfaces'), self.still.color_attachments, strict=True)
        return maps


def shine(
    gl: Renderer,
    passes: list[Pass],
    targets: tuple,
    crowd: Crowd | None,
    light: np.ndarray,
    view: Camera,
    place: Place,
    sight: tuple[np.ndarray, np.ndarray, np.ndarray],
    shadows: tuple[int, int],
) -> np.ndarray:
    """Lights surfaces.

    Args:
        gl: from `load_renderer`.
        passes: all, or parts of the image; where two meet, the later one counts.
        targets: framebuffers for the shares of the sky, and for the light.
        crowd: who moves; None for nobody.
        light: irradiance [3] of the sun.
        view: the camera.
        place: what never moves.
        sight: from `look`.
        shadows: widths in pixels of the shadow maps of who moves, of the sun and of the sky's suns.

    Returns:
        Radiance of each pixel, and how much of it is the crowd's target [height, width, 4]. What no pass lights is as
        it was before.
    """
    shares, lit = targets
    moving = gl.moving(*shadows)
    sun, sky = _shadows(gl, moving, crowd, view) if crowd else (np.eye(4), np.zeros((len(_SUNS), 4, 4)))
    sun_cell, sky_cell = crowd.cells if crowd else _ROUGH
    eye, axes, _ = sight
    seen = dict(eye=eye, view=axes, size=lit.size, crowd=crowd is not None)
    maps = dict(moving=moving[1].depth_attachment, still=place.sky.depth_attachment)
    for one in passes:
        gl.fill(
            one.programs[0], shares, one.maps | maps, one.tiles[0], **seen, suns=sky, place_suns=place.sky_matrices,
            towards=_SUNS, margin=0.8 * sky_cell, wall=(*place.wall, 0), extent=2 * np.array(shares.size),
        )  # fmt: skip
    maps = dict(moving=moving[0].depth_attachment, still=place.sun.depth_attachment, shares=shares.color_attachments[0])
    for one in passes:
        gl.fill(
            one.programs[1], lit, one.maps | maps, one.tiles[1], **seen, sun=sun, place_sun=place.sun_matrix,
            scale=_scale(sun), place_scale=_scale(place.sun_matrix), towards=_axes(-view.light)[2] * -1,
            margin=(0.4 * sun_cell + _texel(sun, shadows[0]), 1.5 * _texel(place.sun_matrix, _PLACE_SUN)),
            sun_light=light, sky_light=view.sky, reach=3 * np.linalg.norm(axes[:, 1]) / lit.height,
            extent=np.array(lit.size),
        )  # fmt: skip
    pixels = np.frombuffer(lit.read(components=4, dtype='f4'), np.float32)
    return pixels.reshape(lit.height, lit.width, 4)[::-1]


def _scale(matrix: np.ndarray) -> np.ndarray:
    """How much of a shadow map [2] a metre covers."""
    return np.linalg.norm(matrix[:2, :3], axis=1) / 2


def _texel(matrix: np.ndarray, size: int) -> float:
    """Metres of a pixel of a shadow map."""
    return float(1 / _scale(matrix).min() / size)
