"""Twins contrastive architecture search: who learns from whom, and the alternating steps.

Paper: `MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID` (section 3.3)
    - https://arxiv.org/abs/2303.07065
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn as nn
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.task import TrainingTask

from msinet_timm.datasets import Record
from msinet_timm.errors import InputError
from msinet_timm.models.supernet import MSISuperNet
from msinet_train.data.sources import TrainingData
from msinet_train.distributed import is_distributed
from msinet_train.losses.class_memory import ClassMemory
from msinet_train.losses.metric import TripletLoss

from .settings import SearchSettings
from .strategy import Batch

__all__ = ['SearchTask', 'TwinsSplit', 'architecture_step', 'create_optimizers', 'finite', 'twins_split', 'weight_step']


class TwinsSplit(NamedTuple):
    """The two halves of a search, each with classes of its own from 0.

    Attributes:
        train: what the weights learn from.
        valid: what the architecture learns from. Two fifths of the identities are in both, none of the images is.
    """

    train: TrainingData
    valid: TrainingData


def twins_split(data: TrainingData, shared: bool = False) -> TwinsSplit:
    """Splits a training set as the published search does.

    Of n classes in order, the first fifth trains only; of each of the next two fifths, the first half of the images
    trains and the rest validates; the others validate only.

    Args:
        data: images of at least five identities, in any order.
        shared: instead, the first half of every class's images trains and the rest validates, as in a search for
            classification: the paper's control.

    Raises:
        InputError: fewer identities, or one to be shared that has a single image.
    """
    images: list[list[Record]] = [[] for _ in range(data.num_classes)]
    for record, label in zip(data.train, data.labels.tolist(), strict=True):
        images[label].append(record)
    fifth = len(images) // 5
    if not fifth:
        raise InputError(
            f'a search splits its identities in fifths: it needs at least 5 of them, the training set has {len(images)}'
        )
    train, valid = [], []
    for label, found in enumerate(images):
        if label < fifth and not shared:
            half = len(found)
        elif label < 3 * fifth or shared:
            half = len(found) // 2
            if not half:
                raise InputError(
                    f'{found[0].path}: the only image of identity {found[0].identity}, which both halves of the search '
                    'share: each of the first three fifths of the identities (with `split` images, each of all) needs '
                    'two images; add one, or leave it out'
                )
        else:
            half = 0
        train += [(record, label) for record in found[:half]]
        valid += [(record, label - (0 if shared else fifth)) for record in found[half:]]
    return TwinsSplit(
        *(TrainingData(r, torch.tensor(n)) for r, n in (zip(*half, strict=True) for half in (train, valid)))
    )


class SearchTask(TrainingTask):
    """A supernet and the memories of both halves' classes, the only losses of the published search.

    Args:
        supernet: what is searched.
        train_classes: identities of the half for the weights.
        valid_classes: identities of the half for the architecture.
        momentum: of the memories, see `ClassMemory`.
        temperature: of the memories, see `ClassMemory`.
        reid: whether the training half has the losses of a training instead: classification and triplets.
        device: as for `TrainingTask`.
        dtype: as for `TrainingTask`.
        verbose: as for `TrainingTask`.
    """

    def __init__(
        self,
        supernet: MSISuperNet,
        train_classes: int,
        valid_classes: int,
        momentum: float = 0.2,
        temperature: float = 0.05,
        reid: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        self.trainable_module = supernet
        dim = supernet.num_features
        self.train_memory = ClassMemory(train_classes, dim, momentum, temperature)
        self.valid_memory = ClassMemory(valid_classes, dim, momentum, temperature)
        self.classification, self.metric = (LabelSmoothingCrossEntropy(0.1), TripletLoss(0.3)) if reid else (None, None)

    @property
    def supernet(self) -> MSISuperNet:
        return self.trainable_module

    def memory(self, half: str) -> ClassMemory:
        """The memory of `'train'` or `'valid'`."""
        return self.valid_memory if half == 'valid' else self.train_memory

    def forward(self, input: torch.Tensor, target: torch.Tensor, half: str = 'train') -> dict[str, torch.Tensor]:
        """Images [B, C, H, W] and classes [B] of a half (`'train'` or `'valid'`) to `loss` and `output`, the logits."""
        branches = self.supernet.forward_branches(input)
        memory = self.memory(half)
        with torch.autocast(input.device.type, enabled=False):
            feature = branches.global_feature.to(memory.features.dtype)
            if self.metric is None or half == 'valid':
                loss = memory(feature, target)
            else:
                loss = self.classification(branches.global_logits.to(feature.dtype), target)
                loss = loss + self.metric(feature, target, len(target))
        return {'loss': loss, 'output': branches.global_logits}


def create_optimizers(
    settings: SearchSettings, supernet: MSISuperNet
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Of the weights, timm's optimizer of the name `opt`, and of the architecture, Adam.

    Args:
        settings: of the search.
        supernet: what is searched.
    """
    weights = create_optimizer_v2(
        supernet.weight_parameters(),
        opt=settings.opt,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
    )
    arch = torch.optim.Adam(
        [supernet.arch_weights], settings.arch_lr, tuple(settings.arch_betas), weight_decay=settings.arch_weight_decay
    )
    return weights, arch


