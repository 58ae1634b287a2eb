"""Ranks of matches, counted without sorting the gallery.

An image's average precision needs the ranks of its matches alone, and a match's rank is 1 + the number of gallery
images before it: those that are nearer, and those that are equally near and have a lower index, as in a stable sort.
So a query's matches are sorted, and each gallery image is placed among them by bisection: as many steps for features
that are hard to tell apart as for easy ones, and twice as many where nearly all images are exactly as far as a match.
"""

import torch
from torch import Tensor

from .distances import padded_rows

__all__ = ['match_ranks']

_CHUNK = {'cpu': 2**19, 'cuda': 2**24}  # distances looked at together: a core's cache, or enough to fill a GPU


def match_ranks(distances: Tensor, rows: Tensor, columns: Tensor, removed: Tensor | None = None) -> Tensor:
    """Ranks of all matches in the rows of a distance matrix.

    Args:
        distances: [B, G] floats, no NaN.
        rows: [N] int64. With `columns`, the places of all images of the queries' identities, row by row and ascending
            in each.
        columns: [N] int64.
        removed: [N] bool, which of these are not in the ranking; None for none. The others are the matches.

    Returns:
        [M] int64, 1 or larger: ranks of the matches, row by row and ascending in each.
    """
    if removed is None:
        removed = torch.zeros_like(rows, dtype=torch.bool)
    step = max(1, _CHUNK.get(distances.device.type, 2**19) // distances.shape[1])
    chunks = distances.split(step)
    sizes = (rows // step).bincount(minlength=len(chunks)).tolist()
    parts = zip(chunks, (rows % step).split(sizes), columns.split(sizes), removed.split(sizes), strict=True)
    return torch.cat([_ranks(*part) for part in parts])


def _ranks(distances: Tensor, rows: Tensor, columns: Tensor, removed: Tensor) -> Tensor:
    """`match_ranks` of so few rows that a few numbers for each of their distances can be held."""
    width, device = distances.shape[1], distances.device
    # [B, W + 1]: the last place is that of what is farther than all matches
    matches, match_columns, counts = padded_rows(distances, rows[~removed], columns[~removed], spare=1)
    matches, order = matches.sort(dim=1, stable=True)
    match_columns = match_columns.gather(1, order)
    offsets = torch.arange(0, matches.numel(), matches.shape[1], dtype=torch.int32, device=device)[:, None]

    places = torch.searchsorted(matches, distances.contiguous(), out_int32=True).add_(offsets).flatten()
    # a place is that of the first match which is no nearer; of those equally near, the column decides
    tied = (matches.flatten().index_select(0, places).view_as(distances) == distances).flatten().nonzero()[:, 0]
    firsts = torch.searchsorted(matches, matches).add_(offsets)
    keys = (firsts * (width + 1) + match_columns).flatten()
    places[tied] = torch.searchsorted(keys, places[tied].long() * (width + 1) + tied % width, out_int32=True)
    places.view_as(distances)[rows[removed], columns[removed]] = offsets[rows[removed], 0] + matches.shape[1] - 1
    ranks = places.bincount(minlength=matches.numel()).view_as(matches).cumsum(1)
    return ranks[torch.arange(matches.shape[1], device=device) < counts[:, None]]
