"""Same or not, for every pair of query and gallery: ROC-AUC, EER and thresholds, without holding the distances."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from msinet_timm.errors import InputError

from .checks import Labels, Relatives, check_features
from .distances import EuclideanRows, blocks

__all__ = ['OperatingPoint', 'VerificationResult', 'evaluate_verification']

_BINS = 2**21  # of squared distance
_HISTOGRAM = 128  # bins of distance; its square divides _BINS, so that the edges of these are edges of those
_CURVE = 200  # points of each curve, about
_QUERIES = 256  # whose same pairs are looked up at once
_CHUNK = 2**18  # numbers of features of same pairs held at once
_PART = 2**19  # distances that are searched at once


class OperatingPoint(NamedTuple):
    """A threshold, and what it does: pairs that are at most so far apart are taken for the same.

    Attributes:
        target: false positive rate that was asked for.
        false_positive_rate: share of the different pairs that are taken for the same; at most `target`.
        true_positive_rate: share of the same pairs that are taken for the same.
        threshold: Euclidean distance; -1 where too many different pairs are as near as can be, so that no threshold
            keeps the rate.
    """

    target: float
    false_positive_rate: float
    true_positive_rate: float
    threshold: float


@dataclass(frozen=True, eq=False)
class VerificationResult:
    """How well distance tells same from different. Rates are 0-1, distances Euclidean.

    Attributes:
        auc: area under the ROC curve: how often a same pair is nearer than a different one; equally near counts half.
        eer: equal error rate, where the ROC curve (straight between its points) has as many false positives as false
            negatives.
        eer_threshold: the largest threshold known with a false positive rate of at most `eer`.
        points: operating points, in the order in which they were asked for; all but `target` is NaN where there are
            too few different pairs to measure such a rate.
        same_pairs: number of pairs of one identity that the protocol leaves.
        different_pairs: number of pairs of two identities.
        bin_edges: [129] distances, from 0 to what no pair can exceed (2 for normalised features).
        same_histogram: [128] number of same pairs in each bin.
        different_histogram: [128] number of different pairs in each bin.
        roc: [P, 2] false positive rate, ascending and dense towards 0, and the best true positive rate at no more.
        precision_recall: [P, 2] recall, ascending, and precision over all pairs, at thresholds.
        notes: why a point is NaN.
    """

    auc: float
    eer: float
    eer_threshold: float
    points: tuple[OperatingPoint, ...]
    same_pairs: int
    different_pairs: int
    bin_edges: np.ndarray
    same_histogram: np.ndarray
    different_histogram: np.ndarray
    roc: np.ndarray
    precision_recall: np.ndarray
    notes: tuple[str, ...] = ()

    def at(self, false_positive_rate: float) -> OperatingPoint:
        """The operating point of one of the rates that were asked for.

        Raises:
            InputError: this rate was not.
        """
        for point in self.points:
            if point.target == false_positive_rate:
                return point
        asked = ', '.join(f'{point.target:g}' for point in self.points) or 'none'
        raise InputError(f'no operating point at false positive rate {false_positive_rate:g}; asked for: {asked}')


def evaluate_verification(
    query,
    gallery,
    query_labels: Labels,
    gallery_labels: Labels,
    *,
    false_positive_rates: Sequence[float] = (1e-2, 1e-3, 1e-4),
    tile: int = 2**21,
) -> VerificationResult:
    """Takes distance as a test of whether two images are of the same identity, over all query-gallery pairs.

    Pairs of one identity *and* camera (or clothes, where given) are left out, as from rankings. Distances are computed
    in float32, from the features as they are: thresholds are of use for features that are made and normalised alike.

    The metrics are exact counts of those distances. The same pairs, few, are held and sorted; the different pairs are
    counted tile by tile, over fine bins of squared distance and, in bins that also hold a same pair, against each
    same pair. So the counts are known at every same pair and at every bin's edge. An operating point is the one with
    the most true positives among all thresholds that keep the rate; its threshold is the largest of those known:
    within a bin (2e-6 of squared distance for normalised features) of the different pair that would be one too
    many.

    Memory beyond the features is below 150 MB for up to a million same pairs. Works on the device of `query`.

    Args:
        query: [Q, D] array or tensor.
        gallery: [G, D] array or tensor.
        query_labels: of the Q queries.
        gallery_labels: of the G gallery images; with cameras, and clothes, if the queries have them.
        false_positive_rates: of the operating points, each between 0 and 1. One that is less than 1 in
            `different_pairs` cannot be measured: it gives NaN, and a note.
        tile: the largest number of distances held at once (about 25 bytes each), but at least one query's.

    Raises:
        InputError: sizes that do not fit, features that are not finite, rates out of range, no pair of the same or
            none of different identities.
    """
    if tile < 1 or not all(0 < rate < 1 for rate in false_positive_rates):
        rates = ', '.join(f'{rate:g}' for rate in false_positive_rates)
        raise InputError(f'false positive rates must be between 0 and 1 and tile at least 1, got {rates} and {tile}')
    query, gallery = check_features(query, gallery)
    rows = EuclideanRows(query, gallery)
    relatives = Relatives(query_labels, gallery_labels, rows.shape, rows.device)
    same, alike = _same_distances(query, gallery, relatives)
    different_pairs = len(query) * len(gallery) - alike
    if not len(same) or not different_pairs:
        kind = 'different identities' if len(same) else 'the same identity'
        under = f' under different {" and ".join(relatives.rules)}' if relatives.rules and not len(same) else ''
        raise InputError(f'no pair of query and gallery is of {kind}{under}: thresholds need both kinds')

    counts = _Counts(same, farthest=_longest(query) + _longest(gallery))
    for block in blocks(rows, tile):
        distances = rows[block].add_(rows.query_squares[block, None]).clamp_(min=0)
        row, column, _ = relatives.of(block)
        distances[row, column] = torch.inf
        counts.add(distances.flatten())
    return _Curve(counts, different_pairs).result(false_positive_rates)


def _longest(features: Tensor) -> float:
    return max(float(part.norm(dim=1).max()) for part in features.split(_QUERIES))


def _same_distances(query: Tensor, gallery: Tensor, relatives: Relatives) -> tuple[Tensor, int]:
    """[S] squared distances of all same pairs, and the number of pairs of one identity, with those left out."""
    found, alike, size = [], 0, max(1, _CHUNK // query.shape[1])
    for start in range(0, len(query), _QUERIES):
        row, column, removed = relatives.of(slice(start, start + _QUERIES))
        alike += len(row)
        row, column = row[~removed] + start, column[~removed]
        # made first: a small tensor behind each of the large ones would keep their places from being used again
        distances = query.new_empty(len(row))
        for part, r, c in zip(distances.split(size), row.split(size), column.split(size), strict=True):
            part.copy_((query[r] - gallery[c]).square_().sum(1))
        found.append(distances)
    return torch.cat(found), alike


class _Counts:
    """Counts squared distances of different pairs in fine bins, and against same pairs where these are in the bin.

    Attributes:
        values: [U] squared distances of the same pairs, ascending, each once; `repeats` of each.
        bins: [U] their bins.
        occupied: [_BINS + 1] bool: bins with a same pair.
        histogram: [_BINS + 1] different pairs; the last bin has what is infinitely far, too.
        reached: [U + 1] those different pairs in occupied bins that are at most as far as a value, not as the one
            before.
        tied: [U] among them, those just as far as the value.
        scale: bins in a unit of squared distance: a power of 2, so that multiplying by it is exact.
    """

    def __init__(self, same: Tensor, farthest: float):
        # rounding takes normalised features a little beyond 4, which must not halve the number of bins in use
        self.scale = 2.0 ** math.floor(math.log2(_BINS / max(farthest**2, 1e-30)) + 1e-3)
        self.values, self.repeats = same.unique(return_counts=True)
        self.bins = self._to_bins(self.values)
        self.histogram = torch.zeros(_BINS + 1, dtype=torch.int64, device=same.device)
        in_bin = torch.bincount(self.bins, minlength=_BINS + 1)
        self._first = (in_bin.cumsum(0) - in_bin).int()
        self._most = int(in_bin.max())
        self.occupied = in_bin > 0
        self._padded = torch.cat([self.values, self.values.new_full((2 * self._most,), torch.inf)])
        self.reached = self.histogram.new_zeros(len(self.values) + 1)
        self.tied = self.histogram.new_zeros(len(self.values))

    def _to_bins(self, distances: Tensor) -> Tensor:
        return (distances * self.scale).clamp_(max=_BINS).int()

    def add(self, distances: Tensor) -> None:
        """Counts [N] squared distances of different pairs, and infinite ones for what is none."""
        bins = self._to_bins(distances)
        self.histogram += torch.bincount(bins, minlength=len(self.histogram))
        for part, part_bins in zip(distances.split(_PART), bins.split(_PART), strict=True):
            contested = self.occupied.index_select(0, part_bins).nonzero()[:, 0]
            part = part.index_select(0, contested)
            place = self._place(part, part_bins.index_select(0, contested))
            self.reached += torch.bincount(place, minlength=len(self.reached))
            tied = self._padded.index_select(0, place) == part
            self.tied += torch.bincount(place[tied], minlength=len(self.tied))[: len(self.tied)]

    def _place(self, distances: Tensor, bins: Tensor) -> Tensor:
        """[N] number of values below each distance: a binary search among the values of its bin."""
        place = self._first.index_select(0, bins)
        for bit in reversed(range(self._most.bit_length())):
            # what comes after the bin's values is farther than the distance, too
            place += (self._padded.index_select(0, place + (2**bit - 1)) < distances).int() << bit
        return place


class _Curve:
    """Numbers of false and true positives at every threshold that matters."""

    def __init__(self, counts: _Counts, different_pairs: int):
        histogram, occupied, bins = (t.cpu().numpy() for t in (counts.histogram, counts.occupied, counts.bins))
        histogram[-1] -= histogram.sum() - different_pairs  # what was infinitely far
        self.scale, self.bins, self.histogram = counts.scale, bins, histogram
        self.squares = counts.values.cpu().numpy()
        self.repeats = counts.repeats.cpu().numpy()
        #: Different and same pairs at most as far as each value, and different pairs that are nearer.
        self.false = np.where(occupied, 0, histogram).cumsum()[bins] + counts.reached[:-1].cumsum(0).cpu().numpy()
        self.nearer = self.false - counts.tied.cpu().numpy()
        self.true = self.repeats.cumsum()
        self.false_by_bin = histogram.cumsum()
        self.different, self.same = different_pairs, int(self.true[-1])

    def result(self, rates: Sequence[float]) -> VerificationResult:
        eer = self._equal_error_rate()
        points = tuple(self._point(rate) for rate in rates)
        same_histogram, different_histogram, edges = self._histograms()
        # in Python's integers, which cannot overflow
        wrong = int((self.repeats * self.nearer).sum()) + int((self.repeats * self.false).sum())
        return VerificationResult(
            auc=1 - wrong / (2 * self.same * self.different),
            eer=eer,
            eer_threshold=self._cut(self._allowed(eer))[2],
            points=points,
            same_pairs=self.same,
            different_pairs=self.different,
            bin_edges=edges,
            same_histogram=same_histogram,
            different_histogram=different_histogram,
            roc=self._roc(),
            precision_recall=self._precision_recall(),
            notes=tuple(
                f'a false positive rate of {p.target:g} cannot be measured: it needs {math.ceil(1 / p.target):,} '
                f'different pairs, there are {self.different:,}'
                for p in points
                if math.isnan(p.threshold)
            ),
        )

    def _allowed(self, rate: float) -> int:
        """Number of false positives within a rate, which rounding may have taken just below a whole number."""
        return min(int(rate * self.different * (1 + 1e-12)), self.different - 1)

    def _point(self, rate: float) -> OperatingPoint:
        allowed = self._allowed(rate)
        if not allowed:
            return OperatingPoint(rate, *[math.nan] * 3)
        false, true, threshold = self._cut(allowed)
        return OperatingPoint(rate, false / self.different, true / self.same, threshold)

    def _cut(self, allowed: int) -> tuple[int, int, float]:
        """The largest known threshold with at most so many false positives: false and true positives, distance."""
        bin_ = int(np.searchsorted(self.false_by_bin, allowed, side='right'))  # holds the first that is too many
        last = int(np.searchsorted(self.false, allowed, side='right')) - 1
        true = int(self.true[last]) if last >= 0 else 0
        if last >= 0 and self.bins[last] == bin_:
            square, towards = self.squares[last], np.inf
            false = int(self.false[last])
        else:
            square, towards = bin_ / self.scale, 0
            false = int(self.false_by_bin[bin_ - 1]) if bin_ else 0
            if not bin_:
                return false, true, -1.0
        # a step of rounding away from the pair: it is decided alike in any precision
        return false, true, float(np.nextafter(np.float32(math.sqrt(square)), np.float32(towards)))

    def _equal_error_rate(self) -> float:
        """Where the ROC curve, straight between its points, meets false positive rate = false negative rate."""
        before = np.concatenate([[0], self.true[:-1]])
        false = np.concatenate([[0], np.stack([self.nearer, self.false], 1).ravel(), [self.different]])
        true = np.concatenate([[0], np.stack([before, self.true], 1).ravel(), [self.same]])
        rate, excess = false / self.different, false / self.different + true / self.same - 1
        end = int(np.argmax(excess >= 0))
        share = -excess[end - 1] / (excess[end] - excess[end - 1])
        return float(rate[end - 1] + share * (rate[end] - rate[end - 1]))

    def _histograms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        edges = np.arange(_HISTOGRAM + 1) ** 2 * (_BINS // _HISTOGRAM**2)
        fine = np.append(self.histogram[:-2], self.histogram[-2:].sum())
        different = np.add.reduceat(fine, edges[:-1])
        bins = np.searchsorted(edges[:-1], self.bins, side='right') - 1
        same = np.bincount(bins, weights=self.repeats, minlength=_HISTOGRAM).astype(np.int64)
        return same, different, np.sqrt(edges / self.scale)

    def _roc(self) -> np.ndarray:
        steps = np.concatenate([[0], np.geomspace(1, self.different, _CURVE), np.linspace(0, self.different, _CURVE)])
        false = np.unique(steps.round().astype(np.int64))
        true = np.append(self.true, 0)[np.searchsorted(self.false, false, side='right') - 1]  # -1: none
        return np.stack([false / self.different, true / self.same], 1)

    def _precision_recall(self) -> np.ndarray:
        levels = np.ceil(np.linspace(0, self.same, _CURVE + 1)[1:])
        places = np.unique(np.searchsorted(self.true, levels))
        true, false = self.true[places], self.false[places]
        return np.stack([true / self.same, true / (true + false)], 1)
