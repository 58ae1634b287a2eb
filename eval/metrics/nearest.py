"""The nearest of many images; of equally near ones, those with lower indices."""

import numpy as np
import torch
from torch import Tensor

from .checks import Labels, Relatives, check_features
from .distances import EuclideanRows, blocks, padded_rows

__all__ = ['NearestLists', 'nearest']

_GROUPS = 8  # groups for each neighbour wanted: more make a sharper bound, and a slower one
_TILE = 2**22  # distances held at once


class NearestLists:
    """The k nearest images of each row so far, while tiles of distances go by in the order of their columns.

    Attributes:
        distances: [B, k] ascending; infinite where fewer than k images have been seen.
        indices: [B, k] int64, ascending where distances are equal.
    """

    def __init__(self, rows: int, k: int, device: torch.device):
        self.distances = torch.full((rows, k), torch.inf, device=device)
        self.indices = torch.zeros((rows, k), dtype=torch.int64, device=device)

    def update(self, distances: Tensor, start: int, rows: slice = slice(None)) -> None:
        """Takes in a tile.

        Args:
            distances: [B, C], not NaN.
            start: index of the tile's first column, after those of all tiles before.
            rows: the lists that the tile is for.
        """
        best, indices = self.distances[rows], self.indices[rows]
        k = best.shape[1]
        # an earlier image wins a tie, so that only what is nearer than a list's last one can enter it
        near = (distances < best[:, -1:]).logical_and_(distances <= _bound(distances, k))
        row, column = near.nonzero(as_tuple=True)  # in the order of columns within each row
        if not len(row):
            return
        new, columns, _ = padded_rows(distances, row, column)
        merged, order = torch.cat([best, new], dim=1).sort(dim=1, stable=True)
        self.distances[rows] = merged[:, :k]
        self.indices[rows] = torch.cat([indices, columns + start], dim=1).gather(1, order[:, :k])


def _bound(distances: Tensor, k: int) -> Tensor | float:
    """[B, 1] bound that at least k columns of each row keep: the k-th least of the minima of more than k groups."""
    size = distances.shape[1] // (k * _GROUPS)
    if size < 2:
        return torch.inf
    groups = distances[:, : size * k * _GROUPS].view(len(distances), size, -1).amin(1)
    return groups.kthvalue(k, dim=1, keepdim=True).values


def nearest(
    query,
    gallery,
    query_labels: Labels | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int = 10,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first images of queries' rankings, by the rules of `evaluate_ranking`.

    Takes the same features and labels; without labels, no image is left out.

    Returns:
        For each query, gallery indices and Euclidean distances of the k nearest images, fewer if fewer are left.
    """
    query, gallery = check_features(query, gallery)
    rows, relatives = EuclideanRows(query, gallery), None
    if query_labels is not None or gallery_labels is not None:
        relatives = Relatives(query_labels, gallery_labels, rows.shape, rows.device)
    found = []
    for block in blocks(rows, _TILE):
        distances = rows[block]
        if relatives is not None:
            row, column, removed = relatives.of(block)
            distances[row[removed], column[removed]] = torch.inf
        lists = NearestLists(len(distances), min(k, len(gallery)), rows.device)
        lists.update(distances, 0)
        far = (lists.distances + rows.query_squares[block, None]).clamp(min=0).sqrt()
        # a list ends in infinite distances where fewer than k images are left
        for kept, *first in zip(far.isfinite(), lists.indices, far, strict=True):
            found.append(tuple(values[kept].cpu().numpy() for values in first))
    return found
