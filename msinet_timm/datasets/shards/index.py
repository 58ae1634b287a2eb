"""Data sets in WebDataset shards: tar archives of images with their labels, and one index of them all.

A folder, or a place that webdataset opens by URL, holds `index.csv`, `train-000000.tar`, `query-000000.tar`,
`gallery-000000.tar` and so on. A sample is two members of a shard: `KEY.jpg` (or another kind that Pillow reads) and
`KEY.json`, an object with `identity` and whatever else of `Record` is known. The index has a row for each image, so
that records are known without reading the shards.
"""

import csv
import io
import logging
import os
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from msinet_timm.commands import progress
from msinet_timm.datasets.archive import Remote, check_root, open_shard, shard_of
from msinet_timm.datasets.readers.clothes import CLOTHES_OPTION
from msinet_timm.datasets.readers.layout import list_folder, pick_folders, skip, skip_files
from msinet_timm.datasets.readers.reader import Reader
from msinet_timm.datasets.readers.rows import FIELDS, TRACKLETS_OPTION, own_dataset, parse_row
from msinet_timm.datasets.records import PARTS, Record, ReIDDataset, check_names
from msinet_timm.errors import InputError, explained
from msinet_timm.files import parse_json, pointer, replace_rows

__all__ = ['INDEX', 'SHARDS', 'read_shards', 'write_index']

INDEX = 'index.csv'
COLUMNS = ('shard', 'member', *FIELDS, 'box')
# such names are safe in shell commands (`pipe:`), too
_NAME = re.compile(rf'({"|".join(PARTS)})-[\w.-]+\.tar', re.ASCII)
_REBUILD = 'delete the index to have it built anew'

_logger = logging.getLogger(__name__)


def read_shards(root: str, protocol: str = 'standard', tracklets: str = 'auto') -> ReIDDataset:
    """Reads the index; where a local folder has none, builds it from the shards and leaves it there.

    Args:
        root: local folder, or a `Remote` that files are found under: `https://...`, or `pipe:COMMAND` with `{}` for
            the file.
        protocol: standard or clothes-changing.
        tracklets: see `TRACKLETS_OPTION`.

    Raises:
        InputError: a text that only a `Remote` may be; no index and no shards, shards that are missing, cut short or
            not in the index, or wrong rows; from shards without index: samples without image, label or a field, and
            fields of a wrong type.
    """
    check_root(root)
    remote = isinstance(root, Remote)
    root = Remote(root.rstrip('/')) if remote else str(Path(root))
    shards = None if remote else _find_shards(Path(root))
    if shards is None or (Path(root) / INDEX).is_file():
        parts = _read_index(root, shards)
    else:
        parts = _build_index(Path(root), shards)
    return own_dataset('shards', root, parts, protocol, 'parts', tracklets=tracklets)


def _find_shards(folder: Path) -> list[str]:
    """Names of the shards in a local folder, each of which is whole."""
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder')
    folders, files = list_folder(folder)
    names = sorted(name for name in files if _NAME.fullmatch(name))
    skip_files(name for name in files if name != INDEX and not _NAME.fullmatch(name))
    skip('folders', len(pick_folders(folders)))
    if not names:
        raise InputError(f'{folder} holds no shards: expected train-000000.tar, query-000000.tar, gallery-000000.tar')
    for name in names:
        if reason := pointer(folder / name):
            raise InputError(f'{folder / name}: {reason}')
        with explained(f'{folder / name}: cannot read this shard'), open_shard(f'{folder / name}') as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1024))
            if file.read() != bytes(1024):  # the end of every tar archive
                raise InputError(f'{folder / name} is cut short: copy or write it again')
    return names


def write_index(folder: Path, parts: Mapping[str, Sequence[Record]]) -> None:
    """Writes the index of a folder of shards.

    Args:
        folder: of the shards.
        parts: records whose paths name a shard in the folder and a member.

    Raises:
        OSError: it cannot be written.
    """
    rows = [COLUMNS]
    for part in PARTS:
        for record in parts.get(part, ()):
            shard, member = shard_of(record.path)
            fields = ('' if value is None else value for value in record[1:-1])
            rows.append([os.path.basename(shard), member, *fields, ' '.join(map(str, record.box or ()))])
    replace_rows(folder / INDEX, rows)


