"""How well searches rank genotypes whose own trainings are known: `python -m msinet_train.benchmark.genotypes`."""

import argparse
import csv
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msinet_eval.features.types import Features
from msinet_eval.protocol import rank
from msinet_timm.charts import create_figure, save_figure
from msinet_timm.commands import command, find_device, format_table, not_negative, progress
from msinet_timm.errors import InputError, MissingPackageError, one_line
from msinet_timm.files import replace_rows
from msinet_timm.models.genotype import Genotype
from msinet_timm.models.interactions import INTERACTIONS
from msinet_timm.processes import Processes
from msinet_timm.settings import flags_named
from msinet_train.engine.loop import resume
from msinet_train.losses.class_memory import ClassMemory
from msinet_train.run.folder import holds_run
from msinet_train.search.engine import prepare
from msinet_train.search.paths import plain
from msinet_train.search.settings import SearchSettings

__all__ = ['main', 'rate', 'read_table', 'spread', 'tau']

#: By what a search may rank: how much its mixture wants a genotype; how well, within its supernet, the genotype ranks
#: people held out; and how near it embeds them to the others of themselves, see `rate`.
RATINGS = ('mixture', 'mAP', 'loss')


def read_table(path: Path) -> dict[Genotype, dict[str, float]]:
    """mAP of each genotype by the seed of the training, from a `compare.csv`.

    Raises:
        InputError: no such table.
    """
    table: dict[Genotype, dict[str, float]] = {}
    try:
        with open(path, encoding='utf-8', newline='') as file:
            for row in csv.DictReader(file):
                mAP = float(row['mAP'])
                if not 0 <= mAP <= 1:
                    raise ValueError(f'mAP {row["mAP"]} is not between 0 and 1')
                table.setdefault(Genotype(row['interactions'].split()), {})[row['seed']] = mAP
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as e:
        raise InputError(f'{path}: no table of genotypes, as msinet-search compare writes it ({one_line(e)})') from e
    if len(table) < 3:
        raise InputError(f'{path}: {len(table)} genotypes, of three at least: there is nothing to rank')
    return table


def spread(table: Mapping[Genotype, Mapping[str, float]]) -> tuple[float, float]:
    """Standard deviations of the trainings of one genotype, and of the means of the genotypes without that noise.

    What all trainings with one seed have in common, which begin alike and see the same batches, is neither.

    Args:
        table: as `read_table` gives it.

    Raises:
        InputError: no two genotypes have the same two seeds.
    """
    seeds = sorted({seed for found in table.values() for seed in found})
    runs = [np.array([[seed == own for seed in seeds[1:]] + [mAP] for own, mAP in f.items()]) for f in table.values()]
    means = np.stack([run.mean(0) for run in runs])
    within = np.concatenate([run - mean for run, mean in zip(runs, means, strict=True)])
    of_seeds, _, unknowns, _ = np.linalg.lstsq(within[:, :-1], within[:, -1])
    free = len(within) - len(runs) - unknowns
    if free < 1:
        raise InputError('no two genotypes have the same two seeds: train these, or how much is chance stays unknown')
    noise = ((within[:, -1] - within[:, :-1] @ of_seeds) ** 2).sum() / free
    own = (means[:, -1] - means[:, :-1] @ of_seeds).var(ddof=1) - noise * np.mean([1 / len(run) for run in runs])
    return float(noise**0.5), float(max(0.0, own) ** 0.5)


def tau(ratings: Sequence[float], known: Sequence[float]) -> tuple[float, float, float]:
    """Kendall's tau-b between two ratings of the same genotypes, and its 95 % interval by the bootstrap.

    Raises:
        MissingPackageError: scipy, an optional package, is missing.
    """
    try:
        from scipy.stats import bootstrap, kendalltau
    except ImportError as e:
        raise MissingPackageError('rank correlations need scipy: pip install "msinet-timm[unlabelled]"') from e

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        return kendalltau(a, b).statistic

    pair = (np.asarray(ratings), np.asarray(known))
    options = dict(paired=True, vectorized=False, n_resamples=2000, method='percentile')
    with warnings.catch_warnings(action='ignore'):  # of resamples of few genotypes that have no order
        interval = bootstrap(pair, statistic, random_state=np.random.default_rng(0), **options).confidence_interval
    return float(statistic(*pair)), float(interval.low), float(interval.high)


