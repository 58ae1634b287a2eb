"""Person search: CUHK-SYSU, PRW, and rendered scenes, whose files are those to write for scenes of one's own.

Both real sets come as MATLAB files, which scipy reads. In CUHK-SYSU (Xiao et al., CVPR 2017) a box is left, top, width
and height; `Images.mat` has all of them, `Train.mat` those of each training identity, and `TestG50.mat` to
`TestG4000.mat` the queries, each with a gallery of its own: all images of the person, filled up with others. In PRW
(Zheng et al., CVPR 2017) each frame has a file of its own with identity, left, top, width and height of each box, and
identity -2 for who was not named; a query is looked for in all other test frames.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from msinet_timm.datasets.records import Counts
from msinet_timm.datasets.scenes import SCENE_PARTS, UNNAMED, Box, Scene, SceneQuery, SceneSet
from msinet_timm.errors import InputError, explained, needs, one_line
from msinet_timm.files import check_regular, parse_json, pointer

from .layout import find_folder, number_name, read_lines, require_file, skip
from .reader import Option, Reader

__all__ = ['CUHK_SYSU', 'PRW', 'RENDERED_SCENES', 'ROWS']

#: File of each part of rendered scenes.
ROWS = {part: f'{part}.jsonl' for part in SCENE_PARTS}
_GALLERIES = (50, 100, 500, 1000, 2000, 4000)
_CUHK_KNOWN: Counts = {'train': (5532, 11206), 'test': (2900, 6978), 'queries': (2900, 2900)}
_PRW_KNOWN: Counts = {'train': (482, 5704), 'test': (450, 6112), 'queries': (450, 2057)}
_FRAME = re.compile(r'c(?P<camera>\d+)s\d+_\d+', re.ASCII)
_MULTI_VIEW = Option('multi_view', False, 'looks for people in scenes of other cameras than the query alone')


def _load_mat(path: Path, *names: str) -> np.ndarray:
    """The first variable of these names that a MATLAB file has."""
    with needs('scenes', path.name):
        from scipy.io import loadmat
    require_file(path)
    with explained(f'{path}: cannot read this MATLAB file'):
        check_regular(path)
        if reason := pointer(path):
            raise ValueError(reason)
        found = loadmat(path, squeeze_me=True)
    name = next((name for name in names if name in found), None)
    if name is None:
        there = ', '.join(key for key in found if not key.startswith('__')) or 'nothing'
        raise InputError(f'{path}: expected {" or ".join(names)} in it, found {there}')
    return found[name]


def _structs(value) -> Iterator:
    """The structs of an array or of cells, however deep; texts of a cell array, too."""
    if isinstance(value, np.ndarray):
        for item in np.atleast_1d(value).ravel():
            yield from _structs(item)
    else:
        yield value


def _sides(row) -> Box | None:
    """A box of left, top, width and height; None where it has no area."""
    left, top, width, height = map(float, np.asarray(row).ravel())  # of unsigned bytes, too, whose sums would wrap
    return (left, top, left + width, top + height) if width > 0 and height > 0 else None


def _parsed(path: Path, parse: Callable):
    """What `parse()` makes of a file's variables, which have other fields in files of something else."""
    try:
        return parse()
    except InputError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as e:
        raise InputError(f'{path}: not as expected of this data set ({one_line(e)})') from e


class _Cuhk:
    """The boxes of CUHK-SYSU's images, to which identities are given."""

    def __init__(self, folder: Path):
        self.images, path = folder / 'Image' / 'SSM', folder / 'annotation' / 'Images.mat'
        if not self.images.is_dir():
            raise InputError(f'{self.images} is missing: it holds the images of CUHK-SYSU')
        there, everything = set(os.listdir(self.images)), _load_mat(path, 'Img')
        self.boxes: dict[str, dict[Box, int]] = _parsed(
            path, lambda: {str(image['imname']): self._boxes(image['box']) for image in _structs(everything)}
        )
        missing = sorted(self.boxes.keys() - there)
        if missing:
            raise InputError(f'{self.images / missing[0]} is missing, but {path} names it ({len(missing):,} like it)')

    def _boxes(self, rows) -> dict[Box, int]:
        boxes = [_sides(row['idlocate']) for row in _structs(rows)]
        skip('boxes without area', boxes.count(None))
        return dict.fromkeys((box for box in boxes if box), UNNAMED)

    def name(self, image: str, box: Box | None, identity: int) -> None:
        """Gives a box an identity; one that `Images.mat` lacks is added."""
        if image not in self.boxes:
            raise InputError(f'image {image} is not in Images.mat')
        if box is not None:
            self.boxes[image][box] = identity

    def scene(self, image: str) -> Scene:
        boxes = self.boxes[image]
        return Scene(str(self.images / image), tuple(boxes), tuple(boxes.values()))


