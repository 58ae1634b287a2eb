"""From any data set to another layout: folders, a table, Market-1501's names, or shards."""

import hashlib
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from msinet_timm.commands import progress
from msinet_timm.datasets.archive import read_image, split_path
from msinet_timm.datasets.images import load_image
from msinet_timm.datasets.readers.layout import JUNK
from msinet_timm.datasets.readers.market1501 import DISTRACTOR, FOLDERS
from msinet_timm.datasets.readers.rows import FIELDS
from msinet_timm.datasets.records import PARTS, UNFINISHED, Record, ReIDDataset, sort_names
from msinet_timm.datasets.shards.index import write_index
from msinet_timm.errors import InputError, explained, needs
from msinet_timm.files import check_regular, holds_nothing, locked, refusing, replace_rows, replace_text

__all__ = ['GROUP', 'LAYOUTS', 'SHARD_SIZE', 'convert']

#: Images in a shard.
SHARD_SIZE = 1000
#: Images of one identity side by side in shards to train on, at most.
GROUP = 16

_logger = logging.getLogger(__name__)


def convert(dataset: ReIDDataset, layout: str, output: str | Path, shard_size: int | None = None) -> dict[str, int]:
    """Writes a data set in another layout. Images are hard links where possible, else copies; crops are new files.

    Args:
        dataset: what to write.
        layout: one of `LAYOUTS`: `folder` and `market1501` make a folder of images, `csv` a table of the images
            where they are, `shards` a folder of WebDataset shards with the files as they are, boxes in the labels.
            There images to train on are shuffled in groups of up to `GROUP` of an identity, always in the same way.
        output: new or empty folder, or the table's file. A folder that an interrupted conversion has left is gone on
            with, and cannot be read as a data set until it is whole.
        shard_size: images in a shard, for `shards` alone; None for `SHARD_SIZE`.

    Returns:
        Images written by part.

    Raises:
        InputError: the layout cannot hold the data set, or the output cannot be written.
    """
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout '{layout}', choose from: {', '.join(LAYOUTS)}")
    if dataset.protocol.draws and not dataset.query:
        raise InputError(f"data set '{dataset.name}' draws its queries at random, which no other layout can tell")
    if shard_size is not None and layout != 'shards':
        raise InputError(f'--shard-size {shard_size}: the layout {layout} has no shards')
    options = {} if shard_size is None else {'shard_size': shard_size}
    output, words = Path(output), f'--output {output}: cannot write'
    with explained(words), refusing(words, output):
        if layout == 'csv':
            _to_table(dataset, output)
        else:
            _write_hidden(dataset, layout, output, options)
    return {part: len(getattr(dataset, part)) for part in PARTS}


def _to_table(dataset: ReIDDataset, output: Path) -> None:
    if output.suffix.lower() != '.csv' or output.exists():
        raise InputError(f'--output {output}: give a new file *.csv')
    records = dataset.train + dataset.query + dataset.gallery
    fields = [f for f in (*FIELDS, 'box') if f == 'identity' or any(getattr(r, f) is not None for r in records)]
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = [['path', *fields, 'split']]
    for part in PARTS:
        for record in getattr(dataset, part):
            path = os.path.relpath(record.path, output.parent)
            rows.append([path, *(_cell(record, field) for field in fields), part])
    replace_rows(output, rows)


def _cell(record: Record, field: str) -> str:
    value = getattr(record, field)
    text = ' '.join(map(str, value)) if isinstance(value, tuple) else '' if value is None else str(value)
    if text != text.strip():
        raise InputError(f"{record.path}: {field} '{text}' begins or ends with white space, which tables do not keep")
    return text


def _to_folder(dataset: ReIDDataset, output: Path) -> None:
    records = dataset.train + dataset.query + dataset.gallery
    for name in sort_names(name for r in records for name in (r.identity, r.camera) if name):
        if name in JUNK or name.startswith('.') or '/' in name or os.sep in name:
            raise InputError(
                f"'{name}' cannot be the name of a folder of images: rename it, or convert to csv or shards"
            )

    def name(part: str, number: int, record: Record, suffix: str) -> str:
        camera = '' if record.camera is None else f'{record.camera}/'
        return f'{part}/{record.identity}/{camera}{number:06d}_{Path(record.path).stem}{suffix}'

    _write_images(dataset, output, name)


def _to_market1501(dataset: ReIDDataset, output: Path) -> None:
    records = {part: getattr(dataset, part) for part in PARTS}
    for part, found in records.items():
        if not found:
            raise InputError(f"data set '{dataset.name}' has no {part}: Market-1501's layout needs all three parts")
    without = [r.path for found in records.values() for r in found if r.camera is None]
    if without:
        raise InputError(f"{without[0]} has no camera: Market-1501's names need one")
    images = [r for found in records.values() for r in found]
    identities, cameras = (_to_numbers(kind, {getattr(r, kind) for r in images}) for kind in ('identity', 'camera'))
    # who trains or asks is no distractor
    shift = int(any(identities[r.identity] == int(DISTRACTOR) for r in dataset.train + dataset.query))

    def name(part: str, number: int, record: Record, suffix: str) -> str:
        identity, camera = identities[record.identity] + shift, cameras[record.camera]
        return f'{FOLDERS[part]}/{identity:04d}_c{camera}s1_{number:06d}_00{suffix}'

    _write_images(dataset, output, name)


def _to_numbers(kind: str, names: set[str]) -> dict[str, int]:
    """A number for each name: its own where all names are different numbers, else its place in their order, from 1."""
    if all(map(str.isdecimal, names)) and len(set(map(int, names))) == len(names):
        return {name: int(name) for name in names}
    _logger.info("Market-1501's names hold numbers: each %s gets that of its place in the order of their names", kind)
    return {name: number for number, name in enumerate(sort_names(names), start=1)}


