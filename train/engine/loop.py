"""The training loop."""

import argparse
import datetime
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.utils import CheckpointSaver, distribute_bn, random_seed

from msinet_eval.protocol import Evaluation
from msinet_timm.errors import InputError
from msinet_timm.memory import keep_memory
from msinet_timm.processes import Processes, start_processes
from msinet_train.curves import write_curves
from msinet_train.run.card import model_card
from msinet_train.run.folder import RunFolder
from msinet_train.run.measure import Measurement, calibrate, columns
from msinet_train.run.trackers import create_trackers

from .epoch import train_one_epoch
from .optim import precision
from .setup import Training, prepare

__all__ = ['TrainingResult', 'evaluate_only', 'load_checkpoint', 'train']

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        folder: of the run.
        best_mAP: of all evaluations, 0 to 1; 0 for a data set without query and gallery.
        best_epoch: counted from 0.
        measurement: after the last epoch; None if a resumed run had none left, or there was nothing to measure.
    """

    folder: Path
    best_mAP: float
    best_epoch: int
    measurement: Measurement | None

    @property
    def last(self) -> Evaluation | None:
        """The first data set's evaluation after the last epoch, see `Measurement.main`."""
        return self.measurement and self.measurement.main


def train(args: argparse.Namespace) -> TrainingResult:
    """Runs a training, or what is left of one.

    Everything random in an epoch depends on (seed, epoch) alone, so that a run that was interrupted and resumed ends
    with the weights of one that wasn't.

    Args:
        args: as `msinet_train.cli.parse_args` gives them.

    Raises:
        InputError: settings, data or a folder that cannot be used; the message says which and why.
    """
    with start_processes(args.device) as processes:
        if processes.device.type == 'cpu':
            keep_memory()
        training = prepare(args, processes)
        if not processes.first:
            return _train(args, processes, training, None)
        folder = RunFolder(args)
        with folder.log():
            return _train(args, processes, training, folder)


def _train(
    args: argparse.Namespace, processes: Processes, training: Training, folder: RunFolder | None
) -> TrainingResult:
    """One process's part; the one with the folder writes."""
    saver = folder and create_saver(folder, training)
    start = resume(args, training, folder, saver)
    trackers = create_trackers(args, folder.path, start) if folder else []
    _logger.info(
        f'{args.model} on {", ".join(args.dataset)}: {len(training.labels)} images of {training.data.num_classes} '
        f'identities, {args.epochs} epochs of {len(training.loader)} batches; run folder {args.output}'
    )
    for remark in training.data.remarks:
        _logger.info(remark)
    measurement, began = None, time.perf_counter()
    try:
        for epoch in range(start, args.epochs):
            metrics = run_epoch(args, processes, training, epoch)
            done = epoch + 1
            due = done == args.epochs or (args.eval_interval and done % args.eval_interval == 0)
            measurement = training.measure() if due else None
            if folder:
                save_epoch(epoch, metrics, measurement, due, args, training, folder, saver)
                for tracker in trackers:
                    tracker.log(epoch, {k: float(v) for k, v in folder.summary()[-1].items() if v and k != 'epoch'})
            left = (args.epochs - done) * (time.perf_counter() - began) / (done - start)
            _logger.info(describe(done, args.epochs, metrics, measurement, left))
    except KeyboardInterrupt:
        _logger.info(f'interrupted: msinet-train --resume {args.output} continues after the last whole epoch')
        raise
    finally:
        for tracker in trackers:
            tracker.close()
    best = (saver.best_metric or 0.0, saver.best_epoch or 0) if saver else (0.0, 0)
    return TrainingResult(Path(args.output), *best, measurement)


def run_epoch(args: argparse.Namespace, processes: Processes, training: Training, epoch: int) -> dict[str, float]:
    """Trains for an epoch; gives its metrics, the learning rate among them."""
    random_seed((args.seed + 1_000_003 * epoch) % 2**32, processes.rank)
    training.loader.batch_sampler.set_epoch(epoch)
    training.scheduler.step(epoch)
    training.stepper.amp = precision(args, processes.device, epoch)
    metrics = {'lr': training.learning_rate}
    metrics |= train_one_epoch(
        training.task,
        training.loader,
        training.labels,
        training.stepper,
        args.channels_last,
        f'epoch {epoch + 1}/{args.epochs}',
        args.epochs - epoch - 1,
    )
    if processes.several:  # each has followed the statistics of its own images
        for model in filter(None, (training.model, training.average)):
            distribute_bn(model, processes.count, reduce=True)
    return metrics


