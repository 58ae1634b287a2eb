"""From settings to timm's optimizer and schedule, and to a step of them."""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info, list_optimizers
from timm.optim._param_groups import param_groups_layer_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.utils import NativeScaler, dispatch_clip_grad
from torch.nn.modules.batchnorm import _BatchNorm

from msinet_timm.errors import InputError, one_line
from msinet_timm.forms import autocast
from msinet_train.models import backbone_of
from msinet_train.settings import Settings, TrainSettings

__all__ = ['Stepper', 'create_optimizer', 'create_scaler', 'create_schedule', 'precision']


def create_optimizer(
    settings: TrainSettings, task: TrainingTask, groups: list[dict[str, Any]] | None = None
) -> torch.optim.Optimizer:
    """timm's optimizer of that name, with weight decay on every parameter, as in the published training.

    Args:
        settings: `opt`, `lr`, `momentum`, `weight_decay`, `opt_eps`, `opt_betas` and `layer_decay` count.
        task: whose parameters are trained, those of losses and alignment among them.
        groups: of these parameters, as timm's optimizers take them; None makes them by `layer_decay`.

    Raises:
        InputError: timm has no such optimizer, this machine or a training cannot use it, or it has no such setting.
    """
    if settings.opt not in list_optimizers():
        raise InputError(
            f'opt {settings.opt}: timm has no such optimizer; choose one of {", ".join(list_optimizers())}'
        )
    info = get_optimizer_info(settings.opt)
    if info.second_order:
        raise InputError(f'opt {settings.opt}: it needs second derivatives, which are not computed; choose another one')
    try:
        parameters = inspect.signature(get_optimizer_class(settings.opt, bind_defaults=False)).parameters
    except (AssertionError, ImportError) as e:
        raise InputError(f'opt {settings.opt} cannot be used here: {one_line(e)}') from e
    options = {}
    for name, known in (('eps', 'has_eps'), ('betas', 'has_betas')):
        value = getattr(settings, f'opt_{name}')
        if value is None:
            continue
        if not getattr(info, known):
            raise InputError(f'opt_{name}: the optimizer {settings.opt} has none; leave it out')
        if name == 'betas' and len(value) != (count := len(parameters['betas'].default)):
            raise InputError(f'opt_betas {" ".join(map(str, value))}: the optimizer {settings.opt} has {count}')
        options[name] = tuple(value) if name == 'betas' else value
    if 'fused' in parameters:
        options['fused'] = task.device.type in ('cpu', 'cuda') or None
    return create_optimizer_v2(
        groups or _parameter_groups(settings, task),
        opt=settings.opt,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        **options,
    )


def _parameter_groups(settings: TrainSettings, task: TrainingTask) -> list:
    """All parameters that train; those of each layer in a group of their own where layers learn at different rates."""
    trained = [p for p in task.parameters() if p.requires_grad]
    if settings.layer_decay is None:
        return trained
    groups = param_groups_layer_decay(
        backbone_of(task.get_eval_model()),
        settings.weight_decay,
        weight_decay_exclude_1d=False,
        layer_decay=settings.layer_decay,
    )
    grouped = {id(p) for group in groups for p in group['params']}
    rest = [p for p in trained if id(p) not in grouped]
    return [*groups, *([dict(params=rest, weight_decay=settings.weight_decay)] if rest else [])]


def create_schedule(optimizer: torch.optim.Optimizer, settings: Settings, updates_per_epoch: int = 0) -> Scheduler:
    """The learning rate by epoch; milestones are epochs counted from 0, as in the published training.

    Args:
        optimizer: whose rates it sets.
        settings: `sched`, `epochs` and what belongs to them count.
        updates_per_epoch: steps of each epoch, so that the rate changes from step to step (`step_update`); 0 for one
            that stays the same for an epoch (`step`).
    """
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=settings.sched,
        num_epochs=settings.epochs,
        # timm's multistep schedule falls one epoch before its milestones.
        decay_milestones=[m + (not updates_per_epoch) for m in sorted(settings.milestones)],
        decay_rate=settings.decay_rate,
        min_lr=settings.min_lr,
        warmup_epochs=settings.warmup_step,
        warmup_lr=optimizer.defaults['lr'] * settings.warmup_factor,
        warmup_prefix=False,
        step_on_epochs=not updates_per_epoch,
        updates_per_epoch=updates_per_epoch,
    )
    return scheduler


