"""The step of a search, timed against the published form: `python -m msinet_train.benchmark.search`."""

import argparse
import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from msinet_timm.commands import command
from msinet_timm.models.msinet import WIDTHS
from msinet_timm.models.supernet import MixedInteraction, MSISuperNet
from msinet_train.search.settings import SearchSettings
from msinet_train.search.steps import SearchTask, architecture_step, create_optimizers, weight_step

from .steps import IMAGES_PER_IDENTITY, add_timing, mixed_precision, report

__all__ = ['PlainSearch', 'main']

#: Identities of both halves of Market-1501, of which two fifths are in both.
CLASSES = (450, 601)


class PlainMixture(MixedInteraction):
    """All interactions one after the other, each computed by itself, and their weighted sum."""

    def forward(self, a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [op(a, b) for op in self.ops]
        return tuple(sum(w * pair[branch] for w, pair in zip(weights, pairs, strict=True)) for branch in range(2))


class PlainMemory(torch.autograd.Function):
    """Similarities to all rows; the backward pass moves the rows, sample by sample."""

    @staticmethod
    def forward(ctx, features: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, momentum: float) -> torch.Tensor:
        ctx.save_for_backward(features, labels)
        ctx.rows, ctx.momentum = rows, momentum
        return features @ rows.T

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        features, labels = ctx.saved_tensors
        result = gradient @ ctx.rows
        for feature, label in zip(features, labels, strict=True):
            ctx.rows[label] = ctx.momentum * ctx.rows[label] + (1 - ctx.momentum) * feature
            ctx.rows[label] /= ctx.rows[label].norm()
        return result, None, None, None


class PlainSearch:
    """A search step as the published loop takes it, on a copy of a search's supernet and memories.

    Args:
        task: what to start from.
        weights: optimizer of the weights, whose settings count.
        arch: optimizer of the architecture, whose settings count.
    """

    def __init__(self, task: SearchTask, weights: torch.optim.Optimizer, arch: torch.optim.Optimizer) -> None:
        task = copy.deepcopy(task)
        self.supernet = task.supernet
        for cell in self.supernet.modules():
            for place in ('interaction1', 'interaction2'):
                if hasattr(cell, place):
                    getattr(cell, place).__class__ = PlainMixture
        self.memories = {half: task.memory(half) for half in ('train', 'valid')}
        self.weights = torch.optim.SGD(self.supernet.weight_parameters(), **_settings(weights))
        self.arch = torch.optim.Adam([self.supernet.arch_weights], **_settings(arch))

    def loss(self, images: torch.Tensor, labels: torch.Tensor, half: str) -> torch.Tensor:
        """Contrastive loss of a batch [B, 3, H, W] of classes [B]; its backward pass updates the half's memory."""
        branches = self.supernet.forward_branches(images)
        memory = self.memories[half]
        features = F.normalize(branches.global_feature, dim=1)
        logits = PlainMemory.apply(features, labels, memory.features, memory.momentum)
        return F.cross_entropy(logits / memory.temperature, labels)

    def __call__(self, train: tuple[torch.Tensor, torch.Tensor], valid: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Architecture, then weights, whose gradient holds the validation batch's, too, as in the published loop."""
        self.weights.zero_grad()
        self.arch.zero_grad()
        self.loss(*valid, 'valid').backward()
        self.arch.step()
        self.loss(*train, 'train').backward()
        self.weights.step()


def _settings(optimizer: torch.optim.Optimizer) -> dict:
    """What an optimizer was made with, but one tensor after the other."""
    return {**optimizer.defaults, 'foreach': False}


def _steps(args: argparse.Namespace) -> Callable[[], None]:
    """A search's step of a kind."""
    if 'plain' not in args.kind:
        torch.set_flush_denormal(True)  # as a search does
    settings = SearchSettings(variant=args.variant)
    supernet = MSISuperNet(CLASSES[0], WIDTHS[args.variant])
    task = SearchTask(supernet, *CLASSES).train()
    size = (args.batch_size, 3, args.height, args.width)
    labels = torch.arange(args.batch_size) // IMAGES_PER_IDENTITY
    train, valid = ((torch.randn(size), labels) for _ in range(2))
    for memory in (task.train_memory, task.valid_memory):
        memory.initialize(torch.randn_like(memory.features), torch.arange(len(memory.features)))
    if 'plain' in args.kind:
        plain = PlainSearch(task, *create_optimizers(settings, supernet))
        return lambda: plain(train, valid)

    task.to(memory_format=torch.channels_last)
    weights, arch = create_optimizers(settings, supernet)
    train, valid = ((images.to(memory_format=torch.channels_last), labels) for images, labels in (train, valid))
    amp = mixed_precision(args.kind)

    def step() -> None:
        with amp:
            architecture_step(task, valid, arch)
            weight_step(task, train, weights)

    return step


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m msinet_train.benchmark.search', description=__doc__)
    parser.add_argument('--variant', choices=WIDTHS, default='x1_0', help="the supernet's widths (default: x1_0)")
    add_timing(parser, batch_size=16)
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark."""
    report('msinet_train.benchmark.search', _parse(argv), ['variant'], _steps)


if __name__ == '__main__':
    raise SystemExit(main())
