"""Person search: are people found in whole images, and is who is asked for among the first of them?

Measured as the tools of CUHK-SYSU (Xiao et al., CVPR 2017) and PRW (Zheng et al., CVPR 2017) do it.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.ops import box_iou

from msinet_timm.commands import format_table
from msinet_timm.datasets.scenes import Scene, SceneQuery, SceneSet
from msinet_timm.errors import InputError

from .checks import as_tensor

__all__ = ['DetectionResult', 'PersonSearchResult', 'SearchResult', 'evaluate_person_search']

_OVERLAP = 0.5  # intersection over union of a detection and a true box, at least
_AROUND = 10  # pixels by which a detection of somebody small may be larger than the true box, see `_least_overlap`
_TILE = 2**24  # similarities held at once


@dataclass(frozen=True)
class DetectionResult:
    """How well people are found in the test scenes, named or not.

    Attributes:
        recall: share of the true boxes that are found, 0-1.
        AP: average precision over all detections by their scores, 0-1: the sum of the precisions at each right one,
            divided by the number of true boxes.
        boxes: number of true boxes.
        detections: number of detections.
    """

    recall: float
    AP: float
    boxes: int
    detections: int


@dataclass(frozen=True, eq=False)
class SearchResult:
    """How well who is asked for is found. All means are over the queries that somebody can be found for.

    Attributes:
        mAP: mean average precision, 0-1; true boxes that no detection covers count as never found.
        cmc: [max_rank] share of queries with a right detection among the first k+1, 0-1.
        recall: share of the true boxes in the galleries that a detection covers, 0-1: no ranking has a larger mAP.
        average_precision: [Q] of each query, NaN where it was skipped.
        first_match_rank: [Q] rank of each query's first right detection, 1 or larger; 0 where there is none.
        skipped: number of queries whose person is nowhere in their gallery.
    """

    mAP: float
    cmc: np.ndarray
    recall: float
    average_precision: np.ndarray
    first_match_rank: np.ndarray
    skipped: int


@dataclass(frozen=True, eq=False)
class PersonSearchResult:
    """Both halves of person search: detection, and the ranking of what was detected."""

    detection: DetectionResult
    search: SearchResult

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics by name, 0-1: of the search `mAP`, `top-1`, `top-5` and `top-10`, and those of the detection."""
        top = {f'top-{k}': float(self.search.cmc[min(k, len(self.search.cmc)) - 1]) for k in (1, 5, 10)}
        found = {'detection recall': self.detection.recall, 'detection AP': self.detection.AP}
        return {'mAP': self.search.mAP, **top, **found}

    def __str__(self) -> str:
        return format_table([tuple(self.metrics), tuple(f'{100 * value:.2f}' for value in self.metrics.values())])


class _Found:
    """All detections of the test scenes, in one row.

    Attributes:
        boxes: [T, 4] float64, left, top, right and bottom.
        scores: [T].
        embeddings: [T, D] of length 1.
        at: place of each scene's detections in the row, by path.
    """

    def __init__(self, scenes: SceneSet, found: Mapping[str, Sequence], min_score: float):
        parts, first, self.at = [], 0, {}
        for scene in scenes.test:
            if scene.path not in found:
                raise InputError(f'{scene.path}: nothing is given for this test scene: where nobody is found, give [0]')
            boxes, scores, embeddings = _check(scene.path, found[scene.path])
            kept = scores >= min_score
            parts.append((boxes[kept], scores[kept], embeddings[kept]))
            self.at[scene.path] = slice(first, first := first + int(kept.sum()))
        widths = {part[2].shape[1] for part in parts if len(part[2])}
        if len(widths) > 1:
            raise InputError(f'embeddings of test scenes differ in their dimensions: {", ".join(map(str, widths))}')
        self.width = widths.pop() if widths else None
        parts = [part for part in parts if len(part[0])] or parts[:1]
        self.boxes, self.scores, embeddings = (torch.cat(rows) for rows in zip(*parts, strict=True))
        self.embeddings = normalize(embeddings, dim=1)


