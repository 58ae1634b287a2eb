"""What ways of searching have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch

from msinet_timm.models.genotype import Genotype
from msinet_train.run.folder import RunFolder

__all__ = ['Batch', 'Strategy']

Batch = tuple[torch.Tensor, torch.Tensor]


class Strategy(ABC):
    """How the supernet is trained, and what is taken from it in the end.

    Each epoch, the search calls `begin_epoch`, then before each step of the weights `before_step`, then `metrics`;
    where genotypes are due, `finish` after the last one; then `save`.
    """

    @abstractmethod
    def begin_epoch(self, epoch: int) -> None:
        """Gets ready for an epoch, counted from 0, which depends on (seed, epoch) alone."""

    @abstractmethod
    def before_step(self, number: int, batch: Batch, validation: Iterator[Batch]) -> float | None:
        """Decides which interactions the weights learn with in the step that follows.

        Args:
            number: of the step in its epoch, from 0.
            batch: that the weights will learn from.
            validation: batches of the validation half, without end.

        Returns:
            The loss of the validation half, where it was needed.
        """

    def metrics(self) -> dict[str, float]:
        """What `summary.csv` tells of the choice after an epoch."""
        return {}

    def finish(self) -> None:  # noqa: B027 - not every one needs it
        """Chooses, when all epochs are over; all processes call it."""

    @abstractmethod
    def genotype(self) -> Genotype:
        """What the search has found."""

    def results(self) -> list[Genotype]:
        """All that are worth a network of their own."""
        return [self.genotype()]

    @abstractmethod
    def save(self, folder: RunFolder, epoch: int, due: bool, details: dict[str, Any]) -> None:
        """Writes what people can read after an epoch.

        Args:
            folder: of the run.
            epoch: that ended, from 0.
            due: whether `genotype.json` is, too.
            details: to be kept with a genotype.
        """

    def draw(self, folder: RunFolder) -> None:  # noqa: B027 - not every one has a chart
        """Draws how it went so far; raises MissingPackageError where matplotlib, an optional package, is missing."""

    def remark(self) -> str:
        """What the log says after an evaluation."""
        return ''

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, under names of its own beside those of the search."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what a checkpoint holds."""
