"""CMC, mAP and mINP of a ranking, without ever holding the distance matrix."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from msinet_timm.commands import InputError

__all__ = ['RankingResult', 'evaluate_ranking', 'match_ranks', 'nearest']

_FAR = torch.iinfo(torch.int64).max  # key of what is not in a query's ranking


@dataclass(frozen=True, eq=False)
class RankingResult:
    """How well galleries are ranked. All means are over the queries that have a match.

    Attributes:
        mAP: mean average precision, 0-1.
        cmc: [min(max_rank, gallery)] share of queries with a match among the first k+1 pictures, 0-1.
        mINP: mean inverse negative penalty, 0-1: matches divided by the rank of the hardest match.
        average_precision: [Q] of each query, NaN where it has no match and was skipped.
        draws: where the gallery was drawn several times, the result of each; the figures above are their means, and
            `average_precision` is that of the first.
    """

    mAP: float
    cmc: np.ndarray
    mINP: float
    average_precision: np.ndarray
    draws: tuple['RankingResult', ...] = ()

    @classmethod
    def mean(cls, draws: Sequence['RankingResult']) -> 'RankingResult':
        """Mean of the results of several draws, two or more."""
        return cls(
            mAP=float(np.mean([d.mAP for d in draws])),
            cmc=np.mean([d.cmc for d in draws], axis=0),
            mINP=float(np.mean([d.mINP for d in draws])),
            average_precision=draws[0].average_precision,
            draws=tuple(draws),
        )

    def spread(self, figure: Callable[['RankingResult'], float]) -> float:
        """Standard deviation over the draws of a figure, such as `lambda r: r.mAP`."""
        return float(np.std([figure(d) for d in self.draws], ddof=1))

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
    query_ids,
    gallery_ids,
    query_cameras=None,
    gallery_cameras=None,
    *,
    query_clothes=None,
    gallery_clothes=None,
    max_rank: int = 50,
    tile: int = 2**21,
) -> RankingResult:
    """Ranks the gallery for each query by squared Euclidean distance, and measures the rankings.

    Features are taken as they are (normalise them for cosine similarity). Where cameras are given, gallery pictures
    of a query's identity *and* camera are taken out of its ranking; where clothes are given, so are those of its
    identity and clothes. Queries without a match left are skipped.
    Average precision is the mean, over matches, of the precision at the match's rank.

    Distances are computed in float32; of two equal ones the lower gallery index comes first, as in a stable sort.
    The work is done on the device of `query`.

    Args:
        query: [Q, D] array or tensor.
        gallery: [G, D] array or tensor.
        query_ids: [Q] integers. Likewise `gallery_ids`, [G].
        query_cameras: [Q] integers, or None to keep pictures of the same camera. Likewise `gallery_cameras`, [G].
        query_clothes: [Q] integers, or None to keep pictures of the same clothes. Likewise `gallery_clothes`, [G].
        max_rank: length of the CMC curve, unless the gallery is smaller.
        tile: the largest number of distances held at once (about 40 bytes each), but at least one query's.

    Raises:
        InputError: sizes that do not fit, features that are not finite, or no query with a match.
    """
    if max_rank < 1 or tile < 1:
        raise InputError(f'max_rank and tile must be at least 1, got {max_rank} and {tile}')
    query, gallery = _check_features(query, gallery)
    query_ids = _check_labels(query_ids, query, 'query_ids')
    gallery_ids = _check_labels(gallery_ids, gallery, 'gallery_ids')
    rules = _check_rules(
        query, gallery, cameras=(query_cameras, gallery_cameras), clothes=(query_clothes, gallery_clothes)
    )

    measured = []
    gallery_squares = _squares(gallery, 'gallery')
    _squares(query, 'query')
    step = max(1, tile // len(gallery))
    for rows in (slice(start, start + step) for start in range(0, len(query), step)):
        distances = _order_distances(query[rows], gallery, gallery_squares)
        same = query_ids[rows, None] == gallery_ids
        removed = _removed(same, rules, rows)
        matches = same if removed is None else same & ~removed
        measured.append(_measure(match_ranks(distances, matches, removed)))
    precision, penalty, first = (torch.cat(parts).cpu().numpy() for parts in zip(*measured, strict=True))

    valid = ~np.isnan(precision)
    if not valid.any():
        raise InputError(
            'no query has a match in the gallery: check that both have identities in common'
            + (f', under different {" and ".join(rules)}' if rules else '')
        )
    length = min(max_rank, len(gallery))
    found = np.bincount(first[valid] - 1, minlength=length)[:length]
    return RankingResult(
        mAP=float(precision[valid].mean()),
        cmc=found.cumsum() / valid.sum(),
        mINP=float(penalty[valid].mean()),
        average_precision=precision,
    )


def match_ranks(distances: Tensor, matches: Tensor, removed: Tensor | None = None) -> Tensor:
    """Ranks of all matches, counted exactly and without sorting the gallery.

    A match's rank is 1 + the number of gallery pictures before it: those that are nearer, and those that are equally
    near and have a lower index.

    Args:
        distances: [B, G] float32, finite.
        matches: [B, G] bool.
        removed: [B, G] bool, pictures that are not in the ranking; none of them may be a match.

    Returns:
        [B, M] int64, ascending, with M the largest number of matches of a query; 0 where a query has fewer.
    """
    keys = _sort_keys(distances)
    if removed is not None:
        keys.masked_fill_(removed, _FAR)
    counts = matches.sum(1)
    width = int(counts.max())
    columns = torch.arange(width, device=keys.device)
    filled = columns < counts[:, None]
    match_keys = keys.new_full((len(keys), width), _FAR)
    match_keys[filled] = keys[matches]  # both run through the queries in order
    match_keys = match_keys.sort(1).values

    # each picture comes before all matches from its bin on; a match counts itself, which is the 1 of the rank
    bins = torch.searchsorted(match_keys, keys)
    bins += torch.arange(len(keys), device=keys.device)[:, None] * (width + 1)
    histogram = torch.bincount(bins.flatten(), minlength=len(keys) * (width + 1)).view(len(keys), width + 1)
    return histogram[:, :width].cumsum(1) * filled


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
    """The first pictures of a few queries' rankings, by the rules of `evaluate_ranking`.

    Takes the same features and labels. Holds the distances of all given queries at once.

    Returns:
        For each query, gallery indices and Euclidean distances of the k nearest pictures, fewer if fewer are left.
    """
    query, gallery = _check_features(query, gallery)
    query_squares = _squares(query, 'query')
    distances = _order_distances(query, gallery, _squares(gallery, 'gallery'))
    keys = _sort_keys(distances)
    rules = _check_rules(
        query, gallery, cameras=(query_cameras, gallery_cameras), clothes=(query_clothes, gallery_clothes)
    )
    if rules:
        query_ids = _check_labels(query_ids, query, 'query_ids')
        same = query_ids[:, None] == _check_labels(gallery_ids, gallery, 'gallery_ids')
        keys.masked_fill_(_removed(same, rules), _FAR)
    keys, indices = keys.topk(min(k, len(gallery)), dim=1, largest=False)
    euclidean = (distances.gather(1, indices) + query_squares[:, None]).clamp(min=0).sqrt()
    kept = (keys != _FAR).cpu().numpy()
    rows = zip(indices.cpu().numpy(), euclidean.cpu().numpy(), kept, strict=True)
    return [(index[keep], distance[keep]) for index, distance, keep in rows]


def _measure(ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, M] ranks -> average precision (NaN without matches), inverse negative penalty and first rank, [B] each."""
    if ranks.shape[1] == 0:
        ranks = ranks.new_zeros(len(ranks), 1)
    matched = ranks > 0
    counts = matched.sum(1).double()
    positions = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision = torch.where(matched, positions / ranks.double(), 0.0).sum(1) / counts
    return precision, counts / ranks.amax(1), ranks[:, 0]


