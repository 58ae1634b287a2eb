"""Rendered people before the backgrounds of other images, so that a model learns nothing from where they stand."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from msinet_timm.datasets.images import load_mask
from msinet_timm.datasets.readers.market1501 import mask_path
from msinet_timm.datasets.records import Record
from msinet_timm.errors import InputError

__all__ = ['Backgrounds', 'remove_person']


def remove_person(image: Image.Image, mask: Image.Image) -> Image.Image:
    """An image with the person painted over, by what is around them, blurred.

    Args:
        image: RGB.
        mask: how much of each pixel is the person, 0 to 255, of the same size.
    """
    around = mask.filter(ImageFilter.MaxFilter(5)).point([255 - value for value in range(256)])
    blur = ImageFilter.GaussianBlur(image.width / 4)
    kept = Image.composite(image, Image.new('RGB', image.size), around)
    weight = np.asarray(around.filter(blur), np.float32)[..., None]
    if not weight.any():
        return image.filter(blur)
    filled = np.asarray(kept.filter(blur), np.float32) * 255 / np.maximum(weight, 1)
    return Image.composite(image, Image.fromarray(filled.clip(0, 255).astype(np.uint8)), around)


class Backgrounds:
    """Puts people before the backgrounds of other images of the same data.

    Args:
        records: with masks as `msinet-data render --masks` writes them.
        probability: that an image gets another background, 0 to 1.

    Raises:
        InputError: an image without mask.
    """

    def __init__(self, records: Sequence[Record], probability: float) -> None:
        self.masks = [mask_path(Path(record.path)) for record in records]
        self.probability = probability
        for record, mask in zip(records, self.masks, strict=True):
            if record.box or not mask.is_file():
                raise InputError(f'{record.path} has no mask: give people rendered by `msinet-data render --masks`')

    def __call__(self, index: int, read: Callable[[int], Image.Image]) -> Image.Image:
        """The image with a number, by chance before another background.

        Args:
            index: of the image in `records`.
            read: gives the RGB image with a number.

        Raises:
            UnreadableImageError: an image or a mask that cannot be read.
        """
        image = read(index)
        if random.random() >= self.probability:
            return image
        other = random.randrange(len(self.masks))
        behind = read(other)
        behind = remove_person(behind, load_mask(self.masks[other], behind.size)).resize(image.size)
        return Image.composite(image, behind, load_mask(self.masks[index], image.size))
