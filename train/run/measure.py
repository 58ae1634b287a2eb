"""How a model in training does on the data sets that it is measured on."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn as nn

from msinet_eval.protocol import require_matches
from msinet_eval.report import EvaluationResult
from msinet_timm.datasets import ReIDDataset
from msinet_timm.datasets.shards.stream import in_shards
from msinet_timm.datasets.tools.verify import require_readable
from msinet_timm.errors import InputError
from msinet_timm.hub.calibration import FILE_NAME, Calibration
from msinet_train.settings import CropSettings

__all__ = ['Measurement', 'calibrate', 'check_measurable', 'columns', 'measure']

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """A model on all its data sets.

    Attributes:
        evaluations: by name of the data set.
        average: the same of the averaged weights; empty where weights are not averaged.
    """

    evaluations: dict[str, EvaluationResult]
    average: dict[str, EvaluationResult]

    @property
    def main(self) -> EvaluationResult:
        """By which models are compared: on the first data set, with averaged weights where there are any."""
        return next(iter((self.average or self.evaluations).values()))

    def __str__(self) -> str:
        """For the end of a line of the log."""
        line = ''
        for name, evaluation in self.evaluations.items():
            line += f'  {name} ' if len(self.evaluations) > 1 else '  '
            line += f'mAP {100 * evaluation.ranking.mAP:.1f} %  Rank-1 {100 * evaluation.ranking.cmc[0]:.1f} %'
        if self.average:
            line += f'  averaged weights: mAP {100 * self.main.ranking.mAP:.1f} %'
        return line

    def metrics(self) -> dict[str, float]:
        """mAP, Rank-1 and mINP, each 0 to 1, by the names that `columns` gives."""
        return dict(zip(columns(list(self.evaluations), bool(self.average)), self._rankings(), strict=True))

    def _rankings(self) -> list[float]:
        found = [*self.evaluations.values(), *self.average.values()]
        return [value for e in found for value in (e.ranking.mAP, float(e.ranking.cmc[0]), e.ranking.mINP)]


def calibrate(result: EvaluationResult, model: str) -> Calibration | None:
    """The distance below which images are of one identity, at a false positive rate of 1e-3.

    Args:
        result: with features of query and gallery.
        model: name of the model.

    Returns:
        None where there are too few pairs to tell.
    """
    try:
        return Calibration.from_verification(result.verification, dataset=result.dataset, model=model)
    except InputError as e:
        _logger.info(f'no {FILE_NAME}: {e}')
        return None


def columns(names: list[str], average: bool) -> list[str]:
    """Names of metrics: those on the first data set are plain, `ema_` stands before those of averaged weights.

    Args:
        names: of the data sets.
        average: whether there are averaged weights.
    """
    return [
        f'{weights}{"" if name == names[0] else f"{name}_"}{metric}'
        for weights in ('', 'ema_')[: 1 + average]
        for name in names
        for metric in ('mAP', 'rank1', 'mINP')
    ]


def check_measurable(datasets: dict[str, ReIDDataset], settings: CropSettings) -> None:
    """Looks before a training whether it can be evaluated after it.

    Args:
        datasets: to be measured on.
        settings: of the run. Where it has read the images already, or reads them from shards, they aren't decoded.

    Raises:
        InputError: no query of a data set has a match, or an image cannot be read.
    """
    for dataset in datasets.values():
        require_matches(dataset)
        if settings.cache == 'none' and not settings.skip_broken and not in_shards(dataset.gallery):
            require_readable(dataset, ('query', 'gallery'))


def measure(
    datasets: dict[str, ReIDDataset],
    evaluate: Callable[[nn.Module, ReIDDataset], EvaluationResult],
    model: nn.Module,
    average: nn.Module | None = None,
) -> Measurement | None:
    """Evaluates a model, and its averaged weights; None where there is no data set.

    Args:
        datasets: by the name that metrics bear.
        evaluate: `msinet_eval.evaluate`, with everything but the model and the data set given.
        model: what embeds.
        average: the same with averaged weights.
    """
    if not datasets:
        return None
    measured = [
        {name: evaluate(weights, dataset) for name, dataset in datasets.items()} if weights is not None else {}
        for weights in (model, average)
    ]
    return Measurement(*measured)
