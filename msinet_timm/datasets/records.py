"""One type for a picture and one for a data set: what every reader gives and everything else takes."""

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ['ReIDDataset', 'Record']


class Record(NamedTuple):
    """A picture of one person or vehicle.

    Attributes:
        path: image file.
        identity: label of who is in it, 0 or larger. Labels need not be consecutive.
        camera: label of the camera, or None where it is unknown.
    """

    path: str
    identity: int
    camera: int | None = None


@dataclass(frozen=True)
class ReIDDataset:
    """The three parts of a ReID benchmark, in a fixed order.

    Attributes:
        name: name of the data set, as given to `create_dataset`.
        root: folder it was read from.
        train: pictures to learn from. Their identities are disjoint from those of `query`.
        query: pictures that ask.
        gallery: pictures that are ranked for each query. May hold distractors: identities that no query has.
    """

    name: str
    root: str
    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...]
