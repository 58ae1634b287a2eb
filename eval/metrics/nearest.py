"""The first images of rankings, to look at."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from .checks import Relatives, check_features, check_labels, check_rules
from .distances import DistanceRows, EuclideanRows, GivenRows, blocks

__all__ = ['nearest', 'nearest_by_distance']

_TILE = 2**22  # distances held at once


def nearest(
    query,
    gallery,
    query_ids=None,
    gallery_ids=None,
    query_cameras=None,
    gallery_cameras=None,
    *,
    query_clothes=None,
    gallery_clothes=None,
    k: int = 10,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first images of queries' rankings, by the rules of `evaluate_ranking`.

    Takes the same features and labels.

    Returns:
        For each query, gallery indices and Euclidean distances of the k nearest images, fewer if fewer are left.
    """
    rows = EuclideanRows(*check_features(query, gallery))
    cameras, clothes = (query_cameras, gallery_cameras), (query_clothes, gallery_clothes)
    found = _nearest(rows, query_ids, gallery_ids, cameras=cameras, clothes=clothes, k=k)
    squares = rows.query_squares
    return _arrays((indices, (far + squares[i]).clamp(min=0).sqrt()) for i, (indices, far) in enumerate(found))


def nearest_by_distance(
    distances,
    query_ids=None,
    gallery_ids=None,
    query_cameras=None,
    gallery_cameras=None,
    *,
    query_clothes=None,
    gallery_clothes=None,
    k: int = 10,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first images of queries' rankings by given distances, as `evaluate_distances` takes them.

    Returns:
        For each query, gallery indices and the given distances of the k nearest images, fewer if fewer are left.
    """
    cameras, clothes = (query_cameras, gallery_cameras), (query_clothes, gallery_clothes)
    return _arrays(_nearest(GivenRows(distances), query_ids, gallery_ids, cameras=cameras, clothes=clothes, k=k))


def _arrays(found: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(indices.cpu().numpy(), distances.cpu().numpy()) for indices, distances in found]


def _nearest(
    rows: DistanceRows, query_ids, gallery_ids, *, cameras: tuple, clothes: tuple, k: int
) -> list[tuple[Tensor, Tensor]]:
    """Gallery indices and distances of the first images of each query."""
    images = [torch.empty(number, 0, device=rows.device) for number in rows.shape]
    rules = check_rules(*images, cameras=cameras, clothes=clothes)
    relatives = None
    if rules:
        query_ids = check_labels(query_ids, images[0], 'query_ids')
        relatives = Relatives(query_ids, check_labels(gallery_ids, images[1], 'gallery_ids'), rules)
    found = []
    for block in blocks(rows, _TILE):
        left = torch.ones(block.stop - block.start, rows.shape[1], dtype=torch.bool, device=rows.device)
        if relatives is not None:
            row, column, removed = relatives.of(block)
            left[row[removed], column[removed]] = False
        for distances, kept in zip(rows[block], left, strict=True):
            indices = kept.nonzero()[:, 0]
            found.append(_first(distances[indices], indices, k))
    return found


def _first(distances: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of one row, in the order of a stable sort; that is, with all ties at the border at hand."""
    if len(distances) > k:
        near = distances <= distances.topk(k, largest=False).values[-1]
        distances, indices = distances[near], indices[near]
    order = distances.argsort(stable=True)[:k]
    return indices[order], distances[order]