def rate(run: str | Path, genotypes: Sequence[Genotype], **changes: Any) -> list[dict[str, float]]:
    """What a search says of genotypes, more being better: see `RATINGS`.

    The loss, with its sign changed, is the contrastive one of the search: of images of people held out, against the
    centroids of other images of them.

    Args:
        run: folder of the search.
        genotypes: to rate.
        **changes: settings in place of the search's, such as `data_dir`.

    Raises:
        InputError: no search there, or its data are not.
    """
    settings = SearchSettings.from_run(run, **changes)
    if not holds_run(Path(run)):
        raise InputError(f'{run}: this search has not ended an epoch')
    search = prepare(settings, Processes(find_device(settings.device)))
    resume(search, None)
    judge = search.judge()
    mixture = search.supernet.mixture().detach().log().cpu()
    learnt = settings.method == 'tcm'
    found = []
    for genotype in progress(genotypes, desc=str(run), unit='genotype'):
        # the weights of paths know no exchange at second places
        own = genotype if learnt else plain(genotype)
        columns = torch.tensor([list(INTERACTIONS).index(name) for name in genotype])
        wanted = mixture.gather(1, columns[:, None]).sum().item() if learnt else float('nan')
        with search.tuned(own):
            features = judge.embed(own)
        mAP, loss = (0.0, float('inf')) if features is None else (rank(*features).mAP, _loss(features, settings))
        found.append(dict(zip(RATINGS, (wanted, mAP, -loss), strict=True)))
    return found


def _loss(features: tuple[Features, Features], settings: SearchSettings) -> float:
    query, gallery = features
    number = {identity: k for k, identity in enumerate(dict.fromkeys(gallery.identities))}
    asking, found = (torch.tensor([number.get(i, -1) for i in part.identities]) for part in features)
    memory = ClassMemory(len(number), gallery.embeddings.shape[1], temperature=settings.temperature).eval()
    memory.initialize(gallery.embeddings, found)
    known = asking >= 0
    return memory(query.embeddings[known], asking[known]).item()


def _correlations(runs: Mapping[str, Sequence[Mapping[str, float]]], known: Sequence[float]) -> str:
    rows = [('search', *(f"{name}: Kendall's tau (95 %)" for name in RATINGS))]
    for run, ratings in runs.items():
        row = [run]
        for name in RATINGS:
            values = [rating[name] for rating in ratings]
            told = ''
            if values[0] == values[0]:  # paths has no mixture
                told = '{:.2f} ({:.2f} to {:.2f})'.format(*tau(values, known))
            row.append(told)
        rows.append(tuple(row))
    return format_table(rows, '<>>>')


def _draw(runs: Mapping[str, Sequence[Mapping[str, float]]], known: Sequence[float], image: Path) -> None:
    """What each search says of genotypes over what these came to, where matplotlib is installed."""
    try:
        figure = create_figure((4 * len(runs), 4))
    except MissingPackageError as e:
        print(f'no {image}: {e}')
        return
    for axes, (run, ratings) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
        axes.scatter([100 * mAP for mAP in known], [100 * rating['mAP'] for rating in ratings], s=14)
        axes.set_title(run, fontsize=9)
        axes.set(xlabel='mAP of its own trainings in %', ylabel='mAP by the search in %')
        axes.grid(alpha=0.3)
    save_figure(figure, image)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m msinet_train.benchmark.genotypes', description=__doc__)
    parser.add_argument('table', metavar='FILE', type=Path, help='a compare.csv, such as docs/search-benchmark.csv')
    parser.add_argument('--searches', nargs='*', default=[], metavar='DIR', help='folders of searches')
    parser.add_argument('--data-dir', nargs='+', metavar='DIR', help="of the searches' data, if they have moved")
    parser.add_argument(
        '--tune-steps', type=not_negative, metavar='N', help="in place of the searches' own, see msinet-search"
    )
    parser.add_argument('--output', type=Path, metavar='FILE', help='write all ratings to a CSV file, and draw them')
    return parser.parse_args(argv)


@command
@flags_named(SearchSettings)
def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark."""
    args = _parse(argv)
    table = read_table(args.table)
    genotypes, known = list(table), [statistics.mean(found.values()) for found in table.values()]
    noise, own = (100 * x for x in spread(table))
    print(f'{len(table)} genotypes: mAP differs by {noise:.2f} between seeds of one, by {own:.2f} between genotypes')
    changes = {name: getattr(args, name) for name in ('data_dir', 'tune_steps') if getattr(args, name) is not None}
    runs = {str(run): rate(run, genotypes, **changes) for run in args.searches}
    if args.output:
        rows = [
            [run, ' '.join(genotype), mAP, *rating.values()]
            for run, ratings in runs.items()
            for genotype, mAP, rating in zip(genotypes, known, ratings, strict=True)
        ]
        replace_rows(args.output, [['search', 'interactions', 'own_mAP', *RATINGS], *rows])
        if runs:
            _draw(runs, known, args.output.with_suffix('.png'))
    if runs:
        print(_correlations(runs, known))


if __name__ == '__main__':
    raise SystemExit(main())
