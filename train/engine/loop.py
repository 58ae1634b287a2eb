"""The loop over epochs: one for trainings and searches, with what they leave on disk and how they go on from there."""

import contextlib
import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from timm.utils import distribute_bn, random_seed

from msinet_eval.report import EvaluationResult
from msinet_timm.datasets.trained import TRAINED_ON
from msinet_timm.errors import InputError, MissingPackageError, explained, one_line
from msinet_timm.files import locked, pointer
from msinet_timm.memory import keep_memory
from msinet_timm.processes import Processes, is_primary, start_processes
from msinet_train.run.folder import CHECKPOINT, UNMEASURED, RunFolder
from msinet_train.run.measure import Measurement
from msinet_train.run.people import check_people
from msinet_train.run.trackers import create_trackers
from msinet_train.settings import Settings, TrainSettings

from .experiment import Experiment
from .setup import prepare
from .unlabelled import UnlabelledTraining

__all__ = ['TrainingResult', 'evaluate_only', 'load_checkpoint', 'run', 'run_epoch', 'train']

_logger = logging.getLogger(__name__)

#: Seconds between two drawings of the curves, which take longer than a small epoch.
DRAWING = 20


E = TypeVar('E', bound=Experiment)


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        folder: of the run.
        best_mAP: of all evaluations, 0 to 1; 0 for a data set without query and gallery, and for learning without
            labels, which chooses its best model by other means.
        best_epoch: counted from 0.
        measurement: after the last epoch; None if a resumed run had none left, or there was nothing to measure.
    """

    folder: Path
    best_mAP: float
    best_epoch: int
    measurement: Measurement | None

    @property
    def last(self) -> EvaluationResult | None:
        """The first data set's evaluation after the last epoch, see `Measurement.main`."""
        return self.measurement and self.measurement.main


def train(settings: TrainSettings) -> TrainingResult:
    """Runs a training, or what is left of one.

    Everything random in an epoch depends on (seed, epoch) alone, so that a run that was interrupted and resumed ends
    with the weights of one that wasn't.

    Raises:
        InputError: settings, data or a folder that cannot be used; the message says which and why.
    """
    create = UnlabelledTraining if settings.unlabelled else prepare
    training, measurement = run(settings, lambda processes: create(settings, processes))
    saver = training.saver
    best = (saver.best_metric or 0.0, saver.best_epoch or 0) if saver else (0.0, 0)
    return TrainingResult(settings.folder, *best, measurement)


def evaluate_only(settings: TrainSettings) -> Measurement:
    """Measures the model that a training would start from, or the newest checkpoint of the run to resume.

    Raises:
        InputError: see `train`; or there is nothing to measure on.
    """
    with start_processes(settings.device) as processes:
        training = (UnlabelledTraining if settings.unlabelled else prepare)(settings, processes)
        resume(training, None)
        measurement = training.measure()
        if measurement is None:
            raise InputError('none of these data sets has query and gallery to measure on: name one by `target`')
        return measurement


def run(settings: Settings, create: Callable[[Processes], E]) -> tuple[E, Measurement | None]:
    """Runs an experiment to its end, in as many processes as there are.

    Args:
        settings: of the run.
        create: makes the experiment, without touching the run folder.

    Returns:
        The experiment, and how it did after the last epoch; None if none was left, or there was nothing to measure.
    """
    with start_processes(settings.device) as processes:
        if processes.device.type == 'cpu':
            keep_memory()
        experiment = create(processes)
        folder = None
        with contextlib.ExitStack() as held:
            if is_primary():
                experiment.check()
                held.enter_context(locked(settings.folder, f'output {settings.folder}: cannot write there'))
                folder = RunFolder(settings.folder, settings.to_dict(), resume=settings.resume is not None)
                held.enter_context(folder.log())
            return experiment, _run_epochs(experiment, folder)


