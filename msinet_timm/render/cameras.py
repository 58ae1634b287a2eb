"""Cameras: where they hang, and how they see light and colour."""

from dataclasses import dataclass, replace

import numpy as np

from .identity import generator
from .wardrobe import choice

__all__ = ['HOURS', 'Camera', 'draw_camera', 'draw_film_camera']

#: Light at a camera, and how often: of a street, of a mall.
HOURS = {
    'street': {'sunny': 0.4, 'overcast': 0.3, 'low sun': 0.12, 'night': 0.12, 'infrared': 0.06},
    'mall': {'lamps': 0.7, 'windows': 0.2, 'dim': 0.1},
}
_LAMPS = ((1.0, 0.62, 0.28), (1.0, 0.9, 0.75), (0.85, 1.0, 0.92))  # sodium, LED, mercury


@dataclass
class Camera:
    """A camera at (0, 0, height), looking along +y. Colours are linear RGB [3].

    Attributes:
        height: metres above the ground.
        near, far: nearest and farthest person, metres.
        heading: main walking direction, radians (0: towards the camera).
        sun, sky: light from one direction (irradiance) and from everywhere (radiance).
        light: direction in which the sun's light travels.
        exposure: factor on the scene's radiance.
        balance: factors on red, green and blue.
        gamma: [3] of the contrast curves of red, green and blue; veil: [3] what the darkest place shows, 0 to 1.
        contrast: of an S-shaped curve, 0 for none.
        saturation: 0 is grey, 1 natural.
        rows: of the sensor for a view as high as it is far.
        blur: standard deviation, pixels of the sensor; sharpen: share by which edges are enhanced.
        noise: standard deviation, 0 to 1.
        comb: 0 to 1, how far odd rows are an echo of even ones a moment later, as of interlaced video.
        quality: of the compression, as of JPEG files.
        soft: smooths between pixels where an image is enlarged, or not.
        seed: of the background.
        pan: radians by which its axis is turned to the right of +y; barrel: distortion of its lens, see `lens.Lens`.
        road: vehicles drive here.
    """

    height: float
    near: float
    far: float
    heading: float
    sun: np.ndarray
    sky: np.ndarray
    light: np.ndarray
    exposure: float
    balance: np.ndarray
    gamma: np.ndarray
    veil: np.ndarray
    contrast: float
    saturation: float
    rows: float
    blur: float
    sharpen: float
    noise: float
    comb: float
    quality: int
    soft: bool
    seed: int
    pan: float = 0.0
    barrel: float = 0.0
    road: bool = False


def draw_film_camera(seed: int, domain: str, number: int) -> Camera:
    """The camera with a number (from 1) that films people: at the same hour as the others, above all heads.

    The ground is seen from `near`, and people go as far as `far`. Its lens has no distortion.
    """
    rng = generator(seed, domain, 10, number)
    hour = choice(generator(seed, domain, 10), {name: p for name, p in HOURS[domain].items() if name != 'infrared'})
    camera = draw_camera(seed, domain, number, hour=hour)
    height, near, far = rng.uniform([2.8, 3.6, 13], [4.8, 5.2, 19])
    return replace(
        camera, height=height, near=near, far=far, comb=0.0, pan=0.0, barrel=0.0,
        quality=max(camera.quality, 60),
    )  # fmt: skip


def draw_camera(seed: int, domain: str, number: int, road: bool = False, hour: str | None = None) -> Camera:
    """The camera with a number (from 1); the same for the same arguments.

    Where it is of a `road`, its place has the light and the walls that it has for people, and the camera its colours;
    but it hangs higher, and farther away. The `hour` is one of `HOURS`, or None for any.

    Six cameras in a row get six well separated values of each quantity, so that they differ much.
    """
    layout, rng = generator(seed, domain, 2, (number - 1) // 6), generator(seed, domain, 3, number)

    def spread(low: float, high: float) -> float:
        return low + (high - low) * (layout.permutation(6)[(number - 1) % 6] + rng.random()) / 6

    mall, drawn = domain == 'mall', choice(rng, HOURS[domain])
    hour = hour or drawn
    dark = hour in ('night', 'infrared', 'dim')
    height, near = (spread(2.2, 5.5) if mall else spread(1.4, 7.0)), spread(3.6, 6.5)
    warmth, tint, azimuth = spread(-1, 1), spread(-1, 1), spread(0, 2 * np.pi)
    low, high = {'low sun': (12, 22), 'sunny': (28, 65), 'overcast': (40, 70)}.get(hour, (48, 85))
    elevation, share = np.deg2rad(spread(low, high)), spread(0, 1)  # of the sun in all light: shade to bright sun
    low, high = {'sunny': (0.4, 0.85), 'overcast': (0.02, 0.2), 'low sun': (0.35, 0.7)}.get(hour, (0.1, 0.5))
    share = low + (high - low) * share
    lamp = np.array(_LAMPS[rng.integers(3)])
    sun, sky = np.array([1.0, 0.93, 0.8]), np.array([0.86, 0.95, 1.1])
    if hour == 'low sun':
        sun = np.array([1.0, 0.8, 0.55])
    elif hour in ('night', 'dim'):
        sun, sky = lamp, 0.6 * lamp + 0.25
    elif hour == 'infrared':
        sun, sky = np.ones(3), np.ones(3)
    elif hour in ('lamps', 'windows'):
        sun, sky = 0.5 * lamp + 0.5, (np.array([0.9, 0.97, 1.06]) if hour == 'windows' else np.array([1, 0.94, 0.84]))
    level = sky.mean() * (1 - share) + sun.mean() * 5 * share * np.sin(elevation) / np.pi  # of open ground
    veiled = max(0.0, spread(-0.16, 0.24))
    camera = Camera(
        height=height,
        near=near,
        far=max(spread(8.0, 15.0), near + 3),
        heading=spread(-np.pi / 2, np.pi / 2),
        sun=5.0 * share * sun,
        sky=(1 - share) * sky,
        light=-np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]),
        exposure=2.0 ** (spread(-0.1, 1.2) - (0.4 if dark else 0)) / level,
        balance=2.0 ** np.array([0.6 * warmth, 0.2 * tint, -0.65 * warmth]),
        gamma=spread(0.7, 1.3) * np.exp(rng.normal(0, 0.06, 3)),
        veil=np.clip(veiled * (1 + rng.normal(0, 0.25, 3)), 0, 0.35),
        contrast=max(0.0, spread(-0.4, 0.8)),
        saturation=0.0 if hour == 'infrared' else spread(0.4, 1.3) * (0.7 if dark else 1),
        rows=2.0 ** spread(5.9, 8.1) * near / 1.8,  # people 1.7 m tall are 25 to 250 rows high
        blur=spread(0.2, 1.0) + (0.4 if dark else 0),
        sharpen=max(0.0, spread(-0.8, 0.9)),
        noise=spread(0.003, 0.016) * (1.8 if dark else 1),
        comb=rng.uniform(0.2, 0.6) if rng.random() < 0.12 else 0.0,
        quality=int(spread(28, 88)),
        soft=bool(rng.random() < 0.8),
        seed=int(rng.integers(1 << 30)),
        pan=spread(-0.32, 0.32),
        barrel=max(0.0, spread(-0.08, 0.26)),
    )
    if not road:
        return camera
    near = 1.5 * near + 1
    return replace(
        camera,
        height=(2.6 + 0.4 * (height - 2.2)) if mall else 3 + 0.72 * (height - 1.4),
        near=near,
        far=max(1.9 * camera.far, near + 6),
        rows=1.25 * camera.rows * near / camera.near,
        road=True,
    )