def _check(path: str, found: Sequence) -> tuple[Tensor, Tensor, Tensor]:
    try:
        boxes, scores, embeddings = found
    except (TypeError, ValueError) as e:
        raise InputError(f'{path}: give boxes, scores and embeddings ({e})') from e
    boxes, scores = (as_tensor(boxes, f'{path}: boxes').double().cpu(), as_tensor(scores, f'{path}: scores').cpu())
    embeddings, count = as_tensor(embeddings, f'{path}: embeddings').float().cpu(), len(scores)
    if count == 0:
        boxes, embeddings = boxes.reshape(0, 4), embeddings.reshape(0, embeddings.shape[-1] if embeddings.ndim else 0)
    if scores.ndim != 1 or boxes.shape != (count, 4) or embeddings.ndim != 2 or len(embeddings) != count:
        shapes = ', '.join(str(list(values.shape)) for values in (boxes, scores, embeddings))
        raise InputError(f'{path}: boxes, scores and embeddings must be [N, 4], [N] and [N, D], got {shapes}')
    if not all(values.isfinite().all() for values in (boxes, scores, embeddings)):
        raise InputError(f'{path}: boxes, scores and embeddings must be finite')
    if (boxes[:, :2] > boxes[:, 2:]).any():
        raise InputError(f'{path}: boxes must be left, top, right and bottom, got left > right or top > bottom')
    return boxes, scores.double(), embeddings


def evaluate_person_search(
    scenes: SceneSet,
    found: Mapping[str, Sequence],
    queries,
    *,
    min_score: float = 0.5,
    max_rank: int = 50,
) -> PersonSearchResult:
    """Measures what a network finds in the test scenes, and ranks it for each query by cosine similarity.

    Detection: detections of all test scenes, by descending score, each take the true box that they overlap most of
    those not yet taken, if their intersection over union (IoU) is 0.5 or larger; the others are wrong. All annotated
    people count, named or not.

    Search: the detections in a query's gallery are ranked. Within each of its scenes they go, by descending similarity,
    to the true boxes of the person asked for, each box to one detection, at an IoU of at least
    min(0.5, wh / ((w + 10)(h + 10))) for a true box w by h pixels, so that somebody small may be boxed less exactly.
    All other detections are wrong. The query's own box is no true box. Average precision is the sum of the precisions
    at each right detection, divided by the number of true boxes: the average precision of what was detected times its
    recall. Of equally similar ones, the one that comes first in the gallery is first.

    Args:
        scenes: whose `test` and `queries` are measured.
        found: by path of each test scene, boxes [N, 4] (left, top, right, bottom in pixels), scores [N] and embeddings
            [N, D], which need not be normalised; N may be 0.
        queries: [Q, D] embeddings of the queries' boxes, in the order of `scenes.queries`.
        min_score: detections with a lower score are left out, of both; the tools of both sets have 0.5.
        max_rank: length of the CMC curve.

    Raises:
        InputError: a test scene is missing, sizes that do not fit, numbers that are not finite, no true box, or no
            query whose person is in its gallery.
    """
    if max_rank < 1:
        raise InputError(f'max_rank must be at least 1, got {max_rank}')
    row = _Found(scenes, found, min_score)
    return PersonSearchResult(_detection(scenes.test, row), _search(scenes, row, queries, max_rank))


def _detection(scenes: Sequence[Scene], row: _Found) -> DetectionResult:
    right = np.zeros(len(row.boxes), dtype=bool)
    for scene in scenes:
        at = row.at[scene.path]
        right[at] = _matched(_overlaps(row.boxes[at], scene.boxes), _OVERLAP, row.scores[at].numpy())
    boxes = sum(len(scene.boxes) for scene in scenes)
    if not boxes:
        raise InputError('no test scene has a box: nobody can be found')
    order = np.argsort(-row.scores.numpy(), kind='stable')
    return DetectionResult(
        recall=float(right.sum() / boxes),
        AP=_average_precision(np.flatnonzero(right[order]) + 1, boxes),
        boxes=boxes,
        detections=len(right),
    )


