"""Where lower precision loses the gradient: its direction in each part of the network, against float64."""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.nn as nn
from timm.task import TrainingTask
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ['cosines', 'gradient', 'in_float32', 'kept_in_float32']

#: Parts that can be kept in float32 under autocast, by name.
PARTS: dict[str, Callable[[str, nn.Module], bool]] = {
    'stem': lambda name, module: name == 'stem',
    'first stage': lambda name, module: name == 'stages.0',
    'norms': lambda name, module: isinstance(module, _BatchNorm),
    'necks': lambda name, module: name.endswith('_neck'),
}


def kept_in_float32(model: nn.Module, parts: Sequence[str]) -> list[nn.Module]:
    """The modules of some of `PARTS`."""
    return [module for name, module in model.named_modules() if any(PARTS[part](name, module) for part in parts)]


def in_float32(modules: Sequence[nn.Module]) -> None:
    """Makes modules compute in float32 under autocast, for good."""
    for module in modules:
        module.forward = _without_autocast(module.forward)


def _without_autocast(forward: Callable) -> Callable:
    @functools.wraps(forward)
    def wrapped(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    return wrapped


def gradient(
    task: TrainingTask, images: torch.Tensor, labels: torch.Tensor, amp: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """The gradient of the loss, by parameter, in float64.

    Args:
        task: in training mode and in the precision to compute in.
        images: [B, C, H, W].
        labels: [B].
        amp: dtype of autocast; None for none.
    """
    task.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, amp) if amp else nullcontext():
        loss = task(images, labels)['loss']
    loss.backward()
    model = task.get_eval_model()
    return {name: p.grad.double().clone() for name, p in model.named_parameters() if p.grad is not None}


def cosines(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, tuple[float, float]]:
    """Cosine of two gradients and share of the expected one's energy, for each part of a network and for `all`.

    Parts are the first names of parameters, or the first two where the second is a number.
    """
    groups: dict[str, list[str]] = {'all': list(expected)}
    for name in expected:
        first, second = (*name.split('.'), '')[:2]
        groups.setdefault(f'{first}.{second}' if second.isdigit() else first, []).append(name)
    energy = sum(g.square().sum() for g in expected.values())
    result = {}
    for group, names in groups.items():
        a, b = (torch.cat([gradients[name].flatten() for name in names]) for gradients in (found, expected))
        result[group] = (float(a @ b / (a.norm() * b.norm())), float(b.square().sum() / energy))
    return result
