"""Renders whole images of crowds, to find people in: who is named trains or is asked for, others pass by; resumable."""

import functools
import itertools
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from msinet_timm.commands import progress
from msinet_timm.datasets.readers.scenes import ROWS
from msinet_timm.datasets.scenes import SCENE_PARTS, UNNAMED
from msinet_timm.errors import InputError
from msinet_timm.files import locked, refusing, replace_file, replace_text, sweep

from . import raster
from .body import load_rig
from .cameras import draw_film_camera
from .crowd import World, walk
from .dataset import MIXED, domain_of
from .identity import DOMAINS, generator
from .video import inside
from .work import begin, check_range, count_workers, spread

__all__ = ['render_scenes']

_logger = logging.getLogger(__name__)
_LOOK = 3  # of people, places, cameras and walks: a folder holds scenes of one kind
_EVERY = 12.0  # seconds between two images of a camera: about as long as somebody is in view
_VISIBLE = 0.2  # share of somebody's pixels that nothing hides, at least, of those who have a box
_CLEAR = 0.6  # the same, of queries
_ASKS = 2  # queries of each test identity, at most


class _Group(NamedTuple):
    """People who walk at one place together.

    Attributes:
        part: train or test.
        place: number, from 0.
        number: of the group at its place, from 0.
        named: identities, numbered through all parts and places.
        first: number, from 1, of the first of them among all who walk at the place; those who pass by come after them.
    """

    part: str
    place: int
    number: int
    named: range
    first: int

    @property
    def people(self) -> int:
        """How many walk: for three who are named there is one who passes by."""
        return len(self.named) + -(-len(self.named) // 3)

    def identity(self, person: int) -> int:
        """Whom somebody of the group is named as, by their number in it from 1."""
        return self.named[person - 1] if person <= len(self.named) else UNNAMED


def render_scenes(
    root: str | os.PathLike,
    *,
    identities: int = 100,
    test_identities: int | None = None,
    cameras: int = 4,
    images: int = 12,
    places: int = 1,
    crowd: int = 40,
    domain: str = 'street',
    seed: int = 0,
    width: int = 640,
    height: int = 360,
    workers: int | None = None,
) -> dict[str, int]:
    """Renders crowds before several cameras, for person search; or completes what was interrupted.

    People walk as in films, in groups of which a quarter passes by and is named nowhere. From time to time all cameras
    of a place take an image of a group; images that show nobody are left out. Groups that train and groups that are
    searched for walk before the same cameras, and nobody is in both.

    `train.jsonl` and `test.jsonl` have a line for each image: its path, its camera's name, and the boxes, identities
    (-1: passes by) and visible shares of all who are in it by a quarter of their box and whose pixels others hide by
    four fifths at most. `queries.jsonl` has up to two boxes of each test identity, under different cameras, wholly in
    their image and mostly visible. The reader `rendered_scenes` reads them.

    Call it under `if __name__ == '__main__'` when `workers` is not 1.

    Args:
        root: folder to write to: new, empty, or begun by this function with the same settings.
        identities: named people, 2 to 10,000.
        test_identities: how many of them are searched for, 1 to all but one; the others train. None for half.
        cameras: of each place, 2 to 9.
        images: how often all cameras of a place take an image of a group, 2 to 1,000.
        places: 1 to 999, each with cameras and people of its own; at most as many as there are test identities.
        crowd: people of a group, at most, 4 to 64: they are spread over the cameras of their place.
        domain: one of `DOMAINS`, or mixed, of all in turn.
        seed: from 0; of everything random.
        width, height: of the images in pixels, 64 to 1920.
        workers: processes; None for one for each core.

    Returns:
        Numbers of training and test images, of queries, and of boxes that are named, and that are not.

    Raises:
        InputError: a value is out of range, the folder holds something else, cannot be written to, or is written to by
            another process, or what rendering needs is missing.
    """
    workers = count_workers(workers)
    if domain not in (*DOMAINS, MIXED):
        raise InputError(f'--domain {domain} is unknown: choose one of {", ".join((*DOMAINS, MIXED))}')
    check_range({'identities': (identities, 2, 10_000)})
    tests = identities // 2 if test_identities is None else test_identities
    check_range(
        {
            'test-identities': (tests, 1, identities - 1), 'cameras': (cameras, 2, 9), 'images': (images, 2, 1000),
            'places': (places, 1, min(999, tests, identities - tests)), 'crowd': (crowd, 4, 64),
            'seed': (seed, 0, 2**31 - 1), 'width': (width, 64, 1920), 'height': (height, 64, 1920),
            'workers': (workers, 1, 1024),
        }
    )  # fmt: skip
    load_rig()
    versions = raster.versions('anny')
    settings = dict(
        scenes=True, identities=identities, test_identities=tests, cameras=cameras, images=images, places=places,
        crowd=crowd, domain=domain, seed=seed, width=width, height=height, look=_LOOK,
    )  # fmt: skip
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise InputError(f'{root} is a file: give a folder')
    with refusing(f'{root}: cannot write there', root), locked(root):
        begin(root, {'settings': settings, 'versions': versions}, 'scenes')
        for part in SCENE_PARTS[:2]:
            (root / part).mkdir(exist_ok=True)
            sweep(root / part)
        rows = _draw(root, settings, workers)
        rows['queries'] = _ask(rows['test'], settings)
        for part in SCENE_PARTS:
            replace_text(root / ROWS[part], ''.join(json.dumps(row) + '\n' for row in rows[part]))
    shown = [identity for part in SCENE_PARTS[:2] for row in rows[part] for identity in row['identities']]
    passing = shown.count(UNNAMED)
    return {part: len(rows[part]) for part in SCENE_PARTS} | {'named': len(shown) - passing, 'unnamed': passing}


def _groups(settings: dict) -> list[_Group]:
    """Who walks where: identities go to the places in equal shares, those who train first."""
    tests, places = settings['test_identities'], settings['places']
    training, most = settings['identities'] - tests, settings['crowd'] * 3 // 4
    out, walking, counts = [], [0] * places, [0] * places
    for part, first, count in (('train', 0, training), ('test', training, tests)):
        for place in range(places):
            start, end = (first + count * k // places for k in (place, place + 1))
            parts = -(-(end - start) // most)
            for k in range(parts):
                named = range(start + (end - start) * k // parts, start + (end - start) * (k + 1) // parts)
                group = _Group(part, place, counts[place], named, walking[place] + 1)
                walking[place] += group.people
                counts[place] += 1
                out.append(group)
    return out


def _draw(root: Path, settings: dict, workers: int) -> dict[str, list[dict]]:
    """Draws the images that are missing; returns what is in all of them, by part."""
    # those of one place in a row: it is lit once
    tasks = [(root, settings, group) for group in sorted(_groups(settings), key=lambda group: group.place)]
    there = sum(len(os.listdir(root / part)) for part in SCENE_PARTS[:2])
    if there:
        _logger.info('%s: %d images are there already', root, there)
    rows: dict[str, list[dict]] = {'train': [], 'test': []}
    with progress(total=len(tasks) * settings['cameras'] * settings['images'], unit='image', desc='render') as bar:
        for part, found in spread(_draw_task, tasks, workers, bar):
            rows[part] += found
    return {part: sorted(found, key=lambda row: row['image']) for part, found in rows.items()}


def _place(settings: dict, place: int) -> tuple[int, str]:
    """Seed and domain of a place: each has its own people, hour and light."""
    domain = domain_of(settings['domain'], place)
    return int(generator(settings['seed'], domain, 18, place).integers(2**31)), domain


@functools.lru_cache(maxsize=1)
def _films(place: tuple[int, str], cameras: int, size: tuple[int, int]) -> list:
    """The cameras of this process's place: one is kept. They share people, who are made once for all of them."""
    from .film import Film, fineness

    seed, domain = place
    worlds = [World.seen(draw_film_camera(seed, domain, k), size[0] / size[1]) for k in range(1, cameras + 1)]
    fine = max(fineness(world, size[1]) for world in worlds)
    return [Film(world, k, size, seed, domain, {}, fine) for k, world in enumerate(worlds, start=1)]


def _draw_task(root: Path, settings: dict, group: _Group, tell: Callable[[int], object]) -> tuple[str, list[dict]]:
    """Draws the images of a group where they are missing; returns its part, and what is in them."""
    (seed, domain), size = _place(settings, group.place), (settings['width'], settings['height'])
    films = _films((seed, domain), settings['cameras'], size)
    walks = generator(seed, domain, 19, group.number).integers(2**31)
    visits = walk([film.world for film in films], group.people, settings['images'] * _EVERY, int(walks), domain)
    visits, rows = [visit._replace(person=visit.person + group.first - 1) for visit in visits], []
    for film, index in itertools.product(films, range(settings['images'])):
        name = f'{group.part}/p{group.place + 1}c{film.number}_g{group.number + 1:02d}_{index + 1:04d}.jpg'
        missing = not (root / name).exists()
        seen, image = film.frame(index * _EVERY, group.number * settings['images'] + index, visits, missing)
        shown = [
            (box, group.identity(somebody.person - group.first + 1), somebody.pixels / somebody.alone)
            for somebody in seen
            if (box := inside(somebody.box, size)) is not None and somebody.pixels >= _VISIBLE * somebody.alone
        ]
        if shown:
            if missing:
                replace_file(root / name, lambda draft, image=image: draft.write_bytes(image), swept=True)
            boxes, identities, visible = zip(*shown, strict=True)
            rows.append(
                {
                    'image': name,
                    'camera': f'{group.place + 1}-{film.number}',
                    'boxes': [[round(float(side), 2) for side in box] for box in boxes],
                    'identities': list(identities),
                    'visible': [round(share, 3) for share in visible],
                }
            )
        tell(1)
    return group.part, rows


def _ask(rows: list[dict], settings: dict) -> list[dict]:
    """Queries: boxes of each identity that other test images show, too, under as many cameras as there are queries."""
    found: dict[int, list[tuple[dict, int]]] = {}
    for row in rows:
        for k, identity in enumerate(row['identities']):
            if identity != UNNAMED:
                found.setdefault(identity, []).append((row, k))
    out = []
    for identity, shown in sorted(found.items()):
        rng = generator(settings['seed'], settings['domain'], 20, identity)
        clear = [(row, k) for row, k in shown if row['visible'][k] >= _CLEAR and _whole(row['boxes'][k], settings)]
        by_camera = {clear[k][0]['camera']: clear[k] for k in rng.permutation(len(clear))}
        for row, k in list(by_camera.values())[: _ASKS if len(shown) > 1 else 0]:
            out.append({'image': row['image'], 'box': row['boxes'][k], 'identity': identity})
    return out


def _whole(box: list[float], settings: dict) -> bool:
    return min(box) > 0 and box[2] < settings['width'] and box[3] < settings['height']
