"""Users' own images in a table: CSV or Parquet, checked row by row."""

import os
from collections.abc import Callable
from pathlib import Path

from msinet_timm.datasets.archive import image_file
from msinet_timm.datasets.records import PARTS, ReIDDataset
from msinet_timm.errors import InputError

from .clothes import CLOTHES_OPTION
from .reader import Option, Reader
from .rows import FIELDS, own_dataset, read_rows

__all__ = ['COLUMNS', 'TABLE', 'read_table']

_REQUIRED = ('path', 'identity', 'split')
_OPTIONAL = (*FIELDS[1:], 'box')
COLUMNS = (*_REQUIRED, *_OPTIONAL)


def read_table(root: str, images: str | None = None, protocol: str = 'standard') -> ReIDDataset:
    """Reads a table with the columns `path`, `identity` and `split`, and perhaps others of `COLUMNS`.

    `split` is train, query or gallery; `box` is left, top, right and bottom in pixels, such as `10 20 110 220`;
    `time` is an integer; the others are names, numbers or not. Further columns are ignored.

    Args:
        root: file `*.csv` (commas, semicolons or tabs) or `*.parquet`.
        images: folder that relative paths start from; None for the table's.
        protocol: standard or clothes-changing.

    Raises:
        InputError: a file that cannot be read, a column missing, or wrong rows, of which the first 20 are listed.
    """
    table = Path(root)
    if not table.is_file():
        raise InputError(f'{table} is no file: give a table, *.csv or *.parquet')
    folder = images if images is not None else str(table.parent)

    def place(path: str, problem: Callable[[str, str], object]) -> str:
        path = os.path.join(folder, path)
        if not os.path.isfile(image_file(path)):
            problem('path', f'no such file: {path}')
        return path

    parts = read_rows(table, _REQUIRED, _OPTIONAL, 'split', PARTS, ('camera',), place)
    if not any(parts.values()):
        raise InputError(f'{table} has no rows')
    return own_dataset('table', str(table), parts, protocol, 'splits')


TABLE = Reader(
    read_table,
    about='your own images, in a CSV or Parquet table',
    layout=f'a file with the columns {", ".join(_REQUIRED)}, and perhaps {", ".join(_OPTIONAL)}',
    options=(Option('images', None, "folder that relative paths start from; default the table's"), CLOTHES_OPTION),
)
