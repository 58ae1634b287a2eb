"""Batch norms that take each camera for itself while a model trains.

Who is in an image has to be told across cameras; light, colour and blur belong to one. Norms that take each camera's
images by themselves leave less of these to the weights, which then go well with statistics of other cameras, see
`msinet_timm.models.camera_norm`. After Zhuang et al., "Rethinking the Distribution Gap of Person Re-identification with
Camera-based Batch Normalization" (ECCV 2020).
"""

import functools
from typing import NamedTuple

import torch
import torch.nn as nn
from timm.layers import BatchNormAct2d
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from msinet_timm.errors import InputError
from msinet_timm.models.blocks import Neck

from .distributed import track
from .models import backbone_of

__all__ = ['CameraGroups', 'group_norms']


class _Groups(NamedTuple):
    """Which images are normalised together.

    Attributes:
        share: [G, B] what each image counts in the statistics of each group; rows add up to 1.
        member: [G, B] 1 where an image is normalised by the group's statistics; columns add up to 1.
        counts: [G] images that make each group's statistics.
        followed: so many groups, the first ones, are followed by running statistics.
    """

    share: Tensor
    member: Tensor
    counts: Tensor
    followed: int


class CameraGroups:
    """Tells the norms of a model, before each batch, which of its images share a camera.

    An image that is the only one of its camera is normalised by the statistics of the whole batch, as by an ordinary
    norm: by its own, it would lose what sets it apart from the others, and where the norm sees one position, all.
    """

    def __init__(self) -> None:
        self._groups: _Groups | None = None
        self._placed: dict[tuple, _Groups] = {}

    def __call__(self, cameras: Tensor | None) -> None:
        """Names the cameras of the images that come next.

        Args:
            cameras: [B] integers, one for each image; None for norms that take all images together.
        """
        self._placed = {}
        self._groups = None if cameras is None or len(cameras) < 2 else _form_groups(cameras.cpu())

    def __bool__(self) -> bool:
        return self._groups is not None

    def of(self, x: Tensor) -> _Groups:
        """The groups of a norm's input [B, C, ...], or of one [B * N, C] with N rows from each image, one by one.

        Raises:
            InputError: rows that are not of the images of the batch.
        """
        images = self._groups.member.shape[1]
        times, rest = divmod(len(x), images)
        if rest or not times:
            raise InputError(f'camera norms: {images} cameras were named for a batch norm with {len(x)} rows')
        key = times, x.device, x.dtype
        if key not in self._placed:
            share, member, counts, followed = self._groups
            dtype = torch.promote_types(x.dtype, torch.float32)
            share, member = (t.repeat_interleave(times, 1).to(x.device, dtype) for t in (share / times, member))
            self._placed[key] = _Groups(share, member, (counts * times).to(share), followed)
        return self._placed[key]


def _form_groups(cameras: Tensor) -> _Groups:
    _, camera, counts = cameras.unique(return_inverse=True, return_counts=True)
    several = counts > 1
    member = nn.functional.one_hot(camera, len(counts)).T[several].double()
    made_by = member
    alone = 1 - member.sum(0, keepdim=True)
    if alone.any():
        member, made_by = torch.cat([member, alone]), torch.cat([member, torch.ones_like(alone)])
    counts = made_by.sum(1, keepdim=True)
    return _Groups(made_by / counts, member, counts, max(int(several.sum()), 1))


class _GroupedNorm(_BatchNorm):
    """A batch norm that takes groups of images by themselves in training mode.

    Running statistics follow the mean over the cameras, each counted once.
    """

    groups: CameraGroups

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.groups):
            return super().forward(input)
        self._check_input_dim(input)
        with torch.autocast(input.device.type, enabled=False):
            output = self._normalize(input)
        return self.act(self.drop(output)) if isinstance(self, BatchNormAct2d) else output

    def _normalize(self, input: Tensor) -> Tensor:
        share, member, counts, followed = self.groups.of(input)
        output, means, variances = _Normalize.apply(input, self.weight, self.bias, share, member, self.eps)
        if self.momentum != 0:  # where gradient checkpointing runs it once more, it has counted already
            counts = counts[:followed] * input[0, 0].numel()
            variances = variances[:followed] * counts / (counts - 1)
            track(self, means[:followed].mean(0), variances.mean(0))
        return output