def _removed(same: Tensor, rules: dict[str, tuple[Tensor, Tensor]], rows: slice = slice(None)) -> Tensor | None:
    """[B, G] which pictures of the same identity a rule takes out of the rankings; None without rules."""
    removed = None
    for of_query, of_gallery in rules.values():
        like = same & (of_query[rows, None] == of_gallery)
        removed = like if removed is None else removed | like
    return removed


def _order_distances(query: Tensor, gallery: Tensor, gallery_squares: Tensor) -> Tensor:
    """[B, G] squared Euclidean distances less the query's own square, which orders a row alike and rounds less."""
    with _full_precision(query.device):
        return torch.addmm(gallery_squares, query, gallery.T, alpha=-2)


def _sort_keys(distances: Tensor) -> Tensor:
    """float32 [B, G] -> int64 keys, all different in a row, that sort as (distance, gallery index) does."""
    bits = (distances + 0.0).view(torch.int32)  # + 0.0 makes one zero of two
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats sort backwards by their bits
    return ordered.long().mul_(2**32).add_(torch.arange(distances.shape[1], device=distances.device))


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
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


def _as_tensor(values, name: str) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f'{name} must be an array or tensor of numbers ({e})') from e


def _check_features(query, gallery) -> tuple[Tensor, Tensor]:
    """Both as float32 on the query's device."""
    query = _as_tensor(query, 'query features').detach()
    gallery = _as_tensor(gallery, 'gallery features').detach()
    for features, name in ((query, 'query'), (gallery, 'gallery')):
        if features.ndim != 2 or 0 in features.shape:
            raise InputError(f'{name} features must be [pictures, dimensions], not empty; got {list(features.shape)}')
    if query.shape[1] != gallery.shape[1]:
        raise InputError(f'query features have {query.shape[1]} dimensions, gallery features {gallery.shape[1]}')
    return query.float(), gallery.to(query.device).float()


def _check_labels(labels, features: Tensor, name: str) -> Tensor:
    """Labels as an integer tensor on the features' device."""
    labels = _as_tensor(labels, name)
    if labels.shape != features.shape[:1]:
        raise InputError(f'{name} must be one label for each of {len(features)} features, got {list(labels.shape)}')
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(f'{name} must be integers, got {labels.dtype}')
    return labels.to(features.device)


def _check_rules(query: Tensor, gallery: Tensor, **given: tuple) -> dict[str, tuple[Tensor, Tensor]]:
    """The labels of query and gallery by name, without those that are not known."""
    rules = {}
    for name, (of_query, of_gallery) in given.items():
        if (of_query is None) != (of_gallery is None):
            raise InputError(f'{name} are known for only one of query and gallery: give both or none')
        if of_query is not None:
            of_query = _check_labels(of_query, query, f'query_{name}')
            rules[name] = of_query, _check_labels(of_gallery, gallery, f'gallery_{name}')
    return rules


def _squares(features: Tensor, name: str) -> Tensor:
    """[N] squared norms, which also tell of features that no distance can be computed from."""
    with _full_precision(features.device):
        squares = torch.einsum('nd,nd->n', features, features)
    bad = ~squares.isfinite()
    if bad.any():
        raise InputError(
            f'{name} features of {int(bad.sum())} pictures are not finite (or too large to square in float32), '
            f'the first is number {int(bad.nonzero()[0])}'
        )
    return squares
