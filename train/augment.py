"""What ReID training does to pictures."""

import math
import random
from collections.abc import Sequence

import torch
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

__all__ = ['RandomErasing', 'training_transform']


class RandomErasing:
    """Paints over a random rectangle that lies fully inside the picture.

    timm's and torchvision's draw the aspect ratio log-uniformly; here it is uniform, as in the published training.

    Source: `Random Erasing Data Augmentation` - https://arxiv.org/abs/1708.04896

    Args:
        probability: of painting at all, 0 to 1.
        area: smallest and largest share of the picture.
        aspect: smallest and largest height over width.
        value: what each channel is set to; in the published training the picture is normalised by then.
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
        if random.random() >= self.probability:
            return image
        height, width = image.shape[1:]
        for _ in range(100):
            pixels = random.uniform(*self.area) * height * width
            aspect = random.uniform(*self.aspect)
            h, w = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if 0 < h < height and 0 < w < width:
                top, left = random.randint(0, height - h), random.randint(0, width - w)
                image[:, top : top + h, left : left + w] = self.value
                break
        return image


def training_transform(
    data_config: dict, erasing: float = 0.5, padding: int = 10, color_jitter: Sequence[float] = ()
) -> T.Compose:
    """From a PIL image to a normalised tensor [C, H, W], as the published training does it.

    Bilinear resize, horizontal flip, black border, random crop back to size, colour jitter, normalisation, random
    erasing. The published training erases within a domain and jitters across domains.

    Args:
        data_config: timm's, of which `input_size`, `mean`, `std` and `interpolation` count.
        erasing: probability of random erasing, 0 to 1.
        padding: pixels of the border.
        color_jitter: ranges of brightness, contrast, saturation and hue, as torchvision's `ColorJitter` takes them;
            none for no jitter.
    """
    size = data_config['input_size'][1:]
    steps = [
        T.Resize(size, InterpolationMode(data_config['interpolation'])),
        T.RandomHorizontalFlip(),
        T.Pad(padding),
        T.RandomCrop(size),
        *([T.ColorJitter(*color_jitter)] if any(color_jitter) else []),
        T.ToTensor(),
        T.Normalize(data_config['mean'], data_config['std']),
        *([RandomErasing(erasing)] if erasing > 0 else []),
    ]
    return T.Compose(steps)
