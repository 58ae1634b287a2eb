"""Embeddings from elsewhere: files of vectors, and a table that says who and what they are of."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor, nn

from msinet_timm.datasets.readers.labels import number_labels
from msinet_timm.errors import InputError

from .types import Embedded, Features

__all__ = ['COLUMNS', 'load_embeddings']

#: Of a table of labels: the first two are required.
COLUMNS = ('part', 'identity', 'camera', 'clothes', 'tracklet', 'domain', 'path')
_NUMBERED = {'identity': 'identities', 'camera': 'cameras', 'clothes': 'clothes', 'tracklet': 'tracklets'}
_PARTS = ('query', 'gallery')
_LISTED = 20


def load_embeddings(files: Sequence[str | Path], labels: str | Path | None = None) -> Embedded:
    """Reads embeddings of queries and gallery.

    A file is what `msinet-eval --features` writes, which needs no table, or `.npy` or `.safetensors` with one array
    [images, dimensions] of numbers. Arrays are normalised to length 1, as the embeddings of models are.

    Args:
        files: of queries and gallery; or of the gallery alone, where a protocol draws the queries from it.
        labels: CSV with the columns `part` (query or gallery) and `identity`, and perhaps others of `COLUMNS`. The rows
            of a part are in the order of its embeddings. Labels may be numbers or names.

    Raises:
        InputError: files that cannot be read or are not alike, a table that is missing where it is needed, or its wrong
            lines, of which the first 20 are listed.
    """
    parts = _PARTS[-len(files) :]
    if labels is None:
        features = dict(zip(parts, map(_load_features, files), strict=True))
    else:
        arrays = {part: _load_array(Path(file)) for part, file in zip(parts, files, strict=True)}
        features = _label(arrays, Path(labels))
    sizes = {part: f.embeddings.shape[1] for part, f in features.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(
            f'{files[0]} has {sizes["query"]} dimensions, {files[1]} {sizes["gallery"]}: they are of different models'
        )
    for name in ('cameras', 'clothes', 'tracklets', 'domains'):
        known = [getattr(f, name) is not None for f in features.values()]
        if any(known) and not all(known):
            raise InputError(f'{" and ".join(map(str, files))}: {name} are known for only one of query and gallery')
    return Embedded(features.get('query'), features['gallery'])


def _load_features(path: str | Path) -> Features:
    if Path(path).suffix.lower() != '.safetensors':
        raise InputError(f'{path} has no identities: give --labels with a CSV of them')
    try:
        with safetensors.safe_open(path, 'pt') as file:
            plain = 'identities' not in file.keys()  # noqa: SIM118 - no mapping
    except (OSError, safetensors.SafetensorError) as e:
        raise InputError(f'{path}: cannot read these embeddings ({e})') from e
    if plain:
        raise InputError(f'{path} has no identities: give --labels with a CSV of them')
    return Features.load(path)


def _load_array(path: Path) -> Tensor:
    """[N, D] float32, of length 1."""
    suffix = path.suffix.lower()
    try:
        if suffix == '.npy':
            array = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        elif suffix == '.safetensors':
            with safetensors.safe_open(path, 'pt') as file:
                names = list(file.keys())
                if len(names) != 1 and 'embeddings' not in names:
                    raise InputError(f'{path} holds {", ".join(names)}: one of them must be named embeddings')
                array = file.get_tensor('embeddings' if 'embeddings' in names else names[0]).float()
        else:
            raise InputError(f'{path}: embeddings end in .npy or .safetensors')
    except InputError:
        raise
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as e:
        raise InputError(f'{path}: cannot read these embeddings ({e})') from e
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f'{path}: embeddings must be [images, dimensions], not empty; got {list(array.shape)}')
    bad = ~array.isfinite().all(1)
    if bad.any():
        raise InputError(f'{path}: embedding {int(bad.nonzero()[0])} (from 0) is not finite; so are {int(bad.sum())}')
    return nn.functional.normalize(array)


def _label(arrays: dict[str, Tensor], table: Path) -> dict[str, Features]:
    """Features of arrays and the rows of their parts."""
    rows = _read_labels(table, arrays)
    for part, array in arrays.items():
        if len(rows[part]) != len(array):
            raise InputError(f'{table} has {len(rows[part])} rows of the part {part} for {len(array)} embeddings')
    every = [row for part in arrays for row in rows[part]]
    numbers = {name: number_labels(row[name] for row in every if name in row) for name in _NUMBERED}
    features = {}
    for part, array in arrays.items():
        labels = {
            attribute: torch.tensor([numbers[name][row[name]] for row in rows[part]]) if name in every[0] else None
            for name, attribute in _NUMBERED.items()
        }
        domains = tuple(row['domain'] for row in rows[part]) if 'domain' in every[0] else None
        paths = tuple(str(table.parent / row['path']) if 'path' in row else '' for row in rows[part])
        features[part] = Features(array, **labels, paths=paths, domains=domains)
    return features


def _read_labels(table: Path, parts: dict) -> dict[str, list[dict[str, str]]]:
    """Rows of each part: texts by column, without columns that are empty."""
    try:
        text = table.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f'{table}: cannot read these labels ({e}); they must be UTF-8 text') from e
    reader = csv.DictReader(text, delimiter=max(',;\t', key=(text or [''])[0].count), restkey='', skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    missing = [name for name in COLUMNS[:2] if name not in columns]
    if missing:
        raise InputError(
            f'{table}: lacks the column {", ".join(missing)}; it has {", ".join(columns) or "none"}. '
            f'Required are {", ".join(COLUMNS[:2])}, optional {", ".join(COLUMNS[2:])}'
        )
    rows, errors, first = {part: [] for part in parts}, [], None
    for fields in reader:
        surplus = fields.pop('', None) or None in fields.values()
        row = {name: fields[name].strip() for name in COLUMNS if (fields.get(name) or '').strip()}
        first = first or row
        problem = 'not as many fields as columns' if surplus else _problem(row, first, parts)
        if problem:
            errors.append(f'  line {reader.line_num}: {problem}')
        else:
            rows[row['part']].append(row)
    if errors:
        more = [f'  and {len(errors) - _LISTED} more'] if len(errors) > _LISTED else []
        raise InputError('\n'.join([f'{table}: {len(errors)} wrong lines', *errors[:_LISTED], *more]))
    return rows


def _problem(row: dict[str, str], first: dict[str, str], parts: dict) -> str | None:
    """What is wrong with a row, where the first one shows which columns are filled."""
    if row.get('part') not in parts:
        return f"part '{row.get('part', '')}' must be one of {', '.join(parts)}"
    if 'identity' not in row:
        return 'identity is empty'
    unequal = sorted(row.keys() ^ first.keys())
    if unequal:
        return f'{", ".join(unequal)} must be filled in all lines or in none'
    return None
