"""Users' own rows of text -> records: tables, labels of embeddings, and the index and the labels of shards."""

import csv
import itertools
import logging
import math
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from sys import intern

from msinet_timm.datasets.archive import image_file
from msinet_timm.datasets.records import PARTS, Record, ReIDDataset, check_cameras, cover_pixels, sort_names
from msinet_timm.errors import InputError, needs

from .clothes import clothes_protocol
from .layout import JUNK, no_text, open_text
from .reader import Option

__all__ = ['FIELDS', 'TRACKLETS_OPTION', 'own_dataset', 'parse_row', 'place_image', 'read_rows', 'tell_tracklets']

#: What users may tell of an image, apart from its path and box.
FIELDS = Record._fields[1:-1]
TRACKLETS_OPTION = Option(
    'tracklets',
    'auto',
    'names of tracklets hold within a camera, or begin anew with each identity',
    ('auto', 'camera', 'identity'),
)
_LISTED = 20
_NEARLY_ALL = 0.9  # of numbers that begin anew; some may have been left out
_EXACT = 2**53  # up to here, floats tell all integers apart
_SHORTENED = re.compile(r'\d+([.,]\d+)?e\+\d+', re.IGNORECASE)

_logger = logging.getLogger(__name__)


def parse_row(path: str, cells: Mapping[str, str], problem: Callable[[str, str], object]) -> Record:
    """The record that a row tells of.

    Args:
        path: of the image.
        cells: texts of fields of `Record`; one that is missing or empty is unknown.
        problem: called with the column of each wrong cell, and what is wrong with it.
    """
    identity = cells.get('identity')
    if not identity:
        problem('identity', 'empty')
    elif (identity[0] == '-' and identity[1:].isdecimal()) or identity in JUNK:
        problem('identity', f'{identity} is below 0; leave out images of nobody')
    get = cells.get  # a million rows have nine million cells
    names = [intern(name) if (name := get(field)) else None for field in FIELDS]
    for field in ('identity', 'camera'):
        if (name := get(field)) and '+' in name and _SHORTENED.fullmatch(name):
            problem(field, f'{name} is a number whose last digits a spreadsheet has dropped: write it as a text')
    if time := cells.get('time'):
        names[3] = _parse_time(time)
        if names[3] is None:
            problem('time', f"'{time}' must be an integer")
    box = None
    if text := cells.get('box'):
        box = _parse_box(text)
        if box is None:
            problem('box', f"'{text}' must be left, top, right and bottom in pixels, like 10 20 110 220")
    return Record(path, *names, box)


