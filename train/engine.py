"""The training loop."""

import argparse
import datetime
import functools
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn as nn
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import AverageMeter, CheckpointSaver, accuracy, random_seed
from torch.utils.data import DataLoader

from msinet_eval.features import reid_data_config
from msinet_eval.protocol import Evaluation, evaluate
from msinet_timm.commands import InputError, find_device, progress
from msinet_timm.datasets import ReIDDataset, create_dataset, parse_options
from msinet_timm.datasets.cache import ImageCache, open_cache
from msinet_timm.datasets.images import ReIDImages
from msinet_timm.datasets.verify import drop_broken

from .augment import PixelAugmentation, RandomErasing, training_transform
from .curves import write_curves
from .run_folder import RunFolder
from .sampler import PKSampler
from .task import ReIDTask

__all__ = ['TrainingResult', 'create_schedule', 'train']

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        folder: of the run.
        best_mAP: of all evaluations, 0 to 1; 0 for a data set without query and gallery.
        best_epoch: counted from 0.
        last: evaluation after the last epoch; None if a resumed run had none left, or there was nothing to measure.
    """

    folder: Path
    best_mAP: float
    best_epoch: int
    last: Evaluation | None


def create_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer of that name, with weight decay on every parameter, as in the published training.

    Raises:
        InputError: timm has no such optimizer.
    """
    if args.opt not in list_optimizers():
        raise InputError(f'--opt {args.opt}: timm has no such optimizer; choose one of {", ".join(list_optimizers())}')
    return create_optimizer_v2(
        model,
        opt=args.opt,
        lr=args.lr,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        filter_bias_and_bn=False,
    )


