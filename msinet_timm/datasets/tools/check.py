"""Is a data set sound? Counts, identities that cannot be learnt or found, and images that should not be there."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from msinet_timm.commands import format_table
from msinet_timm.datasets.archive import read_image
from msinet_timm.datasets.images import UnreadableImageError, load_image
from msinet_timm.datasets.records import PARTS, Record, ReIDDataset, sort_names

from .verify import map_images

__all__ = ['Finding', 'check_dataset', 'found', 'summarize']

#: Images with a shorter side below this, in pixels, show too little of anybody.
TINY = 16
_LISTED = 5


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a data set.

    Attributes:
        kind: in a word: counts, single, camera, mixed, query, unreadable, tiny or duplicate; of scenes, too, outside or
            empty.
        text: what is wrong, in a line.
        examples: the identities or files concerned, all of them.
    """

    kind: str
    text: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = len(self.examples) - _LISTED
        examples = ''.join(f'\n    {e}' for e in self.examples[:_LISTED]) + (
            f'\n    and {more} more' if more > 0 else ''
        )
        return self.text + examples


def summarize(dataset: ReIDDataset) -> str:
    """A table of identities, images and cameras of each part."""
    rows = [('', 'identities', 'images', 'cameras')]
    for part in PARTS:
        records = getattr(dataset, part)
        identities, cameras = ({getattr(r, name) for r in records} - {None} for name in ('identity', 'camera'))
        rows.append((part, f'{len(identities):,}', f'{len(records):,}', f'{len(cameras):,}'))
    return format_table(rows)


def check_dataset(dataset: ReIDDataset) -> list[Finding]:
    """Everything that is wrong with a data set; opens all of its images.

    Distractors, identities of the gallery that nobody asks for, may have a single image or camera.
    """
    return [*_check_counts(dataset), *_check_identities(dataset), *_check_images(dataset)]


def _check_counts(dataset: ReIDDataset) -> Iterable[Finding]:
    for part, (identities, images) in dataset.known.items():
        records = getattr(dataset, part)
        found = len({r.identity for r in records}), len(records)
        if found != (identities if identities is not None else found[0], images):
            expected = f'{images:,} images' + (f' of {identities:,} identities' if identities is not None else '')
            yield Finding('counts', f'{part}: {found[1]:,} images of {found[0]:,} identities, but {expected} are known')


def _check_identities(dataset: ReIDDataset) -> Iterable[Finding]:
    drawn = bool(dataset.protocol.draws) and not dataset.query
    asked = dataset.asked
    tested = [r for r in dataset.query + dataset.gallery if r.identity in asked]
    for part, records in (('train', dataset.train), ('test', tested)):
        images: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            images[record.identity].append(record)
        yield from found('single', f'{part}: identities with one image', [i for i, r in images.items() if len(r) == 1])
        one = [i for i, r in images.items() if len(r) > 1 and len({p.camera for p in r} - {None}) == 1]
        yield from found('camera', f'{part}: identities under one camera', one)
    yield from found('mixed', 'identities in both train and test', dataset.shared)
    if not drawn:
        lost = asked - {r.identity for r in dataset.gallery}
        yield from found('query', 'identities that ask but are not in the gallery', lost)


def found(kind: str, text: str, identities: Iterable[str]) -> list[Finding]:
    """The identities of which something is wrong, if there are any."""
    names = tuple(f'identity {identity}' for identity in sort_names(identities))
    return [Finding(kind, f'{text}: {len(names):,}', names)] if names else []


def _check_images(dataset: ReIDDataset) -> Iterable[Finding]:
    records = dataset.train + dataset.query + dataset.gallery
    unreadable, tiny, same = [], [], defaultdict(list)
    for record, (problem, side, digest) in zip(records, map_images(_inspect, records, 'check'), strict=True):
        if problem:
            unreadable.append(problem)
            continue
        if side < TINY:
            tiny.append(f'{record.path}: {side} pixels')
        same[digest].append(record)
    if unreadable:
        yield Finding('unreadable', f'unreadable images: {len(unreadable):,}', tuple(unreadable))
    if tiny:
        yield Finding('tiny', f'images with a side below {TINY} pixels: {len(tiny):,}', tuple(tiny))
    groups = [group for group in same.values() if len(group) > 1]
    if groups:
        wrong = sum(len({r.identity for r in group}) > 1 for group in groups)
        text = f'groups of identical images: {len(groups):,}, {wrong:,} of them of different identities'
        yield Finding('duplicate', text, tuple(' = '.join(r.path for r in group) for group in groups))


def _inspect(record: Record) -> tuple[str, int, bytes]:
    """What keeps an image from being read, else its shorter side in pixels and a hash of file and box."""
    try:
        size = load_image(record.path, record.box).size
        content = read_image(record.path)
    except (UnreadableImageError, OSError) as e:
        return str(e), 0, b''
    return '', min(size), hashlib.sha256(content + repr(record.box).encode()).digest()
