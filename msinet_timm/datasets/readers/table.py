"""Users' own images in a table: CSV or Parquet, checked row by row."""

import csv
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from msinet_timm.datasets.archive import image_file
from msinet_timm.datasets.records import ReIDDataset
from msinet_timm.errors import InputError

from .clothes import CLOTHES_OPTION, clothes_protocol
from .labels import FIELDS, make_records
from .reader import Option, Reader

__all__ = ['COLUMNS', 'TABLE', 'read_table']

COLUMNS = ('path', *FIELDS, 'box', 'split')
_REQUIRED = ('path', 'identity', 'split')
_PARTS = ('train', 'query', 'gallery')
_LISTED = 20

_logger = logging.getLogger(__name__)


def read_table(root: str, images: str | None = None, protocol: str = 'standard') -> ReIDDataset:
    """Reads a table with the columns `path`, `identity` and `split`, and perhaps others of `COLUMNS`.

    `split` is train, query or gallery; `box` is left, top, right and bottom in pixels, such as `10 20 110 220`;
    `time` is an integer; the others may be numbers or names. Further columns are ignored.

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
    parquet = table.suffix.lower() == '.parquet'
    columns, rows = _read_parquet(table) if parquet else _read_csv(table)
    _check_columns(table, columns)
    checker = _Checker(Path(images) if images is not None else table.parent)
    for number, row in rows:
        checker.add(number, row)
    checker.finish()
    if checker.errors:
        _report(table, 'row' if parquet else 'line', sorted(checker.errors))
    if bool(checker.parts['query']) != bool(checker.parts['gallery']):
        raise InputError(f'{table} has only one of the splits query and gallery: give both, or neither')
    if not any(checker.parts.values()):
        raise InputError(f'{table} has no rows')
    records = make_records(checker.parts)
    rules = clothes_protocol(protocol, records['query'] + records['gallery'])
    notes = (f'{protocol} protocol',) if rules.same_clothes_removed else ()
    return ReIDDataset('table', str(table), **records, protocol=rules, notes=notes)


def _read_csv(table: Path) -> tuple[list[str], Iterator]:
    try:
        # csv wants to see line ends itself
        with open(table, encoding='utf-8-sig', newline='') as file:
            text = file.readlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f'{table}: cannot read this table ({e}); it must be UTF-8 text') from e
    header = text[0] if text else ''
    delimiter = max(',;\t', key=header.count)
    reader = csv.reader(text, delimiter=delimiter)
    columns = [name.strip() for name in next(reader, [])]

    def rows():
        for fields in reader:
            if any(field.strip() for field in fields):
                row = {name: field.strip() for name, field in zip(columns, fields, strict=False)}
                yield reader.line_num, row | {'': len(fields) - len(columns)}

    return columns, rows()


def _read_parquet(table: Path) -> tuple[list[str], Iterator]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as e:
        raise InputError(f'{table}: needs pyarrow: pip install "msinet-timm[parquet]"') from e
    try:
        content = parquet.read_table(table)
    except (OSError, pyarrow.ArrowException) as e:
        raise InputError(f'{table}: not a Parquet file ({str(e).splitlines()[0]})') from e
    rows = ({name: _text(value) for name, value in row.items()} for row in content.to_pylist())
    return content.column_names, enumerate(rows, start=1)


def _text(value) -> str:
    if value is None or value != value:  # NaN is how pandas writes nothing
        return ''
    if isinstance(value, list | tuple):
        return ' '.join(map(_text, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _check_columns(table: Path, columns: list[str]) -> None:
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise InputError(
            f'{table}: lacks the column {", ".join(missing)}; it has {", ".join(columns) or "none"}. '
            f'Required are {", ".join(_REQUIRED)}, optional {", ".join(c for c in COLUMNS if c not in _REQUIRED)}'
        )
    twice = sorted({name for name in columns if name in COLUMNS and columns.count(name) > 1})
    if twice:
        raise InputError(f'{table}: has the column {", ".join(twice)} twice')
    ignored = [name for name in columns if name not in COLUMNS]
    if ignored:
        _logger.warning('%s: columns %s are not used', table, ', '.join(ignored))


def _report(table: Path, unit: str, errors: list[tuple[int, str, str]]) -> None:
    lines = [f'  {unit} {number}, {column}: {problem}' for number, column, problem in errors[:_LISTED]]
    if len(errors) > _LISTED:
        lines.append(f'  and {len(errors) - _LISTED} more')
    count = '1 wrong entry' if len(errors) == 1 else f'{len(errors)} wrong entries'
    raise InputError('\n'.join([f'{table}: {count}', *lines]))


class _Checker:
    """Collects rows by part, and what is wrong with them as (number, column, problem)."""

    def __init__(self, images: Path):
        self.images = images
        self.parts: dict[str, list[dict]] = {part: [] for part in _PARTS}
        self.errors: list[tuple[int, str, str]] = []
        self.numbers: dict[bool, list[int]] = {True: [], False: []}  # of rows with and without a camera
        self.seen: dict[tuple, int] = {}

    def add(self, number: int, row: dict) -> None:
        """Checks one row of texts; '' tells how many fields it has too many."""
        surplus = row.pop('', 0)
        if surplus:
            few = 'few' if surplus < 0 else 'many'
            self.errors.append((number, 'row', f'{abs(surplus)} fields too {few}; quote fields that hold a comma'))
            return
        row = {name: row[name] for name in COLUMNS if row.get(name)}
        problems = list(self._problems(row))
        self.numbers['camera' in row].append(number)
        if not problems:
            row['path'] = str(self.images / row['path'])
            key = row['split'], row['path'], row.get('box')
            if key in self.seen:
                problems = [('path', f'the same image as in {self.seen[key]}')]
            self.seen[key] = number
            self.parts[row.pop('split')].append(row)
        self.errors += [(number, *problem) for problem in problems]

    def finish(self) -> None:
        """Adds what only all rows tell: cameras must be known for all images or for none."""
        if self.numbers[True]:
            self.errors += [(n, 'camera', 'empty, but other rows have one') for n in self.numbers[False]]

    def _problems(self, row: dict) -> Iterator[tuple[str, str]]:
        for name in _REQUIRED:
            if name not in row:
                yield name, 'empty'
        if 'path' in row and not os.path.isfile(image_file(self.images / row['path'])):
            yield 'path', f'no such file: {self.images / row["path"]}'
        if 'split' in row and row['split'] not in _PARTS:
            yield 'split', f"'{row['split']}' must be one of {', '.join(_PARTS)}"
        if _is_integer(row.get('identity', '')) and int(row['identity']) < 0:
            yield 'identity', f'{row["identity"]} is below 0; leave out images of nobody'
        if 'time' in row and not _is_integer(row['time']):
            yield 'time', f"'{row['time']}' must be an integer"
        if 'box' in row:
            box = _box(row['box'])
            if box is None:
                yield 'box', f"'{row['box']}' must be left, top, right and bottom in pixels, like 10 20 110 220"
            row['box'] = box


def _is_integer(text: str) -> bool:
    return text.removeprefix('-').isdecimal()


def _box(text: str) -> tuple[int, int, int, int] | None:
    numbers = text.strip('[]()').replace(',', ' ').replace(';', ' ').split()
    if len(numbers) != 4 or not all(n.isdecimal() for n in numbers):
        return None
    left, top, right, bottom = map(int, numbers)
    return (left, top, right, bottom) if left < right and top < bottom else None


TABLE = Reader(
    read_table,
    about='your own images, in a CSV or Parquet table',
    layout=f'a file with the columns {", ".join(_REQUIRED)}, '
    f'and perhaps {", ".join(c for c in COLUMNS if c not in _REQUIRED)}',
    options=(Option('images', None, "folder that relative paths start from; default the table's"), CLOTHES_OPTION),
)
