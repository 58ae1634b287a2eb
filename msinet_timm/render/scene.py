"""Renders one image: a dressed person in front of a camera, with mitsuba on the CPU."""

import functools

import numpy as np

from msinet_timm.errors import needs

from .backgrounds import coloured, ground, leaves, things, walls
from .body import Body, load_body, pose_transforms, skin, walk
from .cameras import Camera, develop, draw_camera
from .garments import dress
from .identity import draw_identity, generator
from .meshes import Mesh, box, merge

__all__ = ['load_renderer', 'render_image']

_EXTRAS = 900_000_000  # numbers of the people who only walk by
_PASSERS = 20
_KINDS = ('person', 'place', 'partial', 'small')


@functools.lru_cache(maxsize=1)
def load_renderer():
    with needs('render', 'rendering'):
        import mitsuba
    mitsuba.set_variant('scalar_rgb')
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    import drjit

    drjit.set_thread_count(1)  # whole images are spread over processes instead
    return mitsuba


@functools.lru_cache(maxsize=_PASSERS + 4)
def _person(seed: int, domain: str, number: int) -> tuple[Body, Mesh]:
    identity = draw_identity(seed, domain, number)
    body = load_body(identity.phenotype)
    return body, dress(body, identity)


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
def _place(seed: int, domain: str, number: int) -> tuple[Camera, dict]:
    """A camera and the objects that never move in its view."""
    camera = draw_camera(seed, domain, number)
    floor = np.array([[-40, -5, 0], [40, -5, 0], [40, 75, 0], [-40, 75, 0]])
    shapes = {'floor': _textured(ground(camera, domain), floor, np.array([20, 20]))}
    for k, (texture, corners) in enumerate(walls(camera, domain)):
        shapes[f'wall{k}'] = _textured(texture, corners, np.ones(2))
    shapes['things'] = _shape(things(camera, domain), smooth=False)
    return camera, shapes


def _stand(body: Body, mesh: Mesh, place: np.ndarray, heading: float, rng: np.random.Generator) -> Mesh:
    """The person in a walking pose on the ground at `place`, turned by `heading`."""
    position = skin(mesh, pose_transforms(body, walk(rng)))
    c, s = np.cos(heading), np.sin(heading)
    position = position @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    position -= [*position.mean(0)[:2], position[:, 2].min()]
    return Mesh(mesh.faces, {'position': position + place, 'colour': mesh.data['colour']})


def _occluder(rng: np.random.Generator, seed: int, domain: str, place: np.ndarray) -> Mesh:
    """Something between the camera and a person at `place` that hides a part."""
    front = place * rng.uniform(0.6, 0.8)
    side = np.array([rng.choice([-1, 1]) * rng.uniform(0.12, 0.3), 0, 0])
    kind = rng.choice(['post', 'box', 'leaves', 'person'])
    colour = rng.uniform(0.03, 0.5) * rng.uniform(0.6, 1.3, 3)
    if kind == 'post':
        return coloured(box(front + side * 0.8 + [0, 0, 1.5], [rng.uniform(0.08, 0.2), 0.1, 3]), colour)
    if kind == 'box':
        height = rng.uniform(0.4, 0.9)
        return coloured(box(front + side * 2 + [0, 0, height / 2], [rng.uniform(0.6, 1.2), 0.4, height]), colour)
    if kind == 'leaves':
        return leaves(rng, front + side * 1.3 + [0, 0, rng.uniform(0.3, 1.6)], 0.35, 110)
    body, mesh = _person(seed, domain, _EXTRAS + int(rng.integers(_PASSERS)))
    return _stand(body, mesh, place * rng.uniform(0.75, 0.9) + side * 1.6, rng.uniform(0, 2 * np.pi), rng)


