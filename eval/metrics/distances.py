"""Distances between queries and gallery, computed on demand, a few rows at a time."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from msinet_timm.errors import InputError

from .checks import as_tensor

__all__ = ['DistanceRows', 'EuclideanRows', 'GivenRows', 'blocks', 'full_precision', 'squared_norms']


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
        precision: 'full' multiplies in float32. 'half' multiplies in float16, which is faster on most GPUs and some
            CPUs, but rounds to three digits: near neighbours change places, and so do the metrics, a little.

    Raises:
        InputError: features that are not finite or too large to square, or another precision.
    """

    def __init__(self, query: Tensor, gallery: Tensor, precision: str = 'full'):
        if precision not in ('full', 'half'):
            raise InputError(f"precision must be full or half, got '{precision}'")
        self.shape = len(query), len(gallery)
        self.device = query.device
        self.query_squares = squared_norms(query, 'query')
        self._gallery_squares = squared_norms(gallery, 'gallery')
        self._query, self._gallery = query, gallery
        self._half = precision == 'half'
        self._buffer = query.new_empty(0)
        if self._half:
            # in units of the longest vectors, no product can be too large for float16
            self._lengths = [float(s.max().sqrt()) or 1.0 for s in (self.query_squares, self._gallery_squares)]
            self._gallery = (gallery / self._lengths[1]).half()

    def __getitem__(self, rows: slice) -> Tensor:
        query = self._query[rows]
        if self._buffer.numel() < len(query) * self.shape[1]:
            self._buffer = query.new_empty(len(query) * self.shape[1])
        distances = self._buffer[: len(query) * self.shape[1]].view(len(query), self.shape[1])
        with full_precision(self.device):
            if not self._half:
                return torch.addmm(self._gallery_squares, query, self._gallery.T, alpha=-2, out=distances)
            distances.copy_((query / self._lengths[0]).half() @ self._gallery.T)
            return distances.mul_(-2 * self._lengths[0] * self._lengths[1]).add_(self._gallery_squares)


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
