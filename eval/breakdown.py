"""Where metrics come from: camera pairs and domains."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from msinet_eval.features.types import Features
from msinet_eval.metrics.checks import Labels, Relatives, number_labels
from msinet_eval.metrics.ranking import evaluate_ranking
from msinet_timm.datasets.records import sort_names
from msinet_timm.errors import InputError

__all__ = ['Breakdown', 'by_camera_pair', 'by_domain']


@dataclass(frozen=True, eq=False)
class Breakdown:
    """Metrics by groups of queries and groups of the gallery. NaN where no query of the group has a match.

    Attributes:
        rows: R groups of queries, in order: names of cameras or domains.
        columns: C groups of gallery images.
        mAP: [R, C] mean average precision, 0-1.
        rank1: [R, C] share of queries whose first image is a match, 0-1.
        queries: [R, C] number of queries that have a match, over which the means are taken.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    mAP: np.ndarray
    rank1: np.ndarray
    queries: np.ndarray


def by_camera_pair(
    query: Features,
    gallery: Features,
    *,
    same_clothes_removed: bool = False,
    device: str | torch.device | None = None,
) -> Breakdown:
    """Measures each camera's queries on each camera's part of the gallery.

    The diagonal is empty by the protocol: images of a query's identity and camera are never a match.

    Args:
        query: who asks.
        gallery: what is ranked, and split by camera.
        same_clothes_removed: leave out gallery images of a query's identity in the same clothes, too.
        device: where to compute; None for the CPU.

    Raises:
        InputError: cameras are not known, or as `evaluate_ranking`.
    """
    return _break_down(query, gallery, 'cameras', same_clothes_removed, device)


def by_domain(
    query: Features,
    gallery: Features,
    *,
    same_clothes_removed: bool = False,
    device: str | torch.device | None = None,
) -> Breakdown:
    """Measures each domain's queries on each domain's part of the gallery and, last column `all`, on all of it.

    Args:
        query: who asks.
        gallery: what is ranked, and split by domain.
        same_clothes_removed: leave out gallery images of a query's identity in the same clothes, too.
        device: where to compute; None for the CPU.

    Raises:
        InputError: domains are not known, or as `evaluate_ranking`.
    """
    return _break_down(query, gallery, 'domains', same_clothes_removed, device, [('all', torch.arange(len(gallery)))])


def _groups(names: Sequence[str]) -> list[tuple[str, torch.Tensor]]:
    """Names in order, each with its indices."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found.setdefault(name, []).append(index)
    return [(name, torch.tensor(found[name])) for name in sort_names(found)]


def _break_down(
    query: Features,
    gallery: Features,
    kind: str,
    same_clothes_removed: bool,
    device: str | torch.device | None,
    more: Sequence[tuple[str, torch.Tensor]] = (),
) -> Breakdown:
    """By an attribute of features; `more` are further columns, and indices of their images."""
    names = [getattr(features, kind) for features in (query, gallery)]
    if None in names:
        raise InputError(f'metrics by {kind} need the {kind} of query and gallery, which are not known')
    rows, columns = map(_groups, names)
    columns += more
    shape = len(rows), len(columns)
    mAP, rank1, queries = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    labels = number_labels(*(features.labels(same_clothes_removed) for features in (query, gallery)))
    for column, (_, found) in enumerate(columns):
        for row, (_, asking) in enumerate(rows):
            chosen = [_take(*part) for part in zip(labels, (asking, found), strict=True)]
            if not _has_match(*chosen):
                continue
            embeddings = query.embeddings[asking].to(device or 'cpu'), gallery.embeddings[found]
            result = evaluate_ranking(*embeddings, *chosen)
            mAP[row, column], rank1[row, column] = result.mAP, result.cmc[0]
            queries[row, column] = result.num_valid
    return Breakdown(*(tuple(name for name, _ in groups) for groups in (rows, columns)), mAP, rank1, queries)


def _take(labels: Labels, indices: torch.Tensor) -> Labels:
    return Labels(*(numbers if numbers is None else numbers[indices] for numbers in labels))


def _has_match(query: Labels, gallery: Labels) -> bool:
    """Whether any query has a match, from labels alone."""
    sizes = len(query.identities), len(gallery.identities)
    _, _, removed = Relatives(query, gallery, sizes, torch.device('cpu')).of(slice(None))
    return not removed.all()
