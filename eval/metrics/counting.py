"""Ranks of matches, counted without sorting the gallery: by tensor operations, or faster by a compiled loop.

An image's average precision needs the ranks of its matches alone, and a match's rank is 1 + the number of gallery
images before it: those that are nearer, and those that are equally near and have a lower index, as in a stable sort.
What is farther than a query's farthest match costs one comparison; the rest are placed among its matches by bisection.
Both forms compare the same numbers, so their ranks are the same.
"""

import functools
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from msinet_timm.errors import InputError

__all__ = ['KERNELS', 'choose_kernel', 'match_ranks']

#: 'auto' takes the compiled loop where it can run and pays.
KERNELS = ('auto', 'tensor', 'numba')

_WORTH_COMPILING = 2**26  # distances that the tensor form counts about as fast as numba is imported
_CHUNK = {'cpu': 2**20, 'cuda': 2**24}  # distances looked at together: a core's cache, or enough to fill a GPU


class _Matches(NamedTuple):
    """Matches of all rows in one list, each row's in the order of the ranking.

    Attributes:
        distances: [M].
        columns: [M] int64.
        bounds: [B + 1] int64, row b has the matches bounds[b] to bounds[b + 1].
    """

    distances: Tensor
    columns: Tensor
    bounds: Tensor


def choose_kernel(kernel: str, device: torch.device, work: int) -> str:
    """'tensor' or 'numba'.

    Args:
        kernel: one of `KERNELS`.
        device: where the distances are; the compiled loop runs on the CPU only.
        work: number of distances, for 'auto'.

    Raises:
        InputError: an unknown kernel, or one that cannot run.
    """
    if kernel not in KERNELS:
        raise InputError(f"kernel must be one of {', '.join(KERNELS)}; got '{kernel}'")
    if kernel == 'auto':
        suits = device.type == 'cpu' and work >= _WORTH_COMPILING and importlib.util.find_spec('numba')
        return 'numba' if suits else 'tensor'
    if kernel == 'numba' and device.type != 'cpu':
        raise InputError(f"kernel 'numba' runs on the CPU, the distances are on {device}: take 'tensor'")
    if kernel == 'numba' and not importlib.util.find_spec('numba'):
        raise InputError('kernel \'numba\' needs numba: pip install "msinet-timm[fast]"')
    return kernel


def match_ranks(
    distances: Tensor, rows: Tensor, columns: Tensor, removed: Tensor | None = None, *, kernel: str = 'tensor'
) -> Tensor:
    """Ranks of all matches in the rows of a distance matrix.

    Args:
        distances: [B, G] floats, no NaN.
        rows: [N] int64, ascending. With `columns`, [N] int64, the places of all images of the queries' identities.
        columns: see `rows`.
        removed: [N] bool, which of these are not in the ranking; None for none. The others are the matches.
        kernel: 'tensor' or 'numba'.

    Returns:
        [M] int64, 1 or larger: ranks of the matches, row by row and ascending in each.
    """
    if removed is None:
        removed = torch.zeros_like(rows, dtype=torch.bool)
    matched_rows = rows[~removed]
    matches = _sort_matches(distances, matched_rows, columns[~removed])
    if not len(matched_rows):
        return matched_rows
    count = _count_compiled if kernel == 'numba' else _count_tensor
    before = count(distances, matches)

    rows, columns = rows[removed], columns[removed]
    places = _bisect(matches, distances[rows, columns], rows, columns)
    before -= torch.bincount(places, minlength=len(before) + 1)[:-1]
    total = before.cumsum(0)
    return total - (total - before)[matches.bounds[matched_rows]]


def _sort_matches(distances: Tensor, rows: Tensor, columns: Tensor) -> _Matches:
    """Sorts by row, distance, column: three stable sorts, the last key first."""
    order = columns.argsort(stable=True)
    order = order[distances[rows, columns][order].argsort(stable=True)]
    order = order[rows[order].argsort(stable=True)]
    rows, columns = rows[order], columns[order]
    bounds = torch.searchsorted(rows, torch.arange(len(distances) + 1, device=rows.device))
    return _Matches(distances[rows, columns], columns, bounds)


