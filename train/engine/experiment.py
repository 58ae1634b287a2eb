"""What the loop over epochs runs."""

from abc import ABC, abstractmethod

import torch.nn as nn

from msinet_timm.processes import Processes
from msinet_train.data.sources import TrainingData
from msinet_train.run.folder import RunFolder
from msinet_train.run.measure import Measurement, check_measurable, columns
from msinet_train.settings import Settings

__all__ = ['Experiment']


class Experiment(ABC):
    """A training or a search. As a text it says what is about to happen.

    Attributes:
        program: command that resumes it.
        settings: of the run.
        processes: that work together.
        data: with what it is measured on.
        interval: epochs between evaluations; 0 for one at the end.
        models: whose batch norms the processes have to agree on; the second one, if any, has averaged weights.
    """

    program: str
    settings: Settings
    processes: Processes
    data: TrainingData
    interval: int
    models: list[nn.Module]

    @abstractmethod
    def load_state(self, state: dict) -> None:
        """Takes what a checkpoint holds."""

    def open(self, folder: RunFolder, state: dict | None, measured: bool) -> None:  # noqa: B027 - not all need it
        """Gets ready to `save` to a folder, after the checkpoint `state` if it goes on.

        Args:
            folder: of the run.
            state: that was loaded.
            measured: whether `state` is from `save`, and not from `save_unmeasured`.
        """

    def begin(self) -> None:  # noqa: B027 - not every experiment needs it
        """Does what is to be done before the very first epoch."""

    def finished(self, epoch: int) -> bool:
        """Whether nothing is left to learn, asked before each epoch, counted from 0."""
        return False

    @property
    def measures_average(self) -> bool:
        """Whether the averaged weights are measured beside the others."""
        return len(self.models) > 1

    @property
    def columns(self) -> list[str]:
        """Names of what is measured, as a measurement's `metrics` gives them."""
        return columns(list(self.data.measured) or [''], self.measures_average)

    def check(self) -> None:
        """Looks before the first epoch whether there can be an evaluation after the last one."""
        check_measurable(self.data.measured, self.settings)

    @abstractmethod
    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Computes an epoch, counted from 0; gives its metrics."""

    @abstractmethod
    def measure(self) -> Measurement | None:
        """Evaluates what there is; None where there is nothing to measure on."""

    @abstractmethod
    def save_unmeasured(self, folder: RunFolder, epoch: int) -> None:
        """Writes the checkpoint `unmeasured.pth.tar`, which keeps an epoch in case its evaluation fails."""

    @abstractmethod
    def save(self, folder: RunFolder, epoch: int, measurement: Measurement | None, due: bool) -> None:
        """Writes results if they are `due`, and last the checkpoint `last.pth.tar` that ends the epoch."""

    @abstractmethod
    def draw(self, folder: RunFolder) -> None:
        """Draws how it went so far; raises MissingPackageError where matplotlib, an optional package, is missing."""

    @abstractmethod
    def describe(self, metrics: dict[str, float]) -> str:
        """An epoch's metrics in a line."""

    def remark(self) -> str:
        """What the log says after an evaluation."""
        return ''
