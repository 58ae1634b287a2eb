"""Which identities a model was trained on, so that a test which asks for them can say so.

A name stands for somebody within its data set only: '7' of Market-1501 and '7' of a folder of one's own are two. So
names are compared where the data set is the same: read by the same reader, from the same place, or from another one
that holds some of the images that were trained on.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from msinet_timm.errors import explained
from msinet_timm.files import read_json

from .archive import Remote, read_image
from .records import SPLIT, ReIDDataset

__all__ = ['TRAINED_ON', 'Learnt', 'TrainedOn', 'find_trained']

#: File in the folder of a run.
TRAINED_ON = 'trained_on.json'
_SAMPLES = 16


@dataclass(frozen=True)
class Learnt:
    """Identities of one data set that a model was trained on.

    Attributes:
        dataset: its name, as `create_dataset` takes it.
        root: real path of its folder or table; of a remote one, as it was given.
        identities: their names, sorted as texts.
        samples: of a few of them, the name of an image and the SHA-256 of its file.
    """

    dataset: str
    root: str
    identities: tuple[str, ...]
    samples: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, dataset: ReIDDataset) -> 'Learnt':
        """All identities of the training images; opens a few of these."""
        first = {r.identity: r for r in reversed(dataset.train)}
        names, samples = sorted(first), {}
        for name in names[:: -(-len(names) // _SAMPLES) or 1]:
            if digest := _digest_of(first[name].path):
                samples[name] = os.path.basename(first[name].path), digest
        return cls(dataset.name, _place(dataset.root), tuple(names), samples)

    @property
    def digest(self) -> str:
        """SHA-256 of the names, each followed by a NUL."""
        return hashlib.sha256(
            ''.join(f'{name}\0' for name in self.identities).encode('utf-8', 'surrogatepass')
        ).hexdigest()

    def is_from(self, dataset: ReIDDataset) -> bool:
        """Whether these are identities of a data set."""
        if self.dataset != dataset.name:
            return False
        return self.root == _place(dataset.root) or any(
            _digest_of(r.path) == self.samples[r.identity][1]
            for r in (*dataset.train, *dataset.query, *dataset.gallery)
            if r.identity in self.samples and os.path.basename(r.path) == self.samples[r.identity][0]
        )


@dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on.

    Attributes:
        sources: by the run that it is of, in the order of classes.
        before: by those whose weights that run began with.
        forgotten: names of data sets, of a run that an earlier version has begun, which kept no list of identities.
    """

    sources: tuple[Learnt, ...] = ()
    before: tuple[Learnt, ...] = ()
    forgotten: tuple[str, ...] = ()

    @property
    def everything(self) -> tuple[Learnt, ...]:
        """Both, each data set once."""
        merged: dict[tuple[str, str], Learnt] = {}
        for learnt in (*self.sources, *self.before):
            known = merged.setdefault((learnt.dataset, learnt.root), learnt)
            if known is not learnt:
                both = tuple(sorted({*known.identities, *learnt.identities}))
                merged[learnt.dataset, learnt.root] = replace(
                    known, identities=both, samples=learnt.samples | known.samples
                )
        return tuple(merged.values())

    def to_json(self) -> str:
        """The text of the file."""
        told = {
            kind: [{**asdict(learnt), 'digest': learnt.digest} for learnt in learnt_of]
            for kind, learnt_of in (('sources', self.sources), ('before', self.before))
        }
        return json.dumps(told, indent=1) + '\n'

    @classmethod
    def load(cls, path: Path) -> 'TrainedOn':
        """Reads what `to_json` has written.

        Raises:
            InputError: missing or changed.
        """
        with explained(f'{path}: not a list of identities as a run writes it'):
            told = read_json(path)
            return cls(*(tuple(map(_parse, told[kind])) for kind in ('sources', 'before')))

    def tell(self, dataset: ReIDDataset) -> ReIDDataset:
        """The data set with a remark, if it asks for identities that were trained on."""
        asked = dataset.asked
        learnt = [learnt for learnt in self.everything if not asked.isdisjoint(learnt.identities)]
        seen = {name for learnt in learnt if learnt.is_from(dataset) for name in learnt.identities} & asked
        told = ()
        if seen:
            told = (
                f'SEEN IN TRAINING: {len(seen)} of {len(asked)} query identities are among those that this '
                'model was trained on: the metrics say little about how it does with others',
            )
        elif dataset.name in self.forgotten and any(note.startswith(SPLIT) for note in dataset.notes):
            told = (
                f'MAY HAVE BEEN SEEN IN TRAINING: some of {len(dataset.asked)} query identities, as this model was '
                'trained by an earlier version, which split identities otherwise',
            )
        return replace(dataset, notes=(*told, *dataset.notes))


def find_trained(name: str | Path | None) -> TrainedOn:
    """What the run has kept that a model is of; nothing where it is of none, or no longer in its folder.

    Args:
        name: a run's folder, one of the models in it, or a file of weights in one of these.

    Raises:
        InputError: the file of the run cannot be read.
    """
    path = Path(str(name or '').removeprefix('local-dir:'))
    if not name or not path.exists():
        return TrainedOn()
    above = 1 if path.is_dir() else 2
    for folder in (path, *path.absolute().parents[:above], *path.resolve().parents[:above]):
        if (folder / TRAINED_ON).is_file():
            return TrainedOn.load(folder / TRAINED_ON)
        if (folder / 'args.yaml').is_file():
            return TrainedOn(forgotten=_sources_in(folder / 'args.yaml'))
    return TrainedOn()


def _sources_in(settings: Path) -> tuple[str, ...]:
    """Names of the data sets that a run has learnt from; none where these are not the settings of one of ours."""
    try:
        names = yaml.safe_load(settings.read_bytes())['dataset']
    except Exception:  # YAML fails in many ways, and other programs have an args.yaml, too
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _place(root: str) -> str:
    return str(root) if isinstance(root, Remote) else os.path.realpath(root)


def _digest_of(path: str) -> str:
    """SHA-256 of an image's file; empty where it cannot be read."""
    try:
        return hashlib.sha256(read_image(path)).hexdigest()
    except OSError:
        return ''


def _parse(told: dict[str, Any]) -> Learnt:
    names, samples = told['identities'], told['samples']
    texts = [told['dataset'], told['root'], *names, *samples, *(text for pair in samples.values() for text in pair)]
    if not isinstance(names, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError('names must be texts')
    samples = {name: (file, digest) for name, (file, digest) in samples.items()}
    learnt = Learnt(told['dataset'], told['root'], tuple(names), samples)
    if learnt.digest != told['digest']:
        raise ValueError('its names are not those that it was written with')
    return learnt
