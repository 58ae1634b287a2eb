"""The command `msinet-search`: finds a genotype for a data set, and compares it with others."""

import argparse
import itertools
import shlex
import sys

import msinet_timm  # noqa: F401 - registers the models with timm
from msinet_timm.commands import command, not_negative, whole
from msinet_timm.errors import InputError
from msinet_timm.models.genotype import UNIFORM
from msinet_timm.processes import is_primary
from msinet_timm.settings import add_settings, flag_of, flags_named
from msinet_train.cli import create_parser as create_training_parser
from msinet_train.cli import from_flags
from msinet_train.cli import parse_args as parse_training
from msinet_train.settings import TrainSettings

from .compare import compare, table, verdicts
from .engine import search
from .settings import SearchSettings

__all__ = ['create_parser', 'main', 'parse_args', 'parse_comparison']


def create_parser() -> argparse.ArgumentParser:
    """The arguments of a search."""
    parser = argparse.ArgumentParser(
        prog='msinet-search',
        description='Finds the interactions of an MSINet for a data set, by twins contrastive search. The defaults are '
        'the published search. "msinet-search compare --help" tells how to compare what it finds. Several processes '
        'are started by torchrun -m msinet_train.search.cli.',
    )
    add_settings(parser, SearchSettings)
    return parser


def parse_args(argv: list[str] | None = None) -> SearchSettings:
    """Settings of a search, or of the one to resume under the flags given.

    Raises:
        InputError: the search to resume is not there, or its settings are wrong.
    """
    return from_flags(SearchSettings, vars(create_parser().parse_args(argv)))


def parse_comparison(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Arguments of `compare`, and the flags for the trainings."""
    parser = argparse.ArgumentParser(
        prog='msinet-search compare',
        usage='%(prog)s [NAME|FILE ...] [flags]',
        allow_abbrev=False,
        description='Trains networks of several genotypes alike, and compares them. All other flags are those of '
        'msinet-train, such as --recipe, -ds, --epochs; what is finished already is not trained again. Genotypes come '
        'first: names, or files such as runs/search/genotype.json.',
    )
    parser.add_argument('--random', type=whole(0, 1000), default=3, metavar='N', help='random genotypes (default: 3)')
    parser.add_argument(
        '--uniform', action=argparse.BooleanOptionalAction, default=True, help=f'also {", ".join(UNIFORM)}'
    )
    parser.add_argument('--seeds', type=not_negative, nargs='+', default=[0, 1, 2], metavar='N', help='of trainings')
    parser.add_argument('--output', default='runs/compare', metavar='DIR', help='(default: runs/compare)')
    # by hand: argparse would take the value of a training's flag for a genotype
    genotypes = list(itertools.takewhile(lambda word: not word.startswith('-'), argv))
    args, flags = parser.parse_known_args(argv[len(genotypes) :])
    args.genotypes = genotypes
    given = vars(create_training_parser().parse_args(flags))  # however they are spelled: --seed=1, --res DIR
    for taken in ('task', 'genotype', 'seed', 'resume', 'output', 'evaluate'):
        if given.get(taken, False) is not False:
            raise InputError(f'{flag_of(taken)}: the comparison sets it itself; see msinet-search compare --help')
    return args, flags


@command
@flags_named(SearchSettings, TrainSettings)
def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['compare']:
        args, flags = parse_comparison(argv[1:])
        candidates = compare(settings=parse_training(flags), **vars(args))
        text = '\n\n'.join(filter(None, [table(candidates), verdicts(candidates)]))
    else:
        text = ' '.join(search(parse_args(argv), shlex.join(['msinet-search', *argv])))
    if is_primary():
        print(text)


if __name__ == '__main__':
    raise SystemExit(main())
