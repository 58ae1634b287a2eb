"""Embeddings, and who and what they are of."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from msinet_timm.errors import InputError

__all__ = ['Embedded', 'Features']

_TENSORS = ('embeddings', 'identities', 'cameras', 'clothes', 'boxes', 'tracklets')
_TEXTS = ('paths', 'domains')


@dataclass(frozen=True, eq=False)
class Features:
    """Embeddings of images, on the CPU.

    Attributes:
        embeddings: [N, D] float32, each of length 1 (of length 0 if the model gave zeros).
        identities: [N] int64.
        cameras: [N] int64, or None where they are unknown.
        paths: N image files.
        clothes: [N] int64, or None where they are unknown.
        boxes: [N, 4] int64, left, top, right and bottom of the part of the file that was embedded (0, 0, 0, 0 for all
            of it); None where no image has one.
        tracklets: [N] int64, or None where they are unknown.
        domains: N names of places or sources, or None where they are unknown.
    """

    embeddings: Tensor
    identities: Tensor
    cameras: Tensor | None
    paths: tuple[str, ...]
    clothes: Tensor | None = None
    boxes: Tensor | None = None
    tracklets: Tensor | None = None
    domains: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Tensor) -> 'Features':
        """Features of some of the images, given by their indices."""
        tensors = {name: None if value is None else value[indices] for name, value in self._tensors().items()}
        chosen = indices.tolist()
        texts = {n: None if value is None else tuple(value[i] for i in chosen) for n, value in self._texts().items()}
        return Features(**tensors, **texts)

    def _tensors(self) -> dict[str, Tensor | None]:
        return {name: getattr(self, name) for name in _TENSORS}

    def _texts(self) -> dict[str, tuple[str, ...] | None]:
        return {name: getattr(self, name) for name in _TEXTS}

    def save(self, path: str | Path, metadata: dict[str, str] | None = None) -> None:
        """Writes one safetensors file, with paths and domains as JSON in its metadata, and further texts if any.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {name: value.contiguous() for name, value in self._tensors().items() if value is not None}
        texts = {name: json.dumps(value) for name, value in self._texts().items() if value is not None}
        try:
            save_file(tensors, path, metadata={**(metadata or {}), **texts})
        except (OSError, safetensors.SafetensorError) as e:
            raise InputError(f'{path}: cannot write features ({e})') from e

    @classmethod
    def load(cls, path: str | Path) -> 'Features':
        """Reads what `save` has written.

        Raises:
            InputError: missing file, or one that `save` has not written.
        """
        try:
            with safetensors.safe_open(path, 'pt') as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                texts = {name: tuple(json.loads(text)) for name, text in file.metadata().items() if name in _TEXTS}
            return cls(**{'cameras': None, **tensors}, **texts)
        except (OSError, safetensors.SafetensorError, AttributeError, TypeError, ValueError) as e:
            raise InputError(f'{path}: not a features file as msinet-eval --features writes ({e})') from e


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
