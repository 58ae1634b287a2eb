"""Renders triangles with OpenGL, through EGL and so without a display: on a GPU, or on the CPU by Mesa.

The light is that of `traced`: a sun that casts shadows, and a sky of one colour. What a place gets of the sky is
found from the shadows that rough meshes cast from a few suns all over the sky.
"""

import ctypes.util
import functools
import importlib.metadata
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from msinet_timm.errors import InputError, MissingPackageError, one_line

from .backgrounds import ground, things, walls
from .body import Body
from .cameras import Camera, draw_camera
from .meshes import Mesh, normals, simplify
from .scene import KEPT, Scene, make_person
from .shaders import AMBIENT, LIGHT, OUTLINE, ROUGH, SURFACE, SURFACE_PIXELS, WHOLE

__all__ = ['load_renderer', 'person', 'place', 'render', 'versions']

_HELP = 'pip install "msinet-timm[render]"; on Debian also apt-get install libegl1 libgl1-mesa-dri'
_SUN, _PLACE_SUN = 512, 1280  # pixels of the sun's shadow maps: of who moves, and of a place
_SKY, _PLACE_SKY = 256, 512  # of those of the sky's suns, `_SIDE` on each side of a square
_SIDE = 4
_ROUGH = 0.05  # metres between vertices of what casts the sky's shadows
_MARGIN = 0.05  # metres by which rough meshes may stand off
_ASIDE = 12.0  # metres to each side of a camera where its place's sun casts shadows
_PLACES = 16  # places kept
_STILL, _MOVING, _TARGET = 0.5, 0.75, 1.0


def _sky_suns() -> np.ndarray:
    """Directions [N, 3] evenly over the sky: a Fibonacci lattice."""
    number = np.arange(_SIDE**2) + 0.5
    up, turn = number / len(number), np.pi * (1 + 5**0.5) * number
    return np.stack([np.sqrt(1 - up**2) * np.cos(turn), np.sqrt(1 - up**2) * np.sin(turn), up], 1)


_SUNS = _sky_suns()


@dataclass
class _Person(Mesh):
    """A person's mesh with `normal`, and faces [F, 3] of a rough one of the same vertices."""

    rough: np.ndarray


class _Place(NamedTuple):
    """What never moves before a camera, on the graphics card.

    Attributes:
        surfaces: what is drawn: the vertices, and a texture or None.
        sun: shadow map of the sun, `sun_matrix` [4, 4] from the world into it.
        sky, sky_matrices: the same of all of `_SUNS`; the matrices are [N, 4, 4].
        wall: distance, slope and height of the walls.
    """

    surfaces: list
    sun: object
    sun_matrix: np.ndarray
    sky: object
    sky_matrices: np.ndarray
    wall: tuple[float, ...]


def _open():
    """A context of the first device that gives one."""
    try:
        import moderngl
    except ImportError as e:
        raise MissingPackageError(f'the raster renderer needs {e.name}: {_HELP}') from e
    os.environ.setdefault('LP_NUM_THREADS', '1')  # of Mesa; whole images are spread over processes instead
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


