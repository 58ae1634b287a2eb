"""How benchmarks take times: of calls, in turns where they are compared, and in processes of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from msinet_timm.errors import InputError

__all__ = ['in_turns', 'run_process', 'seconds_of']


def seconds_of(
    run: Callable[[], Any],
    count: int = 1,
    *,
    warm_up: int = 0,
    budget: float = 0.0,
    device: torch.device | None = None,
    clock: Callable[[], float] | None = None,
) -> list[float]:
    """Seconds of each of some calls.

    Args:
        run: what is timed.
        count: calls at least.
        warm_up: calls before them, which are not timed.
        budget: seconds; calls go on until they have taken so many.
        device: accelerator to wait for before and after each call; None or the CPU for none.
        clock: gives seconds; None for `time.perf_counter`.
    """
    clock = clock or time.perf_counter
    wait = device is not None and device.type != 'cpu'
    for _ in range(warm_up):
        run()
    seconds: list[float] = []
    while len(seconds) < count or sum(seconds) < budget:
        if wait:
            torch.accelerator.synchronize(device)
        start = clock()
        run()
        if wait:
            torch.accelerator.synchronize(device)
        seconds.append(clock() - start)
    return seconds


def in_turns(
    runs: Mapping[Any, Callable[[], Any]], rounds: int, clock: Callable[[], float] | None = None
) -> dict[Any, list[float]]:
    """Seconds of each of several calls, by their names, which take turns so that a busy machine slows all of them.

    A first round doesn't count: in it, whatever has to be compiled or cached is.

    Args:
        runs: what is timed, by name.
        rounds: how often, for each.
        clock: see `seconds_of`.
    """
    found: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(1 + rounds):
        for name, run in runs.items():
            found[name] += seconds_of(run, clock=clock)
    return {name: seconds[1:] for name, seconds in found.items()}


def run_process(
    module: str, *argv: str, environment: Mapping[str, str] | None = None, name: str = 'the process'
) -> Any:
    """What `python -m module` prints last, in a process with an allocator, threads and a peak of memory of its own.

    Args:
        module: prints one line of JSON at its end.
        argv: its arguments.
        environment: variables that are set for it.
        name: what an error calls it.

    Raises:
        InputError: it ends with an exit code.
    """
    command, variables = [sys.executable, '-m', module, *argv], os.environ | (environment or {})
    result = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise InputError(
            f'{name} ended with exit code {result.returncode}: see above, or, if nothing is said there, there was too '
            'little memory'
        )
    return json.loads(result.stdout.splitlines()[-1])