def _search(scenes: SceneSet, row: _Found, queries, max_rank: int) -> SearchResult:
    embeddings = normalize(_check_queries(scenes, row, queries), dim=1)
    in_scenes: dict[int, list[Scene]] = {}
    for scene in scenes.test:
        for identity in scene.named:
            in_scenes.setdefault(identity, []).append(scene)

    @functools.lru_cache(maxsize=16)  # often shared
    def columns_of(gallery: tuple[str, ...]) -> tuple[frozenset[str], np.ndarray]:
        parts = [np.arange(row.at[path].start, row.at[path].stop) for path in dict.fromkeys(gallery)]
        return frozenset(gallery), np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    @functools.lru_cache(maxsize=2**16)
    def overlaps_of(path: str, boxes: tuple) -> np.ndarray:
        return _overlaps(row.boxes[row.at[path]], boxes)

    average, first = np.full(len(scenes.queries), np.nan), np.zeros(len(scenes.queries), dtype=np.int64)
    true, detected, everything = 0, 0, tuple(scene.path for scene in scenes.test)
    step = max(1, _TILE // max(1, len(row.boxes)))
    for start in range(0, len(scenes.queries), step):
        similar = (embeddings[start : start + step] @ row.embeddings.T).numpy()
        for number, (query, values) in enumerate(
            zip(scenes.queries[start : start + step], similar, strict=True), start
        ):
            paths, columns = columns_of(query.gallery if query.gallery is not None else everything)
            right, boxes = np.zeros(len(values), dtype=bool), 0
            for scene in in_scenes.get(query.identity, ()):
                if scene.path not in paths or (query.gallery is None and scene.path == query.scene.path):
                    continue
                asked = _asked(scene, query)
                boxes += len(asked)
                least = np.array([_least_overlap(box) for box in asked])
                at = row.at[scene.path]
                right[at] = _matched(overlaps_of(scene.path, asked), least, values[at])
            if query.gallery is None:
                own = row.at[query.scene.path]
                columns = np.concatenate([columns[: own.start], columns[own.stop :]])
            if boxes:
                order = np.argsort(-values[columns], kind='stable')
                ranks = np.flatnonzero(right[columns[order]]) + 1
                average[number] = _average_precision(ranks, boxes)
                first[number] = ranks[0] if len(ranks) else 0
                true, detected = true + boxes, detected + len(ranks)
    valid = ~np.isnan(average)
    if not valid.any():
        raise InputError('no query has its person in its gallery: check identities and galleries of the test scenes')
    hits = np.bincount(first[valid & (first > 0) & (first <= max_rank)], minlength=max_rank + 1)[1:]
    return SearchResult(
        mAP=float(average[valid].mean()),
        cmc=hits.cumsum() / valid.sum(),
        recall=detected / true,
        average_precision=average,
        first_match_rank=first,
        skipped=int((~valid).sum()),
    )


def _check_queries(scenes: SceneSet, row: _Found, queries) -> Tensor:
    queries = as_tensor(queries, 'query embeddings').float().cpu()
    if queries.ndim != 2 or len(queries) != len(scenes.queries):
        raise InputError(f'query embeddings must be [{len(scenes.queries)}, D], got {list(queries.shape)}')
    if row.width is None:
        row.embeddings = queries.new_zeros(0, queries.shape[1])
    elif row.width != queries.shape[1]:
        raise InputError(f'query embeddings have {queries.shape[1]} dimensions, those of test scenes {row.width}')
    if not queries.isfinite().all():
        raise InputError('query embeddings must be finite')
    return queries


def _asked(scene: Scene, query: SceneQuery) -> tuple:
    boxes = scene.named[query.identity]
    return tuple(box for box in boxes if scene.path != query.scene.path or box != query.box)


def _least_overlap(box: Sequence[float]) -> float:
    width, height = box[2] - box[0], box[3] - box[1]
    return min(_OVERLAP, width * height / ((width + _AROUND) * (height + _AROUND)))


def _overlaps(detected: Tensor, boxes: Sequence) -> np.ndarray:
    """IoU of detections and true boxes, [N, B]."""
    return box_iou(detected, torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)).numpy()


def _matched(overlaps: np.ndarray, least: float | np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which detections are right, [N]: by descending value, each takes the free box that it overlaps most.

    Args:
        overlaps: [N, B] of detections and true boxes.
        least: that makes a detection right, for all boxes or [B].
        values: [N] of the detections.
    """
    right = np.zeros(len(overlaps), dtype=bool)
    overlaps = np.where(overlaps >= least, overlaps, 0)
    hitting = np.flatnonzero(overlaps.any(1))
    for k in hitting[np.argsort(-values[hitting], kind='stable')]:
        box = overlaps[k].argmax()
        if overlaps[k, box] > 0:
            right[k] = True
            overlaps[:, box] = 0
    return right


def _average_precision(ranks: np.ndarray, boxes: int) -> float:
    """From the ranks of right detections, ascending, and the number of true boxes."""
    return float((np.arange(1, len(ranks) + 1) / ranks).sum() / boxes)