class _Normalize(torch.autograd.Function):
    """Batch norm by groups, in a handful of passes over the images whatever the number of groups.

    Each image has sums of its own, from which all else is computed in small matrices. Statistics are of float32 at
    least, and so that a large offset of a channel costs no precision.
    """

    @staticmethod
    def forward(
        ctx, input: Tensor, weight: Tensor | None, bias: Tensor | None, share: Tensor, member: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gives the output, and mean and variance [G, C] of each group.

        Args:
            input: [B, C, ...].
            weight: [C], or None.
            bias: [C], or None.
            share: see `_Groups`.
            member: see `_Groups`.
            eps: added to variances.
        """
        x = _by_position(input).to(torch.promote_types(input.dtype, torch.float32))
        mean = x.mean(2)
        center = mean.mean(0)
        mean, x = mean - center, x - center[:, None]
        means = share @ mean
        variances = (share @ x.square().mean(2) - means.square()).clamp(min=0)
        inverse = (variances + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        shift = -means * scale
        shift = shift if bias is None else shift + bias
        shift, scale = (_spread(member, t).view([*mean.shape] + [1] * (input.ndim - 2)) for t in (shift, scale))
        output = torch.addcmul(shift, x.view(input.shape), scale)
        ctx.save_for_backward(x.to(input.dtype), weight, share, member, means, inverse)
        means = means + center
        ctx.mark_non_differentiable(means, variances)
        return output.to(input.dtype), means, variances

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_) -> tuple[Tensor | None, ...]:
        x, weight, share, member, means, inverse = ctx.saved_tensors
        shape, dtype = grad.shape, x.dtype
        x, grad = x.to(means.dtype), _by_position(grad).to(means.dtype)
        scale = inverse if weight is None else inverse * weight
        of_shift, of_scale = member @ grad.sum(2), member @ (grad * x).sum(2)
        of_scale = of_scale - of_shift * means
        of_variance = -of_scale * scale * inverse.square() / 2
        of_mean = -of_shift * scale - 2 * means * of_variance
        positions = x.shape[2]
        found = torch.addcmul(_spread(share, of_mean / positions), x, _spread(share, 2 * of_variance / positions))
        found.addcmul_(grad, _spread(member, scale))
        of_weight = None if weight is None else (of_scale * inverse).sum(0)
        of_bias = of_shift.sum(0) if ctx.needs_input_grad[2] else None
        return found.to(dtype).view(shape), of_weight, of_bias, None, None, None


def _by_position(x: Tensor) -> Tensor:
    """[B, C, ...] as [B, C, N], in the layout that it has."""
    return x.flatten(2) if x.ndim > 2 else x[..., None]


def _spread(member: Tensor, x: Tensor) -> Tensor:
    """What groups have [G, C], for their images [B, C, 1]."""
    return (member.T @ x)[..., None]


@functools.cache
def _grouped(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f'Grouped{kind.__name__}', (_GroupedNorm, kind), {})


def group_norms(model: nn.Module) -> CameraGroups:
    """Lets the batch norms of a model normalise each camera's images by themselves, in training mode.

    Batches stay mixed, so that losses compare across cameras. Norms before classifiers, those of necks, stay as they
    are: they could hide from the losses what sets cameras apart in the features that are ranked. So do frozen ones.
    Names and parameters stay the same, and evaluation mode too.

    ```
    groups = group_norms(model)
    groups(cameras)
    loss = task(images, target)
    ```

    Args:
        model: as `create_training_model` gives it, changed in place.

    Returns:
        What is to be called with the cameras of each batch; until then, norms take all images together.

    Raises:
        InputError: a model without batch norms, or one whose norms go over all processes.
    """
    backbone = backbone_of(model)
    necks = {norm for neck in backbone.modules() if isinstance(neck, Neck) for norm in neck.modules()}
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm) and m not in necks]
    if not norms:
        raise InputError(f'{type(backbone).__name__} has no batch norms to take cameras by themselves')
    if any(isinstance(norm, SyncBatchNorm) for norm in norms):
        raise InputError('norms over all processes cannot take cameras by themselves')
    groups = CameraGroups()
    for norm in norms:
        # The class alone decides how a norm computes; a new object would have to take over its hooks and settings.
        norm.__class__, norm.groups = _grouped(type(norm)), groups
    return groups
