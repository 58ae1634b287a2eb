"""`--skip-broken`: images that cannot be read are taken out of a data set before the work begins."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from msinet_timm.commands import progress
from msinet_timm.datasets.images import UnreadableImageError, load_image
from msinet_timm.datasets.records import PARTS, Record, ReIDDataset, sort_names
from msinet_timm.errors import InputError

__all__ = ['SKIP_BROKEN', 'drop_broken', 'map_images', 'problem_of', 'require_readable']

T = TypeVar('T')

_logger = logging.getLogger(__name__)

#: Help of the flag.
SKIP_BROKEN = 'decode every image first, list the broken ones and go on without them'

_LISTED = 20


def drop_broken(dataset: ReIDDataset, parts: Sequence[str] = PARTS) -> ReIDDataset:
    """Decodes all images and leaves out those that cannot be read, so that batches and rankings are whole.

    The log gets a line for each of the first 20, their count, and the training identities that are lost with them;
    the count joins the data set's notes, since metrics without them are others.

    Args:
        dataset: whatever `create_dataset` gives.
        parts: which parts to look at.

    Raises:
        InputError: a part has no image left.
    """
    readable = {part: [] for part in parts}
    problems: dict[str, list[str]] = {part: [] for part in parts}
    for part in parts:
        records = getattr(dataset, part)
        for record, problem in zip(records, map_images(problem_of, records, f'check {part}'), strict=True):
            if problem:
                problems[part].append(problem)
            else:
                readable[part].append(record)
    listed = [problem for part in parts for problem in problems[part]]
    if not listed:
        return dataset
    for problem in listed[:_LISTED]:
        _logger.warning(f'skipped: {problem}')
    if len(listed) > _LISTED:
        _logger.warning(f'skipped: {len(listed) - _LISTED} more')
    for part in parts:
        if problems[part] and not readable[part]:
            raise InputError(
                f'--skip-broken: all {len(problems[part])} images of the {part} part of {dataset.root} are broken: '
                'check the data set and whether it is fully copied'
            )
    lost = {r.identity for r in dataset.train} - {r.identity for r in readable.get('train', dataset.train)}
    if lost:
        names = ', '.join(sort_names(lost)[:_LISTED]) + (' ...' if len(lost) > _LISTED else '')
        _logger.warning(f'skipped: {len(lost)} training identities without a readable image: {names}')
    note = 'broken images skipped: ' + ', '.join(f'{len(problems[part])} {part}' for part in parts)
    return replace(
        dataset, notes=(*dataset.notes, note), **{part: tuple(records) for part, records in readable.items()}
    )


def require_readable(dataset: ReIDDataset, parts: Sequence[str]) -> None:
    """Decodes all images of some parts, so that an unreadable one shows before long work and not after it.

    Raises:
        InputError: one cannot be read; names it.
    """
    for part in parts:
        for problem in map_images(problem_of, getattr(dataset, part), f'check {part}'):
            if problem:
                raise InputError(f'{problem}, or leave out what is broken by --skip-broken')


def map_images(function: Callable[[Any], T], records: Sequence, description: str) -> Iterator[T]:
    """What a function gives for each record or scene, in order; threads help since decoding releases Python's lock."""
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        progress(total=len(records), desc=description, unit='img') as bar,
    ):
        for start in range(0, len(records), 1024):
            for result in pool.map(function, records[start : start + 1024]):
                yield result
                bar.update()


def problem_of(record: Record) -> str | None:
    """What keeps an image from being read, if anything."""
    try:
        load_image(record.path, record.box)
    except UnreadableImageError as e:
        return str(e)
    return None
