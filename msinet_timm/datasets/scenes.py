"""Types of person search: whole images of several people, who is asked for, and where they are looked for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from msinet_timm.errors import InputError, check_utf8

from .records import Counts

__all__ = ['SCENE_PARTS', 'UNNAMED', 'Box', 'Scene', 'SceneQuery', 'SceneSet']

#: The identity of a person whom nobody has named.
UNNAMED = -1
#: Of a set of scenes, in this order.
SCENE_PARTS = ('train', 'test', 'queries')
#: Left, top, right and bottom, in pixels of the upright image.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """A whole image, and the people in it.

    Attributes:
        path: image file.
        boxes: of all people that are annotated; may be empty. They may reach beyond the image, see `within`.
        identities: of each box, from 0; `UNNAMED` for a person whom nobody has named.
        camera: name of the camera, or None where it is unknown.
    """

    path: str
    boxes: tuple[Box, ...]
    identities: tuple[int, ...]
    camera: str | None = None

    def __post_init__(self) -> None:
        if len(self.boxes) != len(self.identities):
            raise InputError(f'{self.path}: {len(self.boxes)} boxes, but {len(self.identities)} identities')
        for box, identity in zip(self.boxes, self.identities, strict=True):
            _check_box(self.path, box)
            if not UNNAMED <= identity < 2**31:
                raise InputError(
                    f'{self.path}: identity {identity} must be 0 to {2**31 - 1}, or {UNNAMED} if not known'
                )

    @property
    def named(self) -> dict[int, tuple[Box, ...]]:
        """Boxes by the identity that they show, without those whom nobody has named."""
        found: dict[int, tuple[Box, ...]] = {}
        for box, identity in zip(self.boxes, self.identities, strict=True):
            if identity != UNNAMED:
                found[identity] = (*found.get(identity, ()), box)
        return found

    def within(self, width: int, height: int) -> 'Scene':
        """The scene with boxes cut off at the edges of its image, `width` by `height` pixels.

        Raises:
            InputError: a box covers nothing of the image.
        """
        boxes = []
        for box in self.boxes:
            cut = (max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3]))
            if cut[0] >= cut[2] or cut[1] >= cut[3]:
                raise InputError(f'{self.path}: box {_shown(box)} lies outside of its image of {width}x{height} pixels')
            boxes.append(cut)
        return replace(self, boxes=tuple(boxes))


@dataclass(frozen=True)
class SceneQuery:
    """A person who is asked for.

    Attributes:
        scene: that shows the person.
        box: around the person, in pixels of that image.
        identity: of the person.
        gallery: paths of the test scenes in which the person is looked for; None for all but the query's own.
    """

    scene: Scene
    box: Box
    identity: int
    gallery: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_box(self.scene.path, self.box)


@dataclass(frozen=True)
class SceneSet:
    """Scenes to learn person search from, and scenes to measure it on.

    Identities are numbered through: those of `train` and of `test` are others.

    Attributes:
        name: as given to `create_scenes`.
        root: folder that it was read from.
        train: scenes to learn from.
        test: scenes in which people are looked for, each once.
        queries: who is asked for.
        notes: what a reader of the metrics must know.
        known: the published size of the parts, identities and images (of `queries`: and queries), for `check`.
        options: as `create_scenes` was given them.
    """

    name: str
    root: str
    train: tuple[Scene, ...]
    test: tuple[Scene, ...]
    queries: tuple[SceneQuery, ...]
    notes: tuple[str, ...] = ()
    known: Counts = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def shared(self) -> set[int]:
        """The identities that are asked for and that there are training scenes of: there should be none."""
        return {query.identity for query in self.queries} & {i for scene in self.train for i in scene.named}

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and a warning where train and test share identities."""
        if shared := self.shared:
            told = f'TRAIN AND TEST SHARE IDENTITIES: {len(shared)} of those who are asked for are in training scenes'
            return (told, *self.notes)
        return self.notes

    def check(self) -> None:
        """Raises `InputError` if a path is not UTF-8, or queries and galleries do not fit the test scenes."""
        for scene in (*self.train, *self.test):
            check_utf8(scene.path)
        paths = {scene.path for scene in self.test}
        if len(paths) < len(self.test):
            raise InputError(f'{self.root}: {len(self.test) - len(paths)} test scenes are listed twice')
        galleries = {id(query.gallery): query for query in self.queries if query.gallery is not None}  # often shared
        for query in galleries.values():
            if not paths.issuperset(query.gallery):
                missing = min(set(query.gallery) - paths)
                raise InputError(f'{query.scene.path}: its gallery names {missing}, which is no test scene')


def _check_box(path: str, box: Box) -> None:
    if not all(map(math.isfinite, box)) or box[0] >= box[2] or box[1] >= box[3]:
        raise InputError(f'{path}: box {_shown(box)} must be left, top, right and bottom, not empty')


def _shown(box: Box) -> str:
    return '(' + ', '.join(f'{side:g}' for side in box) + ')'
