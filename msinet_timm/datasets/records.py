"""One type for an image and one for a data set: what every reader gives and everything else takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ['Counts', 'Protocol', 'ReIDDataset', 'Record']

#: Known size of the parts of a data set: part -> (identities, images); None where the number is not known.
Counts = Mapping[str, tuple[int | None, int]]


class Record(NamedTuple):
    """An image of one person or vehicle.

    Attributes:
        path: image file.
        identity: label of who is in it, 0 or larger. Labels need not be consecutive.
        camera: label of the camera, or None where it is unknown. So for all that follow.
        view: label of the side that is seen.
        time: when it was taken, in the data set's own unit; it orders the images of one camera.
        tracklet: label of the series of images that it comes from.
        domain: name of the place or source.
        clothes: label of what the person wears, to be compared within one identity.
        box: left, top, right and bottom in pixels of the upright image: the rest of the file is cropped away.
    """

    path: str
    identity: int
    camera: int | None = None
    view: int | None = None
    time: int | None = None
    tracklet: int | None = None
    domain: str | None = None
    clothes: int | None = None
    box: tuple[int, int, int, int] | None = None


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
        train: images to learn from. Their identities are disjoint from those of `query`.
        query: images that ask. Empty where only training is meant, or where they are drawn from the gallery.
        gallery: images that are ranked for each query. May hold distractors: identities that no query has.
        protocol: how rankings are measured.
        notes: what a reader of the metrics must know, such as which version and split was read.
        known: the published size of the parts, for `msinet-data check`.
    """

    name: str
    root: str
    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...]
    protocol: Protocol = Protocol()
    notes: tuple[str, ...] = ()
    known: Counts = field(default_factory=dict)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and a warning where no camera is known."""
        tested = self.query + self.gallery
        if tested and all(r.camera is None for r in tested):
            return (*self.notes, 'no cameras known: images of the same camera count as matches')
        return self.notes