def create_schedule(optimizer: torch.optim.Optimizer, args: argparse.Namespace) -> Scheduler:
    """The learning rate by epoch; milestones are epochs counted from 0, as in the published training."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=args.sched,
        num_epochs=args.epochs,
        # timm's multistep schedule falls one epoch before its milestones.
        decay_milestones=[m + 1 for m in sorted(args.milestones)],
        decay_rate=args.decay_rate,
        warmup_epochs=args.warmup_step,
        warmup_lr=args.lr * args.warmup_factor,
        warmup_prefix=False,
    )
    return scheduler


def create_training_model(args: argparse.Namespace, num_classes: int) -> nn.Module:
    """The model to train, from random weights.

    Raises:
        InputError: no model of that name, or one without what `args` asks for.
    """
    if not timm.is_model(args.model):
        raise InputError(f'--model {args.model}: unknown; choose one of {", ".join(timm.list_models("msinet*"))}')
    kwargs = dict(genotype=args.genotype) if args.genotype else {}
    try:
        return timm.create_model(args.model, num_classes=num_classes, **kwargs)
    except TypeError as e:
        raise InputError(f'--model {args.model}: {e}') from e


def create_loader(
    args: argparse.Namespace,
    dataset: ReIDDataset,
    data_config: dict,
    device: torch.device,
    cache: ImageCache | None = None,
) -> DataLoader:
    """PK batches of (what `loader.dataset.to_input` makes images of, their indices in `dataset.train`).

    Raises:
        InputError: a batch size that K doesn't divide, or too few identities.
    """
    if args.batch_size % args.num_instance:
        raise InputError(f'--batch-size {args.batch_size} is not a multiple of --num-instance {args.num_instance}')
    sampler = PKSampler(
        [r.identity for r in dataset.train], args.batch_size // args.num_instance, args.num_instance, args.seed
    )
    if cache is None:
        transform = training_transform(data_config, args.erasing, args.padding, args.color_jitter)
        images = ReIDImages(dataset.train, transform, data_config['input_size'][1:] if args.draft else None)
    else:
        augment = PixelAugmentation(args.padding, args.color_jitter)
        erase = RandomErasing(args.erasing) if args.erasing > 0 else None
        images = cache.images(dataset.train, data_config, augment, erase, draft=args.draft)
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=args.workers,
        collate_fn=images.collate,
        pin_memory=device.type == 'cuda',
    )


def train_one_epoch(
    task: ReIDTask,
    loader: DataLoader,
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    description: str,
) -> dict[str, float]:
    """One pass over the loader.

    Args:
        labels: class of each of the loader's images.
        description: what the progress bar says.

    Returns:
        Means over the batches: `loss`, its terms, `accuracy` of the global branch in percent; and `images_per_second`.

    Raises:
        InputError: the loss is not finite.
    """
    task.train()
    meters: dict[str, AverageMeter] = {}
    start, count = time.perf_counter(), 0
    with progress(total=len(loader) * loader.batch_sampler.batch_size, desc=description, leave=False) as bar:
        for batch, indices in loader:
            images = loader.dataset.to_input(batch, device)
            target = labels[indices].to(device, non_blocking=True)
            output = task(images, target)
            optimizer.zero_grad()
            output['loss'].backward()
            optimizer.step()

            logits = output.pop('output')
            figures = {name: term.item() for name, term in output.items()}
            if not math.isfinite(figures['loss']):
                paths = [loader.dataset.records[i].path for i in indices]
                raise InputError(
                    f'the loss became {figures["loss"]}: lower --lr or lengthen --warmup-step; the last checkpoint is '
                    f'intact; pictures of the batch: {", ".join(paths)}'
                )
            figures['accuracy'] = accuracy(logits, target)[0].item()
            for name, value in figures.items():
                meters.setdefault(name, AverageMeter()).update(value, len(images))
            count += len(images)
            bar.set_postfix(loss=f'{meters["loss"].avg:.3f}', accuracy=f'{meters["accuracy"].avg:.1f}', refresh=False)
            bar.update(len(images))
    return {name: meter.avg for name, meter in meters.items()} | {
        'images_per_second': count / (time.perf_counter() - start)
    }


def resume(folder: RunFolder, saver: CheckpointSaver, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Loads the run's last checkpoint; returns the epoch to go on with.

    Raises:
        InputError: there is none, or it is of another model.
    """
    if not folder.checkpoint.is_file():
        raise InputError(f'--resume {folder.path}: the run has no checkpoint yet ({folder.checkpoint} is missing)')
    try:
        start = resume_checkpoint(model, str(folder.checkpoint), optimizer, log_info=False)
    except (RuntimeError, ValueError) as e:
        raise InputError(
            f'{folder.checkpoint}: does not fit the settings of this run ({str(e).splitlines()[0]})'
        ) from e
    saver.load_state_dict_from_checkpoint(str(folder.checkpoint))
    folder.drop_summary_from(start)
    return start


def describe(done: int, epochs: int, figures: dict[str, float], evaluation: Evaluation | None, left: float) -> str:
    """A line on an epoch for the log; `left` in seconds."""
    line = (
        f'epoch {done:{len(str(epochs))}}/{epochs}  lr {figures["lr"]:<7.2g}  loss {figures["loss"]:.3f}  '
        f'accuracy {figures["accuracy"]:5.1f} %  {figures["images_per_second"]:.0f} images/s  '
        f'left {datetime.timedelta(seconds=round(left))}'
    )
    if evaluation is not None:
        line += f'  mAP {100 * evaluation.ranking.mAP:.1f} %  Rank-1 {100 * evaluation.ranking.cmc[0]:.1f} %'
    return line


def save_epoch(
    epoch: int,
    figures: dict[str, float],
    evaluation: Evaluation | None,
    due: bool,
    model: nn.Module,
    data_config: dict,
    folder: RunFolder,
    saver: CheckpointSaver,
) -> None:
    """Writes what an epoch leaves: its row, the models if they are `due`, and last the checkpoint that ends it."""
    folder.add_summary(epoch, figures, evaluation and evaluation.ranking)
    if due:
        folder.save_model('last', model, data_config)
    if evaluation is not None and (saver.best_metric is None or evaluation.ranking.mAP > saver.best_metric):
        folder.save_model('best', model, data_config)
    saver.save_checkpoint(epoch, metric=evaluation and evaluation.ranking.mAP)


