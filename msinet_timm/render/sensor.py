"""What a camera does to light before an image of it is stored."""

import io

import numpy as np
from PIL import Image, ImageFilter

from msinet_timm.datasets.images import through_jpeg

from .cameras import Camera

__all__ = ['develop', 'develop_frame']

_STORED = 80  # quality of the files: the camera's own compression is done by then
_LINEAR = np.linspace(0, 1, 4096)
_ENCODED = np.where(_LINEAR < 0.0031308, 12.92 * _LINEAR, 1.055 * _LINEAR ** (1 / 2.4) - 0.055)
_WEIGHTS = np.array([0.3, 0.59, 0.11], np.float32)


def _tones(x: np.ndarray, camera: Camera) -> np.ndarray:
    """What a sensor makes of light: values [H, W, 3] from 0 to 1 of linear ones."""
    x = 1 - np.exp(-1.25 * np.maximum(x, 0))  # highlights roll off as on a sensor with a tone curve
    level = (x * 4095).astype(np.int32)
    for k in range(3):
        curve = _ENCODED ** float(camera.gamma[k])
        curve = curve + camera.contrast * (3 * curve**2 - 2 * curve**3 - curve)
        curve = camera.veil[k] + (1 - camera.veil[k]) * curve
        x[..., k] = curve.astype(np.float32)[level[..., k]]
    grey = x @ _WEIGHTS
    return grey[..., None] + (x - grey[..., None]) * np.float32(camera.saturation)


def _noise(shape: tuple[int, int], camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Noise [H, W, 3] of brightness, and coarser one of colour."""
    height, width = shape
    fine = rng.standard_normal((height, width, 1), np.float32)
    coarse = rng.standard_normal(((height + 1) // 2, (width + 1) // 2, 3), np.float32)
    coarse = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    return np.float32(camera.noise) * (fine + np.float32(0.5 if camera.saturation else 0) * coarse)


def develop(
    radiance: np.ndarray,
    camera: Camera,
    size: tuple[int, int],
    rows: float,
    rng: np.random.Generator,
    alpha: np.ndarray | None = None,
) -> tuple[bytes, bytes | None]:
    """Turns what the lens sees into a stored image.

    Args:
        radiance: [H, W, 3] linear.
        camera: whose exposure, colours, blur, noise and compression apply.
        size: width and height of the image, to which what the sensor saw is scaled.
        rows: of the sensor that the image shows.
        rng: for the noise and for what differs from image to image.
        alpha: [H, W] from 0 to 1, which the lens blurs as it blurs the image; None for none.

    Returns:
        A JPEG file, and a PNG file of `alpha`.
    """
    share = min(rows / size[1], 1.0)
    small = (max(8, round(size[0] * share)), max(16, round(size[1] * share)))
    blur = ImageFilter.GaussianBlur(float(camera.blur * rng.uniform(0.7, 1.3)) * min(1.0, small[1] / 128))
    enlarge = Image.Resampling.BICUBIC if camera.soft else Image.Resampling.BILINEAR

    def seen(layer: np.ndarray) -> np.ndarray:
        layers = [layer[..., k] for k in range(3)] if layer.ndim == 3 else [layer]
        layers = [Image.fromarray(np.ascontiguousarray(x, np.float32)) for x in layers]
        layers = [np.asarray(x.resize(small, Image.Resampling.BOX)) for x in layers]
        return np.stack(layers, -1) if layer.ndim == 3 else layers[0]

    x = seen(radiance) * (camera.balance * camera.exposure * 2.0 ** rng.normal(0, 0.2)).astype(np.float32)
    image = _taken(_tones(x, camera), camera, blur, rng)
    # Blocks of 8 x 8 pixels must leave something of the smallest.
    quality = max(camera.quality, 90 - small[1] // 2)
    image = through_jpeg(image, quality).resize(size, enlarge)
    mask = None
    if alpha is not None:
        layer = Image.fromarray((seen(alpha) * 255 + 0.5).astype(np.uint8)).filter(blur)
        mask = _encoded(layer.resize(size, enlarge), 'PNG', optimize=True)
    return _encoded(image, 'JPEG', quality=_STORED, optimize=True), mask


def develop_frame(radiance: np.ndarray, camera: Camera, rng: np.random.Generator) -> bytes:
    """Turns what the lens sees into a frame of a film, a JPEG file of the camera's own compression.

    Args:
        radiance: [H, W, 3] linear.
        camera: whose exposure, colours, blur, noise and compression apply, the same for all frames.
        rng: for the noise.
    """
    x = _tones(radiance * (camera.balance * camera.exposure).astype(np.float32), camera)
    image = _taken(x, camera, ImageFilter.GaussianBlur(float(camera.blur) * min(1.0, len(x) / 128)), rng)
    return _encoded(image, 'JPEG', quality=camera.quality)


def _taken(x: np.ndarray, camera: Camera, blur: ImageFilter.Filter, rng: np.random.Generator) -> Image.Image:
    """What the lens and the sensor make of values [H, W, 3] from 0 to 1."""
    if camera.comb:  # half of the rows was seen a moment later, and filled in from the others
        other = np.roll(x[::2], int(rng.choice([-1, 1])), 1)[: len(x[1::2])]
        x[1::2] += np.float32(camera.comb) * (other - x[1::2])
    image = Image.fromarray((np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)).filter(blur)
    x = np.asarray(image) + 255 * _noise(x.shape[:2], camera, rng)
    image = Image.fromarray(np.clip(x, 0, 255).astype(np.uint8))
    if camera.sharpen:
        image = image.filter(ImageFilter.UnsharpMask(1.5, int(100 * camera.sharpen), 4))
    return image


def _encoded(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()
