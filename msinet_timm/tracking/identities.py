"""Who is who among tracklets: joined by what they look like where time and place allow it, and taken apart again."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from msinet_timm.errors import InputError, needs

from .tracklets import Tracklet

__all__ = ['Event', 'Identities']

#: Distances of people seen at once that are remembered, and from how many on they tell who is alike by chance.
SEEN, ENOUGH_SEEN = 500, 10
#: Share of people seen at once whose distance may be below the threshold that is learnt of them.
CHANCE = 0.2
#: Tracklets are means of many crops, and so nearer to each other than crops are: the share of the threshold that joins.
JOIN = 0.75
#: Passages between two cameras from which on they tell how long one takes, and how many are remembered.
ENOUGH_PASSAGES, PASSAGES = 10, 200
#: Distance of what must not be joined: no mean of it is ever small.
_NEVER = 1e12


class Event(NamedTuple):
    """What was found out about identities.

    Attributes:
        kind: `'merge'`: all tracklets of `other` are of `identity`, whose number stays. `'split'`: a tracklet is
            no longer of `other` but of `identity`.
        time: when it was found out, in seconds.
        identity: the number from now on.
        other: the number until now.
        tracklet: number of the tracklet that told.
        since: time from which on its boxes have the new number.
        distance: of the embeddings that told; NaN where all tracklets together did.
        parent: number of the tracklet whose boxes since then are of this one; 0 where none change.
    """

    kind: str
    time: float
    identity: int
    other: int
    tracklet: int
    since: float
    distance: float
    parent: int = 0


class Identities:
    """The identities of tracklets from one or several cameras; trackers share one where identities cross cameras.

    A new tracklet is somebody new, until it is near to somebody who is not seen elsewhere at that time.

    Args:
        threshold: Euclidean distance, 0 to 2, below which two crops pass for the same, as a model's calibration has it.
            Tracklets are joined below `JOIN` times it. None learns it from people who are seen at once, and so are not
            the same; nobody is joined before `ENOUGH_SEEN` such pairs.
        window: seconds after which somebody who has left is somebody new.
        transitions: seconds that a passage takes at least and at most, by pairs (from, to) of cameras; of other pairs
            they are learnt from `ENOUGH_PASSAGES` passages on.
        overlapping: pairs of cameras that may see one person at once.
        keep: remember all tracklets, for `resolve`; their memory grows with the number of people.

    Attributes:
        events: all since they were last taken by `take_events`, the latest 10,000 of them.
        given_threshold: None where it is learnt.

    Raises:
        InputError: a number out of its range.
    """

    def __init__(
        self,
        threshold: float | None = None,
        *,
        window: float = 60.0,
        transitions: Mapping[tuple[str, str], tuple[float, float]] | None = None,
        overlapping: Iterable[tuple[str, str]] = (),
        keep: bool = False,
    ) -> None:
        if threshold is not None and not 0 < threshold <= 2:
            raise InputError(f'threshold must be a distance above 0, up to 2, got {threshold}')
        if not window >= 0:
            raise InputError(f'window must be seconds, at least 0, got {window}')
        for pair, (low, high) in (transitions or {}).items():
            if not 0 <= low <= high:
                raise InputError(f'transitions: {pair} must take from 0 seconds on, got {low} to {high}')
        self.window, self.keep = window, keep
        self.events: deque[Event] = deque(maxlen=10_000)
        self.given_threshold, self._transitions = threshold, dict(transitions or {})
        self._overlapping = {frozenset(pair) for pair in overlapping}
        self._members: dict[int, list[Tracklet]] = {}
        self._of: dict[int, int] = {}
        self._count = 0
        self._seen: deque[float] = deque(maxlen=SEEN)
        self._passages: dict[tuple, deque[float]] = {}
        self._forgotten: list[tuple[Tracklet, int]] = []

    @property
    def threshold(self) -> float | None:
        """The distance below which two crops pass for the same; None as long as it is not known."""
        if self.given_threshold is not None:
            return self.given_threshold
        return float(np.quantile(self._seen, CHANCE)) if len(self._seen) >= ENOUGH_SEEN else None

    def begin(self, camera: str | None, time: float) -> Tracklet:
        """A new tracklet, of somebody new."""
        self._count += 1
        tracklet = Tracklet(self._count, camera, time, time)
        self._members[tracklet.number] = [tracklet]
        self._of[tracklet.number] = tracklet.number
        return tracklet

    def of(self, tracklet: Tracklet | int) -> int:
        """The identity of a tracklet, or of one's number."""
        return self._of[tracklet if isinstance(tracklet, int) else tracklet.number]

    def take_events(self) -> list[Event]:
        """What was found out since the last call."""
        events = list(self.events)
        self.events.clear()
        return events

    def observe_apart(self, tracklets: list[Tracklet]) -> None:
        """Learns from tracklets that one camera sees at once: they are of different people."""
        features = np.array([t.feature for t in tracklets])
        self._seen.extend(np.sqrt(np.maximum(0, 2 - 2 * features @ features.T))[np.triu_indices(len(features), 1)])

    def check(self, tracklet: Tracklet, time: float) -> None:
        """Joins a tracklet's identity to the nearest that it may be, if that is near enough."""
        own, threshold = self.of(tracklet), self.threshold
        if threshold is None or tracklet.feature is None:
            return
        threshold *= JOIN
        near, feature = [], tracklet.feature
        for identity, others in self._members.items():
            if identity != own and not any(tracklet.meets(other) for other in others):
                distance = min((other.distance(feature) for other in others if other.crops), default=np.inf)
                if distance <= threshold:
                    near.append((distance, identity))
        for distance, identity in sorted(near):
            if self._may_join(own, identity, distance <= threshold / 2):
                self._merge(own, identity, tracklet, time, distance)
                return

    def split(self, tracklet: Tracklet, since: float, time: float, distance: float) -> Tracklet:
        """The boxes of a tracklet since a time are of somebody else: a new tracklet."""
        fresh = self.begin(tracklet.camera, since)
        self._tell('split', time, fresh.number, self.of(tracklet), fresh.number, since, distance, tracklet.number)
        return fresh

    def taken(self, tracklet: Tracklet) -> bool:
        """Whether somebody in this camera has been the tracklet's identity since its last box, or it is forgotten."""
        others = self._members.get(self._of.get(tracklet.number))
        return others is None or any(
            t is not tracklet and t.camera == tracklet.camera and t.end > tracklet.end for t in others
        )

    def forget(self, time: float, alive: Iterable[int] = ()) -> None:
        """Lets go of those whom nobody has seen for the window; `alive` are numbers of tracklets that go on."""
        alive = {self._of[number] for number in alive}
        for identity in [i for i, members in self._members.items() if i not in alive]:
            members = self._members[identity]
            if time - max(t.end for t in members) > self.window:
                del self._members[identity]
                for tracklet in members:
                    if self.keep:
                        self._forgotten.append((tracklet, identity))
                    else:
                        del self._of[tracklet.number]

    def tracklets(self) -> list[Tracklet]:
        """All tracklets that are remembered, by their numbers."""
        known = [t for members in self._members.values() for t in members] + [t for t, _ in self._forgotten]
        return sorted(known, key=lambda t: t.number)

    def resolve(
        self, distances: Callable[[np.ndarray], np.ndarray] | None = None, threshold: float | None = None
    ) -> dict[int, int]:
        """Groups all tracklets anew, knowing how everything went on.

        Tracklets are joined from the nearest on, groups by the mean of their distances (average linkage), unless time
        and place forbid it. What that changes is told as events.

        Args:
            distances: takes embeddings [N, D] of crops of all tracklets and gives their distances [N, N], such as
                `k_reciprocal` of `msinet_eval.metrics.rerank`; None for Euclidean ones of the tracklets.
            threshold: largest mean distance within a group; None for `JOIN` times that of the trackers, which is of
                Euclidean distances.

        Returns:
            Identity of each tracklet, by number.

        Raises:
            InputError: no threshold is known or given.
        """
        with needs('tracking', 'joining tracklets'):
            from scipy.cluster.hierarchy import fcluster, linkage
            from scipy.spatial.distance import squareform
        known = [t for t in self.tracklets() if t.crops]
        threshold = threshold or (self.threshold and JOIN * self.threshold)
        if threshold is None:
            raise InputError('no threshold is known: give one, as that of embedder.thresholds("msinet_timm")')
        if len(known) > 1:
            matrix = _between(known, distances)
            for i, one in enumerate(known):
                for j in range(i):
                    if not self._compatible([one], [known[j]]):
                        matrix[i, j] = matrix[j, i] = _NEVER
            groups = fcluster(linkage(squareform(matrix, checks=False), 'average'), threshold, 'distance')
            self._regroup(known, groups.tolist())
        return dict(self._of)

    def _regroup(self, known: list[Tracklet], groups: list[int]) -> None:
        """Takes over groups of tracklets; each keeps the number that most of its boxes had, if no larger one has it."""
        time = max(t.end for t in known)
        boxes = {group: Counter() for group in groups}
        for tracklet, group in zip(known, groups, strict=True):
            boxes[group][self.of(tracklet)] += tracklet.boxes
        claims = sorted(((n, -i, g) for g, counts in boxes.items() for i, n in counts.items()), reverse=True)
        names: dict[int, int] = {}
        for _, identity, group in claims:
            if group not in names and -identity not in names.values():
                names[group] = -identity
        for group in boxes.keys() - names.keys():
            self._count += 1
            names[group] = self._count
        before = dict(self._of)
        for tracklet, group in zip(known, groups, strict=True):
            if before[tracklet.number] != names[group]:
                whole = {g for t, g in zip(known, groups, strict=True) if before[t.number] == before[tracklet.number]}
                kind = 'merge' if len(whole) == 1 else 'split'
                self._tell(kind, time, names[group], before[tracklet.number], tracklet.number, tracklet.start, np.nan)
            self._of[tracklet.number] = names[group]
        everyone = self.tracklets()
        self._members, self._forgotten = {}, []
        for tracklet in everyone:
            self._members.setdefault(self.of(tracklet), []).append(tracklet)

    def _may_join(self, one: int, other: int, surely: bool) -> bool:
        return self._compatible(self._members[one], self._members[other], surely)

    def _compatible(self, ones: list[Tracklet], others: list[Tracklet], surely: bool = True) -> bool:
        """Whether one person can have been in all these places; passages of an unusual time only where it is sure."""
        for one in ones:
            for other in others:
                first, second = sorted((one, other), key=lambda t: t.start)
                gap = second.start - first.end
                if gap <= 0:
                    if frozenset((one.camera, other.camera)) not in self._overlapping:
                        return False
                    continue
                if one.camera != other.camera:
                    low, high = self._passage(first.camera, second.camera)
                    given = (first.camera, second.camera) in self._transitions
                    between = any(first.end < t.start < second.start for t in (*ones, *others))
                    if not between and not low <= gap <= high and (given or not surely):
                        return False
        latest = sorted((*ones, *others), key=lambda t: t.start)
        ends = np.maximum.accumulate([t.end for t in latest])
        return all(t.start - end <= self.window for t, end in zip(latest[1:], ends, strict=False))

    def _passage(self, start: str | None, end: str | None) -> tuple[float, float]:
        """Seconds that a passage may take."""
        if (start, end) in self._transitions:
            return self._transitions[start, end]
        known = self._passages.get((start, end), ())
        if len(known) < ENOUGH_PASSAGES:
            return 0.0, np.inf
        low, high = np.quantile(known, [0.05, 0.95])
        return low / 2, 2 * high

    def _merge(self, one: int, other: int, tracklet: Tracklet, time: float, distance: float) -> None:
        kept, gone = sorted((one, other))
        alone = self._members[one], self._members[other]
        first, second = sorted(alone, key=lambda members: max(t.end for t in members))
        last, following = max(first, key=lambda t: t.end), min(second, key=lambda t: t.start)
        if last.camera != following.camera and following.start > last.end:
            passages = self._passages.setdefault((last.camera, following.camera), deque(maxlen=PASSAGES))
            passages.append(following.start - last.end)
        for moved in self._members.pop(gone):
            self._of[moved.number] = kept
            self._members[kept].append(moved)
        self._tell('merge', time, kept, gone, tracklet.number, tracklet.start, distance)

    def _tell(self, *values) -> None:
        self.events.append(Event(*values))


def _between(tracklets: list[Tracklet], distances: Callable[[np.ndarray], np.ndarray] | None) -> np.ndarray:
    """[T, T] distances of tracklets."""
    if distances is None:
        features = np.array([t.feature for t in tracklets])
        return np.sqrt(np.maximum(0, 2 - 2 * features @ features.T))
    crops = np.array([embedding for t in tracklets for _, embedding in t.samples])
    shares = np.zeros((len(tracklets), len(crops)))
    place = 0
    for row, tracklet in zip(shares, tracklets, strict=True):
        weights = np.array([weight for weight, _ in tracklet.samples])
        row[place : place + len(weights)] = weights / weights.sum()
        place += len(weights)
    found = shares @ np.asarray(distances(crops), float) @ shares.T
    found = (found + found.T) / 2
    np.fill_diagonal(found, 0)
    return found
