"""The loop of the twins contrastive search, from settings to a genotype."""

import argparse
import functools
import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from timm.utils import AverageMeter, distribute_bn, random_seed
from torch.utils.data import DataLoader

from msinet_eval.features.extract import extract, reid_data_config
from msinet_eval.protocol import evaluate
from msinet_timm.commands import progress
from msinet_timm.datasets.cache import ImageCache, open_cache
from msinet_timm.errors import InputError
from msinet_timm.files import replace_file
from msinet_timm.memory import keep_memory
from msinet_timm.models.genotype import Genotype
from msinet_timm.models.msinet import WIDTHS
from msinet_timm.models.supernet import MSISuperNet
from msinet_timm.processes import Processes, start_processes
from msinet_train.data.loader import create_loader
from msinet_train.data.sources import TrainingData, load_data
from msinet_train.engine.loop import load_checkpoint
from msinet_train.engine.optim import create_scaler, create_schedule, precision
from msinet_train.run.folder import RunFolder
from msinet_train.run.measure import Measurement, columns, measure

from .latency import interaction_costs
from .report import add_mixture, genotype_table, read_mixtures, write_mixtures_image
from .steps import SearchTask, architecture_step, create_optimizers, twins_split, weight_step

__all__ = ['search']

_logger = logging.getLogger(__name__)


@dataclass
class Search:
    """What a search consists of.

    Attributes:
        args: settings, as `msinet_train.search.cli.parse_args` gives them.
        processes: that search together.
        data: the data set as it was read, to be measured on.
        halves: batches for the weights (`'train'`) and for the architecture (`'valid'`).
        labels: classes of each half's images, [N].
        data_config: preprocessing, for timm's transforms.
        cache: where resized images are kept, or None.
        task: supernet and memories.
        weights: optimizer and schedule of the weights. Likewise `arch` of the architecture.
        costs: [12, 4] milliseconds of the interactions where latency counts, else None.
        command: that started the search.
    """

    args: argparse.Namespace
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


def search(args: argparse.Namespace, command: str = '') -> Genotype:
    """Runs a search, or what is left of one; gives the genotype that it ends with.

    Everything random in an epoch depends on (seed, epoch) alone, as in a training.

    Args:
        args: as `msinet_train.search.cli.parse_args` gives them.
        command: that started it, to be kept with the genotype.

    Raises:
        InputError: settings, data or a folder that cannot be used; the message says which and why.
    """
    with start_processes(args.device) as processes:
        if processes.device.type == 'cpu':
            keep_memory()
            # The softmax of cross attention and its gradients are full of numbers below 1e-38, and with them most CPUs
            # compute a hundred times slower. Threads inherit the setting from the one that starts them.
            torch.set_flush_denormal(True)
        state = prepare(args, processes)
        state.command = command
        folder = RunFolder(args) if processes.first else None
        if folder is None:
            return _search(state, None)
        with folder.log():
            return _search(state, folder)


def prepare(args: argparse.Namespace, processes: Processes) -> Search:
    """Makes everything, without touching the run folder.

    Raises:
        InputError: settings or data that cannot be used.
    """
    device = processes.device
    precision(args, device)
    if args.order == 2 and args.opt != 'momentum':
        raise InputError(f'--order 2 looks ahead a step of plain SGD, not of {args.opt}: leave out --opt')
    data = load_data(args)
    halves = twins_split(data)._asdict()
    identities = args.batch_size // args.num_instance * processes.count
    fewest = min(part.num_classes for part in halves.values())
    if fewest < identities:
        raise InputError(
            f'the smaller half of the search has {fewest} identities, three fifths of {data.num_classes}; a batch of '
            f'{identities} needs {-(-identities // 3) * 5} in all: use a smaller --batch-size, or a larger '
            '--num-instance'
        )
    random_seed(args.seed)
    supernet = MSISuperNet(halves['train'].num_classes, WIDTHS[args.variant], mid_from=args.mid_from)
    supernet.set_grad_checkpointing(args.grad_checkpointing)
    data_config = reid_data_config(supernet, args.height, args.width)
    task = SearchTask(supernet, *(part.num_classes for part in halves.values()), args.memory_momentum, args.temperature)
    task.to(device, memory_format=torch.channels_last)
    cache = open_cache(args.cache, args.workers)
    weights, arch = create_optimizers(args, supernet)
    arch_args = argparse.Namespace(
        **{**vars(args), 'lr': args.arch_lr, 'milestones': args.arch_milestones, 'warmup_step': 0, 'min_lr': 0.0}
    )
    return Search(
        args=args,
        processes=processes,
        data=data,
        halves={
            half: create_loader(args, part, data_config, device, cache, processes) for half, part in halves.items()
        },
        labels={half: part.labels for half, part in halves.items()},
        data_config=data_config,
        cache=cache,
        task=task,
        weights=(weights, create_schedule(weights, args)),
        arch=(arch, create_schedule(arch, arch_args)),
        costs=_costs(args, processes) if args.objective == 'latency' else None,
    )


