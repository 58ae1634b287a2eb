"""Frames of films: video files by PyAV, folders of frames, sequences of MOTChallenge."""

import contextlib
import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from msinet_timm.datasets.images import load_image
from msinet_timm.datasets.readers.layout import image_names
from msinet_timm.datasets.records import sort_names
from msinet_timm.errors import InputError, explained, needs
from msinet_timm.files import check_regular

from .mot import FASTEST, read_sequence

__all__ = ['Film', 'Frame', 'open_film', 'write_video']

_logger = logging.getLogger(__name__)


class Frame(NamedTuple):
    """A frame of a film.

    Attributes:
        number: from 1.
        time: in seconds since the film's beginning.
        pixels: [H, W, 3] uint8, red, green and blue.
    """

    number: int
    time: float
    pixels: np.ndarray


class Film:
    """A film that is read from its beginning, as often as it is asked to.

    Attributes:
        path: of the file or folder.
        name: of the file without its ending, or of the folder.
        frame_rate: frames per second.
        length: number of frames, 0 where the file does not tell.
        truth: boxes with their identities, of a sequence that has them.
        detections: boxes without, of a sequence that has them.
    """

    def __init__(self, path: Path, name: str, frame_rate: float, length: int, files: list[Path] | None) -> None:
        self.path, self.name, self.frame_rate, self.length, self._files = path, name, frame_rate, length, files
        self.truth = self._beside('gt/gt.txt')
        self.detections = self._beside('det/det.txt')

    def _beside(self, name: str) -> Path | None:
        file = self.path / name
        return file if self._files is not None and file.is_file() else None

    def frames(self, start: int = 1) -> Iterator[Frame]:
        """Frames from one number on, as they are decoded.

        A video file that ends within a frame ends before it, with a warning.

        Raises:
            InputError: nothing can be decoded, an image cannot be read, or one is of another size than the first.
        """
        if self._files is None:
            yield from _decode(self, start)
            return
        size = None
        for number in range(start, len(self._files) + 1):
            file = self._files[number - 1]
            pixels = np.asarray(load_image(str(file)))
            size = size or pixels.shape
            if pixels.shape != size:
                raise InputError(
                    f'{file}: {pixels.shape[1]}x{pixels.shape[0]} pixels, where the frames before have '
                    f'{size[1]}x{size[0]}'
                )
            yield Frame(number, (number - 1) / self.frame_rate, pixels)


def open_film(path: str | Path, frame_rate: float | None = None) -> Film:
    """A video file, a folder in the layout of MOTChallenge (`seqinfo.ini`), or a folder of frames in order of names.

    Args:
        path: of the file or folder.
        frame_rate: frames per second, for a folder of frames (None: 30) or instead of what a sequence says.

    Raises:
        InputError: there is nothing to be read, or fewer frames than a sequence says.
        MissingPackageError: it is a file, and PyAV, an optional package, is missing.
    """
    path = Path(path)
    if frame_rate is not None and not 0 < frame_rate < FASTEST:
        raise InputError(f'frame_rate must be greater than 0 and below {FASTEST}, got {frame_rate:g}')
    if not path.is_dir():
        return _open_video(path)
    if not (path / 'seqinfo.ini').is_file():
        files = _list_frames(path)
        return Film(path, path.resolve().name, frame_rate or 30.0, len(files), files)
    known = read_sequence(path)
    files = _list_frames(known.images)
    if len(files) < known.length:
        raise InputError(f'{known.images}: {len(files)} frames, where seqinfo.ini says {known.length}')
    return Film(path, path.resolve().name, frame_rate or known.frame_rate, known.length, files[: known.length])


def _list_frames(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder of frames')
    stems = {Path(name).stem: name for name in image_names(folder)}
    if not stems:
        raise InputError(f'{folder}: there are no images in it, and no seqinfo.ini: give a film or a folder of frames')
    return [folder / stems[stem] for stem in sort_names(stems)]


@contextlib.contextmanager
def _container(path: Path) -> Iterator[Any]:
    with needs('video', 'reading video files'):
        import av
    try:
        check_regular(path)
    except OSError as e:
        raise InputError(f'{path}: cannot read this film ({e.strerror or e})') from e
    with explained(f'{path}: cannot read this film'):
        container = av.open(str(path))
    with container:
        if not container.streams.video:
            raise InputError(f'{path}: it holds no video')
        container.streams.video[0].thread_type = 'AUTO'
        yield container


def _open_video(path: Path) -> Film:
    with _container(path) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 30)
        return Film(path, path.stem, rate, stream.frames, None)


def _decode(film: Film, start: int) -> Iterator[Frame]:
    number, began, last = 0, None, -math.inf
    with _container(film.path) as container:
        stream = container.streams.video[0]
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        for frame in _whole_frames(container, film.path):
            number += 1
            time = (number - 1) / film.frame_rate if frame.time is None else frame.time
            began = time if began is None else began
            last = max(time - began, last + 1e-3)  # times that do not advance are those of a broken file
            if number >= start:
                yield Frame(number, last, frame.to_ndarray(format='rgb24'))
    if number == 0:
        raise InputError(f'{film.path}: it holds no frames')
    if number < film.length or last + 2 / film.frame_rate < seconds:
        whole = film.length or round(seconds * film.frame_rate)
        _logger.warning('%s: ends after %d of %d frames, perhaps it was cut off', film.path, number, whole)


def _whole_frames(container: Any, path: Path) -> Iterator[Any]:
    """Frames up to one that is damaged, of which a warning tells."""
    number = 0
    try:
        for packet in container.demux(video=0):
            for frame in packet.decode():
                if packet.is_corrupt or frame.is_corrupt:
                    raise ValueError('it is damaged')
                yield frame
                number += 1
    except (OSError, ValueError) as e:  # which PyAV's own errors are
        if number == 0:
            raise InputError(f'{path}: cannot read this film ({e})') from e
        _logger.warning('%s: ends within frame %d (%s): what comes before it counts', path, number + 1, e)


def write_video(path: str | Path, frames: Iterator[np.ndarray], frame_rate: float) -> None:
    """Writes frames [H, W, 3] uint8 as H.264 in an MP4 file, which browsers play; a line of pixels less where odd.

    Raises:
        MissingPackageError: PyAV, an optional package, is missing.
    """
    with needs('video', 'writing video files'):
        import av
    with av.open(str(path), 'w', format='mp4') as container:
        stream = container.add_stream(
            'libx264' if 'libx264' in av.codecs_available else 'mpeg4',
            rate=Fraction(frame_rate).limit_denominator(1001),
        )
        for number, pixels in enumerate(frames):
            height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
            if number == 0:
                stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format='rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
