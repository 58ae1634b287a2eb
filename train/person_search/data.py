"""Frames of a set of scenes as a detector and a memory of identities learn from them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from msinet_timm.datasets import create_scenes, list_scenes, parse_options
from msinet_timm.datasets.images import load_image
from msinet_timm.datasets.scenes import UNNAMED, Scene, SceneSet
from msinet_timm.datasets.trained import Learnt, TrainedOn
from msinet_timm.errors import InputError

from .settings import PersonSearchSettings

__all__ = ['Batch', 'SceneData', 'create_loader', 'load_scenes']

#: Frames with their boxes [N, 4] and classes [N], -1 for people whom nobody has named.
Batch = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]


@dataclass(frozen=True)
class SceneData:
    """What a training of person search reads.

    Attributes:
        scenes: the set.
        classes: of each identity that there are training scenes of, from 0.
        measured: the set by its name, where it has queries.
        remarks: what a reader of the metrics must know.
        trained_on: the identities.
    """

    scenes: SceneSet
    classes: dict[int, int]
    measured: Mapping[str, SceneSet] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    trained_on: TrainedOn = TrainedOn()


def load_scenes(settings: PersonSearchSettings) -> SceneData:
    """Reads the set of scenes that settings name.

    Raises:
        InputError: one that cannot be read, or without boxes or identities to learn from.
    """
    (name,) = settings.dataset
    if not settings.data_dir and name in list_scenes():
        raise InputError(f'data_dir: name the folder of {name}')
    scenes = create_scenes(name, (settings.data_dir or [''])[0], **parse_options(settings.data_option))
    where = f"data set '{name}' in {scenes.root}"
    if not any(scene.boxes for scene in scenes.train):
        raise InputError(f'{where}: its {len(scenes.train)} training scenes have no boxes: nobody can be learnt from')
    counts: dict[int, int] = {}
    for scene in scenes.train:
        for identity in scene.named:
            counts[identity] = counts.get(identity, 0) + 1
    if not counts:
        raise InputError(f'{where}: nobody in its training scenes has an identity: there is nobody to recognise')
    remarks = list(scenes.remarks)
    if once := sum(count == 1 for count in counts.values()):
        remarks.append(f'{once} of {len(counts)} identities are in one training scene only')
    if not scenes.queries:
        remarks.append(f'{name}: nothing to measure: no queries')
    learnt = Learnt(name, str(scenes.root), tuple(sorted(map(str, counts))), {})
    classes = {identity: number for number, identity in enumerate(sorted(counts))}
    measured = {name: scenes} if scenes.queries else {}
    return SceneData(scenes, classes, measured, tuple(remarks), TrainedOn((learnt,)))


class _Frames(Dataset):
    """Scenes, asked for by their index and whether they are to be mirrored."""

    def __init__(self, scenes: tuple[Scene, ...], classes: Mapping[int, int]) -> None:
        self.scenes = scenes
        self.classes = {**classes, UNNAMED: -1}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, asked: tuple[int, bool]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index, mirrored = asked
        image = np.array(load_image(self.scenes[index].path))
        height, width = image.shape[:2]
        scene = self.scenes[index].within(width, height)
        boxes = torch.tensor(scene.boxes, dtype=torch.float32).reshape(-1, 4)
        if mirrored:
            image = np.ascontiguousarray(image[:, ::-1])
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        labels = torch.tensor([self.classes[identity] for identity in scene.identities], dtype=torch.long)
        return torch.from_numpy(image).permute(2, 0, 1), boxes, labels


class _Sampler:
    """Batches of an epoch, which depend on (seed, epoch) alone; the last one may be smaller."""

    def __init__(self, count: int, batch_size: int, flip: float, seed: int) -> None:
        self.count, self.batch_size, self.flip, self.seed = count, batch_size, flip, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(self.count)
        mirrored = generator.random(self.count) < self.flip
        asked = [(int(index), bool(flip)) for index, flip in zip(order, mirrored, strict=True)]
        for start in range(0, self.count, self.batch_size):
            yield asked[start : start + self.batch_size]


def _collate(frames: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> Batch:
    return tuple(map(list, zip(*frames, strict=True)))


def create_loader(settings: PersonSearchSettings, data: SceneData) -> DataLoader:
    """Batches of training frames, uint8 [3, H, W] of whatever sizes they have; `batch_sampler.set_epoch` mixes them.

    Args:
        settings: `batch_size`, `flip`, `seed` and `workers` count.
        data: of which the training scenes are used.
    """
    frames = _Frames(data.scenes.train, data.classes)
    sampler = _Sampler(len(frames), settings.batch_size, settings.flip, settings.seed)
    return DataLoader(frames, batch_sampler=sampler, num_workers=settings.workers, collate_fn=_collate)
