"""CMC, mAP and mINP of a ranking, without ever holding the distance matrix."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from msinet_timm.errors import InputError

from .checks import Labels, Relatives, check_features
from .counting import match_ranks
from .distances import DistanceRows, EuclideanRows, GivenRows, blocks

__all__ = ['RankingResult', 'evaluate_distances', 'evaluate_ranking']


@dataclass(frozen=True, eq=False)
class RankingResult:
    """How well galleries are ranked. All means are over the queries that have a match.

    Attributes:
        mAP: mean average precision, 0-1.
        cmc: [min(max_rank, gallery)] share of queries with a match among the first k+1 images, 0-1.
        mINP: mean inverse negative penalty, 0-1: matches divided by the rank of the hardest match.
        average_precision: [Q] of each query, NaN where it has no match and was skipped.
        inverse_negative_penalty: [Q] of each query, NaN where it was skipped.
        first_match_rank: [Q] rank of each query's first match, 1 or larger; 0 where it was skipped.
        skipped: number of skipped queries by reason: 'identity not in gallery', and 'only under the same cameras' (or
            'clothes', or 'cameras or clothes') where the rules have removed all that were there.
        draws: where the gallery was drawn several times, the result of each; the metrics above are their means, and
            the arrays and `skipped` are those of the first.
    """

    mAP: float
    cmc: np.ndarray
    mINP: float
    average_precision: np.ndarray
    inverse_negative_penalty: np.ndarray = field(default_factory=lambda: np.zeros(0))
    first_match_rank: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    skipped: Mapping[str, int] = field(default_factory=dict)
    draws: tuple['RankingResult', ...] = ()

    @classmethod
    def mean(cls, draws: Sequence['RankingResult']) -> 'RankingResult':
        """Mean of the results of several draws, two or more."""
        return cls(
            mAP=float(np.mean([d.mAP for d in draws])),
            cmc=np.mean([d.cmc for d in draws], axis=0),
            mINP=float(np.mean([d.mINP for d in draws])),
            average_precision=draws[0].average_precision,
            inverse_negative_penalty=draws[0].inverse_negative_penalty,
            first_match_rank=draws[0].first_match_rank,
            skipped=draws[0].skipped,
            draws=tuple(draws),
        )

    def spread(self, metric: Callable[['RankingResult'], float]) -> float:
        """Standard deviation over the draws of a metric, such as `lambda r: r.mAP`."""
        return float(np.std([metric(d) for d in self.draws], ddof=1))

    @property
    def num_valid(self) -> int:
        """Queries with at least one match."""
        return len(self.average_precision) - self.num_skipped

    @property
    def num_skipped(self) -> int:
        """Queries without a match in what is left of the gallery."""
        return int(np.isnan(self.average_precision).sum())


def evaluate_ranking(
    query,
    gallery,
    query_labels: Labels,
    gallery_labels: Labels,
    *,
    max_rank: int = 50,
    tile: int = 2**24,
) -> RankingResult:
    """Ranks the gallery for each query by squared Euclidean distance, and measures the rankings.

    Features are taken as they are (normalise them for cosine similarity); one that is all zeros is a point like any
    other. Where cameras are given, gallery images of a query's identity *and* camera are taken out of its ranking;
    where clothes are given, so are those of its identity and clothes. Queries without a match left are skipped.
    Average precision is the mean, over matches, of the precision at the match's rank: the rectangular form.

    Distances are computed in float32; of two equal ones the lower gallery index comes first, as in a stable sort.
    The work is done on the device of `query`.

    Args:
        query: [Q, D] array or tensor.
        gallery: [G, D] array or tensor.
        query_labels: of the Q queries.
        gallery_labels: of the G gallery images; with cameras, and clothes, if the queries have them.
        max_rank: length of the CMC curve, unless the gallery is smaller.
        tile: the largest number of distances held at once (4 bytes each), but at least one query's.

    Raises:
        InputError: sizes that do not fit, features that are not finite, or no query with a match.
    """
    rows = EuclideanRows(*check_features(query, gallery))
    return _evaluate(rows, query_labels, gallery_labels, max_rank, tile)


def evaluate_distances(
    distances,
    query_labels: Labels,
    gallery_labels: Labels,
    *,
    max_rank: int = 50,
    tile: int = 2**22,
) -> RankingResult:
    """Measures rankings by given distances, such as re-ranked ones; otherwise as `evaluate_ranking`.

    Args:
        distances: [Q, G] array or tensor, or an object with that `shape` whose `[slice]` computes the rows of some
            queries on demand, such as `msinet_eval.metrics.rerank.ReRanking`. Infinite ones are allowed, NaN is not.
        query_labels: see `evaluate_ranking`.
        gallery_labels: see there.
        max_rank: see there.
        tile: see there.

    Raises:
        InputError: sizes that do not fit, distances that are NaN, or no query with a match.
    """
    return _evaluate(GivenRows(distances), query_labels, gallery_labels, max_rank, tile)


def _evaluate(rows: DistanceRows, query: Labels, gallery: Labels, max_rank: int, tile: int) -> RankingResult:
    if max_rank < 1 or tile < 1:
        raise InputError(f'max_rank and tile must be at least 1, got {max_rank} and {tile}')
    relatives = Relatives(query, gallery, rows.shape, rows.device)
    ranks, related, matched = [], [], []
    for block in blocks(rows, tile):
        of_row, columns, removed = relatives.of(block)
        size = block.stop - block.start
        related.append(torch.bincount(of_row, minlength=size))
        matched.append(torch.bincount(of_row[~removed], minlength=size))
        ranks.append(match_ranks(rows[block], of_row, columns, removed))
    ranks, related, matched = (torch.cat(parts).cpu().numpy() for parts in (ranks, related, matched))
    return _measure(ranks, related, matched, relatives.rules, min(max_rank, rows.shape[1]))


def _measure(
    ranks: np.ndarray, related: np.ndarray, matched: np.ndarray, rules: tuple[str, ...], length: int
) -> RankingResult:
    """Metrics of all queries.

    Args:
        ranks: [M] of all matches, query by query and ascending in each.
        related: [Q] number of gallery images of a query's identity.
        matched: [Q] how many of them no rule removes.
        rules: what they have in common with the query when one does.
        length: of the CMC curve.
    """
    valid = matched > 0
    reasons = {'identity not in gallery': related == 0, f'only under the same {" or ".join(rules)}': related > 0}
    skipped = {reason: int((applies & ~valid).sum()) for reason, applies in reasons.items()}
    if not valid.any():
        raise InputError(
            'no query has a match in the gallery: check that both have identities in common'
            + (f', under different {" and ".join(rules)}' if rules else '')
            + f' ({", ".join(f"{number} queries: {reason}" for reason, number in skipped.items() if number)})'
        )
    ends = matched.cumsum()
    starts = ends - matched
    query = np.repeat(np.arange(len(matched)), matched)
    precision = (np.arange(len(ranks)) - starts[query] + 1) / ranks
    average = np.full(len(matched), np.nan)
    average[valid] = np.bincount(query, precision, len(matched))[valid] / matched[valid]
    penalty = np.full(len(matched), np.nan)
    penalty[valid] = matched[valid] / ranks[ends[valid] - 1]
    first = np.zeros(len(matched), dtype=np.int64)
    first[valid] = ranks[starts[valid]]
    found = np.bincount(first[valid] - 1, minlength=length)[:length]
    return RankingResult(
        mAP=float(average[valid].mean()),
        cmc=found.cumsum() / valid.sum(),
        mINP=float(penalty[valid].mean()),
        average_precision=average,
        inverse_negative_penalty=penalty,
        first_match_rank=first,
        skipped={reason: number for reason, number in skipped.items() if number},
    )
