"""From any data set to another layout: folders, a table, or Market-1501's names."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ..commands import InputError, progress
from .images import load_image
from .labels import FIELDS
from .market1501 import PARTS
from .records import Record, ReIDDataset

__all__ = ['LAYOUTS', 'convert']

_PARTS = ('train', 'query', 'gallery')


def convert(dataset: ReIDDataset, layout: str, output: str | Path) -> dict[str, int]:
    """Writes a data set in another layout. Pictures are hard links where possible, else copies; crops are new files.

    Args:
        dataset: what to write.
        layout: one of `LAYOUTS`: `folder` and `market1501` make a folder of pictures, `csv` a table of the pictures
            where they are.
        output: new or empty folder, or the table's file.

    Returns:
        Pictures written by part.

    Raises:
        InputError: the layout cannot hold the data set, or the output cannot be written.
    """
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout '{layout}', choose from: {', '.join(LAYOUTS)}")
    if dataset.protocol.draws and not dataset.query:
        raise InputError(f"data set '{dataset.name}' draws its queries at random, which no other layout can tell")
    try:
        LAYOUTS[layout](dataset, Path(output))
    except OSError as e:
        raise InputError(f'--output {output}: cannot write ({e})') from e
    return {part: len(getattr(dataset, part)) for part in _PARTS}


def _to_table(dataset: ReIDDataset, output: Path) -> None:
    if output.suffix.lower() != '.csv' or output.exists():
        raise InputError(f'--output {output}: give a new file *.csv')
    records = dataset.train + dataset.query + dataset.gallery
    fields = [f for f in (*FIELDS, 'box') if f == 'identity' or any(getattr(r, f) is not None for r in records)]
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix('.tmp')
    with open(partial, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['path', *fields, 'split'])
        for part in _PARTS:
            for record in getattr(dataset, part):
                path = os.path.relpath(record.path, output.parent)
                writer.writerow([path, *(_cell(getattr(record, field)) for field in fields), part])
    partial.replace(output)


def _cell(value) -> str:
    if isinstance(value, tuple):
        return ' '.join(map(str, value))
    return '' if value is None else str(value)


def _to_folder(dataset: ReIDDataset, output: Path) -> None:
    def name(part: str, number: int, record: Record, suffix: str) -> str:
        camera = '' if record.camera is None else f'{record.camera}/'
        return f'{part}/{record.identity}/{camera}{number:06d}_{Path(record.path).stem}{suffix}'

    _write_pictures(dataset, output, name)


def _to_market1501(dataset: ReIDDataset, output: Path) -> None:
    records = {part: getattr(dataset, part) for part in _PARTS}
    for part, found in records.items():
        if not found:
            raise InputError(f"data set '{dataset.name}' has no {part}: Market-1501's layout needs all three parts")
    without = [r.path for found in records.values() for r in found if r.camera is None]
    if without:
        raise InputError(f"{without[0]} has no camera: Market-1501's names need one")
    # 0 is a distractor there
    shift = int(any(r.identity == 0 for r in dataset.train + dataset.query))

    def name(part: str, number: int, record: Record, suffix: str) -> str:
        return f'{PARTS[part]}/{record.identity + shift:04d}_c{record.camera}s1_{number:06d}_00{suffix}'

    _write_pictures(dataset, output, name)


def _write_pictures(dataset: ReIDDataset, output: Path, name: Callable[[str, int, Record, str], str]) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f'--output {output}: give a new or empty folder')
    records = [(part, number, r) for part in _PARTS for number, r in enumerate(getattr(dataset, part), start=1)]
    for part, number, record in progress(records, desc='convert', unit='picture'):
        suffix = Path(record.path).suffix.lower() if record.box is None else '.png'
        target = output / name(part, number, record, suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        if record.box is not None:
            load_image(record.path, record.box).save(target)
        else:
            _link(record.path, target)


def _link(source: str, target: Path) -> None:
    try:
        # of a symbolic link, what it points to
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(source, target)


#: Layout -> what writes it.
LAYOUTS: dict[str, Callable[[ReIDDataset, Path], None]] = {
    'folder': _to_folder,
    'csv': _to_table,
    'market1501': _to_market1501,
}