def _costs(args: argparse.Namespace, processes: Processes) -> torch.Tensor:
    costs = interaction_costs(WIDTHS[args.variant], (args.height, args.width), processes.device)
    if processes.several:  # all must search for the same
        dist.broadcast(costs, 0)
    return costs


def _search(state: Search, folder: RunFolder | None) -> Genotype:
    """One process's part; the one with the folder writes."""
    args, supernet = state.args, state.task.supernet
    start = _resume(state, folder)
    _logger.info(
        f'searching on {", ".join(args.dataset)}: '
        + ', '.join(f'{len(d.dataset)} images for the {half} half' for half, d in state.halves.items())
        + f', {args.epochs} epochs of {len(state.halves["train"])} batches; run folder {args.output}'
    )
    for remark in state.data.remarks:
        _logger.info(remark)
    if start == 0 and args.memory_init == 'centroids':
        _initialize_memories(state)
    try:
        for epoch in range(start, args.epochs):
            metrics = _run_epoch(state, epoch)
            done = epoch + 1
            due = done == args.epochs or done % args.geno_interval == 0
            measurement = _measure(state) if due else None
            if folder:
                _save_epoch(state, folder, epoch, metrics, measurement, due)
            line = '  '.join(f'{name} {value:.4g}' for name, value in metrics.items())
            if measurement is not None:
                line += f'  mAP {100 * measurement.main.ranking.mAP:.1f} %'
            _logger.info(f'epoch {done}/{args.epochs}  {line}')
            if due:
                _logger.info(genotype_table(supernet.genotype(), supernet.mixture().detach().cpu()))
    except KeyboardInterrupt:
        _logger.info(f'interrupted: msinet-search --resume {args.output} continues after the last whole epoch')
        raise
    return supernet.genotype()


def _initialize_memories(state: Search) -> None:
    """Fills both memories with the centroids of what the untrained supernet makes of the classes."""
    for half, loader in state.halves.items():
        records = loader.dataset.records
        options = dict(batch_size=state.args.batch_size, workers=state.args.workers, cache=state.cache)
        features = extract(
            state.task.supernet, records, data_config=state.data_config, description=f'memory {half}', **options
        )
        state.task.memory(half).initialize(features.embeddings, state.labels[half])


def _run_epoch(state: Search, epoch: int) -> dict[str, float]:
    """Alternates between architecture and weights for an epoch; gives its metrics."""
    args, task, loader = state.args, state.task, state.halves['train']
    random_seed((args.seed + 1_000_003 * epoch) % 2**32, state.processes.rank)
    loader.batch_sampler.set_epoch(epoch)
    for _, schedule in (state.weights, state.arch):
        schedule.step(epoch)
    weights, arch = state.weights[0], state.arch[0]
    amp = precision(args, task.device, epoch)
    scaler = create_scaler(args, task.device)
    valid = _endless(state, epoch)
    task.train()
    meters = {name: AverageMeter() for name in ('train_loss', 'valid_loss', 'accuracy')}
    began, count = time.perf_counter(), 0
    with progress(loader, desc=f'epoch {epoch + 1}/{args.epochs}', unit='step', leave=False) as bar:
        for k, raw in enumerate(bar):
            batch = _to_input(state, 'train', raw)
            with amp:
                if k:  # as published, an epoch begins with the weights
                    found = architecture_step(
                        task,
                        next(valid),
                        arch,
                        train=batch if args.order == 2 else None,
                        weight_optimizer=weights,
                        penalty=_latency(state),
                    )
                    meters['valid_loss'].update(_finite(found['loss'], 'valid'))
                found = weight_step(task, batch, weights, scaler and scaler._scaler)
            meters['train_loss'].update(_finite(found['loss'], 'train'))
            correct = (found['output'].argmax(1) == batch[1]).float().mean()
            meters['accuracy'].update(100 * correct.item())
            count += len(batch[0])
            bar.set_postfix({name: f'{meter.avg:.3g}' for name, meter in meters.items()}, refresh=False)
    if state.processes.several:
        distribute_bn(task.supernet, state.processes.count, reduce=True)
    mixture = task.supernet.mixture().detach()
    metrics = {'lr': weights.param_groups[0]['lr'], 'arch_lr': arch.param_groups[0]['lr']}
    metrics |= {name: meter.avg for name, meter in meters.items()}
    metrics['entropy'] = float(-(mixture * mixture.log()).sum(1).mean())
    if state.costs is not None:
        metrics['expected_ms'] = float((mixture * state.costs).sum())
    rate = state.processes.count * count / (time.perf_counter() - began)
    return metrics | {'images_per_second': rate}


