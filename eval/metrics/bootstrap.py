"""How far metrics can be trusted: intervals and differences, by the cluster bootstrap."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from msinet_timm.errors import InputError

from .checks import to_numbers
from .ranking import RankingResult

__all__ = [
    'Change',
    'Difference',
    'bootstrap',
    'most_changed',
    'paired_bootstrap',
]

_CHUNK = 2**21  # numbers of resampled identities held at once


class Difference(NamedTuple):
    """A metric of the second of two results less that of the first.

    Attributes:
        value: as measured.
        low: lower end of its interval.
        high: upper end.
        share_better: share of the samples in which the second result is better, 0-1.
        share_worse: share of the samples in which it is worse; the rest are equal.
        p_value: two-sided: how often chance alone would give a difference as large, 0-1.
    """

    value: float
    low: float
    high: float
    share_better: float
    share_worse: float
    p_value: float


class Change(NamedTuple):
    """A query that two results rank differently: its index, and its average precision in each."""

    query: int
    before: float
    after: float


def bootstrap(
    result: RankingResult,
    query_identities,
    *,
    ranks: Sequence[int] = (1, 5, 10),
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals for mAP, Rank-k and mINP.

    Whole query identities are drawn with replacement, each with all its queries: queries of one identity succeed and
    fail together, so that drawing single queries would give intervals that are too narrow (cluster bootstrap: Field
    and Welsh, "Bootstrapping clustered data", 2007). The gallery stays as it is. The same seed gives the same numbers.

    Args:
        result: of a fixed gallery. Skipped queries count for nothing here, too.
        query_identities: [Q] names or integers.
        ranks: k of each Rank-k.
        samples: number of draws.
        seed: of the draws.
        level: share of the samples inside an interval, between 0 and 1.

    Returns:
        (low, high) in 0-1 for `mAP`, `Rank-1`, ... and `mINP`; (NaN, NaN) where all valid queries are of one identity.

    Raises:
        InputError: other identities than the result has queries, a gallery that was drawn several times (its spread
            is known: `RankingResult.spread`), or numbers out of their range.
    """
    _check(result, level, samples, ranks)
    means, _ = _resample(_metrics(result, ranks), query_identities, samples, seed)
    return {name: _interval(values, level) for name, values in means.items()}


