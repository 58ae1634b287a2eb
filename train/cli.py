"""The command `msinet-train`: trains a ReID model on a data set."""

import argparse
import re
from pathlib import Path

import msinet_timm  # noqa: F401 - registers the models with timm
from msinet_eval.report.text import table
from msinet_timm.commands import command, fraction, not_negative, positive, positive_float
from msinet_timm.datasets import add_data_option, list_datasets
from msinet_timm.datasets.cache import CACHE
from msinet_timm.datasets.tools.verify import SKIP_BROKEN
from msinet_timm.errors import InputError
from msinet_timm.processes import is_primary
from msinet_train.engine.loop import evaluate_only, train

from .recipe import list_recipes, load_recipe, parse_with_recipe

__all__ = ['add_data', 'add_schedule', 'create_parser', 'main', 'parse_args']

DEFAULT_RECIPE = 'scratch'


def create_parser() -> argparse.ArgumentParser:
    """The command's arguments. Those without a default here have one in each recipe."""
    parser = argparse.ArgumentParser(
        prog='msinet-train',
        description='Trains a ReID model. Settings come from a recipe; each flag given beats it. '
        'Several processes, on one machine or many, are started by torchrun -m msinet_train.cli.',
        argument_default=argparse.SUPPRESS,
    )
    for add in (_add_run, add_data, _add_model, _add_losses, _add_optimizer, add_schedule, _add_speed):
        add(parser)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group('run')
    run.add_argument(
        '--recipe', default=None, metavar='NAME|FILE', help=f'{", ".join(list_recipes())} (default: {DEFAULT_RECIPE}), '
        'a YAML file, or the args.yaml of another run'
    )  # fmt: skip
    run.add_argument('--output', default=None, metavar='DIR', help='run folder (default: runs/DATASET_MODEL)')
    run.add_argument('--resume', default=None, metavar='DIR', help='continue the run in this folder, as it was set')
    run.add_argument(
        '--evaluate', action='store_true', default=False, help='only measure the model, or the run to resume'
    )
    run.add_argument('--seed', type=not_negative, default=0, metavar='N', help='of weights, batches and augmentation')
    run.add_argument('--device', default=None, help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    run.add_argument('--workers', type=not_negative, default=2, metavar='N', help='processes that read images')
    run.add_argument(
        '--eval-interval', type=not_negative, metavar='N', help='epochs between evaluations; 0: at the end'
    )
    run.add_argument(
        '--checkpoint-interval', type=not_negative, default=0, metavar='N',
        help='keep the checkpoint of every N-th epoch, as milestone-N; 0: only the newest and the best'
    )  # fmt: skip
    run.add_argument('--log-tensorboard', action='store_true', default=False, help='write metrics for TensorBoard')
    run.add_argument('--log-wandb', action='store_true', default=False, help='send metrics to Weights & Biases')
    run.add_argument('--wandb-project', default='msinet-timm', metavar='NAME', help='project there')


def add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group('data')
    data.add_argument(
        '-ds',
        '--dataset',
        nargs='+',
        metavar='NAME',
        help=f'what to train on, one or more of: {", ".join(list_datasets())}',
    )
    data.add_argument(
        '-dt', '--target', nargs='*', default=[], metavar='NAME', help='more data sets to be measured on (cross-domain)'
    )
    data.add_argument(
        '--data-dir', nargs='+', default=None, metavar='DIR', help='folder of all data sets, or of each of -ds and -dt'
    )
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
        '--batch-size',
        type=positive,
        metavar='N',
        help='images at once in each process: identities times --num-instance',
    )
    data.add_argument('--num-instance', type=positive, metavar='K', help='images of each identity in a batch')
    data.add_argument(
        '--all-images', action='store_true', default=False,
        help='epochs in which every image has its turn; the published ones leave some out'
    )  # fmt: skip
    data.add_argument('--padding', type=not_negative, metavar='PIXELS', help='border from which a random crop is taken')
    data.add_argument(
        '--color-jitter', type=fraction, nargs='*', metavar='RANGE', help='of brightness, contrast, saturation, hue'
    )
    data.add_argument('--erasing', type=fraction, metavar='P', help='probability of random erasing')


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group('model')
    model.add_argument(
        '--model', default='msinet_x1_0', metavar='NAME|DIR', help='any timm model, hf-hub:..., or the folder of a '
        'model or run (default: msinet_x1_0)'
    )  # fmt: skip
    model.add_argument('--genotype', default=None, metavar='NAME|FILE', help="interactions (default: the model's own)")
    model.add_argument(
        '--pretrained', action=argparse.BooleanOptionalAction, default=None,
        help='start from the weights that belong to the name (default: for folders and hf-hub: only)'
    )  # fmt: skip
    model.add_argument('--checkpoint', default=None, metavar='FILE', help='start from these weights')
    model.add_argument(
        '--freeze', type=not_negative, default=0, metavar='N', help='keep the first N stages as they are'
    )


