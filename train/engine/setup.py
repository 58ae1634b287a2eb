"""From settings to everything that a training consists of."""

import dataclasses
import functools
from collections.abc import Callable

import torch
import torch.nn as nn
from timm.utils import random_seed
from torch.utils.data import DataLoader

from msinet_eval.evaluation import evaluate
from msinet_eval.features.extract import reid_data_config
from msinet_eval.features.forward import evaluation_mode
from msinet_timm.datasets.cache import ImageCache, open_cache
from msinet_timm.errors import InputError, explained
from msinet_timm.hub.load import load_model
from msinet_timm.models.camera_norm import CAMERA_NORM
from msinet_timm.models.msinet import MSINet
from msinet_timm.processes import Processes
from msinet_train.camera_norm import group_norms
from msinet_train.data.loader import create_loader
from msinet_train.data.sources import TrainingData, camera_labels, load_data
from msinet_train.distributed import convert_sync_batchnorm
from msinet_train.losses.alignment import SpatialAlignment
from msinet_train.losses.distillation import Teacher
from msinet_train.losses.task import ReIDTask
from msinet_train.mixstyle import mix_styles
from msinet_train.models import backbone_of, create_training_model, freeze, lacks_weights
from msinet_train.run.folder import holds_run
from msinet_train.settings import TrainSettings

from .optim import Stepper, create_optimizer, create_scaler, create_schedule, precision
from .training import Training

__all__ = ['create_model', 'prepare']


def create_model(settings: TrainSettings, num_classes: int, fresh: bool = True) -> nn.Module:
    """The model that the settings ask for.

    Args:
        num_classes: identities to tell apart.
        fresh: False where a checkpoint of this training will be loaded: initial weights are then not looked for.
    """
    return create_training_model(
        settings.model,
        num_classes,
        genotype=settings.genotype,
        pretrained=settings.pretrained if fresh else False,
        checkpoint=settings.checkpoint if fresh else None,
        height=settings.height,
        width=settings.width,
    )


def prepare(
    settings: TrainSettings, processes: Processes, data: TrainingData | None = None, fresh: bool | None = None
) -> Training:
    """Makes everything, without touching the run folder.

    Args:
        settings: of the run.
        processes: that train together.
        data: what to read; None for what the settings name.
        fresh: see `create_model`; None looks whether there is a checkpoint to go on from.

    Raises:
        InputError: settings or data that cannot be used; the message says which and why.
    """
    device = processes.device
    precision(settings, device)
    _check_batch(settings, processes)
    if settings.torchcompile and settings.torchcompile not in torch.compiler.list_backends(exclude_tags=()):
        raise InputError(
            f'torchcompile {settings.torchcompile}: choose one of {", ".join(torch.compiler.list_backends())}'
        )
    if settings.camera_norm:
        for name, why in (
            ('sync_bn', 'goes over all processes'),
            ('torchcompile', 'wants the same cameras each time'),
            ('mixstyle', 'gives images the style of other cameras'),
        ):
            if getattr(settings, name):
                raise InputError(f'camera_norm: not with {name}, which {why}; leave out one of them')
    data = data or load_data(settings)
    if fresh is None:
        fresh = not (settings.resume and holds_run(settings.folder))
    random_seed(settings.seed)
    model = create_model(settings, data.num_classes, fresh)
    data_config = reid_data_config(backbone_of(model), settings.height, settings.width)
    _check_sizes(settings, model)
    if settings.wake_gates and not isinstance(backbone_of(model), MSINet):
        raise InputError(f'wake_gates: {settings.model} is no MSINet, which alone has such gates; leave it out')
    task = _create_task(settings, model, data_config, processes)
    announce = _camera_norms(model, data) if settings.camera_norm else None
    setattr(backbone_of(model), CAMERA_NORM, settings.camera_norm)  # goes into its configuration
    if settings.mixstyle:
        announce = _mix_styles(settings, model, data_config, device)
    if settings.sync_bn and processes.several:
        convert_sync_batchnorm(model)
    optimizer = create_optimizer(settings, task)
    stepper = Stepper(
        task,
        optimizer,
        create_scaler(settings, device),
        accumulate=settings.grad_accum_steps,
        clip=settings.clip_grad,
        clip_mode=settings.clip_mode,
    )
    if settings.model_ema:
        task.setup_ema(decay=settings.model_ema_decay, use_warmup=settings.model_ema_warmup)
    if settings.torchcompile:
        task.compile(backend=settings.torchcompile)
    if processes.several:
        task.prepare_distributed(device_ids=[device.index] if device.type == 'cuda' else None)
    cache = open_cache(settings.cache, settings.workers)
    loaders = _create_loaders(settings, data, data_config, device, cache, processes)
    if cache:
        for dataset in data.measured.values():
            for part in filter(None, (dataset.query, dataset.gallery)):
                cache.images(part, data_config)  # a full disk should show now, not after the first epochs
    options = dict(data_config=data_config, workers=settings.workers, batch_size=settings.batch_size, cache=cache)
    return Training(
        settings=settings,
        processes=processes,
        data=data,
        data_config=data_config,
        labels=data.labels,
        model=model,
        task=task,
        stepper=stepper,
        scheduler=create_schedule(optimizer, settings),
        loaders=loaders,
        evaluate=functools.partial(evaluate, device=device, **options),
        announce=announce,
    )


