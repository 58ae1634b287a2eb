"""The twins contrastive search, from settings to a genotype."""

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from timm.utils import AverageMeter, random_seed
from torch.utils.data import DataLoader

from msinet_eval.evaluation import evaluate
from msinet_eval.features.extract import extract, reid_data_config
from msinet_eval.features.forward import evaluation_mode
from msinet_timm.commands import progress
from msinet_timm.datasets.cache import ImageCache, open_cache
from msinet_timm.errors import InputError, explained
from msinet_timm.files import replace_file
from msinet_timm.models.genotype import Genotype
from msinet_timm.models.msinet import WIDTHS
from msinet_timm.models.supernet import MSISuperNet
from msinet_timm.processes import Processes
from msinet_train.data.loader import create_loader
from msinet_train.data.sources import TrainingData, load_data
from msinet_train.engine.experiment import Experiment
from msinet_train.engine.loop import run
from msinet_train.engine.optim import create_scaler, create_schedule, precision
from msinet_train.run.folder import RunFolder
from msinet_train.run.measure import Measurement, measure

from .latency import interaction_costs
from .report import add_mixture, genotype_table, read_mixtures, write_mixtures_chart
from .settings import SearchSettings
from .steps import SearchTask, architecture_step, create_optimizers, twins_split, weight_step

