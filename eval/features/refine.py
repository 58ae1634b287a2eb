"""What can be done to embeddings before they are ranked: by distances, cameras and tracklets, never by identities."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from msinet_eval.metrics.checks import to_numbers
from msinet_eval.metrics.distances import full_precision, squared_distances, squared_norms
from msinet_eval.metrics.nearest import NearestLists
from msinet_timm.errors import InputError

from .types import Features

__all__ = ['augment_database', 'average_tracklets', 'expand_queries', 'subtract_camera_means']

_ROWS, _COLUMNS = 512, 4096  # of the tiles of distances
_CHUNK = 2**21  # numbers of neighbours' embeddings held at once


def average_tracklets(features: Features) -> Features:
    """Multi-shot: one embedding for each tracklet, the normalised mean of its images.

    Images of one camera with one name of a tracklet are a tracklet, in the order of their first images. These give
    the path, the box and all else.

    Raises:
        InputError: tracklets are not known, or one of them has images of several identities or clothes.
    """
    if features.tracklets is None:
        raise InputError(
            'tracklets of these images are not known, so that there is nothing to average: use a data set with '
            'tracklets, or a table with a column tracklet'
        )
    cameras = features.cameras or (None,) * len(features)
    firsts: dict[tuple, int] = {}
    tracklets = zip(cameras, features.tracklets, strict=True)
    first = [firsts.setdefault(tracklet, index) for index, tracklet in enumerate(tracklets)]
    for kind in ('identities', 'clothes'):
        names = getattr(features, kind)
        if names is not None:
            _check_one_name(features, names, first, kind)
    chosen, group = torch.tensor(first).unique(return_inverse=True)
    means = _group_means(features.embeddings, group, len(chosen))
    return replace(features.subset(chosen), embeddings=normalize(means, dim=1))


def expand_queries(
    query: Features, gallery: Features, k: int, *, alpha: float = 0.0, device: str | torch.device | None = None
) -> Features:
    """Query expansion: each query becomes the weighted mean of itself and its k nearest gallery images.

    A neighbour weighs its cosine similarity (0 if negative) to the power of alpha, the query 1. Alpha 0 is the
    average query expansion of Chum et al., "Total Recall: Automatic Query Expansion with a Generative Feature Model
    for Object Retrieval" (ICCV 2007); alpha greater than 0 is that of Radenovic et al., "Fine-tuning CNN Image
    Retrieval with No Human Annotation" (TPAMI 2018, there 3). Neighbours of the query's own camera take part.

    Args:
        query: who asks.
        gallery: where neighbours are looked for.
        k: number of neighbours, at least 1.
        alpha: 0 or larger.
        device: where to compute; None for the CPU.

    Raises:
        InputError: numbers out of their range, more neighbours than gallery images, or embeddings that do not fit.
    """
    return replace(query, embeddings=_expand(query, gallery, k, alpha, device, to='expand queries'))


def augment_database(
    gallery: Features, k: int, *, alpha: float = 0.0, device: str | torch.device | None = None
) -> Features:
    """Database-side augmentation: each gallery image becomes the mean of itself and its k nearest other ones.

    After Arandjelovic and Zisserman, "Three things everyone should know to improve object retrieval" (CVPR 2012,
    section 5), with neighbours by distance and weights as in `expand_queries`.

    Args:
        gallery: all at once: each image is averaged with others as they were.
        k: number of neighbours, at least 1.
        alpha: as for `expand_queries`, and so `device`.

    Raises:
        InputError: numbers out of their range, or a gallery of no more than k images.
    """
    return replace(gallery, embeddings=_expand(gallery, gallery, k, alpha, device, to='augment the gallery'))


def subtract_camera_means(query: Features, gallery: Features) -> tuple[Features, Features]:
    """Camera-mean normalisation: takes from each embedding the mean of its camera, and normalises what is left.

    What all images of a camera have in common (light, background, point of view) tells nothing of who is in them.
    A camera's mean is over its queries and gallery images. The mean's part of the camera-wise statistics of Zhuang
    et al., "Rethinking the Distribution Gap of Person Re-identification with Camera-based Batch Normalization"
    (ECCV 2020), applied to embeddings.

    Raises:
        InputError: cameras are not known, or one of them has a single image, of which nothing would be left.
    """
    if query.cameras is None or gallery.cameras is None:
        raise InputError('camera means need the cameras of query and gallery, which are not known')
    _check_dimensions(query, gallery)
    groups = to_numbers('cameras', query=query.cameras, gallery=gallery.cameras)
    counts = torch.bincount(torch.cat(groups))
    alone = counts[torch.cat(groups)] < 2
    if alone.any():
        index = int(alone.nonzero()[0])
        path, camera = ((*getattr(query, name), *getattr(gallery, name))[index] for name in ('paths', 'cameras'))
        raise InputError(
            f'{path} is the only image of camera {camera}: less the mean of its camera, nothing is left of it'
        )
    sums = [_group_sums(f.embeddings, group, len(counts)) for f, group in zip((query, gallery), groups, strict=True)]
    means = (sum(sums) / counts[:, None]).float()

    def subtract(features: Features, group: Tensor) -> Features:
        return replace(features, embeddings=normalize(features.embeddings - means[group], dim=1))

    return subtract(query, groups[0]), subtract(gallery, groups[1])


def _check_one_name(features: Features, names: Sequence[str], first: Sequence[int], kind: str) -> None:
    """Every image must have the name of the first one of its tracklet."""
    for index, (name, other) in enumerate(zip(names, first, strict=True)):
        if name != names[other]:
            raise InputError(
                f'tracklet {features.tracklets[index]} mixes {kind}: {features.paths[index]} has {name}, '
                f'{features.paths[other]} has {names[other]}; give each tracklet of a camera a name of its own, '
                'or, where they are numbered anew for each identity, the option tracklets=identity'
            )


def _group_means(embeddings: Tensor, group: Tensor, count: int) -> Tensor:
    return (_group_sums(embeddings, group, count) / torch.bincount(group, minlength=count)[:, None]).float()


def _group_sums(embeddings: Tensor, group: Tensor, count: int) -> Tensor:
    """[N, D] and [N] -> [count, D] in float64."""
    sums = torch.zeros(count, embeddings.shape[1], dtype=torch.float64)
    for part, places in zip(embeddings.split(_COLUMNS), group.split(_COLUMNS), strict=True):
        sums.index_add_(0, places, part.double())
    return sums


def _check_dimensions(query: Features, gallery: Features) -> None:
    dimensions = [features.embeddings.shape[1] for features in (query, gallery)]
    if dimensions[0] != dimensions[1]:
        raise InputError(f'query embeddings have {dimensions[0]} dimensions, gallery embeddings {dimensions[1]}')


def _expand(rows: Features, columns: Features, k: int, alpha: float, device, *, to: str) -> Tensor:
    """[N, D] weighted means of the embeddings of rows and of their neighbours."""
    itself = rows is columns
    if k < 1 or not 0 <= alpha < float('inf'):
        raise InputError(f'to {to}, k must be at least 1 and alpha at least 0, got {k} and {alpha}')
    if k > len(columns) - itself:
        raise InputError(
            f'cannot {to} by {k} neighbours: the gallery has {len(columns)} images'
            + (', and an image is not its own neighbour' if itself else '')
        )
    _check_dimensions(rows, columns)
    asking = rows.embeddings.to(device or 'cpu').float()
    found = asking if itself else columns.embeddings.to(asking.device).float()
    expanded = torch.empty_like(asking)
    size = max(1, _CHUNK // (k * found.shape[1]))
    for start, neighbours in _nearest(asking, found, k, itself):
        for offset, indices in zip(range(0, len(neighbours), size), neighbours.split(size), strict=True):
            part = slice(start + offset, start + offset + len(indices))
            near = found[indices]
            with full_precision(asking.device):
                weights = torch.einsum('nd,nkd->nk', asking[part], near).clamp_(min=0).pow_(alpha)
                expanded[part] = asking[part] + torch.einsum('nk,nkd->nd', weights, near)
    return normalize(expanded, dim=1).cpu()


def _nearest(rows: Tensor, columns: Tensor, k: int, itself: bool) -> Iterator[tuple[int, Tensor]]:
    """First row and [B, k] indices of the nearest columns, block by block; `itself` leaves out a row's own column."""
    row_squares, column_squares = squared_norms(rows, 'query'), squared_norms(columns, 'gallery')
    for start in range(0, len(rows), _ROWS):
        block = slice(start, start + _ROWS)
        lists = NearestLists(len(rows[block]), k, rows.device)
        for first in range(0, len(columns), _COLUMNS):
            part = slice(first, first + _COLUMNS)
            distances = squared_distances(rows[block], columns[part], row_squares[block], column_squares[part])
            if itself:  # the main diagonal of the whole
                distances.diagonal(start - first).fill_(torch.inf)
            lists.update(distances, first)
        yield start, lists.indices
