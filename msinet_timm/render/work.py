"""What renderings of images and films share: folders that are begun with settings, and processes."""

import concurrent.futures
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from msinet_timm.errors import InputError
from msinet_timm.files import holds_nothing, read_json, replace_text

__all__ = ['begin', 'check_range', 'count_workers', 'spread']

_logger = logging.getLogger(__name__)


def count_workers(workers: int | None) -> int:
    """How many processes to start: `workers`, or one for each core that this process may use."""
    if workers is None and hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1 if workers is None else workers


def check_range(limits: dict[str, tuple[float, float, float]]) -> None:
    """Refuses values that are not from the lower to the upper limit; `limits` are by flag."""
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise InputError(f'--{name} {value} is out of range: give {low} to {high}')


def begin(root: Path, record: dict, what: str, first: dict | None = None) -> None:
    """Writes down in `render.json` with which settings a folder is begun, or checks those found there.

    Args:
        root: the folder.
        record: `settings`, of which `look` says how things look, and `versions`, and what else is to be written.
        what: is in it, for messages.
        first: settings of folders that are older than these settings' names.

    Raises:
        InputError: the folder was begun with other settings, or holds something else.
    """
    file = root / 'render.json'
    if not file.exists():
        if not holds_nothing(root):
            raise InputError(f'{root} is not empty and holds no render.json: give a new or empty folder')
        replace_text(file, json.dumps(record, indent=2) + '\n')
        return
    try:
        found = read_json(file)
        settings, wanted = (first or {}) | found['settings'], record['settings']
        drawn_by = settings.pop('renderer', 'mitsuba' if 'samples' in settings else None)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f'{file} cannot be read ({e!r}): give another folder, or remove it') from e
    if drawn_by == 'mitsuba':  # some versions had two renderers, of which this one is gone
        raise InputError(
            f'{root} was begun by mitsuba, which no longer draws: give another folder; what is in this one can be read'
        )
    if settings.get('objects') == wanted.get('objects') and settings.get('look') != wanted['look']:
        raise InputError(f'{root} was begun by another msinet-timm, whose {what} look otherwise: give another folder')
    if settings != wanted:
        changed = [k for k in wanted | settings if settings.get(k) != wanted.get(k)]
        raise InputError(f'{root} was rendered with another {", ".join(changed)}: give the same, or another folder')
    if found.get('versions') != record['versions']:
        _logger.warning('%s was begun with %s: the rest may differ slightly', root, found.get('versions'))


def _ignore_interrupt(told) -> None:
    global _told
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _told = told


_told = None


def _work(function: Callable, task: tuple):
    return function(*task, _told.put)


def spread(function: Callable, tasks: list[tuple], workers: int, bar) -> Iterator:
    """Yields what `function(*task, tell)` returns for each task, as they end, from several processes if `workers` > 1.

    A function calls `tell(n)` whenever n more parts of it are done, for the bar.
    """
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            yield function(*task, bar.update)
        return
    # Each worker is a fresh process: neither torch nor a renderer survives a fork with threads running.
    context = multiprocessing.get_context('spawn')
    told = context.SimpleQueue()
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(tasks)), context, _ignore_interrupt, (told,)) as pool:
        waiting = {pool.submit(_work, function, task) for task in tasks}
        try:
            while waiting:
                ended, waiting = concurrent.futures.wait(waiting, 0.2, concurrent.futures.FIRST_COMPLETED)
                while not told.empty():
                    bar.update(told.get())
                for future in ended:
                    yield future.result()
            while not told.empty():
                bar.update(told.get())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