def train(args: argparse.Namespace) -> TrainingResult:
    """Runs a training, or what is left of one.

    Everything random in an epoch depends on (seed, epoch) alone, so that a run that was interrupted and resumed ends
    with the weights of one that wasn't.

    Args:
        args: as `msinet_train.cli.parse_args` gives them.

    Raises:
        InputError: settings, data or a folder that cannot be used; the message says which and why.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        raise InputError('training runs in one process so far: start msinet-train without torchrun')
    device = find_device(args.device)
    dataset = create_dataset(args.dataset, args.data_dir, **parse_options(args.data_option))
    if not dataset.train:
        raise InputError(f"data set '{dataset.name}' has no pictures to train on")
    if args.skip_broken:
        dataset = drop_broken(dataset)
    classes = {identity: k for k, identity in enumerate(sorted({r.identity for r in dataset.train}))}
    labels = torch.tensor([classes[r.identity] for r in dataset.train])
    random_seed(args.seed)
    model = create_training_model(args, len(classes)).to(device, memory_format=torch.channels_last)
    data_config = reid_data_config(model, args.height, args.width)
    task = ReIDTask(model, args.margin, args.smoothing, device=device)
    optimizer = create_optimizer(args, model)
    scheduler = create_schedule(optimizer, args)
    cache = open_cache(args.cache, args.workers)
    loader = create_loader(args, dataset, data_config, device, cache)
    if cache:
        for part in filter(None, (dataset.query, dataset.gallery)):
            cache.images(part, data_config)  # a full disk should show now, not after the first epochs
    folder = RunFolder(args)
    saver = folder.create_saver(model=model, task=task, optimizer=optimizer)
    start_epoch = resume(folder, saver, model, optimizer) if args.resume else 0

    _logger.info(
        f'{args.model} on {dataset.name}: {len(dataset.train)} images of {len(classes)} identities, '
        f'{args.epochs} epochs of {len(loader)} batches; run folder {folder.path}'
    )
    for remark in (*dataset.remarks, *(() if dataset.gallery else ('nothing to measure: no query and gallery',))):
        _logger.info(f'{dataset.name}: {remark}')
    measure = functools.partial(
        evaluate, model, dataset, data_config=data_config, workers=args.workers, batch_size=args.batch_size, cache=cache
    )
    evaluation, began = None, time.perf_counter()
    try:
        for epoch in range(start_epoch, args.epochs):
            random_seed((args.seed + 1_000_003 * epoch) % 2**32)
            loader.batch_sampler.set_epoch(epoch)
            scheduler.step(epoch)
            figures = {'lr': optimizer.param_groups[0]['lr']}
            figures |= train_one_epoch(task, loader, labels, optimizer, device, f'epoch {epoch + 1}/{args.epochs}')
            done = epoch + 1
            due = done == args.epochs or (args.eval_interval and done % args.eval_interval == 0)
            evaluation = measure() if due and dataset.gallery else None
            save_epoch(epoch, figures, evaluation, due, model, data_config, folder, saver)
            left = (args.epochs - done) * (time.perf_counter() - began) / (done - start_epoch)
            _logger.info(describe(done, args.epochs, figures, evaluation, left))
    except KeyboardInterrupt:
        if folder.checkpoint.exists():
            _logger.info(f'interrupted: msinet-train --resume {folder.path} continues after the last whole epoch')
        raise
    try:
        write_curves(folder.path / 'summary.csv', folder.path / 'curves.png')
    except ImportError as e:
        _logger.info(f'no curves.png: {e}')
    return TrainingResult(folder.path, saver.best_metric or 0.0, saver.best_epoch or 0, evaluation)
