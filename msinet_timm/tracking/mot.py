"""The text files of MOTChallenge: boxes by frame, as detectors find them and as trackers name them."""

import configparser
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msinet_timm.datasets.readers.layout import open_text, read_lines
from msinet_timm.errors import InputError
from msinet_timm.files import replace_text

__all__ = ['COLUMNS', 'Boxes', 'Sequence', 'read_boxes', 'read_sequence', 'write_boxes']

#: Of a row; what follows is not read.
COLUMNS = 'frame, identity, left, top, width, height, confidence'
_FEWEST = 6  # columns; a confidence may be missing
_FRAMES = 10**7
#: Frames per second, below which a film has: what is more is a mistake.
FASTEST = 10_000


class Boxes(NamedTuple):
    """Boxes of a film.

    Attributes:
        frame: [N] int64, from 1, ascending.
        identity: [N] int64; -1 where it is not known.
        box: [N, 4] float64 left, top, right and bottom in pixels.
        score: [N] float64 confidence; 1 where none is known.
    """

    frame: np.ndarray
    identity: np.ndarray
    box: np.ndarray
    score: np.ndarray


class Sequence(NamedTuple):
    """What `seqinfo.ini` tells of a folder of frames.

    Attributes:
        name: of the sequence.
        images: the folder of its frames.
        frame_rate: frames per second.
        length: number of frames.
    """

    name: str
    images: Path
    frame_rate: float
    length: int


def read_boxes(path: str | Path) -> Boxes:
    """Reads detections, or what a tracker or a person has named.

    Rows whose confidence is 0 in a file `gt.txt` are not to be counted, and left out. Where all confidences are -1,
    none is known. A file without lines is of a camera that nobody passed.

    Raises:
        InputError: the file cannot be read, or a line is not as `COLUMNS`; names the line.
    """
    path = Path(path)
    rows = [_parse(line, f'{path}, line {number}') for number, line in read_lines(path, may_be_empty=True)]
    table = np.array(rows).reshape(-1, 7)
    table = table[np.argsort(table[:, 0], kind='stable')]
    if path.name == 'gt.txt':
        table = table[table[:, 6] != 0]
    score = table[:, 6]
    if (score == -1).all():
        score = np.ones(len(table))
    wrong = (score < 0) | (score > 1)
    if wrong.any():
        row = table[np.argmax(wrong)]
        raise InputError(
            f'{path}: frame {row[0]:.0f} has a confidence of {row[6]:g}: 0 to 1 is expected, or -1 in all rows where '
            'none is known'
        )
    if len(table) and table[:, 4:6].max() <= 1.5:
        raise InputError(f'{path}: no box is larger than 1.5 pixels: left, top, width and height must be in pixels')
    box = np.c_[table[:, 2:4], table[:, 2:4] + table[:, 4:6]]
    return Boxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), box, score)


def _parse(line: str, place: str) -> list[float]:
    cells = line.strip().split(',')
    try:
        values = [float(cell) for cell in cells[:7]]
    except ValueError:
        values = []
    if len(values) < _FEWEST or not all(map(math.isfinite, values)):
        shown = line.strip()
        raise InputError(f'{place}: "{shown[:80]}" is not as in MOTChallenge: {COLUMNS}, with commas between')
    frame, identity, _, _, width, height, *score = values
    if frame != int(frame) or not 1 <= frame <= _FRAMES or identity != int(identity) or abs(identity) > 2**53:
        raise InputError(f'{place}: frame {frame:g}, identity {identity:g}: frames are whole numbers from 1 on')
    if width <= 0 or height <= 0:
        raise InputError(f'{place}: a box of {width:g}x{height:g} pixels: width and height must be greater than 0')
    return values[:6] + (score or [-1.0])


def write_boxes(path: str | Path, rows: Iterable[tuple[int, int, tuple[float, float, float, float], float]]) -> None:
    """Writes rows of frame, identity, box (left, top, right, bottom) and score as MOTChallenge's results.

    Raises:
        InputError: it cannot be written.
    """
    lines = [
        f'{frame},{identity},{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},{score:.4f},-1,-1,-1\n'
        for frame, identity, (left, top, right, bottom), score in rows
    ]
    replace_text(path, ''.join(lines), f'{path}: cannot write the tracks')


def read_sequence(folder: str | Path) -> Sequence:
    """Reads `seqinfo.ini` of a folder in the layout of MOTChallenge.

    Raises:
        InputError: it cannot be read; names the field.
    """
    path = Path(folder) / 'seqinfo.ini'
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open_text(path) as file:
            parser.read_file(file)
        section = parser['Sequence']
        rate, length = float(section['frameRate']), int(section['seqLength'])
        images = Path(folder) / section.get('imDir', 'img1')
        name = section.get('name', Path(folder).name)
    except (OSError, configparser.Error, KeyError, ValueError) as e:
        raise InputError(f'{path}: cannot be read: frameRate and seqLength are needed in [Sequence] ({e})') from e
    if not 0 < rate < FASTEST or length < 1:
        raise InputError(
            f'{path}: frameRate must be greater than 0 and seqLength at least 1, got {rate:g} and {length}'
        )
    return Sequence(name, images, rate, length)
