"""Seconds that a gallery takes to add crops, to be opened, to find and to erase; and its room on the disk."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from msinet_timm.commands import progress
from msinet_timm.gallery import Gallery
from msinet_timm.gallery.index import BITS_FROM

__all__ = ['LENGTH', 'measure_gallery']

#: Numbers in an embedding, crops of a tracklet, cameras, and searches of which the median is told.
LENGTH, CROPS, CAMERAS, SEARCHES = 768, 20, 6, 30
_START, _DAY = 1_750_000_000.0, 86400.0
_STEP = 10_000  # crops that are made at once


def _timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock and of the processor, and what it gives."""
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - clock, time.process_time() - processor, found


def _tracklets(count: int) -> Iterator[tuple[np.ndarray, dict]]:
    """Crops in clusters, twenty to a tracklet, and what is known of them."""
    for start in range(0, count, _STEP):
        rng = np.random.default_rng(start)
        numbers = np.arange(start, min(count, start + _STEP))
        people = rng.normal(size=(-(-len(numbers) // CROPS), LENGTH)).astype(np.float32)
        rows = people[(numbers - start) // CROPS] + rng.normal(size=(len(numbers), LENGTH)).astype(np.float32)
        tracklets = (numbers // CROPS).tolist()
        yield (
            rows,
            {
                'camera': [f'camera {t % CAMERAS}' for t in tracklets],
                'time': (_START + _DAY * numbers / count).tolist(),
                'tracklet': tracklets,
            },
        )


def measure_gallery(count: int = 100_000) -> dict[str, tuple[float, float] | float]:
    """Measures a gallery of made-up embeddings, without images, in a folder for temporary files.

    Args:
        count: crops.

    Returns:
        By what was done, seconds by the clock and of the processor, of a search the medians; `MB on disk`; and for
        galleries that are searched by bits, `recall@10` of that.
    """
    found: dict[str, tuple[float, float] | float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, 'people.gallery')
        clock = processor = 0.0
        with Gallery(folder) as gallery, progress(total=count, desc='add', unit='crop') as bar:
            for rows, known in _tracklets(count):
                a, b, _ = _timed(lambda rows=rows, known=known: gallery.add_embeddings(rows, **known))
                clock, processor = clock + a, processor + b
                bar.update(len(rows))
        found['add'] = clock, processor
        found['MB on disk'] = sum(p.stat().st_size for p in folder.iterdir()) / 1e6
        queries = next(_tracklets(count))[0][:: max(1, _STEP // SEARCHES)][:SEARCHES]
        queries = queries + np.random.default_rng(1).normal(size=queries.shape).astype(np.float32)
        gallery = Gallery(folder)
        found['open, and the first search'] = _timed(lambda: gallery.search(queries[0], 1, exact=True))[:2]
        half = {'since': _START + 0.25 * _DAY, 'until': _START + 0.75 * _DAY}
        asked = {
            'search': {},
            'search of one camera': {'camera': 'camera 1'},
            'search of two cameras, half of the time': {'camera': ['camera 1', 'camera 2'], **half},
        }
        for name, filters in asked.items():
            found[name] = _median([_timed(lambda q=q, f=filters: gallery.search(q, exact=True, **f)) for q in queries])
        if count >= BITS_FROM:
            flat = {'per_tracklet': False}
            exact = [{m.crop.id for m in gallery.search(q, exact=True, **flat)} for q in queries]
            found['make bits'] = _timed(lambda: gallery.search(queries[0]))[:2]
            times = [_timed(lambda q=q: gallery.search(q, **flat)) for q in queries]
            found['search by bits'] = _median(times)
            shares = [len({m.crop.id for m in t[2]} & e) / len(e) for t, e in zip(times, exact, strict=True)]
            found['recall@10'] = sum(shares) / len(shares)
        found['erase a tracklet'] = _timed(lambda: gallery.delete(tracklet='3'))[:2]
        gallery.close()
    return found


def _median(times: list[tuple[float, float, Any]]) -> tuple[float, float]:
    return median(t[0] for t in times), median(t[1] for t in times)
