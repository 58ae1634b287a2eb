"""A search, from settings to a genotype."""

import contextlib
import copy
import functools
import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_model
from timm.utils import AverageMeter, random_seed
from torch.utils.data import DataLoader

from msinet_eval.evaluation import evaluate
from msinet_eval.features.extract import extract, reid_data_config
from msinet_eval.features.forward import evaluation_mode
from msinet_timm.commands import progress
from msinet_timm.datasets import ReIDDataset
from msinet_timm.datasets.cache import ImageCache, open_cache
from msinet_timm.errors import InputError, explained
from msinet_timm.files import replace_file
from msinet_timm.hub.load import load_model
from msinet_timm.models.genotype import UNIFORM, Genotype, check_own_name, keep_genotype
from msinet_timm.models.msinet import WIDTHS, MSINet
from msinet_timm.models.supernet import MSISuperNet
from msinet_timm.processes import Processes, is_primary
from msinet_train.data.loader import create_loader
from msinet_train.data.sources import TrainingData, load_data
from msinet_train.engine.experiment import Experiment
from msinet_train.engine.loop import run
from msinet_train.engine.optim import create_scaler, create_schedule, precision
from msinet_train.models import lacks_weights, wake
from msinet_train.run.folder import RunFolder, holds_run
from msinet_train.run.measure import Measurement, measure

from .judge import Judge, held_out
from .latency import interaction_costs
from .paths import SinglePaths
from .settings import SearchSettings
from .steps import SearchTask, create_optimizers, finite, twins_split, weight_step
from .strategy import Strategy
from .twins import TwinsContrastive

__all__ = ['Search', 'prepare', 'search']

_logger = logging.getLogger(__name__)

#: Of the training half, from which the norms' statistics of a genotype are estimated.
_NORM_BATCHES = 8