def _run_epochs(experiment: Experiment, folder: RunFolder | None) -> Measurement | None:
    """One process's part; the one with the folder writes."""
    settings, data = experiment.settings, experiment.data
    epochs, interval = settings.epochs, experiment.interval
    start, measured = resume(experiment, folder)
    trackers = create_trackers(folder.path, settings.to_dict(), start) if folder else []
    _logger.info(f'{experiment}; run folder {settings.folder}')
    for remark in data.remarks:
        _logger.info(remark)
    if not start and measured:
        experiment.begin()
    names = experiment.columns
    measurement, began = None, time.perf_counter()
    drawn, undrawn = -float('inf'), False
    try:
        for epoch in range(start, epochs):
            if (measured or epoch > start) and experiment.finished(epoch):
                break
            done = epoch + 1
            due = done == epochs or bool(interval and done % interval == 0)
            if measured or epoch > start:
                metrics = run_epoch(experiment, epoch)
                if folder:
                    folder.add_summary(epoch, metrics, names)
                    if due and data.measured:
                        experiment.save_unmeasured(folder, epoch)
            else:  # it is trained, and could not be measured
                metrics, due = {}, True
            measurement = _measure(experiment) if due else None
            if folder:
                if measurement:
                    folder.add_measured(measurement.metrics())
                undrawn = True
                experiment.save(folder, epoch, measurement, due)
                folder.unmeasured.unlink(missing_ok=True)
                for tracker in trackers:
                    tracker.log(epoch, {k: float(v) for k, v in folder.summary()[-1].items() if v and k != 'epoch'})
            left = datetime.timedelta(seconds=round((epochs - done) * (time.perf_counter() - began) / (done - start)))
            count = f'epoch {done:{len(str(epochs))}}/{epochs}'
            told = experiment.describe(metrics) if metrics else 'measured'
            _logger.info(f'{count}  {told}  left {left}{measurement or ""}')
            if due and (remark := experiment.remark()):
                _logger.info(remark)
            if folder and due and done < epochs and time.monotonic() - drawn > DRAWING:
                _draw(experiment, folder)
                drawn, undrawn = time.monotonic(), False
    except KeyboardInterrupt:
        _logger.info(
            f'interrupted: {experiment.program} --resume {settings.folder} continues after the last whole epoch'
        )
        raise
    finally:
        for tracker in trackers:
            tracker.close()
        if undrawn:
            _draw(experiment, folder)
    return measurement


def _measure(experiment: Experiment) -> Measurement | None:
    try:
        return experiment.measure()
    except InputError as e:
        again = f'{experiment.program} --resume {experiment.settings.folder}'
        raise InputError(f'{e}; the epoch is kept, and {again} measures it') from e


def run_epoch(experiment: Experiment, epoch: int) -> dict[str, float]:
    """Computes an epoch, counted from 0, which depends on (seed, epoch) alone; gives its metrics."""
    processes = experiment.processes
    random_seed((experiment.settings.seed + 1_000_003 * epoch) % 2**32, processes.rank)
    metrics = experiment.run_epoch(epoch)
    if processes.several:  # each has followed the statistics of its own images
        for model in experiment.models:
            distribute_bn(model, processes.count, reduce=True)
    return metrics


def resume(experiment: Experiment, folder: RunFolder | None) -> tuple[int, bool]:
    """Loads the run's last checkpoint, if it is to go on.

    Returns:
        The epoch to go on with, and whether it has to be run; False if it only has to be measured.

    Raises:
        InputError: the checkpoint is of other settings, or of other identities.
    """
    settings, state, measured, start = experiment.settings, None, True, 0
    for path in [settings.folder / name for name in (CHECKPOINT, UNMEASURED) if settings.resume]:
        if path.is_file():
            found = load_checkpoint(path)
            if state is None or found['epoch'] > state['epoch']:
                checkpoint, state, measured = path, found, path.name == CHECKPOINT
    if state is not None:
        check_people(settings.folder, experiment.data.trained_on, experiment.data.remarks, experiment.program)
        try:
            start = state['epoch'] + measured
            experiment.load_state(state)
        except InputError:
            raise
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f'{checkpoint}: does not fit the settings of this run ({one_line(e)})') from e
    if folder:
        folder.write(TRAINED_ON, experiment.data.trained_on.to_json())
        experiment.open(folder, state, measured)
        # also of a run that was killed before its first checkpoint
        folder.drop_summary_from(start + (not measured))
    return start, measured


def load_checkpoint(path: Path) -> dict:
    """What a run has written to go on.

    Raises:
        InputError: the file cannot be read.
    """
    if reason := pointer(path):
        raise InputError(f'{path}: {reason}')
    with explained(f'{path}: cannot be read'):  # broken archives and pickles raise whatever they stumble over
        state = torch.load(path, map_location='cpu', weights_only=True)
    if not isinstance(state, dict):
        raise InputError(f'{path}: holds a {type(state).__name__}, which no run has written')
    if type(state.get('epoch')) is not int or state['epoch'] < 0:
        raise InputError(f'{path}: tells no epoch, and so no run has written it')
    return state


def _draw(experiment: Experiment, folder: RunFolder) -> None:
    """Draws how it went, where matplotlib is installed and there is room; a run does not fail for a chart."""
    try:
        experiment.draw(folder)
    except (MissingPackageError, OSError) as e:
        _logger.info(f'no curves: {e}')
