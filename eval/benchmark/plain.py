"""Rankings and re-ranking in the plain form in which toolboxes publish them: matrices of everything by everything.

Only the benchmark and the tests use them: as what to compare with.
"""

import numpy as np

__all__ = ['plain_k_reciprocal', 'plain_ranking']


def plain_ranking(
    query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, max_rank: int = 50
) -> tuple[float, np.ndarray, float]:
    """mAP, CMC and mINP, by sorting the gallery for each query. Takes features and labels as arrays."""
    order = np.argsort(_squared_distances(query, gallery), axis=1, kind='stable')
    matches = gallery_ids[order] == query_ids[:, None]
    curves, precisions, penalties = [], [], []
    for row, (identity, camera) in enumerate(zip(query_ids, query_cameras, strict=True)):
        removed = (gallery_ids[order[row]] == identity) & (gallery_cameras[order[row]] == camera)
        hits = matches[row][~removed]
        if not hits.any():
            continue
        found = hits.cumsum()
        ranks = np.arange(1, len(hits) + 1)
        curve = np.ones(min(max_rank, len(gallery)))
        curve[: len(hits)] = found[: len(curve)] > 0
        curves.append(curve)
        precisions.append((found / ranks)[hits].mean())
        penalties.append(found[-1] / ranks[hits][-1])
    return float(np.mean(precisions)), np.mean(curves, axis=0), float(np.mean(penalties))


def plain_k_reciprocal(query, gallery, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> np.ndarray:
    """[Q, G] re-ranked distances, see `msinet_eval.metrics.rerank`, by matrices of all images by all images."""
    images = np.concatenate([query, gallery])
    distances = np.maximum(_squared_distances(images, images), 0)
    np.fill_diagonal(distances, 0)
    distances /= distances.max(axis=1, keepdims=True)
    order = np.argsort(distances, axis=1, kind='stable')

    def mutual(image: int, k: int) -> np.ndarray:
        near = order[image, : k + 1]
        return near[(order[near, : k + 1] == image).any(axis=1)]

    weights = np.zeros_like(distances)
    for image in range(len(images)):
        own = mutual(image, k1)
        expanded = own
        for candidate in own:
            others = mutual(candidate, round(k1 / 2))
            if len(np.intersect1d(others, own)) > 2 / 3 * len(others):
                expanded = np.append(expanded, others)
        expanded = np.unique(expanded)
        weight = np.exp(-distances[image, expanded])
        weights[image, expanded] = weight / weight.sum()
    if k2 > 1:
        weights = np.stack([weights[order[image, :k2]].mean(axis=0) for image in range(len(images))])

    holders = [np.flatnonzero(weights[:, image]) for image in range(len(images))]
    jaccard = np.zeros((len(query), len(images)), dtype=np.float32)
    for row in range(len(query)):
        shared = np.zeros(len(images), dtype=np.float32)
        for image in np.flatnonzero(weights[row]):
            held = holders[image]
            shared[held] += np.minimum(weights[row, image], weights[held, image])
        jaccard[row] = 1 - shared / (2 - shared)
    blend = jaccard * (1 - lambda_value) + distances[: len(query)] * lambda_value
    return blend[:, len(query) :]


def _squared_distances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    squares = [np.square(features).sum(axis=1) for features in (rows, columns)]
    return squares[0][:, None] + squares[1] - 2 * rows @ columns.T
