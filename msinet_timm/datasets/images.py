"""The pictures of records: one way to open a file, and a torch data set for training and evaluation."""

from collections.abc import Callable, Sequence

from PIL import Image, ImageOps
from torch.utils.data import Dataset

from ..commands import InputError
from .records import Record

__all__ = ['ReIDImages', 'UnreadableImageError', 'load_image']


class UnreadableImageError(InputError):
    """A picture that cannot be read, with a message of one line even when it comes from a DataLoader's worker.

    DataLoader builds a worker's exception anew in the main process, from a text that holds the worker's whole
    traceback. The last line of that text is the message that was meant.
    """

    def __init__(self, message: str):
        if message.startswith('Caught '):
            message = message.rpartition(f'{type(self).__name__}: ')[2].strip()
        super().__init__(message)


def load_image(path: str, box: tuple[int, int, int, int] | None = None) -> Image.Image:
    """Opens a picture as RGB, turned upright as its EXIF orientation says, and crops it.

    Args:
        path: image file.
        box: left, top, right and bottom in pixels of the upright picture; None for all of it.

    Raises:
        UnreadableImageError: missing, truncated, no picture, or smaller than its box.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert('RGB')
    except Exception as e:  # Pillow's decoders raise a dozen types for broken files
        reason = ' '.join(str(e).split()) or type(e).__name__
        raise UnreadableImageError(f'{path}: cannot read this picture ({reason}); replace or remove it') from None
    if box is None:
        return image
    if box[2] > image.width or box[3] > image.height:
        raise UnreadableImageError(f'{path}: the box {box} reaches beyond its {image.width}x{image.height} pixels')
    return image.crop(box)


class ReIDImages(Dataset):
    """Pictures of records, each with its index, by which identity, camera and path are found.

    Args:
        records: what to read.
        transform: takes a PIL image in RGB, gives what a batch is collated from.
    """

    def __init__(self, records: Sequence[Record], transform: Callable):
        self.records = records
        self.transform = transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple:
        record = self.records[index]
        return self.transform(load_image(record.path, record.box)), index
