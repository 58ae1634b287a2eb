"""Re-ranking by k-reciprocal neighbours, sparse from end to end.

The method is that of Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding" (CVPR 2017). Its
published form holds several matrices of all images by all images; here only neighbour lists and the few weights
that are not zero are kept, so that memory grows with the number of images and not with its square.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from msinet_timm.commands import progress
from msinet_timm.errors import InputError

from .checks import check_features
from .distances import full_precision, squared_distances, squared_norms
from .nearest import NearestLists

__all__ = ['ReRanking', 'k_reciprocal']

_TINY = torch.finfo(torch.float32).tiny


def k_reciprocal(query, gallery, k1: int = 20, k2: int = 6, lambda_value: float = 0.3):
    """Re-ranked distances of all queries to all gallery images, at once: see `ReRanking` for the arguments.

    Returns:
        [Q, G] float32, 0-1: a tensor on the device of `query`, or an array if `query` is no tensor.
    """
    distances = ReRanking(query, gallery, k1, k2, lambda_value)[:]
    return distances if isinstance(query, Tensor) else distances.numpy()


class ReRanking:
    """Re-ranked distances of queries to gallery images, computed as they are asked for.

    `ranking[first:last]` gives the distances of some queries, [B, G] float32, 0-1: rows of the matrix that
    `k_reciprocal` gives. What they share is found when the object is made, which takes most of the time.

    An image is its own nearest neighbour; of others that are equally near, that with the lower index comes first,
    and queries come before the gallery. The work is done in float32, on the device of `query`.

    Args:
        query: [Q, D] array or tensor. Features are taken as they are.
        gallery: [G, D] array or tensor.
        k1: neighbours of an image among which mutual ones are looked for, up to G.
        k2: neighbours, itself included, over which an image's weights are averaged, up to k1 + 1.
        lambda_value: share of the original distance in the result, 0-1.
        tile: the largest number of distances worked on at once (about 16 bytes each), but at least one query's.

    Attributes:
        shape: (Q, G).
        device: of the distances.

    Raises:
        InputError: sizes that do not fit, features that are not finite, or numbers out of range.
    """

    def __init__(
        self, query, gallery, k1: int = 20, k2: int = 6, lambda_value: float = 0.3, *, tile: int = 2**21
    ) -> None:
        images = _Images(*check_features(query, gallery))
        queries = len(images.query)
        _check_numbers(k1, k2, lambda_value, tile, len(images.gallery))
        self.shape = (queries, len(images.gallery))
        self.device = images.query.device
        self._images = images
        self._lambda = lambda_value
        self._tile = tile

        nearest, self._largest = _nearest(images, k1 + 1, tile)
        weights = _weights(images, nearest, self._largest, k1, tile)
        if k2 > 1:
            weights = _averaged(weights, nearest[:, :k2], tile)
        self._weights = _Weights(*map(torch.clone, weights.rows(0, queries)))  # a view would keep all in memory
        self._holders = weights.rows(queries, len(images)).transposed(len(images))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, queries: slice) -> Tensor:
        """[B, G] re-ranked distances of some queries."""
        first, last, step = queries.indices(len(self))
        if step != 1:
            raise IndexError(f'queries must be asked for by a slice of step 1, got {queries}')
        ranked = torch.empty(max(0, last - first), self.shape[1], device=self.device)
        for rows in _blocks(first, last, max(1, self._tile // self.shape[1])):
            distances = self._images.distances(rows, slice(len(self), len(self._images)))
            distances.mul_(self._lambda / self._largest[rows, None])
            jaccard = self._jaccard(rows.start, rows.stop)
            torch.add(distances, jaccard, alpha=1 - self._lambda, out=ranked[rows.start - first : rows.stop - first])
        return ranked

    def _jaccard(self, first: int, last: int) -> Tensor:
        """[B, G] Jaccard distances of the weights of some queries and of the gallery.

        Only images with a weight in common share anything: they are looked up in `_holders`, which lists for each
        image those that give it a weight.
        """
        gallery = self.shape[1]
        weights, holders = self._weights.rows(first, last), self._holders
        rows, sizes = weights.row_of_each(), holders.counts[weights.columns]
        shared = torch.zeros((last - first) * gallery, device=self.device)
        for part in _chunks(sizes, self._tile // 8):
            source, place = _expand(holders.starts[weights.columns[part]], sizes[part])
            least = torch.minimum(weights.values[part][source], holders.values[place])
            shared.index_add_(0, rows[part][source] * gallery + holders.columns[place], least)
        shared = shared.view(last - first, gallery)
        return shared.sub_(2).reciprocal_().mul_(2).add_(2)  # 1 - s / (2 - s)


class _Images:
    """Queries and then the gallery as one list, without a copy of their features."""

    def __init__(self, query: Tensor, gallery: Tensor) -> None:
        self.query, self.gallery = query, gallery
        self.squares = torch.cat([squared_norms(query, 'query'), squared_norms(gallery, 'gallery')])

    def __len__(self) -> int:
        return len(self.squares)

    def blocks(self, step: int) -> list[slice]:
        """Blocks of up to `step` images, each either of queries or of the gallery."""
        return [*_blocks(0, len(self.query), step), *_blocks(len(self.query), len(self), step)]

    def _block(self, block: slice) -> Tensor:
        queries = len(self.query)
        if block.start < queries:
            return self.query[block]
        return self.gallery[block.start - queries : block.stop - queries]

    def distances(self, rows: slice, columns: slice) -> Tensor:
        """[B, C] squared distances between two blocks."""
        return squared_distances(self._block(rows), self._block(columns), self.squares[rows], self.squares[columns])

    def pair_distances(self, first: Tensor, second: Tensor) -> Tensor:
        """[P] squared distances of pairs of images, given by [P] indices."""
        with full_precision(self.squares.device):
            products = torch.einsum('pd,pd->p', self._take(first), self._take(second))
        return (self.squares[first] + self.squares[second]).sub_(products, alpha=2).clamp_(min=0)

    def _take(self, indices: Tensor) -> Tensor:
        queries = len(self.query)
        features = self.query.new_empty(len(indices), self.query.shape[1])
        asks = indices < queries
        features[asks] = self.query[indices[asks]]
        features[~asks] = self.gallery[indices[~asks] - queries]
        return features


class _Weights(NamedTuple):
    """A sparse matrix, row by row (CSR).

    Attributes:
        starts: [R] int64, where each row begins in the other two.
        counts: [R] int64, its length.
        columns: [nnz] int32.
        values: [nnz] float32.
    """

    starts: Tensor
    counts: Tensor
    columns: Tensor
    values: Tensor

    @classmethod
    def stack(cls, parts: list[tuple[Tensor, Tensor, Tensor]]) -> '_Weights':
        """From counts, columns and values of consecutive rows."""
        counts, columns, values = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return cls(counts.cumsum(0) - counts, counts, columns, values)

    def rows(self, first: int, last: int) -> '_Weights':
        """Some of the rows, as a view of the same memory."""
        starts, counts = self.starts[first:last], self.counts[first:last]
        if first == last:
            return _Weights(starts, counts, self.columns[:0], self.values[:0])
        place = slice(int(starts[0]), int(starts[-1] + counts[-1]))
        return _Weights(starts - starts[0], counts, self.columns[place], self.values[place])

    def row_of_each(self) -> Tensor:
        """[nnz] int64, the row that each value is in."""
        return torch.arange(len(self.counts), device=self.counts.device).repeat_interleave(self.counts)

    def transposed(self, columns: int) -> '_Weights':
        """The matrix with rows and columns swapped, given the number of its columns."""
        order = self.columns.argsort(stable=True)
        counts = self.columns.bincount(minlength=columns)
        return _Weights(counts.cumsum(0) - counts, counts, self.row_of_each()[order].int(), self.values[order])


def _check_numbers(k1: int, k2: int, lambda_value: float, tile: int, gallery: int) -> None:
    if k1 < 1 or tile < 1:
        raise InputError(f'k1 and tile must be at least 1, got {k1} and {tile}')
    if k1 > gallery:
        raise InputError(f'k1 is {k1}, but the gallery has only {gallery} images: give a smaller k1')
    if not 1 <= k2 <= k1 + 1:
        raise InputError(f'k2 must be from 1 to k1 + 1 = {k1 + 1}, got {k2}')
    if not 0 <= lambda_value <= 1:
        raise InputError(f'lambda_value must be between 0 and 1, got {lambda_value}')


def _nearest(images: _Images, k: int, tile: int) -> tuple[Tensor, Tensor]:
    """[N, k] indices of each image's nearest, itself first, and [N] the largest squared distance from it."""
    device = images.squares.device
    lists = NearestLists(len(images), k, device)
    largest = torch.full((len(images),), _TINY, device=device)  # where all features are the same, all are at 0
    blocks = images.blocks(max(1, math.isqrt(tile)))
    for number, rows in enumerate(progress(blocks, desc='nearest neighbours', unit='block')):
        for columns in blocks[number:]:
            distances = images.distances(rows, columns)
            largest[rows] = largest[rows].maximum(distances.amax(1))
            if rows is columns:
                distances.fill_diagonal_(-1)
            else:  # a block's lists still see all others in order
                largest[columns] = largest[columns].maximum(distances.amax(0))
                lists.update(distances.T.contiguous(), rows.start, columns)
            lists.update(distances, columns.start, rows)
    return lists.indices, largest


