"""One type for an image and one for a data set: what every reader gives and everything else takes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple, TypeVar

from msinet_timm.errors import InputError, check_utf8

__all__ = [
    'NO_CAMERAS',
    'PARTS',
    'SPLIT',
    'Counts',
    'Protocol',
    'ReIDDataset',
    'Record',
    'UNFINISHED',
    'check_cameras',
    'check_names',
    'cover_pixels',
    'sort_names',
    'spread',
]

T = TypeVar('T')

#: Of a data set, in this order.
PARTS = ('train', 'query', 'gallery')
#: Folder in the output of a conversion as long as it is not whole.
UNFINISHED = '.msinet-unfinished'
#: What a reader of metrics must know then.
NO_CAMERAS = 'no cameras known: images of the same camera count as matches'
#: How the note of a reader begins that has split identities itself.
SPLIT = 'split by identity'
#: Known size of the parts of a data set: part -> (identities, images); None where the number is not known.
Counts = Mapping[str, tuple[int | None, int]]


class Record(NamedTuple):
    """An image of one person or vehicle. Names are as the user wrote them; only tensors hold numbers for them.

    Attributes:
        path: image file.
        identity: name of who is in it, not empty.
        camera: name of the camera, or None where it is unknown. So for all that follow.
        view: name of the side that is seen.
        time: when it was taken, in the data set's own unit; it orders the images of one camera.
        tracklet: name of the series of images that it comes from, within one camera.
        domain: name of the place or source.
        clothes: name of what the person wears, to be compared within one identity.
        box: left, top, right and bottom in pixels of the upright image: the rest of the file is cropped away. It may
            reach beyond the right and lower edges of the image, which cut it off.
    """

    path: str
    identity: str
    camera: str | None = None
    view: str | None = None
    time: int | None = None
    tracklet: str | None = None
    domain: str | None = None
    clothes: str | None = None
    box: tuple[int, int, int, int] | None = None


def cover_pixels(
    box: Sequence[float], size: tuple[int, int] = (2**31 - 1, 2**31 - 1)
) -> tuple[int, int, int, int] | None:
    """The pixels of an image that a box covers, wholly or in part.

    Args:
        box: left, top, right and bottom, finite.
        size: width and height of the image, where they are known.

    Returns:
        Left, top, right and bottom, within the image; None where it covers nothing of it.
    """
    left, top, right, bottom = box
    if left >= right or top >= bottom:
        return None
    left, top = max(0, math.floor(left)), max(0, math.floor(top))
    right, bottom = min(size[0], math.ceil(right)), min(size[1], math.ceil(bottom))
    return (left, top, right, bottom) if left < right and top < bottom else None


def sort_names(names: Iterable[str]) -> list[str]:
    """Each name once, in order: by value where all are numbers, else as texts."""
    names = set(names)
    return sorted(names, key=_by_value if all(map(str.isdecimal, names)) else None)


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most so many of the items, in order and evenly over all of them."""
    count = min(count, len(items))
    return [items[len(items) * i // count] for i in range(count)]


def _by_value(number: str) -> tuple[int, str, str]:
    digits = number.lstrip('0')
    return len(digits), digits, number


def check_cameras(records: Sequence[Record]) -> None:
    """Raises `InputError` if cameras are known for some images only."""
    without = next((r.path for r in records if r.camera is None), None)
    if without is not None and any(r.camera is not None for r in records):
        raise InputError(f'{without} has no camera but other images have: give all of them one, or none')


def check_names(records: Sequence[Record]) -> None:
    """Raises `InputError` if a name is not UTF-8, which no table, report or list of features can hold."""
    for column in (name for name in Record._fields if name not in ('time', 'box')):
        for name in set(map(attrgetter(column), records)):  # fast where there are millions
            if name is not None and not name.isascii():
                where = next(r.path for r in records if getattr(r, column) == name)
                check_utf8(name, '' if name == where else f'{where}: {column} ')


@dataclass(frozen=True)
class Protocol:
    """How a data set's rankings are measured.

    Attributes:
        same_clothes_removed: gallery images of a query's identity in the same clothes are left out, too.
        draws: 0 where the gallery is fixed. Otherwise it is drawn so many times, by seeds 0, 1, ...: one image of
            each identity. The rest of the gallery asks if the data set has no queries, and is left out otherwise.
        same_camera_removed: gallery images of a query's identity and camera are left out, where cameras are known.
    """

    same_clothes_removed: bool = False
    draws: int = 0
    same_camera_removed: bool = True


@dataclass(frozen=True)
class ReIDDataset:
    """The three parts of a ReID benchmark, in a fixed order.

    Attributes:
        name: name of the data set, as given to `create_dataset`.
        root: folder or table that it was read from.
        train: images to learn from. Their identities should be disjoint from those of `query`; `remarks` tell where
            they are not.
        query: images that ask. Empty where only training is meant, or where they are drawn from the gallery.
        gallery: images that are ranked for each query. May hold distractors: identities that no query has.
        protocol: how rankings are measured.
        notes: what a reader of the metrics must know, such as which version and split was read.
        known: the published size of the parts, for `msinet-data check`.
        options: as `create_dataset` was given them.
    """

    name: str
    root: str
    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...]
    protocol: Protocol = Protocol()
    notes: tuple[str, ...] = ()
    known: Counts = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def asked(self) -> set[str]:
        """The identities that are asked for: those of the queries, or of all images that queries are drawn from."""
        return {r.identity for r in self.query or (self.gallery if self.protocol.draws else ())}

    @property
    def shared(self) -> set[str]:
        """The identities that are asked for and that there are training images of: there should be none."""
        return self.asked & {r.identity for r in self.train}

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and warnings where train and test share identities, and where no camera is known.

        They name nobody: cards of models show them.
        """
        tested, remarks = self.query + self.gallery, self.notes
        if shared := self.shared:
            told = (
                f'TRAIN AND TEST SHARE IDENTITIES: {len(shared)} of {len(self.asked)} query identities have training '
                'images, too (msinet-data check names them): a model that learns from these is measured on what it has '
                'seen'
            )
            remarks = (told, *remarks)
        if tested and all(r.camera is None for r in tested):
            return (*remarks, NO_CAMERAS)
        return remarks

    def check(self) -> None:
        """Raises `InputError` if a name is not UTF-8."""
        for part in PARTS:
            check_names(getattr(self, part))
