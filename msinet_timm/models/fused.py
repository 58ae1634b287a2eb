"""What `fuse()` makes of the parts of MSINet: the same functions of an image, in fewer passes over memory.

Norms are folded with their running statistics, whatever mode a network is in: the result is its inference form. What
it is made of stays as it was.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

__all__ = ['Fold', 'FusedCell', 'FusedCrossAttention', 'fold_conv', 'fold_linear', 'recorded_folds']


class Fold(NamedTuple):
    """Where a norm has gone.

    Attributes:
        conv: the convolution before the norm.
        folded: the one that stands for both, perhaps for several such pairs side by side.
        start: first input channel in `folded` that is of this pair.
    """

    conv: nn.Conv2d
    folded: nn.Conv2d
    start: int = 0


_folds: ContextVar[dict[nn.Module, Fold] | None] = ContextVar('folds', default=None)


@contextmanager
def recorded_folds() -> Iterator[dict[nn.Module, Fold]]:
    """Gives a mapping that is filled, for each norm that is folded inside of the `with` into a convolution."""
    record: dict[nn.Module, Fold] = {}
    token = _folds.set(record)
    try:
        yield record
    finally:
        _folds.reset(token)


def fold_conv(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """One convolution for a convolution and the batch norm behind it.

    Raises:
        ValueError: a norm without running statistics.
    """
    _check_statistics(norm)
    shape = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation
    folded = nn.Conv2d(*shape, groups=conv.groups, device='meta')
    folded.weight, folded.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    if (record := _folds.get()) is not None:
        record.setdefault(norm, Fold(conv, folded))  # timm fuses what a fused part was made of once more
    return folded.train(conv.training)


def fold_linear(linear: nn.Linear, norm: nn.Module) -> nn.Linear:
    """One linear layer for a linear layer and the batch norm behind it.

    Raises:
        ValueError: a norm without running statistics.
    """
    _check_statistics(norm)
    bias = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    folded = nn.Linear(linear.in_features, linear.out_features, device='meta')
    folded.weight, folded.bias = fuse_linear_bn_weights(
        linear.weight, linear.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, bias
    )
    return folded.train(linear.training)


def _check_statistics(norm: nn.Module) -> None:
    if getattr(norm, 'running_mean', None) is None or getattr(norm, 'running_var', None) is None:
        raise ValueError(
            f'{type(norm).__name__} without running statistics cannot be folded into the layer before it: only a '
            'network whose batch norms track statistics has an inference form'
        )


class FusedCrossAttention(nn.Module):
    """`CrossAttention` with one matrix product for each branch instead of a product and a sum.

    The identity is added to the attention's weights [C, C], so that their product with a branch is the branch and its
    attention together. Maps in channels_last are read as they lie in memory, without a copy.

    Args:
        gamma: [1], the attention's weight.
        channels: channels of each branch.
    """

    def __init__(self, gamma: torch.Tensor, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma.detach().clone(), requires_grad=gamma.requires_grad)
        identity = torch.eye(channels, device=gamma.device, dtype=gamma.dtype)
        self.register_buffer('identity', identity, persistent=False)

    def weights(self, energy: torch.Tensor) -> torch.Tensor:
        """The product of this branch's channels with the other's, [B, C, C], to weights [B, C, C].

        Channel i of the output is the sum of this branch's channels by the weights in row i.
        """
        # Processors multiply numbers below 1e-38 many times more slowly, and a softmax gives many of them. Below 1e-30
        # they add nothing that float32 could hold.
        return self.identity + self.gamma * F.threshold((-energy).softmax(dim=-1), 1e-30, 0.0)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat_a, flat_b = a.permute(0, 2, 3, 1).flatten(1, 2), b.permute(0, 2, 3, 1).flatten(1, 2)
        energy = flat_a.transpose(1, 2) @ flat_b
        out_a = flat_a @ self.weights(energy).transpose(1, 2)
        out_b = flat_b @ self.weights(energy.transpose(1, 2)).transpose(1, 2)
        height, width = a.size(2), a.size(3)
        return (
            out_a.unflatten(1, (height, width)).permute(0, 3, 1, 2),
            out_b.unflatten(1, (height, width)).permute(0, 3, 1, 2),
        )


class FusedCell(nn.Module):
    """`Cell` without norms, whose last three convolutions are one over their inputs side by side.

    Args:
        reduce: the 1x1 convolutions that branch a and branch b begin with.
        first: the light convolutions of branch a and of branch b before the first interaction.
        second: the light convolutions of branch a and of branch b before the second interaction.
        interactions: the first and the second.
        expand: 1x1 convolutions of branch a, of branch b, and of the cell's input unless that is added as it is.
        act: the activation of the sum.
    """

    def __init__(
        self,
        reduce: Sequence[nn.Module],
        first: Sequence[nn.Module],
        second: Sequence[nn.Module],
        interactions: Sequence[nn.Module],
        expand: Sequence[nn.Conv2d],
        act: nn.Module,
    ) -> None:
        super().__init__()
        self.branch_a, self.branch_b = (nn.Sequential(*parts) for parts in zip(reduce, first, strict=True))
        self.second_a, self.second_b = second
        self.interaction1, self.interaction2 = interactions
        self.projects = len(expand) == 3
        self.expand = _side_by_side(expand)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.interaction1(self.branch_a(x), self.branch_b(x))
        a, b = self.interaction2(self.second_a(a), self.second_b(b))
        if self.projects:
            return self.act(self.expand(torch.cat([a, b, x], dim=1)))
        out = self.expand(torch.cat([a, b], dim=1))
        out += x
        return self.act(out)


def _side_by_side(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """The sum of 1x1 convolutions, each of its own input, as one of all inputs concatenated."""
    merged = nn.Conv2d(sum(conv.in_channels for conv in convs), convs[0].out_channels, 1, device='meta')
    trains = convs[0].weight.requires_grad
    merged.weight = nn.Parameter(torch.cat([conv.weight.detach() for conv in convs], dim=1), requires_grad=trains)
    merged.bias = nn.Parameter(torch.stack([conv.bias.detach() for conv in convs]).sum(0), requires_grad=trains)
    record, start = _folds.get() or {}, 0
    for conv in convs:
        for norm in [norm for norm, fold in record.items() if fold.folded is conv]:
            record[norm] = record[norm]._replace(folded=merged, start=start)
        start += conv.in_channels
    return merged.train(convs[0].training)