def _read_cuhk_sysu(root: str, gallery: int | str = 100) -> SceneSet:
    folder = find_folder(root, ('cuhk_sysu', 'CUHK-SYSU', 'ssm', 'dataset'), ('annotation', 'Image'))
    lists = folder / 'annotation' / 'test' / 'train_test'
    size = gallery if gallery != 'all' else next((n for n in _GALLERIES if (lists / f'TestG{n}.mat').is_file()), 50)
    train, test = lists / 'Train.mat', lists / f'TestG{size}.mat'
    learnt, asked = _load_mat(train, 'Train'), _load_mat(test, f'TestG{size}')
    path = folder / 'annotation' / 'pool.mat'
    pool = [str(name) for name in _structs(_load_mat(path, 'pool'))]
    images = _Cuhk(folder)

    def name_training() -> int:
        count = 0
        for count, person in enumerate(_structs(learnt), start=1):
            for shown in _structs(person['scene']):
                images.name(str(shown['imname']), _sides(shown['idlocate']), count - 1)
        return count

    def name_queries(first: int) -> list[tuple[str, Box, int, tuple[str, ...]]]:
        queries = []
        for identity, person in enumerate(_structs(asked), start=first):
            (query,) = _structs(person['Query'])
            where, names = (str(query['imname']), _sides(query['idlocate'])), []
            if where[1] is None:
                raise ValueError(f'the box of query {where[0]} has no area')
            images.name(*where, identity)
            for shown in _structs(person['Gallery']):
                names.append(str(shown['imname']))
                if np.size(shown['idlocate']):
                    images.name(names[-1], _sides(shown['idlocate']), identity)
            queries.append((*where, identity, tuple(dict.fromkeys(names))))
        return queries

    first = _parsed(train, name_training)
    queries = _parsed(test, lambda: name_queries(first))
    if missing := sorted(set(pool) - images.boxes.keys()):
        raise InputError(f'{path} names {missing[0]}, which is not in Images.mat')
    tested = dict.fromkeys([*pool, *(query[0] for query in queries)])  # which are in the pool, too
    scenes = {image: images.scene(image) for image in images.boxes}
    if gallery != 'all':
        paths = {image: scenes[image].path for image in tested}
    return SceneSet(
        'cuhk_sysu',
        str(folder),
        tuple(scene for image, scene in scenes.items() if image not in tested),
        tuple(scenes[image] for image in tested),
        tuple(
            SceneQuery(
                scenes[image],
                box,
                identity,
                None if gallery == 'all' else tuple(paths.get(name) or scenes[name].path for name in names),
            )
            for image, box, identity, names in queries
        ),
        notes=(f'galleries of {gallery} images' if gallery != 'all' else 'galleries of all test images',),
        known=_CUHK_KNOWN,
    )


def _other_views(scenes: SceneSet) -> SceneSet:
    """The set whose galleries hold scenes of other cameras than the query's."""
    if any(scene.camera is None for scene in scenes.test):
        raise InputError(f'{scenes.root}: multi_view needs the camera of every test scene')
    cameras = {query.scene.camera for query in scenes.queries}
    others = {camera: tuple(s.path for s in scenes.test if s.camera != camera) for camera in cameras}
    queries = tuple(replace(query, gallery=others[query.scene.camera]) for query in scenes.queries)
    return replace(scenes, queries=queries, notes=(*scenes.notes, 'looked for under other cameras alone'))


def _read_prw(root: str, multi_view: bool = False) -> SceneSet:
    folder = find_folder(root, ('PRW', 'PRW-v16.04.20'), ('frame_train.mat', 'frame_test.mat'))
    frames, there = folder / 'frames', set(os.listdir(folder / 'frames'))

    def read_frame(name: str) -> Scene:
        path = folder / 'annotations' / f'{name}.jpg.mat'
        match = _FRAME.fullmatch(name)
        if match is None:
            raise InputError(f"{path}: expected a frame like 'c1s1_000151', got '{name}'")
        if f'{name}.jpg' not in there:
            raise InputError(f'{frames / name}.jpg is missing, but the lists of frames name it')
        rows = np.asarray(_load_mat(path, 'box_new', 'anno_file', 'anno_previous'))
        named = _parsed(path, lambda: [(_whole(row[0]), _sides(row[1:])) for row in rows.reshape(-1, 5)])
        skip('boxes without area', sum(box is None for _, box in named))
        named = [(identity, box) for identity, box in named if box]
        identities = tuple(max(identity, UNNAMED) for identity, _ in named)
        boxes = tuple(box for _, box in named)
        return Scene(str(frames / f'{name}.jpg'), boxes, identities, number_name(match['camera']))

    train, test = (
        {
            name: read_frame(name)
            for name in map(str, _structs(_load_mat(folder / f'frame_{part}.mat', f'img_index_{part}')))
        }
        for part in ('train', 'test')
    )
    queries, path = [], folder / 'query_info.txt'
    for number, line in read_lines(path):
        try:
            identity, *sides, name = line.split()
            identity, box = int(identity), _sides([float(side) for side in sides])
        except ValueError:
            expected = '479 811 303 117 239 c1s3_016471'
            raise InputError(f"{path}, line {number}: expected a line like '{expected}', got '{line}'") from None
        if name.removesuffix('.jpg') not in test:
            raise InputError(f"{path}, line {number}: '{name}' is not in frame_test.mat")
        if box is None:
            raise InputError(f"{path}, line {number}: the box of '{line}' has no area")
        queries.append(SceneQuery(test[name.removesuffix('.jpg')], box, identity))
    scenes = SceneSet('prw', str(folder), tuple(train.values()), tuple(test.values()), tuple(queries), known=_PRW_KNOWN)
    return _other_views(scenes) if multi_view else scenes


