"""How long the interactions and networks take on this device."""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn as nn

from msinet_timm.models.genotype import NUM_CELLS
from msinet_timm.models.interactions import INTERACTIONS, create_interaction

__all__ = ['interaction_costs', 'measure_milliseconds']


def measure_milliseconds(run: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Median time of a call, after a few that are not counted."""
    times = []
    for _ in range(3 + repeats):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def _wait(device: torch.device) -> None:
    if device.type != 'cpu':
        torch.accelerator.synchronize(device)


@torch.no_grad()  # what inference_mode makes cannot join a loss
def interaction_costs(
    widths: tuple[int, int, int, int], size: tuple[int, int], device: torch.device, batch_size: int = 8
) -> torch.Tensor:
    """Milliseconds of each interaction at each place of the final network, measured on this device.

    Args:
        widths: of the network, see `msinet_timm.models.msinet.MSINet`.
        size: height and width of its input.
        batch_size: images at once.

    Returns:
        [12, 4] on the device: a row for each place of a genotype, a column for each of `INTERACTIONS`.
    """
    rows = []
    for stage, width in enumerate(widths[1:]):
        height, breadth = (max(1, side // (4 * 2**stage)) for side in size)
        maps = torch.randn(2, batch_size, width // 4, height, breadth, device=device)
        a, b = (x.contiguous(memory_format=torch.channels_last) for x in maps)
        ops: list[nn.Module] = [create_interaction(name, width // 4, device=device).eval() for name in INTERACTIONS]
        costs = [measure_milliseconds(lambda op=op, a=a, b=b: op(a, b), device) for op in ops]
        rows += [costs] * (2 * NUM_CELLS // 3)
    return torch.tensor(rows, device=device)
