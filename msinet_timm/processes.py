"""The processes that train together: one, or as many as `torchrun` has started."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from timm.utils.distributed import init_distributed_device_so, is_distributed_env

from .commands import find_device

__all__ = ['Processes', 'is_primary', 'start_processes']

#: Gradients go from GPU to GPU, the features of an evaluation from CPU to CPU.
BACKENDS = {'cuda': 'cpu:gloo,cuda:nccl'}


class Processes(NamedTuple):
    """Where a process stands among the others.

    Attributes:
        device: that it computes on.
        rank: its number, 0 for the one that writes and reports.
        count: of all processes.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1


@contextmanager
def start_processes(device: str | None) -> Iterator[Processes]:
    """Joins the processes that `torchrun` has started, and leaves them at the end; without it there is this one.

    Processes other than the first say nothing but errors.

    Args:
        device: see `find_device`; of several processes on GPUs each takes its own.

    Raises:
        InputError: torch cannot use the device.
    """
    if not is_distributed_env():
        yield Processes(find_device(device))
        return
    kind = find_device(device).type
    found = init_distributed_device_so(device=kind, dist_backend=BACKENDS.get(kind))
    level = logging.root.level
    if found['global_rank']:
        logging.root.setLevel(logging.ERROR)
    try:
        yield Processes(torch.device(found['device']), found['global_rank'], found['world_size'])
    finally:
        logging.root.setLevel(level)
        dist.destroy_process_group()


def is_primary() -> bool:
    """Whether this process is the one that reports: the first of its group, or the only one."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank())
