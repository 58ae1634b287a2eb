"""A page of who was where and when."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from msinet_timm.drawing import to_hex
from msinet_timm.tracking.run import Passage, Tracked, color_of

from .html import write_page

__all__ = ['write_tracks_page']

#: Rows, images of a person, and events that a page shows.
PEOPLE, IMAGES, EVENTS = 150, 5, 100
# colours of Okabe and Ito, which colour-blind people tell apart
_CAMERAS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00')


def write_tracks_page(
    path: str | Path,
    cameras: Sequence[str],
    tracked: Tracked,
    shown: Mapping[int, Image.Image],
    *,
    metrics: Mapping[str, str] | None = None,
    command: str | None = None,
) -> None:
    """Writes a page that is one file: it fetches nothing, runs no script, and stays below 5 MB.

    Args:
        path: of the HTML file.
        cameras: their names, in the order of rows.
        tracked: what it tells of.
        shown: an image of each tracklet.
        metrics: by name, as they are to be read; None leaves them out.
        command: command line, for the foot.

    Raises:
        InputError: it cannot be written, or would be too large.
    """
    of: dict[int, list[Passage]] = defaultdict(list)
    for passage in tracked.passages:
        of[passage.identity].append(passage)
    start = min((float(p.time[0]) for p in tracked.passages), default=0.0)
    end = max((float(p.time[-1]) for p in tracked.passages), default=0.0)
    longest = sorted(of, key=lambda identity: -sum(len(p.frame) for p in of[identity]))
    write_page(
        path,
        'tracks.html.jinja',
        title=f'Tracks: {", ".join(cameras)}',
        cameras=cameras,
        camera_colors=[_CAMERAS[number % len(_CAMERAS)] for number in range(len(cameras))],
        start=start,
        end=end,
        people=[_row(i, of[i], cameras, shown, start, end) for i in longest[:PEOPLE]],
        left_out=max(0, len(longest) - PEOPLE),
        passages=len(tracked.passages),
        boxes=sum(len(p.frame) for p in tracked.passages),
        merges=sum(event.kind == 'merge' for event in tracked.events),
        splits=sum(event.kind == 'split' for event in tracked.events),
        events=tracked.events[-EVENTS:],
        metrics=metrics,
        command=command,
    )


def _row(
    identity: int,
    passages: Sequence[Passage],
    cameras: Sequence[str],
    shown: Mapping[int, Image.Image],
    start: float,
    end: float,
) -> dict:
    """A person, with bars in thousandths of the time, and images of different cameras first."""
    scale = 1000 / max(end - start, 1e-9)
    bars, turn = [], defaultdict(int)
    order = []
    for passage in sorted(passages, key=lambda p: -float(p.weight.max())):
        turn[passage.camera] += 1
        order.append((turn[passage.camera], passage))
    images = [shown[p.tracklet] for _, p in sorted(order, key=lambda item: item[0]) if p.tracklet in shown]
    for p in passages:
        first, last = float(p.time[0]), float(p.time[-1])
        bars.append(
            {
                'row': cameras.index(p.camera),
                'x': scale * (first - start),
                'width': max(2.0, scale * (last - first)),
                'tracklet': p.tracklet,
                'start': first,
                'end': last,
                'boxes': len(p.frame),
            }
        )
    return {
        'identity': identity,
        'color': to_hex(color_of(identity)),
        'images': images[:IMAGES],
        'bars': bars,
        'seconds': sum(bar['end'] - bar['start'] for bar in bars),
    }
