"""The training step, timed against a plain one; and with `--gradients`, what lower precision does to the gradient."""

import argparse
import copy
from collections.abc import Callable, Sequence

import timm
import torch
import torch.nn.functional as F

import msinet_timm  # noqa: F401 - registers the models with timm
from msinet_timm.commands import command, format_table
from msinet_timm.processes import Processes
from msinet_timm.settings import flags_named
from msinet_train.engine.optim import Stepper, create_optimizer
from msinet_train.engine.setup import prepare
from msinet_train.losses.task import ReIDTask
from msinet_train.settings import TrainSettings

from .gradients import PARTS, cosines, gradient, in_float32, kept_in_float32
from .steps import IMAGES_PER_IDENTITY, add_timing, mixed_precision, report

__all__ = ['gradients', 'main', 'plain_step']

CLASSES = 751


def plain_step(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of a step as one would write it down: smoothed targets and all distances, element by element.

    Args:
        model: an MSINet with classifiers.
        images: [B, 3, H, W].
        labels: [B].
    """

    def classification(logits: torch.Tensor) -> torch.Tensor:
        targets = torch.full_like(logits, 0.1 / logits.size(1))
        targets.scatter_(1, labels[:, None], 0.9 + 0.1 / logits.size(1))
        return (-targets * F.log_softmax(logits, dim=1)).sum(1).mean()

    def triplet(features: torch.Tensor) -> torch.Tensor:
        features = features / features.norm(dim=1, keepdim=True)
        distances = (features[:, None] - features[None]).square().sum(2).clamp(min=1e-12).sqrt()
        same = labels[:, None] == labels[None]
        positive = torch.where(same, distances, -torch.inf).amax(1)
        negative = torch.where(same, torch.inf, distances).amin(1)
        return (positive - negative + 0.3).clamp(min=0).mean()

    branches = model.forward_branches(images)
    return (
        classification(branches.global_logits)
        + triplet(branches.global_feature)
        + classification(branches.local_logits)
        + triplet(branches.local_feature)
    )


def _batch(batch_size: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(batch_size) // IMAGES_PER_IDENTITY
    return torch.randn(batch_size, 3, height, width), labels


def _plain(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, weight_decay=5e-4, foreach=False)

    def step() -> None:
        optimizer.zero_grad()
        plain_step(model, images, labels).backward()
        optimizer.step()

    return step


def _ours(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, kind: str) -> Callable[[], None]:
    task = ReIDTask(copy.deepcopy(model)).to(memory_format=torch.channels_last)
    stepper = Stepper(task, create_optimizer(TrainSettings(lr=1e-3), task), amp=mixed_precision(kind))
    images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        with stepper.amp:
            loss = task(images, labels)['loss']
        stepper(loss, 0, 1)

    return step


def _create_step(args: argparse.Namespace) -> Callable[[], None]:
    """A step of a kind."""
    model = timm.create_model(args.model, num_classes=CLASSES).train()
    batch = _batch(args.batch_size, args.height, args.width)
    return _plain(model, *batch) if 'plain' in args.kind else _ours(model, *batch, args.kind)


def gradients(
    model: str, batch_size: int, height: int, width: int, checkpoint: str | None = None
) -> dict[str, dict[str, tuple[float, float]]]:
    """Cosines with the float64 gradient of a batch of the sample, by way of computing and part of the network.

    What only moves the input of an exact computation a little shows how far the gradient itself can be trusted.

    Args:
        model: name of an MSINet.
        batch_size: images in the batch.
        height: of the input in pixels.
        width: of the input in pixels.
        checkpoint: weights to start from; None for initial ones.
    """
    options = dict(batch_size=batch_size, height=height, width=width, pretrained=False, cache='none', workers=0)
    settings = TrainSettings.from_recipe('demo', model=model, checkpoint=checkpoint, **options)
    training = prepare(settings, Processes(torch.device('cpu')))
    batch, indices = next(iter(training.loader))
    images, labels = training.loader.dataset.to_input(batch, torch.device('cpu')), training.labels[indices]
    training.task.train()

    def fresh() -> ReIDTask:
        return copy.deepcopy(training.task)

    def lower(*parts: str) -> dict[str, torch.Tensor]:
        task = fresh()
        in_float32(kept_in_float32(task.get_eval_model(), parts))
        return gradient(task, images, labels, torch.bfloat16)

    def moved(by: float) -> dict[str, torch.Tensor]:
        task = fresh().double()
        with torch.no_grad():
            for parameter in task.parameters():
                parameter *= 1 + by * torch.randn_like(parameter)
        return gradient(task, images.double(), labels)

    expected = gradient(fresh().double(), images.double(), labels)
    found = {'float32': gradient(fresh(), images, labels), 'bf16': lower()}
    found |= {f'bf16, {part} in float32': lower(part) for part in PARTS}
    found['bf16, all of these in float32'] = lower(*PARTS)
    found['float64, images rounded to bf16'] = gradient(fresh().double(), images.bfloat16().double(), labels)
    found |= {f'float64, weights moved by {by:g}': moved(by) for by in (1e-5, 1e-3)}
    return {name: cosines(g, expected) for name, g in found.items()}


def gradient_table(found: dict[str, dict[str, tuple[float, float]]]) -> str:
    """A row for each way of computing, under the share of energy that each part of the network has."""
    parts = next(iter(found.values()))
    rows = [('', *parts), ('share of energy', *(f'{share:.3f}' for _, share in parts.values()))]
    rows += [(name, *(f'{cosine:.3f}' for cosine, _ in row.values())) for name, row in found.items()]
    return format_table(rows)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m msinet_train.benchmark', description=__doc__)
    parser.add_argument('--model', default='msinet_x1_0', help='an MSINet (default: msinet_x1_0)')
    add_timing(parser, batch_size=64)
    parser.add_argument('--gradients', action='store_true', help='compare gradients instead of times')
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for --gradients (default: initial ones)')
    return parser.parse_args(argv)


@command
@flags_named(TrainSettings)
def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark."""
    args = _parse(argv)
    if args.gradients:
        names = ('model', 'batch_size', 'height', 'width', 'checkpoint')
        print(gradient_table(gradients(**{name: getattr(args, name) for name in names})))
    else:
        report('msinet_train.benchmark', args, ['model'], _create_step)


if __name__ == '__main__':
    raise SystemExit(main())