def paired_bootstrap(
    a: RankingResult,
    b: RankingResult,
    query_identities,
    *,
    ranks: Sequence[int] = (1,),
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """What result `b` gains over `a` in mAP and Rank-k on the same queries, and whether chance would explain it.

    Both results are taken from the same draws of query identities, see `bootstrap`: what makes a query hard for both
    cancels out. The p-value is twice the smaller share of samples on either side of zero (those at zero count to both
    sides, and the measured difference counts as one more sample, so that it is never 0).

    Args:
        a: one result.
        b: the other, on the same queries and gallery.
        query_identities: [Q] names or integers.
        ranks: k of each Rank-k.
        samples: number of draws.
        seed: of the draws.
        level: share of the samples inside an interval, between 0 and 1.

    Returns:
        Differences for `mAP`, `Rank-1`, ...; interval ends, shares and p are NaN where all queries are of one identity.

    Raises:
        InputError: as `bootstrap`, or results that skipped different queries, which are not of the same data.
    """
    for result in (a, b):
        _check(result, level, samples, ranks)
    _check_same_queries(a, b)
    before, after = (_metrics(result, ranks) for result in (a, b))
    gains = {name: after[name] - before[name] for name in before if name != 'mINP'}
    means, values = _resample(gains, query_identities, samples, seed)
    return {name: _difference(values[name], means[name], level) for name in gains}


def most_changed(a: RankingResult, b: RankingResult, count: int = 10) -> list[Change]:
    """The queries whose average precision differs most between two results, the largest change first.

    Args:
        a: one result.
        b: the other, on the same queries and gallery.
        count: how many at most; queries that did not change are left out.

    Raises:
        InputError: the results are not of the same queries.
    """
    _check_same_queries(a, b)
    change = np.nan_to_num(np.abs(b.average_precision - a.average_precision))
    order = np.argsort(-change, kind='stable')[:count]
    return [
        Change(int(i), float(a.average_precision[i]), float(b.average_precision[i])) for i in order if change[i] > 0
    ]


def _metrics(result: RankingResult, ranks: Sequence[int]) -> dict[str, np.ndarray]:
    """[Q] of each query, NaN where it was skipped; their means are the result's metrics."""
    valid = np.isfinite(result.average_precision)
    first = result.first_match_rank
    hits = {f'Rank-{k}': np.where(valid, first <= k, np.nan) for k in ranks}
    return {'mAP': result.average_precision, **hits, 'mINP': result.inverse_negative_penalty}


def _resample(
    metrics: dict[str, np.ndarray], query_identities, samples: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Means of each metric in [samples] draws of identities, and over all queries."""
    stacked = np.stack(list(metrics.values()))
    identities = to_numbers('identities', query=query_identities)[0].cpu().numpy()
    if identities.shape != stacked.shape[1:]:
        raise InputError(
            f'query_identities must be one label for each of {stacked.shape[1]} queries, got {list(identities.shape)}'
        )
    valid = np.isfinite(stacked[0])
    _, inverse = np.unique(identities[valid], return_inverse=True)
    rows = np.vstack([stacked[:, valid], np.ones(valid.sum())])
    sums = np.stack([np.bincount(inverse, weights=row) for row in rows], 1)  # [identities, metrics + 1]
    means = _draw_means(sums, samples, seed) if len(sums) > 1 else np.full((samples, len(metrics)), np.nan)
    totals = sums.sum(0)
    return dict(zip(metrics, means.T, strict=True)), dict(zip(metrics, totals[:-1] / totals[-1], strict=True))


def _draw_means(sums: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """[I, F + 1] sums and numbers of queries of each identity -> [samples, F] means over drawn identities."""
    rng = np.random.default_rng(seed)
    count, means = len(sums), []
    step = max(1, _CHUNK // count)
    for size in (min(step, samples - start) for start in range(0, samples, step)):
        drawn = rng.integers(0, count, (size, count)) + np.arange(size)[:, None] * count
        weights = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        totals = weights.astype(np.float64) @ sums
        means.append(totals[:, :-1] / totals[:, -1:])
    return np.concatenate(means)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _difference(value: float, drawn: np.ndarray, level: float) -> Difference:
    if np.isnan(drawn).any():
        return Difference(float(value), *[float('nan')] * 5)
    better, worse = (drawn > 0).sum(), (drawn < 0).sum()
    smaller = len(drawn) - max(better, worse)  # on the smaller side of zero, or at zero
    p_value = min(1.0, 2 * (smaller + 1) / (len(drawn) + 1))
    return Difference(
        float(value), *_interval(drawn, level), float(better / len(drawn)), float(worse / len(drawn)), float(p_value)
    )


def _check(result: RankingResult, level: float, samples: int, ranks: Sequence[int]) -> None:
    if result.draws:
        raise InputError(
            'intervals over identities need one fixed gallery; where it is drawn several times, the spread over the '
            'draws tells'
        )
    if not 0 < level < 1 or samples < 1 or any(k < 1 for k in ranks):
        raise InputError(
            f'level must be between 0 and 1, samples and ranks at least 1; got {level}, {samples} and {list(ranks)}'
        )


def _check_same_queries(a: RankingResult, b: RankingResult) -> None:
    skipped = [np.isnan(result.average_precision) for result in (a, b)]
    if len(skipped[0]) != len(skipped[1]):
        raise InputError(
            f'results of {len(skipped[0])} and of {len(skipped[1])} queries cannot be compared query by query'
        )
    if (skipped[0] != skipped[1]).any():
        raise InputError(
            'the results skip different queries: they are not of the same queries and gallery, or not by one protocol'
        )
