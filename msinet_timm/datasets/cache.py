"""A cache of decoded and resized images, in memory or in a folder, for data sets that are read again and again."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import filelock
import numpy as np
import PIL
from PIL import features
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, InterpolationMode, Resize

from msinet_timm.commands import progress
from msinet_timm.errors import InputError
from msinet_timm.files import replace_file

from .archive import image_file
from .cached_images import CachedImages, Erasing, PixelFile
from .images import Change, ReIDImages, UnreadableImageError
from .records import Record

__all__ = ['CACHE', 'ImageCache', 'open_cache']

_logger = logging.getLogger(__name__)

#: Help of the flag.
CACHE = 'keep decoded and resized images in memory or in a folder, for the same pixels much faster (default: none)'

_DIGEST = 32  # bytes of SHA-256


def open_cache(place: str, workers: int = 0) -> 'ImageCache | None':
    """The cache that `--cache` asks for: None for `'none'`, else see `ImageCache`."""
    return None if place == 'none' else ImageCache(place, workers)


class ImageCache:
    """Images resized to a model's input, as bytes.

    There is one file for each list of images and resize: pixels [N, H, W, 3], then for each image its file's size
    and time of change, then a checksum of those, which a file that was cut short lacks. A file is built under another
    name, by one process at a time, and takes its place in one step; those who read an older one keep it until they are
    done. Images that have changed since are read anew when the cache is opened.

    Args:
        place: `'memory'`, or a folder, which is made where it is missing and may be deleted at any time.
        workers: processes that read images while a file is built; 0 reads them in this one.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, place: str, workers: int = 0) -> None:
        self.place = place
        self.workers = workers
        self._open: dict[str, PixelFile] = {}
        if place != 'memory':
            try:
                Path(place).mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise self._error(f'cannot be used as a folder ({e.strerror})') from e

    def images(
        self,
        records: Sequence[Record],
        data_config: dict,
        augment: Callable[[np.ndarray], np.ndarray] | None = None,
        erase: Erasing | None = None,
        draft: bool = False,
        change: Change | None = None,
    ) -> CachedImages:
        """The images of records, which are read now unless they are in the cache.

        Args:
            records: at least one.
            data_config: timm's, of which `input_size`, `mean`, `std` and `interpolation` count.
            augment: see `CachedImages`, and so `erase` and `change`.
            draft: whether large JPEGs are decoded at a lower resolution, see `load_image`.

        Raises:
            InputError: an image that is missing or broken, a config that crops, or a cache that can't be written.
        """
        if data_config.get('crop_pct', 1) != 1 or data_config.get('crop_mode', 'squash') != 'squash':
            raise InputError("a cache holds whole images: give a config with crop_pct 1 and crop_mode 'squash'")
        size = tuple(data_config['input_size'][1:])
        name = _name(records, size, data_config['interpolation'], draft)
        if name not in self._open:
            resize = Resize(size, InterpolationMode(data_config['interpolation']))
            images = ReIDImages(records, Compose([resize, np.array]), size if draft else None)
            self._open[name] = self._file(name, images, (len(records), *size, 3))
        return CachedImages(records, self._open[name], data_config['mean'], data_config['std'], augment, erase, change)

    def _file(self, name: str, images: ReIDImages, shape: tuple[int, ...]) -> PixelFile:
        stamps = self._stamps(images.records)
        try:
            if self.place == 'memory':
                return self._in_memory(images, shape)
            path = Path(self.place) / name
            if not np.array_equal(_read_stamps(path, shape), stamps):
                with self._lock(path):
                    # another process may have built it meanwhile
                    if not np.array_equal(_read_stamps(path, shape), stamps):
                        self._replace(path, images, stamps, shape)
            return PixelFile(path, shape)
        except OSError as e:
            raise self._error(f'cannot be used ({e.strerror or e})') from e

    def _stamps(self, records: Sequence[Record]) -> np.ndarray:
        """[N, 2] int64: size in bytes and time of change in nanoseconds of each file."""
        stamps = []
        for record in records:
            try:
                status = os.stat(image_file(record.path))
            except OSError as e:
                raise InputError(
                    f'--cache {self.place}: {record.path} has vanished or cannot be read ({e.strerror}): '
                    'bring it back, or go on without it by --skip-broken'
                ) from e
            stamps.append((status.st_size, status.st_mtime_ns))
        return np.array(stamps, np.int64)

    @contextlib.contextmanager
    def _lock(self, path: Path) -> Iterator[None]:
        lock = filelock.FileLock(path.with_suffix('.lock'))
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            _logger.info(f'--cache {self.place}: waiting for another process that fills it')
            lock.acquire()
        except NotImplementedError as e:
            raise self._error('its file system has no locks') from e
        try:
            yield
        finally:
            lock.release()

    def _replace(self, path: Path, images: ReIDImages, stamps: np.ndarray, shape: tuple[int, ...]) -> None:
        """Builds a file and puts it in the place of an older one, of which it takes the images that are unchanged."""
        old_stamps = _read_stamps(path, shape)
        old = None if old_stamps is None else PixelFile(path, shape).pixels
        stale = np.ones(len(stamps), bool) if old is None else (old_stamps != stamps).any(1)
        self._refuse_if_short(shape, shutil.disk_usage(self.place).free)

        def write(draft: Path) -> None:
            with open(draft, 'wb') as file:
                self._write(file, images, stale, old)
                file.write(stamps.tobytes())
                file.write(_digest(stamps.tobytes(), shape))

        replace_file(path, write, str(self._error('cannot be used')))

    def _in_memory(self, images: ReIDImages, shape: tuple[int, ...]) -> PixelFile:
        """A file without a name on the disk, which all processes share and which goes away with them."""
        if hasattr(os, 'memfd_create'):
            self._refuse_if_short(shape, _available_memory())
            file = open(os.memfd_create('msinet-cache'), 'wb')  # noqa: SIM115 - stays open as long as it is mapped
            path = f'/proc/{os.getpid()}/fd/{file.fileno()}'
        else:
            self._refuse_if_short(shape, shutil.disk_usage(tempfile.gettempdir()).free)
            file = tempfile.NamedTemporaryFile(prefix='msinet-cache-')  # noqa: SIM115
            path = file.name
        self._write(file, images, np.ones(shape[0], bool), None)
        file.flush()
        return PixelFile(path, shape, keep=file)

    def _write(self, file: BinaryIO, images: ReIDImages, stale: np.ndarray, old: np.ndarray | None) -> None:
        """Writes all pixels in order: those of stale images as they are read, others from the older file."""
        indices = np.flatnonzero(stale).tolist()
        loader = DataLoader(images, 16, sampler=indices, num_workers=self.workers)
        _logger.info(f'--cache {self.place}: reading {len(indices):,} of {len(images):,} images')
        try:
            fresh = (image for batch, _ in loader for image in batch.numpy())
            for index in progress(range(len(images)), desc='cache', unit='img'):
                file.write(next(fresh) if stale[index] else old[index])
        except UnreadableImageError as e:
            # a worker's traceback would keep the loader alive
            raise e.with_traceback(None) from None

    def _refuse_if_short(self, shape: tuple[int, ...], free: int) -> None:
        needed = int(np.prod(shape, dtype=np.int64))
        if needed > free:
            raise self._error(f'{shape[0]:,} images take {needed / 1e9:,.3f} GB but {free / 1e9:,.3f} GB are free')

    def _error(self, problem: str) -> InputError:
        return InputError(f'--cache {self.place}: {problem}; choose another folder, or --cache none')