def _write_hidden(dataset: ReIDDataset, layout: str, output: Path, options: dict) -> None:
    """Writes to a hidden folder in the output, or goes on there; when all is written, it moves out."""
    folder = output / UNFINISHED
    key, whole = folder / 'key.txt', folder / 'whole'
    if not whole.exists() and not holds_nothing(output):
        raise InputError(f'--output {output}: give a new or empty folder')
    what = json.dumps([layout, options, *(getattr(dataset, part) for part in PARTS)])
    digest = hashlib.sha256(what.encode()).hexdigest()
    missing = [path for path in (output, *output.parents) if not path.exists()]
    try:
        with locked(output, f'--output {output}: cannot write'):
            if key.exists():
                if key.read_text(encoding='ascii') != digest:
                    raise InputError(
                        f'--output {output}: holds an unfinished conversion of something else: finish that by its own '
                        'command, remove the folder, or give another one'
                    )
                _logger.info(f'{output}: going on with an unfinished conversion')
            folder.mkdir(exist_ok=True)
            replace_text(key, digest)
            if not whole.exists():
                LAYOUTS[layout](dataset, folder, **options)
                if hasattr(os, 'sync'):
                    os.sync()  # once for all files
                whole.touch()
            for entry in [e for e in folder.iterdir() if e not in (key, whole)]:
                entry.replace(output / entry.name)
            shutil.rmtree(folder)
    except BaseException:
        with suppress(OSError):
            if os.listdir(folder) == [key.name]:  # what has been begun stays
                key.unlink()
            for path in (folder, *missing):
                path.rmdir()
        raise


def _write_images(dataset: ReIDDataset, output: Path, name: Callable[[str, int, Record, str], str]) -> None:
    records = [(part, number, r) for part in PARTS for number, r in enumerate(getattr(dataset, part), start=1)]
    for part, number, record in progress(records, desc='convert', unit='image'):
        suffix = Path(record.path).suffix.lower() if record.box is None else '.png'
        target = output / name(part, number, record, suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _write_image(record, target)


def _write_image(record: Record, target: Path) -> None:
    half = target.with_name(f'half{target.suffix}')  # a name that none of the images has
    half.unlink(missing_ok=True)
    if record.box is not None:
        load_image(record.path, record.box).save(half)
    elif split_path(record.path):
        half.write_bytes(_read(record.path))
    else:
        _read(record.path, check_regular)
        try:
            # of a symbolic link, what it points to
            os.link(os.path.realpath(record.path), half)
        except OSError:  # another disk, or a file system without hard links
            shutil.copyfile(record.path, half)
    half.replace(target)


def _read(path: str, read: Callable[[str], bytes | None] = read_image) -> bytes | None:
    try:
        return read(path)
    except OSError as e:
        raise InputError(f'{path}: cannot read this image ({e.strerror or e}); replace or remove it') from e


def _to_shards(dataset: ReIDDataset, output: Path, shard_size: int = SHARD_SIZE) -> None:
    with needs('shards', '--to shards'):
        from webdataset import TarWriter
    suffixes = Image.registered_extensions()
    total = len(dataset.train) + len(dataset.query) + len(dataset.gallery)
    written: dict[str, list[Record]] = {part: [] for part in PARTS}
    with progress(total=total, desc='convert', unit='image') as bar:
        for part in PARTS:
            records = getattr(dataset, part)
            groups = _in_groups(records, min(GROUP, shard_size)) if part == 'train' else [[r] for r in records]
            for number, shard in enumerate(_pack(groups, shard_size)):
                path = output / f'{part}-{number:06d}.tar'
                samples = []
                for record in shard:
                    key, suffix = f'{len(written[part]):06d}', Path(record.path).suffix.lower()
                    suffix = suffix if suffix in suffixes else '.jpg'  # what it is decides its content
                    samples.append((key, suffix[1:], record))
                    written[part].append(record._replace(path=f'{path}/{key}{suffix}'))
                if not path.exists():
                    # without times, so that the same data set always gives the same files
                    half = output / 'half'
                    with open(half, 'wb') as file, TarWriter(file, encoder=False, mtime=0) as tar:
                        for key, suffix, record in samples:
                            tar.write({'__key__': key, suffix: _read(record.path), 'json': _label(record)})
                            bar.update()
                    half.replace(path)
                bar.update(sum(map(len, written.values())) - bar.n)
    write_index(output, written)


def _in_groups(records: Sequence[Record], size: int) -> list[list[Record]]:
    """Shuffled groups of images of one identity, of up to so many, all of an identity's nearly equally large."""
    rng = np.random.default_rng(0)
    people = defaultdict(list)
    for record in records:
        people[record.identity].append(record)
    groups = []
    for images in people.values():
        order, count = rng.permutation(len(images)), -(-len(images) // size)
        groups += [[images[i] for i in order[start::count]] for start in range(count)]
    return [groups[i] for i in rng.permutation(len(groups))]


def _pack(groups: Sequence[list[Record]], size: int) -> Iterator[list[Record]]:
    """Shards of whole groups."""
    shard: list[Record] = []
    for group in groups:
        if len(shard) + len(group) > size:
            yield shard
            shard = []
        shard += group
    if shard:
        yield shard


def _label(record: Record) -> bytes:
    known = {name: value for name, value in record._asdict().items() if name != 'path' and value is not None}
    return json.dumps(known).encode()


#: Layout -> what writes it.
LAYOUTS: dict[str, Callable[..., None]] = {
    'folder': _to_folder,
    'csv': _to_table,
    'market1501': _to_market1501,
    'shards': _to_shards,
}