@dataclass
class Search(Experiment):
    """What a search consists of.

    Attributes:
        settings: of the search.
        processes: that search together.
        data: the data set as it was read, to be measured on.
        halves: batches for the weights (`'train'`) and for the architecture (`'valid'`).
        labels: classes of each half's images, [N].
        data_config: preprocessing, for timm's transforms.
        cache: where resized images are kept, or None.
        task: supernet and memories.
        weights: optimizer and schedule of the weights.
        command: that started the search.
        strategy: how a genotype is found.
        epoch: the newest, from 0.
    """

    settings: SearchSettings
    processes: Processes
    data: TrainingData
    halves: dict[str, DataLoader]
    labels: dict[str, torch.Tensor]
    data_config: dict
    cache: ImageCache | None
    task: SearchTask
    weights: tuple
    command: str = ''
    strategy: Strategy | None = None
    epoch: int = -1

    program = 'msinet-search'

    def __str__(self) -> str:
        halves = ', '.join(f'{len(d.dataset)} images for the {half} half' for half, d in self.halves.items())
        return (
            f'searching on {", ".join(self.settings.dataset)}: {halves}, {self.settings.epochs} epochs of '
            f'{len(self.halves["train"])} batches'
        )

    @property
    def supernet(self) -> MSISuperNet:
        """What is searched."""
        return self.task.supernet

    @property
    def models(self) -> list[MSISuperNet]:
        return [self.supernet]

    @property
    def interval(self) -> int:
        # of single paths there is nothing to choose before the end
        return self.settings.geno_interval if self.settings.method == 'tcm' else 0

    def load_state(self, state: dict) -> None:
        self.task.load_state_dict(state['task'])
        self.weights[0].load_state_dict(state['weights'])
        self.strategy.load_state_dict(state)
        self.epoch = state['epoch']

    def open(self, folder: RunFolder, state: dict | None, measured: bool) -> None:
        """Keeps the command that started the search; one that resumes it is no other search."""
        file = folder.path / 'command.txt'
        if self.settings.resume and file.is_file():
            self.command = file.read_text(encoding='utf-8').strip()
        else:
            folder.write(file.name, f'{self.command}\n')

    def begin(self) -> None:
        """Fills both memories with the centroids of what the untrained supernet makes of the classes."""
        if self.settings.memory_init != 'centroids':
            return
        for half, loader in self.halves.items():
            features = extract(
                self.supernet,
                loader.dataset.records,
                data_config=self.data_config,
                description=f'memory {half}',
                batch_size=self.settings.batch_size,
                workers=self.settings.workers,
                cache=self.cache,
            )
            self.task.memory(half).initialize(features.embeddings, self.labels[half])

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Trains the weights for an epoch, as the strategy has it; gives its metrics."""
        settings, task, loader = self.settings, self.task, self.halves['train']
        self.epoch = epoch
        loader.batch_sampler.set_epoch(epoch)
        weights, schedule = self.weights
        schedule.step(epoch)
        self.strategy.begin_epoch(epoch)
        amp = precision(settings, task.device, epoch)
        scaler = create_scaler(settings, task.device)
        valid = self._endless('valid', epoch)
        task.train()
        meters = {name: AverageMeter() for name in ('train_loss', 'valid_loss', 'accuracy')}
        began, count = time.perf_counter(), 0
        with progress(loader, desc=f'epoch {epoch + 1}/{settings.epochs}', unit='step', leave=False) as bar:
            for k, raw in enumerate(bar):
                batch = self._to_input('train', raw)
                if not k and self._wakes:
                    if settings.method == 'paths':
                        self.supernet.path = UNIFORM['all_ag']
                    wake(self.supernet, batch[0])
                with amp:
                    valid_loss = self.strategy.before_step(k, batch, valid)
                    if valid_loss is not None:
                        meters['valid_loss'].update(valid_loss)
                    found = weight_step(task, batch, weights, scaler and scaler._scaler)
                meters['train_loss'].update(finite(found['loss'], 'train'))
                correct = (found['output'].argmax(1) == batch[1]).float().mean()
                meters['accuracy'].update(100 * correct.item())
                count += len(batch[0])
                shown = {name: f'{meter.avg:.3g}' for name, meter in meters.items() if meter.count}
                bar.set_postfix(shown, refresh=False)
        metrics = {'lr': weights.param_groups[0]['lr']} | {n: meter.avg for n, meter in meters.items() if meter.count}
        metrics |= self.strategy.metrics()
        return metrics | {'images_per_second': self.processes.count * count / (time.perf_counter() - began)}

    @property
    def _wakes(self) -> bool:
        # a gate that sleeps in shared weights would be rated as no interaction at all
        chosen = self.settings.wake_gates
        return self.settings.method == 'paths' if chosen is None else chosen

    def held_out(self) -> ReIDDataset:
        """Images of people whom the weights have not seen, or with `split` images of those whom they have.

        Raises:
            InputError: no image has a match.
        """
        train, valid = (self.halves[half].dataset.records for half in ('train', 'valid'))
        seen = {r.identity for r in train} if self.settings.split == 'twins' else ()
        return held_out([r for r in valid if r.identity not in seen])

    def judge(self) -> Judge:
        """What rates genotypes by the images held out, which are kept in memory."""
        dataset = self.held_out()
        cache = self.cache or ImageCache('memory', self.settings.workers)
        images = cache.images((*dataset.query, *dataset.gallery), self.data_config)
        random_seed(self.settings.seed)  # so that a search that goes on sees the same batches
        self.halves['train'].batch_sampler.set_epoch(self.settings.epochs)
        batches = [self._to_input('train', raw)[0] for raw in itertools.islice(self.halves['train'], _NORM_BATCHES)]
        return Judge(self.supernet, batches, dataset, images, self.settings.batch_size)

    @contextlib.contextmanager
    def tuned(self, genotype: Genotype) -> Iterator[None]:
        """Within it, the weights have learnt `tune_steps` more steps, with a genotype alone; all see the same batches.

        The learning rate falls from `lr` to 0 by a cosine. Afterwards all is as it was.
        """
        settings, task, steps = self.settings, self.task, self.settings.tune_steps
        if not steps:
            yield
            return
        kept, path, training = copy.deepcopy(task.state_dict()), self.supernet.path, task.training
        optimizer, _ = create_optimizers(settings, self.supernet)
        scaler = create_scaler(settings, task.device)
        self.supernet.path = genotype
        task.train()
        random_seed(settings.seed, self.processes.rank)
        try:
            for step, batch in enumerate(itertools.islice(self._endless('train', settings.epochs), steps)):
                for group in optimizer.param_groups:
                    group['lr'] = settings.lr * (1 + math.cos(math.pi * step / steps)) / 2
                with precision(settings, task.device, settings.epochs):
                    found = weight_step(task, batch, optimizer, scaler and scaler._scaler)
                finite(found['loss'], 'train')
            yield
        finally:
            self.supernet.path = path
            task.load_state_dict(kept)
            task.train(training)

    def _endless(self, half: str, epoch: int) -> Iterator:
        """Batches of a half, for as many as are asked for."""
        loader = self.halves[half]
        for turn in itertools.count():
            loader.batch_sampler.set_epoch(epoch + turn * self.settings.epochs)
            for raw in loader:
                yield self._to_input(half, raw)

    def _to_input(self, half: str, raw: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        batch, indices = raw
        device = self.task.device
        return self.halves[half].dataset.to_input(batch, device), self.labels[half][indices].to(device)

    def measure(self) -> Measurement | None:
        if self.epoch + 1 == self.settings.epochs:
            self.strategy.finish()
        run = functools.partial(
            evaluate,
            data_config=self.data_config,
            workers=self.settings.workers,
            batch_size=self.settings.batch_size,
            cache=self.cache,
        )
        return measure(self.data.measured, run, self.supernet)

    def save(self, folder: RunFolder, epoch: int, measurement: Measurement | None, due: bool) -> None:
        """Writes what the strategy tells, and last the checkpoint that ends the epoch."""
        names = ('dataset', 'variant', 'method', 'seed')
        details = {name: getattr(self.settings, name) for name in names} | {'epochs': epoch + 1}
        self.strategy.save(folder, epoch, due, details | {'command': self.command})
        if due:
            replace_file(folder.path / 'supernet.safetensors', lambda draft: save_model(self.supernet, str(draft)))
        self._save_checkpoint(folder.checkpoint, epoch)

    def save_unmeasured(self, folder: RunFolder, epoch: int) -> None:
        self._save_checkpoint(folder.unmeasured, epoch)

    def _save_checkpoint(self, path: Path, epoch: int) -> None:
        checkpoint = {
            'epoch': epoch,
            'task': self.task.state_dict(),
            'weights': self.weights[0].state_dict(),
            **self.strategy.state_dict(),
        }
        replace_file(path, lambda draft: torch.save(checkpoint, draft))

    def draw(self, folder: RunFolder) -> None:
        self.strategy.draw(folder)

    def describe(self, metrics: dict[str, float]) -> str:
        return '  '.join(f'{name} {value:.4g}' for name, value in metrics.items())

    def remark(self) -> str:
        return self.strategy.remark()


def search(settings: SearchSettings, command: str = '') -> Genotype:
    """Runs a search, or what is left of one; gives the genotype that it ends with.

    Everything random in an epoch depends on (seed, epoch) alone, as in a training.

    Args:
        settings: of the search.
        command: that started it, to be kept with the genotype.

    Raises:
        InputError: settings, data or a folder that cannot be used; the message says which and why.
    """

    def create(processes: Processes) -> Search:
        if processes.device.type == 'cpu':
            # The softmax of cross attention and its gradients are full of numbers below 1e-38, and with them most CPUs
            # compute a hundred times slower. Threads inherit the setting from the one that starts them.
            torch.set_flush_denormal(True)
        return prepare(settings, processes, command)

    found = run(settings, create)[0].strategy
    if settings.keep and is_primary():
        for number, genotype in enumerate(found.results()):
            name = settings.keep if settings.objective != 'front' else f'{settings.keep}_{number}'
            _logger.info(f'kept as msinet_{name}_x1_0 and so on: {keep_genotype(name, genotype, command=command)}')
    return found.genotype()


def prepare(settings: SearchSettings, processes: Processes, command: str = '') -> Search:
    """Makes everything, without touching the run folder.

    Raises:
        InputError: settings or data that cannot be used.
    """
    device = processes.device
    precision(settings, device)
    if settings.order == 2 and settings.opt != 'momentum':
        raise InputError(f'order 2 looks ahead a step of plain SGD, not of {settings.opt}: leave out `opt`')
    if settings.keep:
        try:
            check_own_name(settings.keep)
        except InputError as e:
            raise InputError(f'keep {settings.keep}: {e}') from e
    data = load_data(settings)
    halves = twins_split(data, shared=settings.split == 'images')._asdict()
    identities = settings.batch_size // settings.num_instance * processes.count
    fewest = min(part.num_classes for part in halves.values())
    if fewest < identities:
        raise InputError(
            f'the smaller half of the search has {fewest} identities, three fifths of {data.num_classes}; a batch of '
            f'{identities} needs {-(-identities // 3) * 5} in all: use a smaller `batch_size`, or a larger '
            '`num_instance`'
        )
    random_seed(settings.seed)
    supernet = MSISuperNet(halves['train'].num_classes, WIDTHS[settings.variant], mid_from=settings.mid_from)
    size = settings.height, settings.width
    with (
        explained(f'height {size[0]}, `width` {size[1]}: cannot be searched at'),
        torch.no_grad(),
        evaluation_mode(supernet),
    ):
        supernet(torch.zeros(1, 3, *size))
    if settings.start_from and not (settings.resume and holds_run(settings.folder)):
        _start(supernet, settings.start_from)
    supernet.set_grad_checkpointing(settings.grad_checkpointing)
    data_config = reid_data_config(supernet, settings.height, settings.width)
    task = SearchTask(
        supernet,
        *(part.num_classes for part in halves.values()),
        settings.memory_momentum,
        settings.temperature,
        reid=(settings.loss or {'tcm': 'memory', 'paths': 'reid'}[settings.method]) == 'reid',
    )
    task.to(device, memory_format=torch.channels_last)
    cache = open_cache(settings.cache, settings.workers)
    weights, arch = create_optimizers(settings, supernet)
    search = Search(
        settings=settings,
        processes=processes,
        data=data,
        halves={
            half: create_loader(settings, part, data_config, device, cache, processes) for half, part in halves.items()
        },
        labels={half: part.labels for half, part in halves.items()},
        data_config=data_config,
        cache=cache,
        task=task,
        weights=(weights, create_schedule(weights, settings)),
        command=command,
    )
    costs = _costs(settings, processes) if settings.objective != 'contrastive' else None
    if settings.method == 'tcm':
        search.strategy = TwinsContrastive(settings, task, weights, arch, costs)
    else:
        search.held_out()  # which may fail now, but not in the end
        search.strategy = SinglePaths(settings, supernet, search.judge, search.tuned, costs)
    return search


def _start(supernet: MSISuperNet, name: str) -> None:
    try:
        if lacks_weights(name):
            raise InputError('has no weights to start from')
        model = load_model(name, pretrained=True)
        if not isinstance(model, MSINet):
            raise InputError(f'is a {type(model).__name__}, no MSINet')
        supernet.load_trunk(model)
    except InputError as e:
        raise InputError(f'start_from {name}: {e}') from e


def _costs(settings: SearchSettings, processes: Processes) -> torch.Tensor:
    costs = interaction_costs(WIDTHS[settings.variant], (settings.height, settings.width), processes.device)
    if processes.several:  # all must search for the same
        dist.broadcast(costs, 0)
    return costs