def _whole(number) -> int:
    if number != int(number):
        raise ValueError(f'identity {number} is no whole number')
    return int(number)


def _read_rendered(root: str, multi_view: bool = False) -> SceneSet:
    folder = find_folder(root, (), (ROWS['train'], ROWS['test']))
    train, test = ([_parse_scene(*at) for at in _rows(folder, part)] for part in SCENE_PARTS[:2])
    by_path = {scene.path: scene for scene in test}
    queries = [_parse_query(by_path, *at) for at in _rows(folder, 'queries')]
    scenes = SceneSet('rendered_scenes', str(folder), tuple(train), tuple(test), tuple(queries))
    return _other_views(scenes) if multi_view else scenes


def _rows(folder: Path, part: str) -> Iterator[tuple[Path, str, dict]]:
    """Folder, place for messages, and what stands there, of each line."""
    path = folder / ROWS[part]
    for number, line in read_lines(path):
        where = f'{path}, line {number}'
        try:
            row = parse_json(line)
        except ValueError as e:
            raise InputError(f'{where}: no JSON ({one_line(e)})') from e
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with 'image', got {line[:40]}")
        yield folder, where, row


def _field(where: str, row: dict, name: str, kind: type, what: str):
    value = row.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{where}: expected '{name}', {what}, got {value!r}")
    return value


def _parse_box(where: str, box) -> Box:
    with contextlib.suppress(OverflowError):
        if isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box):
            return tuple(map(float, box))
    raise InputError(f'{where}: a box must be [left, top, right, bottom], got {str(box)[:80]}')


def _parse_scene(folder: Path, where: str, row: dict) -> Scene:
    path = folder / _field(where, row, 'image', str, 'the path of an image')
    if not path.is_file():
        raise InputError(f'{where}: {path} is missing')
    boxes = tuple(_parse_box(where, box) for box in _field(where, row, 'boxes', list, 'a list of boxes'))
    identities = _field(where, row, 'identities', list, 'a list of numbers')
    if any(type(identity) is not int for identity in identities):
        raise InputError(f'{where}: identities must be whole numbers, {UNNAMED} for who is not named')
    camera = row.get('camera')
    camera = None if camera is None else _field(where, row, 'camera', str, 'a name')
    try:
        return Scene(str(path), boxes, tuple(identities), camera)
    except InputError as e:
        raise InputError(f'{where}: {e}') from e


def _parse_query(scenes: dict[str, Scene], folder: Path, where: str, row: dict) -> SceneQuery:
    path = str(folder / _field(where, row, 'image', str, 'the path of a test image'))
    if path not in scenes:
        raise InputError(f'{where}: {path} is not in {ROWS["test"]}')
    box = _parse_box(where, row.get('box'))
    identity = _field(where, row, 'identity', int, 'a number')
    gallery = row.get('gallery')
    if gallery is not None:
        names = _field(where, row, 'gallery', list, 'a list of test images')
        gallery = tuple(str(folder / str(name)) for name in names)
    query = SceneQuery(scenes[path], box, identity, gallery)
    if box not in scenes[path].named.get(identity, ()):
        raise InputError(f'{where}: {path} has no box {list(box)} of identity {identity}')
    return query


CUHK_SYSU = Reader(
    _read_cuhk_sysu,
    about='CUHK-SYSU: whole images of streets and films, to search people in',
    layout='Image/SSM/*.jpg, annotation/{Images,pool}.mat, annotation/test/train_test/{Train,TestG100}.mat',
    options=(Option('gallery', 100, 'images in which each query is looked for', (*_GALLERIES, 'all')),),
    known={'': _CUHK_KNOWN},
)
PRW = Reader(
    _read_prw,
    about='PRW: frames of 6 cameras, to search people in',
    layout='frames/*.jpg, annotations/*.jpg.mat, frame_{train,test}.mat, query_info.txt',
    options=(_MULTI_VIEW,),
    known={'': _PRW_KNOWN},
)
RENDERED_SCENES = Reader(
    _read_rendered,
    about='crowds that msinet-data render --scenes has drawn, or scenes of your own',
    layout=', '.join(ROWS.values()),
    options=(_MULTI_VIEW,),
)
