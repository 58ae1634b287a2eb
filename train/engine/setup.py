"""From settings to everything that a training consists of."""

import argparse
import functools
from dataclasses import dataclass

import torch
import torch.nn as nn
from timm.scheduler.scheduler import Scheduler
from timm.utils import random_seed
from torch.utils.data import DataLoader

from msinet_eval.features.extract import reid_data_config
from msinet_eval.protocol import evaluate
from msinet_timm.datasets.cache import open_cache
from msinet_timm.errors import InputError
from msinet_timm.processes import Processes
from msinet_train.data.loader import create_loader
from msinet_train.data.sources import TrainingData, load_data
from msinet_train.distributed import convert_sync_batchnorm
from msinet_train.losses.alignment import SpatialAlignment
from msinet_train.losses.task import ReIDTask
from msinet_train.models import backbone_of, create_training_model, freeze
from msinet_train.run.measure import Measurement, measure

from .optim import Stepper, create_optimizer, create_scaler, create_schedule, precision

__all__ = ['Training', 'create_model', 'prepare']


@dataclass(frozen=True)
class Training:
    """What a training consists of.

    Attributes:
        data: images to learn from, and data sets to be measured on.
        data_config: preprocessing, for timm's transforms.
        labels: [N] class of each training image.
        model: with branches and classifiers.
        task: the model and its losses.
        stepper: with the optimizer.
        scheduler: of the learning rate.
        loader: of batches.
        evaluate: see `measure`.
    """

    data: TrainingData
    data_config: dict
    labels: torch.Tensor
    model: nn.Module
    task: ReIDTask
    stepper: Stepper
    scheduler: Scheduler
    loader: DataLoader
    evaluate: functools.partial

    @property
    def average(self) -> nn.Module | None:
        """The model with averaged weights, if weights are averaged."""
        return self.task.get_eval_model(ema=True)

    @property
    def product(self) -> nn.Module:
        """The model that is kept: with averaged weights where there are any."""
        return self.model if self.average is None else self.average

    def load_state(self, state: dict) -> None:
        """Takes what a checkpoint holds; weights that were not averaged so far are averaged from now on."""
        task_state = state.get('task_state')
        self.task.load_checkpoint_state(state['state_dict'], task_state)
        if self.average is not None:
            averaged = state.get('state_dict_ema', state['state_dict'])
            self.task.load_checkpoint_state(averaged, state.get('task_state_ema', task_state), ema=True)
        self.stepper.optimizer.load_state_dict(state['optimizer'])
        if self.stepper.scaler is not None and 'amp_scaler' in state:
            self.stepper.scaler.load_state_dict(state['amp_scaler'])

    @property
    def learning_rate(self) -> float:
        """Of the group of parameters that learns fastest."""
        return max(group['lr'] for group in self.stepper.optimizer.param_groups)

    def measure(self) -> Measurement | None:
        """Evaluates the model as it is; None where there is nothing to measure on."""
        average = None if self.average is None else backbone_of(self.average)
        return measure(self.data.measured, self.evaluate, backbone_of(self.model), average)


def create_model(args: argparse.Namespace, num_classes: int, fresh: bool = True) -> nn.Module:
    """The model that `args` asks for.

    Args:
        num_classes: identities to tell apart.
        fresh: False where a checkpoint of this training will be loaded: initial weights are then not looked for.
    """
    return create_training_model(
        args.model,
        num_classes,
        genotype=args.genotype,
        pretrained=args.pretrained if fresh else False,
        checkpoint=args.checkpoint if fresh else None,
        height=args.height,
        width=args.width,
    )


def prepare(args: argparse.Namespace, processes: Processes) -> Training:
    """Makes everything, without touching the run folder.

    Raises:
        InputError: settings or data that cannot be used; the message says which and why.
    """
    device = processes.device
    precision(args, device)
    if args.torchcompile and args.torchcompile not in torch.compiler.list_backends(exclude_tags=()):
        raise InputError(
            f'--torchcompile {args.torchcompile}: choose one of {", ".join(torch.compiler.list_backends())}'
        )
    data = load_data(args)
    random_seed(args.seed)
    model = create_model(args, data.num_classes, not args.resume)
    data_config = reid_data_config(backbone_of(model), args.height, args.width)
    task = _create_task(args, model, processes)
    if args.sync_bn and processes.several:
        convert_sync_batchnorm(model)
    optimizer = create_optimizer(args, task)
    stepper = Stepper(
        task,
        optimizer,
        create_scaler(args, device),
        accumulate=args.grad_accum_steps,
        clip=args.clip_grad,
        clip_mode=args.clip_mode,
    )
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
    if args.torchcompile:
        task.compile(backend=args.torchcompile)
    if processes.several:
        task.prepare_distributed(device_ids=[device.index] if device.type == 'cuda' else None)
    cache = open_cache(args.cache, args.workers)
    loader = create_loader(args, data, data_config, device, cache, processes)
    if cache:
        for dataset in data.measured.values():
            for part in filter(None, (dataset.query, dataset.gallery)):
                cache.images(part, data_config)  # a full disk should show now, not after the first epochs
    options = dict(data_config=data_config, workers=args.workers, batch_size=args.batch_size, cache=cache)
    return Training(
        data=data,
        data_config=data_config,
        labels=data.labels,
        model=model,
        task=task,
        stepper=stepper,
        scheduler=create_schedule(optimizer, args),
        loader=loader,
        evaluate=functools.partial(evaluate, device=device, **options),
    )


def _create_task(args: argparse.Namespace, model: nn.Module, processes: Processes) -> ReIDTask:
    """The model, changed as it trains, and its losses."""
    freeze(model, args.freeze)
    if args.grad_checkpointing:
        model.set_grad_checkpointing()
    alignment = None
    if args.sam_mode:
        if not getattr(model, 'global_width', None):
            raise InputError(f'--sam-mode {args.sam_mode}: {args.model} has no feature map to align')
        alignment = SpatialAlignment(model.global_width, args.sam_mode)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    return ReIDTask(
        model,
        args.margin,
        args.smoothing,
        soft_margin=args.soft_margin,
        normalize=args.normalize,
        metric_loss=args.metric_loss,
        classifier_loss=args.classifier_loss,
        alignment=alignment,
        alignment_weight=args.sam_ratio,
        gather=args.gather_features,
        device=processes.device,
    ).to(processes.device, memory_format=memory_format)
