"""From names of data sets to what a training reads: images to learn from, and data sets to be measured on."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from msinet_timm.datasets import Record, ReIDDataset, create_dataset, get_reader, parse_options
from msinet_timm.datasets.tools.verify import drop_broken
from msinet_timm.errors import InputError

__all__ = ['TrainingData', 'load_data', 'union']


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        train: images to learn from, of all sources; see `union`.
        labels: class of each, 0, 1, ...
        measured: data sets with a gallery by the name that metrics on them bear, the first source first.
        remarks: what a reader of the metrics must know.
    """

    train: tuple[Record, ...]
    labels: tuple[int, ...]
    measured: dict[str, ReIDDataset]
    remarks: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Identities to tell apart."""
        return len(set(self.labels))


def load_data(args: argparse.Namespace) -> TrainingData:
    """Reads the lists of images that `args` names.

    Args:
        args: `dataset` and `target` hold names; `data_dir` one folder for all of them, or one for each, sources
            first; each of `data_option` goes to the data sets that know it; `skip_broken` leaves out broken images.

    Raises:
        InputError: a data set that cannot be read, an option that none knows, a number of folders that doesn't fit, or
            a source without images to train on.
    """
    datasets = list(_read(args))
    if args.skip_broken:
        datasets = [drop_broken(dataset) for dataset in datasets]
    sources, targets = datasets[: len(args.dataset)], datasets[len(args.dataset) :]
    for source in sources:
        if not source.train:
            raise InputError(f"data set '{source.name}' has no images to train on")
    for target in targets:
        if not target.gallery:
            raise InputError(f"data set '{target.name}' has no query and gallery: it cannot be a target")
    train = sources[0].train if len(sources) == 1 else union(sources)
    classes = {identity: k for k, identity in enumerate(sorted({r.identity for r in train}))}
    names = _distinct([d.name for d in datasets])
    remarks = [f'{name}: {remark}' for name, d in zip(names, datasets, strict=True) for remark in d.remarks]
    measured = {name: d for name, d in zip(names, datasets, strict=True) if d.gallery}
    if not measured:
        remarks.append(f'{names[0]}: nothing to measure: no query and gallery')
    return TrainingData(train, tuple(classes[r.identity] for r in train), measured, tuple(remarks))


def _read(args: argparse.Namespace) -> Iterator[ReIDDataset]:
    names = [*args.dataset, *args.target]
    roots = args.data_dir or [None]
    if len(roots) not in (1, len(names)):
        raise InputError(f'--data-dir: {len(roots)} folders for {len(names)} data sets; give one for all, or one each')
    options = parse_options(args.data_option)
    known = {name: {option.name for option in get_reader(name).options} for name in names}
    for key in options:
        if not any(key in names_of_one for names_of_one in known.values()):
            # as for a single data set, its reader says what there is
            known[names[0]].add(key)
    for name, root in zip(names, roots * len(names) if len(roots) == 1 else roots, strict=True):
        # the sample comes with the package: a folder is for the others
        root = root if get_reader(name).needs_root or len(names) == 1 or len(roots) > 1 else None
        yield create_dataset(name, root, **{k: v for k, v in options.items() if k in known[name]})


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of which those that come again get a number: `rendered`, `rendered2`."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f'{name}{seen[name]}')
    return distinct


def union(datasets: Sequence[ReIDDataset]) -> tuple[Record, ...]:
    """The training images of several data sets, with identities and cameras that no two of them share.

    Identities and cameras are numbered anew, in the order of the data sets and within them in that of their labels.
    Each image's domain is noted: the data set's name where it had none, else the name before the domain.
    """
    records, identities, cameras = [], count(), count()
    for name, dataset in zip(_distinct([d.name for d in datasets]), datasets, strict=True):
        identity_of = {i: next(identities) for i in sorted({r.identity for r in dataset.train})}
        known = {r.camera for r in dataset.train if r.camera is not None}
        camera_of = {None: None, **{c: next(cameras) for c in sorted(known)}}
        records += [
            r._replace(
                identity=identity_of[r.identity],
                camera=camera_of[r.camera],
                domain=f'{name}/{r.domain}' if r.domain else name,
            )
            for r in dataset.train
        ]
    return tuple(records)
