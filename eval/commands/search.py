"""The command `msinet-eval search`: the nearest images of a gallery, as a table."""

import argparse
import csv
import logging
import sys
import time
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from msinet_eval.features.extract import extract
from msinet_eval.models.load import load_model
from msinet_eval.search.index import BACKENDS, PARAMETERS, recall, search
from msinet_eval.search.store import FeatureStore
from msinet_timm.commands import find_device, not_negative, positive
from msinet_timm.datasets import Record
from msinet_timm.errors import InputError

__all__ = ['add_arguments', 'run']

_COLUMNS = ('query', 'rank', 'distance', 'index', 'identity', 'camera', 'path')
_MEANINGS = {
    'ef': 'hnsw: length of the list of candidates; more finds more',
    'ef_construction': 'hnsw: the same while the index is built',
    'links': 'hnsw: links of an image; more finds more and takes more memory',
    'm': "ivfpq: bytes to hold an image's features in, a divisor of their dimensions",
    'nlist': 'ivfpq: number of cells',
    'nprobe': 'ivfpq: cells to look into; more finds more',
    'refine': 'ivfpq: candidates to compare in full for each image that is asked for',
}
_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        'gallery',
        metavar='GALLERY',
        help='features: a file (.safetensors as msinet-eval --features writes, .npy), a folder with '
        'gallery.safetensors, or a folder of shards (msinet_eval.search.store.FeatureStore)',
    )
    parser.add_argument(
        'queries',
        nargs='+',
        metavar='QUERY',
        help='features, as for the gallery (of a folder query.safetensors), or images, with --model',
    )
    parser.add_argument('--model', metavar='NAME', help='what embeds the images: the model of the gallery')
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for a model given by name')
    parser.add_argument('--height', type=positive, metavar='PIXELS', help="input height (default: the model's own)")
    parser.add_argument('--width', type=positive, metavar='PIXELS', help="input width (default: the model's own)")
    parser.add_argument(
        '--workers', type=not_negative, default=0, metavar='N', help='processes that read images (default: 0)'
    )
    parser.add_argument('-k', type=positive, default=10, metavar='N', help='images to find (default: 10)')
    parser.add_argument(
        '--backend', default='exact', choices=list(BACKENDS), help='all but exact need faiss (default: exact)'
    )
    for name in PARAMETERS:
        default = next(defaults[name] for defaults in BACKENDS.values() if name in defaults)
        shown = f' (default: {default or "by size"})'
        flag = '--' + name.replace('_', '-')
        parser.add_argument(flag, type=positive, metavar='N', help=_MEANINGS[name] + shown)
    parser.add_argument('--recall', action='store_true', help='search exactly, too, and tell the share that was found')
    parser.add_argument('--output', metavar='CSV', help='write the table there instead of printing it')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    device = find_device(args.device)
    gallery = _open(args.gallery, 'gallery.safetensors')
    names, query = _read_queries(args, device)
    parameters = {name: getattr(args, name) for name in PARAMETERS if getattr(args, name) is not None}
    query = query.to(device)
    start = time.perf_counter()
    indices, distances = search(query, gallery, args.k, args.backend, **parameters)
    seconds = time.perf_counter() - start
    message = f'{args.backend}: {len(query)} queries in {len(gallery)} images, {seconds:.2f} s'
    if args.recall:
        start = time.perf_counter()
        exact, _ = search(query, gallery, args.k)
        share = recall(indices, exact)
        message += f', recall@{args.k} {share:.4f} (exact: {time.perf_counter() - start:.2f} s)'
    _logger.info(message)
    if args.output is None:
        _write(sys.stdout, names, gallery, indices, distances)
        return 0
    try:
        with open(args.output, 'w', encoding='utf-8', newline='') as file:
            _write(file, names, gallery, indices, distances)
    except OSError as e:
        raise InputError(f'--output {args.output}: cannot write ({e.strerror})') from e
    return 0


def _open(path: str, file: str) -> FeatureStore:
    single = Path(path) / file
    return FeatureStore.open(single if single.is_file() else path)


def _read_queries(args: argparse.Namespace, device: torch.device) -> tuple[list[str], Tensor]:
    """Names and [Q, D] features of the queries."""
    first = Path(args.queries[0])
    if first.is_dir() or first.suffix in ('.safetensors', '.npy'):
        if args.model:
            raise InputError(f'{first} holds features, which need no --model')
        if len(args.queries) > 1:
            raise InputError(f'{first} holds features: give nothing else to search for')
        store = _open(args.queries[0], 'query.safetensors')
        every = torch.arange(len(store))
        names = [str(known.get('path') or number) for number, known in enumerate(store.describe(every))]
        return names, store.take(every)
    if not args.model:
        raise InputError(f'{first} is no file of features: to search for images, give --model')
    model, config = load_model(args.model, args.checkpoint, args.height, args.width)
    records = [Record(path, path) for path in args.queries]
    features = extract(model, records, data_config=config, workers=args.workers, device=device, description='queries')
    return args.queries, features.embeddings


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
