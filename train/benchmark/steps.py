"""How steps of training and search are timed: each kind in processes of its own, which take turns."""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from msinet_timm.benchmark.timing import run_process, seconds_of
from msinet_timm.commands import format_table, pixels, positive
from msinet_timm.forms import autocast
from msinet_timm.memory import keep_memory

__all__ = ['IMAGES_PER_IDENTITY', 'KINDS', 'add_timing', 'mixed_precision', 'report', 'seconds_by_kind', 'speed_table']

#: Makes the C library's allocator keep its memory, instead of asking the system for it anew at each step.
TUNED = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': '100000000000', 'MALLOC_TOP_PAD_': '67108864'}
#: What is timed, each in processes of its own: two kinds in one would break up each other's memory.
KINDS = ('plain', 'tuned plain', "ours, system's allocator", 'ours', 'ours, bf16')
#: Steps before the first that is timed: the allocator goes on growing in the second.
WARM_UP = 2
IMAGES_PER_IDENTITY = 4


def add_timing(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Adds what a step is timed with, for `report`."""
    parser.add_argument(
        '--batch-size', type=positive, default=batch_size, metavar='N', help='images in a batch (default: %(default)s)'
    )
    parser.add_argument('--height', type=pixels, default=256, metavar='PIXELS', help='of the input (default: 256)')
    parser.add_argument('--width', type=pixels, default=128, metavar='PIXELS', help='of the input (default: 128)')
    parser.add_argument('--steps', type=positive, default=2, metavar='N', help='timed in each process (default: 2)')
    parser.add_argument('--rounds', type=positive, default=2, metavar='N', help='of processes (default: 2)')
    parser.add_argument('--kind', choices=KINDS, help='time only the steps of one process, print JSON')


def report(
    module: str,
    args: argparse.Namespace,
    names: Sequence[str],
    create: Callable[[argparse.Namespace], Callable[[], None]],
) -> None:
    """Prints the seconds of steps of one kind as JSON, if `--kind` asks for one; else a table of all kinds.

    Args:
        module: of the benchmark, to be run for each kind.
        args: what `add_timing` adds.
        names: of further arguments, to be handed on.
        create: makes a step of the kind that it is given the arguments of.
    """
    if args.kind:
        torch.manual_seed(0)
        if args.kind in ('ours', 'ours, bf16'):
            keep_memory()
        print(json.dumps(seconds_of(create(args), args.steps, warm_up=WARM_UP)))
    else:
        print(speed_table(seconds_by_kind(module, args, names)))


def mixed_precision(kind: str) -> AbstractContextManager:
    """What the forward passes of a kind compute in, on the CPU."""
    return autocast(torch.device('cpu'), 'bf16' if 'bf16' in kind else None)


def seconds_by_kind(module: str, args: argparse.Namespace, names: Sequence[str]) -> dict[str, list[float]]:
    """Seconds of steps by kind: plain, plain in an environment that makes the allocator keep its memory, and ours.

    There are `args.rounds` of processes, one for each of `KINDS`, which take turns; for the rest see `report`.
    """
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    names = [*names, 'batch_size', 'height', 'width', 'steps']
    flags = [f'--{name.replace("_", "-")}={getattr(args, name)}' for name in names]
    for _ in range(args.rounds):
        for kind in KINDS:
            environment = TUNED if kind == 'tuned plain' else None
            found[kind] += run_process(module, '--kind', kind, *flags, environment=environment)
    return found


def speed_table(found: dict[str, list[float]]) -> str:
    """Medians, ranges, and how many times faster than the plain step with either allocator."""
    median = {name: statistics.median(seconds) for name, seconds in found.items()}
    rows = [('step', 'median s', 'min - max s', 'of plain', 'of tuned plain')]
    for name, seconds in found.items():
        between = f'{min(seconds):.2f} - {max(seconds):.2f}'
        ratios = [f'{median[base] / median[name]:.2f}' for base in ('plain', 'tuned plain')]
        rows.append((name, f'{median[name]:.2f}', between, *ratios))
    return format_table(rows)
