"""What other cameras, and the detectors behind them, would have made of an image.

Rendered people, or those of one site, are all seen by the same few cameras; a model should not learn to rely on these.
Each class here draws one kind of difference anew for each image. They work on resized images by Pillow, several times
faster than the same steps on tensors in torchvision.
"""

import math
import random

import numpy as np
from PIL import Image, ImageFilter

from msinet_timm.datasets.images import through_jpeg

__all__ = ['CameraQuality', 'CameraTone', 'Miscrop']

#: Shares of red, green and blue in the brightness of a pixel (ITU-R BT.601), as Pillow's mode L has them.
_LUMA = (0.299, 0.587, 0.114)
#: Standard normal numbers in steps of 1/32: cut out at a random place, ten times as fast as drawing them anew.
_NOISE = (32 * np.random.default_rng(0).standard_normal(1 << 18)).clip(-127, 127).astype(np.int8)


def _log_uniform(low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))


class CameraTone:
    """Gives an image the colours of another camera, under another light.

    Saturation, then for each channel a gain (exposure, and light of any hue), a gamma, and a level of black, which haze
    and backlight raise, mostly a little, and at times to a light veil of some hue.
    """

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB image to another one of the same size."""
        saturation = random.uniform(0.2, 1.4)
        matrix = [
            (1 - saturation) * _LUMA[of] + saturation * (to == of) if of < 3 else 0.0
            for to in range(3)
            for of in range(4)
        ]
        return image.convert('RGB', matrix).point(self.draw_curves())

    @staticmethod
    def draw_curves() -> list[int]:
        """What each of the values 0 to 255 becomes: 256 of red, then of green and of blue."""
        exposure, gamma, veil = random.uniform(0.7, 1.3), _log_uniform(0.65, 1.6), 0.4 * random.random() ** 2
        hue, strength = random.uniform(0, 2 * math.pi), random.uniform(0.0, 0.3)
        veil_hue, veil_strength = random.uniform(0, 2 * math.pi), random.uniform(0.0, 0.5)
        values = np.linspace(0, 1, 256)
        curves = []
        for channel in range(3):
            turn = 2 * math.pi * channel / 3
            gain = exposure * (1 + strength * math.cos(hue - turn))
            black = veil * (1 + veil_strength * math.cos(veil_hue - turn))
            curve = gain * values ** (gamma * _log_uniform(0.9, 1.1))
            curves.append(255 * (black + (1 - black) * curve))
        return np.concatenate(curves).clip(0, 255).round().astype(int).tolist()


class CameraQuality:
    """Makes an image as poor as one of a worse camera: each defect is drawn by itself, in the order of a camera.

    Blur of motion and focus (half of the images), fewer pixels (a quarter to all of the height), noise (half), grey as
    by night (one in ten), JPEG of quality 20 to 75 (half), and back to the size that it had.
    """

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB image to another one of the same size."""
        size = image.size
        if random.random() < 0.5:
            largest = size[1] / 128
            image = image.filter(ImageFilter.BoxBlur((random.uniform(0, largest), random.uniform(0, largest))))
        share = _log_uniform(0.25, 1)
        image = image.resize([max(1, round(share * n)) for n in size], Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = _with_noise(image, random.uniform(0, 16))
        if random.random() < 0.1:
            image = image.convert('L').convert('RGB')
        if random.random() < 0.5:
            image = through_jpeg(image, random.randint(20, 75))
        return image.resize(size, Image.Resampling.BILINEAR)


def _with_noise(image: Image.Image, deviation: float) -> Image.Image:
    """Adds noise to each channel, of a standard deviation in levels of 256."""
    pixels = np.asarray(image)
    noise = _NOISE
    if pixels.size >= len(noise):
        noise = np.resize(noise, 2 * pixels.size)
    start = random.randrange(len(noise) - pixels.size)
    noise = noise[start : start + pixels.size].reshape(pixels.shape).astype(np.int16)
    noise = (noise * np.int16(round(4 * deviation)) + 64) >> 7  # whole numbers are twice as fast
    return Image.fromarray((noise + pixels).clip(0, 255).astype(np.uint8))


class Miscrop:
    """Cuts an image out again as a careless detector does, and resizes that to the size that it had.

    Each edge moves by itself, inwards or outwards: up to 15 % of the height cut at the head, 30 % at the feet and 20 %
    of the width at each side, or half of that too wide. What lies beyond the image repeats its edge.
    """

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB image to another one of the same size."""
        left, top, right, bottom = self.draw_edges()
        width, height = image.size
        box = (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
        inside = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
        beyond = [(inside[k] - box[k], box[k + 2] - inside[k + 2]) for k in (1, 0)]
        if any(map(any, beyond)):
            pixels = np.asarray(image)[inside[1] : inside[3], inside[0] : inside[2]]
            return Image.fromarray(_repeat_edges(pixels, *beyond)).resize(image.size, Image.Resampling.BILINEAR)
        return image.resize(image.size, Image.Resampling.BILINEAR, box=inside)

    @staticmethod
    def draw_edges() -> tuple[float, float, float, float]:
        """How far left, top, right and bottom edge move inwards, as shares of width and height."""
        return tuple(random.uniform(-most / 2, most) for most in (0.2, 0.15, 0.2, 0.3))


def _repeat_edges(pixels: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Pixels [H, W, 3] with so many more rows and columns before and after, several times as fast as `np.pad`."""
    height, width = pixels.shape[:2]
    found = np.empty((height + sum(rows), width + sum(columns), 3), np.uint8)
    top, left = rows[0], columns[0]
    middle = found[top : top + height]
    middle[:, left : left + width] = pixels
    middle[:, :left], middle[:, left + width :] = pixels[:, :1], pixels[:, -1:]
    found[:top], found[top + height :] = middle[:1], middle[-1:]
    return found