__all__ = ['Search', 'prepare', 'search']


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
        arch: optimizer and schedule of the architecture.
        costs: [12, 4] milliseconds of the interactions where latency counts, else None.
        command: that started the search.
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
    arch: tuple
    costs: torch.Tensor | None
    command: str = ''

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
        return self.settings.geno_interval

    def load_state(self, state: dict) -> None:
        self.task.load_state_dict(state['task'])
        self.weights[0].load_state_dict(state['weights'])
        self.arch[0].load_state_dict(state['arch'])
        if self.costs is not None and state['costs'] is not None:
            self.costs.copy_(state['costs'])

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
        """Alternates between architecture and weights for an epoch; gives its metrics."""
        settings, task, loader = self.settings, self.task, self.halves['train']
        loader.batch_sampler.set_epoch(epoch)
        for _, schedule in (self.weights, self.arch):
            schedule.step(epoch)
        weights, arch = self.weights[0], self.arch[0]
        amp = precision(settings, task.device, epoch)
        scaler = create_scaler(settings, task.device)
        valid = self._endless(epoch)
        task.train()
        meters = {name: AverageMeter() for name in ('train_loss', 'valid_loss', 'accuracy')}
        began, count = time.perf_counter(), 0
        with progress(loader, desc=f'epoch {epoch + 1}/{settings.epochs}', unit='step', leave=False) as bar:
            for k, raw in enumerate(bar):
                batch = self._to_input('train', raw)
                with amp:
                    if k:  # as published, an epoch begins with the weights
                        found = architecture_step(
                            task,
                            next(valid),
                            arch,
                            train=batch if settings.order == 2 else None,
                            weight_optimizer=weights,
                            penalty=self._latency(),
                        )
                        meters['valid_loss'].update(_finite(found['loss'], 'valid'))
                    found = weight_step(task, batch, weights, scaler and scaler._scaler)
                meters['train_loss'].update(_finite(found['loss'], 'train'))
                correct = (found['output'].argmax(1) == batch[1]).float().mean()
                meters['accuracy'].update(100 * correct.item())
                count += len(batch[0])
                bar.set_postfix({name: f'{meter.avg:.3g}' for name, meter in meters.items()}, refresh=False)
        mixture = self.supernet.mixture().detach()
        metrics = {'lr': weights.param_groups[0]['lr'], 'arch_lr': arch.param_groups[0]['lr']}
        metrics |= {name: meter.avg for name, meter in meters.items()}
        metrics['entropy'] = float(-(mixture * mixture.log()).sum(1).mean())
        if self.costs is not None:
            metrics['expected_ms'] = float((mixture * self.costs).sum())
        return metrics | {'images_per_second': self.processes.count * count / (time.perf_counter() - began)}

    def _endless(self, epoch: int) -> Iterator:
        """Batches of the validation half, for as many as the training half has."""
        loader = self.halves['valid']
        for turn in itertools.count():
            loader.batch_sampler.set_epoch(epoch + turn * self.settings.epochs)
            for raw in loader:
                yield self._to_input('valid', raw)

    def _to_input(self, half: str, raw: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        batch, indices = raw
        device = self.task.device
        return self.halves[half].dataset.to_input(batch, device), self.labels[half][indices].to(device)

    def _latency(self) -> torch.Tensor | None:
        """Expected time of all interactions as a share of the dearest choice's, weighted."""
        if self.costs is None:
            return None
        dearest = self.costs.amax(1).sum()
        return self.settings.latency_weight * (self.supernet.mixture() * self.costs).sum() / dearest

    def measure(self) -> Measurement | None:
        run = functools.partial(
            evaluate,
            data_config=self.data_config,
            workers=self.settings.workers,
            batch_size=self.settings.batch_size,
            cache=self.cache,
        )
        return measure(self.data.measured, run, self.supernet)

    def save(self, folder: RunFolder, epoch: int, measurement: Measurement | None, due: bool) -> None:
        """Writes the mixture, the genotype if it is `due`, and last the checkpoint that ends the epoch."""
        settings = self.settings
        mixture = self.supernet.mixture().detach().cpu()
        add_mixture(folder, epoch, mixture)
        if due:
            self.supernet.genotype().save(
                folder.path / 'genotype.json',
                weights=[[round(w, 6) for w in row] for row in mixture.tolist()],
                dataset=settings.dataset,
                variant=settings.variant,
                epochs=epoch + 1,
                seed=settings.seed,
                command=self.command,
            )
        self._save_checkpoint(folder.checkpoint, epoch)

    def save_unmeasured(self, folder: RunFolder, epoch: int) -> None:
        self._save_checkpoint(folder.unmeasured, epoch)

    def _save_checkpoint(self, path: Path, epoch: int) -> None:
        checkpoint = {
            'epoch': epoch,
            'task': self.task.state_dict(),
            'weights': self.weights[0].state_dict(),
            'arch': self.arch[0].state_dict(),
            'costs': self.costs,
        }
        replace_file(path, lambda draft: torch.save(checkpoint, draft))

    def draw(self, folder: RunFolder) -> None:
        write_mixtures_chart(read_mixtures(folder.path), folder.path / 'architecture.png')

    def describe(self, metrics: dict[str, float]) -> str:
        return '  '.join(f'{name} {value:.4g}' for name, value in metrics.items())

    def remark(self) -> str:
        return genotype_table(self.supernet.genotype(), self.supernet.mixture().detach().cpu())


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

    return run(settings, create)[0].supernet.genotype()


def prepare(settings: SearchSettings, processes: Processes, command: str = '') -> Search:
    """Makes everything, without touching the run folder.

    Raises:
        InputError: settings or data that cannot be used.
    """
    device = processes.device
    precision(settings, device)
    if settings.order == 2 and settings.opt != 'momentum':
        raise InputError(f'order 2 looks ahead a step of plain SGD, not of {settings.opt}: leave out `opt`')
    data = load_data(settings)
    halves = twins_split(data)._asdict()
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
    supernet.set_grad_checkpointing(settings.grad_checkpointing)
    data_config = reid_data_config(supernet, settings.height, settings.width)
    task = SearchTask(
        supernet, *(part.num_classes for part in halves.values()), settings.memory_momentum, settings.temperature
    )
    task.to(device, memory_format=torch.channels_last)
    cache = open_cache(settings.cache, settings.workers)
    weights, arch = create_optimizers(settings, supernet)
    falling = replace(settings, milestones=settings.arch_milestones, warmup_step=0, min_lr=0.0)
    return Search(
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
        arch=(arch, create_schedule(arch, falling)),
        costs=_costs(settings, processes) if settings.objective == 'latency' else None,
        command=command,
    )


def _costs(settings: SearchSettings, processes: Processes) -> torch.Tensor:
    costs = interaction_costs(WIDTHS[settings.variant], (settings.height, settings.width), processes.device)
    if processes.several:  # all must search for the same
        dist.broadcast(costs, 0)
    return costs


def _finite(loss: torch.Tensor, half: str) -> float:
    value = loss.item()
    if not torch.isfinite(loss):
        raise InputError(f'the {half} loss became {value}: lower `lr` or `arch_lr`; the last checkpoint is intact')
    return value
