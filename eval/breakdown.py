"""Where metrics come from: camera pairs and domains."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from msinet_eval.features.types import Features
from msinet_timm.errors import InputError

from .protocol import rank

__all__ = ['Breakdown', 'by_camera_pair', 'by_domain']


@dataclass(frozen=True, eq=False)
class Breakdown:
    """Metrics by groups of queries and groups of the gallery. NaN where no query of the group has a match.

    Attributes:
        rows: R groups of queries, ascending: camera labels or names of domains.
        columns: C groups of gallery images.
        mAP: [R, C] mean average precision, 0-1.
        rank1: [R, C] share of queries whose first image is a match, 0-1.
        queries: [R, C] number of queries that have a match, over which the means are taken.
    """

    rows: tuple
    columns: tuple
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
        same_clothes_removed: as for `msinet_eval.protocol.rank`. Likewise `device`.

    Raises:
        InputError: cameras are not known, or as `evaluate_ranking`.
    """
    if query.cameras is None or gallery.cameras is None:
        raise InputError('metrics by camera pair need the cameras of query and gallery, which are not known')
    of_query, of_gallery = (_groups(features.cameras.tolist()) for features in (query, gallery))
    return _break_down(query, gallery, of_query, of_gallery, same_clothes_removed, device)


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
        same_clothes_removed: as for `msinet_eval.protocol.rank`. Likewise `device`.

    Raises:
        InputError: domains are not known, or as `evaluate_ranking`.
    """
    if query.domains is None or gallery.domains is None:
        raise InputError('metrics by domain need the domains of query and gallery, which are not known')
    of_query, of_gallery = (_groups(features.domains) for features in (query, gallery))
    of_gallery = {**of_gallery, 'all': torch.arange(len(gallery))}
    return _break_down(query, gallery, of_query, of_gallery, same_clothes_removed, device)


def _groups(labels: Sequence) -> dict:
    """Indices of each label, labels ascending."""
    found: dict = {}
    for index, label in enumerate(labels):
        found.setdefault(label, []).append(index)
    return {label: torch.tensor(found[label]) for label in sorted(found)}


def _break_down(
    query: Features, gallery: Features, of_query: dict, of_gallery: dict, same_clothes_removed: bool, device
) -> Breakdown:
    shape = len(of_query), len(of_gallery)
    mAP, rank1, queries = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    askers = [query.subset(indices) for indices in of_query.values()]
    for column, indices in enumerate(of_gallery.values()):
        part = gallery.subset(indices)
        for row, asking in enumerate(askers):
            if not _has_match(asking, part, same_clothes_removed):
                continue
            result = rank(asking, part, device=device, same_clothes_removed=same_clothes_removed)
            mAP[row, column], rank1[row, column] = result.mAP, result.cmc[0]
            queries[row, column] = result.num_valid
    return Breakdown(tuple(of_query), tuple(of_gallery), mAP, rank1, queries)


def _has_match(query: Features, gallery: Features, same_clothes_removed: bool) -> bool:
    """Whether any query has a match, from labels alone: those of its identity less those of its camera or clothes."""
    cameras = ['cameras'] if query.cameras is not None and gallery.cameras is not None else []
    clothes = ['clothes'] if same_clothes_removed and query.clothes is not None else []
    left = _count_alike(query, gallery, [])
    for names in filter(None, (cameras, clothes)):
        left = left - _count_alike(query, gallery, names)
    if cameras and clothes:  # what both rules take was taken twice
        left = left + _count_alike(query, gallery, cameras + clothes)
    return bool((left > 0).any())


def _count_alike(query: Features, gallery: Features, names: list[str]) -> np.ndarray:
    """[Q] number of gallery images with a query's identity and other labels."""
    names = ['identities', *names]
    rows = [torch.stack([getattr(features, name) for name in names], 1) for features in (query, gallery)]
    _, inverse = torch.unique(torch.cat(rows), dim=0, return_inverse=True)
    counts = torch.bincount(inverse[len(query) :], minlength=int(inverse.max()) + 1)
    return counts[inverse[: len(query)]].numpy()
