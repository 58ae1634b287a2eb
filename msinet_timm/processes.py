"""The processes that work together: one, or as many as `torchrun` has started."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from timm.utils.distributed import init_distributed_device_so, is_distributed_env, world_info_from_env

from .commands import find_device

__all__ = ['Processes', 'is_primary', 'start_processes']


class Processes(NamedTuple):
    """Where a process stands among the others.

    Attributes:
        device: that it computes on.
        rank: its number, 0 for the one that writes and reports, see `is_primary`.
        count: of all processes.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1


@contextmanager
def start_processes(device: str | None = None) -> Iterator[Processes]:
    """Joins the processes that `torchrun` or Slurm has started, and leaves them at the end; else there is this one.

    A process group that exists already is used and left as it is. Processes other than the first say nothing but
    errors.

    Args:
        device: see `find_device`; of several processes on GPUs each takes its own.

    Raises:
        InputError: torch cannot use the device.
    """
    if dist.is_available() and dist.is_initialized():
        yield Processes(find_device(device), dist.get_rank(), dist.get_world_size())
        return
    if not is_distributed_env():
        yield Processes(find_device(device))
        return
    kind = find_device(device).type
    # gradients go from GPU to GPU; the features of an evaluation, and small objects, from CPU to CPU
    between = dist.Backend.default_device_backend_map.get(kind)
    backend = f'cpu:gloo,{kind}:{between}' if between and kind != 'cpu' else None
    found = init_distributed_device_so(device=kind, dist_backend=backend)
    level = logging.root.level
    if found['global_rank']:
        logging.root.setLevel(logging.ERROR)
    try:
        yield Processes(torch.device(found['device']), found['global_rank'], found['world_size'])
    finally:
        logging.root.setLevel(level)
        dist.destroy_process_group()


def is_primary() -> bool:
    """Whether this process is the one that writes and reports: the first of all, or the only one."""
    if dist.is_available() and dist.is_initialized():
        return not dist.get_rank()
    return not (is_distributed_env() and world_info_from_env()[1])  # before and after there is a group
