"""What `msinet-eval search` does: the nearest images of a gallery, as a table."""

import csv
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor, nn

from msinet_eval.features.extract import extract
from msinet_eval.models.load import find_norms, load_model
from msinet_eval.search.index import recall as recall_of
from msinet_eval.search.index import search
from msinet_eval.search.store import FeatureStore
from msinet_timm.commands import find_device
from msinet_timm.datasets import Record
from msinet_timm.errors import InputError
from msinet_timm.files import replace_file
from msinet_timm.models.camera_norm import CameraNorms

__all__ = ['search_gallery']

_COLUMNS = ('query', 'rank', 'distance', 'index', 'identity', 'camera', 'path')
_logger = logging.getLogger(__name__)


def search_gallery(
    gallery: str,
    queries: Sequence[str],
    *,
    k: int = 10,
    model: str | None = None,
    checkpoint: str | None = None,
    camera: str | None = None,
    camera_norms: bool = True,
    height: int | None = None,
    width: int | None = None,
    workers: int = 0,
    backend: str = 'exact',
    recall: bool = False,
    output: str | None = None,
    device: str | None = None,
    **parameters: int,
) -> None:
    """Finds the images of a gallery that are nearest to queries, and writes a CSV of them.

    Args:
        gallery: file of features, or folder of them.
        queries: one file of features or folder of them, or images.
        k: images to find for each query.
        model: what embeds images, see `msinet_eval.models.load_model`; None for queries that are features.
        checkpoint: weights for a model given by name.
        camera: that the images are from, of those that the model has been adapted to; None embeds them by its own
            statistics, and warns.
        camera_norms: whether to use what the folder of a model knows of cameras, as for the gallery.
        height: of the input in pixels, instead of the model's own.
        width: of the input in pixels, instead of the model's own.
        workers: processes that read images.
        backend: one of `msinet_eval.search.index.BACKENDS`.
        recall: whether to search exactly, too, and log the share that was found.
        output: CSV to write; None for standard output.
        device: None for the first GPU, or the CPU where there is none.
        parameters: of the backend.

    Raises:
        InputError: files that cannot be read or written, or queries that do not fit.
    """
    place = find_device(device)
    store = _open(gallery, 'gallery.safetensors')
    names, query = _read_queries(
        queries,
        model,
        place,
        camera=camera,
        camera_norms=camera_norms,
        checkpoint=checkpoint,
        height=height,
        width=width,
        workers=workers,
    )
    query = query.to(place)
    start = time.perf_counter()
    indices, distances = search(query, store, k, backend, **parameters)
    seconds = time.perf_counter() - start
    message = f'{backend}: {len(query)} queries in {len(store)} images, {seconds:.2f} s'
    if recall:
        start = time.perf_counter()
        exact, _ = search(query, store, k)
        share = recall_of(indices, exact)
        message += f', recall@{k} {share:.4f} (exact: {time.perf_counter() - start:.2f} s)'
    _logger.info(message)
    if output is None:
        _write(sys.stdout, names, store, indices, distances)
        return

    def write(draft: Path) -> None:
        with open(draft, 'w', encoding='utf-8', newline='') as file:
            _write(file, names, store, indices, distances)

    replace_file(output, write, f'--output {output}: cannot write')


def _open(path: str, file: str) -> FeatureStore:
    single = Path(path) / file
    return FeatureStore.open(single if single.is_file() else path)


def _read_queries(
    queries: Sequence[str],
    model: str | None,
    device: torch.device,
    *,
    camera: str | None,
    camera_norms: bool,
    workers: int,
    **loading,
) -> tuple[list[str], Tensor]:
    """Names and [Q, D] features of the queries."""
    first = Path(queries[0])
    if camera is not None and not model:
        raise InputError('--camera is for images, which need --model')
    if first.is_dir() or first.suffix in ('.safetensors', '.npy'):
        if model:
            raise InputError(f'{first} holds features, which need no --model')
        if len(queries) > 1:
            raise InputError(f'{first} holds features: give nothing else to search for')
        store = _open(queries[0], 'query.safetensors')
        every = torch.arange(len(store))
        names = [str(known.get('path') or number) for number, known in enumerate(store.describe(every))]
        return names, store.take(every)
    if not model:
        raise InputError(f'{first} is no file of features: to search for images, give --model')
    module, config = load_model(model, **loading)
    norms = _find_norms(model, module, camera) if camera_norms and not loading['checkpoint'] else None
    if camera is not None and (norms is None or camera not in norms):
        known = f'those that it knows are {", ".join(norms)}' if norms else 'it has not been adapted to any'
        raise InputError(f'--camera {camera}: {model} does not know this camera: {known}')
    records = [Record(path, path, camera) for path in queries]
    options = {'data_config': config, 'workers': workers, 'device': device, 'norms': norms}
    features = extract(module, records, description='queries', **options)
    return list(queries), features.embeddings


def _find_norms(name: str, model: nn.Module, camera: str | None) -> CameraNorms | None:
    """Norms of the cameras that a model knows by its folder; None where there are none."""
    folder = find_norms(name)
    norms = CameraNorms.load(folder, model) if folder else None
    if norms is not None and camera is None:
        _logger.warning(
            "%s knows cameras (%s), but not that of the images: they are embedded by its own statistics. Give --camera "
            'NAME, or --no-camera-norms if the gallery was embedded so', name, ', '.join(norms),
        )  # fmt: skip
    return norms


def _write(file: TextIO, names: list[str], gallery: FeatureStore, indices: Tensor, distances: Tensor) -> None:
    """One line for each image that was found."""
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(_COLUMNS)
    known = gallery.describe(indices.clamp(min=0).flatten())
    for query, (found, far) in enumerate(zip(indices.tolist(), distances.tolist(), strict=True)):
        for rank, (index, distance) in enumerate(zip(found, far, strict=True)):
            if index >= 0:
                labels = known[query * len(found) + rank]
                described = [labels.get(column, '') for column in _COLUMNS[4:]]
                writer.writerow([names[query], rank + 1, f'{distance:.6g}', index, *described])
