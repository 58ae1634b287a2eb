"""Data sets in WebDataset shards: tar archives of images with their labels, and one index of them all.

A folder, or a place that webdataset opens by URL, holds `index.csv`, `train-000000.tar`, `query-000000.tar`,
`gallery-000000.tar` and so on. A sample is two members of a shard: `KEY.jpg` (or another kind that Pillow reads) and
`KEY.json`, an object with `identity` and whatever else of `Record` is known. The index has a row for each image, so
that records are known without reading the shards.
"""

import csv
import io
import json
import logging
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from msinet_timm.commands import progress
from msinet_timm.datasets.archive import is_remote, open_shard, split_path
from msinet_timm.datasets.readers.clothes import CLOTHES_OPTION, clothes_protocol
from msinet_timm.datasets.readers.labels import FIELDS, make_records
from msinet_timm.datasets.readers.reader import Reader
from msinet_timm.datasets.records import Record, ReIDDataset
from msinet_timm.errors import InputError

__all__ = ['INDEX', 'SHARDS', 'read_shards', 'write_index']

INDEX = 'index.csv'
COLUMNS = ('shard', 'member', *FIELDS, 'box')
_PARTS = ('train', 'query', 'gallery')
# such names are safe in shell commands (`pipe:`), too
_NAME = re.compile(r'(train|query|gallery)-[\w.-]+\.tar', re.ASCII)
_REBUILD = 'delete the index to have it built anew'
_EXPECTED = {'identity': 'an integer of 0 or more', 'box': 'left, top, right and bottom in pixels'}

_logger = logging.getLogger(__name__)


def read_shards(root: str, protocol: str = 'standard') -> ReIDDataset:
    """Reads the index; where a local folder has none, builds it from the shards and leaves it there.

    Args:
        root: local folder, or URL that files are found under: `https://...`, or `pipe:COMMAND` with `{}` for the file.
        protocol: standard or clothes-changing.

    Raises:
        InputError: no index and no shards, shards that are missing, cut short or not in the index, or wrong rows; from
            shards without index: samples without image, label or a field, and fields of a wrong type.
    """
    root = root.rstrip('/') if is_remote(root) else str(Path(root))
    shards = None if is_remote(root) else _find_shards(Path(root))
    if shards is None or (Path(root) / INDEX).is_file():
        parts = _read_index(root, shards)
    else:
        parts = _build_index(Path(root), shards)
    if bool(parts['query']) != bool(parts['gallery']):
        raise InputError(f'{root} has only one of the parts query and gallery: give both, or neither')
    _check_cameras([record for records in parts.values() for record in records])
    rules = clothes_protocol(protocol, parts['query'] + parts['gallery'])
    notes = (f'{protocol} protocol',) if rules.same_clothes_removed else ()
    return ReIDDataset('shards', root, **parts, protocol=rules, notes=notes)


def _find_shards(folder: Path) -> list[str]:
    """Names of the shards in a local folder, each of which is whole."""
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder')
    names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))
    if not names:
        raise InputError(f'{folder} holds no shards: expected train-000000.tar, query-000000.tar, gallery-000000.tar')
    for name in names:
        with open(folder / name, 'rb') as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1024))
            if file.read() != bytes(1024):  # the end of every tar archive
                raise InputError(f'{folder / name} is cut short: copy or write it again')
    return names


def _check_cameras(records: Sequence[Record]) -> None:
    without = next((r.path for r in records if r.camera is None), None)
    if without and any(r.camera is not None for r in records):
        raise InputError(f'{without} has no camera but other images have: give all of them one, or none')


def write_index(folder: Path, parts: Mapping[str, Sequence[Record]]) -> None:
    """Writes the index of a folder of shards.

    Args:
        folder: of the shards.
        parts: records whose paths name a shard in the folder and a member.

    Raises:
        OSError: it cannot be written.
    """
    partial = folder / f'{INDEX}.{os.getpid()}.tmp'  # other processes may build it, too
    with open(partial, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for part in _PARTS:
            for record in parts.get(part, ()):
                shard, member = split_path(record.path)
                fields = ('' if value is None else value for value in record[1:-1])
                writer.writerow([os.path.basename(shard), member, *fields, ' '.join(map(str, record.box or ()))])
    partial.replace(folder / INDEX)


def _read_index(root: str, shards: Sequence[str] | None) -> dict[str, tuple[Record, ...]]:
    """Records by part; shards are those that are there, None where that is not known."""
    path = f'{root}/{INDEX}'
    try:
        with open_shard(path) as file:
            text = file.read().decode('utf-8-sig')
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            f'{path}: cannot read the index ({e}); it belongs beside the shards, and is built where they are local'
        ) from e
    rows = csv.reader(io.StringIO(text, newline=''))
    if (header := tuple(next(rows, ()))) != COLUMNS:
        raise InputError(f'{path}: expected the columns {",".join(COLUMNS)}, got {",".join(header)}; {_REBUILD}')
    parts: dict[str, list[Record]] = {part: [] for part in _PARTS}
    named = set()
    for row in rows:
        name = row[0] if row else ''
        if name not in named:
            if not _NAME.fullmatch(name):
                raise InputError(f"{path}, line {rows.line_num}: '{name}' is no shard such as train-000000.tar")
            if shards is not None and name not in shards:
                raise InputError(f'{root}/{name} is missing, but {INDEX} names it: bring it back, or {_REBUILD}')
            named.add(name)
        parts[name.partition('-')[0]].append(_parse_row(row, root, f'{path}, line {rows.line_num}'))
    if unknown := set(shards or ()) - named:
        raise InputError(f'{root}/{min(unknown)} is not in {INDEX}: remove it, or {_REBUILD}')
    if not named:
        raise InputError(f'{path} has no rows: {_REBUILD}')
    return {part: tuple(records) for part, records in parts.items()}


