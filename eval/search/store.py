"""Features on disk for galleries beyond memory, read by mapping them into it."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from msinet_eval.features.types import open_tensors, read_array, read_names
from msinet_eval.metrics.checks import as_tensor
from msinet_timm.errors import InputError, explained, one_line
from msinet_timm.files import read_json

__all__ = ['FeatureStore']

_LIST = 'store.json'
_KNOWN = {'identity': 'identities', 'camera': 'cameras', 'path': 'paths'}
_logger = logging.getLogger(__name__)


class _Shard(NamedTuple):
    """A file of the store: its name, the number of its images, and its size in bytes."""

    file: str
    count: int
    size: int


class FeatureStore:
    """Features with what is known of their images, of which only what is asked for is read.

    They are in one file, or in a folder of shards `000000.safetensors`, ..., in the format of `Features`, which
    `store.json` lists: `{"dim": D, "shards": [[FILE, IMAGES, BYTES], ...]}`. Other shards are passed over with a
    warning. Readers see what was there when they opened the store.

    Make one with `open`.

    Attributes:
        folder: where the files are.
        name: `store`, or that of the single file without its suffix.
        dim: dimensions of the features.
    """

    def __init__(self, folder: Path, dim: int, shards: Sequence[_Shard], name: str = 'store') -> None:
        self.folder = folder
        self.name = name
        self.dim = dim
        self._shards = list(shards)
        self._mapped: dict[int, Tensor] = {}

    @classmethod
    def open(cls, path: str | Path) -> 'FeatureStore':
        """Opens a store.

        Args:
            path: a features file (`.safetensors`), an array [images, dimensions] (`.npy`), or a folder of shards.

        Raises:
            InputError: it is none of these, or shards are missing or cut off.
        """
        path = Path(path)
        if path.suffix in ('.safetensors', '.npy'):
            features = _map(path)
            shard = _Shard(path.name, len(features), path.stat().st_size)
            return cls(path.parent, features.shape[1], [shard], path.stem)
        try:
            content = read_json(path / _LIST)
            dim, shards = content['dim'], [_Shard(*shard) for shard in content['shards']]
            for value in (dim, *(number for shard in shards for number in shard[1:])):
                if type(value) is not int or value < 1:
                    raise ValueError(f'{value!r} must be a number above 0')
            for file, *_ in shards:
                if not isinstance(file, str) or Path(file).name != file:
                    raise ValueError(f'{file!r} must be the name of a file beside it')
        except FileNotFoundError as e:
            raise InputError(f'{path} is no store of features: it has no {_LIST}') from e
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f'{path / _LIST}: not the list of a store of features ({one_line(e)})') from e
        store = cls(path, dim, shards)
        store._check_files()
        return store

    def __len__(self) -> int:
        return sum(shard.count for shard in self._shards)

    @property
    def digest(self) -> str:
        """Changes with the files of the store."""
        files = [(*shard, (self.folder / shard.file).stat().st_mtime_ns) for shard in self._shards]
        return hashlib.sha256(json.dumps([self.dim, files]).encode()).hexdigest()

    def chunks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Up to `size` features at a time, [n, dim] float32 on the CPU, with the index of the first of them."""
        start = 0
        for number, shard in enumerate(self._shards):
            for first in range(0, shard.count, size):
                yield start + first, self._features(number)[first : first + size].float()
            start += shard.count

    def take(self, indices: Tensor) -> Tensor:
        """[n, dim] float32, the features of some images, given by [n] indices."""
        features = torch.empty(len(indices), self.dim)
        for number, chosen, places in self._locate(indices):
            features[chosen] = self._features(number)[places].float()
        return features

    def describe(self, indices: Tensor) -> list[dict[str, str]]:
        """What is known of some images, given by [n] indices: `identity`, `camera` and `path`."""
        known: list[dict[str, str]] = [{} for _ in indices]
        for number, chosen, places in self._locate(indices):
            labels = _labels(self.folder / self._shards[number].file)
            for row, place in zip(chosen.tolist(), places.tolist(), strict=True):
                known[row] = {name: values[place] for name, values in labels.items()}
        return known

    def _locate(self, indices: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each shard that is asked: its number, which of the indices it has, and where."""
        indices = indices.cpu()
        ends = torch.tensor([shard.count for shard in self._shards]).cumsum(0)
        numbers = torch.searchsorted(ends, indices, right=True)
        for number in numbers.unique().tolist():
            chosen = (numbers == number).nonzero()[:, 0]
            yield number, chosen, indices[chosen] - (int(ends[number]) - self._shards[number].count)

    def _features(self, number: int) -> Tensor:
        """A shard's features, mapped: the pages that are used are read, and may be dropped again."""
        if number not in self._mapped:
            shard = self._shards[number]
            features = _map(self.folder / shard.file)
            if features.shape != (shard.count, self.dim):
                raise InputError(
                    f'{self.folder / shard.file} holds {list(features.shape)}, but {self.folder / _LIST} says '
                    f'{[shard.count, self.dim]}'
                )
            self._mapped[number] = features
        return self._mapped[number]

    def _check_files(self) -> None:
        for file, _, size in self._shards:
            path = self.folder / file
            found = path.stat().st_size if path.exists() else None
            if found != size:
                state = 'is missing' if found is None else f'has {found} bytes instead of {size}'
                raise InputError(f'{path} {state}: the store is damaged and must be made again')
        listed = {shard.file for shard in self._shards}
        left = [p.name for p in sorted(self.folder.glob('[0-9]*.safetensors*')) if p.name not in listed]
        if left:
            _logger.warning(f'{self.folder}: passing over {", ".join(left)}, which are not in its list')


def _map(path: Path) -> Tensor:
    """[N, D] features of a file, mapped into memory."""
    with explained(f'{path}: cannot read features'):
        if path.suffix == '.npy':
            features = as_tensor(read_array(path, mmap_mode='r'), str(path))
        else:
            with open_tensors(path) as file:
                features = file.get_tensor('embeddings')
    if features.ndim != 2 or 0 in features.shape or not features.is_floating_point():
        raise InputError(
            f'{path}: features must be floats [images, dimensions], not empty; got {features.dtype} '
            f'{list(features.shape)}'
        )
    return features


def _labels(path: Path) -> dict[str, Sequence[str]]:
    """What a file tells of its images."""
    if path.suffix == '.npy':
        return {}
    with explained(f'{path}: cannot read what it tells of its images'), open_tensors(path) as file:
        count = file.get_slice('embeddings').get_shape()[0]
        labels = {name: read_names(file, kind, count) for name, kind in _KNOWN.items()}
    return {name: values for name, values in labels.items() if values is not None}