def _read_index(root: str, shards: Sequence[str] | None) -> dict[str, list[Record]]:
    """Records by part; shards are those that are there, None where that is not known."""
    place = type(root)  # what the index names is as remote as the root, and no more
    path = place(f'{root}/{INDEX}')
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
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    named = set()

    def refuse(column: str, problem: str) -> None:
        raise InputError(f'{path}, line {rows.line_num}, {name}/{row[1]}: {column} {problem}; {_REBUILD}')

    for row in rows:
        name = row[0] if row else ''
        if name not in named:
            if not _NAME.fullmatch(name):
                raise InputError(f"{path}, line {rows.line_num}: '{name}' is no shard such as train-000000.tar")
            if shards is not None and name not in shards:
                raise InputError(f'{root}/{name} is missing, but {INDEX} names it: bring it back, or {_REBUILD}')
            named.add(name)
        if len(row) != len(COLUMNS) or not row[1] or '.tar/' in row[1]:
            where = f'{path}, line {rows.line_num}'
            raise InputError(f'{where}: expected {len(COLUMNS)} fields and a member, got {",".join(row)}; {_REBUILD}')
        cells = dict(zip(COLUMNS[2:], row[2:], strict=True))
        parts[name.partition('-')[0]].append(parse_row(place(f'{root}/{name}/{row[1]}'), cells, refuse))
    if unknown := set(shards or ()) - named:
        raise InputError(f'{root}/{min(unknown)} is not in {INDEX}: remove it, or {_REBUILD}')
    if not named:
        raise InputError(f'{path} has no rows: {_REBUILD}')
    return parts


def _build_index(folder: Path, shards: Sequence[str]) -> dict[str, list[Record]]:
    _logger.info(f'{folder}: building {INDEX} from {len(shards):,} shards')
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for name in progress(shards, desc='index', unit='shard'):
        parts[name.partition('-')[0]] += _scan(f'{folder}/{name}')
    for records in parts.values():
        check_names(records)
    try:
        write_index(folder, parts)
    except OSError as e:
        _logger.warning(f'{folder}: cannot keep {INDEX} ({e.strerror}), so that it will be built again')
    return parts


def _scan(shard: str) -> list[Record]:
    """Records of a shard, in the order of its images."""
    images: dict[str, str] = {}
    labels: dict[str, Record] = {}
    last, suffixes = 'its beginning', Image.registered_extensions()
    try:
        with open_shard(shard) as file, tarfile.open(fileobj=file, mode='r:') as tar:
            for member in tar:
                last = member.name
                key, suffix = _split_name(last)
                if not member.isreg() or os.path.basename(last).startswith('.'):
                    skip_files([os.path.basename(last)] * member.isreg())
                    continue
                if '.tar/' in last:
                    raise InputError(f'{shard}: the member {last} is named like a shard: give it another name')
                if suffix == '.json':
                    labels[key] = _parse_label(tar.extractfile(member).read(), f'{shard}/{last}')
                elif f'.{suffix.rpartition(".")[2]}' in suffixes:
                    if key in images:
                        raise InputError(f'{shard}: {images[key]} and {last} are one sample: give each its own key')
                    images[key] = last
                else:
                    skip_files([os.path.basename(last)])
            file.seek(tar.offset)
            if file.read(512) != bytes(512):  # a header that is none ends the loop like the end of the archive
                raise tarfile.ReadError('bad header')
    except (tarfile.TarError, OSError) as e:
        raise InputError(f'{shard}: broken after {last} ({e}): copy or write it again') from e
    if not images:
        raise InputError(f'{shard} has no samples: expected members such as 000000.jpg and 000000.json; remove it')
    skip_files(f'{key}.json' for key in labels.keys() - images.keys())
    for key, member in images.items():
        if key not in labels:
            raise InputError(f'{shard}/{member}: its labels are missing, expected the member {key}.json')
    return [labels[key]._replace(path=f'{shard}/{member}') for key, member in images.items()]


def _split_name(member: str) -> tuple[str, str]:
    """Key and suffix, lower case, as webdataset tells them apart: at the first dot of the last part."""
    folder, slash, name = member.rpartition('/')
    key, dot, suffix = name.partition('.')
    return f'{folder}{slash}{key}', (dot + suffix).lower()


def _parse_label(content: bytes, where: str) -> Record:
    """The record that a label tells of, without a path."""
    try:
        label = parse_json(content)
    except ValueError as e:
        raise InputError(f'{where}: no JSON ({e})') from e
    if not isinstance(label, dict) or label.get('identity') in (None, ''):
        raise InputError(f"{where}: expected an object with the field 'identity', got {str(label)[:80]}")

    def refuse(column: str, problem: str) -> None:
        raise InputError(f'{where}: {column} {problem}')

    cells = {name: _to_text(name, label[name], refuse) for name in (*FIELDS, 'box') if label.get(name) is not None}
    return parse_row('', cells, refuse)


def _to_text(name: str, value: object, refuse: Callable[[str, str], object]) -> str:
    if name == 'box':
        return ' '.join(map(str, value)) if isinstance(value, list) else str(value)
    allowed, expected = ((str,), 'a text') if name == 'domain' else ((int, str), 'an integer or a name')
    if not isinstance(value, allowed) or isinstance(value, bool):
        refuse(name, f'{value!r} must be {expected}')
    return str(value)


SHARDS = Reader(
    read_shards,
    about='images in WebDataset shards, for sets that outgrow a disk; also by https:// or pipe: where that is typed',
    layout=f'{{train,query,gallery}}-000000.tar of KEY.jpg + KEY.json, and {INDEX}: what msinet-data convert writes',
    options=(CLOTHES_OPTION, TRACKLETS_OPTION),
)
