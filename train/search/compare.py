"""Is a searched genotype better than others? Trains all of them alike, with several seeds."""

import argparse
import csv
import io
import itertools
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import timm
import torch

from msinet_timm.commands import find_device, make_folder, not_negative
from msinet_timm.errors import InputError
from msinet_timm.files import replace_text
from msinet_timm.models.genotype import NUM_CELLS, UNIFORM, Genotype, find_genotype
from msinet_timm.models.interactions import INTERACTIONS
from msinet_train.cli import parse_args
from msinet_train.curves import create_figure, read_rows, save_figure
from msinet_train.engine.loop import train

from .latency import measure_milliseconds

__all__ = ['compare', 'parse_comparison', 'random_genotypes']


class Candidate(NamedTuple):
    """A genotype and how its trainings ended.

    Attributes:
        name: of the genotype.
        milliseconds: of the network for a batch of 8.
        mAP: of each seed, 0 to 1. Likewise `rank1`.
    """

    name: str
    milliseconds: float
    mAP: tuple[float, ...]
    rank1: tuple[float, ...]


def parse_comparison(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Settings of a comparison, and the flags for the trainings."""
    parser = argparse.ArgumentParser(
        prog='msinet-search compare',
        usage='%(prog)s [NAME|FILE ...] [flags]',
        allow_abbrev=False,
        description='Trains networks of several genotypes alike, and compares them. All other flags are those of '
        'msinet-train, such as --recipe, -ds, --epochs; what is finished already is not trained again. Genotypes come '
        'first: names, or files such as runs/search/genotype.json.',
    )
    parser.add_argument('--random', type=not_negative, default=3, metavar='N', help='random genotypes (default: 3)')
    parser.add_argument(
        '--uniform', action=argparse.BooleanOptionalAction, default=True, help=f'also {", ".join(UNIFORM)}'
    )
    parser.add_argument('--seeds', type=not_negative, nargs='+', default=[0, 1, 2], metavar='N', help='of trainings')
    parser.add_argument('--output', default='runs/compare', metavar='DIR', help='(default: runs/compare)')
    # by hand: argparse would take the value of a training's flag for a genotype
    genotypes = list(itertools.takewhile(lambda word: not word.startswith('-'), argv))
    args, flags = parser.parse_known_args(argv[len(genotypes) :])
    args.genotypes = genotypes
    for taken in ('--genotype', '--seed', '--resume'):
        if taken in flags:
            raise InputError(f'{taken}: the comparison sets it itself; see msinet-search compare --help')
    return args, flags


def random_genotypes(number: int, seed: int = 0) -> dict[str, Genotype]:
    """Different genotypes by name, drawn uniformly."""
    rng, found = random.Random(seed), {}
    while len(found) < number:
        genotype = Genotype(rng.choice(list(INTERACTIONS)) for _ in range(2 * NUM_CELLS))
        if genotype not in found.values():
            found[f'random_{len(found)}'] = genotype
    return found


def compare(args: argparse.Namespace, flags: Sequence[str]) -> list[Candidate]:
    """Trains, measures, prints a table, and writes `compare.csv` and `compare.png`.

    Args:
        args: of `parse_comparison`.
        flags: for `msinet-train`.

    Raises:
        InputError: a genotype or a setting that cannot be used.
    """
    genotypes = _genotypes(args)
    output = Path(args.output)
    candidates = []
    for name, genotype in genotypes.items():
        file = make_folder(output / name, '--output') / 'genotype.json'
        genotype.save(file)
        results = [_train(output / name / f'seed{seed}', file, seed, flags) for seed in args.seeds]
        candidates.append(Candidate(name, _milliseconds(genotype, flags), *zip(*results, strict=True)))
    _write(output / 'compare.csv', candidates, args.seeds)
    print(_table(candidates))
    _draw(candidates, output / 'compare.png')
    return candidates


def _genotypes(args: argparse.Namespace) -> dict[str, Genotype]:
    named = {}
    for spec in args.genotypes:
        path = Path(spec)
        name = spec if not path.suffix else path.parent.name if path.stem == 'genotype' else path.stem
        if name in named:
            raise InputError(f'two genotypes are called {name}: rename the file or folder of {spec}')
        named[name] = find_genotype(spec)
    named |= {name: find_genotype(name) for name in UNIFORM if args.uniform and name not in named}
    named |= random_genotypes(args.random)
    if len(named) < 2:
        raise InputError('a comparison needs two genotypes: name more, or leave out --no-uniform or --random 0')
    return named


def _train(output: Path, genotype: Path, seed: int, flags: Sequence[str]) -> tuple[float, float]:
    """mAP and Rank-1 after the last epoch of a training, which goes on where it was interrupted."""
    where = ['--resume', str(output)] if (output / 'last.pth.tar').exists() else ['--output', str(output)]
    own = ['--genotype', str(genotype), '--seed', str(seed)]
    settings = parse_args([*([] if where[0] == '--resume' else flags), *own, *where])
    summary = output / 'summary.csv'
    if not read_rows(summary) or int(read_rows(summary)[-1]['epoch']) + 1 < settings.epochs:
        train(settings)
    last = read_rows(summary)[-1]
    kept = 'eval_ema_' if last.get('eval_ema_mAP') else 'eval_'
    if not last.get(f'{kept}mAP'):
        raise InputError(f'{output}: nothing was measured: the data set has no query and gallery')
    return float(last[f'{kept}mAP']), float(last[f'{kept}rank1'])


def _milliseconds(genotype: Genotype, flags: Sequence[str], batch_size: int = 8) -> float:
    settings = parse_args(list(flags))
    device = find_device(settings.device)
    model = timm.create_model(settings.model, genotype=genotype, num_classes=0).eval()
    model.to(device, memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, settings.height, settings.width, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return measure_milliseconds(lambda: model(images), device)


def _metrics(candidate: Candidate) -> dict[str, str]:
    metrics = {}
    for name, values in (('mAP', candidate.mAP), ('Rank-1', candidate.rank1)):
        spread = f' ±{100 * statistics.stdev(values):.1f}' if len(values) > 1 else ''
        metrics[name] = f'{100 * statistics.mean(values):.1f}{spread}'
    return metrics | {'ms': f'{candidate.milliseconds:.1f}'}


def _table(candidates: Sequence[Candidate]) -> str:
    """Candidates from best to worst: means over the seeds with their standard deviations, and time of a batch of 8."""
    ordered = sorted(candidates, key=lambda c: -statistics.mean(c.mAP))
    lines = [['', 'mAP', 'Rank-1', 'ms'], *([c.name, *_metrics(c).values()] for c in ordered)]
    widths = [max(len(line[k]) for line in lines) for k in range(4)]
    return '\n'.join(
        '  '.join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _write(path: Path, candidates: Sequence[Candidate], seeds: Sequence[int]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['genotype', 'seed', 'mAP', 'rank1', 'milliseconds'])
    for c in candidates:
        writer.writerows([c.name, *row, c.milliseconds] for row in zip(seeds, c.mAP, c.rank1, strict=True))
    replace_text(path, text.getvalue())


def _draw(candidates: Sequence[Candidate], image: Path) -> None:
    """mAP over the time of a batch, where matplotlib is installed."""
    try:
        figure = create_figure((8, 5))
    except ImportError as e:
        print(f'no compare.png: {e}')
        return
    axes = figure.subplots()
    for c in candidates:
        mean = 100 * statistics.mean(c.mAP)
        spread = 100 * statistics.stdev(c.mAP) if len(c.mAP) > 1 else 0
        axes.errorbar(c.milliseconds, mean, spread, fmt='o', capsize=3)
        axes.annotate(c.name, (c.milliseconds, mean), xytext=(5, 4), textcoords='offset points', fontsize=9)
    axes.margins(x=0.15)  # for the names
    axes.set(xlabel='milliseconds for a batch of 8', ylabel='mAP in %')
    axes.grid(alpha=0.3)
    save_figure(figure, image)
