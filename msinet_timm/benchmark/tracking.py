"""Frames per second of a tracker: what linking, comparing and joining cost, and what embedding does."""

import time

import numpy as np

from msinet_timm.embedder import Embedder
from msinet_timm.tracking import Tracker
from msinet_timm.tracking.tracklets import unit

from .timing import seconds_of

__all__ = ['measure_embedding', 'measure_tracking']

#: Boxes of a frame, the length of their embeddings, frames per second of the film.
PEOPLE, LENGTH, RATE = 30, 768, 30

#: Frames that are embedded: their width and height in pixels.
SIZE = 1920, 1080


def measure_embedding(embedder: Embedder, frames: int = 8, rounds: int = 3) -> list[float]:
    """Frames per second by the clock, crops of `PEOPLE` cut, embedded and tracked, as fast as this machine's cores are.

    Args:
        embedder: of the crops.
        frames: of the film.
        rounds: how often it is tracked.
    """
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    places = rng.uniform(0, [SIZE[0] - 100, SIZE[1] - 200], (PEOPLE, 2))

    def track() -> None:
        tracker = Tracker(embedder, frame_rate=RATE, threshold=0.8)
        for number in range(frames):
            corners = places + number
            weights = np.ones(PEOPLE)  # all are embedded, hidden or not
            boxes = np.c_[corners, corners + [60, 150]]
            tracker.update(None, boxes, embeddings=tracker.embed(frame, boxes, weights))

    return [frames / s for s in seconds_of(track, rounds, warm_up=1)]


def measure_tracking(frames: int = 300, rounds: int = 3) -> dict[str, list[float]]:
    """Frames per second of processor time, of films of `PEOPLE` who walk, and hide each other as it happens.

    Args:
        frames: of the film.
        rounds: how often it is tracked.

    Returns:
        By motion alone and with appearance, a number for each round.
    """
    rng = np.random.default_rng(0)
    places, steps = rng.uniform(0, [1800, 900], (PEOPLE, 2)), rng.normal(0, 3, (PEOPLE, 2))
    looks = unit(rng.normal(size=(PEOPLE, LENGTH)))
    film = []
    for number in range(frames):
        corners = places + number * steps + rng.normal(0, 1, (PEOPLE, 2))
        seen = unit(looks + rng.normal(0, 0.01, looks.shape)).astype(np.float32)
        film.append((np.c_[corners, corners + [60, 150]], seen))

    def track(appearance: bool) -> None:
        tracker = Tracker(threshold=0.8, frame_rate=RATE)
        for boxes, embeddings in film:
            tracker.update(None, boxes, embeddings=embeddings if appearance else None)

    kinds = {'motion alone': False, 'with appearance': True}
    return {
        name: [frames / s for s in seconds_of(lambda a=a: track(a), rounds, warm_up=1, clock=time.process_time)]
        for name, a in kinds.items()
    }
