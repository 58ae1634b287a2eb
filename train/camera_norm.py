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
            share, member = (tensor.repeat_interleave(times, 1).to(x) for tensor in (share / times, member))
            self._placed[key] = _Groups(share, member, (counts * times).to(x), followed)
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
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        share, member, counts, followed = self.groups.of(x)
        positions = x[0, 0].numel()
        if x.ndim > 2:
            variance, mean = torch.var_mean(x, list(range(2, x.ndim)), correction=0)
        else:
            variance, mean = torch.zeros_like(x), x
        # Around the mean of the batch, so that little is lost in the difference of squares.
        center = mean.detach().mean(0)
        mean = mean - center
        means = share @ mean
        variances = share @ (variance + mean.square()) - means.square()
        self._follow(means[:followed] + center, variances[:followed], positions * counts[:followed])
        scale = (variances.clamp(min=0) + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -(means + center) * scale
        shift = shift if self.bias is None else shift + self.bias
        shape = [*mean.shape] + [1] * (x.ndim - 2)
        return (x * (member.T @ scale).view(shape) + (member.T @ shift).view(shape)).to(input.dtype)

    @torch.no_grad()
    def _follow(self, means: Tensor, variances: Tensor, counts: Tensor) -> None:
        if self.momentum != 0:  # when gradient checkpointing runs it once more, it has counted already
            track(self, means.mean(0), (variances * counts / (counts - 1)).mean(0))


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
