"""Distances between queries and gallery, computed on demand, a few rows at a time."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from msinet_timm.errors import InputError

from .checks import as_tensor

__all__ = [
    'DistanceRows',
    'EuclideanRows',
    'GivenRows',
    'blocks',
    'full_precision',
    'padded_rows',
    'squared_distances',
    'squared_norms',
]


class DistanceRows(Protocol):
    """What rankings are measured on: a [Q, G] array or tensor, or anything that computes rows of one when asked."""

    shape: tuple[int, int]
    device: torch.device

    def __getitem__(self, rows: slice) -> Tensor:
        """[B, G] distances of some queries, floats without NaN."""


class EuclideanRows:
    """Squared Euclidean distances less the query's own square, which orders a row alike and rounds less.

    The tensor that indexing gives is overwritten by the next indexing.

    Attributes:
        shape: queries, gallery images.
        device: where the work is done.
        query_squares: [Q] what a row lacks to be squared distances.

    Args:
        query: [Q, D] float32.
        gallery: [G, D] float32, on the same device.

    Raises:
        InputError: features that are not finite or too large to square.
    """

    def __init__(self, query: Tensor, gallery: Tensor):
        self.shape = len(query), len(gallery)
        self.device = query.device
        self.query_squares = squared_norms(query, 'query')
        self._gallery_squares = squared_norms(gallery, 'gallery')
        self._query, self._gallery = query, gallery
        self._buffer = query.new_empty(0)

    def __getitem__(self, rows: slice) -> Tensor:
        query = self._query[rows]
        if self._buffer.numel() < len(query) * self.shape[1]:
            self._buffer = query.new_empty(len(query) * self.shape[1])
        distances = self._buffer[: len(query) * self.shape[1]].view(len(query), self.shape[1])
        with full_precision(self.device):
            return torch.addmm(self._gallery_squares, query, self._gallery.T, alpha=-2, out=distances)


class GivenRows:
    """Distances that a caller gives: the device of the first row counts, and every row is checked."""

    def __init__(self, distances):
        if not hasattr(distances, 'shape'):
            distances = as_tensor(distances, 'distances')
        self.shape = tuple(distances.shape)
        if len(self.shape) != 2 or 0 in self.shape:
            raise InputError(f'distances must be [queries, gallery images], not empty; got {list(self.shape)}')
        self._distances = distances
        self.device = self[0:1].device

    def __getitem__(self, rows: slice) -> Tensor:
        block = as_tensor(self._distances[rows], 'distances')
        if block.dtype not in (torch.float32, torch.float64):
            block = block.float() if block.is_floating_point() else block.double()
        bad = block.isnan()
        if bad.any():
            row, column = bad.nonzero()[0].tolist()
            raise InputError(
                f'{int(bad.sum())} distances are NaN, the first is that of query {rows.start + row} to gallery '
                f'image {column}'
            )
        return block


def blocks(rows: DistanceRows, tile: int) -> Iterator[slice]:
    """Slices of queries, such that no block holds more distances than a tile, but at least one query's."""
    step = max(1, tile // rows.shape[1])
    return (slice(start, min(start + step, rows.shape[0])) for start in range(0, rows.shape[0], step))


def padded_rows(distances: Tensor, rows: Tensor, columns: Tensor, spare: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Some of each row's distances, moved to its front.

    Args:
        distances: [B, G].
        rows: [N] int64, ascending. With `columns`, the places of what is wanted.
        columns: [N] int64.
        spare: places to leave free at the end of the longest row.

    Returns:
        [B, W] distances, infinite where a row has no more; [B, W] their columns, G where a row has no more;
        [B] how many each row has.
    """
    counts = rows.bincount(minlength=len(distances))
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    values = distances.new_full((len(distances), int(counts.max()) + spare), torch.inf)
    values[rows, place] = distances[rows, columns]
    sources = columns.new_full(values.shape, distances.shape[1])
    sources[rows, place] = columns
    return values, sources, counts


def squared_distances(rows: Tensor, columns: Tensor, row_squares: Tensor, column_squares: Tensor) -> Tensor:
    """Squared Euclidean distances in float32, not below 0.

    Args:
        rows: [B, D] float32.
        columns: [C, D] float32.
        row_squares: [B] squared norms.
        column_squares: [C] squared norms.

    Returns:
        [B, C].
    """
    with full_precision(rows.device):
        distances = torch.addmm(column_squares, rows, columns.T, alpha=-2)
    return distances.add_(row_squares[:, None]).clamp_(min=0)


def squared_norms(features: Tensor, name: str) -> Tensor:
    """[N] squared norms, which also tell of features that no distance can be computed from.

    Raises:
        InputError: features that are not finite or too large to square; says how many of `name`, and the first.
    """
    squares, buffer = features.new_empty(len(features)), torch.empty_like(features[:4096])
    for start in range(0, len(features), len(buffer)):
        part = features[start : start + len(buffer)]
        torch.sum(torch.square(part, out=buffer[: len(part)]), 1, out=squares[start : start + len(part)])
    bad = ~squares.isfinite()
    if bad.any():
        raise InputError(
            f'{name} features of {int(bad.sum())} images are not finite (or too large to square in float32), '
            f'the first is number {int(bad.nonzero()[0])}'
        )
    return squares


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 products in float32, whatever a surrounding training has chosen: TF32 would swap near neighbours."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = 'ieee'
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
