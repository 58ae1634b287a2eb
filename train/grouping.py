"""Who might be who: crops of several cameras joined to groups of one person each, without labels.

A tracker knows for nothing which crops of one camera are of one person: a tracklet. Of one camera, tracklets are joined
that are very near: fragments of one. Across cameras, two are joined that are each other's nearest, and nearer than any
other under their own cameras, which is then of somebody else. Where no tracklets are known, crops are clustered, as in
Ge et al., "Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive Object Re-ID" (NeurIPS 2020).
Distances are those of k-reciprocal neighbours (Zhong et al., CVPR 2017).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from msinet_eval.metrics.checks import Labels
from msinet_eval.metrics.ranking import evaluate_ranking
from msinet_eval.metrics.rerank import ReRanking
from msinet_timm.commands import progress
from msinet_timm.datasets import Record
from msinet_timm.datasets.records import sort_names
from msinet_timm.errors import InputError, needs

__all__ = ['Groups', 'agreement', 'choose_held_out', 'group_crops', 'number_tracklets', 'retrieval']

#: Neighbours of a crop among which mutual ones are looked for: of tracklets, and where none are known.
TRACKLET_NEIGHBOURS, CROP_NEIGHBOURS = 20, 30
#: Distance, 0 to 1, of what is very near; crops so near that make another one the core of a cluster.
RADIUS, CORE = 0.5, 4
#: Share of a camera's tracklets that may be fragments of one.
CROWD = 0.25
#: Crops whose distances to all others are held at once.
_BLOCK = 256


@dataclass(frozen=True)
class Groups:
    """Crops by whom they might show.

    Attributes:
        labels: [N] int64 group of each crop, from 0; -1 for those that nothing under another camera was found for.
        links: pairs of tracklets that were joined across cameras; 0 for crops without tracklets.
    """

    labels: Tensor
    links: int = 0

    @property
    def count(self) -> int:
        """Number of groups."""
        return int(self.labels.max()) + 1

    def __str__(self) -> str:
        how = f', from {self.links} links of tracklets' if self.links else ''
        return f'{self.count} groups of {int((self.labels >= 0).sum())} of {len(self.labels)} crops{how}'


def group_crops(embeddings: Tensor, records: Sequence[Record]) -> Groups:
    """Joins crops that might show one person, under two cameras or more.

    Args:
        embeddings: [N, D] of length 1, with each camera's own statistics.
        records: of which cameras and tracklets count; a tracklet is of one camera. Crops without one are tracklets of a
            single crop, unless there are no tracklets at all.

    Raises:
        InputError: fewer than two cameras, or fewer than three crops.
        MissingPackageError: scikit-learn, an optional package, is missing.
    """
    camera = _camera_numbers(records)
    if not camera.any() or len(records) < 3:
        raise InputError(
            f'{len(records)} crops of {len(set(camera.tolist()))} camera: people are joined across cameras, so give '
            'crops of two or more'
        )
    if all(record.tracklet is None for record in records):
        return Groups(_across(_cluster(embeddings), camera))
    unit = number_tracklets(records)
    near = _find_nearest(embeddings, unit, camera)
    while (whole := _join_fragments(near)).max() + 1 < len(whole):
        unit = whole[unit]
        near = _find_nearest(embeddings, unit, camera)
    group, links = _link(near)
    return Groups(_across(group[unit], camera), links)


def number_tracklets(records: Sequence[Record]) -> np.ndarray:
    """[N] number of the tracklet that each crop is of; a crop without one is a tracklet of its own."""
    names = [(record.camera, record.tracklet or (record.path, record.box)) for record in records]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def choose_held_out(groups: Groups, share: float, seed: int) -> Groups:
    """Some of the groups: at least two, of which crops can be mistaken for each other; none of fewer than six.

    Args:
        groups: of all crops.
        share: of the groups to choose, 0 to below 1.
        seed: of the choice.

    Returns:
        The same without the groups that are not chosen.
    """
    count = max(2, round(share * groups.count)) if share and groups.count >= 6 else 0
    chosen = np.random.default_rng(seed).choice(groups.count, count, replace=False) if count else []
    return Groups(torch.where(torch.isin(groups.labels, torch.as_tensor(chosen, dtype=torch.int64)), groups.labels, -1))


def retrieval(embeddings: Tensor, records: Sequence[Record], groups: Groups) -> float:
    """How well grouped crops find those of their group under other cameras, among each other.

    Args:
        embeddings: [N, D] of length 1.
        records: see `group_crops`.
        groups: best not those of a model that has learnt these groups.

    Returns:
        mAP, 0 to 1; NaN where nothing is grouped.
    """
    asked = (groups.labels >= 0).nonzero().flatten()
    if not len(asked):
        return float('nan')
    labels = Labels(groups.labels[asked].tolist(), [records[i].camera for i in asked.tolist()])
    return evaluate_ranking(embeddings[asked], embeddings[asked], labels, labels).mAP


def _camera_numbers(records: Sequence[Record]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(sort_names(record.camera for record in records))}
    return np.array([numbers[record.camera] for record in records])


def _across(group: np.ndarray, camera: np.ndarray) -> Tensor:
    """Groups of two cameras or more, numbered from 0; -1 for crops of others."""
    seen = np.unique(np.stack([group, camera])[:, group >= 0], axis=1)[0]
    names, counts = np.unique(seen, return_counts=True)
    kept = names[counts > 1]
    numbers = np.searchsorted(kept, group)
    inside = np.isin(group, kept)
    return torch.from_numpy(np.where(inside, numbers, -1))


def _reranking(embeddings: Tensor, neighbours: int) -> ReRanking:
    """Jaccard distances of k-reciprocal neighbours; of few crops, fewer neighbours, lest they are all of them."""
    count = len(embeddings)
    k1 = min(neighbours, max(4, count // 6), count - 1)
    return ReRanking(embeddings, embeddings, k1, min(6, max(1, k1 // 3)), 0.0)


def _cluster(embeddings: Tensor) -> np.ndarray:
    """Clusters of crops; -1 for those that belong to none."""
    with needs('unlabelled', 'learning without labels'):
        from scipy.sparse import csr_array, vstack
        from sklearn.cluster import DBSCAN
    ranking, rows = _reranking(embeddings, CROP_NEIGHBOURS), []
    for start in progress(range(0, len(ranking), _BLOCK), desc='clusters', leave=False):
        near = ranking[start : start + _BLOCK].clamp(min=0).cpu().numpy()
        row, column = np.nonzero(near <= RADIUS)
        # a stored 0 counts as a neighbour at distance 0
        rows.append(csr_array((near[row, column], (row, column)), shape=near.shape))
    return DBSCAN(eps=RADIUS, min_samples=CORE, metric='precomputed').fit_predict(vstack(rows).tocsr())


class _Nearest(NamedTuple):
    """Of each unit, a number of crops under one camera, the nearest units.

    A distance is the mean over pairs of crops, one of each unit.

    Attributes:
        camera: [U] number of the unit's camera.
        index: [U, C] of the nearest other unit under each camera; -1 where there is none.
        distance: [U, C] to it; infinite where there is none.
        crowd: [U] share of the other units under its camera that are within `RADIUS`.
    """

    camera: np.ndarray
    index: np.ndarray
    distance: np.ndarray
    crowd: np.ndarray


def _find_nearest(embeddings: Tensor, unit: np.ndarray, camera: np.ndarray) -> _Nearest:
    """The nearest units of each; in memory are [crops of a block, N] distances at once."""
    order = np.lexsort((np.arange(len(unit)), unit, camera))
    names, first = np.unique(unit[order], return_index=True)
    names, starts = names[np.argsort(first)], np.sort(first)  # units in the order of cameras
    ends = np.append(starts[1:], len(unit))
    sizes = torch.from_numpy(ends - starts)
    place = torch.arange(len(names)).repeat_interleave(sizes)
    by_camera = camera[order][starts]
    bounds = np.searchsorted(by_camera, np.arange(camera.max() + 2))
    ranking = _reranking(embeddings[torch.from_numpy(order)], TRACKLET_NEIGHBOURS)
    index = np.full((len(names), len(bounds) - 1), -1)
    distance, crowd = np.full(index.shape, np.inf), np.zeros(len(names))
    for lower, upper in progress(_blocks(ends), desc='distances of tracklets', leave=False):
        rows = slice(int(starts[lower]), int(ends[upper - 1]))
        near = ranking[rows].cpu()
        own = place[rows]
        near = torch.zeros(len(near), len(names)).index_add_(1, place, near) / sizes
        near = torch.zeros(upper - lower, len(names)).index_add_(0, own - lower, near) / sizes[lower:upper, None]
        near[torch.arange(upper - lower), torch.arange(lower, upper)] = torch.inf
        others = torch.from_numpy(by_camera[lower:upper, None] == by_camera)
        crowd[lower:upper] = ((near <= RADIUS) & others).sum(1) / (others.sum(1) - 1).clamp(min=1)
        for number, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False)):
            if high > low:
                least, where = near[:, low:high].min(1)
                distance[lower:upper, number] = least
                index[lower:upper, number] = np.where(least.isinf(), -1, names[where + low])
    back = np.argsort(names)
    return _Nearest(by_camera[back], index[back], distance[back], crowd[back])


def _blocks(ends: np.ndarray) -> list[tuple[int, int]]:
    """Runs of units with up to `_BLOCK` crops, but at least one unit each."""
    runs, first = [], 0
    while first < len(ends):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _BLOCK, side='right')))
        runs.append((first, last))
        first = last
    return runs


def _join_fragments(near: _Nearest) -> np.ndarray:
    """[U] number of what each tracklet is a fragment of: of two that are near, and nearest to each other, as one.

    A tracklet that many are near to is not told apart from them, and no fragment.
    """
    from scipy.cluster.hierarchy import DisjointSet

    everyone = np.arange(len(near.camera))
    people, mate = DisjointSet(everyone.tolist()), near.index[everyone, near.camera]
    for one in np.flatnonzero((near.distance[everyone, near.camera] <= RADIUS) & (near.crowd <= CROWD)):
        if mate[mate[one]] == one:
            people.merge(one, mate[one])
    return _numbered(people)


def _link(near: _Nearest) -> tuple[np.ndarray, int]:
    """[U] group of each unit, none of them with two units of one camera; and the number of links."""
    from scipy.cluster.hierarchy import DisjointSet

    everyone = np.arange(len(near.camera))
    impostor = near.distance[everyone, near.camera]
    links = []
    for camera in range(near.index.shape[1]):
        mate, distance = near.index[:, camera], near.distance[:, camera]
        for one in np.flatnonzero((near.camera < camera) & (mate >= 0) & (distance < impostor)):
            other = mate[one]
            if near.index[other, near.camera[one]] == one and distance[one] < impostor[other]:
                links.append((distance[one], one, other))
    groups, joined = DisjointSet(everyone.tolist()), 0
    for _, one, other in sorted(links):
        both = [*groups.subset(one), *groups.subset(other)]
        if len({near.camera[unit] for unit in both}) == len(both):
            joined += groups.merge(one, other)
    return _numbered(groups), joined


def _numbered(sets: Any) -> np.ndarray:
    """The number of the subset that each member of scipy's `DisjointSet` is in."""
    numbers = np.empty(sum(map(len, sets.subsets())), int)
    for number, members in enumerate(sets.subsets()):
        numbers[list(members)] = number
    return numbers


def agreement(before: Groups, after: Groups) -> float:
    """How alike two groupings of the same crops are: adjusted Rand index, 1 for the same, about 0 by chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*(_with_singles(groups.labels.numpy()) for groups in (before, after))))


def _with_singles(labels: np.ndarray) -> np.ndarray:
    """A crop that is in no group is a group of its own."""
    return np.where(labels < 0, labels.max() + 1 + np.arange(len(labels)), labels)
