"""What ReID training does to images."""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

from .cameras import CameraQuality, CameraTone, Miscrop

__all__ = ['PixelAugmentation', 'RandomErasing', 'training_transform']


class RandomErasing:
    """Paints over a random rectangle that lies fully inside the image.

    timm's and torchvision's draw the aspect ratio log-uniformly; here it is uniform, as in the published training.

    Source: `Random Erasing Data Augmentation` - https://arxiv.org/abs/1708.04896

    Args:
        probability: of painting at all, 0 to 1.
        area: smallest and largest share of the image.
        aspect: smallest and largest height over width.
        value: what each channel is set to; in the published training the image is normalised by then.
    """

    def __init__(
        self,
        probability: float = 0.5,
        area: tuple[float, float] = (0.02, 0.4),
        aspect: tuple[float, float] = (0.3, 3.33),
        value: tuple[float, ...] = (0.4914, 0.4822, 0.4465),
    ) -> None:
        self.probability = probability
        self.area = area
        self.aspect = aspect
        self.value = torch.tensor(value)[:, None, None]

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Image [C, H, W], changed in place and returned."""
        top, left, height, width = self.draw(*image.shape[1:])
        image[:, top : top + height, left : left + width] = self.value
        return image

    def draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """A random rectangle in an image of that size: top, left, height and width; all 0 where nothing is painted."""
        if random.random() >= self.probability:
            return 0, 0, 0, 0
        for _ in range(100):
            pixels = random.uniform(*self.area) * height * width
            aspect = random.uniform(*self.aspect)
            h, w = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if 0 < h < height and 0 < w < width:
                return random.randint(0, height - h), random.randint(0, width - w), h, w
        return 0, 0, 0, 0


class PixelAugmentation:
    """The steps of `training_transform` between resize and normalisation, on arrays instead of PIL images.

    From the same random numbers, drawn in the same order, come the same pixels.

    Args:
        padding: as for `training_transform`.
        color_jitter: as for `training_transform`.
        miscrop: as for `training_transform`.
        camera_tone: as for `training_transform`.
        camera_quality: as for `training_transform`.
    """

    def __init__(
        self,
        padding: int = 10,
        color_jitter: Sequence[float] = (),
        *,
        miscrop: float = 0.0,
        camera_tone: float = 0.0,
        camera_quality: float = 0.0,
    ) -> None:
        self.padding = padding
        self.first = _cut(miscrop)
        self.last = _color(color_jitter, camera_tone, camera_quality)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Image [H, W, 3] uint8 to another one; it is not changed in place."""
        height, width = image.shape[:2]
        image = _by_pillow(self.first, image)
        if torch.rand(1) < 0.5:
            # by torch, whose flip of three interleaved channels is many times faster than numpy's
            image = torch.from_numpy(image).permute(2, 0, 1)[None].flip(-1)[0].permute(1, 2, 0).numpy()
        if p := self.padding:
            canvas = np.zeros((height + 2 * p, width + 2 * p, 3), np.uint8)
            canvas[p : p + height, p : p + width] = image
            top, left = (int(torch.randint(0, 2 * p + 1, (1,))) for _ in range(2))
            image = canvas[top : top + height, left : left + width]
        return _by_pillow(self.last, image)


def _by_pillow(steps: Sequence[Callable[[Image.Image], Image.Image]], image: np.ndarray) -> np.ndarray:
    if not steps:
        return image
    found = Image.fromarray(np.ascontiguousarray(image))
    for step in steps:
        found = step(found)
    return np.array(found)  # which may be written, as torch wants it


def _by_chance(step: Callable, probability: float) -> list:
    return [T.RandomApply([step], probability)] if probability > 0 else []


def _cut(miscrop: float) -> list:
    """Steps before the flip."""
    return _by_chance(Miscrop(), miscrop)


def _color(color_jitter: Sequence[float], camera_tone: float, camera_quality: float) -> list:
    """Steps after the random crop."""
    return [
        *([T.ColorJitter(*color_jitter)] if any(color_jitter) else []),
        *_by_chance(CameraTone(), camera_tone),
        *_by_chance(CameraQuality(), camera_quality),
    ]


def training_transform(
    data_config: dict,
    erasing: float = 0.5,
    padding: int = 10,
    color_jitter: Sequence[float] = (),
    *,
    miscrop: float = 0.0,
    camera_tone: float = 0.0,
    camera_quality: float = 0.0,
) -> T.Compose:
    """From a PIL image to a normalised tensor [C, H, W], as the published training does it.

    Bilinear resize, horizontal flip, black border, random crop back to size, colour jitter, normalisation, random
    erasing. The published training erases within a domain and jitters across domains. What it does not have: crops as
    careless detectors make them, before the flip, and other cameras' tone and quality, after the jitter.

    Args:
        data_config: timm's, of which `input_size`, `mean`, `std` and `interpolation` count.
        erasing: probability of random erasing, 0 to 1.
        padding: pixels of the border.
        color_jitter: ranges of brightness, contrast, saturation and hue, as torchvision's `ColorJitter` takes them;
            none for no jitter.
        miscrop: probability of `Miscrop`, 0 to 1.
        camera_tone: probability of `CameraTone`, 0 to 1.
        camera_quality: probability of `CameraQuality`, 0 to 1.
    """
    size = data_config['input_size'][1:]
    steps = [
        T.Resize(size, InterpolationMode(data_config['interpolation'])),
        *_cut(miscrop),
        T.RandomHorizontalFlip(),
        T.Pad(padding),
        T.RandomCrop(size),
        *_color(color_jitter, camera_tone, camera_quality),
        T.ToTensor(),
        T.Normalize(data_config['mean'], data_config['std']),
        *([RandomErasing(erasing)] if erasing > 0 else []),
    ]
    return T.Compose(steps)
