"""Images from shards as they stream by: the main process reads, the workers of a DataLoader decode.

Batches are known beforehand, from the index. While a stream passes, each image is kept, compressed, until its batch
is complete; so batches don't depend on the number of workers, and remote shards are read as fast as local ones.
"""

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from torch.utils.data import Sampler

from msinet_timm.datasets.archive import Remote, open_shard, shard_of
from msinet_timm.datasets.images import ReIDImages, UnreadableImageError, load_image
from msinet_timm.datasets.records import Record

__all__ = ['StreamedBatches', 'StreamedImages', 'in_shards']

#: Images that are read while the ones before them are used.
_AHEAD = 64


def in_shards(records: Sequence[Record]) -> bool:
    """Whether all images are members of shards, local or not."""
    if not all('.tar/' in r.path for r in records):
        return False
    shards = {shard_of(r.path)[0] for r in records}  # few, so that few files are looked at
    return bool(shards) and not any(os.path.isdir(shard) for shard in shards if not isinstance(shard, Remote))


class StreamedImages(ReIDImages):
    """As `ReIDImages`, for what `StreamedBatches` and `PKStream` give: images with their compressed contents."""

    def __getitem__(self, image: tuple[int, bytes | UnreadableImageError]) -> tuple:
        index, content = image
        if isinstance(content, UnreadableImageError):
            raise content
        record = self.records[index]
        return self.transform(load_image(record.path, record.box, self.at_least, content)), index


class StreamedBatches(Sampler[list[tuple[int, bytes]]]):
    """Given batches of images, for a DataLoader's `batch_sampler`; shards are read once, and in order.

    A shard that cannot be read ends them with a batch that `StreamedImages` raises for.

    Args:
        records: members of shards.
        batches: indices of records. What they keep waiting is small where they ask in the order of the shards.
        shards: the order to read them in; None for that of the batches. Those that no batch asks for are not opened.
    """

    def __init__(
        self, records: Sequence[Record], batches: Sequence[Sequence[int]], shards: Sequence[str] | None = None
    ) -> None:
        self.records = records
        self.batches = batches
        self.shards = shards

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, bytes]]]:
        images = _ahead(self._read())
        waiting: dict[int, bytes] = {}
        for batch in self.batches:
            missing = set(batch) - waiting.keys()
            while missing:
                try:
                    index, content = next(images)
                except UnreadableImageError as e:
                    # for a worker to raise, like any broken image: a DataLoader that is asking for its first batches
                    # would not shut down cleanly
                    yield [(batch[0], e)]
                    return
                waiting[index] = content
                missing.discard(index)
            contents = {index: waiting.pop(index) for index in set(batch)}
            yield [(index, contents[index]) for index in batch]

    def _read(self) -> Iterator[tuple[int, bytes]]:
        """Index and content of all images in the batches, in the order in which they lie in the shards."""
        wanted: dict[str, dict[str, int]] = {}
        for batch in self.batches:
            for index in batch:
                shard, member = shard_of(self.records[index].path)
                wanted.setdefault(shard, {})[member] = index
        for shard in list(wanted) if self.shards is None else self.shards:
            if members := wanted.pop(shard, None):
                yield from _read_shard(shard, members)


def _read_shard(shard: str, members: dict[str, int]) -> Iterator[tuple[int, bytes]]:
    last = 'its beginning'
    try:
        with open_shard(shard) as file, tarfile.open(fileobj=file, mode='r|') as tar:
            for member in tar:
                if member.name in members:
                    yield members.pop(member.name), tar.extractfile(member).read()
                last = member.name
                tar.members = []  # it would keep a list of all
    except (tarfile.TarError, OSError) as e:
        raise UnreadableImageError(f'{shard}: broken after {last} ({e}): copy or write it again') from e
    if members:
        raise UnreadableImageError(
            f'{shard}/{next(iter(members))} is missing from its shard, but the index names it: '
            'bring the shard back, or delete the index to have it built anew'
        )


def _ahead(items: Iterable) -> Iterator:
    """The same items; a thread reads the next ones while some are used."""
    items = iter(items)
    with ThreadPoolExecutor(1) as pool:

        def fetch():
            return pool.submit(lambda: list(islice(items, _AHEAD)))

        coming = fetch()
        while chunk := coming.result():
            coming = fetch()
            yield from chunk