def _parse_time(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        try:
            number = float(text)  # as pandas writes integers where one is missing
        except ValueError:
            return None
        return int(number) if number.is_integer() else None


def _parse_box(text: str) -> tuple[int, int, int, int] | None:
    """The pixels that are covered; None where these are none, or it is no box."""
    numbers = text.strip('[]()').replace(',', ' ').replace(';', ' ').split()
    if len(numbers) != 4:
        return None
    try:
        return cover_pixels(tuple(map(int, numbers)))
    except ValueError:  # slower
        try:
            box = tuple(map(float, numbers))
        except ValueError:
            return None
        return cover_pixels(box) if all(map(math.isfinite, box)) else None


def own_dataset(
    name: str,
    root: str,
    parts: Mapping[str, Sequence[Record]],
    protocol: str,
    places: str,
    notes: tuple[str, ...] = (),
    tracklets: str = 'auto',
) -> ReIDDataset:
    """A user's data set from its records.

    Args:
        name: of the data set, as given to `create_dataset`.
        root: folder or table.
        parts: part -> records.
        protocol: standard or clothes-changing.
        places: what the parts are called in the layout, for messages.
        notes: of the data set.
        tracklets: see `TRACKLETS_OPTION`.

    Raises:
        InputError: only one of query and gallery, only some of the cameras, or clothes that are not known.
    """
    read = [tuple(parts.get(part, ())) for part in PARTS]
    told = [*tell_tracklets(read[:1], tracklets), *tell_tracklets(read[1:], tracklets)]
    if changed := [r for before, after in zip(read, told, strict=True) if before is not after for r in after]:
        name = next((r.tracklet for r in changed if r.tracklet), None)
        notes += (f'tracklets begin anew with each identity: their names are like {name}',) if name else ()
    records = dict(zip(PARTS, told, strict=True))
    if bool(records['query']) != bool(records['gallery']):
        raise InputError(f'{root} has only one of the {places} query and gallery: give both, or neither')
    check_cameras([record for part in records.values() for record in part])
    rules = clothes_protocol(protocol, records['query'] + records['gallery'])
    notes += (f'{protocol} protocol',) if rules.same_clothes_removed else ()
    return ReIDDataset(name, root, **records, protocol=rules, notes=notes)


def tell_tracklets(parts: Sequence[tuple[Record, ...]], tracklets: str = 'auto') -> Sequence[tuple[Record, ...]]:
    """Gives tracklets names that hold within a camera, where they are numbered anew for each identity.

    Args:
        parts: records of images that are told apart by identity, camera and tracklet.
        tracklets: `identity` where they begin anew with each identity, `camera` where not. `auto` finds out: they do if
            identities share some, and the lowest number is there for nearly all identities under all of their cameras,
            or, where no two cameras of an identity share a number, for nearly all identities.

    Returns:
        The parts, where need be with tracklets called `<identity>/<tracklet>`.
    """
    if tracklets == 'camera' or (tracklets == 'auto' and not _begin_anew(parts)):
        return parts
    return [
        tuple([r._replace(tracklet=r.tracklet and intern(f'{r.identity}/{r.tracklet}')) for r in records])
        for records in parts
    ]


def _begin_anew(parts: Sequence[Sequence[Record]]) -> bool:
    of = attrgetter('identity', 'camera', 'tracklet')  # fast where there are millions
    units = [unit for unit in set().union(*(map(of, records) for records in parts)) if unit[2] is not None]
    names = {number for _, _, number in units}
    if not all(map(str.isdecimal, names)) or len({unit[1:] for unit in units}) == len(units):
        return False
    lowest = sort_names(names)[0]
    firsts = {(identity, camera) for identity, camera, number in units if number == lowest}
    if len(firsts) >= _NEARLY_ALL * len({unit[:2] for unit in units}):
        return True
    once = len({(identity, number) for identity, _, number in units}) == len(units)
    return once and len({identity for identity, _ in firsts}) >= _NEARLY_ALL * len({unit[0] for unit in units})


def place_image(folder: str, path: str) -> str:
    r"""The path of an image that a table names, also where it has `\`, as on Windows, between folders."""
    place = os.path.join(folder, path)
    if '\\' in path and not os.path.exists(image_file(place)):
        other = os.path.join(folder, path.replace('\\', '/'))
        return other if os.path.exists(image_file(other)) else place
    return place


def read_rows(
    table: Path,
    required: Sequence[str],
    optional: Sequence[str],
    part_column: str,
    parts: Sequence[str],
    whole: Sequence[str],
    place: Callable[[str, Callable[[str, str], object]], str],
    encoding: str | None = None,
) -> dict[str, list[Record]]:
    """Reads a table of images.

    Args:
        table: file `*.parquet`, or text with commas, semicolons or tabs.
        required: names of columns that must be there, and filled. With `path` among them, no part may have an image
            twice.
        optional: others that are read.
        part_column: the one that tells the part that a row belongs to.
        parts: what it may hold.
        whole: columns that must be filled in all rows or in none.
        place: takes the cell `path` and what is to be called for problems with it, gives the image's path.
        encoding: of a text; None for that of the mark at its beginning, else UTF-8.

    Returns:
        Part -> records, in order.

    Raises:
        InputError: a file that cannot be read, a column missing, or wrong rows, of which the first 20 are listed.
    """
    parquet = table.suffix.lower() == '.parquet'
    columns, rows = _read_parquet(table) if parquet else _read_csv(table, encoding)
    _check_columns(table, columns, required, optional)
    # what is said not to be used is not
    places = {name: columns.index(name) for name in (*required, *optional) if name in columns}
    filled = [name for name in required if name != 'identity']
    # where rows are told by their numbers, arrays hold these: a million integers would take four times the memory
    without = {name: array('Q') for name in whole if name in places}
    having = set()
    records: dict[str, list[Record]] = {part: [] for part in parts}
    numbers = {part: array('Q') for part in parts}
    errors: list[tuple[int, str, str]] = []

    def problem(column: str, text: str) -> None:
        errors.append((number, column, text))

    for number, fields in rows:
        if surplus := len(fields) - len(columns):
            few = 'few' if surplus < 0 else 'many'
            problem('row', f'{abs(surplus)} fields too {few}; quote fields that hold a comma')
            continue
        known = len(errors)
        cells = {name: fields[index] for name, index in places.items()}
        for name in filled:
            if not cells[name]:
                problem(name, 'empty')
        for name, empty in without.items():
            if cells[name]:
                having.add(name)
            else:
                empty.append(number)
        part = cells[part_column]
        if part and part not in parts:
            problem(part_column, f"'{part}' must be one of {', '.join(parts)}")
        path = cells.get('path', '')
        record = parse_row(place(path, problem) if path else '', cells, problem)
        if len(errors) == known:
            records[part].append(record)
            numbers[part].append(number)
    if 'path' in required:
        for part in parts:
            errors += _repeated(records[part], numbers[part])
    errors += [
        (number, name, 'empty, but other rows have one') for name in having & set(without) for number in without[name]
    ]
    if errors:
        _report(table, 'row' if parquet else 'line', sorted(errors))
    return records


def _repeated(records: Sequence[Record], numbers: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    """Problems with images that are there twice. Different hashes mean different images, and take little memory."""
    if len({hash((r.path, r.box)) for r in records}) == len(records):
        return
    first: dict[tuple, int] = {}
    for record, number in zip(records, numbers, strict=True):
        if (before := first.setdefault((record.path, record.box), number)) != number:
            yield number, 'path', f'the same image as in {before}'


def _read_csv(table: Path, encoding: str | None) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Columns, and the fields of each line with its number."""
    rows = _csv_rows(table, encoding)
    return next(rows)[1], rows


def _csv_rows(table: Path, encoding: str | None) -> Iterator[tuple[int, list[str]]]:
    try:
        with open_text(table, encoding) as file:
            header = file.readline()
            lines = itertools.chain([header], file)
            reader = csv.reader(lines, delimiter=max(',;\t', key=header.count), skipinitialspace=True)
            yield 1, [name.strip() for name in next(reader, [])]
            for fields in reader:
                fields = [field.strip() for field in fields]
                if any(fields):
                    yield reader.line_num, fields
    except csv.Error as e:
        raise InputError(
            f'{table}: cannot read line {reader.line_num} ({e}); is there a quote that is not closed?'
        ) from e
    except OSError as e:
        raise InputError(f'{table}: cannot read this table ({e})') from e
    except UnicodeError as e:
        raise InputError(f'{no_text(table, "table", e)}, or, for -ds table, give the option encoding=cp1252') from e


def _read_parquet(table: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    with needs('parquet', f'{table}:'):
        import pyarrow
        from pyarrow import parquet
    try:
        content = parquet.read_table(table)
    except (OSError, pyarrow.ArrowException) as e:
        raise InputError(f'{table}: not a Parquet file ({str(e).splitlines()[0]})') from e
    batches = content.to_batches(max_chunksize=10_000)
    rows = (
        list(map(_to_text, row))
        for batch in batches
        for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)
    )
    return content.column_names, enumerate(rows, start=1)


def _to_text(value) -> str:
    if value is None or value != value:  # NaN is how pandas writes nothing
        return ''
    if isinstance(value, list | tuple):
        return ' '.join(map(_to_text, value))
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return str(int(value))
    return str(value).strip()


def _check_columns(table: Path, columns: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> None:
    if missing := [name for name in required if name not in columns]:
        raise InputError(
            f'{table}: lacks the column {", ".join(missing)}; it has {", ".join(columns) or "none"}. '
            f'Required are {", ".join(required)}, optional {", ".join(optional)}'
        )
    if twice := sorted({name for name in (*required, *optional) if columns.count(name) > 1}):
        raise InputError(f'{table}: has the column {", ".join(twice)} twice')
    if ignored := [name for name in columns if name not in (*required, *optional)]:
        _logger.warning('%s: columns %s are not used', table, ', '.join(ignored))


def _report(table: Path, unit: str, errors: list[tuple[int, str, str]]) -> None:
    lines = [f'  {unit} {number}, {column}: {problem}' for number, column, problem in errors[:_LISTED]]
    if len(errors) > _LISTED:
        lines.append(f'  and {len(errors) - _LISTED} more')
    count = '1 wrong entry' if len(errors) == 1 else f'{len(errors)} wrong entries'
    raise InputError('\n'.join([f'{table}: {count}', *lines]))
