"""A search by single paths: each step trains one genotype, and those that rank best are bred."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from msinet_timm.charts import create_figure, save_figure
from msinet_timm.commands import format_table, make_folder, progress
from msinet_timm.errors import InputError, one_line
from msinet_timm.files import replace_rows
from msinet_timm.models.genotype import NUM_CELLS, Genotype
from msinet_timm.models.interactions import INTERACTIONS
from msinet_timm.models.supernet import MSISuperNet
from msinet_timm.processes import is_primary
from msinet_train.curves import read_rows
from msinet_train.run.folder import RunFolder

from .settings import SearchSettings
from .strategy import Batch, Strategy

__all__ = ['Rated', 'SinglePaths', 'evolve', 'fair_turns', 'front_of', 'plain']

_NAMES = tuple(INTERACTIONS)
#: Of which one is rated.
_CHILDREN = 32
_SECOND = tuple(name for name in _NAMES if name != 'exc')
_PLACES = 2 * NUM_CELLS
_FILE = 'paths.csv'
_COLUMNS = ('epoch', 'tune_steps', 'mAP', 'milliseconds', *(f'place_{place}' for place in range(_PLACES)))


class Rated(NamedTuple):
    """What a genotype came to.

    Attributes:
        mAP: within the supernet, 0 to 1.
        milliseconds: of its interactions, 0 where latency does not count.
    """

    mAP: float
    milliseconds: float = 0.0

    def dominates(self, other: 'Rated') -> bool:
        """Whether it is nowhere worse, and somewhere better."""
        no_worse = self.mAP >= other.mAP and self.milliseconds <= other.milliseconds
        return no_worse and self != other


def fair_turns(rng: Random) -> Iterator[Genotype]:
    """Random genotypes without end, in which all interactions of a place have had a turn before one has a second.

    No second place of a cell has an exchange, see `plain`.

    Source: `FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search`
        - https://arxiv.org/abs/1907.01845
    """

    def turns(names: tuple[str, ...]) -> Iterator[str]:
        while True:
            yield from rng.sample(names, len(names))

    places = [turns(_SECOND if place % 2 else _NAMES) for place in range(_PLACES)]
    return map(Genotype, zip(*places, strict=True))


def plain(genotype: Genotype) -> Genotype:
    """The same network without exchanges at the second places of its cells.

    Behind them, each branch has but a convolution of its own before the sum: an exchange there only changes which of
    both convolutions learns what. Weights that are shared would have to serve both.
    """
    return Genotype('none' if place % 2 and name == 'exc' else name for place, name in enumerate(genotype))


def front_of(rated: Mapping[Genotype, Rated]) -> list[Genotype]:
    """Genotypes that no other dominates, the fastest first."""
    found = [g for g, mine in rated.items() if not any(other.dominates(mine) for other in rated.values())]
    return sorted(found, key=lambda g: (rated[g].milliseconds, -rated[g].mAP))


def evolve(rate: Callable[[Genotype], Rated], candidates: int, rng: Random) -> dict[Genotype, Rated]:
    """Rates random genotypes, a third of all, and then children of the best, each of which rates before the next.

    A child takes each place from one of two parents, and with a probability of one in twelve from chance. Parents are
    drawn from the quarter of the population that the fewest others dominate. Of several children, the one is rated of
    which a sum over the places, fitted to all ratings so far, expects most: few ratings then go far.

    Source: `Single Path One-Shot Neural Architecture Search with Uniform Sampling` (section 3.4)
        - https://arxiv.org/abs/1904.00420

    Args:
        rate: a genotype.
        candidates: how many different genotypes to rate; all there are, at most.
        rng: to draw from.

    Returns:
        All, in the order in which they were rated.
    """
    rated: dict[Genotype, Rated] = {}
    beaten: dict[Genotype, int] = {}  # by how many others
    turns, population = fair_turns(rng), max(4, candidates // 3)
    candidates = min(candidates, (len(_NAMES) * len(_SECOND)) ** NUM_CELLS)

    def child() -> Genotype:
        parents = sorted(beaten, key=beaten.get)[: max(2, population // 4)]
        places = [rng.choice(both) for both in zip(*rng.sample(parents, 2), strict=True)]
        fresh = zip(places, next(turns), strict=True)
        return Genotype(new if rng.random() < 1 / _PLACES else old for old, new in fresh)

    while len(rated) < candidates:
        if len(rated) < population:
            found = next(turns)
        else:
            expected = _expected([child() for _ in range(_CHILDREN)], rated)
            if not expected:
                continue
            found = min(
                expected, key=lambda g: (sum(o.dominates(expected[g]) for o in rated.values()), -expected[g].mAP)
            )
        if found not in rated:
            mine = rate(found)
            beaten[found] = sum(other.dominates(mine) for other in rated.values())
            for genotype, other in rated.items():
                beaten[genotype] += mine.dominates(other)
            rated[found] = mine
    return rated


def _expected(genotypes: Sequence[Genotype], rated: Mapping[Genotype, Rated]) -> dict[Genotype, Rated]:
    """What those genotypes may come to that nobody has rated, by a ridge regression on the choice at each place."""

    def encode(genotypes: Iterable[Genotype]) -> np.ndarray:
        return np.array([[name == own for own in genotype for name in _NAMES] for genotype in genotypes], float)

    new = [genotype for genotype in dict.fromkeys(genotypes) if genotype not in rated]
    if not new:
        return {}
    x, y = encode(rated), np.array(list(rated.values()))
    mean = y.mean(0)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (y - mean))
    return {g: Rated(*row) for g, row in zip(new, (encode(new) @ weights + mean).tolist(), strict=True)}


class SinglePaths(Strategy):
    """The weights of each interaction learn alone, in fair turns; genotypes are then bred by how well they rank.

    Args:
        settings: of the search.
        supernet: of the search.
        create_judge: makes what gives the mAP of a genotype within the supernet, when it is trained.
        tuned: gives the supernet, while it is entered, weights that have learnt with a genotype alone.
        costs: [12, 4] milliseconds of the interactions where they count, else None.

    Raises:
        InputError: settings that it does not have.
    """

    def __init__(
        self,
        settings: SearchSettings,
        supernet: MSISuperNet,
        create_judge: Callable[[], Callable[[Genotype], float]],
        tuned: Callable[[Genotype], AbstractContextManager],
        costs: torch.Tensor | None,
    ) -> None:
        if settings.objective == 'latency':
            raise InputError('objective latency is for `method` tcm: with paths, front gives a genotype for each time')
        self.settings, self.supernet, self.create_judge, self.tuned = settings, supernet, create_judge, tuned
        self.costs = None if costs is None else costs.tolist()
        self.epoch = 0
        self.turns = fair_turns(Random())
        self.rated: dict[Genotype, Rated] = {}

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.turns = fair_turns(Random(f'{self.settings.seed} {epoch}'))

    def before_step(self, number: int, batch: Batch, validation: Iterator[Batch]) -> None:
        self.supernet.path = next(self.turns)

    def finish(self) -> None:
        """Rates genotypes; what an interrupted search has rated of these weights is only read."""
        settings, judge = self.settings, self.create_judge()
        file = settings.folder / _FILE
        known = self._known(file) if settings.resume else {}
        with progress(total=settings.candidates, desc='genotypes rated', unit='genotype') as bar:

            def rate(genotype: Genotype) -> Rated:
                if genotype not in known:
                    with self.tuned(genotype):
                        known[genotype] = Rated(judge(genotype), self._milliseconds(genotype))
                    if is_primary():
                        replace_rows(file, [_COLUMNS, *([*self._rating, *rated, *g] for g, rated in known.items())])
                bar.update()
                return known[genotype]

            self.rated = evolve(rate, settings.candidates, Random(settings.seed))
        self.supernet.path = self.genotype()
        judge(self.supernet.path)  # which leaves the norms with its statistics

    def _milliseconds(self, genotype: Genotype) -> float:
        if self.costs is None:
            return 0.0
        return sum(row[_NAMES.index(name)] for row, name in zip(self.costs, genotype, strict=True))

    @property
    def _rating(self) -> tuple[int, int]:
        """What ratings have in common that can be compared."""
        return self.epoch, self.settings.tune_steps

    def _known(self, file: Path) -> dict[Genotype, Rated]:
        try:
            return {
                Genotype(row[place] for place in _COLUMNS[4:]): Rated(float(row['mAP']), float(row['milliseconds']))
                for row in read_rows(file)
                if (int(row['epoch']), int(row['tune_steps'])) == self._rating
            }
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f'{file}: no table of rated genotypes ({one_line(e)}): remove it') from e

    def genotype(self) -> Genotype:
        """That of the best mAP, of equal ones the fastest."""
        return max(self.rated, key=lambda g: (self.rated[g].mAP, -self.rated[g].milliseconds))

    def results(self) -> list[Genotype]:
        return front_of(self.rated) if self.settings.objective == 'front' else [self.genotype()]

    def save(self, folder: RunFolder, epoch: int, due: bool, details: dict[str, Any]) -> None:
        if not self.rated:
            return
        self._save(self.genotype(), folder.path / 'genotype.json', details)
        if self.settings.objective == 'front':
            front = make_folder(folder.path / 'front', 'output')
            for older in front.glob('*.json'):  # of fewer epochs
                older.unlink()
            for number, genotype in enumerate(self.results()):
                self._save(genotype, front / f'{number}.json', details)

    def _save(self, genotype: Genotype, file: Path, details: dict[str, Any]) -> None:
        rated = self.rated[genotype]
        found = {'mAP': round(rated.mAP, 6)}
        if self.costs:
            found['milliseconds'] = round(rated.milliseconds, 4)
        genotype.save(file, **found, **details)

    def draw(self, folder: RunFolder) -> None:
        if self.rated:
            _draw(self.rated, self.costs is not None, folder.path / 'paths.png')

    def remark(self) -> str:
        if not self.rated:
            return ''
        rows = [('mAP', 'ms', 'interactions')]
        for genotype in self.results():
            rated = self.rated[genotype]
            rows.append(
                (f'{100 * rated.mAP:.1f}', f'{rated.milliseconds:.3f}' if self.costs else '', ' '.join(genotype))
            )
        return format_table(rows, '>><')

    def state_dict(self) -> dict[str, Any]:
        return {'rated': [[list(genotype), *rated] for genotype, rated in self.rated.items()], 'costs': self.costs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.costs = state['epoch'], state['costs']
        self.rated = {Genotype(names): Rated(*rated) for names, *rated in state['rated']}


def _draw(rated: Mapping[Genotype, Rated], timed: bool, image: Path) -> None:
    """mAP of all that were rated: over their time with the front, else in the order of their turn."""
    figure = create_figure((8, 5))
    axes = figure.subplots()
    metrics = [100 * r.mAP for r in rated.values()]
    if timed:
        axes.scatter([r.milliseconds for r in rated.values()], metrics, s=12, label='rated')
        front = [rated[g] for g in front_of(rated)]
        axes.plot([r.milliseconds for r in front], [100 * r.mAP for r in front], 'o-', color='tab:red', label='front')
        axes.set_xlabel('milliseconds of the interactions, for a batch of 8')
    else:
        axes.scatter(range(1, len(metrics) + 1), metrics, s=12, label='rated')
        axes.plot(range(1, len(metrics) + 1), list(itertools.accumulate(metrics, max)), color='tab:red', label='best')
        axes.set_xlabel('genotype, in the order of rating')
    axes.set_ylabel('mAP in % within the supernet')
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, image)
