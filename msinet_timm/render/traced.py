"""Renders by tracing rays, with mitsuba on the CPU."""

import functools
import importlib.metadata

import numpy as np

from msinet_timm.errors import needs

from .backgrounds import ground, things, walls
from .body import Body
from .cameras import Camera, draw_camera
from .meshes import Mesh, merge
from .people import make_person
from .scene import Scene, keep_made

__all__ = ['MAKERS', 'load_renderer', 'person', 'place', 'render', 'versions']


@keep_made
def person(seed: int, domain: str, height: int, number: int) -> tuple[Body, Mesh]:
    """The person with a number, the same for images of any `height`."""
    return make_person(seed, domain, number)


#: What this renderer can show, see `scene.OBJECTS`.
MAKERS = {'people': person}


@functools.lru_cache(maxsize=1)
def load_renderer():
    with needs('render', 'rendering'):
        import mitsuba
    mitsuba.set_variant('scalar_rgb')
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    import drjit

    drjit.set_thread_count(1)  # whole images are spread over processes instead
    return mitsuba


def versions() -> dict[str, str]:
    return {'mitsuba': importlib.metadata.version('mitsuba')}


def _shape(mesh: Mesh, smooth: bool):
    mi = load_renderer()
    cloth = {'type': 'diffuse', 'reflectance': {'type': 'mesh_attribute', 'name': 'vertex_color'}}
    props = mi.Properties()
    props['bsdf'] = mi.load_dict({'type': 'twosided', 'bsdf': cloth})
    props['face_normals'] = not smooth
    out = mi.Mesh('mesh', len(mesh.position), len(mesh.faces), props=props, has_vertex_normals=smooth)
    out.add_attribute('vertex_color', 3, mesh.data['colour'].astype(np.float32).ravel())
    values = mi.traverse(out)
    values['vertex_positions'] = mesh.position.astype(np.float32).ravel()
    values['faces'] = mesh.faces.astype(np.uint32).ravel()
    values.update()
    return out


def _textured(texture: np.ndarray, corners: np.ndarray, repeat: np.ndarray):
    """A quadrilateral [4, 3] with a texture that repeats `repeat` times along its two edges."""
    mi = load_renderer()
    bitmap = {'type': 'bitmap', 'bitmap': mi.Bitmap(texture.astype(np.float32)), 'raw': True, 'wrap_mode': 'repeat'}
    props = mi.Properties()
    props['bsdf'] = mi.load_dict({'type': 'twosided', 'bsdf': {'type': 'diffuse', 'reflectance': bitmap}})
    out = mi.Mesh('wall', 4, 2, props=props, has_vertex_texcoords=True)
    values = mi.traverse(out)
    values['vertex_positions'] = corners.astype(np.float32).ravel()
    values['faces'] = np.array([0, 1, 2, 0, 2, 3], np.uint32)
    values['vertex_texcoords'] = (np.array([[0, 1], [1, 1], [1, 0], [0, 0]]) * repeat).astype(np.float32).ravel()
    values.update()
    return out


@functools.lru_cache(maxsize=16)
def place(seed: int, domain: str, number: int, road: bool = False) -> tuple[Camera, dict]:
    """A camera and the objects that never move in its view."""
    camera = draw_camera(seed, domain, number, road)
    floor = np.array([[-40, -5, 0], [40, -5, 0], [40, 75, 0], [-40, 75, 0]])
    shapes = {'floor': _textured(ground(camera, domain), floor, np.array([20, 20]))}
    for k, (texture, corners) in enumerate(walls(camera, domain)):
        shapes[f'wall{k}'] = _textured(texture, corners, np.ones(2))
    shapes['things'] = _shape(things(camera, domain), smooth=False)
    return camera, shapes


def _denoise(radiance: np.ndarray, colour: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Averages light, but not colour, over neighbouring pixels whose surfaces face the same way; all are [H, W, 3]."""
    colour = np.maximum(colour, 0.01)
    light, reach = radiance / colour, 2
    height, width = light.shape[:2]
    wide = [np.pad(a, ((reach, reach), (reach, reach), (0, 0)), mode='edge') for a in (light, normal)]
    total, weights = np.zeros_like(light), np.zeros((height, width, 1))
    for dy, dx in np.ndindex(2 * reach + 1, 2 * reach + 1):
        near, facing = (a[dy : dy + height, dx : dx + width] for a in wide)
        alike = np.exp(-8 * ((facing - normal) ** 2).sum(2, keepdims=True))
        weight = alike * np.exp(-((dy - reach) ** 2 + (dx - reach) ** 2) / 7.0)
        total += weight * near
        weights += weight
    return total / weights * colour


def render(scene: Scene, view: Camera, shapes: dict, width: int, height: int, samples: int) -> tuple[np.ndarray, None]:
    """Radiance [height, width, 3] of a scene at a `place`, by `samples` rays for each pixel; and no mask."""
    mi = load_renderer()
    eye, (_, up, forward) = np.array([0, 0, view.height]), scene.axes
    to_world = mi.ScalarTransform4f().look_at(eye.tolist(), (eye + forward).tolist(), up.tolist())
    film = {'type': 'hdrfilm', 'pixel_format': 'rgb', 'rfilter': {'type': 'box'}, 'width': width, 'height': height}
    moving = {'moving': _shape(merge(scene.moving), smooth=True)} if scene.moving else {}
    whole = {
        'type': 'scene',
        'integrator': {'type': 'aov', 'aovs': 'colour:albedo,normal:sh_normal', 'light': {'type': 'direct'}},
        'sensor': {
            'type': 'perspective', 'fov': scene.field, 'fov_axis': 'y', 'to_world': to_world, 'film': film,
            'sampler': {'type': 'independent', 'sample_count': samples, 'seed': scene.noise},
        },
        # The sky is left to rays that scatter off surfaces: with weight 0 all rays to lights go to the sun.
        'sky': {'type': 'constant', 'radiance': {'type': 'rgb', 'value': view.sky.tolist()}, 'sampling_weight': 0.0},
        'sun': {
            'type': 'directional', 'direction': view.light.tolist(),
            'irradiance': {'type': 'rgb', 'value': scene.sun.tolist()},
        },
        **shapes,
        **moving,
    }  # fmt: skip
    layers = np.nan_to_num(np.array(mi.render(mi.load_dict(whole))))
    return _denoise(layers[..., :3], layers[..., 3:6], layers[..., 6:9]), None
