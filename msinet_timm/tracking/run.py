"""From films to tracks in three passes: what is in the frames, who that is, and what is made of it.

The first pass takes nearly all of the time, and keeps what it finds in files of `CHUNK` frames; an interrupted run goes
on after the last of them. The second reads these files. The third reads the films once more.
"""

import heapq
import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from msinet_timm.commands import progress
from msinet_timm.datasets.records import cover_pixels
from msinet_timm.drawing import load_font
from msinet_timm.errors import InputError, explained
from msinet_timm.files import replace_file, replace_rows

from .films import Film, write_video
from .identities import Event
from .mot import Boxes, write_boxes
from .network import CameraNetwork
from .tracker import LEAST_WEIGHT, Tracker, check_boxes
from .tracklets import weigh

__all__ = ['Passage', 'Tracked', 'View', 'embed_views', 'pick_crops', 'track_views', 'write_outputs']

#: Frames in a file of what was found.
CHUNK = 100
#: Share of boxes that may lie beyond the frame before they are held to be of another layout.
BEYOND = 0.5

_logger = logging.getLogger(__name__)

Detector = Callable[[np.ndarray], Any]


@dataclass
class View:
    """A film and where its boxes come from.

    Attributes:
        film: its frames.
        camera: its name, which is that of a folder, too.
        source: boxes of its frames; or what finds them: takes a frame [H, W, 3] uint8 (red, green, blue) and gives
            boxes [N, 4] (left, top, right, bottom), or boxes and scores [N].
        offset: seconds after the beginning of time at which it begins.
    """

    film: Film
    camera: str
    source: Boxes | Detector
    offset: float = 0.0
    _told: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.source, Boxes):
            self._check_source(self.source)

    def _check_source(self, boxes: Boxes) -> None:
        length = self.film.length
        if not length or not len(boxes.frame):
            return
        if boxes.frame[-1] > length:
            raise InputError(f'{self.film.path}: there are detections of frame {boxes.frame[-1]}, of {length} frames')
        if empty := length - len(np.unique(boxes.frame)):
            _logger.info('%s: %d of %d frames have no detections', self.camera, empty, length)

    def boxes(self, number: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [N, 4] within a frame, and their scores [N]; those outside are left out, with a warning.

        Raises:
            InputError: the detector fails, or gives something else.
        """
        place = f'{self.camera}, frame {number}'
        if isinstance(self.source, Boxes):
            start, end = np.searchsorted(self.source.frame, [number, number + 1])
            boxes, scores = self.source.box[start:end], self.source.score[start:end]
        else:
            with explained(f'{place}: the detector failed'):
                found = self.source(pixels)
                boxes, scores = found if isinstance(found, tuple) else (found, None)
        try:
            boxes, scores = check_boxes(boxes, scores)
        except InputError as e:
            raise InputError(f'{place}: {e}') from None
        height, width = pixels.shape[:2]
        inside = np.clip(boxes, 0, [width, height] * 2)
        kept = (inside[:, 2:] > inside[:, :2]).all(1)
        if not kept.all() and not self._told:
            self._told = True
            first = ', '.join(f'{v:g}' for v in boxes[np.argmin(kept)])
            _logger.warning('%s: box (%s) lies outside %dx%d pixels: such are left out', place, first, width, height)
        return inside[kept], scores[kept]

    def check_layout(self, size: tuple[int, int]) -> None:
        """Refuses detections most of which reach beyond a frame: their numbers mean something else."""
        if isinstance(self.source, Boxes) and len(self.source.box):
            beyond = float((self.source.box[:, 2:] > 1.2 * np.array(size)).any(1).mean())
            if beyond > BEYOND:
                raise InputError(
                    f'{self.camera}: {beyond:.0%} of the boxes reach beyond the frame of {size[0]}x{size[1]} pixels: '
                    'detections must be left, top, width and height (not right and bottom) of this film'
                )


class _Found(NamedTuple):
    """What is in a frame."""

    time: float
    number: int
    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    size: tuple[int, int]


def pick_crops(view: View, count: int) -> list[np.ndarray]:
    """Crops of a view for `Embedder.adapt`: of people who are well seen, from the whole film where its length is known.

    Raises:
        InputError: there are none.
    """
    step = max(1, view.film.length // count)
    crops: list[np.ndarray] = []
    for frame in view.film.frames():
        if frame.number % step:
            continue
        height, width = frame.pixels.shape[:2]
        boxes, scores = view.boxes(frame.number, frame.pixels)
        seen = np.flatnonzero(weigh(boxes, scores, (width, height)) > 2 * LEAST_WEIGHT)
        if len(seen):
            crops.append(_cut(frame.pixels, boxes[seen[len(crops) % len(seen)]]))
        if len(crops) == count:
            break
    if not crops:
        raise InputError(f'{view.camera}: nobody is seen well enough to learn the camera from')
    return crops


def _cut(pixels: np.ndarray, box: Sequence[float]) -> np.ndarray:
    left, top, right, bottom = cover_pixels(box, (pixels.shape[1], pixels.shape[0]))
    return pixels[top:bottom, left:right].copy()


def embed_views(views: Sequence[View], embedder: Any, folder: str | Path) -> None:
    """Finds and embeds whoever is in the frames, and keeps it in files; goes on where there are some.

    Args:
        views: of all cameras.
        embedder: an `msinet_timm.embedder.Embedder`; None embeds nothing.
        folder: for the files, a folder for each camera.

    Raises:
        InputError: a film or its boxes cannot be used, nobody is in any film, or files that cannot be read.
    """
    empty = [view for view in views if not _embed_view(view, embedder, Path(folder, view.camera))]
    if len(empty) == len(views):
        films = ', '.join(f'{view.camera} ({view.film.path})' for view in empty)
        raise InputError(f'{films}: nobody was detected in any frame')
    for view in empty:
        _logger.warning('%s: nobody was detected in any frame of %s', view.camera, view.film.path)


def _embed_view(view: View, embedder: Any, folder: Path) -> bool:
    """Does so for one camera, and tells whether anybody is there."""
    done = sorted(folder.glob('*.npz'))
    start = 1
    if done:
        last = _load(done[-1])
        if last['whole']:
            return _anybody(folder)
        start = int(last['frame'][-1]) + 1
        _logger.info('%s: goes on with frame %d', view.camera, start)
    folder.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(embedder, view.camera)
    chunk: list[_Found] = []
    bar = progress(desc=view.camera, total=view.film.length or None, initial=start - 1, unit=' frames')
    for frame in view.film.frames(start):
        size = frame.pixels.shape[1], frame.pixels.shape[0]
        if not chunk:
            view.check_layout(size)
        boxes, scores = view.boxes(frame.number, frame.pixels)
        embeddings = np.empty((len(boxes), 0))
        if embedder is not None:
            embeddings = tracker.embed(frame.pixels, boxes, weigh(boxes, scores, size))
        chunk.append(_Found(frame.time, frame.number, boxes, scores, embeddings, size))
        if len(chunk) == CHUNK:
            _save(folder, chunk, False)
            chunk = []
        bar.update()
    bar.close()
    _save(folder, chunk, True)
    return _anybody(folder)


def _anybody(folder: Path) -> bool:
    return any(len(found.boxes) for found in _read(folder))


def _save(folder: Path, chunk: list[_Found], whole: bool) -> None:
    names = ('boxes', 'scores', 'embeddings')
    table = {name: np.concatenate([getattr(f, name) for f in chunk]) if chunk else np.empty(0) for name in names}
    table['embeddings'] = table['embeddings'].astype(np.float16)
    table |= {
        'frame': np.array([f.number for f in chunk], np.int64),
        'time': np.array([f.time for f in chunk], float),
        'count': np.array([len(f.boxes) for f in chunk], np.int64),
        'size': np.array(chunk[0].size if chunk else (0, 0)),
        'whole': np.array(whole),
    }
    path = folder / f'{len(list(folder.glob("*.npz"))) + 1:06d}.npz'
    replace_file(path, lambda draft: np.savez(draft, **table), f'{path}: cannot write what was found')


def _load(path: Path) -> dict[str, np.ndarray]:
    with explained(f'{path}: cannot be read; remove it and what comes after it, to find that again'):
        with np.load(path, allow_pickle=False) as file:
            table = {name: file[name] for name in file.files}
        ends, wanted = table['count'].sum(), {'frame', 'time', 'size', 'whole'}
        if not wanted <= table.keys() or not all(len(table[n]) == ends for n in ('boxes', 'scores', 'embeddings')):
            raise ValueError('it is not what this program has written')
    return table


def _read(folder: Path) -> Iterator[_Found]:
    for path in sorted(folder.glob('*.npz')):
        table = _load(path)
        ends = np.cumsum(table['count'])
        for number, time, count, end in zip(table['frame'], table['time'], table['count'], ends, strict=True):
            own = slice(end - count, end)
            yield _Found(
                float(time), int(number), table['boxes'][own], table['scores'][own],
                table['embeddings'][own].astype(np.float32), tuple(table['size'].tolist()),
            )  # fmt: skip


class Passage(NamedTuple):
    """Boxes of a tracklet.

    Attributes:
        camera: that sees it.
        tracklet: its number.
        identity: number of who it is.
        frame: [N] numbers of the frames.
        time: [N] seconds.
        box: [N, 4] left, top, right and bottom in pixels.
        score: [N] of the detector.
        weight: [N] how much a crop shows, see `weigh`.
    """

    camera: str
    tracklet: int
    identity: int
    frame: np.ndarray
    time: np.ndarray
    box: np.ndarray
    score: np.ndarray
    weight: np.ndarray

    def best(self, count: int) -> np.ndarray:
        """Rows of up to so many boxes that show most, each from another part of the time."""
        parts = np.array_split(np.arange(len(self.frame)), min(count, len(self.frame)))
        rows = np.array([part[np.argmax(self.weight[part])] for part in parts])
        shown = rows[self.weight[rows] >= LEAST_WEIGHT]
        return shown if len(shown) else rows[[np.argmax(self.weight[rows])]]


class Tracked(NamedTuple):
    """What has become of films.

    Attributes:
        passages: all tracklets, by their numbers.
        events: merges and splits.
    """

    passages: list[Passage]
    events: list[Event]

    def boxes(self, camera: str) -> Boxes:
        """The boxes of a camera with their identities, as `measure_tracks` takes them."""
        own = [p for p in self.passages if p.camera == camera]
        frame = np.concatenate([np.empty(0, np.int64), *(p.frame for p in own)])
        order = np.argsort(frame, kind='stable')
        identity = np.concatenate([np.empty(0, np.int64), *(np.full(len(p.frame), p.identity) for p in own)])
        box = np.concatenate([np.empty((0, 4)), *(p.box for p in own)])
        score = np.concatenate([np.empty(0), *(p.score for p in own)])
        return Boxes(frame[order], identity[order], box[order], score[order])


def track_views(
    views: Sequence[View],
    folder: str | Path,
    *,
    resolve: Callable[[CameraNetwork], Any] | None = None,
    **settings: Any,
) -> Tracked:
    """Tracks what `embed_views` has found, of all cameras in the order of time.

    Args:
        views: of all cameras.
        folder: of the files.
        resolve: called with the network at the end, to group all tracklets anew; None leaves them as they were found.
        settings: of `CameraNetwork`.

    Raises:
        InputError: files that cannot be read, or settings out of range.
    """
    network = CameraNetwork([Tracker(None, v.camera, frame_rate=v.film.frame_rate) for v in views], **settings)
    rows: dict[int, list[tuple]] = defaultdict(list)
    camera_of: dict[int, str] = {}
    events: list[Event] = []

    def timed(view: View) -> Iterator[tuple[float, int, str, _Found]]:
        number = views.index(view)
        for found in _read(Path(folder, view.camera)):
            yield found.time + view.offset, number, view.camera, found

    for time, _, camera, found in heapq.merge(*map(timed, views), key=lambda item: item[:2]):
        given = found.embeddings if found.embeddings.shape[1] else None
        tracks = network.trackers[camera].update(None, found.boxes, found.scores, time, given, size=found.size)
        for event in network.take_events():
            events.append(event)
            if event.parent:
                moved = [row for row in rows[event.parent] if row[1] >= event.since]
                rows[event.parent] = rows[event.parent][: -len(moved) or None]
                rows[event.tracklet], camera_of[event.tracklet] = moved, camera
        for track in tracks:
            rows[track.tracklet].append((found.number, time, track.box, track.score, track.weight))
            camera_of[track.tracklet] = camera
    if resolve is not None:
        resolve(network)
        events += network.take_events()
    passages = [
        Passage(camera_of[number], number, network.identities.of(number), *map(np.array, zip(*own, strict=True)))
        for number, own in sorted(rows.items())
        if own
    ]
    return Tracked(passages, events)


def write_outputs(
    views: Sequence[View], tracked: Tracked, folder: str | Path, *, crops: int = 16, video: bool = False
) -> dict[int, Image.Image]:
    """Writes tracks, events, crops and films.

    `CAMERA.txt` holds the tracks as MOTChallenge's results, `events.csv` merges and splits, `crops/CAMERA/TRACKLET/`
    crops in the layout that `-ds folder --data-option layout=cameras` reads, `CAMERA.mp4` the film with boxes.

    Args:
        views: of all cameras.
        tracked: of `track_views`.
        folder: for the files.
        crops: of each tracklet, at most; 0 for none.
        video: whether to write films.

    Returns:
        By tracklet, an image that shows it well.

    Raises:
        InputError: something cannot be written.
    """
    folder = Path(folder)
    for view in views:
        boxes = tracked.boxes(view.camera)
        write_boxes(folder / f'{view.camera}.txt', zip(*boxes, strict=True))
    replace_rows(folder / 'events.csv', [Event._fields, *tracked.events])
    shutil.rmtree(folder / 'crops', ignore_errors=True)
    shown: dict[int, Image.Image] = {}
    for view in views:
        frames = _drawn(view, tracked, folder / 'crops' / view.camera, crops, shown)
        if video:
            replace_file(
                folder / f'{view.camera}.mp4', lambda draft, v=view, f=frames: write_video(draft, f, v.film.frame_rate)
            )
        else:
            for _ in frames:
                pass
    return shown


def _drawn(
    view: View, tracked: Tracked, folder: Path, crops: int, shown: dict[int, Image.Image]
) -> Iterator[np.ndarray]:
    """The frames of a view with boxes and numbers; writes crops as they come by."""
    boxes: dict[int, list] = defaultdict(list)
    picks: dict[int, list] = defaultdict(list)
    for passage in (p for p in tracked.passages if p.camera == view.camera):
        for frame, box in zip(passage.frame.tolist(), passage.box.tolist(), strict=True):
            boxes[frame].append((passage.identity, box))
        best = passage.frame[np.argmax(passage.weight)]
        for row in {*passage.best(max(1, crops)).tolist(), int(np.argmax(passage.weight))}:
            frame = int(passage.frame[row])
            picks[frame].append((passage.tracklet, passage.box[row].tolist(), frame == best))
    kept = {p.tracklet: {*p.frame[p.best(crops)].tolist()} if crops else set() for p in tracked.passages}
    bar = progress(desc=f'{view.camera}: crops', total=view.film.length or None, unit=' frames', leave=False)
    for frame in view.film.frames():
        for tracklet, box, is_best in picks.get(frame.number, ()):
            image = Image.fromarray(_cut(frame.pixels, box))
            if is_best:
                shown[tracklet] = image
            if frame.number in kept[tracklet]:
                place = folder / f'{tracklet:06d}'
                place.mkdir(parents=True, exist_ok=True)
                image.save(place / f'{frame.number:06d}.jpg', quality=95)
        yield _draw(frame.pixels, boxes.get(frame.number, ()))
        bar.update()
    bar.close()


def color_of(identity: int) -> tuple[int, int, int]:
    """A colour of a person, which differs from that of the next numbers."""
    hue = 2 * math.pi * (identity * 0.618034 % 1)
    return tuple(round(127 + 100 * math.cos(hue + shift)) for shift in (0, 2.1, 4.2))


def _draw(pixels: np.ndarray, boxes: Sequence[tuple[int, list[float]]]) -> np.ndarray:
    if not boxes:
        return pixels
    image = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(image), load_font(max(12, pixels.shape[0] // 40))
    for identity, (left, top, right, bottom) in boxes:
        color = color_of(identity)
        draw.rectangle((left, top, right, bottom), outline=color, width=max(2, pixels.shape[0] // 240))
        place = draw.textbbox((left, max(0, top - font.size - 4)), str(identity), font=font)
        draw.rectangle((place[0] - 2, place[1] - 2, place[2] + 2, place[3] + 2), fill=color)
        draw.text((left, max(0, top - font.size - 4)), str(identity), font=font, fill=(255, 255, 255))
    return np.asarray(image)