def _endless(state: Search, epoch: int) -> Iterator:
    """Batches of the validation half, for as many as the training half has."""
    loader = state.halves['valid']
    for turn in itertools.count():
        loader.batch_sampler.set_epoch(epoch + turn * state.args.epochs)
        for raw in loader:
            yield _to_input(state, 'valid', raw)


def _to_input(state: Search, half: str, raw: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    batch, indices = raw
    device = state.task.device
    return state.halves[half].dataset.to_input(batch, device), state.labels[half][indices].to(device)


def _finite(loss: torch.Tensor, half: str) -> float:
    value = loss.item()
    if not torch.isfinite(loss):
        raise InputError(f'the {half} loss became {value}: lower --lr or --arch-lr; the last checkpoint is intact')
    return value


def _latency(state: Search) -> torch.Tensor | None:
    """Expected time of all interactions as a share of the dearest choice's, weighted."""
    if state.costs is None:
        return None
    dearest = state.costs.amax(1).sum()
    return state.args.latency_weight * (state.task.supernet.mixture() * state.costs).sum() / dearest


def _measure(state: Search) -> Measurement | None:
    run = functools.partial(
        evaluate,
        data_config=state.data_config,
        workers=state.args.workers,
        batch_size=state.args.batch_size,
        cache=state.cache,
    )
    return measure(state.data.measured, run, state.task.supernet)


def _save_epoch(
    state: Search,
    folder: RunFolder,
    epoch: int,
    metrics: dict[str, float],
    measurement: Measurement | None,
    due: bool,
) -> None:
    """Writes what an epoch leaves, and last the checkpoint that ends it."""
    args, supernet = state.args, state.task.supernet
    mixture = supernet.mixture().detach().cpu()
    folder.add_summary(
        epoch, metrics, columns(list(state.data.measured) or [''], False), measurement and measurement.metrics()
    )
    add_mixture(folder, epoch, mixture)
    if due:
        supernet.genotype().save(
            folder.path / 'genotype.json',
            weights=[[round(w, 6) for w in row] for row in mixture.tolist()],
            dataset=args.dataset,
            variant=args.variant,
            epochs=epoch + 1,
            seed=args.seed,
            command=state.command,
        )
        try:
            write_mixtures_image(read_mixtures(folder.path), folder.path / 'architecture.png')
        except ImportError as e:
            _logger.info(f'no architecture.png: {e}')
    checkpoint = {
        'epoch': epoch,
        'task': state.task.state_dict(),
        'weights': state.weights[0].state_dict(),
        'arch': state.arch[0].state_dict(),
        'costs': state.costs,
    }
    replace_file(folder.checkpoint, lambda partial: torch.save(checkpoint, partial))


def _resume(state: Search, folder: RunFolder | None) -> int:
    """Loads the last checkpoint, if the search is to go on; returns the epoch to go on with."""
    path = Path(state.args.output) / 'last.pth.tar'
    if not state.args.resume or not path.is_file():
        return 0
    checkpoint = load_checkpoint(path)
    try:
        state.task.load_state_dict(checkpoint['task'])
        state.weights[0].load_state_dict(checkpoint['weights'])
        state.arch[0].load_state_dict(checkpoint['arch'])
        if state.costs is not None and checkpoint['costs'] is not None:
            state.costs.copy_(checkpoint['costs'])
    except (RuntimeError, ValueError, KeyError, TypeError) as e:
        raise InputError(f'{path}: does not fit this search ({" ".join(str(e).split())[:300]})') from e
    start = checkpoint['epoch'] + 1
    if folder:
        folder.drop_summary_from(start)
    return start