def _check_batch(settings: TrainSettings, processes: Processes) -> None:
    """Refuses batches from which the metric loss has nothing to learn."""
    k, size = settings.num_instance, settings.batch_size
    if k < 2:
        raise InputError(f'num_instance {k}: the metric loss compares images of one identity: give 2 or more')
    if size == k and not (settings.gather_features and processes.several):
        raise InputError(
            f'batch_size {size}: {k} images of one identity (`num_instance`) leave the metric loss no others to '
            f'compare with: give {2 * k} or more'
        )


def _camera_norms(model: nn.Module, data: TrainingData) -> Callable[[torch.Tensor], None]:
    """Lets norms take cameras by themselves; gives what tells them the cameras of images by their indices."""
    try:
        cameras, groups = camera_labels(data.train), group_norms(model)
    except InputError as e:
        raise InputError(f'camera_norm: {e}; do without') from e
    return lambda indices: groups(cameras[indices])


def _mix_styles(
    settings: TrainSettings, model: nn.Module, data_config: dict, device: torch.device
) -> Callable[[torch.Tensor], None]:
    """Lets the model mix styles; gives what draws them for a batch, by the indices of its images."""
    try:
        mixing = mix_styles(model, settings.mixstyle, data_config['input_size'], device)
    except InputError as e:
        raise InputError(f'mixstyle {settings.mixstyle}: {e}; do without') from e
    return lambda indices: mixing(len(indices))


def _check_sizes(settings: TrainSettings, model: nn.Module) -> None:
    """Tries what the model makes of the sizes that it is not made for."""
    network = backbone_of(model)
    for height, width in set(settings.input_sizes.values()) - {(settings.height, settings.width)}:
        with (
            explained(f'progressive_resize {height}x{width}: does not fit {settings.model}'),
            torch.inference_mode(),
            evaluation_mode(network),
        ):
            if not network.forward_features(torch.zeros(1, 3, height, width)).isfinite().all():
                raise ValueError('it gives NaN: give a larger one')


def _create_loaders(
    settings: TrainSettings,
    data: TrainingData,
    data_config: dict,
    device: torch.device,
    cache: ImageCache | None,
    processes: Processes,
) -> dict[int, DataLoader]:
    """Loaders by the epoch that they begin with; the border of smaller images is smaller, too."""
    return {
        epoch: create_loader(
            dataclasses.replace(settings, padding=round(settings.padding * size[0] / settings.height)),
            data,
            data_config | {'input_size': (3, *size)},
            device,
            cache,
            processes,
        )
        for epoch, size in settings.input_sizes.items()
    }


def _create_teacher(settings: TrainSettings, data_config: dict, device: torch.device) -> Teacher:
    try:
        if lacks_weights(settings.teacher):
            raise InputError('it has no pretrained weights, and so nothing to teach: give a model folder or a run')
        teacher = load_model(settings.teacher, pretrained=True, height=settings.height, width=settings.width)
        return Teacher(teacher, data_config, device)
    except InputError as e:
        raise InputError(f'teacher {settings.teacher}: {e}') from e


def _create_task(settings: TrainSettings, model: nn.Module, data_config: dict, processes: Processes) -> ReIDTask:
    """The model, changed as it trains, and its losses."""
    freeze(model, settings.freeze)
    if settings.grad_checkpointing:
        model.set_grad_checkpointing()
    alignment = None
    if settings.sam_mode:
        if not getattr(model, 'global_width', None):
            raise InputError(f'sam_mode {settings.sam_mode}: {settings.model} has no feature map to align')
        alignment = SpatialAlignment(model.global_width, settings.sam_mode)
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    return ReIDTask(
        model,
        settings.margin,
        settings.smoothing,
        soft_margin=settings.soft_margin,
        normalize=settings.normalize,
        metric_loss=settings.metric_loss,
        classifier_loss=settings.classifier_loss,
        alignment=alignment,
        alignment_weight=settings.sam_ratio,
        teacher=_create_teacher(settings, data_config, processes.device) if settings.teacher else None,
        teacher_weight=settings.teacher_weight,
        gather=settings.gather_features,
        device=processes.device,
    ).to(processes.device, memory_format=memory_format)
