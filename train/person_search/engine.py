"""A training of person search, from settings to a run."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from timm.models import is_model_pretrained
from timm.scheduler.scheduler import Scheduler
from timm.utils import CheckpointSaver, random_seed
from torch.utils.data import DataLoader

from msinet_eval.scenes import evaluate_scenes
from msinet_timm.commands import progress
from msinet_timm.errors import InputError
from msinet_timm.files import drafts
from msinet_timm.hub.load import resolve_name
from msinet_timm.person_search import PersonSearch, SearchNetwork, create_search_network, load_search, save_search
from msinet_timm.person_search.card import write_search_card
from msinet_timm.person_search.folder import is_search_folder
from msinet_timm.processes import Processes, start_processes
from msinet_train.curves import write_curves
from msinet_train.engine.experiment import Experiment
from msinet_train.engine.loop import TrainingResult, resume, run
from msinet_train.engine.optim import Stepper, create_optimizer, create_scaler, create_schedule, precision
from msinet_train.losses.oim import OIMLoss
from msinet_train.models import keep_frozen
from msinet_train.run.folder import RunFolder, check_saver, holds_run

from .data import Batch, SceneData, create_loader, load_scenes
from .measure import COLUMNS, SceneMeasurement
from .settings import PersonSearchSettings
from .task import PersonSearchTask

__all__ = ['PersonSearchTraining', 'evaluate_only', 'prepare', 'train_person_search']

#: Settings that the card leaves out: where things are.
_NOT_SHOWN = ('data_dir', 'device', 'workers', 'log_tensorboard', 'log_wandb', 'wandb_project')


@dataclass
class PersonSearchTraining(Experiment):
    """What a training of person search consists of.

    Attributes:
        settings: of the run.
        processes: this one alone.
        data: scenes to learn from and to be measured on.
        task: network, memory of identities, and losses.
        stepper: with the optimizer.
        scheduler: of the learning rate.
        loader: of batches.
        saver: of checkpoints; None until there is a folder.
    """

    settings: PersonSearchSettings
    processes: Processes
    data: SceneData
    task: PersonSearchTask
    stepper: Stepper
    scheduler: Scheduler
    loader: DataLoader
    saver: CheckpointSaver | None = None

    program = 'msinet-train'

    def __str__(self) -> str:
        frames = self.data.scenes.train
        return (
            f'person search by {self.settings.model} on {", ".join(self.settings.dataset)}: {len(frames)} frames, '
            f'{sum(len(scene.boxes) for scene in frames)} boxes, {len(self.data.classes)} identities, '
            f'{self.settings.epochs} epochs of {len(self.loader)} batches'
        )

    @property
    def network(self) -> SearchNetwork:
        """What is trained."""
        return self.task.trainable_module

    @property
    def models(self) -> list[SearchNetwork]:
        return [self.network]

    @property
    def interval(self) -> int:
        return self.settings.eval_interval

    @property
    def columns(self) -> list[str]:
        return list(COLUMNS)

    def check(self) -> None:
        """Every frame is read in training, and an error names it."""

    def load_state(self, state: dict) -> None:
        check_saver(state.get('saver'))
        self.task.load_checkpoint_state(state['state_dict'], state['task_state'])
        self.stepper.optimizer.load_state_dict(state['optimizer'])
        if self.stepper.scaler is not None and 'amp_scaler' in state:
            self.stepper.scaler.load_state_dict(state['amp_scaler'])

    def open(self, folder: RunFolder, state: dict | None, measured: bool) -> None:
        self.saver = folder.create_saver(
            model=self.network, task=self.task, optimizer=self.stepper.optimizer, amp_scaler=self.stepper.scaler
        )
        if state is not None:
            self.saver.load_state_dict(state['saver'])

    def _to_device(self, batch: Batch) -> Batch:
        device = self.task.device
        images, boxes, labels = ([one.to(device, non_blocking=True) for one in part] for part in batch)
        return [image.float() / 255 for image in images], boxes, labels

    def run_epoch(self, epoch: int) -> dict[str, float]:
        settings, task, batches = self.settings, self.task, len(self.loader)
        alone = epoch < settings.detector_epochs
        self.loader.batch_sampler.set_epoch(epoch)
        self.stepper.amp = precision(settings, self.processes.device, epoch)
        task.train()
        keep_frozen(task)
        sums: dict[str, float] = {}
        began, count = time.perf_counter(), 0
        with progress(self.loader, desc=f'epoch {epoch + 1}/{settings.epochs}', unit='batch', leave=False) as bar:
            for k, batch in enumerate(bar):
                self.scheduler.step_update(epoch * batches + k)
                with self.stepper.amp:
                    terms = task(*self._to_device(batch), alone)
                value = terms['loss'].item()
                if not math.isfinite(value):
                    raise InputError(
                        f'the loss became {value}: lower `lr` or lengthen `warmup_step`; the last checkpoint is intact'
                    )
                self.stepper(terms['loss'], k, batches)
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0.0) + term.item()
                count += len(batch[0])
                bar.set_postfix({name: f'{total / (k + 1):.3g}' for name, total in sums.items()}, refresh=False)
        metrics = {'lr': max(group['lr'] for group in self.stepper.optimizer.param_groups)}
        metrics |= {name: total / batches for name, total in sums.items()}
        if alone:
            metrics['identity'] = float('nan')
        return metrics | {'images_per_second': count / (time.perf_counter() - began)}

    def measure(self) -> SceneMeasurement | None:
        if not self.data.measured:
            return None
        return SceneMeasurement(evaluate_scenes(PersonSearch(self.network, self.task.device), self.data.scenes))

    def save_unmeasured(self, folder: RunFolder, epoch: int) -> None:
        self.saver.save_unmeasured(folder.unmeasured, epoch)

    def save(self, folder: RunFolder, epoch: int, measurement: SceneMeasurement | None, due: bool) -> None:
        metric = None if measurement is None else measurement.metrics()['mAP']
        improved = metric is not None and (self.saver.best_metric is None or metric > self.saver.best_metric)
        for name in ['last'] * bool(due) + ['best'] * improved:
            self._save_model(folder.path / name, epoch, measurement)
        self.saver.save_checkpoint(epoch, metric=metric)

    def _save_model(self, place: Path, epoch: int, measurement: SceneMeasurement | None) -> None:
        settings, data = self.settings, self.data
        ((learnt,), (dataset,)) = data.trained_on.sources, settings.dataset
        frames = f'{len(data.scenes.train):,} frames, {len(data.classes):,} identities'
        card = write_search_card(
            place.parent.absolute().name,
            f'`{settings.model}`, trained to find people in whole images and to recognise them in others.',
            self.network.config,
            {} if measurement is None else {dataset: measurement.result.metrics},
            training_data=[dataset],
            facts=[
                f'Trained on: {dataset} ({frames})',
                f'State: weights after epoch {epoch + 1} of {settings.epochs}',
                f'{len(learnt.identities):,} identities, SHA-256 of their names: {learnt.digest}',
            ],
            remarks=data.remarks,
            settings=yaml.safe_dump(
                {name: value for name, value in settings.to_dict().items() if name not in _NOT_SHOWN},
                default_flow_style=None,
            ),
        )
        with drafts(place, f'{place}: cannot write the model') as draft:
            save_search(self.network, draft)
            (draft / 'README.md').write_text(card, encoding='utf-8')

    def draw(self, folder: RunFolder) -> None:
        write_curves(folder.path / 'summary.csv', folder.path / 'curves.png')

    def describe(self, metrics: dict[str, float]) -> str:
        return (
            f'lr {metrics["lr"]:<7.2g}  loss {metrics["loss"]:.3f}  identity {metrics["identity"]:.3f}  '
            f'{metrics["images_per_second"]:.1f} frames/s'
        )


def train_person_search(settings: PersonSearchSettings) -> TrainingResult:
    """Trains a network of person search, or what is left of such a training.

    Everything random in an epoch depends on (seed, epoch) alone, as in every training.

    Raises:
        InputError: settings, data or a folder that cannot be used; the message says which and why.
    """
    training, measurement = run(settings, lambda processes: prepare(settings, processes))
    saver = training.saver
    return TrainingResult(settings.folder, saver.best_metric or 0.0, saver.best_epoch or 0, measurement)


def evaluate_only(settings: PersonSearchSettings) -> SceneMeasurement:
    """Measures the network that a training would start from, or the newest checkpoint of the run to resume.

    Raises:
        InputError: see `train_person_search`; or there is nothing to measure on.
    """
    with start_processes(settings.device) as processes:
        training = prepare(settings, processes)
        resume(training, None)
        measurement = training.measure()
    if measurement is None:
        raise InputError(f'{", ".join(settings.dataset)}: has no queries to measure with')
    return measurement


def prepare(settings: PersonSearchSettings, processes: Processes) -> PersonSearchTraining:
    """Makes everything, without touching the run folder.

    Raises:
        InputError: settings or data that cannot be used.
    """
    if processes.several:
        raise InputError('task search trains in one process: start it without torchrun')
    device = processes.device
    precision(settings, device)
    data = load_scenes(settings)
    random_seed(settings.seed)
    network = _create_network(settings)
    memory = OIMLoss(
        len(data.classes), network.embedding_size, settings.queue, settings.memory_momentum, settings.temperature
    )
    task = PersonSearchTask(network, memory, settings.identity_weight, settings.box_jitter).to(device)
    loader = create_loader(settings, data)
    optimizer = create_optimizer(settings, task, _parameter_groups(settings, network))
    return PersonSearchTraining(
        settings=settings,
        processes=processes,
        data=data,
        task=task,
        stepper=Stepper(
            task,
            optimizer,
            create_scaler(settings, device),
            accumulate=settings.grad_accum_steps,
            clip=settings.clip_grad,
        ),
        scheduler=create_schedule(optimizer, settings, len(loader)),
        loader=loader,
    )


def _create_network(settings: PersonSearchSettings) -> SearchNetwork:
    name, sizes = settings.model, {'min_size': settings.min_size, 'max_size': settings.max_size}
    # of five stages, where none is named, the last three go on learning
    stages = 3 if settings.trainable_stages is None and settings.pretrained else settings.trainable_stages
    try:
        if is_search_folder(name):
            for given, what in ((settings.genotype, 'genotype'), (not settings.pretrained, 'pretrained')):
                if given:
                    raise InputError(f'it is a network of person search, which is taken as it is: leave out `{what}`')
            return load_search(name, trainable_stages=stages, **sizes)
        name = resolve_name(name)
        if settings.pretrained and ':' not in name and not is_model_pretrained(name):
            raise InputError('it has no weights: choose another one, or --no-pretrained to start at random')
        return create_search_network(
            name,
            pretrained=settings.pretrained and not (settings.resume and holds_run(settings.folder)),
            genotype=settings.genotype,
            trainable_stages=stages,
            frozen_norm=settings.pretrained,
            **{side: size for side, size in sizes.items() if size},
        )
    except InputError as e:
        raise InputError(f'model {settings.model}: {e}') from e


def _parameter_groups(settings: PersonSearchSettings, network: SearchNetwork) -> list[dict]:
    """What begins with weights, and what does not."""
    begun = [*network.backbone.body.parameters(), *network.embedder.parameters()]
    known = {id(p) for p in begun}
    fresh = [p for p in network.parameters() if id(p) not in known]
    return [
        {'params': [p for p in parameters if p.requires_grad], 'lr_scale': scale}
        for parameters, scale in ((fresh, 1.0), (begun, settings.lr_pretrained if settings.pretrained else 1.0))
    ]
