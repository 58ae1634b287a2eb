"""PK batches from shards that are read as a stream."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from msinet_timm.datasets.archive import shard_of
from msinet_timm.datasets.records import Record
from msinet_timm.errors import InputError

from .stream import StreamedBatches

__all__ = ['PKStream']

#: Share of images that a badly sorted stream may lose before the user is told.
_TOLERATED = 0.05
_REMEDY = 'msinet-data convert, which keeps images of one identity near each other'

_logger = logging.getLogger(__name__)


class PKStream(Sampler[list[tuple[int, bytes]]]):
    """PK batches from shards that are read once an epoch, one after the other, for a DataLoader's `batch_sampler`.

    Shards come in a random order, which processes share out. Images pass through a buffer; whenever it is full, a
    batch of P random identities with K random images of each leaves it, identities with many images in it more
    often. An epoch depends on (seed, epoch) and the number of processes alone, not on that of the workers.

    How this differs from `msinet_train.data.sampler.PKSampler`, which sees all images at once:

    - Only images that are in the buffer together can be in a batch together. So shards should hold identities in
      groups of several K, and the groups in random order, as `msinet-data convert` writes them.
    - Processes have different images, but may have the same identity at the same step.
    - Left out are also: images that make room in a full buffer before K of their identity have come, the last fewer
      than P identities of each process, and batches beyond those of the process that has the fewest.

    As there, images that do not fill a group of K are left out, and an identity with fewer than K is filled up by
    repeating some; here, each process counts those in its own shards.

    Args:
        records: members of shards.
        identities_per_batch: P.
        images_per_identity: K.
        seed: of all epochs.
        buffer: images in it at most, no fewer than a batch; None for 4,096 or, if more, 16 batches.
        num_replicas: processes that train together. All of them get equally many batches.
        rank: this one among them, from 0.

    Raises:
        InputError: fewer shards than processes, or not a single batch for each process.
    """

    def __init__(
        self,
        records: Sequence[Record],
        identities_per_batch: int,
        images_per_identity: int,
        seed: int = 0,
        *,
        buffer: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.records = records
        self.identities_per_batch = identities_per_batch
        self.images_per_identity = images_per_identity
        self.seed = seed
        self.buffer = max(4096, 16 * self.batch_size) if buffer is None else max(buffer, self.batch_size)
        self.num_replicas = num_replicas
        self.rank = rank
        self._shards = _group(records)
        if len(self._shards) < num_replicas:
            raise InputError(
                f'{len(self._shards)} training shards cannot be shared out among {num_replicas} processes: '
                'start fewer, or write smaller shards (msinet-data convert --shard-size)'
            )
        lost = self._draw(0)
        if lost > _TOLERATED * len(records):
            _logger.warning(
                f'{lost / len(records):.0%} of the training images find no other {images_per_identity - 1} of their '
                f'identity among {self.buffer:,} in the stream and are left out: write the shards anew with {_REMEDY}'
            )

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self.identities_per_batch * self.images_per_identity

    def set_epoch(self, epoch: int) -> None:
        """Draws the batches of an epoch."""
        if epoch != self.epoch:
            self._draw(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, bytes]]]:
        return iter(self._batches)

    def _draw(self, epoch: int) -> int:
        """Draws an epoch; returns how many images find no company, in all processes."""
        self.epoch = epoch
        names = list(self._shards)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(names))
        plans = []
        for rank in range(self.num_replicas):  # each process must know how many batches all others have
            shares = [names[i] for i in order[rank :: self.num_replicas]]
            rng = np.random.default_rng((self.seed, epoch, rank))
            plan = _Plan(self.identities_per_batch, self.images_per_identity, self.buffer, rng)
            plan.run([i for name in shares for i in self._shards[name]], self.records)
            plans.append((plan, shares))
        plan, shares = plans[self.rank]
        count = min(len(plan.batches) for plan, _ in plans)
        if not count:
            raise InputError(
                f'{self.identities_per_batch} identities with {self.images_per_identity} images each do not come '
                f'together in the stream of {len(names)} shards'
                + (f' for each of {self.num_replicas} processes' if self.num_replicas > 1 else '')
                + f': use a smaller --batch-size, or write the shards anew with {_REMEDY}'
            )
        self._batches = StreamedBatches(self.records, plan.batches[:count], shares)
        return sum(plan.lost for plan, _ in plans)


def _group(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Shards, sorted, each with the indices of its records."""
    shards = defaultdict(list)
    for index, record in enumerate(records):
        shards[shard_of(record.path)[0]].append(index)
    return {name: np.array(shards[name]) for name in sorted(shards, key=lambda name: name.removesuffix('.tar'))}


