"""The k nearest gallery images of queries, for galleries of any size: exact, or faster by an index of faiss."""

import logging
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from msinet_eval.metrics.checks import as_tensor, check_features
from msinet_eval.metrics.distances import squared_distances, squared_norms
from msinet_eval.metrics.nearest import NearestLists
from msinet_timm.commands import progress
from msinet_timm.errors import InputError, needs
from msinet_timm.files import replace_file

from .store import FeatureStore

__all__ = ['BACKENDS', 'PARAMETERS', 'recall', 'search']

#: Names of parameters and their defaults (None: found from the gallery) of what can search:
#: `exact` compares with every image and reads the gallery from disk; `flat` is the same by faiss, in memory.
#: `hnsw` walks a graph in which each image has `links`, with lists of `ef_construction` candidates while it is built
#: and `ef` while it is searched (Malkov and Yashunin, TPAMI 2020).
#: `ivfpq` looks into `nprobe` of `nlist` cells, whose images it holds in memory as `m` bytes each, and compares the
#: `refine` times k best of them in full (Jegou et al., TPAMI 2011).
BACKENDS = {
    'exact': {},
    'flat': {},
    'hnsw': {'links': 32, 'ef_construction': 128, 'ef': 128},
    'ivfpq': {'nlist': None, 'nprobe': 32, 'm': None, 'refine': 10},
}
PARAMETERS = sorted({name for defaults in BACKENDS.values() for name in defaults})
_SEARCHING = ('ef', 'nprobe', 'refine')  # the others change what is built
_COLUMNS = 2**16  # gallery images at once
_SAMPLE = 2**28  # numbers in the features that cells are trained on: 1 GB
_TRAINED = 50  # images to train each cell with

_logger = logging.getLogger(__name__)


def search(
    query, gallery, k: int = 10, backend: str = 'exact', *, tile: int = 2**21, **parameters: int
) -> tuple[Tensor, Tensor]:
    """Finds the nearest gallery images by Euclidean distance.

    Features are taken as they are. `exact` works on the device of `query`, all others on the CPU. Of equally near
    images that with the lower index comes first.

    An index of a `FeatureStore` is kept beside its files, and built again when these or its parameters have changed.

    Args:
        query: [Q, D] array or tensor.
        gallery: `FeatureStore`, or [G, D] array or tensor.
        k: images to find, up to G.
        backend: one of `BACKENDS`.
        tile: the largest number of distances held at once.
        parameters: of the backend.

    Returns:
        [Q, k] int64 indices and [Q, k] float32 distances, nearest first, on the device of `query`. Where `ivfpq` has
        found fewer than k images, indices are -1 and distances infinite.

    Raises:
        InputError: sizes that do not fit, features that are not finite, a gallery that is empty or smaller than k,
            an unknown backend or parameter, or faiss is not installed.
    """
    settings = _check_parameters(backend, parameters)
    query, gallery = _check(query, gallery)
    if not 1 <= k <= len(gallery):
        raise InputError(f'k must be from 1 to the number of gallery images, {len(gallery)}; got {k}')
    if tile < 1:
        raise InputError(f'tile must be at least 1, got {tile}')
    squares = squared_norms(query, 'query')
    if backend == 'exact':
        return _search_tiles(query, squares, gallery, k, tile)
    index = _get_index(gallery, backend, settings)
    if backend == 'hnsw':
        index.hnsw.efSearch = max(k, settings['ef'])
    elif backend == 'ivfpq':
        index.nprobe = settings['nprobe']
    _, candidates = index.search(query.cpu().numpy(), min(len(gallery), k * settings.get('refine', 1)))
    indices, distances = _compare(query.cpu(), gallery, torch.from_numpy(candidates), tile)
    return indices[:, :k].to(query.device), distances[:, :k].to(query.device)


def recall(found, exact) -> float:
    """Share of the truly nearest images that were found.

    Args:
        found: [Q, k] indices by some backend.
        exact: [Q, k] indices by `exact`.

    Raises:
        InputError: shapes that differ.
    """
    found, exact = as_tensor(found, 'found'), as_tensor(exact, 'exact')
    if found.shape != exact.shape or found.ndim != 2 or 0 in found.shape:
        raise InputError(f'found and exact must both be [queries, k], got {list(found.shape)} and {list(exact.shape)}')
    exact = exact.to(found.device).sort(1).values
    place = torch.searchsorted(exact, found.contiguous()).clamp_(max=exact.shape[1] - 1)
    return float((exact.gather(1, place) == found).double().mean())


class _Rows:
    """A tensor of features, read as a store is."""

    folder = None

    def __init__(self, features: Tensor) -> None:
        self._features = features
        self.dim = features.shape[1]

    def __len__(self) -> int:
        return len(self._features)

    def chunks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        return ((start, self._features[start : start + size]) for start in range(0, len(self), size))

    def take(self, indices: Tensor) -> Tensor:
        return self._features[indices.to(self._features.device)].cpu()


def _check(query, gallery) -> tuple[Tensor, FeatureStore | _Rows]:
    """Queries as float32, and what to search in."""
    if not isinstance(gallery, FeatureStore):
        query, gallery = check_features(query, gallery)
        return query.contiguous(), _Rows(gallery)
    if not len(gallery):
        raise InputError(f'{gallery.folder}: the store of features is empty')
    query, _ = check_features(query, torch.empty(1, gallery.dim))
    return query.contiguous(), gallery


