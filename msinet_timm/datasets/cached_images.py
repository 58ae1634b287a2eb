"""Batches out of cached images: augmented as bytes, normalised once for the whole batch on the model's device."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from .images import Change
from .records import Record

__all__ = ['CachedBatch', 'CachedImages', 'Erasing', 'PixelFile']


class PixelFile:
    """Images [N, H, W, 3] uint8 in a file that is mapped into memory, once for all processes that read it.

    Args:
        path: of the file, which begins with the pixels.
        shape: of the images.
        keep: object without which the file would go away; it stays behind in the process that made it.
    """

    def __init__(self, path: str | Path, shape: tuple[int, ...], keep: object = None) -> None:
        self.path = path
        self.keep = keep
        # a plain array on the mapping is faster to index than numpy's memmap; torch wants one that may be written,
        # and what is written to this one stays in its process
        self.pixels = np.asarray(np.memmap(path, np.uint8, 'c', shape=shape))

    def __reduce__(self) -> tuple:
        return PixelFile, (self.path, self.pixels.shape)


class CachedBatch(NamedTuple):
    """What `CachedImages.to_input` makes a batch of.

    Attributes:
        images: [B, H, W, 3] uint8.
        rectangles: [B, 4] int64, what to erase: top, left, height and width.
    """

    images: torch.Tensor
    rectangles: torch.Tensor


class Erasing(Protocol):
    """Random erasing in two steps, as `msinet_train.data.augment.RandomErasing` has it."""

    value: torch.Tensor

    def draw(self, height: int, width: int) -> tuple[int, int, int, int]: ...


class CachedImages(Dataset):
    """As `ReIDImages`, from a cache: whole batches of (`CachedBatch`, indices), for `to_input`.

    Args:
        records: whose images they are.
        file: their pixels.
        mean: of each channel, for pixels from 0 to 1.
        std: standard deviation of each channel, for pixels from 0 to 1.
        augment: takes an image [H, W, 3] uint8 which it must not change, gives another one.
        erase: paints over the normalised image.
        change: see `ReIDImages`; it comes before `augment`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        file: PixelFile,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Callable[[np.ndarray], np.ndarray] | None = None,
        erase: Erasing | None = None,
        change: Change | None = None,
    ) -> None:
        self.records = records
        self.file = file
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.augment = augment
        self.erase = erase
        self.change = change

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, indices: Sequence[int]) -> tuple[CachedBatch, torch.Tensor]:
        height, width = self.file.pixels.shape[1:3]
        images = np.empty((len(indices), height, width, 3), np.uint8)
        rectangles = np.zeros((len(indices), 4), np.int64)
        for k, index in enumerate(indices):
            image = np.array(self.change(index, self._read)) if self.change else self.file.pixels[index]
            images[k] = self.augment(image) if self.augment else image
            if self.erase:
                rectangles[k] = self.erase.draw(height, width)
        return CachedBatch(torch.from_numpy(images), torch.from_numpy(rectangles)), torch.tensor(indices)

    def _read(self, index: int) -> Image.Image:
        return Image.fromarray(self.file.pixels[index])

    @staticmethod
    def collate(batch: tuple) -> tuple:
        """Batches come whole from `__getitems__`."""
        return batch

    def to_input(self, batch: CachedBatch, device: torch.device) -> torch.Tensor:
        """Normalised images [B, 3, H, W] on the device, in the layout that convolutions are fastest on.

        On the CPU they are equal to the last bit to those of the transforms for single images.
        """
        pixels = batch.images.to(device, non_blocking=True)
        count, height, width, channels = pixels.shape
        # rows of pixels as one dimension: loops over three channels at a time would take many times longer
        pixels = pixels.view(count, height, width * channels)
        mean, std = (values.repeat(width).to(device) for values in (self.mean, self.std))
        images = torch.empty(pixels.shape, device=device)
        step = 1 if images.device.type == 'cpu' else count  # one image at once stays in a core's own cache
        for out, one in zip(images.split(step), pixels.split(step), strict=True):
            out.copy_(one).div_(255).sub_(mean).div_(std)
        if self.erase:
            value = self.erase.value.flatten().repeat(width).to(device)
            for image, (top, left, h, w) in zip(images, batch.rectangles.tolist(), strict=True):
                image[top : top + h, left * channels : (left + w) * channels] = value[: w * channels]
        return images.view(count, height, width, channels).permute(0, 3, 1, 2)