def _frame(points: np.ndarray, eye: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Where a camera at `eye` looks, and its vertical field of view in degrees, to see `points` as a detector crops."""
    axis = points.mean(0) - eye
    axis /= np.linalg.norm(axis)
    right = np.cross(axis, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, axis)
    away = points - eye
    depth = away @ axis
    x, y = away @ right / depth, away @ up / depth
    half = max(np.ptp(y), 1.6 * np.ptp(x)) / 2
    shift, scale = rng.normal(0, [0.05, 0.035]), rng.uniform(1.0, 1.22)
    if kind == 'partial':
        scale, shift = rng.uniform(0.3, 0.65), rng.uniform([-0.25, -0.8], [0.25, 0.8])
    elif kind == 'small':
        scale, shift = rng.uniform(2.2, 3.5), rng.uniform(-0.8, 0.8, 2)
    x0, y0 = (x.max() + x.min()) / 2 + shift[0] * half, (y.max() + y.min()) / 2 + shift[1] * half
    return eye + axis + right * x0 + up * y0, float(np.rad2deg(2 * np.arctan(half * scale)))


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


def _cast(
    seed: int, domain: str, identity: int, view: Camera, kind: str, distance: float, rng: np.random.Generator
) -> tuple[np.ndarray, list[Mesh]]:
    """What an image is about (points [N, 3] that it frames), and all that is there for this image only."""
    place = np.array([rng.uniform(-0.35, 0.35) * distance, distance, 0])
    heading = view.heading + rng.choice([0, np.pi]) + rng.normal(0, 0.45)
    if rng.random() < 0.2:
        heading = rng.uniform(0, 2 * np.pi)
    if kind == 'place':
        moving, target = [], box(place + [0, 0, 0.85], [0.5, 0.3, 1.7])
    else:
        target = _stand(*_person(seed, domain, identity), place, heading, rng)
        moving = [target]
    if rng.random() < 0.15:
        moving.append(_occluder(rng, seed, domain, place))
    if rng.random() < 0.15:  # somebody passes behind
        passer = _person(seed, domain, _EXTRAS + int(rng.integers(_PASSERS)))
        behind = place * rng.uniform(1.1, 1.35) + [rng.choice([-1, 1]) * rng.uniform(0.25, 0.6), 0, 0]
        moving.append(_stand(*passer, behind, rng.uniform(0, 2 * np.pi), rng))
    return target.position, moving


def _shoot(
    view: Camera, shapes: dict, at: np.ndarray, field: float, sun: np.ndarray, film: dict, sampler: dict
) -> np.ndarray:
    """Radiance [H, W, 3] of a scene, seen by a camera that looks `at` a point with a vertical `field` in degrees."""
    mi = load_renderer()
    to_world = mi.ScalarTransform4f().look_at(origin=[0, 0, view.height], target=at.tolist(), up=[0, 0, 1])
    film = {'type': 'hdrfilm', 'pixel_format': 'rgb', 'rfilter': {'type': 'box'}, **film}
    scene = {
        'type': 'scene',
        'integrator': {'type': 'aov', 'aovs': 'colour:albedo,normal:sh_normal', 'light': {'type': 'direct'}},
        'sensor': {
            'type': 'perspective', 'fov': field, 'fov_axis': 'y', 'to_world': to_world, 'film': film,
            'sampler': {'type': 'independent', **sampler},
        },
        # The sky is left to rays that scatter off surfaces: with weight 0 all rays to lights go to the sun.
        'sky': {'type': 'constant', 'radiance': {'type': 'rgb', 'value': view.sky.tolist()}, 'sampling_weight': 0.0},
        'sun': {
            'type': 'directional', 'direction': view.light.tolist(),
            'irradiance': {'type': 'rgb', 'value': sun.tolist()},
        },
        **shapes,
    }  # fmt: skip
    layers = np.nan_to_num(np.array(mi.render(mi.load_dict(scene))))
    return _denoise(layers[..., :3], layers[..., 3:6], layers[..., 6:9])


def render_image(
    seed: int, domain: str, identity: int, camera: int, index: int, kind: str, width: int, height: int, samples: int
) -> bytes:
    """Renders an image. The same arguments always give the same bytes with the same versions of anny and mitsuba.

    Args:
        seed: of the whole data set.
        domain: one of `identity.DOMAINS`.
        identity: number of the person.
        camera: number of the camera, from 1.
        index: number of the image of this person under this camera.
        kind: person, place (nobody there), or a bad detection: partial or small.
        width, height: of the image, in pixels.
        samples: rays for each pixel.

    Returns:
        A JPEG file.

    Raises:
        InputError: anny or mitsuba is not installed.
    """
    rng = generator(seed, domain, 4, identity, camera, index, _KINDS.index(kind))
    view, shapes = _place(seed, domain, camera)
    distance = rng.uniform(view.near, view.far)
    points, moving = _cast(seed, domain, identity, view, kind, distance, rng)
    at, field = _frame(points, np.array([0, 0, view.height]), kind, rng)
    sun = view.sun * (rng.uniform(0.55, 1) if domain == 'street' else 1.0)  # clouds
    if moving:
        shapes = shapes | {'moving': _shape(merge(moving), smooth=True)}
    sampler = {'sample_count': samples, 'seed': int(rng.integers(1 << 31))}
    radiance = _shoot(view, shapes, at, field, sun, {'width': width, 'height': height}, sampler)
    return develop(radiance, view, distance, rng)