def _weights(images: _Images, nearest: Tensor, largest: Tensor, k1: int, tile: int) -> _Weights:
    """[N, N] weights of each image's expanded set of mutual neighbours, falling with distance; sum 1 in a row."""
    half = round(k1 / 2) + 1
    step = max(1, tile // (4 * k1 * k1))
    blocks = list(_blocks(0, len(nearest), step))
    mutual = torch.cat([_mutual(nearest, rows) for rows in blocks])
    mutual_half = torch.cat([_mutual(nearest[:, :half], rows) for rows in blocks])
    pairs_at_once = max(1, tile // images.query.shape[1])
    parts = []
    for block in blocks:
        rows, columns = _expanded(nearest, mutual, mutual_half, block)
        distances = torch.cat(
            [
                images.pair_distances(rows[part] + block.start, columns[part])
                for part in _blocks(0, len(rows), pairs_at_once)
            ]
        )
        values = (-distances / largest[rows + block.start]).exp_()
        sums = values.new_zeros(len(mutual[block])).index_add_(0, rows, values)
        parts.append((rows.bincount(minlength=len(sums)), columns.int(), values / sums[rows]))
    return _Weights.stack(parts)


def _mutual(nearest: Tensor, rows: slice) -> Tensor:
    """[B, k] which of some images' k nearest hold them among their own k nearest."""
    own = torch.arange(rows.start, rows.stop, device=nearest.device)
    return (nearest[nearest[rows]] == own[:, None, None]).any(2)


def _expanded(nearest: Tensor, mutual: Tensor, mutual_half: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Expanded sets of some images, as rows (counted from the block's first) and columns, in that order.

    An image's mutual neighbours, and the half-sized sets of those of them whose set lies in it for over two thirds.
    """
    members, is_mutual = nearest[block], mutual[block]
    candidates = nearest[:, : mutual_half.shape[1]][members]  # [B, k1 + 1, half]
    held = mutual_half[members]
    known = members.masked_fill(~is_mutual, len(nearest)).sort(1).values
    flat = candidates.flatten(1)
    place = torch.searchsorted(known, flat).clamp_(max=known.shape[1] - 1)
    inside = (known.gather(1, place) == flat).view_as(held) & held
    joins = is_mutual & (3 * inside.sum(2) > 2 * held.sum(2))
    rows = torch.arange(len(members), device=members.device) * len(nearest)
    keys = torch.cat(
        [
            (members + rows[:, None])[is_mutual],
            (candidates + rows[:, None, None])[held & joins[:, :, None]],
        ]
    ).unique()
    return keys // len(nearest), keys % len(nearest)


def _averaged(weights: _Weights, nearest: Tensor, tile: int) -> _Weights:
    """Means of the rows of each image's nearest, [N, k2]."""
    size = len(nearest)
    counts = weights.counts[nearest]
    parts = []
    for block in _chunks(counts.sum(1), tile // 8):
        members = nearest[block].flatten()
        source, place = _expand(weights.starts[members], counts[block].flatten())
        keys, inverse = (source // nearest.shape[1] * size + weights.columns[place]).unique(return_inverse=True)
        values = weights.values.new_zeros(len(keys)).index_add_(0, inverse, weights.values[place])
        rows = (keys // size).bincount(minlength=len(nearest[block]))
        parts.append((rows, (keys % size).int(), values / nearest.shape[1]))
    return _Weights.stack(parts)


def _expand(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Lists of consecutive numbers, given first number and length: [P] which list, [P] the number."""
    lists = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    within = torch.arange(len(lists), device=counts.device) - (counts.cumsum(0) - counts)[lists]
    return lists, starts[lists] + within


def _chunks(counts: Tensor, limit: int) -> Iterator[slice]:
    """Consecutive parts of which the counts sum up to `limit` at most, but at least one count each."""
    ends = counts.cumsum(0)
    first, done = 0, 0
    while first < len(ends):
        last = max(first + 1, int(torch.searchsorted(ends, done + limit, right=True)))
        yield slice(first, last)
        first, done = last, int(ends[last - 1])


def _blocks(first: int, last: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, last)) for start in range(first, last, step))
