"""One pass over the training images."""

import datetime
import math
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn as nn
from timm.task import TrainingTask
from torch.utils.data import DataLoader

from msinet_timm.commands import progress
from msinet_timm.datasets import Record
from msinet_timm.errors import InputError
from msinet_train.models import keep_frozen, wake

from .optim import Stepper

__all__ = ['Meters', 'train_one_epoch']


class Meters:
    """Means over the batches of an epoch, summed up on the device: nothing waits for it until they are read.

    Args:
        records: images that the batches' indices stand for.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.batches = 0
        self._sums: dict[str, torch.Tensor] = {}
        self._unread: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, output: dict[str, torch.Tensor], target: torch.Tensor, indices: torch.Tensor) -> None:
        """Adds a batch.

        Args:
            output: of the task: the logits `output` [B, classes], all else scalars.
            target: [B] labels.
            indices: [B] of the images.
        """
        with torch.no_grad():
            accuracy = 100 * (output['output'].argmax(1) == target).float().mean()
            terms = {name: value.detach().float() for name, value in output.items() if name != 'output'}
            for name, value in {**terms, 'accuracy': accuracy}.items():
                self._sums[name] = self._sums.get(name, 0) + value
        self._unread.append((terms['loss'], indices))
        self.batches += 1

    def read(self) -> dict[str, float]:
        """Means so far, by name.

        Raises:
            InputError: the loss of a batch was not finite.
        """
        losses = torch.stack([loss for loss, _ in self._unread]).tolist() if self._unread else []
        for loss, (_, indices) in zip(losses, self._unread, strict=True):
            if not math.isfinite(loss):
                paths = [self.records[i].path for i in indices.tolist()]
                raise InputError(
                    f'the loss became {loss}: lower `lr` or lengthen `warmup_step`; the last checkpoint is intact; '
                    f'images of the batch: {", ".join(paths)}'
                )
        self._unread.clear()
        return self._means(torch.stack(list(self._sums.values())), self.batches)

    def total(self) -> dict[str, float]:
        """Means over the batches of all processes; each of them has to ask."""
        sums = torch.stack([*self._sums.values(), torch.full_like(next(iter(self._sums.values())), self.batches)])
        if dist.is_initialized():
            dist.all_reduce(sums)
        return self._means(sums[:-1], sums[-1].item())

    def _means(self, sums: torch.Tensor, batches: float) -> dict[str, float]:
        return dict(zip(self._sums, (sums / batches).tolist(), strict=True))


def train_one_epoch(
    task: TrainingTask,
    loader: DataLoader,
    labels: torch.Tensor,
    stepper: Stepper,
    channels_last: bool = True,
    description: str = '',
    epochs_left: int = 0,
    announce: Callable[[torch.Tensor], None] | None = None,
    sleeper: nn.Module | None = None,
) -> dict[str, float]:
    """One pass over the loader.

    Args:
        labels: class of each of the loader's images.
        channels_last: the layout of images.
        description: what the progress bar says.
        epochs_left: that follow, for the remaining time.
        announce: is called before each batch with the indices [B] of its images.
        sleeper: whose gates are woken by the first batch.

    Returns:
        Means over the batches: `loss`, its terms, `accuracy` of the global branch in percent; and `images_per_second`
        of all processes.

    Raises:
        InputError: the loss is not finite.
    """
    task.train()
    keep_frozen(task)
    meters = Meters(loader.dataset.records)
    batches = len(loader)
    every = 1 if task.device.type == 'cpu' else 20  # reading makes the host wait for the device
    start, count = time.perf_counter(), 0
    with progress(desc=description, unit='img', leave=False) as bar:
        for k, (batch, indices) in enumerate(loader):
            images = loader.dataset.to_input(batch, task.device)
            if not channels_last:
                images = images.contiguous()
            target = labels[indices].to(task.device, non_blocking=True)
            if announce is not None:
                announce(indices)
            if sleeper is not None and not k:
                wake(sleeper, images)
            with stepper.accumulating(k, batches):
                with stepper.amp:
                    output = task(images, target)
                stepper(output['loss'], k, batches)
            meters.update(output, target, indices)
            count += len(images)
            if (k + 1) % every == 0 or k + 1 == batches:
                metrics = meters.read()
                seconds = (time.perf_counter() - start) * ((epochs_left + 1) * batches / (k + 1) - 1)
                postfix = {name: f'{value:.3g}' for name, value in metrics.items()}
                bar.set_postfix(postfix | {'left': str(datetime.timedelta(seconds=round(seconds)))}, refresh=False)
            bar.total = batches * len(images)
            bar.update(len(images))
    metrics = meters.total()
    processes = dist.get_world_size() if dist.is_initialized() else 1
    return metrics | {'images_per_second': processes * count / (time.perf_counter() - start)}