class _Plan:
    """What a buffer does to a stream of images.

    Attributes:
        batches: indices of images.
        lost: number of images that had to make room before enough of their identity had come.
    """

    def __init__(self, identities: int, images: int, buffer: int, rng: np.random.Generator) -> None:
        self.identities = identities
        self.images = images
        self.buffer = buffer
        self.rng = rng
        self.batches: list[list[int]] = []
        self.lost = 0
        self._size = 0
        self._held: dict[str, list[int]] = {}  # images by identity, in order of arrival
        self._groups: list[str] = []  # an identity for each K of its images in the buffer

    def run(self, stream: Sequence[int], records: Sequence[Record]) -> None:
        total = Counter(records[index].identity for index in stream)
        coming = total.copy()
        for index in stream:
            identity = records[index].identity
            mine = self._held.setdefault(identity, [])
            mine.append(index)
            self._size += 1
            coming[identity] -= 1
            if len(mine) % self.images == 0 or total[identity] < self.images and not coming[identity]:
                self._groups.append(identity)
            elif not coming[identity]:
                self._drop(identity, len(mine) % self.images)
            while self._size >= self.buffer:
                if not self._draw_batch():
                    self._make_room()
        while self._draw_batch():
            pass

    def _draw_batch(self) -> bool:
        """Moves a batch out of the buffer, if there are enough identities."""
        chosen: dict[str, int] = {}
        for place in self.rng.permutation(len(self._groups)).tolist():
            chosen.setdefault(self._groups[place], place)
            if len(chosen) == self.identities:
                break
        else:
            return False
        self._groups = [identity for place, identity in enumerate(self._groups) if chosen.get(identity) != place]
        self.batches.append([index for identity in chosen for index in self._take(identity)])
        return True

    def _take(self, identity: str) -> list[int]:
        mine = self._held[identity]
        if len(mine) < self.images:
            taken = np.resize(self.rng.permutation(mine), self.images).tolist()
            self._drop(identity, len(mine))
            return taken
        taken = self._draw_out(mine, self.images)
        self._size -= self.images
        if not mine:
            del self._held[identity]
        return taken

    def _draw_out(self, images: list[int], count: int) -> list[int]:
        """Removes random ones."""
        drawn = []
        for _ in range(count):
            place = int(self.rng.integers(len(images)))
            images[place], images[-1] = images[-1], images[place]
            drawn.append(images.pop())
        return drawn

    def _drop(self, identity: str, count: int) -> None:
        self._draw_out(self._held[identity], count)
        self._size -= count
        if not self._held[identity]:
            del self._held[identity]

    def _make_room(self) -> None:
        """Empties half of a buffer that no batch can be made of: first of whom has waited longest for a group."""
        before, grouped = self._size, set(self._groups)
        for identity in [identity for identity in self._held if identity not in grouped]:
            if self._size <= self.buffer // 2:
                break
            self._drop(identity, len(self._held[identity]))
        while self._groups and self._size > self.buffer // 2:  # far too many images of far too few
            place = int(self.rng.integers(len(self._groups)))
            identity = self._groups.pop(place)
            self._drop(identity, min(self.images, len(self._held[identity])))
        self.lost += before - self._size
