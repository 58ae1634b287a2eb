"""Users' own images in a table: CSV or Parquet, checked row by row."""

import os
from collections.abc import Callable
from pathlib import Path

from msinet_timm.datasets.archive import image_file
from msinet_timm.datasets.records import PARTS, ReIDDataset
from msinet_timm.errors import InputError

from .clothes import CLOTHES_OPTION
from .reader import Option, Reader
from .rows import FIELDS, TRACKLETS_OPTION, own_dataset, place_image, read_rows

__all__ = ['COLUMNS', 'TABLE', 'read_table']

_REQUIRED = ('path', 'identity', 'split')
_OPTIONAL = (*FIELDS[1:], 'box')
COLUMNS = (*_REQUIRED, *_OPTIONAL)


def read_table(
    root: str,
    images: str | None = None,
    protocol: str = 'standard',
    tracklets: str = 'auto',
    encoding: str | None = None,
) -> ReIDDataset:
    """Reads a table with the columns `path`, `identity` and `split`, and perhaps others of `COLUMNS`.

    `split` is train, query or gallery; `box` is left, top, right and bottom in pixels, such as `10 20 110.5 220`
    (pixels that it covers in part belong to it, what reaches beyond the image is cut off);
    `time` is an integer; the others are names, numbers or not. Further columns are ignored.

    Args:
        root: file `*.csv` (commas, semicolons or tabs) or `*.parquet`.
        images: folder that relative paths start from; None for the table's.
        protocol: standard or clothes-changing.
        tracklets: see `TRACKLETS_OPTION`.
        encoding: of a text, such as cp1252; None for that of the mark at its beginning, else UTF-8.

    Raises:
        InputError: a file that cannot be read, a column missing, or wrong rows, of which the first 20 are listed.
    """
    table = Path(root)
    if not table.is_file():
        raise InputError(f'{table} is no file: give a table, *.csv or *.parquet')
    folder = images if images is not None else str(table.parent)

    def place(path: str, problem: Callable[[str, str], object]) -> str:
        path = place_image(folder, path)
        if not os.path.isfile(image_file(path)):
            problem('path', f'no such file: {path}')
        return path

    parts = read_rows(table, _REQUIRED, _OPTIONAL, 'split', PARTS, ('camera',), place, _check_encoding(encoding))
    if not any(parts.values()):
        raise InputError(f'{table} has no rows')
    return own_dataset('table', str(table), parts, protocol, 'splits', tracklets=tracklets)


def _check_encoding(encoding: str | None) -> str | None:
    try:
        ''.encode(encoding or 'utf-8')
    except LookupError as e:
        raise InputError(f'option encoding={encoding}: {e}; give one that Python knows, such as cp1252') from e
    return encoding


TABLE = Reader(
    read_table,
    about='your own images, in a CSV or Parquet table',
    layout=f'a file with the columns {", ".join(_REQUIRED)}, and perhaps {", ".join(_OPTIONAL)}',
    options=(
        Option('images', None, "folder that relative paths start from; default the table's"),
        CLOTHES_OPTION,
        TRACKLETS_OPTION,
        Option('encoding', None, 'of a text without a mark that is not UTF-8, such as cp1252'),
    ),
)