def _check_parameters(backend: str, given: dict[str, int]) -> dict[str, int | None]:
    """All parameters of a backend."""
    if backend not in BACKENDS:
        raise InputError(f"'{backend}' is no backend: it must be one of {', '.join(BACKENDS)}")
    defaults = BACKENDS[backend]
    for name, value in given.items():
        if name not in defaults:
            raise InputError(f'{backend} has no parameter {name}: it has {", ".join(defaults) or "none"}')
        if value is not None and value < 1:
            raise InputError(f'{name} must be at least 1, got {value}')
    return defaults | {name: value for name, value in given.items() if value is not None}


def _search_tiles(query: Tensor, squares: Tensor, gallery, k: int, tile: int) -> tuple[Tensor, Tensor]:
    """Compares all queries with one part of the gallery after the other, so that it is read once."""
    step = min(len(query), max(1, math.isqrt(tile)))
    size = min(max(1, tile // step), _COLUMNS)
    lists = NearestLists(len(query), k, query.device)
    with progress(total=len(gallery), desc='gallery', unit='img') as bar:
        for start, features in gallery.chunks(size):
            features = features.to(query.device)
            column_squares = squared_norms(features, f'gallery[{start}:{start + len(features)}]')
            for first in range(0, len(query), step):
                rows = slice(first, first + step)
                distances = squared_distances(query[rows], features, squares[rows], column_squares)
                lists.update(distances, start, rows)
            bar.update(len(features))
    return lists.indices, lists.distances.sqrt()


def _compare(query: Tensor, gallery, candidates: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Orders [Q, C] candidates, of which -1 are none, by their distances: indices and distances, [Q, C] each."""
    candidates = candidates.sort(1).values  # so that lower indices stay first among equally near ones
    step = max(1, tile // (candidates.shape[1] * gallery.dim))
    parts = []
    for chosen, features in zip(candidates.split(step), query.split(step), strict=True):
        found = gallery.take(chosen.clamp(min=0).flatten()).view(*chosen.shape, gallery.dim)
        parts.append(found.sub_(features[:, None]).square_().sum(2))
    distances, order = torch.cat(parts).masked_fill(candidates < 0, torch.inf).sort(dim=1, stable=True)
    return candidates.gather(1, order), distances.sqrt()


def _import_faiss():
    with needs('index', 'a backend other than exact'):
        import faiss
    return faiss


def _get_index(gallery, backend: str, settings: dict):
    """Reads an index, or builds it and writes it where the gallery is on disk."""
    faiss = _import_faiss()
    if gallery.folder is None:
        return _build(faiss, gallery, backend, settings)
    built = '-'.join(f'{name}{value}' for name, value in settings.items() if name not in _SEARCHING and value)
    digest = f'{gallery.digest[:16]}.faiss'
    path = gallery.folder / '-'.join(part for part in (f'{gallery.name}.{backend}', built, digest) if part)
    if path.exists():
        try:
            return faiss.read_index(str(path))
        except RuntimeError:
            _logger.warning(f'{path} cannot be read, and is built again')
    index = _build(faiss, gallery, backend, settings)
    try:
        replace_file(path, lambda place: faiss.write_index(index, str(place)))
        for other in gallery.folder.glob(f'{gallery.name}.{backend}-*.faiss'):
            if not other.name.endswith(digest):  # of what the gallery was before
                other.unlink()
    except (RuntimeError, OSError) as e:
        _logger.warning(f'{path}: cannot keep the index, which must be built again next time ({e})')
    return index


def _build(faiss, gallery, backend: str, settings: dict):
    if backend == 'flat':
        index = faiss.IndexFlatL2(gallery.dim)
    elif backend == 'hnsw':
        index = faiss.IndexHNSWFlat(gallery.dim, settings['links'])
        index.hnsw.efConstruction = settings['ef_construction']
    else:
        index = _train_cells(faiss, gallery, settings)
    with progress(total=len(gallery), desc=f'building {backend}', unit='img') as bar:
        for start, features in gallery.chunks(_COLUMNS):
            squared_norms(features, f'gallery[{start}:{start + len(features)}]')  # faiss would take NaN
            index.add(features.cpu().contiguous().numpy())
            bar.update(len(features))
    return index


def _train_cells(faiss, gallery, settings: dict):
    """An index of compressed features in cells, both learned from images from all over the gallery."""
    largest = min(len(gallery), max(1, _SAMPLE // gallery.dim))
    nlist = settings['nlist'] or max(1, min(round(4 * math.sqrt(len(gallery))), largest // _TRAINED))
    if nlist > largest:
        raise InputError(f'nlist is {nlist}, but there are {largest} gallery images to find so many cells with')
    m = settings['m'] or max(m for m in range(1, min(gallery.dim, 96) + 1) if gallery.dim % m == 0)
    if gallery.dim % m:
        raise InputError(f'm must divide the {gallery.dim} dimensions of the features, got {m}')
    sample = min(largest, max(_TRAINED * nlist, _TRAINED * 256))
    features = gallery.take(torch.linspace(0, len(gallery) - 1, sample, dtype=torch.float64).long())
    squared_norms(features, 'gallery')
    bits = min(8, max(1, int(math.log2(max(2, sample / _TRAINED)))))  # of each of the m codes
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(gallery.dim), gallery.dim, nlist, m, bits)
    if len(gallery) < 2**bits:
        raise InputError(f'ivfpq needs at least {2**bits} gallery images, got {len(gallery)}: choose exact')
    index.train(features.numpy())
    return index
