"""Cameras: where they hang, how they see light and colour, and what they do to an image before it is stored."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .identity import generator

__all__ = ['Camera', 'develop', 'draw_camera']


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
        gamma: of the contrast curve; saturation: 0 is grey, 1 natural.
        blur: standard deviation, pixels of a 128 x 256 image; noise: standard deviation, 0 to 1.
        sharp: smallest share of the pixels that the sensor resolves for a far person.
        quality: of the JPEG file.
        seed: of the background.
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
    gamma: float
    saturation: float
    blur: float
    noise: float
    sharp: float
    quality: int
    seed: int


def draw_camera(seed: int, domain: str, number: int) -> Camera:
    """The camera with a number (from 1); the same for the same arguments.

    Six cameras in a row get six well separated values of each quantity, so that they differ much.
    """
    layout, rng = generator(seed, domain, 2, (number - 1) // 6), generator(seed, domain, 3, number)

    def spread(low: float, high: float) -> float:
        return low + (high - low) * (layout.permutation(6)[(number - 1) % 6] + rng.random()) / 6

    mall = domain == 'mall'
    height = spread(2.2, 4.2) if mall else spread(1.3, 4.0)
    warmth, tint, azimuth = spread(-1, 1), spread(-1, 1), spread(0, 2 * np.pi)
    elevation = np.deg2rad(spread(50, 85) if mall else spread(22, 60))
    share = spread(0.1, 0.45) if mall else spread(0.05, 0.8)  # of the sun in all light: shade to bright sun
    light = -np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    return Camera(
        height=height,
        near=spread(3.6, 6.0),
        far=spread(8.0, 13.0),
        heading=spread(-np.pi / 2, np.pi / 2),
        sun=5.0 * share * np.array([1.0, 0.93, 0.8]),
        sky=(1 - share) * (np.array([1.0, 0.94, 0.84]) if mall else np.array([0.86, 0.95, 1.1])),
        light=light,
        exposure=2.0 ** spread(-0.35, 1.35),
        balance=np.array([1.04 + 0.34 * warmth, 1 + 0.08 * tint, 0.92 - 0.36 * warmth]),
        gamma=spread(0.78, 1.3),
        saturation=spread(0.55, 1.25),
        blur=spread(0.0, 0.9),
        noise=spread(0.002, 0.012),
        sharp=spread(0.45, 0.9),
        quality=int(spread(44, 68)),
        seed=int(rng.integers(1 << 30)),
    )


def develop(
    radiance: np.ndarray, camera: Camera, distance: float, rng: np.random.Generator, alpha: np.ndarray | None = None
) -> tuple[bytes, bytes | None]:
    """Turns what the lens sees into a stored image.

    Args:
        radiance: [H, W, 3] linear.
        camera: whose exposure, colours, blur, noise and compression apply.
        distance: metres to the person; far ones are resolved less finely.
        rng: for the noise and for what differs from image to image.
        alpha: [H, W] from 0 to 1, which the lens blurs as it blurs the image; None for none.

    Returns:
        A JPEG file, and a PNG file of `alpha`.
    """
    x = radiance * camera.balance.astype(radiance.dtype) * float(camera.exposure) * 2.0 ** rng.normal(0, 0.15)
    x = 1 - np.exp(-1.25 * np.maximum(x, 0))  # highlights roll off as on a sensor with a tone curve
    x = np.where(x < 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055) ** float(camera.gamma)
    grey = x.mean(2, keepdims=True)
    x = grey + (x - grey) * float(camera.saturation)
    image = Image.fromarray((np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8))
    size, scale = image.size, image.size[1] / 256
    far = np.clip((distance - camera.near) / (camera.far - camera.near), 0, 1)
    share = 1 - (1 - camera.sharp) * far
    small = (max(8, round(size[0] * share)), max(16, round(size[1] * share)))
    blur = ImageFilter.GaussianBlur(float(camera.blur * scale * rng.uniform(0.7, 1.2)))

    def see(layer: Image.Image) -> Image.Image:
        return layer.resize(small, Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC).filter(blur)

    image = see(image)
    noise = rng.normal(0, camera.noise, (size[1], size[0], 1)) + rng.normal(
        0, 0.4 * camera.noise, (size[1], size[0], 3)
    )
    pixels = np.clip(np.asarray(image) + 255 * noise, 0, 255).astype(np.uint8)
    mask = None
    if alpha is not None:
        mask = _encoded(see(Image.fromarray((alpha * 255 + 0.5).astype(np.uint8))), 'PNG', optimize=True)
    return _encoded(Image.fromarray(pixels), 'JPEG', quality=camera.quality, optimize=True), mask


def _encoded(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()