def create_saver(folder: RunFolder, training: Training) -> CheckpointSaver:
    """The saver of all that a training needs to go on."""
    return folder.create_saver(
        model=training.model,
        task=training.task,
        optimizer=training.stepper.optimizer,
        amp_scaler=training.stepper.scaler,
    )


def resume(
    args: argparse.Namespace, training: Training, folder: RunFolder | None, saver: CheckpointSaver | None
) -> int:
    """Loads the run's last checkpoint, if it is to go on; returns the epoch to go on with.

    Raises:
        InputError: the checkpoint is of other settings.
    """
    checkpoint = Path(args.output) / 'last.pth.tar'
    if not args.resume or not checkpoint.is_file():
        if folder:
            folder.drop_summary_from(0)  # of a run that was killed before its first checkpoint
        return 0
    state = load_checkpoint(checkpoint)
    try:
        training.load_state(state)
    except (RuntimeError, ValueError, KeyError) as e:
        raise InputError(f'{checkpoint}: does not fit the settings of this run ({str(e).splitlines()[0]})') from e
    start = state['epoch'] + 1
    if folder:
        saver.load_state_dict(state['saver'])
        saver.save_milestone_if_due(start, args.checkpoint_interval)
        folder.drop_summary_from(start)
    return start


def load_checkpoint(path: Path) -> dict:
    """What timm's saver wrote.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:  # broken archives and pickles raise whatever they stumble over
        raise InputError(f'{path}: cannot be read ({" ".join(str(e).split())[:300]})') from e


def save_epoch(
    epoch: int,
    metrics: dict[str, float],
    measurement: Measurement | None,
    due: bool,
    args: argparse.Namespace,
    training: Training,
    folder: RunFolder,
    saver: CheckpointSaver,
) -> None:
    """Writes what an epoch leaves: its row, the models if they are `due`, and last the checkpoint that ends it."""
    data = training.data
    names = columns(list(data.measured) or [''], training.average is not None)
    folder.add_summary(epoch, metrics, names, measurement and measurement.metrics())
    metric = measurement and measurement.main.ranking.mAP
    improved = metric is not None and (saver.best_metric is None or metric > saver.best_metric)
    sizes = {'images': len(data.train), 'identities': data.num_classes}
    title = folder.path.absolute().name
    card = model_card(args, title, epoch, sizes, measurement, data.remarks)
    calibration = None
    if measurement:
        name, dataset = next(iter(data.measured.items()))
        calibration = calibrate(name, measurement.main, title, dataset.protocol.same_clothes_removed)
    for name in ['last'] * bool(due) + ['best'] * improved:
        folder.save_model(name, training.product, training.data_config, card, calibration)
    if due:
        draw_curves(folder)
    saver.save_checkpoint(epoch, metric=metric)
    saver.save_milestone_if_due(epoch + 1, args.checkpoint_interval)


def describe(done: int, epochs: int, metrics: dict[str, float], measurement: Measurement | None, left: float) -> str:
    """A line on an epoch for the log; `left` in seconds."""
    line = (
        f'epoch {done:{len(str(epochs))}}/{epochs}  lr {metrics["lr"]:<7.2g}  loss {metrics["loss"]:.3f}  '
        f'accuracy {metrics["accuracy"]:5.1f} %  {metrics["images_per_second"]:.0f} images/s  '
        f'left {datetime.timedelta(seconds=round(left))}'
    )
    found = {} if measurement is None else measurement.evaluations
    for name, evaluation in found.items():
        line += f'  {name} ' if len(found) > 1 else '  '
        line += f'mAP {100 * evaluation.ranking.mAP:.1f} %  Rank-1 {100 * evaluation.ranking.cmc[0]:.1f} %'
    if measurement is not None and measurement.average:
        line += f'  averaged weights: mAP {100 * measurement.main.ranking.mAP:.1f} %'
    return line


def draw_curves(folder: RunFolder) -> None:
    """Writes `curves.png`, where matplotlib is installed."""
    try:
        write_curves(folder.path / 'summary.csv', folder.path / 'curves.png')
    except ImportError as e:
        _logger.info(f'no curves.png: {e}')


def evaluate_only(args: argparse.Namespace) -> Measurement:
    """Measures the model that a training would start from, or the newest checkpoint of the run to resume.

    Raises:
        InputError: see `train`; or there is nothing to measure on.
    """
    with start_processes(args.device) as processes:
        training = prepare(args, processes)
        resume(args, training, None, None)
        measurement = training.measure()
        if measurement is None:
            raise InputError('--evaluate: none of these data sets has query and gallery; name one by -dt')
        return measurement
