"""A training: what it consists of, an epoch of it, and what that leaves."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
from timm.scheduler.scheduler import Scheduler
from timm.utils import CheckpointSaver
from torch.utils.data import DataLoader

from msinet_timm.processes import Processes
from msinet_train.curves import write_curves
from msinet_train.data.sources import TrainingData
from msinet_train.losses.task import ReIDTask
from msinet_train.models import backbone_of
from msinet_train.run.card import model_card
from msinet_train.run.folder import RunFolder, check_saver
from msinet_train.run.measure import Measurement, calibrate, measure
from msinet_train.settings import TrainSettings

from .epoch import train_one_epoch
from .experiment import Experiment
from .optim import Stepper, precision

__all__ = ['Training']


@dataclass
class Training(Experiment):
    """What a training consists of.

    Attributes:
        settings: of the run.
        processes: that train together.
        data: images to learn from, and data sets to be measured on.
        data_config: preprocessing, for timm's transforms.
        labels: [N] class of each training image.
        model: with branches and classifiers.
        task: the model and its losses.
        stepper: with the optimizer.
        scheduler: of the learning rate.
        loaders: of batches, by the epoch that they begin with, 0 among them.
        evaluate: see `measure`.
        announce: see `train_one_epoch`.
        saver: of checkpoints; None until there is a folder.
    """

    settings: TrainSettings
    processes: Processes
    data: TrainingData
    data_config: dict
    labels: torch.Tensor
    model: nn.Module
    task: ReIDTask
    stepper: Stepper
    scheduler: Scheduler
    loaders: dict[int, DataLoader]
    evaluate: functools.partial
    announce: Callable[[torch.Tensor], None] | None = None
    saver: CheckpointSaver | None = None

    program = 'msinet-train'

    def __str__(self) -> str:
        return (
            f'{self.settings.model} on {", ".join(self.settings.dataset)}: {len(self.labels)} images of '
            f'{self.data.num_classes} identities, {self.settings.epochs} epochs of {len(self.loader)} batches'
            + ''.join(
                f'; at {height}x{width} from epoch {epoch + 1} on'
                for epoch, (height, width) in self.settings.input_sizes.items()
                if len(self.loaders) > 1
            )
        )

    @property
    def loader(self) -> DataLoader:
        """Of the last epochs."""
        return self.loaders[max(self.loaders)]

    @property
    def interval(self) -> int:
        return self.settings.eval_interval

    @property
    def average(self) -> nn.Module | None:
        """The model with averaged weights, if weights are averaged."""
        return self.task.get_eval_model(ema=True)

    @property
    def models(self) -> list[nn.Module]:
        return [self.model] if self.average is None else [self.model, self.average]

    def load_state(self, state: dict) -> None:
        """Takes what a checkpoint holds; weights that were not averaged so far are averaged from now on."""
        check_saver(state.get('saver'))
        task_state = state.get('task_state')
        self.task.load_checkpoint_state(state['state_dict'], task_state)
        if self.average is not None:
            averaged = state.get('state_dict_ema', state['state_dict'])
            self.task.load_checkpoint_state(averaged, state.get('task_state_ema', task_state), ema=True)
        self.stepper.optimizer.load_state_dict(state['optimizer'])
        if self.stepper.scaler is not None and 'amp_scaler' in state:
            self.stepper.scaler.load_state_dict(state['amp_scaler'])

    def open(self, folder: RunFolder, state: dict | None, measured: bool) -> None:
        """Makes the saver of checkpoints, which goes on where that of `state` was."""
        self.saver = folder.create_saver(
            model=self.model,
            task=self.task,
            optimizer=self.stepper.optimizer,
            amp_scaler=self.stepper.scaler,
        )
        if state is not None:
            self.saver.load_state_dict(state['saver'])
            if measured:
                self.saver.save_milestone_if_due(state['epoch'] + 1, self.settings.checkpoint_interval)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        settings = self.settings
        loader = self.loaders[max(start for start in self.loaders if start <= epoch)]
        loader.batch_sampler.set_epoch(epoch)
        self.scheduler.step(epoch)
        self.stepper.amp = precision(settings, self.processes.device, epoch)
        # that of the parameters that learn fastest
        metrics = {'lr': max(group['lr'] for group in self.stepper.optimizer.param_groups)}
        return metrics | train_one_epoch(
            self.task,
            loader,
            self.labels,
            self.stepper,
            settings.channels_last,
            f'epoch {epoch + 1}/{settings.epochs}',
            settings.epochs - epoch - 1,
            self.announce,
            backbone_of(self.model) if settings.wake_gates else None,
        )

    def measure(self) -> Measurement | None:
        return measure(self.data.measured, self.evaluate, *map(backbone_of, self.models))

    def save_unmeasured(self, folder: RunFolder, epoch: int) -> None:
        self.saver.save_unmeasured(folder.unmeasured, epoch)

    def save(self, folder: RunFolder, epoch: int, measurement: Measurement | None, due: bool) -> None:
        data, saver = self.data, self.saver
        metric = measurement and measurement.main.ranking.mAP
        improved = metric is not None and (saver.best_metric is None or metric > saver.best_metric)
        sizes = {'images': len(data.train), 'identities': data.num_classes}
        title = folder.path.absolute().name
        card = model_card(self.settings, title, epoch, sizes, measurement, data.remarks, trained_on=data.trained_on)
        calibration = calibrate(measurement.main, title) if measurement else None
        for name in ['last'] * bool(due) + ['best'] * improved:
            folder.save_model(name, self.models[-1], self.data_config, card, calibration)
        saver.save_checkpoint(epoch, metric=metric)
        saver.save_milestone_if_due(epoch + 1, self.settings.checkpoint_interval)

    def draw(self, folder: RunFolder) -> None:
        write_curves(folder.path / 'summary.csv', folder.path / 'curves.png')

    def describe(self, metrics: dict[str, float]) -> str:
        return (
            f'lr {metrics["lr"]:<7.2g}  loss {metrics["loss"]:.3f}  accuracy {metrics["accuracy"]:5.1f} %  '
            f'{metrics["images_per_second"]:.0f} images/s'
        )
