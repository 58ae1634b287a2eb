"""Extraction shared out among processes and machines."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, distributed

from msinet_timm.commands import progress
from msinet_timm.errors import InputError

from .file import FeatureFile, fill

__all__ = ['share_out']

_logger = logging.getLogger(__name__)


def _rank_and_size(shared: bool = True) -> tuple[int, int]:
    if shared and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def share_out(
    run: Callable[[Sequence[range], object], Iterator[Tensor]],
    batches: Sequence[range],
    file: FeatureFile | None,
    shared: bool,
    description: str,
    order: Sequence[int] | None = None,
) -> Tensor:
    """Embeds what is not there yet, each process its share; all of them get [N, D] of all images.

    Shares are cut between batches, so that the same images are embedded together however many processes there are,
    and the results are the same to the last bit.

    Args:
        run: takes batches and a progress bar, gives the embeddings of each batch.
        batches: of all images, in order.
        file: where embeddings are kept; None to exchange them in memory.
        shared: whether torch's process group shares the work; False for this process alone.
        description: for the progress bar and the log.
        order: which image each row of the batches is; None where they go by the order of the images. The file, if
            any, has the same.
    """
    rank, size = _rank_and_size(shared)
    count = batches[-1].stop
    # one process looks, so that all see the same even on file systems that are slow to show new files
    pending = _broadcast(lambda: file.pending(batches) if file else list(batches), rank, size)
    mine = pending[rank * len(pending) // size : (rank + 1) * len(pending) // size]
    images, start = sum(map(len, mine)), time.perf_counter()
    if len(pending) < len(batches) and not rank:
        done = count - sum(map(len, pending))
        _logger.info('%s: %s of %s images are there already', description, f'{done:,}', f'{count:,}')
    label = f'{description} (process 1 of {size})' if size > 1 else description
    with progress(total=images, desc=label, unit='img') if not rank else _NoBar() as bar:
        parts = zip(mine, run(mine, bar), strict=True) if mine else ()
        if file is None:
            parts = list(parts)
        else:
            file.write(parts)
    if size > 1:
        distributed.barrier()
    if pending and not rank:
        seconds = time.perf_counter() - start
        total = sum(map(len, pending))
        of = f' by {size} processes' if size > 1 else ''
        _logger.info('%s: %s images%s, %.1f images/s', description, f'{total:,}', of, total / seconds)
    if file is not None:
        embeddings = file.join(count)
        if size > 1:
            distributed.barrier()  # nobody needs the shards any more
        return embeddings
    gathered = [None] * size
    distributed.all_gather_object(gathered, parts)
    return fill(count, (part for of_rank in gathered for part in of_rank), order)


class _NoBar:
    """Stands in for the bar of the first process in all others."""

    def __enter__(self) -> '_NoBar':
        return self

    def __exit__(self, *error) -> None:
        pass

    def update(self, n: int) -> None:
        pass


def _broadcast(find: Callable[[], list], rank: int, size: int) -> list:
    """What the first process finds, in all of them; also its `InputError`."""
    if size == 1:
        return find()
    box = [None]
    if not rank:
        try:
            box = [find()]
        except InputError as e:
            box = [e]
    distributed.broadcast_object_list(box)
    if isinstance(box[0], InputError):
        raise box[0]
    return box[0]