def _bisect(matches: _Matches, distances: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[S] images -> the first match that each is not behind; the number of all matches where there is none."""
    low, end = matches.bounds[rows], matches.bounds[rows + 1]
    high = end.clone()
    width = int((matches.bounds[1:] - matches.bounds[:-1]).max())
    for _ in range(width.bit_length()):
        middle = (low + high).div_(2, rounding_mode='floor').clamp_(max=len(matches.distances) - 1)
        match = matches.distances[middle]
        behind = (match < distances) | ((match == distances) & (matches.columns[middle] < columns))
        behind &= low < high
        low = torch.where(behind, middle + 1, low)
        high = torch.where(behind, high, torch.minimum(middle, high))
    return low.masked_fill_(low == end, len(matches.distances))


def _count_tensor(distances: Tensor, matches: _Matches) -> Tensor:
    """[M] how many images come before (or are) a match, and not before the match ahead of it."""
    number, width = len(matches.distances), distances.shape[1]
    counts = torch.zeros(number + 1, dtype=torch.int64, device=distances.device)
    last = (matches.bounds[1:] - 1).clamp(min=0)
    farthest = matches.distances[last].masked_fill(matches.bounds[1:] == matches.bounds[:-1], -torch.inf)
    step = max(1, _CHUNK.get(distances.device.type, 2**20) // width)
    for start in range(0, len(distances), step):
        chunk = distances[start : start + step]
        near = _flat_nonzero(chunk <= farthest[start : start + step, None])
        rows = near.div(width, rounding_mode='floor')
        columns = near - rows * width
        places = _bisect(matches, chunk[rows, columns], rows + start, columns)
        counts += torch.bincount(places, minlength=number + 1)
    return counts[:-1]


def _flat_nonzero(mask: Tensor) -> Tensor:
    """[S] flat indices of what is true, a word of eight at a time: most words are all false."""
    flat = mask.flatten()
    whole = flat[: len(flat) // 8 * 8].view(-1, 8)
    words = whole.view(torch.int64).nonzero()[:, 0]
    indices = (words[:, None] * 8 + torch.arange(8, device=mask.device))[whole[words]]
    return torch.cat([indices, flat[whole.numel() :].nonzero()[:, 0] + whole.numel()])


def _count_compiled(distances: Tensor, matches: _Matches) -> Tensor:
    """The same, by as many threads as torch has."""
    counts = torch.zeros(len(matches.distances), dtype=torch.int64)
    arrays = [t.numpy() for t in (distances, *matches, counts)]
    threads = torch.get_num_threads()
    limits = [len(distances) * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for part in [pool.submit(_compiled_loop(), *arrays, *limits[i : i + 2]) for i in range(threads)]:
            part.result()
    return counts


@functools.cache
def _compiled_loop():
    from numba import njit

    try:
        return njit(nogil=True, cache=True)(_loop)
    except RuntimeError:  # no folder to cache in can be written: then it is compiled each time
        return njit(nogil=True)(_loop)


def _loop(distances, match_distances, match_columns, bounds, counts, start, stop):  # pragma: no cover, compiled
    for row in range(start, stop):
        first, end = bounds[row], bounds[row + 1]
        if first == end:
            continue
        farthest = match_distances[end - 1]
        for column in range(distances.shape[1]):
            distance = distances[row, column]
            if distance <= farthest:
                low, high = first, end
                while low < high:
                    middle = (low + high) // 2
                    match = match_distances[middle]
                    if match < distance or (match == distance and match_columns[middle] < column):
                        low = middle + 1
                    else:
                        high = middle
                if low < end:
                    counts[low] += 1
