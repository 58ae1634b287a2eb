"""What a gallery asks of the place where its crops are."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

__all__ = ['Crop', 'Erasure', 'LogEntry', 'NewCrop', 'Sighting', 'Store', 'Where']


class Crop(NamedTuple):
    """What is known of a crop.

    Attributes:
        id: its number in the gallery, never given again.
        tracklet: name of those that belong together.
        identity: name of who it is; None where nobody has said.
        camera: that has seen it; None for an unknown one.
        time: seconds of UTC since 1970; None where it is not known.
        box: left, top, right and bottom in pixels of its frame; None for an image of its own.
        quality: how much it shows, 0 to 1.
    """

    id: int
    tracklet: str
    identity: str | None
    camera: str | None
    time: float | None
    box: tuple[float, float, float, float] | None
    quality: float


class NewCrop(NamedTuple):
    """A crop on its way into a store.

    Attributes:
        key: 16 bytes by which it is known when it comes again; None for one that may come twice.
        tracklet: see `Crop`.
        identity: see `Crop`; that of its tracklet counts, once it has one.
        camera: see `Crop`.
        time: see `Crop`.
        box: see `Crop`.
        quality: see `Crop`.
        embedding: [D] float16 of length 1.
        jpeg: of it; None to keep none.
    """

    key: bytes | None
    tracklet: str
    identity: str | None
    camera: str | None
    time: float | None
    box: tuple[float, float, float, float] | None
    quality: float
    embedding: np.ndarray
    jpeg: bytes | None


class Sighting(NamedTuple):
    """Crops that belong together, of one camera.

    Attributes:
        tracklet: its name.
        identity: name of who it is; None where nobody has said.
        camera: that has seen it; None for an unknown one.
        start: the first known time, in seconds of UTC; None where there is none.
        end: the last one.
        crops: how many there are.
        best: number of the crop that shows most.
    """

    tracklet: str
    identity: str | None
    camera: str | None
    start: float | None
    end: float | None
    crops: int
    best: int


class Erasure(NamedTuple):
    """That something was erased, without who that was.

    Attributes:
        time: when, in seconds of UTC.
        kind: what was asked for: 'tracklet', 'identity', 'camera', 'before', 'days' (retention), several with '+'.
        crops: how many were erased.
        settled: whether their bytes are gone from all files of the gallery.
    """

    time: float
    kind: str
    crops: int
    settled: bool


class LogEntry(NamedTuple):
    """Something that was done.

    Attributes:
        time: when, in seconds of UTC.
        action: 'erase', or a word that a program has noted.
        crops: how many it was about.
        detail: more about it, which names nobody.
        settled: see `Erasure`; True for everything else.
    """

    time: float
    action: str
    crops: int
    detail: str
    settled: bool


class Where(NamedTuple):
    """Which crops are meant: those that all of these hold for; None asks for nothing.

    Attributes:
        cameras: one of these has seen it.
        since: it is from this moment or later; one of unknown time is not.
        until: it is from before this moment; one of unknown time is not.
        before: its time, or where that is not known the moment when it was added, is before this one.
        tracklets: it is of one of these.
        identity: it is of this one.
    """

    cameras: tuple[str, ...] | None = None
    since: float | None = None
    until: float | None = None
    before: float | None = None
    tracklets: tuple[str, ...] | None = None
    identity: str | None = None


class Store(Protocol):
    """Keeps crops and finds the nearest; whoever makes one checks what is put in. All methods may be called by threads.

    What a method returns is as of its call: what other processes have done until then is seen.

    Attributes:
        readonly: nothing can be written.
    """

    readonly: bool

    def settings(self) -> dict[str, str]:
        """What the gallery has noted of itself, by name, such as `weights` and `size`.

        A new one has its `secret` alone: 16 bytes in hexadecimal digits.
        """

    def configure(self, **settings: str | None) -> None:
        """Notes settings; None removes one."""

    def claim(self, **settings: str) -> dict[str, str]:
        """Notes whose embeddings the gallery holds, unless somebody has done so; gives what is noted of it then."""

    def add(self, crops: Sequence[NewCrop], weights: str) -> list[int | None]:
        """Adds crops, all or none; gives their numbers, None for one whose key is there. They are kept from then on.

        Args:
            crops: to add.
            weights: what has embedded them, see `settings`.

        Raises:
            InputError: a tracklet is of another camera, or the gallery holds embeddings of other weights.
        """

    def nearest(self, vector: np.ndarray, k: int, where: Where, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the crops with the highest cosines, up to k, and these, both [N], highest first.

        Args:
            vector: [D] float32 of length 1.
            k: how many.
            where: which crops are looked at.
            exact: compare all of them in full; otherwise some may be left out where they are many.
        """

    def known(self, keys: Sequence[bytes]) -> set[bytes]:
        """Keys of crops that are there."""

    def count(self, where: Where) -> int:
        """How many crops there are."""

    def ids(self, where: Where) -> list[int]:
        """Numbers of crops, ascending."""

    def crops(self, ids: Sequence[int]) -> list[Crop]:
        """What is known of crops that are there, in the order of their numbers."""

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """[N, D] float32 embeddings of crops, in the order that is asked for; NaN for one that has gone meanwhile."""

    def jpeg(self, id: int) -> bytes | None:
        """The image of a crop; None where there is none."""

    def sightings(self, where: Where) -> list[Sighting]:
        """Tracklets of these crops, by their start; those without a time first. What they tell is of these crops."""

    def cameras(self) -> dict[str, int]:
        """Crops by camera, without those of none."""

    def tracklet(self, name: str) -> tuple[str | None, str | None] | None:
        """Camera and identity of a tracklet; None where it is not there."""

    def merge(self, a: str, b: str) -> str:
        """Says that two tracklets, and all of their identities, are of the same one, at once; gives the identity.

        Args:
            a: name of a tracklet, whose identity all get.
            b: name of another, whose identity all get where `a` has none. If neither has one, it is new: `person-` and
                a number that nobody has had.

        Raises:
            InputError: one of them is not there.
        """

    def erase(self, where: Where, kind: str) -> int:
        """Removes crops and notes that; gives how many. Nothing is noted where there are none."""

    def settle(self) -> bool:
        """Whether the bytes of all that was erased are gone; tries it where that is not so yet."""

    def note(self, action: str, crops: int, detail: str) -> None:
        """Adds to the log."""

    def log(self, limit: int, action: str | None = None) -> list[LogEntry]:
        """The latest entries, the last first; of one action, if that is given."""

    def outdated(self, weights: str, count: int) -> list[tuple[int, str | None, bytes | None]]:
        """Crops that have no embedding by a model yet, see `replace`: number, camera and image of the first `count`."""

    def replace(self, weights: str, ids: Sequence[int], embeddings: np.ndarray) -> None:
        """Keeps embeddings [N, D] float16 by another model beside those that count."""

    def switch(self, weights: str, settings: dict[str, str]) -> bool:
        """Makes the embeddings of `replace` those that count, with settings; False where some are missing."""

    def room(self) -> int:
        """Room on the disk."""

    def close(self) -> None:
        """Ends the use."""


def batches(values: Sequence[Any], size: int = 500) -> Iterator[list[Any]]:
    """Values in lists that a question may hold."""
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return (values[start : start + size] for start in range(0, len(values), size))
