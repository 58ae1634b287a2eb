"""The command `msinet-eval`: measures models on data sets; and the commands that are called by its first word."""

import argparse
import importlib
import sys

from msinet_eval.commands.measure import run
from msinet_eval.features.forward import PARTS
from msinet_timm.commands import command, fraction, not_negative, positive
from msinet_timm.datasets import add_data_option, list_datasets
from msinet_timm.datasets.cache import CACHE
from msinet_timm.datasets.tools.verify import SKIP_BROKEN
from msinet_timm.forms import AMP, amp_name

__all__ = ['main']

#: First words that call another command: the module with its `add_arguments` and `run`, and what it does.
COMMANDS = {
    'compare': ('compare', 'whether one model is better than another, and on which queries'),
    'pair': ('pair', 'whether two images show the same one'),
    'search': ('search', 'the nearest images of a gallery of any size'),
}
_EPILOG = 'other commands: ' + '; '.join(f'msinet-eval {word}: {about}' for word, (_, about) in COMMANDS.items())


def create_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog='msinet-eval',
        description='Measures models on ReID data sets: mAP (mean over matches of the precision at their ranks, that '
        'is, rectangular AP, without interpolation), CMC, mINP.',
        epilog=_EPILOG,
    )
    parser.add_argument(
        'models',
        nargs='*',
        metavar='MODEL',
        help='name that timm knows, hf-hub:OWNER/NAME, a run or model folder, color_histogram[_stripes], '
        'or a checkpoint file with --model; several are measured one after another',
    )
    _add_data(parser.add_argument_group('data'))
    _add_model(parser.add_argument_group('model'))
    _add_test_time(parser.add_argument_group('ranking'))
    _add_outputs(parser.add_argument_group('results'))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '-ds',
        '--dataset',
        nargs='+',
        metavar='DATASET',
        help=f'one or more of: {", ".join(list_datasets())}',
    )
    group.add_argument('--data-dir', nargs='+', metavar='DIR', help='folder of all data sets, or one for each')
    add_data_option(group)
    group.add_argument(
        '--protocol',
        nargs='+',
        metavar='RULE',
        help="measure by these rules instead of the data set's: standard, or some of clothes-changing, all-cameras "
        "(images of a query's own camera count) and draws=N (one gallery image of each identity, drawn N times)",
    )
    group.add_argument('--skip-broken', action='store_true', help=SKIP_BROKEN)
    group.add_argument('--cache', default='none', metavar='none|memory|DIR', help=CACHE)
    group.add_argument(
        '--embeddings',
        nargs='+',
        metavar='FILE',
        help='measure embeddings instead of a model: of queries and gallery, .safetensors or .npy '
        '(of the gallery alone with --protocol draws=N)',
    )
    group.add_argument(
        '--labels',
        metavar='CSV',
        help='who the embeddings are of: columns part (query, gallery), identity, and perhaps camera, clothes, '
        'tracklet, domain, path, in the order of the embeddings; not needed for files that --features wrote',
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--model', metavar='NAME', help='the network of a checkpoint file')
    group.add_argument('--height', type=positive, metavar='PIXELS', help="input height (default: the model's own)")
    group.add_argument('--width', type=positive, metavar='PIXELS', help="input width (default: the model's own)")
    group.add_argument('--flip', action='store_true', help='mean of the embeddings of an image and its mirror image')
    group.add_argument('--part', default='all', choices=PARTS, help='part of the embedding (default: all)')
    group.add_argument('--neck', action='store_true', help='take the features behind the necks')
    group.add_argument('--amp', action='store_true', help='mixed precision; embeddings stay float32')
    group.add_argument(
        '--amp-dtype', type=amp_name, default='bf16', choices=AMP, help='its lower one (default: %(default)s)'
    )
    group.add_argument('--batch-size', type=positive, default=64, metavar='N', help='images at once (default: 64)')
    group.add_argument(
        '--workers', type=not_negative, default=2, metavar='N', help='processes that read images (default: 2)'
    )
    group.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    group.add_argument(
        '--features',
        metavar='DIR',
        help='keep query.safetensors and gallery.safetensors there: an interrupted extraction goes on, a finished one '
        'is not repeated; under torchrun all processes share it',
    )


def _add_test_time(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--camera-mean', action='store_true', help="take each camera's mean from its embeddings")
    group.add_argument('--multi-shot', action='store_true', help='rank tracklets, each by the mean of its images')
    group.add_argument(
        '--query-expansion', type=positive, metavar='K', help='mean of each query and its K nearest gallery images'
    )
    group.add_argument(
        '--database-augmentation',
        type=positive,
        metavar='K',
        help='mean of each gallery image and the K nearest',
    )
    group.add_argument('--rerank', action='store_true', help='re-rank by k-reciprocal neighbours (CVPR 2017)')
    group.add_argument('--k1', type=positive, metavar='N', help='neighbours of an image (default: 20)')
    group.add_argument('--k2', type=positive, metavar='N', help='neighbours to average over (default: 6)')
    group.add_argument(
        '--lambda-value', type=fraction, metavar='SHARE', help='share of the original distance (default: 0.3)'
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--ranks', type=positive, nargs='+', default=[1, 5, 10], metavar='K', help='Rank-k to show (default: 1 5 10)'
    )
    group.add_argument(
        '--intervals',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='show bootstrap 95 %% intervals over query identities (default: on)',
    )
    group.add_argument(
        '--thresholds',
        action='store_true',
        help='show how well distances tell same from different: AUC, EER, TPR at FPR',
    )
    group.add_argument(
        '--breakdown', action='store_true', help='show mAP for each pair of cameras and of domains, as far as known'
    )
    group.add_argument(
        '--calibrate',
        action='store_true',
        help="keep the distance at a false positive rate of 0.1 %% in the model's folder, for msinet-eval pair",
    )
    group.add_argument('--json', metavar='FILE', help='write the metrics and how they came about')
    group.add_argument('--summary', metavar='CSV', help='append a line of metrics')
    group.add_argument('--html', metavar='FILE', help='write a report with curves, ranked lists and what was matched')
    group.add_argument('--png', action='store_true', help='write the curves of --html as PNG files beside it, too')
    group.add_argument('--ranked-lists', metavar='FILE', help='write a PNG of queries and what was found for them')


@command
def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        name, about = COMMANDS[argv[0]]
        module = importlib.import_module(f'.commands.{name}', __package__)
        parser = argparse.ArgumentParser(prog=f'msinet-eval {argv[0]}', description=f'Tells {about}.')
        module.add_arguments(parser)
        return module.run(parser.parse_args(argv[1:]))
    parser = create_parser()
    args = parser.parse_args(argv)
    if not args.embeddings:
        missing = [name for name, value in (('MODEL', args.models), ('-ds/--dataset', args.dataset)) if not value]
        if missing:
            parser.error(f'the following arguments are required: {", ".join(missing)} (or --embeddings)')
    return run(args)
