"""Is a searched genotype better than others? Trains all of them alike, with several seeds."""

import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch

from msinet_timm.charts import create_figure, save_figure
from msinet_timm.commands import find_device, format_table, make_folder
from msinet_timm.errors import InputError, MissingPackageError
from msinet_timm.files import replace_rows
from msinet_timm.hub.load import load_model
from msinet_timm.models.genotype import NUM_CELLS, UNIFORM, Genotype, find_genotype, named_genotypes
from msinet_timm.models.interactions import INTERACTIONS
from msinet_train.curves import read_rows
from msinet_train.engine.loop import train
from msinet_train.run.folder import holds_run
from msinet_train.settings import TrainSettings

from .latency import milliseconds

__all__ = ['Candidate', 'compare', 'random_genotypes', 'table', 'verdicts']


_RANDOM = 'random_{}'


class Candidate(NamedTuple):
    """A genotype and how its trainings ended.

    Attributes:
        name: of the genotype.
        milliseconds: of the network for a batch of 8.
        mAP: of each seed, 0 to 1.
        rank1: Rank-1 of each seed, 0 to 1.
    """

    name: str
    milliseconds: float
    mAP: tuple[float, ...]
    rank1: tuple[float, ...]


def random_genotypes(number: int, seed: int = 0) -> dict[str, Genotype]:
    """Different genotypes by name, drawn uniformly."""
    rng, found = Random(seed), {}
    while len(found) < number:
        genotype = Genotype(rng.choice(list(INTERACTIONS)) for _ in range(2 * NUM_CELLS))
        if genotype not in found.values():
            found[_RANDOM.format(len(found))] = genotype
    return found


def compare(
    genotypes: Sequence[str],
    settings: TrainSettings,
    *,
    random: int = 3,
    uniform: bool = True,
    seeds: Sequence[int] = (0, 1, 2),
    output: str | Path = 'runs/compare',
) -> list[Candidate]:
    """Trains and measures, and writes `compare.csv` and `compare.png`; what is finished already is not trained again.

    Args:
        genotypes: names, or files such as `runs/search/genotype.json`.
        settings: of all trainings, but for genotype, seed and folder.
        random: how many random genotypes to compare with.
        uniform: whether to compare with genotypes of one interaction each.
        seeds: of the trainings of each genotype.
        output: folder of all runs.

    Raises:
        InputError: a genotype or a setting that cannot be used.
    """
    output, candidates = Path(output), []
    found = _find(genotypes, random, uniform)
    for name, genotype in found.items():
        file = make_folder(output / name, 'output') / 'genotype.json'
        genotype.save(file)
        results = [_train(settings, output / name / f'seed{seed}', str(file), seed) for seed in seeds]
        candidates.append(Candidate(name, _milliseconds(genotype, settings), *zip(*results, strict=True)))
    _write(output / 'compare.csv', candidates, found, seeds)
    _draw(candidates, output / 'compare.png')
    return candidates


def _find(genotypes: Sequence[str], random: int, uniform: bool) -> dict[str, Genotype]:
    named = {}
    for spec in genotypes:
        path = Path(spec)
        name = spec if not path.suffix else path.parent.name if path.stem == 'genotype' else path.stem
        if name in named:
            raise InputError(f'two genotypes are called {name}: rename the file or folder of {spec}')
        named[name] = find_genotype(spec)
    named |= {name: find_genotype(name) for name in UNIFORM if uniform and name not in named}
    named |= random_genotypes(random)
    if len(named) < 2:
        raise InputError('a comparison needs two genotypes: name more, or ask for uniform or random ones')
    return named


def _train(settings: TrainSettings, output: Path, genotype: str, seed: int) -> tuple[float, float]:
    """mAP and Rank-1 after the last epoch of a training, which goes on where it was interrupted."""
    if holds_run(output):
        typed = {'data_dir': settings.data_dir} if settings.data_dir else {}  # which a file may not be able to say
        settings = TrainSettings.from_run(output, genotype=genotype, seed=seed, **typed)
    else:
        settings = replace(settings, output=output, resume=None, genotype=genotype, seed=seed)
    summary = output / 'summary.csv'
    if not read_rows(summary) or int(read_rows(summary)[-1]['epoch']) + 1 < settings.epochs:
        train(settings)
    last = read_rows(summary)[-1]
    kept = 'eval_ema_' if last.get('eval_ema_mAP') else 'eval_'
    if not last.get(f'{kept}mAP'):
        raise InputError(f'{output}: nothing was measured: the data set has no query and gallery')
    return float(last[f'{kept}mAP']), float(last[f'{kept}rank1'])


