"""Features on disk for galleries beyond memory: written in shards, read by mapping them into memory."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from msinet_eval.metrics.checks import as_tensor, check_labels
from msinet_timm.errors import InputError
from msinet_timm.files import replace_file, replace_text

__all__ = ['FeatureStore']

_LIST = 'store.json'
_logger = logging.getLogger(__name__)


class _Shard(NamedTuple):
    """A file of the store: its name, the number of its images, and its size in bytes."""

    file: str
    count: int
    size: int


class FeatureStore:
    """A growing list of features with what is known of their images, of which only what is asked for is read.

    A folder holds shards `000000.safetensors`, ..., in the format of `Features`, and `store.json`, which lists them.
    Both are written under another name and renamed when they are whole, the list last: what an interrupted
    `append` leaves is not in the list, is passed over with a warning, and is replaced by the next one.
    There must be one writer at a time; readers see what was there when they opened the store.

    Make one with `create` or `open`.

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
    def create(cls, folder: str | Path, dim: int) -> 'FeatureStore':
        """Makes an empty store.

        Raises:
            InputError: there is one, the folder cannot be made, or `dim` is below 1.
        """
        if dim < 1:
            raise InputError(f'a store of features needs at least 1 dimension, got {dim}')
        store = cls(Path(folder), dim, [])
        if (store.folder / _LIST).exists():
            raise InputError(f'{folder} is a store of features already: open it, or remove it')
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            store._write_list()
        except OSError as e:
            raise InputError(f'{folder}: cannot make a store of features there ({e.strerror})') from e
        return store

    @classmethod
    def open(cls, path: str | Path) -> 'FeatureStore':
        """Opens a store; or a single file, as a store that cannot be appended to.

        Args:
            path: folder of a store, a features file (`.safetensors`) or an array [images, dimensions] (`.npy`).

        Raises:
            InputError: it is none of these, or shards are missing or cut off.
        """
        path = Path(path)
        if path.suffix in ('.safetensors', '.npy'):
            features = _map(path)
            shard = _Shard(path.name, len(features), path.stat().st_size)
            return cls(path.parent, features.shape[1], [shard], path.stem)
        try:
            content = json.loads((path / _LIST).read_text(encoding='utf-8'))
            store = cls(path, int(content['dim']), [_Shard(*shard) for shard in content['shards']])
        except FileNotFoundError as e:
            raise InputError(f'{path} is no store of features: it has no {_LIST}') from e
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f'{path / _LIST}: not the list of a store of features ({e})') from e
        store._check_files()
        return store

    def append(self, embeddings, identities=None, cameras=None, paths: Sequence[str] | None = None) -> None:
        """Writes one shard; some thousands of images to some hundreds of thousands are a good size.

        Args:
            embeddings: [n, dim] array or tensor, kept as float32.
            identities: [n] integers, or None where they are unknown. Likewise `cameras`.
            paths: n image files, or None.

        Raises:
            InputError: sizes that do not fit, features that are not finite, or a disk that cannot be written.
        """
        embeddings = as_tensor(embeddings, 'features').cpu().float().contiguous()
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim or not len(embeddings):
            raise InputError(f'features must be [images, {self.dim}], not empty; got {list(embeddings.shape)}')
        if not embeddings.isfinite().all():
            raise InputError(f'feature {int((~embeddings.isfinite().all(1)).nonzero()[0])} (from 0) is not finite')
        tensors = {'embeddings': embeddings}
        for name, labels in (('identities', identities), ('cameras', cameras)):
            if labels is not None:
                tensors[name] = check_labels(labels, embeddings, name).long().contiguous()
        if paths is not None and len(paths) != len(embeddings):
            raise InputError(f'paths must be one for each of {len(embeddings)} features, got {len(paths)}')
        if self.name != 'store':
            raise InputError(f'{self.folder / self._shards[-1].file} is a single file: make a store to append to')
        file = self.folder / f'{len(self._shards):06d}.safetensors'
        metadata = {'paths': json.dumps([str(path) for path in paths])} if paths is not None else {}
        try:
            replace_file(file, lambda place: save_file(tensors, place, metadata=metadata))
            self._shards.append(_Shard(file.name, len(embeddings), file.stat().st_size))
            self._write_list()
        except (OSError, safetensors.SafetensorError) as e:
            raise InputError(f'{file}: cannot write features ({e})') from e

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

    def describe(self, indices: Tensor) -> list[dict[str, int | str]]:
        """What is known of some images, given by [n] indices: `identity`, `camera` and `path`."""
        known: list[dict[str, int | str]] = [{} for _ in indices]
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
            _logger.warning(f'{self.folder}: passing over {", ".join(left)}, which an interrupted writing has left')

    def _write_list(self) -> None:
        content = json.dumps({'dim': self.dim, 'shards': self._shards})
        replace_text(self.folder / _LIST, content)


def _map(path: Path) -> Tensor:
    """[N, D] features of a file, mapped into memory."""
    try:
        if path.suffix == '.npy':
            features = as_tensor(np.load(path, mmap_mode='r', allow_pickle=False), str(path))
        else:
            with safetensors.safe_open(path, 'pt') as file:
                features = file.get_tensor('embeddings')
    except (OSError, ValueError, safetensors.SafetensorError) as e:
        raise InputError(f'{path}: cannot read features ({e})') from e
    if features.ndim != 2 or 0 in features.shape or not features.is_floating_point():
        raise InputError(
            f'{path}: features must be floats [images, dimensions], not empty; got {features.dtype} '
            f'{list(features.shape)}'
        )
    return features


def _labels(path: Path) -> dict[str, Sequence]:
    """What a file tells of its images."""
    if path.suffix == '.npy':
        return {}
    with safetensors.safe_open(path, 'pt') as file:
        names = set(file.keys())
        labels = {
            name: file.get_tensor(stored).tolist()
            for name, stored in (('identity', 'identities'), ('camera', 'cameras'))
            if stored in names
        }
        paths = (file.metadata() or {}).get('paths')
    return labels | ({'path': json.loads(paths)} if paths else {})
