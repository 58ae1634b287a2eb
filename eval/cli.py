"""The command `msinet-eval`: measures a model on a data set."""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from msinet_timm.commands import InputError, command, find_device, not_negative, positive
from msinet_timm.datasets import ReIDDataset, add_data_option, create_dataset, list_datasets, parse_options
from msinet_timm.datasets.cache import CACHE, open_cache
from msinet_timm.datasets.verify import SKIP_BROKEN, drop_broken

from .models import load_model
from .protocol import Evaluation, evaluate
from .report import FIGURES, table, write_ranked_lists

__all__ = ['main']

_PACKAGES = ('msinet-timm', 'torch', 'torchvision', 'timm', 'numpy', 'Pillow')


def create_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog='msinet-eval', description='Measures a model on a ReID data set: mAP, CMC, mINP.'
    )
    parser.add_argument(
        'model',
        help='name that timm knows, hf-hub:OWNER/NAME, a run or model folder, color_histogram[_stripes]',
    )
    parser.add_argument('-ds', '--dataset', required=True, help=f'one of: {", ".join(list_datasets())}')
    parser.add_argument('--data-dir', metavar='DIR', help='folder of the data set')
    add_data_option(parser)
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for a model given by name')
    parser.add_argument('--height', type=positive, metavar='PIXELS', help="input height (default: the model's own)")
    parser.add_argument('--width', type=positive, metavar='PIXELS', help="input width (default: the model's own)")
    parser.add_argument('--batch-size', type=positive, default=64, metavar='N', help='images at once (default: 64)')
    parser.add_argument(
        '--workers', type=not_negative, default=2, metavar='N', help='processes that read images (default: 2)'
    )
    parser.add_argument('--skip-broken', action='store_true', help=SKIP_BROKEN)
    parser.add_argument('--cache', default='none', metavar='none|memory|DIR', help=CACHE)
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    parser.add_argument('--json', metavar='FILE', help='write the figures and how they came about')
    parser.add_argument('--ranked-lists', metavar='FILE', help='write a PNG of queries and what was found for them')
    parser.add_argument('--features', metavar='DIR', help='write query.safetensors and gallery.safetensors there')
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    args = create_parser().parse_args(argv)
    device = find_device(args.device)
    _prepare_outputs(args)
    dataset = create_dataset(args.dataset, args.data_dir, **parse_options(args.data_option))
    if args.skip_broken:
        dataset = drop_broken(dataset, ('query', 'gallery'))
    cache = open_cache(args.cache, args.workers)
    model, data_config = load_model(args.model, args.checkpoint, args.height, args.width)
    try:
        evaluation = evaluate(
            model,
            dataset,
            data_config=data_config,
            batch_size=args.batch_size,
            workers=args.workers,
            device=device,
            cache=cache,
        )
    except torch.OutOfMemoryError as e:
        raise InputError(f'{device} has not enough memory: give a --batch-size below {args.batch_size}') from e
    print(table([(f'{args.model} on {dataset.name}', evaluation.ranking)]))
    for remark in dataset.remarks:
        print(f'  {remark}')
    if args.features:
        evaluation.query.save(Path(args.features) / 'query.safetensors')
        evaluation.gallery.save(Path(args.features) / 'gallery.safetensors')
    if args.json:
        _write_json(args.json, _figures(args, dataset, evaluation, data_config))
    if args.ranked_lists:
        ranking = evaluation.ranking
        title = f'{args.model} on {dataset.name}: mAP {100 * ranking.mAP:.1f} %, Rank-1 {100 * ranking.cmc[0]:.1f} %'
        write_ranked_lists(
            args.ranked_lists,
            evaluation.query,
            evaluation.gallery,
            ranking,
            title='; '.join([title, *dataset.remarks]),
            same_clothes_removed=dataset.protocol.same_clothes_removed,
        )
    return 0


def _prepare_outputs(args: argparse.Namespace) -> None:
    """Folders for what will be written, so that a wrong path shows before the work and not after it."""
    if args.ranked_lists and not args.ranked_lists.lower().endswith('.png'):
        raise InputError(f'--ranked-lists {args.ranked_lists}: the file name must end in .png')
    for flag, folder in (
        ('--json', args.json and Path(args.json).parent),
        ('--ranked-lists', args.ranked_lists and Path(args.ranked_lists).parent),
        ('--features', args.features),
    ):
        try:
            if folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise InputError(f'{flag}: cannot create the folder {folder} ({e.strerror})') from e


def _figures(args: argparse.Namespace, dataset: ReIDDataset, evaluation: Evaluation, data_config: dict) -> dict:
    ranking, query, gallery, rate = evaluation
    parts = {'query': query, 'gallery': gallery}
    return {
        'model': args.model,
        'checkpoint': args.checkpoint,
        'dataset': dataset.name,
        'data_options': parse_options(args.data_option),
        'remarks': list(dataset.remarks),
        'images': {part: len(features) for part, features in parts.items()},
        'identities': {part: len(features.identities.unique()) for part, features in parts.items()},
        'same_camera_removed': query.cameras is not None,
        'same_clothes_removed': dataset.protocol.same_clothes_removed,
        'mAP': ranking.mAP,
        'mINP': ranking.mINP,
        'cmc': ranking.cmc.tolist(),
        'draws': [{name: figure(draw) for name, figure in FIGURES.items()} for draw in ranking.draws],
        'spread': {name: ranking.spread(figure) for name, figure in FIGURES.items()} if ranking.draws else None,
        'queries_skipped': ranking.num_skipped,
        'embedding_dim': query.embeddings.shape[1],
        'preprocessing': data_config,
        'images_per_second': round(rate, 1),
        'versions': {'python': platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def _write_json(path: str, figures: dict) -> None:
    try:
        Path(path).write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')
    except OSError as e:
        raise InputError(f'--json {path}: cannot write ({e.strerror})') from e
