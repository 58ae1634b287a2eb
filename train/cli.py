"""The command `msinet-train`: trains a ReID model on a data set."""

import argparse
from pathlib import Path

import msinet_timm  # noqa: F401 - registers the models with timm
from msinet_timm.commands import InputError, command, fraction, not_negative, positive, positive_float
from msinet_timm.datasets import add_data_option, list_datasets
from msinet_timm.datasets.cache import CACHE
from msinet_timm.datasets.verify import SKIP_BROKEN

from .engine import train
from .recipe import list_recipes, load_recipe, parse_with_recipe

__all__ = ['create_parser', 'main', 'parse_args']

DEFAULT_RECIPE = 'scratch'


def create_parser() -> argparse.ArgumentParser:
    """The command's arguments. Those without a default here have one in each recipe."""
    parser = argparse.ArgumentParser(
        prog='msinet-train',
        description='Trains a ReID model. Settings come from a recipe; each flag given beats it.',
        argument_default=argparse.SUPPRESS,
    )
    run = parser.add_argument_group('run')
    run.add_argument(
        '--recipe', default=None, metavar='NAME|FILE', help=f'{", ".join(list_recipes())} (default: {DEFAULT_RECIPE}), '
        'a YAML file, or the args.yaml of another run'
    )  # fmt: skip
    run.add_argument('--output', default=None, metavar='DIR', help='run folder (default: runs/DATASET_MODEL)')
    run.add_argument('--resume', default=None, metavar='DIR', help='continue the run in this folder, as it was set')
    run.add_argument('--seed', type=not_negative, default=0, metavar='N', help='of weights, batches and augmentation')
    run.add_argument('--device', default=None, help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    run.add_argument('--workers', type=not_negative, default=2, metavar='N', help='processes that read images')
    run.add_argument(
        '--eval-interval', type=not_negative, metavar='N', help='epochs between evaluations; 0: at the end'
    )

    data = parser.add_argument_group('data')
    data.add_argument('-ds', '--dataset', help=f'one of: {", ".join(list_datasets())}')
    data.add_argument('--data-dir', default=None, metavar='DIR', help='folder of the data set')
    add_data_option(data)
    data.add_argument('--skip-broken', action='store_true', default=False, help=SKIP_BROKEN)
    data.add_argument('--cache', default='none', metavar='none|memory|DIR', help=CACHE)
    data.add_argument(
        '--draft',
        action='store_true',
        default=False,
        help='decode training JPEGs of twice the input size and more at a lower resolution: faster, not quite the same',
    )
    data.add_argument('--height', type=positive, metavar='PIXELS', help='of the input')
    data.add_argument('--width', type=positive, metavar='PIXELS', help='of the input')
    data.add_argument(
        '--batch-size', type=positive, metavar='N', help='images at once: identities times --num-instance'
    )
    data.add_argument('--num-instance', type=positive, metavar='K', help='images of each identity in a batch')
    data.add_argument('--padding', type=not_negative, metavar='PIXELS', help='border from which a random crop is taken')
    data.add_argument(
        '--color-jitter', type=fraction, nargs='*', metavar='RANGE', help='of brightness, contrast, saturation, hue'
    )
    data.add_argument('--erasing', type=fraction, metavar='P', help='probability of random erasing')

    model = parser.add_argument_group('model and losses')
    model.add_argument('--model', default='msinet_x1_0', help='any of timm.list_models("msinet*")')
    model.add_argument('--genotype', default=None, metavar='NAME|FILE', help="interactions (default: the model's own)")
    model.add_argument('--margin', type=positive_float, help='of the triplet loss')
    model.add_argument('--smoothing', type=fraction, help='of the targets')

    schedule = parser.add_argument_group('optimizer and schedule')
    schedule.add_argument('--opt', help="timm optimizer; 'momentum' is plain SGD, 'sgd' is Nesterov's")
    schedule.add_argument('--lr', type=positive_float, help='learning rate')
    schedule.add_argument('--momentum', type=fraction, help='of the optimizer')
    schedule.add_argument('--weight-decay', type=float, help='on every parameter')
    schedule.add_argument('--sched', choices=['multistep', 'cosine'], help='how the learning rate falls')
    schedule.add_argument('--epochs', type=positive, metavar='N')
    schedule.add_argument(
        '--milestones', type=positive, nargs='*', metavar='N', help='epochs at which it falls (multistep)'
    )
    schedule.add_argument('--decay-rate', type=positive_float, help='by which factor it falls (multistep)')
    schedule.add_argument('--warmup-step', type=not_negative, metavar='N', help='epochs of linear warm-up')
    schedule.add_argument('--warmup-factor', type=fraction, help='share of the learning rate at the start of warm-up')
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Settings of a run: the recipe's (or those of the run to resume), under the flags given.

    Raises:
        InputError: an unknown recipe, a wrong setting in it, or flags that contradict each other.
    """
    parser = create_parser()
    given = parser.parse_args(argv)
    if given.resume and given.recipe:
        raise InputError('--resume continues with the settings of its run: leave out --recipe')
    if given.resume:
        source = str(Path(given.resume) / 'args.yaml')
        if not Path(source).is_file():
            raise InputError(f'--resume {given.resume}: no run there ({source} is missing)')
    else:
        source = given.recipe or DEFAULT_RECIPE
    settings = load_recipe(source)
    args = parse_with_recipe(parser, argv, settings, source)
    missing = [action.dest for action in parser._actions if action.dest != 'help' and not hasattr(args, action.dest)]
    if missing:
        raise InputError(f'{source}: lacks {", ".join(missing)}; add them, or give them as flags')
    if args.resume:
        args.output = args.resume
    args.output = args.output or f'runs/{args.dataset}_{args.model}'
    return args


@command
def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    train(parse_args(argv))
