"""The nearest of many images, found tile by tile; of equally near ones those with lower indices."""

import torch
from torch import Tensor

from .distances import full_precision

__all__ = ['NearestLists', 'squared_distances']

_GROUPS = 8  # groups for each neighbour wanted: more make a sharper bound, and a slower one


def squared_distances(rows: Tensor, columns: Tensor, row_squares: Tensor, column_squares: Tensor) -> Tensor:
    """Squared Euclidean distances in float32, not below 0.

    Args:
        rows: [B, D] float32.
        columns: [C, D] float32.
        row_squares: [B] squared norms. Likewise `column_squares`, [C].

    Returns:
        [B, C].
    """
    with full_precision(rows.device):
        distances = torch.addmm(column_squares, rows, columns.T, alpha=-2)
    return distances.add_(row_squares[:, None]).clamp_(min=0)


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
        counts = row.bincount(minlength=len(best))
        width = int(counts.max())
        slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        new = best.new_full((len(best), width), torch.inf)
        new[row, slot] = distances[row, column]
        places = indices.new_zeros(new.shape)
        places[row, slot] = column + start
        merged, order = torch.cat([best, new], dim=1).sort(dim=1, stable=True)
        self.distances[rows] = merged[:, :k]
        self.indices[rows] = torch.cat([indices, places], dim=1).gather(1, order[:, :k])


def _bound(distances: Tensor, k: int) -> Tensor | float:
    """[B, 1] bound that at least k columns of each row keep: the k-th least of the minima of more than k groups."""
    size = distances.shape[1] // (k * _GROUPS)
    if size < 2:
        return torch.inf
    groups = distances[:, : size * k * _GROUPS].view(len(distances), size, -1).amin(1)
    return groups.kthvalue(k, dim=1, keepdim=True).values
