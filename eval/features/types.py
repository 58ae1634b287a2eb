"""Embeddings, and who and what they are of."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from msinet_eval.metrics.checks import Labels
from msinet_timm.datasets import Record
from msinet_timm.errors import InputError, explained
from msinet_timm.files import parse_json, pointer, replace_file

__all__ = ['Embedded', 'Features', 'open_tensors', 'read_array', 'read_names']

#: What is known of images, by the field of a record that it comes from.
_NAMES = {
    'identity': 'identities',
    'camera': 'cameras',
    'clothes': 'clothes',
    'tracklet': 'tracklets',
    'domain': 'domains',
    'path': 'paths',
}
_TENSORS = ('embeddings', 'boxes')


@dataclass(frozen=True, eq=False)
class Features:
    """Embeddings of images, on the CPU, and what is known of these.

    Attributes:
        embeddings: [N, D] float32, each of length 1 (of length 0 if the model gave zeros).
        identities: N names.
        cameras: N names, or None where they are unknown.
        paths: N image files.
        clothes: N names, or None where they are unknown.
        boxes: [N, 4] int64, left, top, right and bottom of the part of the file that was embedded (0, 0, 0, 0 for all
            of it); None where no image has one.
        tracklets: N names, or None where they are unknown.
        domains: N names of places or sources, or None where they are unknown.
    """

    embeddings: Tensor
    identities: tuple[str, ...]
    cameras: tuple[str, ...] | None
    paths: tuple[str, ...]
    clothes: tuple[str, ...] | None = None
    boxes: Tensor | None = None
    tracklets: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None

    @classmethod
    def of(cls, records: Sequence[Record], embeddings: Tensor) -> 'Features':
        """Embeddings [N, D] of N records. What is not known of all of them is unknown."""
        columns = ((known, [getattr(record, field) for record in records]) for field, known in _NAMES.items())
        boxes = [record.box or (0, 0, 0, 0) for record in records]
        return cls(
            embeddings,
            **{known: None if None in names else tuple(names) for known, names in columns},
            boxes=torch.tensor(boxes) if any(record.box for record in records) else None,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def labels(self, same_clothes_removed: bool = False) -> Labels:
        """What decides which images are matches, and which are left out of a ranking.

        Args:
            same_clothes_removed: whether images of the same clothes are.

        Raises:
            InputError: the clothes are needed and not known.
        """
        if same_clothes_removed and self.clothes is None:
            raise InputError('the clothes-changing protocol needs the clothes of all images, which are not known')
        return Labels(self.identities, self.cameras, self.clothes if same_clothes_removed else None)

    def subset(self, indices: Tensor) -> 'Features':
        """Features of some of the images, given by their indices."""
        tensors = {name: None if value is None else value[indices] for name, value in self._tensors().items()}
        chosen = indices.tolist()
        names = {n: None if value is None else tuple([value[i] for i in chosen]) for n, value in self._names().items()}
        return Features(**tensors, **names)

    def _tensors(self) -> dict[str, Tensor | None]:
        return {name: getattr(self, name) for name in _TENSORS}

    def _names(self) -> dict[str, tuple[str, ...] | None]:
        return {name: getattr(self, name) for name in _NAMES.values()}

    def save(self, path: str | Path, metadata: dict[str, str] | None = None) -> None:
        """Writes one safetensors file.

        What many images have in common is written once: a tensor of numbers, and the names that they stand for as
        JSON in the metadata; paths are JSON there.

        Args:
            path: to write.
            metadata: further texts.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {name: value.contiguous() for name, value in self._tensors().items() if value is not None}
        texts = {'paths': json.dumps(self.paths)}
        for kind, names in self._names().items():
            if names is not None and kind != 'paths':
                numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
                tensors[kind] = torch.tensor([numbers[name] for name in names])
                texts[kind] = json.dumps(list(numbers))
        texts |= metadata or {}
        replace_file(path, lambda draft: save_file(tensors, draft, metadata=texts), f'{path}: cannot write features')

    @classmethod
    def load(cls, path: str | Path) -> 'Features':
        """Reads what `save` has written.

        Raises:
            InputError: missing file, or one that `save` has not written.
        """
        with explained(f'{path}: not a features file as msinet-eval --features writes'):
            with open_tensors(path) as file:
                present = [name for name in _TENSORS if name in file.keys()]  # noqa: SIM118 - no mapping
                tensors = {name: file.get_tensor(name) for name in present}
                count = len(tensors['embeddings'])
                names = {name: read_names(file, name, count) for name in _NAMES.values()}
            if None in (names['identities'], names['paths']):
                raise ValueError('it has no identities and paths')
            if tensors['embeddings'].ndim != 2 or not tensors['embeddings'].is_floating_point():
                raise ValueError('embeddings must be numbers [images, dimensions]')
            if 'boxes' in tensors and tensors['boxes'].shape != (count, 4):
                raise ValueError('boxes must be [images, 4]')
            return cls(**tensors, **names)


@contextmanager
def open_tensors(path: str | Path) -> Iterator[safetensors.safe_open]:
    """A safetensors file, open to be read; raises whatever that may raise."""
    if reason := pointer(path):
        raise ValueError(reason)
    with safetensors.safe_open(path, 'pt') as file:
        yield file


def read_array(path: str | Path, mmap_mode: str | None = None) -> np.ndarray:
    """The real numbers of a `.npy` file, of any shape.

    Args:
        path: of the file.
        mmap_mode: numpy's; None to read it at once.

    Raises:
        Exception: whatever numpy raises; ValueError for anything but real numbers.
    """
    if reason := pointer(path):
        raise ValueError(reason)
    array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiu':
        raise ValueError(f'an array of real numbers was expected, not {getattr(array, "dtype", "several arrays")}')
    return array


def read_names(file: safetensors.safe_open, kind: str, count: int) -> tuple[str, ...] | None:
    """What an open features file tells of its images: an attribute of `Features`; None where it is unknown.

    Numbers without names, as older files have them, are their own names.

    Args:
        file: open.
        kind: of the names, an attribute of `Features`.
        count: of the images.

    Raises:
        ValueError: other than a text for each image.
    """
    names = _read_names(file, kind)
    if names is not None and (len(names) != count or not all(isinstance(name, str) for name in names)):
        raise ValueError(f'{kind} must be a text for each of {count} images')
    for name in set(names or ()):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f'{kind} must be UTF-8, not {name!a}: rename that file, and make the features anew'
            ) from None
    return names


def _read_names(file: safetensors.safe_open, kind: str) -> tuple[str, ...] | None:
    names = parse_json((file.metadata() or {}).get(kind, 'null'))
    if not isinstance(names, list | type(None)):
        raise ValueError(f'{kind} must be a list')
    if kind in file.keys():  # noqa: SIM118 - no mapping
        numbers = file.get_tensor(kind).tolist()
        return tuple(map(str, numbers)) if names is None else tuple([names[number] for number in numbers])
    return None if names is None else tuple(names)


class Embedded(NamedTuple):
    """Features of a data set.

    Attributes:
        query: of all queries; None where they are drawn from the gallery.
        gallery: of the gallery.
        images_per_second: rate of reading and embedding both; None if nothing was embedded.
    """

    query: Features | None
    gallery: Features
    images_per_second: float | None = None