def weight_step(
    task: SearchTask, batch: Batch, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None
) -> dict[str, torch.Tensor]:
    """Trains the weights by a batch of the training half; the architecture stands still.

    Args:
        task: the search.
        batch: images and classes.
        optimizer: of `task.supernet.weight_parameters()`.
        scaler: for float16.

    Returns:
        What the task has given.
    """
    output = task(*batch)
    # the published network's neck and classifier are for display: they never get a gradient
    learned = [p for group in optimizer.param_groups for p in group['params']]
    loss = output['loss'] if scaler is None else scaler.scale(output['loss'])
    _set_gradients(learned, torch.autograd.grad(loss, learned, allow_unused=True))
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()
    return output


def architecture_step(
    task: SearchTask,
    valid: Batch,
    optimizer: torch.optim.Optimizer,
    *,
    train: Batch | None = None,
    weight_optimizer: torch.optim.Optimizer | None = None,
    penalty: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Trains the architecture by a batch of the validation half; the weights stand still.

    Only the architecture's gradient is computed. The published loop computes the weights' as well, after it has
    cleared them, so that they leak into the weight step that follows: here both are kept apart.

    The first-order form takes the weights as they are. The second-order one takes them as they will be after the next
    weight step, and follows how the architecture changes that step (DARTS, https://arxiv.org/abs/1806.09055, eq. 7-8);
    it costs three more passes and is chosen by giving `train` and `weight_optimizer`.

    Args:
        task: the search.
        valid: images and classes of the validation half.
        optimizer: of `[task.supernet.arch_weights]`.
        train: images and classes of the training half, for the second order.
        weight_optimizer: plain SGD with or without momentum, for the second order.
        penalty: a scalar that is added to the loss, such as an expected latency; it depends on `arch_weights`.

    Returns:
        What the task has given.
    """
    arch = task.supernet.arch_weights
    if train is None:
        output = task(*valid, half='valid')
        (gradient,) = torch.autograd.grad(output['loss'], [arch])
    else:
        output, gradient = _unrolled_gradient(task, valid, train, weight_optimizer)
    if penalty is not None:
        gradient = gradient + torch.autograd.grad(penalty, [arch])[0]
    _set_gradients([arch], [gradient])
    optimizer.step()
    optimizer.zero_grad()
    return output


def _unrolled_gradient(
    task: SearchTask, valid: Batch, train: Batch, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The validation loss's gradient by the architecture through one weight step, by central differences."""
    arch = task.supernet.arch_weights
    group = optimizer.param_groups[0]
    learned = [p for p in group['params'] if p.requires_grad]
    memory = task.train_memory
    before = [p.detach().clone() for p in learned]
    memory.eval()  # looking ahead, the training batch must leave no trace
    try:
        steps = torch.autograd.grad(task(*train)['loss'], learned, allow_unused=True)
        with torch.no_grad():
            for p, step in zip(learned, steps, strict=True):
                if step is not None:
                    momentum = optimizer.state[p].get('momentum_buffer')
                    step = step + group['weight_decay'] * p
                    p -= group['lr'] * (step if momentum is None else group['momentum'] * momentum + step)
        output = task(*valid, half='valid')
        direct, *by_weights = torch.autograd.grad(output['loss'], [arch, *learned], allow_unused=True)
        norm = torch.stack([g.norm() for g in by_weights if g is not None]).norm()
        epsilon = 0.01 / norm.clamp(min=1e-12)
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, old, g in zip(learned, before, by_weights, strict=True):
                    p.copy_(old if g is None else old + sign * epsilon * g)
            sides.append(torch.autograd.grad(task(*train)['loss'], [arch])[0])
    finally:
        memory.train()
        with torch.no_grad():
            for p, old in zip(learned, before, strict=True):
                p.copy_(old)
    return output, direct - group['lr'] * (sides[0] - sides[1]) / (2 * epsilon)


def finite(loss: torch.Tensor, half: str) -> float:
    """A loss as a number.

    Raises:
        InputError: it is none any more.
    """
    value = loss.item()
    if not torch.isfinite(loss):
        raise InputError(f'the {half} loss became {value}: lower `lr` or `arch_lr`; the last checkpoint is intact')
    return value


def _set_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[torch.Tensor | None]) -> None:
    """Gives each parameter its gradient, of several processes the mean."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if is_distributed():
        found = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in found])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(found, flat.split([g.numel() for g in found]), strict=True):
            gradient.copy_(mean.view_as(gradient))
