"""Identities that hold across cameras."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from msinet_timm.errors import InputError

from .identities import Event, Identities
from .tracker import Tracker
from .tracklets import Tracklet

__all__ = ['CameraNetwork', 'check_pairs']


class CameraNetwork:
    """Lets trackers of several cameras share their identities.

    ```
    network = CameraNetwork([Tracker(embedder, 'door'), Tracker(embedder, 'yard')], threshold=0.8)
    for camera, frame, boxes, scores, time in frames:  # in the order of their times
        tracks = network.trackers[camera].update(frame, boxes, scores, time)
    identities = network.resolve()  # knowing how all went on
    ```

    The trackers' clocks must be the same: nobody is in two places at once.

    Args:
        trackers: which have not seen a frame yet; their cameras have different names.
        threshold: see `Identities`; None for that of the trackers.
        window: see `Identities`; None for the longest of the trackers.
        transitions: see `Identities`.
        overlapping: see `Identities`.
        keep: see `Identities`; without it memory does not grow with people, and `resolve` joins those of the window.

    Attributes:
        trackers: by the names of their cameras.
        identities: which they share.

    Raises:
        InputError: no trackers, cameras that share a name, trackers that run already, or pairs of unknown cameras.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        *,
        threshold: float | None = None,
        window: float | None = None,
        transitions: Mapping[tuple[str, str], tuple[float, float]] | None = None,
        overlapping: Iterable[tuple[str, str]] = (),
        keep: bool = True,
    ) -> None:
        names = [tracker.camera for tracker in trackers]
        if not names:
            raise InputError('a network needs trackers, one for each camera')
        if len(set(names)) < len(names):
            raise InputError(
                f'each tracker of a network needs a camera of its own name, got: {", ".join(map(str, names))}'
            )
        overlapping = [tuple(pair) for pair in overlapping]
        check_pairs(names, (*overlapping, *(transitions or {})))
        if any(tracker.started for tracker in trackers):
            raise InputError('the trackers of a network must not have seen frames before')
        self.trackers = dict(zip(names, trackers, strict=True))
        self.identities = Identities(
            trackers[0].identities.given_threshold if threshold is None else threshold,
            window=max(tracker.identities.window for tracker in trackers) if window is None else window,
            transitions=transitions,
            overlapping=overlapping,
            keep=keep,
        )
        for tracker in trackers:
            tracker.identities = self.identities

    def take_events(self) -> list[Event]:
        """What was found out about identities since the last call."""
        return self.identities.take_events()

    def tracklets(self) -> list[Tracklet]:
        """All tracklets that are remembered, by their numbers."""
        return self.identities.tracklets()

    def resolve(
        self, distances: Callable[[np.ndarray], np.ndarray] | None = None, threshold: float | None = None
    ) -> dict[int, int]:
        """Groups all tracklets anew, see `Identities.resolve`."""
        return self.identities.resolve(distances, threshold)


def check_pairs(cameras: Sequence[str | None], pairs: Iterable[tuple[str, str]]) -> None:
    """Refuses pairs that are not of two different cameras.

    Raises:
        InputError: one is not; names it.
    """
    for pair in pairs:
        if len(set(pair)) != 2 or not set(pair) <= set(cameras):
            raise InputError(f'{":".join(pair)}: a pair is of two of the cameras {", ".join(map(str, cameras))}')
