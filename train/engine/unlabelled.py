"""Learning from crops that nobody has labelled: rounds of joining them across cameras and of training on the groups."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from timm.utils import CheckpointSaver, random_seed
from torch import nn

from msinet_eval.evaluation import evaluate
from msinet_eval.features.extract import extract, reid_data_config
from msinet_eval.features.types import Features
from msinet_eval.report import EvaluationResult
from msinet_timm.datasets import ReIDDataset
from msinet_timm.datasets.cache import open_cache
from msinet_timm.datasets.records import Record
from msinet_timm.errors import InputError, explained
from msinet_timm.files import replace_rows
from msinet_timm.hub.adapt import adapt
from msinet_timm.models.camera_norm import CameraNorms
from msinet_timm.processes import Processes
from msinet_train.curves import read_rows
from msinet_train.data.sources import load_data
from msinet_train.grouping import Groups, agreement, choose_held_out, group_crops, retrieval
from msinet_train.models import backbone_of
from msinet_train.run.card import model_card
from msinet_train.run.folder import RunFolder
from msinet_train.run.measure import Measurement, calibrate, measure
from msinet_train.settings import TrainSettings

from .experiment import Experiment
from .setup import create_model, prepare
from .training import Training

__all__ = ['UnlabelledTraining']

_logger = logging.getLogger(__name__)

#: Groups of two rounds that are so much alike are the same.
UNCHANGED = 0.98
#: So much of mAP among held-out crops is chance: they are few, and the first model, which groups them, is ahead.
CHANCE = 0.02


@dataclasses.dataclass(frozen=True)
class _Sight:
    """The crops as a model sees them.

    Attributes:
        norms: of the crops' cameras.
        features: of all crops.
        mAP: among the crops that are held out, 0 to 1; NaN where there are none, or once they are learnt.
    """

    norms: CameraNorms
    features: Features
    mAP: float


class UnlabelledTraining(Experiment):
    """Rounds of a training: crops are embedded by camera norms, joined to groups, and the model learns those.

    Each round begins anew with the weights that the run began with, so that what was joined wrongly leaves no trace.
    Some groups of the model that the run begins with are held out: how well their crops find each other tells without
    labels whether rounds make the model worse by more than `CHANCE`. Where they do, `best` stays the model that the run
    began with. Else there is a last round, twice as long as the others, once groups no longer change or epochs run out:
    it learns all crops, those held out too, as one refits on all data after validation.

    A run's folder also has `rounds.csv`, and the groups of each round in `groups/`.

    Args:
        settings: of the run.
        processes: that train together.

    Raises:
        InputError: crops without cameras, of one camera only, or settings that cannot be used.
    """

    program = 'msinet-train'

    def __init__(self, settings: TrainSettings, processes: Processes) -> None:
        self.settings, self.processes = settings, processes
        self.data = load_data(settings)
        self._check()
        self._held_out = Groups(torch.full((len(self.data.train),), -1))  # groups that are not learnt at first
        self._used = np.arange(len(self.data.train))
        self._begun = 0  # the epoch that this round began with
        self._last = False
        self._rounds: list[dict[str, str]] = []  # of the process that writes
        self._ends: dict[int, float] = {}  # by epochs, mAP among held-out crops then
        self._groups: Groups | None = None
        self._training: Training | None = None
        self._sight: _Sight | None = None
        self._folder: RunFolder | None = None
        self._cache = open_cache(settings.cache, settings.workers)
        random_seed(settings.seed)  # a resumed run begins its rounds as the others
        self._start = create_model(settings, 1)
        self._data_config = reid_data_config(backbone_of(self._start), settings.height, settings.width)

    def _check(self) -> None:
        settings, cameras = self.settings, {record.camera for record in self.data.train}
        if len(settings.dataset) > 1:
            raise InputError(
                f'unlabelled: crops of one site are joined, but `dataset` names {len(settings.dataset)}: give one'
            )
        if settings.batch_size % settings.num_instance:
            raise InputError(
                f'batch_size {settings.batch_size} is not a multiple of `num_instance` {settings.num_instance}'
            )
        if None in cameras or len(cameras) < 2:
            known = 'cameras are not known' if None in cameras else f'all are of camera {cameras.pop()}'
            raise InputError(
                f'unlabelled: people are joined across cameras, but of the images to learn from {known}; they lie in '
                '<camera>/ or <camera>/<tracklet>/ for -ds folder, or a table tells of them'
            )
        if settings.epochs % self._length:
            raise InputError(
                f'epochs {settings.epochs} must be a multiple of `round_epochs` {settings.round_epochs}: as many '
                'epochs have the rounds that it is made of'
            )

    def __str__(self) -> str:
        return (
            f'{self.settings.model} on {", ".join(self.settings.dataset)}: {len(self.data.train)} crops of '
            f'{len({record.camera for record in self.data.train})} cameras, no labels, up to '
            f'{self.settings.epochs // self._length} rounds of {self._length} epochs'
        )

    @property
    def _length(self) -> int:
        """Epochs of a round that others follow."""
        return min(self.settings.round_epochs, self.settings.epochs)

    @property
    def _last_length(self) -> int:
        """Epochs of the last round, if there are enough for one; else 0."""
        return min(2 * self._length, self.settings.epochs - self._length)

    @property
    def interval(self) -> int:
        asked = self.settings.eval_interval
        return asked if asked and self._length % asked == 0 else self._length  # the end of a round is always measured

    @property
    def saver(self) -> CheckpointSaver | None:
        return self._training and self._training.saver

    @property
    def models(self) -> list[nn.Module]:
        return self._training.models

    @property
    def measures_average(self) -> bool:
        return False

    def load_state(self, state: dict) -> None:
        number = state['epoch'] // self._length
        last = [i for i in range(number + 1) if self._place(i, last=True).is_file()]
        if last:
            self._use_all()
            number = last[-1]
        self._begun = number * self._length
        self._held_out = self._read_groups(self._held_out_place, self.data.train)
        if not self._last:
            self._used = np.flatnonzero(self._held_out.labels < 0)
        self._groups = self._read_groups(self._place(number, self._last), self._used_crops)
        self._training = self._prepare(self._groups)
        self._training.load_state(state)
        rows = read_rows(self.settings.folder / 'rounds.csv')
        self._rounds = [row for row in rows if int(row['epochs']) <= state['epoch'] + 1]
        ends = {int(row['epochs']): float(row['held_out_mAP']) for row in self._rounds}
        self._ends = {epochs: mAP for epochs, mAP in ends.items() if epochs % self._length == 0}

    def open(self, folder: RunFolder, state: dict | None, measured: bool) -> None:
        self._folder = folder
        if self._training is not None:
            self._training.open(folder, state, measured)

    def finished(self, epoch: int) -> bool:
        if self._last:
            return epoch == self._begun + self._last_length
        return epoch % self._length == 0 and not self._begin_round(epoch)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        self._sight = None
        return self._training.run_epoch(epoch - self._begun)

    def measure(self) -> Measurement | None:
        norms = self._look().norms
        options = {'device': self.processes.device, 'data_config': self._data_config, 'cache': self._cache}
        options |= {'workers': self.settings.workers, 'batch_size': self.settings.batch_size}

        def evaluate_known(model: nn.Module, dataset: ReIDDataset) -> EvaluationResult:
            known = any(record.camera in norms for record in (*dataset.query, *dataset.gallery))
            return evaluate(model, dataset, norms=norms if known else None, **options)

        return measure(self.data.measured, evaluate_known, norms.model)

    def save_unmeasured(self, folder: RunFolder, epoch: int) -> None:
        self._training.save_unmeasured(folder, epoch)

    def save(self, folder: RunFolder, epoch: int, measurement: Measurement | None, due: bool) -> None:
        if due:
            improved = self._add_round(epoch + 1)
            for name in ['last'] + ['best'] * improved:
                self._save_model(folder, name, epoch, measurement)
        self._training.saver.save_checkpoint(epoch)
        self._training.saver.save_milestone_if_due(epoch + 1, self.settings.checkpoint_interval)

    def draw(self, folder: RunFolder) -> None:
        self._training.draw(folder)

    def describe(self, metrics: dict[str, float]) -> str:
        return self._training.describe(metrics)

    def remark(self) -> str:
        known = self._known
        if not known:
            return 'nothing is held out: whether the model became better is not known'
        told = (
            f'mAP among held-out crops, by the groups of the first model: {known[-1]:.1%}, at the start {known[0]:.1%}'
        )
        if self._last:
            return f'{told}; this was before the last round, which learns them, too'
        if known[-1] < known[0] - CHANCE:
            told += '; this model may be WORSE than what it began with'
        return told

    @property
    def _known(self) -> list[float]:
        """mAP among crops that are held out: at the start, and after each round that left them out."""
        return [mAP for row in self._rounds if not math.isnan(mAP := float(row['held_out_mAP']))]

    @property
    def _whole(self) -> nn.Module:
        """The model so far, with its necks."""
        return self._start if self._training is None else self.models[-1]

    def _look(self) -> _Sight:
        """The crops as the model sees them now."""
        if self._sight is None:
            settings, crops = self.settings, self.data.train
            options = {'workers': settings.workers, 'device': self.processes.device, 'data_config': self._data_config}
            norms = adapt(backbone_of(self._whole), crops, crops=settings.camera_crops, **options)
            features = extract(
                norms.model, crops, norms=norms, cache=self._cache, distributed=self.processes.several, **options
            )
            self._sight = _Sight(norms, features, self._retrieval(features))
        return self._sight

    def _retrieval(self, features: Features) -> float:
        return float('nan') if self._last else retrieval(features.embeddings, self.data.train, self._held_out)

    def _hold_out(self) -> None:
        """Chooses what is not learnt at first."""
        sight, settings = self._look(), self.settings
        groups = group_crops(sight.features.embeddings, self.data.train)
        self._held_out = choose_held_out(groups, settings.held_out, settings.seed)
        self._used = np.flatnonzero(self._held_out.labels < 0)
        self._sight = dataclasses.replace(sight, mAP=self._retrieval(sight.features))

    def _begin_round(self, epoch: int) -> bool:
        """Groups the crops and gets ready to learn them; False where no further round would make the model better."""
        if epoch == 0:
            self._hold_out()
            self._add_round(0)
            if self._folder is not None:
                self._write_groups(self._held_out_place, self._held_out, self.data.train)
                self._save_model(self._folder, 'best', -1, None)  # it stays so where no round makes it better
        self._ends[epoch] = round(self._look().mAP, 4)
        before, left = self._groups, self.settings.epochs - epoch
        groups = self._group()
        alike = 0.0 if before is None else agreement(before, groups)
        told = f'; agreement with the round before: {alike:.3f}' if before else ''
        _logger.info(f'round {epoch // self._length + 1}: {groups}{told}')
        if before and (alike >= UNCHANGED or left <= self._last_length):
            if max(list(self._ends.values())[1:]) < self._ends[0] - CHANCE:
                _logger.info('rounds make the model worse: that was the last one')
                return False
            self._use_all()
            groups = self._group()
            why = 'groups no longer change: ' if alike >= UNCHANGED else ''
            _logger.info(f'{why}the last round, of {self._last_length} epochs, learns all crops: {groups}')
        if groups.count < 2 * self.processes.count:
            raise InputError(
                f'unlabelled: only {groups.count} groups of crops were found under several cameras, for '
                f'{self.processes.count} processes: give more crops, of people who cross several cameras, or a model '
                'that tells people apart'
            )
        self._groups, self._begun = groups, epoch
        training = self._prepare(groups)
        weights = {name: tensor for name, tensor in self._start.state_dict().items() if 'classifier' not in name}
        training.model.load_state_dict(weights, strict=False)
        if training.average is not None:
            training.average.load_state_dict(training.model.state_dict())
        if self._folder is not None:
            self._write_groups(self._place(epoch // self._length, self._last), groups, self._used_crops)
            training.open(self._folder, None, True)
            if self.saver is not None:
                training.saver.load_state_dict(self.saver.state_dict())
        self._training, self._sight = training, None
        return True

    def _group(self) -> Groups:
        """Groups of the crops that are learnt."""
        return group_crops(self._look().features.embeddings[torch.from_numpy(self._used)], self._used_crops)

    def _use_all(self) -> None:
        """Makes the round that begins, or goes on, the last one."""
        self._last, self._used = True, np.arange(len(self.data.train))

    @property
    def _used_crops(self) -> list[Record]:
        return [self.data.train[i] for i in self._used]

    def _prepare(self, groups: Groups) -> Training:
        """What the training of this round consists of; its weights are still to come."""
        settings, number = self.settings, self._begun // self._length
        length = self._last_length if self._last else self._length
        size = (
            min(groups.count // self.processes.count, settings.batch_size // settings.num_instance)
            * settings.num_instance
        )
        if size < settings.batch_size:
            _logger.info(f'batches of {size} images instead of {settings.batch_size}: there are no more groups')
        settings = dataclasses.replace(settings, epochs=length, seed=settings.seed + number, batch_size=size)
        labelled = [
            record._replace(identity=str(label))
            for record, label in zip(self._used_crops, groups.labels.tolist(), strict=True)
            if label >= 0
        ]
        data = dataclasses.replace(self.data, train=tuple(labelled), labels=groups.labels[groups.labels >= 0])
        return prepare(settings, self.processes, data, fresh=False)

    def _add_round(self, epochs: int) -> bool:
        """Notes how the model does after so many epochs; whether no worse than the best so far, but for chance."""
        mAP, groups = round(self._look().mAP, 4), self._groups
        self._rounds = [row for row in self._rounds if int(row['epochs']) < epochs]  # not one that was interrupted
        best = max(self._known, default=0.0)
        found = (groups.count, int((groups.labels >= 0).sum())) if groups else (0, 0)
        row = (epochs, f'{mAP:.4f}', *found)
        self._rounds.append(dict(zip(('epochs', 'held_out_mAP', 'groups', 'crops'), map(str, row), strict=True)))
        if self._folder is not None:
            rows = [self._rounds[0].keys(), *(row.values() for row in self._rounds)]
            replace_rows(self._folder.path / 'rounds.csv', rows)
        return not mAP < best - CHANCE

    def _save_model(self, folder: RunFolder, name: str, epoch: int, measurement: Measurement | None) -> None:
        title = folder.path.absolute().name
        counts = self._look().norms.counts.values()  # names of cameras are nobody else's business
        remarks = ['No label was used: groups of crops were found by the model itself.']
        if epoch >= 0:
            remarks.append(self.remark())
        sizes = {'crops': len(self.data.train), 'groups': self._groups.count if self._groups else 0}
        card = model_card(
            self.settings, title, epoch, sizes, measurement, [*remarks, *self.data.remarks],
            facts=[f'Norms of {len(counts)} cameras, from {min(counts)} to {max(counts)} crops of each'],
            trained_on=self.data.trained_on,
        )  # fmt: skip
        calibration = calibrate(measurement.main, title) if measurement else None
        norms = self._look().norms
        folder.save_model(name, norms.model, self._data_config, card, calibration, norms)

    def _place(self, number: int, last: bool = False) -> Path:
        """Of the groups of a round, counted from 0."""
        return self.settings.folder / 'groups' / f'round-{number + 1}{"-last" * last}.csv'

    @property
    def _held_out_place(self) -> Path:
        return self.settings.folder / 'groups' / 'held-out.csv'

    def _write_groups(self, place: Path, groups: Groups, crops: Sequence[Record]) -> None:
        place.parent.mkdir(exist_ok=True)
        labels = (label if label >= 0 else '' for label in groups.labels.tolist())
        rows = [(r.path, r.camera, r.tracklet or '', label) for r, label in zip(crops, labels, strict=True)]
        replace_rows(place, [('path', 'camera', 'tracklet', 'group'), *rows])

    def _read_groups(self, place: Path, crops: Sequence[Record]) -> Groups:
        """Groups of a round that is to go on.

        Raises:
            InputError: they are gone, or of other crops.
        """
        if not place.is_file():
            raise InputError(f'{place}: is gone, so that this run cannot go on; begin another one')
        with explained(f'{place}: cannot be read, so that this run cannot go on'):
            rows = read_rows(place)
        if [row['path'] for row in rows] != [record.path for record in crops]:
            raise InputError(f'{place}: the crops are no longer those of this run; begin another one')
        return Groups(torch.tensor([int(row['group'] or -1) for row in rows]))
