"""The images of records: one way to open a file or take what a program holds, and a torch data set of them."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch.utils.data import Dataset, default_collate

from msinet_timm.errors import InputError, one_line
from msinet_timm.files import check_regular, pointer

from .archive import image_file, read_image, split_path
from .records import Record, cover_pixels

__all__ = [
    'FORMATS',
    'Change',
    'IMAGE_SUFFIXES',
    'ImageLike',
    'ReIDImages',
    'UnreadableImageError',
    'any_image',
    'load_image',
    'load_mask',
    'rgb_image',
    'rgb_pixels',
    'through_jpeg',
]

#: All that Pillow is asked to read, MPO as JPEG. It knows 40 more, some of which start other programs.
FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'PPM', 'WEBP', 'TIFF', 'JPEG2000')
#: How names of such files end, in any capitalisation: what else lies in a folder is no image.
IMAGE_SUFFIXES = (
    '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.gif', '.jp2',
)  # fmt: skip


#: From the index of an image, and what reads the RGB image with an index, to an RGB image.
Change = Callable[[int, Callable[[int], Image.Image]], Image.Image]
#: What programs may give as an image, see `any_image`.
ImageLike = str | Path | Image.Image | np.ndarray | torch.Tensor


class UnreadableImageError(InputError):
    """An image that cannot be read, with a message of one line even when it comes from a DataLoader's worker.

    DataLoader builds a worker's exception anew in the main process, from a text that holds the worker's whole
    traceback. The last line of that text is the message that was meant.
    """

    def __init__(self, message: str):
        if message.startswith('Caught '):
            message = message.rpartition(f'{type(self).__name__}: ')[2].strip()
        super().__init__(message)


def load_image(
    path: str,
    box: tuple[int, int, int, int] | None = None,
    at_least: tuple[int, int] | None = None,
    content: bytes | None = None,
) -> Image.Image:
    """Opens an image as RGB, turned upright as its EXIF orientation says, and crops it.

    Grey becomes three equal channels, of 16 bits the upper 8. Transparency is dropped, not blended with a background:
    the colours are those that Pillow's `convert('RGB')` gives, and so torchvision's loaders. Of several images in
    a file (GIF, TIFF) it is the first.

    Args:
        path: image file of one of `FORMATS`, or member of a local shard.
        box: left, top, right and bottom in pixels of the upright image, beyond which it is cut off; None for all of
            it.
        at_least: height and width down to which a JPEG without a box may be decoded at a half, a quarter or an eighth
            of its size: faster, but its pixels differ slightly from those of a resize. None decodes at full size.
        content: of the file, where it has been read already.

    Raises:
        UnreadableImageError: missing, no regular file, truncated, no image, larger than Pillow's
            `Image.MAX_IMAGE_PIXELS`, numbers that are no colours, or nothing of it in its box.
    """
    try:
        if content is None and split_path(path):
            content = read_image(path)
        if content is None:
            check_regular(path)
        with Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as file:
            _refuse_bombs(file)
            if at_least and box is None:
                height, width = at_least
                turned = file.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
                file.draft(None, (height, width) if turned else (width, height))
            image = _to_rgb(ImageOps.exif_transpose(file))
    except Exception as e:  # Pillow's decoders raise a dozen types for broken files
        unknown = isinstance(e, UnidentifiedImageError)
        reason = pointer(image_file(path)) or (f'it is none of {", ".join(FORMATS)}' if unknown else one_line(e))
        raise UnreadableImageError(f'{path}: cannot read this image ({reason}); replace or remove it') from None
    if box is None:
        return image
    inner = cover_pixels(box, image.size)
    if inner is None:
        raise UnreadableImageError(f'{path}: the box {box} shows nothing of its {image.width}x{image.height} pixels')
    return image.crop(inner)


def load_mask(path: str | os.PathLike, size: tuple[int, int]) -> Image.Image:
    """Opens a mask, of 8 bits, and resizes it.

    Args:
        path: image file of one of `FORMATS`.
        size: width and height.

    Raises:
        UnreadableImageError: as for `load_image`.
    """
    return load_image(os.fspath(path)).convert('L').resize(size)


def rgb_image(image: Image.Image, name: str) -> Image.Image:
    """An image that a program has opened or made, as `load_image` gives that of a file.

    It is turned upright as its EXIF orientation says, which what Pillow makes of an image keeps, such as crops;
    `PIL.ImageOps.exif_transpose` takes it away.

    Args:
        image: of any kind that Pillow has.
        name: what a message calls it.

    Raises:
        InputError: it has no pixels, cannot be decoded, or holds numbers that are no colours.
    """
    if not image.width or not image.height:
        raise InputError(f'{name} has no pixels')
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as e:
        raise InputError(f'{name}: cannot read this image ({one_line(e)})') from None


def rgb_pixels(pixels: np.ndarray, name: str) -> np.ndarray:
    """An array [H, W, 3] of RGB or BGR as bytes: of 16 bits the upper 8, as `load_image` does it.

    Args:
        pixels: [H, W, 3] uint8 or uint16.
        name: what a message calls them.

    Raises:
        InputError: another type or shape; or 16 bits of which only 8 are used, so that it cannot be told which are
            meant.
    """
    known = isinstance(pixels, np.ndarray) and pixels.dtype.kind == 'u' and pixels.itemsize <= 2
    if not known or pixels.ndim != 3 or pixels.shape[2] != 3:
        got = f'{list(pixels.shape)} {pixels.dtype}' if isinstance(pixels, np.ndarray) else type(pixels).__name__
        grey = '; give grey as Image.fromarray(array)' if known and pixels.ndim == 2 else ''
        raise InputError(f'{name} must be an array [H, W, 3] uint8, or uint16 of all 16 bits, got {got}{grey}')
    if not pixels.size:
        raise InputError(f'{name} has no pixels')
    return pixels if pixels.itemsize == 1 else _upper(pixels, f'{name}: ')


def any_image(image: ImageLike, name: str) -> Image.Image:
    """Whatever a program has for an image, as RGB.

    Args:
        image: a file; a PIL image of any mode; an array [H, W, 3] or a tensor [3, H, W], both uint8 or uint16.
        name: what a message calls it.

    Raises:
        InputError: it cannot be read, or is none of these.
    """
    if isinstance(image, torch.Tensor):
        known = image.dtype in (torch.uint8, torch.uint16)
        if not known or image.ndim != 3 or len(image) != 3 or not image.numel():
            raise InputError(
                f'{name} must be a tensor [3, H, W] uint8, or uint16 of all 16 bits, got {list(image.shape)} '
                f'{image.dtype}'
            )
        image = image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(rgb_pixels(image, name)))
    if isinstance(image, str | Path):
        return load_image(str(image))
    if isinstance(image, Image.Image):
        return rgb_image(image, name)
    raise InputError(f'{name} must be a file, a PIL image, an array or a tensor, got {type(image).__name__}')


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """What a JPEG file of a quality, 1 to 100, keeps of an image."""
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=quality)
    return Image.open(file, formats=('JPEG',))


def _upper(numbers: np.ndarray, name: str = '') -> np.ndarray:
    """The upper 8 of 16 bits; refuses numbers that only use the lower 8, as bytes do that were made wider."""
    if 0 < numbers.max() <= 0xFF:
        raise InputError(
            f'{name}no number is above 255, so that 8 bits may be meant, or dark ones of 16 bits: convert it to 8 bits '
            '(uint8)'
        )
    return (numbers >> 8).astype(np.uint8)


def _refuse_bombs(image: Image.Image) -> None:
    """Pillow itself only warns from this limit on, and refuses from twice as many pixels."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        raise ValueError(f'{image.width}x{image.height} pixels, more than the {limit:,} that are safe to decode')


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I'):  # Pillow would clip these at 255
        numbers = np.asarray(image)
        if numbers.min() < 0 or numbers.max() > 0xFFFF:
            raise ValueError('numbers beyond 16 bits; convert it to 8 bits')
        # what is stored as 16 bits may be dark
        image = Image.fromarray(_upper(numbers) if image.mode == 'I' else (numbers >> 8).astype(np.uint8))
    elif image.mode == 'F':
        raise ValueError('fractional numbers of unknown range; convert it to 8 bits')
    elif image.mode == 'P':  # Pillow warns where a palette with transparency becomes RGB at once
        image = image.convert('RGBA')
    return image.convert('RGB')


class ReIDImages(Dataset):
    """Images of records, each with its index, by which identity, camera and path are found.

    Args:
        records: what to read.
        transform: takes a PIL image in RGB, gives what a batch is collated from.
        at_least: see `load_image`.
        change: called with the index of an image, and what reads the image with an index, gives the image to transform;
            None for the one that was read.
    """

    collate = staticmethod(default_collate)

    def __init__(
        self,
        records: Sequence[Record],
        transform: Callable,
        at_least: tuple[int, int] | None = None,
        change: Change | None = None,
    ) -> None:
        self.records = records
        self.transform = transform
        self.at_least = at_least
        self.change = change

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple:
        return self.transform(self.change(index, self._read) if self.change else self._read(index)), index

    def _read(self, index: int) -> Image.Image:
        record = self.records[index]
        return load_image(record.path, record.box, self.at_least)

    @staticmethod
    def to_input(images: torch.Tensor, device: torch.device) -> torch.Tensor:
        """A batch [B, C, H, W] on the device, in the layout that convolutions are fastest on."""
        return images.to(device, memory_format=torch.channels_last, non_blocking=True)