def _milliseconds(genotype: Genotype, settings: TrainSettings, batch_size: int = 8) -> float:
    """Median time of a batch."""
    device = find_device(settings.device)
    size = {'height': settings.height, 'width': settings.width}
    model = load_model(settings.model, pretrained=False, genotype=genotype, **size)
    model.to(device, memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, settings.height, settings.width, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return milliseconds(lambda: model(images), device)


def _metrics(candidate: Candidate) -> dict[str, str]:
    metrics = {}
    for name, values in (('mAP', candidate.mAP), ('Rank-1', candidate.rank1)):
        spread = f' ±{100 * statistics.stdev(values):.1f}' if len(values) > 1 else ''
        metrics[name] = f'{100 * statistics.mean(values):.1f}{spread}'
    return metrics | {'ms': f'{candidate.milliseconds:.1f}'}


def table(candidates: Sequence[Candidate]) -> str:
    """Candidates from best to worst: means over the seeds with their standard deviations, and time of a batch of 8."""
    ordered = sorted(candidates, key=lambda c: -statistics.mean(c.mAP))
    lines = [['', 'mAP', 'Rank-1', 'ms'], *([c.name, *_metrics(c).values()] for c in ordered)]
    return format_table(lines)


def verdicts(candidates: Sequence[Candidate]) -> str:
    """Says of each genotype that was named whether it is better than the random and the uniform ones; a line for each.

    It is better than random ones if its mean is above theirs by two standard errors of the difference. The units are
    the seeds of the one, and the means of the random genotypes: seeds of one genotype do not tell how others do. p is
    how often a random choice of as many units does as well as it did, one-sided (a permutation test). Several that were
    found, those of files, are judged together as well: whether what finds them is better, their means being the units.
    """
    by_chance = re.compile(_RANDOM.format(r'\d+')).fullmatch
    named = [c for c in candidates if c.name not in UNIFORM and not by_chance(c.name)]
    chance = [statistics.mean(c.mAP) for c in candidates if by_chance(c.name)]
    uniform = max((c for c in candidates if c.name in UNIFORM), key=lambda c: statistics.mean(c.mAP), default=None)
    lines, found = [], [c for c in named if c.name not in named_genotypes()]
    if len(found) > 1:
        means = tuple(statistics.mean(c.mAP) for c in found)
        named.append(Candidate(f'{", ".join(c.name for c in found)} together', 0.0, means, means))
    for c in named:
        mean = statistics.mean(c.mAP)
        if len(c.mAP) > 1 and len(chance) > 1:
            gain = mean - statistics.mean(chance)
            error = math.hypot(*(statistics.stdev(units) / len(units) ** 0.5 for units in (c.mAP, chance)))
            p = _permuted(c.mAP, chance)
            told = 'yes' if gain > 2 * error else 'no'
            lines.append(
                f'{c.name}: better than random: {told}, {100 * gain:+.1f} ± {100 * error:.1f} mAP, p = {p:.3f}'
            )
        if uniform:
            gain = mean - statistics.mean(uniform.mAP)
            told = 'no' if gain < 0 else 'yes'
            lines.append(f'{c.name}: as good as the best uniform one, {uniform.name}: {told}, {100 * gain:+.1f} mAP')
    return '\n'.join(lines)


def _permuted(found: Sequence[float], chance: Sequence[float], most: int = 100_000) -> float:
    """Share of the choices of `len(found)` units out of all, as they are or drawn, with at least the sum of `found`."""
    units, least = [*found, *chance], sum(found) - 1e-12
    if math.comb(len(units), len(found)) <= most:
        sums = [sum(chosen) for chosen in itertools.combinations(units, len(found))]
        return sum(s >= least for s in sums) / len(sums)
    rng = Random(0)
    # with what was found as one of them, so that it is never 0
    return (1 + sum(sum(rng.sample(units, len(found))) >= least for _ in range(most))) / (1 + most)


def _write(
    path: Path, candidates: Sequence[Candidate], genotypes: Mapping[str, Genotype], seeds: Sequence[int]
) -> None:
    rows = [
        [c.name, *row, c.milliseconds, ' '.join(genotypes[c.name])]
        for c in candidates
        for row in zip(seeds, c.mAP, c.rank1, strict=True)
    ]
    replace_rows(path, [['genotype', 'seed', 'mAP', 'rank1', 'milliseconds', 'interactions'], *rows])


def _draw(candidates: Sequence[Candidate], image: Path) -> None:
    """mAP over the time of a batch, where matplotlib is installed."""
    try:
        figure = create_figure((8, 5))
    except MissingPackageError as e:
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
