"""People in one view: boxes are linked by motion, which Roboflow's `trackers` does, and tracklets by appearance."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from msinet_timm.errors import InputError, explained, needs
from msinet_timm.person_search.found import Found

from .identities import Event, Identities
from .tracklets import Lately, Tracklet, unit, weigh

__all__ = ['Track', 'Tracker', 'byte_track']

#: Weight of a crop, see `weigh`, from which on it tells anything.
LEAST_WEIGHT = 0.1
#: Crops after which a tracklet is first compared with others; then after twice as many each time.
FIRST = 3
#: Seconds whose crops, and at least so many, are compared with those before; how many thresholds they may be apart.
RECENT, LEAST_RECENT, JUMP = 1.2, 5, 1.15
#: Frames between two looks at how far apart people are who are seen at once.
APART = 30


class Track(NamedTuple):
    """A box of a frame, and who it is.

    Attributes:
        identity: number of the person; it may be found out later that it is another one, see `Event`.
        tracklet: number of the person's passage through this view without a gap.
        box: left, top, right and bottom in pixels.
        score: of the detector.
        index: of the box among those that were given.
        weight: how much of the person it shows, see `weigh`.
    """

    identity: int
    tracklet: int
    box: tuple[float, float, float, float]
    score: float
    index: int
    weight: float


def byte_track(frame_rate: float = 30.0, lost: float = 1.0) -> Any:
    """ByteTrack (Zhang et al., ECCV 2022), as `trackers` has it.

    Args:
        frame_rate: frames per second.
        lost: seconds for which somebody who is hidden is waited for where motion says.
    """
    with needs('tracking', 'tracking'):
        from trackers import ByteTrackTracker
    return ByteTrackTracker(
        frame_rate=frame_rate,
        lost_track_buffer=round(30 * lost),  # which counts in thirtieths of a second
        track_activation_threshold=0.6,
        minimum_consecutive_frames=1,
    )


class Tracker:
    """The people in one view.

    ```
    embedder = Embedder('msinet_x1_0.rendered_128x64')
    tracker = Tracker(embedder, 'door', **embedder.thresholds('msinet_timm'))
    for frame, boxes, scores in detections:
        for track in tracker.update(frame, boxes, scores):
            print(track.identity, track.box)
    ```

    Boxes are linked by motion. Of each link, a tracklet, the crops' embeddings are averaged by how much they show.
    Where the latest ones are of somebody else than those before, the tracklet is split; where it looks like somebody
    who left or was hidden, it goes on under that number, unless both were seen at once.

    Args:
        embedder: an `msinet_timm.embedder.Embedder`; None tracks by motion alone.
        camera: name of the view, for the embedder's statistics and for `CameraNetwork`.
        threshold: see `Identities`.
        window: see `Identities`.
        frame_rate: frames per second, for the motion, and for times where none are given.
        motion: a tracker of `trackers`, or what works as one; None for `byte_track`.
        bgr: frames are blue, green and red, as OpenCV reads them.

    Attributes:
        identities: which this tracker tells about, and perhaps others, see `CameraNetwork`.

    Raises:
        InputError: a number out of its range.
        MissingPackageError: `trackers`, an optional package, is missing.
    """

    def __init__(
        self,
        embedder: Any = None,
        camera: str | None = None,
        *,
        threshold: float | None = None,
        window: float = 60.0,
        frame_rate: float = 30.0,
        motion: Any = None,
        bgr: bool = False,
    ) -> None:
        if not 0 < frame_rate < math.inf:
            raise InputError(f'frame_rate must be greater than 0, got {frame_rate}')
        with needs('tracking', 'tracking'):
            from supervision import Detections
        self._detections: Callable = Detections
        self.embedder, self.camera, self.frame_rate, self.bgr = embedder, camera, frame_rate, bgr
        self.identities = Identities(threshold, window=window)
        self._motion = motion or byte_track(frame_rate)
        self._current: dict[int, Tracklet] = {}  # by the number that motion gives
        self._lately: dict[int, Lately] = {}
        self._recent = max(LEAST_RECENT, round(RECENT * frame_rate))
        self._time = -math.inf
        self._frames = 0

    @property
    def started(self) -> bool:
        """Whether it has seen a frame."""
        return self._frames > 0

    def take_events(self) -> list[Event]:
        """What was found out about identities since the last call."""
        return self.identities.take_events()

    def update(
        self,
        frame: np.ndarray | None,
        boxes,
        scores=None,
        time: float | None = None,
        embeddings: np.ndarray | None = None,
        size: tuple[int, int] | None = None,
    ) -> list[Track]:
        """Goes on by one frame; to be called for frames without boxes, too.

        Args:
            frame: [H, W, 3] uint8. None where embeddings are given, or nothing is embedded.
            boxes: [N, 4] left, top, right and bottom in pixels. What reaches beyond the frame is cut off. Or what
                `msinet_timm.person_search.PersonSearch` finds, with its own scores and embeddings.
            scores: [N] of the detector, 0 to 1; None for 1.
            time: in seconds, later than before; None goes on by the frame rate.
            embeddings: [N, D] of the boxes, where they are known; rows of NaN for boxes that were not embedded.
            size: width and height of the frame, where none is given and boxes may lie at its edges.

        Returns:
            The boxes that are linked, in the order given. A box that is new is in it from its second frame on, and one
            whose score is low only where somebody was expected.

        Raises:
            InputError: boxes, scores or embeddings of another form, a box outside the frame, or a time that does not
                advance.
        """
        if isinstance(boxes, Found):
            if scores is not None or embeddings is not None:
                raise InputError('what person search finds has scores and embeddings of its own: leave them out')
            boxes, scores, embeddings = boxes
        boxes, scores = check_boxes(boxes, scores)
        time = self._check_time(time)
        size = size if frame is None else (frame.shape[1], frame.shape[0])
        if size is not None:
            boxes = cut_boxes(boxes, size)
        weights = weigh(boxes, scores, size)
        if embeddings is None and self.embedder is not None:
            embeddings = self.embed(frame, boxes, weights)
        elif embeddings is not None and len(embeddings) != len(boxes):
            raise InputError(f'{len(embeddings)} embeddings for {len(boxes)} boxes')
        found = self._motion.update(
            self._detections(xyxy=boxes, confidence=scores, data={'index': np.arange(len(boxes))}), timestamp=time
        )
        links = (
            {} if not len(found) else dict(zip(found.data['index'].tolist(), found.tracker_id.tolist(), strict=True))
        )
        links = {index: link for index, link in sorted(links.items()) if link >= 0}
        shown = weights >= LEAST_WEIGHT
        if embeddings is not None and shown.any():
            embeddings = np.asarray(embeddings)
            shown &= np.isfinite(embeddings[:, 0])
            weighed = weights[:, None].astype(embeddings.dtype) * embeddings
        for index, link in links.items():
            self._follow(link, time)
            if embeddings is not None and shown[index]:
                self._learn(link, weighed[index], float(weights[index]), time)
        self._tidy(links.values(), time)
        tracks = []
        for i, link in links.items():
            tracklet, box = self._current[link], tuple(boxes[i].tolist())
            identity = self.identities.of(tracklet)
            tracks.append(Track(identity, tracklet.number, box, float(scores[i]), i, float(weights[i])))
        return tracks

    def embed(self, frame: np.ndarray, boxes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Embeds those boxes that show enough.

        Returns:
            [N, D] float32 of length 1; NaN for boxes that show too little, see `weigh`.
        """
        found = np.full((len(boxes), self.embedder.size), np.nan, np.float32)
        rows = np.flatnonzero(weights >= LEAST_WEIGHT)
        if len(rows):
            camera = self.camera if self.embedder.cameras else None
            found[rows] = self.embedder.crops(frame, boxes[rows], bgr=self.bgr, camera=camera, invalid='nan')
        return found

    def _check_time(self, time: float | None) -> float:
        if time is None:
            time = self._time + 1 / self.frame_rate if self._frames else 0.0
        if not math.isfinite(time) or time < 0 or time <= self._time:
            before = f', after {self._time:g}' if self._frames else ''
            raise InputError(f'time {time:g}{before}: frames must come in the order of their times, from 0 seconds on')
        self._time = float(time)
        self._frames += 1
        return self._time

    def _follow(self, link: int, time: float) -> None:
        """Counts a box for its tracklet; a new one where there is none, or where somebody else is held to be it."""
        tracklet = self._current.get(link)
        if tracklet is None or self.identities.taken(tracklet):
            tracklet = self._current[link] = self.identities.begin(self.camera, time)
            self._lately[link] = Lately()
        tracklet.end = time
        tracklet.boxes += 1

    def _learn(self, link: int, weighed: np.ndarray, weight: float, time: float) -> None:
        """Takes a crop, and looks whether it changes who this is."""
        tracklet, lately = self._current[link], self._lately[link]
        tracklet.learn(weighed, weight)
        lately.add(time, weighed, weight, self._recent)
        if tracklet.crops % FIRST == 0 and (tracklet.crops // FIRST).bit_count() == 1:
            self.identities.check(tracklet, time)
        threshold = self.identities.threshold
        if threshold is not None and tracklet.crops >= 2 * self._recent:
            distance = lately.distance(tracklet)
            if distance > JUMP * threshold:
                self._split(link, time, distance)

    def _split(self, link: int, time: float, distance: float) -> None:
        """What was seen lately is somebody else."""
        tracklet, lately = self._current[link], self._lately[link]
        tracklet.unlearn(lately.sum, lately.weights)
        before, latest = tracklet.feature, unit(lately.sum)
        while lately.crops[0][1] @ before > lately.crops[0][1] @ latest:  # from before that
            tracklet.learn(*lately.crops[0][1:])
            lately.drop_first()
        since = lately.crops[0][0]
        fresh = self._current[link] = self.identities.split(tracklet, since, time, distance)
        fresh.boxes, fresh.end = len(lately.crops), time
        tracklet.boxes -= len(lately.crops)
        tracklet.end = max(tracklet.start, since - 1 / self.frame_rate)
        for _, weighed, weight in lately.crops:
            fresh.learn(weighed, weight)
        self.identities.check(fresh, time)

    def _tidy(self, seen: Any, time: float) -> None:
        """Learns who is apart, and forgets who is gone."""
        if self._frames % APART:
            return
        together = [self._current[link] for link in seen]
        together = [tracklet for tracklet in together if tracklet.crops >= FIRST]
        if len(together) > 1:
            self.identities.observe_apart(together)
        for link in [link for link, tracklet in self._current.items() if time - tracklet.end > self.identities.window]:
            del self._current[link], self._lately[link]
        self.identities.forget(time)


def check_boxes(boxes, scores=None) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 4] and scores [N] as arrays of float64.

    Raises:
        InputError: they have another form, or one is not finite, empty, or out of range.
    """
    with explained('boxes must be numbers [N, 4]: left, top, right, bottom'):
        boxes = np.asarray(boxes, float)
    if not boxes.size:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f'boxes must be [N, 4]: left, top, right, bottom; got {list(boxes.shape)}')
    with explained('scores must be numbers [N]'):
        scores = np.ones(len(boxes)) if scores is None else np.asarray(scores, float)
    if scores.shape != (len(boxes),):
        raise InputError(f'scores must be [{len(boxes)}], one for each box; got {list(scores.shape)}')
    for name, wrong in (
        ('is not finite', ~np.isfinite(boxes).all(1)),
        ('is empty: right and bottom must be greater than left and top', (boxes[:, 2:] <= boxes[:, :2]).any(1)),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise InputError(f'box {i} ({", ".join(f"{v:g}" for v in boxes[i])}) {name}')
    if not ((scores >= 0) & (scores <= 1)).all():
        i = int(np.argmin((scores >= 0) & (scores <= 1)))
        raise InputError(f'score {i} must be between 0 and 1, got {scores[i]:g}')
    return boxes, scores


def cut_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What of boxes is within a frame of a width and height.

    Raises:
        InputError: one lies outside; the message names its index.
    """
    inside = np.clip(boxes, 0, [*size, *size])
    outside = (inside[:, 2:] <= inside[:, :2]).any(1)
    if outside.any():
        i = int(np.argmax(outside))
        numbers = ', '.join(f'{v:g}' for v in boxes[i])
        raise InputError(f'box {i} ({numbers}) lies outside the frame of {size[0]}x{size[1]} pixels')
    return inside
