"""Users' own images in folders: one for each identity, in three parts or to be split by identity."""

import hashlib
import os
import re
from pathlib import Path
from sys import intern

from msinet_timm.datasets.records import PARTS, SPLIT, Record, ReIDDataset, sort_names
from msinet_timm.errors import InputError

from .clothes import CLOTHES_OPTION
from .layout import JUNK, pick_folders, pick_images, skip, walk
from .parts import TEST, find_parts
from .reader import Option, Reader
from .rows import FIELDS, TRACKLETS_OPTION, own_dataset

__all__ = ['FOLDER', 'check_camera_folders', 'read_folder', 'split_identities']

_FEW = 2  # identities that either side is to have, where there are as many
#: Who is in the galleries of Market-1501 and MARS, beside junk, and asked for by nobody.
_DISTRACTORS = '0000'


def read_folder(
    root: str,
    pattern: str | None = None,
    seed: int | None = None,
    test_share: float | None = None,
    protocol: str = 'standard',
    layout: str = 'identities',
    tracklets: str = 'auto',
) -> ReIDDataset:
    """Reads `train`, `query` and `gallery`, or splits what is there; see `find_parts` for `test` and `val`.

    Images are in `<identity>/` or `<identity>/<camera>/`, in the parts or directly in the root. Those of identity -1
    (in MARS 00-1) are junk, and dropped; beside them, identity 0000 stands for distractors where queries are drawn:
    nobody asks for them, and nobody trains on them.

    With the layout `cameras` nobody knows who is in the images to learn from: they are in `<camera>/` or
    `<camera>/<tracklet>/`, in `train` or directly in the root, and each tracklet, or image without one, counts as an
    identity of its own.

    Args:
        root: the folder.
        pattern: regular expression that is searched for in file names, with named groups: any of `FIELDS`. With a
            group `identity` folders do not matter.
        seed: of the split (None: 0), see `split_identities`.
        test_share: share of identities to test on that is to be expected, 0-1 (None: 0.5).
        protocol: standard or clothes-changing.
        layout: identities or cameras.
        tracklets: see `TRACKLETS_OPTION`.

    Raises:
        InputError: options of a split although there are parts, parts that `find_parts` refuses, a wrong pattern, an
            image that it does not match, images outside of folders of identities, a camera's folder without images,
            cameras for only some of the images, or nothing to read.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f'{root} is no folder')
    regex = _compile(pattern)
    places, notes = find_parts(folder)
    fixed = (bool(places) and TEST not in places) or layout == 'cameras'
    if (fixed and seed is not None) or ((places or fixed) and test_share is not None):
        why = f'{root} has the folder {next(iter(places))}' if places else 'nobody is known in the layout cameras'
        raise InputError(f'{why}, so that nothing is split: leave out seed and test_share')
    if places or layout == 'cameras':
        unnamed = {'train'} if layout == 'cameras' else ()
        found = {part: _collect(place, regex, part in unnamed) for part, place in places.items()}
        found = found or {'train': _collect(folder, regex, True)}
        parts = {part: records for part, (records, _) in found.items() if part != TEST}
        if TEST in found:
            drawn, distractors = _split(found[TEST], seed or 0, 1)
            parts |= {part: drawn[part] for part in ('query', 'gallery')}
            notes += (f'queries are drawn from {places[TEST].name}, seed {seed or 0}', *distractors)
    else:
        seed, test_share = seed or 0, 0.5 if test_share is None else test_share
        parts, distractors = _split(_collect(folder, regex), seed, test_share)
        trained, tested = (
            len({r.identity for part in some for r in parts[part]} - ({_DISTRACTORS} if distractors else set()))
            for some in (PARTS[:1], PARTS[1:])
        )
        told = f'{tested} of {trained + tested} to test on (test_share {test_share:g}), seed {seed}'
        notes = (f'{SPLIT}: {told}', *distractors)
    return own_dataset('folder', str(folder), parts, protocol, 'folders', notes, tracklets)


def _split(
    found: tuple[list[Record], int], seed: int, test_share: float
) -> tuple[dict[str, list[Record]], tuple[str, ...]]:
    """Parts of what `_collect` has found, and a note of the distractors, who are in the gallery and nowhere else."""
    records, junk = found
    distractors = [r for r in records if r.identity == _DISTRACTORS] if junk else []
    parts = split_identities([r for r in records if not junk or r.identity != _DISTRACTORS], seed, test_share)
    parts['gallery'] += distractors
    return parts, (f'{len(distractors):,} distractors, of identity {_DISTRACTORS}',) if distractors else ()


def _compile(pattern: str | None) -> re.Pattern | None:
    if pattern is None:
        return None
    try:
        regex = re.compile(pattern)
    except re.error as e:
        raise InputError(f'option pattern={pattern} is no regular expression ({e})') from e
    unknown = [name for name in regex.groupindex if name not in FIELDS]
    if unknown or not regex.groupindex:
        got = f'not {", ".join(unknown)}' if unknown else 'it has none'
        raise InputError(f'option pattern={pattern}: named groups may be {", ".join(FIELDS)}; {got}')
    return regex


def _collect(folder: Path, regex: re.Pattern | None, unnamed: bool = False) -> tuple[list[Record], int]:
    """Records in order of paths, and the number of junk images among them, which are left out.

    Folders are of cameras and tracklets where identities are not known.
    """
    records, junk = [], 0
    for directory, children, files in walk(folder):
        children[:] = pick_folders(children)
        here = Path(directory)
        below = here.relative_to(folder).parts
        row = _from_camera_folders(below) if unnamed else _from_folders(below, regex)
        for name in pick_images(files):
            path = str(here / name)
            cells = row | _from_name(path, name, regex)
            if unnamed:
                if 'camera' not in cells:
                    raise InputError(f'{path}: expected images in {folder}/<camera>/ or {folder}/<camera>/<tracklet>/')
                cells['identity'] = intern(f'{cells["camera"]}/{cells.get("tracklet") or name}')
            if 'identity' not in cells:
                raise InputError(
                    f'{path}: expected images in {folder}/<identity>/ or {folder}/<identity>/<camera>/; '
                    "if file names tell identities, give the option pattern='(?P<identity>...)'"
                )
            if cells['identity'] in JUNK:
                junk += 1
                skip(f'images of nobody (identity {cells["identity"]})')
            else:
                records.append(Record(path, **cells))
    if not records:
        raise InputError(f'{folder} holds no images')
    if unnamed:
        filled = {Path(record.path).relative_to(folder).parts[0] for record in records}
        for camera in sorted(child.name for child in folder.iterdir() if child.is_dir()):
            if not camera.startswith('.') and camera not in filled:
                raise InputError(f'{folder / camera} holds no images: put some of this camera into it, or remove it')
    return records, junk


def _from_folders(parts: tuple[str, ...], regex: re.Pattern | None) -> dict[str, str]:
    """Identity and camera, as far as the pattern does not tell them; with a pattern, folders below do not matter."""
    told = regex.groupindex if regex is not None else {}
    if 'identity' in told:
        return {}
    if len(parts) == 2 and 'camera' not in told:
        return {'identity': parts[0], 'camera': parts[1]}
    return {'identity': parts[0]} if len(parts) == 1 or (parts and told) else {}


def _from_camera_folders(parts: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(('camera', 'tracklet'), parts, strict=False)) if len(parts) < 3 else {}


def check_camera_folders(dataset: ReIDDataset) -> None:
    """Refuses folders of identities that were read in the layout `cameras`.

    Raises:
        InputError: there are more folders of cameras than names of folders in them.
    """
    inner = {record.tracklet for record in dataset.train if record.tracklet}
    outer = sort_names(record.camera for record in dataset.train)
    if 1 < len(inner) < len(outer):
        raise InputError(
            f'{dataset.root}: expected <camera>/<tracklet>/ or <camera>/, but {len(outer)} folders ({outer[0]}, ...) '
            f'with the same {len(inner)} in them ({sort_names(inner)[0]}, ...) look like <identity>/<camera>/: '
            'name them the other way round, or read them by -ds folder and the option layout=identities (or '
            'layout=cameras, if it is right)'
        )


def _from_name(path: str, name: str, regex: re.Pattern | None) -> dict[str, str | int]:
    if regex is None:
        return {}
    match = regex.search(name)
    if match is None:
        raise InputError(f'{path}: the option pattern={regex.pattern} matches nothing in this name')
    found = {name: intern(value) for name, value in match.groupdict().items() if value}
    if 'time' in found:
        if not found['time'].isdecimal():
            raise InputError(f'{path}: time {found["time"]} is no number: change the option pattern={regex.pattern}')
        found['time'] = int(found['time'])
    return found


def split_identities(records: list[Record], seed: int, test_share: float) -> dict[str, list[Record]]:
    """Splits images by identity into train and test, and the latter into query and gallery.

    Each identity has a place from 0 to 1, a hash of the seed and its name; those below the share are tested on. So
    nobody changes sides when others come or go, and the share is only to be expected. Where one side would have fewer
    than two identities (or fewer than the share, rounded, gives it), the nearest places fill it up; those who were
    moved so, of a few people, go back as soon as enough others come.

    With cameras, an identity asks with one image of each camera that keeps another one, or else with one image if
    a second camera saw it. Without, it asks with one image of two or more: that with the lowest hash of its names. Who
    cannot ask is a distractor.

    Raises:
        InputError: a share out of range, or identities to test on of which none can ask.
    """
    if not 0 <= test_share <= 1:
        raise InputError(f'option test_share={test_share} must be between 0 and 1')
    people: dict[str, list[Record]] = {}
    for record in records:
        people.setdefault(record.identity, []).append(record)
    place = {name: _place(seed, name) for name in people}
    rounded, below = round(test_share * len(people)), sum(p < test_share for p in place.values())
    count = min(max(below, min(rounded, _FEW)), max(rounded, len(people) - _FEW))
    tested = set(sorted(people, key=lambda name: (place[name], name))[:count])
    parts = {part: [] for part in PARTS}
    for name in sorted(people):
        if name not in tested:
            parts['train'] += people[name]
            continue
        asking = _pick_queries(people[name], seed)
        parts['query'] += asking
        parts['gallery'] += [record for record in people[name] if record not in asking]
    if tested and not parts['query']:
        different = ' under different cameras' if records[0].camera is not None else ''
        raise InputError(
            f'none of {len(tested)} identities to test on has two images{different}: folders are read as <identity>/ '
            'or <identity>/<camera>/; if that is right, give images of more people, or another seed or test_share'
        )
    return parts


def _place(seed: int, *names: str) -> float:
    """A number from 0 to below 1 that depends on seed and names alone, on any machine and for good."""
    text = '\0'.join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()[:6], 'big') / 2**48


def _pick_queries(records: list[Record], seed: int) -> list[Record]:
    def pick(group: list[Record]) -> Record:
        return min(group, key=lambda r: _place(seed, r.identity, r.camera or '', os.path.basename(r.path)))

    cameras: dict[str | None, list[Record]] = {}
    for record in records:
        cameras.setdefault(record.camera, []).append(record)
    if None in cameras:
        return [pick(records)] if len(records) > 1 else []
    if len(cameras) < 2:
        return []
    several = [cameras[name] for name in sorted(cameras) if len(cameras[name]) > 1]
    return [pick(group) for group in several] or [pick(records)]


FOLDER = Reader(
    read_folder,
    about='your own images, in a folder for each identity',
    layout='[{train,query,gallery}/ or {train,test}/]<identity>/[<camera>/]*.jpg',
    options=(
        Option('pattern', None, f'regular expression on file names with named groups: {", ".join(FIELDS)}'),
        Option('seed', 0, 'of the split by identity, where there are no query and gallery'),
        Option('test_share', 0.5, 'expected share of identities to test on, where there are no train, query, gallery'),
        CLOTHES_OPTION,
        Option(
            'layout',
            'identities',
            'of images to learn from; cameras: <camera>/[<tracklet>/]*.jpg, nobody known',
            choices=('identities', 'cameras'),
        ),
        TRACKLETS_OPTION,
    ),
)
