"""What a report shows of a model: metrics, their intervals, and rankings to look at."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from msinet_eval.breakdown import Breakdown, by_camera_pair
from msinet_eval.features.forward import device_of
from msinet_eval.metrics.bootstrap import bootstrap
from msinet_eval.metrics.ranking import RankingResult
from msinet_eval.metrics.verification import VerificationResult
from msinet_eval.protocol import Evaluation, verify
from msinet_timm.datasets import ReIDDataset
from msinet_timm.errors import InputError

from .attention import PairAttention, attend
from .charts import MOST_CAMERAS
from .ranked_lists import Found, list_found, load_listed

__all__ = ['Facts', 'Measured', 'Row', 'look_into']

_ATTENDED = 2  # of each kind of queries, those with attention maps
_REMOVED = 4  # most images of a list that a rule has removed


@dataclass(frozen=True, eq=False)
class Measured:
    """A model on a data set, for a report.

    Attributes:
        name: as the report calls it.
        evaluation: of `msinet_eval.protocol.evaluate`.
        dataset: for its protocol and remarks; None where only features are known.
        model: for attention maps; None to leave them out.
        data_config: how images were fed to the model; needed with a model.
        threshold: calibrated distance below which two images are held to be of one identity; None for the one at
            which these pairs are told apart with equal error rates.
        verification: of these features, where it is known already; None to compute it. Likewise `cameras`.
    """

    name: str
    evaluation: Evaluation
    dataset: ReIDDataset | None = None
    model: nn.Module | None = None
    data_config: dict | None = None
    threshold: float | None = None
    verification: VerificationResult | None = None
    cameras: Breakdown | None = None

    @property
    def same_clothes_removed(self) -> bool:
        """Whether images of a query's clothes are left out of its ranking."""
        return self.dataset is not None and self.dataset.protocol.same_clothes_removed


class Row(NamedTuple):
    """A query, what was found for it, and what the model saw in it and in the nearest image (None: nothing)."""

    query: int
    found: list[Found]
    attention: PairAttention | None

    @property
    def nearest(self) -> Found | None:
        """The first image of the ranking; None where all are removed."""
        return next((f for f in self.found if f.rank == 1), None)


@dataclass(frozen=True, eq=False)
class Facts:
    """What is computed once for a report of a model.

    Attributes:
        measured: the model.
        intervals: 95 % intervals by metric; empty where the gallery was drawn several times.
        verification: None where all images are of one identity.
        cameras: metrics by camera pair; None where cameras are unknown or too many to show.
        rows: lists of the `worst`, `median` and `random` queries.
    """

    measured: Measured
    intervals: dict[str, tuple[float, float]]
    verification: VerificationResult | None
    cameras: Breakdown | None
    rows: dict[str, list[Row]]


def look_into(m: Measured, *, queries: int, top: int, seed: int) -> Facts:
    """Computes what a report shows of a model, see `msinet_eval.report.html.write_report`."""
    ranking, query, gallery = m.evaluation[:3]
    intervals = {} if ranking.draws else bootstrap(ranking, query.identities)
    rows = {}
    for kind, picked in _pick(ranking, queries, seed).items():
        lists = list_found(
            query, gallery, picked, top=top, removed=_REMOVED, same_clothes_removed=m.same_clothes_removed
        )
        rows[kind] = [Row(index, found, None) for index, found in zip(picked, lists, strict=True)]
        rows[kind][:_ATTENDED] = [row._replace(attention=_attend(m, row)) for row in rows[kind][:_ATTENDED]]
    return Facts(m, intervals, _verify(m), _compare_cameras(m), rows)


def _verify(m: Measured) -> VerificationResult | None:
    if m.verification is not None:
        return m.verification
    try:
        return verify(
            m.evaluation.query,
            m.evaluation.gallery,
            device=_device_for(m),
            same_clothes_removed=m.same_clothes_removed,
        )
    except InputError:  # all images are of one identity
        return None


def _compare_cameras(m: Measured) -> Breakdown | None:
    query, gallery = m.evaluation.query, m.evaluation.gallery
    if query.cameras is None or max(len(set(f.cameras)) for f in (query, gallery)) > MOST_CAMERAS:
        return None
    return m.cameras or by_camera_pair(
        query, gallery, same_clothes_removed=m.same_clothes_removed, device=_device_for(m)
    )


def _device_for(m: Measured) -> torch.device:
    """Where all pairs are compared: on the model's device, or the CPU if only features are known."""
    return torch.device('cpu') if m.model is None else device_of(m.model)


def _pick(ranking: RankingResult, count: int, seed: int) -> dict[str, list[int]]:
    """The worst queries, those in the middle, and some of the others; none of them twice."""
    precision = ranking.average_precision
    order = np.argsort(precision, kind='stable')[: ranking.num_valid].tolist()
    worst, rest = order[:count], order[count:]
    middle = min(max(0, len(order) // 2 - count // 2 - len(worst)), max(0, len(rest) - count))
    median, others = rest[middle : middle + count], rest[:middle] + rest[middle + count :]
    drawn = np.random.default_rng(seed).permutation(others)[:count].tolist()
    return {kind: picked for kind, picked in (('worst', worst), ('median', median), ('random', drawn)) if picked}


def _attend(m: Measured, row: Row) -> PairAttention | None:
    if m.model is None or m.data_config is None or row.nearest is None:
        return None
    query, match = load_listed(m.evaluation.query, row.query), load_listed(m.evaluation.gallery, row.nearest.index)
    return attend(m.model, query, match, m.data_config)
