"""The training step, timed against a plain one; and with `--gradients`, what lower precision does to the gradient."""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import timm
import torch
import torch.nn.functional as F

import msinet_timm  # noqa: F401 - registers the models with timm
from msinet_timm.commands import command, positive
from msinet_timm.memory import keep_memory
from msinet_timm.processes import Processes
from msinet_train.cli import parse_args
from msinet_train.engine.optim import Stepper, create_optimizer, precision
from msinet_train.engine.setup import prepare
from msinet_train.losses.task import ReIDTask

from .gradients import PARTS, cosines, gradient, in_float32, kept_in_float32

__all__ = ['add_timing', 'gradients', 'main', 'plain_step', 'seconds_by_kind', 'speed_table', 'time_steps']

#: Makes the C library's allocator keep its memory, instead of asking the system for it anew at each step.
TUNED = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': '100000000000', 'MALLOC_TOP_PAD_': '67108864'}
#: What is timed, each in processes of its own: two kinds in one would break up each other's memory.
KINDS = ('plain', 'tuned plain', "ours, system's allocator", 'ours', 'ours, bf16')
#: Steps before the first that is timed: the allocator goes on growing in the second.
WARM_UP = 2
CLASSES, IMAGES_PER_IDENTITY = 751, 4


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


def _ours(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, flags: Sequence[str] = ()
) -> Callable[[], None]:
    args = parse_args(['--recipe', 'scratch', '--lr', '1e-3', *flags])
    task = ReIDTask(copy.deepcopy(model)).to(memory_format=torch.channels_last)
    amp = precision(args, images.device)
    stepper = Stepper(task, create_optimizer(args, task), amp=amp)
    images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        with stepper.amp:
            loss = task(images, labels)['loss']
        stepper(loss, 0, 1)

    return step


def _time_steps(args: argparse.Namespace) -> list[float]:
    """Seconds of steps of one kind in this process."""
    torch.manual_seed(0)
    if args.kind in ('ours', 'ours, bf16'):
        keep_memory()
    model = timm.create_model(args.model, num_classes=CLASSES).train()
    batch = _batch(args.batch_size, args.height, args.width)
    create = _plain if 'plain' in args.kind else _ours
    step = create(model, *batch, **({'flags': ['--amp']} if 'bf16' in args.kind else {}))
    return time_steps(step, args.steps)


def time_steps(step: Callable[[], None], count: int) -> list[float]:
    """Seconds of each of so many steps, after some that are not counted."""
    seconds = []
    for _ in range(WARM_UP + count):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def seconds_by_kind(module: str, args: argparse.Namespace, names: Sequence[str]) -> dict[str, list[float]]:
    """Seconds of steps by kind: plain, plain in an environment that makes the allocator keep its memory, and ours.

    Args:
        module: to run for a kind; with `--kind` it prints its seconds.
        args: what `add_timing` adds: `rounds` of five processes, one for each of `KINDS`, which take turns; the rest
            is handed to them.
        names: of further settings to hand on.
    """
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    names = [*names, 'batch_size', 'height', 'width', 'steps']
    flags = [f'--{name.replace("_", "-")}={getattr(args, name)}' for name in names]
    for _ in range(args.rounds):
        for kind in KINDS:
            argv = [sys.executable, '-m', module, '--kind', kind, *flags]
            environment = os.environ | (TUNED if kind == 'tuned plain' else {})
            output = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, check=True).stdout
            found[kind] += json.loads(output)
    return found


def speed_table(found: dict[str, list[float]]) -> str:
    """Medians, ranges, and how many times faster than the plain step with either allocator."""
    median = {name: statistics.median(seconds) for name, seconds in found.items()}
    lines = [f'{"step":24} {"median s":>9} {"min - max s":>17} {"of plain":>9} {"of tuned plain":>15}']
    for name, seconds in found.items():
        between = f'{min(seconds):.2f} - {max(seconds):.2f}'
        ratios = [median[base] / median[name] for base in ('plain', 'tuned plain')]
        lines.append(f'{name:24} {median[name]:9.2f} {between:>17} {ratios[0]:9.2f} {ratios[1]:15.2f}')
    return '\n'.join(lines)


def gradients(args: argparse.Namespace) -> dict[str, dict[str, tuple[float, float]]]:
    """Cosines with the float64 gradient of a batch of the sample, by way of computing and part of the network.

    What only moves the input of an exact computation a little shows how far the gradient itself can be trusted.

    Args:
        args: `model`, `checkpoint` to start from, `batch_size`, `height`, `width`.
    """
    flags = [f'--{name.replace("_", "-")}={getattr(args, name)}' for name in ('model', 'batch_size', 'height', 'width')]
    flags += ['--checkpoint', args.checkpoint] if args.checkpoint else []
    training = prepare(
        parse_args(['--recipe', 'demo', '--cache', 'none', '--workers', '0', *flags]), Processes(torch.device('cpu'))
    )
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
    lines = [f'{"":36}' + ' '.join(f'{part[-9:]:>9}' for part in parts)]
    lines.append(f'{"share of energy":36}' + ' '.join(f'{share:9.3f}' for _, share in parts.values()))
    for name, row in found.items():
        lines.append(f'{name:36}' + ' '.join(f'{cosine:9.3f}' for cosine, _ in row.values()))
    return '\n'.join(lines)


def add_timing(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Adds what a step is timed with, for `seconds_by_kind`."""
    parser.add_argument(
        '--batch-size', type=positive, default=batch_size, metavar='N', help='images in a batch (default: %(default)s)'
    )
    parser.add_argument('--height', type=positive, default=256, metavar='PIXELS', help='of the input (default: 256)')
    parser.add_argument('--width', type=positive, default=128, metavar='PIXELS', help='of the input (default: 128)')
    parser.add_argument('--steps', type=positive, default=2, metavar='N', help='timed in each process (default: 2)')
    parser.add_argument('--rounds', type=positive, default=2, metavar='N', help='of processes (default: 2)')
    parser.add_argument('--kind', choices=KINDS, help='time only the steps of one process, print JSON')


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m msinet_train.benchmark', description=__doc__)
    parser.add_argument('--model', default='msinet_x1_0', help='an MSINet (default: msinet_x1_0)')
    add_timing(parser, batch_size=64)
    parser.add_argument('--gradients', action='store_true', help='compare gradients instead of times')
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for --gradients (default: initial ones)')
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark."""
    args = _parse(argv)
    if args.kind:
        print(json.dumps(_time_steps(args)))
    elif args.gradients:
        print(gradient_table(gradients(args)))
    else:
        print(speed_table(seconds_by_kind('msinet_train.benchmark', args, ['model'])))


if __name__ == '__main__':
    raise SystemExit(main())
