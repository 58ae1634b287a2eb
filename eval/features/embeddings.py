"""Embeddings from elsewhere: files of vectors, and a table that says who and what they are of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from msinet_timm.datasets.readers.rows import place_image, read_rows, tell_tracklets
from msinet_timm.datasets.records import PARTS
from msinet_timm.errors import InputError, explained

from .types import Embedded, Features, open_tensors, read_array

__all__ = ['COLUMNS', 'load_embeddings']

#: Of a table of labels: the first two are required.
COLUMNS = ('part', 'identity', 'camera', 'clothes', 'tracklet', 'domain', 'path')


def load_embeddings(files: Sequence[str | Path], labels: str | Path | None = None) -> Embedded:
    """Reads embeddings of queries and gallery.

    A file is what `msinet-eval --features` writes, which needs no table, or `.npy` or `.safetensors` with one array
    [images, dimensions] of numbers. Arrays are normalised to length 1, as the embeddings of models are.

    Args:
        files: of queries and gallery; or of the gallery alone, where a protocol draws the queries from it.
        labels: table with the columns `part` (query or gallery) and `identity`, and perhaps others of `COLUMNS`, each
            filled in all rows or in none. The rows of a part are in the order of its embeddings.

    Raises:
        InputError: neither one file nor two, files that cannot be read or are not alike, a table that is missing where
            it is needed, or its wrong rows, of which the first 20 are listed.
    """
    if isinstance(files, str | Path) or len(files) not in (1, 2):
        got = f"the text '{files}'" if isinstance(files, str | Path) else f'{len(files)} files'
        raise InputError(f'embeddings: list one file of queries and one of the gallery, or the latter alone; got {got}')
    parts = PARTS[-len(files) :]
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
    with explained(f'{path}: cannot read these embeddings'), open_tensors(path) as file:
        plain = 'identities' not in file.keys()  # noqa: SIM118 - no mapping
    if plain:
        raise InputError(f'{path} has no identities: give --labels with a CSV of them')
    return Features.load(path)


def _load_array(path: Path) -> Tensor:
    """[N, D] float32, of length 1."""
    suffix = path.suffix.lower()
    with explained(f'{path}: cannot read these embeddings'):
        if suffix == '.npy':
            array = torch.from_numpy(read_array(path).astype(np.float32))
        elif suffix == '.safetensors':
            with open_tensors(path) as file:
                names = list(file.keys())
                if len(names) != 1 and 'embeddings' not in names:
                    raise InputError(f'{path} holds {", ".join(names)}: one of them must be named embeddings')
                array = file.get_tensor('embeddings' if 'embeddings' in names else names[0])
            if array.is_complex():
                raise ValueError('complex numbers are no embeddings')
            array = array.float()
        else:
            raise InputError(f'{path}: embeddings end in .npy or .safetensors')
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f'{path}: embeddings must be [images, dimensions], not empty; got {list(array.shape)}')
    bad = ~array.isfinite().all(1)
    if bad.any():
        raise InputError(f'{path}: embedding {int(bad.nonzero()[0])} (from 0) is not finite; so are {int(bad.sum())}')
    return nn.functional.normalize(array)


def _label(arrays: dict[str, Tensor], table: Path) -> dict[str, Features]:
    """Features of arrays and the rows of their parts."""
    required, optional = COLUMNS[:2], COLUMNS[2:]
    folder = str(table.parent)
    rows = read_rows(table, required, optional, 'part', tuple(arrays), optional, lambda p, _: place_image(folder, p))
    rows = dict(zip(rows, tell_tracklets([tuple(records) for records in rows.values()]), strict=True))
    for part, array in arrays.items():
        if len(rows[part]) != len(array):
            raise InputError(f'{table} has {len(rows[part])} rows of the part {part} for {len(array)} embeddings')
    return {part: Features.of(rows[part], array) for part, array in arrays.items()}
