"""How long the interactions and networks take on this device."""

import statistics
from collections.abc import Callable

import torch
import torch.nn as nn

from msinet_timm.benchmark.timing import seconds_of
from msinet_timm.models.genotype import NUM_CELLS
from msinet_timm.models.interactions import INTERACTIONS, create_interaction

__all__ = ['interaction_costs', 'milliseconds']


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Median time of 20 calls, after three that are not counted."""
    return 1000 * statistics.median(seconds_of(run, 20, warm_up=3, device=device))


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
        costs = [milliseconds(lambda op=op, a=a, b=b: op(a, b), device) for op in ops]
        rows += [costs] * (2 * NUM_CELLS // 3)
    return torch.tensor(rows, device=device)
