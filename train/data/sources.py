"""From names of data sets to what a training reads: images to learn from, and data sets to be measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from msinet_eval.metrics.checks import to_numbers
from msinet_timm.datasets import Record, ReIDDataset, parse_options, read_datasets
from msinet_timm.datasets.readers.folder import check_camera_folders
from msinet_timm.datasets.records import sort_names
from msinet_timm.datasets.tools.verify import drop_broken
from msinet_timm.datasets.trained import TRAINED_ON, Learnt, TrainedOn, find_trained
from msinet_timm.errors import InputError
from msinet_train.settings import CropSettings

__all__ = ['TrainingData', 'camera_labels', 'class_labels', 'load_data', 'union']


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        train: images to learn from, of all sources; see `union`.
        labels: [N] int64 class of each, see `class_labels`.
        measured: data sets with a gallery by the name that metrics on them bear, the first source first.
        remarks: what a reader of the metrics must know.
        trained_on: identities of the sources, and of what the weights to begin with were trained on.
    """

    train: tuple[Record, ...]
    labels: torch.Tensor
    measured: Mapping[str, ReIDDataset] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    trained_on: TrainedOn = TrainedOn()

    @property
    def num_classes(self) -> int:
        """Identities to tell apart."""
        return int(self.labels.max()) + 1


def class_labels(*sources: Sequence[Record]) -> torch.Tensor:
    """[N] int64: 0, 1, ... for the images of all sources, in the order of these and of the names of identities."""
    classes: dict[tuple[int, str], int] = {}
    for number, records in enumerate(sources):
        for name in sort_names(r.identity for r in records):
            classes[number, name] = len(classes)
    return torch.tensor([classes[number, r.identity] for number, records in enumerate(sources) for r in records])


def camera_labels(records: Sequence[Record]) -> torch.Tensor:
    """[N] int64: 0, 1, ... for the cameras of images, in the order of their names.

    Raises:
        InputError: an image without camera, or none of a second one.
    """
    for record in records:
        if record.camera is None:
            raise InputError(f'{record.path} has no camera')
    (cameras,) = to_numbers('cameras', image=[record.camera for record in records])
    if not cameras.any():
        raise InputError(f"all images are of one camera, '{records[0].camera}'")
    return cameras


def load_data(settings: CropSettings) -> TrainingData:
    """Reads the lists of images that settings name.

    Args:
        settings: `dataset` and `target` hold names; `data_dir` one folder for all of them, or one for each, sources
            first; each of `data_option` goes to the data sets that know it; `skip_broken` leaves out broken images.

    Raises:
        InputError: a data set that cannot be read, an option that none knows, a number of folders that doesn't fit, or
            a source without images to train on.
    """
    options = parse_options(settings.data_option)
    names = (*settings.dataset, *settings.target)
    # folders to learn from are of cameras where nobody knows the identities
    unlabelled = getattr(settings, 'unlabelled', False)
    guessed = unlabelled and 'layout' not in options
    of_cameras = [guessed and name == 'folder' and k < len(settings.dataset) for k, name in enumerate(names)]
    further = [{'layout': 'cameras'} if cameras else {} for cameras in of_cameras]
    datasets = read_datasets(names, settings.data_dir, options, further=further)
    for dataset, cameras in zip(datasets.values(), of_cameras, strict=True):
        if cameras:
            check_camera_folders(dataset)
    if settings.skip_broken:
        datasets = {name: drop_broken(dataset) for name, dataset in datasets.items()}
    names = list(datasets)
    sources = {name: datasets[name] for name in names[: len(settings.dataset)]}
    for source in sources.values():
        if not source.train:
            raise InputError(f"data set '{source.name}' has no images to train on")
    for name in names[len(settings.dataset) :]:
        if not datasets[name].gallery:
            raise InputError(f"data set '{datasets[name].name}' has no query and gallery: it cannot be a target")
    before = _known_before(settings)
    datasets = {name: before.tell(dataset) for name, dataset in datasets.items()}
    train = datasets[names[0]].train if len(sources) == 1 else union(sources)
    remarks = [f'{name}: {remark}' for name, dataset in datasets.items() for remark in dataset.remarks]
    measured = {name: dataset for name, dataset in datasets.items() if dataset.gallery}
    if not measured:
        remarks.append(f'{names[0]}: nothing to measure: no query and gallery')
    # of crops that nobody has labelled, there are no names to remember
    named = [d for d in sources.values() if not (unlabelled and d.options.get('layout') == 'cameras')]
    trained_on = TrainedOn(tuple(map(Learnt.of, named)), before.everything)
    labels = class_labels(*(d.train for d in sources.values()))
    return TrainingData(train, labels, measured, tuple(remarks), trained_on)


def _known_before(settings: CropSettings) -> TrainedOn:
    """What the weights were trained on that a run began with; of one that goes on, it has kept that itself."""
    own = settings.folder / TRAINED_ON
    if settings.resume and own.is_file():
        return TrainedOn(before=TrainedOn.load(own).before)
    model = None if getattr(settings, 'pretrained', None) is False else getattr(settings, 'model', None)
    return find_trained(getattr(settings, 'checkpoint', None) or model)


def union(datasets: Mapping[str, ReIDDataset]) -> tuple[Record, ...]:
    """The training images of several data sets by name, with identities and cameras that no two of them share.

    The data set's name goes before those of identities, cameras and domains; it is the domain where there was none.
    """
    return tuple(
        record._replace(
            identity=f'{name}/{record.identity}',
            camera=record.camera and f'{name}/{record.camera}',
            domain=f'{name}/{record.domain}' if record.domain else name,
        )
        for name, dataset in datasets.items()
        for record in dataset.train
    )
