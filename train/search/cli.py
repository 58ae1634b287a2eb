"""The command `msinet-search`: finds a genotype for a data set, and compares it with others."""

import argparse
import re
import shlex
import sys
from pathlib import Path

import msinet_timm  # noqa: F401 - registers the models with timm
from msinet_timm.commands import command, fraction, not_negative, positive, positive_float
from msinet_timm.errors import InputError
from msinet_timm.models.msinet import WIDTHS
from msinet_train.cli import add_data, add_schedule
from msinet_train.recipe import load_recipe, parse_with_recipe

from .compare import compare, parse_comparison
from .engine import search

__all__ = ['create_parser', 'main', 'parse_args']

#: The published search.
PUBLISHED = {
    'dataset': ['msmt17'],
    'height': 256,
    'width': 128,
    'batch_size': 64,
    'num_instance': 4,
    'padding': 10,
    'erasing': 0.5,
    'color_jitter': [],
    'sched': 'multistep',
    'epochs': 350,
    'milestones': [150, 225, 300],
    'decay_rate': 0.1,
    'warmup_step': 10,
    'warmup_factor': 0.01,
}


def create_parser() -> argparse.ArgumentParser:
    """The arguments of a search."""
    parser = argparse.ArgumentParser(
        prog='msinet-search',
        description='Finds the interactions of an MSINet for a data set, by twins contrastive search. The defaults are '
        'the published search. "msinet-search compare --help" tells how to compare what it finds. Several processes '
        'are started by torchrun -m msinet_train.search.cli.',
    )
    _add_run(parser)
    add_data(parser)
    _add_supernet(parser)
    _add_steps(parser)
    add_schedule(parser)
    parser.set_defaults(**PUBLISHED)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group('run')
    run.add_argument('--output', metavar='DIR', help='run folder (default: runs/search_DATASET)')
    run.add_argument('--resume', metavar='DIR', help='continue the search in this folder, as it was set')
    run.add_argument('--seed', type=not_negative, default=0, metavar='N', help='of weights, batches and augmentation')
    run.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    run.add_argument('--workers', type=not_negative, default=2, metavar='N', help='processes that read images, by half')
    run.add_argument(
        '--geno-interval', type=positive, default=5, metavar='N',
        help='epochs between genotypes, evaluations and images (default: 5)'
    )  # fmt: skip


def _add_supernet(parser: argparse.ArgumentParser) -> None:
    supernet = parser.add_argument_group('supernet')
    supernet.add_argument('--variant', choices=WIDTHS, default='x1_0', help='its widths (default: x1_0)')
    supernet.add_argument(
        '--mid-from', choices=['input', 'output'], default='input', help='whose quarter the branches of a cell have: '
        "its input's, as published, or its output's, as in the final network"
    )  # fmt: skip
    supernet.add_argument(
        '--memory-momentum',
        type=fraction,
        default=0.2,
        help='share of the old row in the class memories (default: 0.2)',
    )
    supernet.add_argument(
        '--temperature', type=positive_float, default=0.05, help='of the class memories (default: 0.05)'
    )
    supernet.add_argument(
        '--memory-init', choices=['centroids', 'zeros'], default='centroids',
        help='what the memories start from; zeros: as published'
    )  # fmt: skip


def _add_steps(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_argument_group('steps')
    steps.add_argument(
        '--opt', choices=['momentum', 'muon', 'adamw'], default='momentum', help="timm's optimizer of the weights: "
        'plain SGD, as published, or one that gets further in few steps (default: momentum)'
    )  # fmt: skip
    steps.add_argument('--lr', type=positive_float, default=0.025, help='of the weights (default: 0.025)')
    steps.add_argument('--momentum', type=fraction, default=0.9, help='of the weights (default: 0.9)')
    steps.add_argument('--weight-decay', type=float, default=5e-4, help='of the weights (default: 5e-4)')
    steps.add_argument('--arch-lr', type=positive_float, default=0.002, help='of the architecture, by Adam (0.002)')
    steps.add_argument('--arch-betas', type=fraction, nargs=2, default=[0.5, 0.999], help='of the architecture')
    steps.add_argument('--arch-weight-decay', type=float, default=1e-3, help='of the architecture (default: 1e-3)')
    steps.add_argument(
        '--arch-milestones', type=positive, nargs='*', default=[150, 225, 350], metavar='N',
        help='epochs at which its learning rate falls (multistep; default: 150 225 350)'
    )  # fmt: skip
    steps.add_argument(
        '--order', type=int, choices=[1, 2], default=1, help='2: the architecture looks one weight step ahead; slower'
    )
    steps.add_argument(
        '--objective', choices=['contrastive', 'latency'], default='contrastive', help='latency: the time that the '
        'interactions take on this device counts, too; it is measured at the start'
    )  # fmt: skip
    steps.add_argument(
        '--latency-weight', type=positive_float, default=1.0, metavar='WEIGHT', help='of the time, as a share of the '
        "slowest network's (default: 1)"
    )  # fmt: skip
    steps.add_argument('--amp', action='store_true', help='mixed precision')
    steps.add_argument('--amp-dtype', default='bfloat16', choices=['bfloat16', 'float16'], help='float16: CUDA only')
    steps.add_argument(
        '--amp-start', type=not_negative, default=0, metavar='EPOCH',
        help='how many epochs to search in float32 first (default: 0)'
    )  # fmt: skip
    steps.add_argument('--grad-checkpointing', action='store_true', help='less memory for more time')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Settings of a search, or of the one to resume under the flags given.

    Raises:
        InputError: the search to resume is not there, or its settings are wrong.
    """
    parser = create_parser()
    args = parser.parse_args(argv)
    if args.resume:
        source = Path(args.resume) / 'args.yaml'
        if not source.is_file():
            raise InputError(f'--resume {args.resume}: no search there ({source} is missing)')
        args = parse_with_recipe(parser, argv, load_recipe(str(source)), str(source))
        args.output = args.resume
    args.output = args.output or f'runs/search_{re.sub("[^a-zA-Z0-9_.-]+", "_", "_".join(args.dataset))}'
    return args


@command
def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['compare']:
        compare(*parse_comparison(argv[1:]))
        return
    genotype = search(parse_args(argv), shlex.join(['msinet-search', *argv]))
    print(' '.join(genotype))


if __name__ == '__main__':
    raise SystemExit(main())