class _Renderer:
    """The context of this process and what is made once in it."""

    def __init__(self):
        self.context = context = _open()
        context.gc_mode = 'auto'
        context.enable(context.DEPTH_TEST)

        def program(vertex: str, pixels: str = '#version 330\nvoid main() {}', textured: bool = False):
            sizes = {'SUNS': str(_SIDE**2), 'SIDE': str(_SIDE), 'TEXTURED': str(int(textured))}
            for name, value in sizes.items():
                vertex, pixels = (text.replace(name, value) for text in (vertex, pixels))
            return context.program(vertex_shader=vertex, fragment_shader=pixels)

        self.outline, self.rough = program(OUTLINE), program(ROUGH)
        self.plain, self.textured = (program(SURFACE, SURFACE_PIXELS, textured) for textured in (False, True))
        self.ambient, self.light = program(WHOLE, AMBIENT), program(WHOLE, LIGHT)
        self.sun, self.sky = self.shadow_map(_SUN), self.shadow_map(_SKY)

    def shadow_map(self, size: int):
        return self.context.framebuffer([], self.context.depth_texture((size, size)))

    @functools.lru_cache(maxsize=4)  # noqa: B019 - one renderer lives as long as its process
    def targets(self, width: int, height: int) -> tuple:
        """What is drawn to for images of a size: surfaces in quarters of pixels, shares of the sky, light."""
        context, quarters = self.context, (2 * width, 2 * height)
        surfaces = [context.texture(quarters, 4, dtype='f4') for _ in range(2)]
        shares = context.texture((width, height), 2, dtype='f4')
        return (
            context.framebuffer(surfaces, context.depth_renderbuffer(quarters)),
            context.framebuffer([shares]),
            context.framebuffer([context.texture((width, height), 4, dtype='f4')]),
        )

    def array(self, program, vertices: np.ndarray, faces: np.ndarray):
        """Vertices of 3 floats for each of `position`, `normal`, `colour` and maybe `place`, drawn by `program`."""
        names = ('position', 'normal', 'colour', 'place')[: vertices.shape[1] // 3]
        read = [name for name in names if name in program]
        layout = ' '.join('3f' if name in read else '12x' for name in names)
        buffer, index = self.context.buffer(vertices.astype('f4')), self.context.buffer(faces.astype('u4'))
        return self.context.vertex_array(program, [(buffer, layout, *read)], index)

    def fill(self, program, target, maps: dict, **values) -> None:
        """Draws all pixels of a target from other ones."""
        _set(program, **values)
        for unit, (name, texture) in enumerate(maps.items()):
            if name in program:
                program[name].value = unit
                texture.use(unit)
        target.use()
        self.context.disable(self.context.DEPTH_TEST)
        self.context.vertex_array(program, []).render(vertices=3)
        self.context.enable(self.context.DEPTH_TEST)

    def cast(self, map_, arrays: list, instances: int = 1) -> None:
        map_.use()
        map_.clear()
        for array in arrays:
            array.render(instances=instances)


def _set(program, **values) -> None:
    """Sets uniforms: numbers, vectors and matrices (rows first), those that the compiler has not left out."""
    for name, value in values.items():
        if name in program:
            value = np.asarray(value)
            turned = value.swapaxes(-1, -2) if value.ndim > 1 and value.shape[-1] == value.shape[-2] else value
            program[name].write(np.ascontiguousarray(turned, 'i4' if value.dtype == bool else 'f4').tobytes())


@functools.lru_cache(maxsize=1)
def load_renderer() -> _Renderer:
    """The renderer of this process.

    Raises:
        InputError: moderngl, a library for EGL or a driver is missing.
    """
    return _Renderer()


def versions() -> dict[str, str]:
    info = load_renderer().context.info
    driver = f'{info["GL_RENDERER"]}, {info["GL_VERSION"]}'
    return {'moderngl': importlib.metadata.version('moderngl'), 'OpenGL': driver}


def _flat(mesh: Mesh) -> Mesh:
    """The mesh with a normal for each face."""
    a, b, c = mesh.position[mesh.faces].swapaxes(0, 1)
    normal = np.repeat(np.cross(b - a, c - a), 3, 0)
    data = {k: v[mesh.faces.ravel()] for k, v in mesh.data.items()}
    return Mesh(np.arange(len(normal)).reshape(-1, 3), data | {'normal': normal})


def _columns(mesh: Mesh) -> np.ndarray:
    return np.concatenate([mesh.data[k] for k in ('position', 'normal', 'colour')], 1).astype(np.float32)


@functools.lru_cache(maxsize=KEPT)
def person(seed: int, domain: str, height: int, number: int) -> tuple[Body, Mesh]:
    """The person with a number, in rest pose, no finer than images of a `height` in pixels can show."""
    body, mesh = make_person(seed, domain, number)
    mesh.data['normal'] = normals(mesh.position, mesh.faces).astype(np.float32)
    mesh = simplify(mesh, 1.8 / height)
    return body, _Person(mesh.faces, mesh.data, _rough(mesh))


def _rough(mesh: Mesh) -> np.ndarray:
    """Faces [F, 3] of a rough mesh of some of the same vertices."""
    marked = Mesh(mesh.faces, {'position': mesh.position, 'part': 0 * mesh.data['part'], 'number': np.arange(len(mesh.position))})
    rough = simplify(marked, _ROUGH)
    return rough.data['number'][rough.faces]


def _light_space(towards: np.ndarray, points: np.ndarray, deep: np.ndarray | None = None) -> np.ndarray:
    """Matrix [4, 4] from the world to what a far light sees of `points` [N, 3], from -1 to 1.

    `deep` are points that lie in the same depth, wherever else.
    """
    towards = towards / np.linalg.norm(towards)
    side = np.cross([0.0, 1.0, 0.0] if abs(towards[1]) < 0.9 else [1.0, 0.0, 0.0], towards)
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(towards, side), -towards])
    seen = points @ axes.T
    low, high = seen.min(0), seen.max(0)
    if deep is not None:
        depth = deep @ axes[2]
        low[2], high[2] = min(low[2], depth.min()), max(high[2], depth.max())
    half = np.maximum((high - low) / 2, 0.01) / 0.95
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = axes / half[:, None], -(high + low) / 2 / half
    return out