def precision(settings: Settings, device: torch.device, epoch: int = 0) -> AbstractContextManager:
    """The numbers that a forward pass computes in: float32, or with `--amp` lower ones where that is safe.

    Args:
        settings: `amp` and `amp_dtype`; `amp_start`, the first epoch in which they count.
        device: to compute on.
        epoch: counted from 0.

    Raises:
        InputError: float16 on anything but CUDA, or `amp_start` without `amp`.
    """
    if not settings.amp:
        if settings.amp_start:
            raise InputError('amp_start is for `amp`: give that, too')
        return nullcontext()
    if settings.amp_dtype == 'float16' and device.type != 'cuda':
        raise InputError(f'amp_dtype float16 needs CUDA, not {device.type}: choose bf16')
    if epoch < settings.amp_start:
        return nullcontext()
    return autocast(device, settings.amp_dtype)


def create_scaler(settings: Settings, device: torch.device) -> NativeScaler | None:
    """timm's scaler of the loss, which float16 needs."""
    return NativeScaler(device.type) if settings.amp and settings.amp_dtype == 'float16' else None


@contextmanager
def still_statistics(task: TrainingTask) -> Iterator[None]:
    """Keeps the statistics of batch norms as they are.

    On the way back, gradient checkpointing runs parts of the network once more, on images that the statistics have
    already seen.
    """
    norms = [m for m in task.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class Stepper:
    """Turns losses into steps of the optimizer: accumulates, scales, clips, and averages the weights.

    Args:
        task: see `create_optimizer`.
        optimizer: of its parameters.
        scaler: for float16.
        amp: for the forward pass, see `precision`.
        accumulate: batches for each step. Each counts the same, and the last step of an epoch takes what is left.
        clip: limit of the gradients; None does not clip.
        clip_mode: what it limits, see timm's `dispatch_clip_grad`.
    """

    def __init__(
        self,
        task: TrainingTask,
        optimizer: torch.optim.Optimizer,
        scaler: NativeScaler | None = None,
        amp: AbstractContextManager | None = None,
        accumulate: int = 1,
        clip: float | None = None,
        clip_mode: str = 'norm',
    ) -> None:
        self.task = task
        self.optimizer = optimizer
        self.scaler = scaler
        self.amp = amp or nullcontext()
        self.accumulate = accumulate
        self.clip = clip
        self.clip_mode = clip_mode
        optimizer.param_groups[0].setdefault('steps', 0)

    @property
    def steps(self) -> int:
        """Steps of the optimizer so far. They are kept with its state, so that a resumed run counts on."""
        return self.optimizer.param_groups[0]['steps']

    def ends_at(self, batch: int, batches: int) -> bool:
        """Whether the optimizer steps after this batch of an epoch, counted from 0."""
        return (batch + 1) % self.accumulate == 0 or batch + 1 == batches

    def accumulating(self, batch: int, batches: int) -> AbstractContextManager:
        """Around forward and backward: several processes exchange gradients only where a step follows."""
        return nullcontext() if self.ends_at(batch, batches) else self.task.no_sync()

    def __call__(self, loss: torch.Tensor, batch: int, batches: int) -> None:
        """Goes back from the loss of a batch, and steps where its turn has come."""
        last = batches % self.accumulate
        loss = loss / (last if last and batch >= batches - last else self.accumulate)
        due = self.ends_at(batch, batches)
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        if self.scaler is not None:
            with still_statistics(self.task):
                self.scaler(loss, self.optimizer, self.clip, self.clip_mode, parameters, need_update=due)
        else:
            with still_statistics(self.task):
                loss.backward()
            if due:
                if self.clip is not None:
                    dispatch_clip_grad(parameters, self.clip, self.clip_mode)
                self.optimizer.step()
        if due:
            self.optimizer.zero_grad()
            self.optimizer.param_groups[0]['steps'] += 1
            self.task.update_ema(step=self.steps)