def _add_losses(parser: argparse.ArgumentParser) -> None:
    losses = parser.add_argument_group('losses')
    losses.add_argument('--metric-loss', default='triplet', choices=['triplet', 'circle'], help='of features (triplet)')
    losses.add_argument('--margin', type=positive_float, help='of the triplet or circle loss')
    losses.add_argument('--soft-margin', action='store_true', default=False, help='a triplet loss that never ends')
    losses.add_argument(
        '--normalize',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='compare features at length 1 (triplet)',
    )
    losses.add_argument(
        '--classifier-loss', default='softmax', choices=['softmax', 'arcface', 'cosface'], help='of logits (softmax)'
    )
    losses.add_argument('--smoothing', type=fraction, help='of the targets')
    losses.add_argument(
        '--sam-mode', default=None, choices=['pos', 'neg', 'pos_neg'], help='spatial alignment (default: none)'
    )
    losses.add_argument('--sam-ratio', type=positive_float, default=2.0, metavar='WEIGHT', help='of spatial alignment')


def _add_optimizer(parser: argparse.ArgumentParser) -> None:
    optimizer = parser.add_argument_group('optimizer')
    optimizer.add_argument('--opt', help="timm optimizer; 'momentum' is plain SGD, 'sgd' is Nesterov's")
    optimizer.add_argument('--lr', type=positive_float, help='learning rate')
    optimizer.add_argument('--momentum', type=fraction, help='of the optimizer')
    optimizer.add_argument('--opt-eps', type=positive_float, default=None, help="of the optimizer (default: timm's)")
    optimizer.add_argument('--opt-betas', type=fraction, nargs='+', default=None, help="of the optimizer (timm's)")
    optimizer.add_argument('--weight-decay', type=float, help='on every parameter')
    optimizer.add_argument(
        '--layer-decay',
        type=fraction,
        default=None,
        help='factor of the learning rate from each layer to the one before',
    )
    optimizer.add_argument('--clip-grad', type=positive_float, default=None, metavar='LIMIT', help='of gradients')
    optimizer.add_argument(
        '--clip-mode', default='norm', choices=['norm', 'value', 'agc'], help='what --clip-grad limits (default: norm)'
    )
    optimizer.add_argument(
        '--grad-accum-steps', type=positive, default=1, metavar='N', help='batches for each step of the optimizer'
    )
    optimizer.add_argument(
        '--model-ema', action='store_true', default=False, help='average the weights, and keep those'
    )
    optimizer.add_argument('--model-ema-decay', type=fraction, default=0.9998, help='how slowly (default: 0.9998)')
    optimizer.add_argument('--model-ema-warmup', action='store_true', default=False, help='average faster at first')


def add_schedule(parser: argparse.ArgumentParser) -> None:
    schedule = parser.add_argument_group('schedule')
    schedule.add_argument(
        '--sched', choices=['multistep', 'cosine', 'poly', 'constant'], help='how the learning rate falls'
    )
    schedule.add_argument('--epochs', type=positive, metavar='N')
    schedule.add_argument(
        '--milestones', type=positive, nargs='*', metavar='N', help='epochs at which it falls (multistep)'
    )
    schedule.add_argument(
        '--decay-rate', type=positive_float, help='by which factor it falls (multistep); power (poly)'
    )
    schedule.add_argument('--min-lr', type=float, default=0.0, help='where it ends (cosine, poly; default: 0)')
    schedule.add_argument('--warmup-step', type=not_negative, metavar='N', help='epochs of linear warm-up')
    schedule.add_argument('--warmup-factor', type=fraction, help='share of the learning rate at the start of warm-up')


def _add_speed(parser: argparse.ArgumentParser) -> None:
    speed = parser.add_argument_group('speed, memory and processes')
    speed.add_argument('--amp', action='store_true', default=False, help='mixed precision')
    speed.add_argument(
        '--amp-dtype', default='bfloat16', choices=['bfloat16', 'float16'], help='its lower one; float16 on CUDA only'
    )
    speed.add_argument(
        '--amp-start', type=not_negative, default=0, metavar='EPOCH',
        help='how many epochs to train in float32 first (default: 0)'
    )  # fmt: skip
    speed.add_argument(
        '--channels-last', action=argparse.BooleanOptionalAction, default=True, help='the faster layout in memory'
    )
    speed.add_argument(
        '--torchcompile', nargs='?', const='inductor', default=None, metavar='BACKEND', help='compile the model'
    )
    speed.add_argument('--grad-checkpointing', action='store_true', default=False, help='less memory for more time')
    speed.add_argument('--sync-bn', action='store_true', default=False, help='batch norms over all processes')
    speed.add_argument(
        '--gather-features',
        action='store_true',
        default=False,
        help='look for positives and negatives in all processes',
    )


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
    args.output = args.output or f'runs/{"_".join(args.dataset)}_{re.sub("[^a-zA-Z0-9_.-]+", "_", args.model)}'
    return args


@command
def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    args = parse_args(argv)
    if args.evaluate:
        measured = evaluate_only(args)
        if is_primary():
            print(table([(name, e.ranking) for name, e in measured.evaluations.items()]))
    else:
        train(args)


if __name__ == '__main__':
    raise SystemExit(main())