def _name(records: Sequence[Record], size: tuple[int, int], interpolation: str, draft: bool) -> str:
    """Of the file for these images, resized like this by these versions of the decoders."""
    decoders = [PIL.__version__, *(features.version(name) for name in ('jpg', 'libjpeg_turbo'))]
    images = [[os.path.abspath(r.path), r.box] for r in records]
    key = json.dumps([size, interpolation, draft, decoders, images])
    return f'{size[0]}x{size[1]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.cache'


def _digest(stamps: bytes, shape: tuple[int, ...]) -> bytes:
    return hashlib.sha256(stamps + repr(shape).encode()).digest()


def _read_stamps(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The stamps that a file was built with; None if there is none or it is not whole."""
    length = 16 * shape[0]
    try:
        with open(path, 'rb') as file:
            file.seek(int(np.prod(shape, dtype=np.int64)))
            tail = file.read(length + _DIGEST + 1)
    except FileNotFoundError:
        return None
    stamps, digest = tail[:length], tail[length:]
    return np.frombuffer(stamps, np.int64).reshape(-1, 2) if digest == _digest(stamps, shape) else None


def _available_memory() -> int:
    """Bytes that can be had without swapping, as Linux estimates it."""
    for line in Path('/proc/meminfo').read_text(encoding='ascii').splitlines():
        if line.startswith('MemAvailable:'):
            return 1024 * int(line.split()[1])
    return 1 << 62