def _to_number(text: str) -> int | None:
    return int(text) if text else None


def _to_label(text: str) -> int:
    if (label := int(text)) < 0:
        raise ValueError('below 0')
    return label


def _to_box(text: str) -> tuple[int, int, int, int] | None:
    return _check_box(tuple(map(int, text.split()))) if text else None


def _check_box(box: Sequence[int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    if not (0 <= left < right and 0 <= top < bottom):
        raise ValueError('empty box')
    return left, top, right, bottom


_CELLS = dict.fromkeys(FIELDS, _to_number) | {'identity': _to_label, 'domain': lambda text: text or None}
_PARSERS = tuple((_CELLS | {'box': _to_box}).items())


def _parse_row(row: Sequence[str], root: str, where: str) -> Record:
    if len(row) != len(COLUMNS) or not row[1]:
        raise InputError(f'{where}: expected {len(COLUMNS)} fields and a member, got {",".join(row)}; {_REBUILD}')
    values = []
    for (column, parse), text in zip(_PARSERS, row[2:], strict=True):
        try:
            values.append(parse(text))
        except ValueError:
            raise InputError(
                f"{where}, {row[0]}/{row[1]}: {column} '{text}' must be {_EXPECTED.get(column, 'an integer')}; "
                f'{_REBUILD}'
            ) from None
    return Record(f'{root}/{row[0]}/{row[1]}', *values)


def _build_index(folder: Path, shards: Sequence[str]) -> dict[str, tuple[Record, ...]]:
    _logger.info(f'{folder}: building {INDEX} from {len(shards):,} shards')
    parts: dict[str, list[dict]] = {part: [] for part in _PARTS}
    for name in progress(shards, desc='index', unit='shard'):
        parts[name.partition('-')[0]] += _scan(f'{folder}/{name}')
    records = make_records(parts)
    try:
        write_index(folder, records)
    except OSError as e:
        _logger.warning(f'{folder}: cannot keep {INDEX} ({e.strerror}), so that it will be built again')
    return records


def _scan(shard: str) -> list[dict]:
    """Rows for `make_records` from the members of a shard, in their order."""
    images: dict[str, str] = {}
    labels: dict[str, dict] = {}
    last, suffixes = 'its beginning', Image.registered_extensions()
    try:
        with open(shard, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            for member in tar:
                last = member.name
                key, suffix = _split_name(last)
                if not member.isreg() or os.path.basename(last).startswith('.'):
                    continue
                if suffix == '.json':
                    labels[key] = _parse_label(tar.extractfile(member).read(), f'{shard}/{last}')
                elif f'.{suffix.rpartition(".")[2]}' in suffixes:
                    if key in images:
                        raise InputError(f'{shard}: {images[key]} and {last} are one sample: give each its own key')
                    images[key] = last
            file.seek(tar.offset)
            if file.read(512) != bytes(512):  # a header that is none ends the loop like the end of the archive
                raise tarfile.ReadError('bad header')
    except (tarfile.TarError, OSError) as e:
        raise InputError(f'{shard}: broken after {last} ({e}): copy or write it again') from e
    if not images:
        raise InputError(f'{shard} has no samples: expected members such as 000000.jpg and 000000.json; remove it')
    for key, member in images.items():
        if key not in labels:
            raise InputError(f'{shard}/{member}: its labels are missing, expected the member {key}.json')
    return [{'path': f'{shard}/{member}', **labels[key]} for key, member in images.items()]


def _split_name(member: str) -> tuple[str, str]:
    """Key and suffix, lower case, as webdataset tells them apart: at the first dot of the last part."""
    folder, slash, name = member.rpartition('/')
    key, dot, suffix = name.partition('.')
    return f'{folder}{slash}{key}', (dot + suffix).lower()


def _parse_label(content: bytes, where: str) -> dict:
    try:
        label = json.loads(content)
    except ValueError as e:
        raise InputError(f'{where}: no JSON ({e})') from e
    if not isinstance(label, dict) or label.get('identity') in (None, ''):
        raise InputError(f"{where}: expected an object with the field 'identity', got {str(label)[:80]}")
    row = {name: _to_text(name, label[name], where) for name in FIELDS if label.get(name) not in (None, '')}
    if label.get('box') is not None:
        box = label['box']
        try:
            row['box'] = _check_box([n for n in box if type(n) is int] if isinstance(box, list) else ())
        except ValueError:
            raise InputError(f'{where}: box {box} must be {_EXPECTED["box"]}, like [10, 20, 110, 220]') from None
    return row


def _to_text(name: str, value: object, where: str) -> str:
    allowed, expected = {'time': (int, 'an integer'), 'domain': (str, 'a text')}.get(
        name, ((int, str), 'an integer or a name')
    )
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise InputError(f'{where}: {name} {value!r} must be {expected}')
    if name == 'identity' and str(value).startswith('-'):
        raise InputError(f'{where}: identity {value} is below 0; leave out images of nobody')
    return str(value)


SHARDS = Reader(
    read_shards,
    about='images in WebDataset shards, for sets that outgrow a disk; also by https:// or pipe:',
    layout=f'{{train,query,gallery}}-000000.tar of KEY.jpg + KEY.json, and {INDEX}: what msinet-data convert writes',
    options=(CLOTHES_OPTION,),
)