def _quad(texture: np.ndarray, corners: np.ndarray, repeat: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [4, 12] of a quadrilateral on which a texture repeats, and the texture."""
    place = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]) * repeat
    normal = np.cross(corners[1] - corners[0], corners[3] - corners[0])
    return np.concatenate([corners, np.tile(normal, (4, 1)), np.ones((4, 3)), place], 1), texture


@functools.lru_cache(maxsize=_PLACES)
def place(seed: int, domain: str, number: int) -> tuple[Camera, _Place]:
    """A camera, and what never moves in its view."""
    gl, camera = load_renderer(), draw_camera(seed, domain, number)
    floor = np.array([[-40.0, -5, 0], [40, -5, 0], [40, 75, 0], [-40, 75, 0]])
    around, fixed = walls(camera, domain), _flat(things(camera, domain))
    surfaces = []
    for vertices, texture in [_quad(ground(camera, domain), floor, 20), *(_quad(t, c, 1) for t, c in around)]:
        rgb = gl.context.texture(texture.shape[1::-1], 3, texture.astype('f4').tobytes(), dtype='f4')
        rgb.build_mipmaps()
        rgb.anisotropy = 8.0
        surfaces.append((gl.array(gl.textured, vertices, np.array([[0, 1, 2], [0, 2, 3]])), rgb))
    columns = _columns(fixed)
    surfaces.append((gl.array(gl.plain, columns, fixed.faces), None))
    (x0, y0, _), (x1, y1, _), (_, _, high) = around[0][1][:3]
    slope = (y1 - y0) / (x1 - x0)
    deep = y0 - slope * x0
    bounds = np.array([[x, y, z] for x in (-_ASIDE, _ASIDE) for y in (2, deep + 5) for z in (0, 3)])
    standing = np.concatenate([fixed.position, *(corners for _, corners in around)])
    sun, sky = gl.shadow_map(_PLACE_SUN), gl.shadow_map(_PLACE_SKY)
    sun_matrix = _light_space(-camera.light, bounds, standing)
    sky_matrices = np.stack([_light_space(d, fixed.position) for d in _SUNS])
    casting = [gl.array(gl.outline, columns, fixed.faces)]
    casting += [gl.array(gl.outline, _quad(t, c, 1)[0], np.array([[0, 1, 2], [0, 2, 3]])) for t, c in around]
    _set(gl.outline, sun=sun_matrix)
    gl.cast(sun, casting)
    _set(gl.rough, suns=sky_matrices)
    gl.cast(sky, [gl.array(gl.rough, columns, fixed.faces)], len(_SUNS))
    return camera, _Place(surfaces, sun, sun_matrix, sky, sky_matrices, (deep, slope, high))


class _Crowd(NamedTuple):
    """All that moves in an image: vertices [V, 9], their faces and those of rough meshes; `faces[:first]` are the person's."""

    vertices: np.ndarray
    faces: np.ndarray
    rough: np.ndarray
    first: int


def _gather(scene: Scene) -> _Crowd:
    vertices, faces, rough, start = [], [], [], 0
    for mesh in scene.moving:
        mesh = mesh if isinstance(mesh, _Person) else _flat(mesh)
        vertices.append(_columns(mesh))
        faces.append(mesh.faces + start)
        rough.append((mesh.rough if isinstance(mesh, _Person) else mesh.faces) + start)
        start += len(mesh.position)
    first = len(scene.target.faces) if scene.target else 0
    return _Crowd(*(np.concatenate(parts) for parts in (vertices, faces, rough)), first)


def render(
    scene: Scene, view: Camera, place: _Place, width: int, height: int, samples: None
) -> tuple[np.ndarray, np.ndarray]:
    """Radiance [height, width, 3] of a scene at a `place`, and how much of each pixel [height, width] is the person."""
    gl = load_renderer()
    context = gl.context
    crowd = _gather(scene) if scene.moving else None
    sun_matrix, sky_matrices, texel = np.eye(4), np.zeros((len(_SUNS), 4, 4)), 0.0
    if crowd:
        used = crowd.vertices[np.unique(crowd.rough), :3]
        sky_matrices = np.stack([_light_space(d, used) for d in _SUNS])
        sun_matrix = _light_space(-view.light, crowd.vertices[:, :3])
        texel = _texel(sun_matrix, _SUN)
        _set(gl.outline, sun=sun_matrix)
        gl.cast(gl.sun, [gl.array(gl.outline, crowd.vertices, crowd.faces)])
        _set(gl.rough, suns=sky_matrices)
        gl.cast(gl.sky, [gl.array(gl.rough, crowd.vertices, crowd.rough)], len(_SUNS))

    surfaces, shares, light = gl.targets(width, height)
    eye = np.array([0, 0, view.height])
    axis = (scene.at - eye) / np.linalg.norm(scene.at - eye)
    right = np.cross(axis, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, axis)
    tall = np.tan(np.deg2rad(scene.field) / 2)
    wide = tall * width / height
    near, far = 0.2, 150.0
    depth = np.array([(far + near) / (far - near), -2 * far * near / (far - near)])
    camera = np.zeros((4, 4))
    camera[:, :3] = right / wide, up / tall, axis * depth[0], axis
    camera[:, 3] = camera[:, :3] @ -eye
    camera[2, 3] += depth[1]
    surfaces.use()
    surfaces.clear()
    for program in (gl.plain, gl.textured):
        _set(program, camera=camera, kind=_STILL)
    for array, texture in place.surfaces:
        if texture:
            texture.use(0)
        array.render()
    if crowd:
        array = gl.array(gl.plain, crowd.vertices, crowd.faces)
        _set(gl.plain, kind=_TARGET)
        array.render(vertices=3 * crowd.first)
        _set(gl.plain, kind=_MOVING)
        array.render(vertices=crowd.faces.size - 3 * crowd.first, first=3 * crowd.first)

    maps = dict(colours=surfaces.color_attachments[0], surfaces=surfaces.color_attachments[1])
    sight = dict(eye=eye, view=np.stack([right * wide, up * tall, axis], 1), size=(width, height), crowd=crowd is not None)
    gl.fill(
        gl.ambient, shares, maps | dict(moving=gl.sky.depth_attachment, still=place.sky.depth_attachment),
        suns=sky_matrices, place_suns=place.sky_matrices, towards=_SUNS, margin=_MARGIN, wall=(*place.wall, 0), **sight,
    )  # fmt: skip
    maps |= dict(shares=shares.color_attachments[0])
    gl.fill(
        gl.light, light, maps | dict(moving=gl.sun.depth_attachment, still=place.sun.depth_attachment),
        sun=sun_matrix, place_sun=place.sun_matrix, scale=_scale(sun_matrix), place_scale=_scale(place.sun_matrix),
        texel=(texel, _texel(place.sun_matrix, _PLACE_SUN)), towards=-view.light / np.linalg.norm(view.light),
        sun_light=scene.sun, sky_light=view.sky, reach=3 * 2 * tall / height, **sight,
    )  # fmt: skip
    pixels = np.frombuffer(light.read(components=4, dtype='f4'), np.float32).reshape(height, width, 4)[::-1]
    return pixels[..., :3].astype(float), pixels[..., 3]


def _scale(matrix: np.ndarray) -> np.ndarray:
    """How much of a shadow map [2] a metre covers."""
    return np.linalg.norm(matrix[:2, :3], axis=1) / 2


def _texel(matrix: np.ndarray, size: int) -> float:
    """Metres of a pixel of a shadow map."""
    return float(1 / _scale(matrix).min() / size)
