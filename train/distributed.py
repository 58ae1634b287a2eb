"""What the processes of one training tell each other.

Every process computes the loss of its own part of the batch, and DistributedDataParallel averages the gradients: the
loss of the whole is the mean of the processes' losses. What one process computes from another's values has its
gradient summed over all processes, so that this mean's gradient comes out.
"""

import timm.layers
import torch
import torch.distributed as dist
import torch.nn as nn
from timm.layers import BatchNormAct2d
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ['convert_sync_batchnorm', 'gather', 'is_distributed']


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    # torch.distributed.nn.functional, which does the same, is deprecated; what replaces it differs between versions.

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        rank = dist.get_rank()
        return torch.cat([*parts[rank:], *parts[:rank]])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        rank, rows = dist.get_rank(), len(grad) // dist.get_world_size()
        # To the order of ranks and a layout that is the same in every process: collectives go through plain memory.
        grad = grad.roll(rank * rows, 0).contiguous()
        dist.all_reduce(grad)
        return grad[rank * rows : (rank + 1) * rows]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


def gather(x: torch.Tensor) -> torch.Tensor:
    """Joins the rows of all processes, with gradient to each row's own process.

    Args:
        x: [B, ...], of the same shape in every process.

    Returns:
        [B * processes, ...]: first this process's own rows, then those of the next rank, and so on around. A single
        process gets `x` itself.
    """
    return _Gather.apply(x.contiguous()) if is_distributed() else x


def track(norm: _BatchNorm, mean: torch.Tensor, var: torch.Tensor) -> None:
    """Lets the running statistics of a batch norm follow those of a batch, as torch's norms do.

    Args:
        norm: in training mode.
        mean: [C] of the batch.
        var: [C] of the batch, unbiased.
    """
    if not norm.track_running_stats:
        return
    norm.num_batches_tracked.add_(1)
    for running, new in ((norm.running_mean, mean), (norm.running_var, var)):
        new = new.to(running.dtype)
        running.lerp_(new, new.new_ones(()) / norm.num_batches_tracked if norm.momentum is None else norm.momentum)


class _SyncBatchNorm(_BatchNorm):
    """What torch's SyncBatchNorm computes, which works on accelerators only."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Takes any number of dimensions."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (self.training and is_distributed()):
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        shape = [1, -1] + [1] * (x.ndim - 2)
        dims = [0, *range(2, x.ndim)]
        totals = _Sum.apply(torch.cat([x.sum(dims), x.new_tensor([x.numel() // x.size(1)])]))
        count = totals[-1].detach()
        mean = totals[:-1] / count
        x = x - mean.view(shape)
        var = _Sum.apply(x.square().sum(dims)) / count
        track(self, mean.detach(), var.detach() * count / (count - 1))
        scale = torch.rsqrt(var + self.eps)
        x = x * (scale if self.weight is None else scale * self.weight).view(shape)
        return (x if self.bias is None else x + self.bias.view(shape)).to(input.dtype)


class _SyncBatchNormAct(_SyncBatchNorm):
    """The same for timm's norm with activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Lets the batch norms of a model normalise over the images of all processes.

    On accelerators this is timm's conversion; torch has nothing of the kind for the CPU. Names stay, and parameters
    stay the same objects; in a single process and in evaluation mode the norms compute what they did.

    Args:
        module: already on its device. Changed in place, unless it is a batch norm itself.

    Returns:
        The module.
    """
    if next(module.parameters()).device.type != 'cpu':
        return timm.layers.convert_sync_batchnorm(module)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            # The class alone decides how a norm computes; a new object would have to take over its hooks and settings.
            norm.__class__ = _SyncBatchNormAct if isinstance(norm, BatchNormAct2d) else _SyncBatchNorm
    return module
