"""A model and images by camera, of whoever -> what the model knows of the cameras, and a folder with both."""

import copy
import logging
import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader

from msinet_timm.commands import progress
from msinet_timm.datasets.images import ReIDImages
from msinet_timm.datasets.records import Record, sort_names, spread
from msinet_timm.datasets.shards.stream import StreamedBatches, StreamedImages, in_shards
from msinet_timm.errors import InputError
from msinet_timm.files import drafts, holds_nothing, replace_file
from msinet_timm.models.camera_norm import ENOUGH, FILE_NAME, CameraNorms, device_of, hash_weights
from msinet_timm.models.entries import find_entry

from .card import CALIBRATION, CARD, PREVIEW, describe_cameras, update_card
from .folder import CONFIG, EXAMPLE, download, find_folder, model_preprocessing, save_folder, write_example
from .load import load_folder, load_model, resolve_name, without_classifiers

__all__ = [
    'adapt', 'adapt_folder', 'check_norms', 'choose_crops', 'find_cameras', 'save_cameras', 'share_out',
]  # fmt: skip

_logger = logging.getLogger(__name__)


def choose_crops(records: Sequence[Record], crops: int = 64) -> dict[str, list[int]]:
    """Indices of some records of each camera, spread evenly over all that it has; identities play no part.

    Args:
        records: images, in any order; best in that of time.
        crops: of each camera, at most.

    Returns:
        Indices in ascending order, by camera, cameras sorted.

    Raises:
        InputError: no records, one without a camera, or no crops wanted.
    """
    if crops < 1:
        raise InputError(f'crops={crops} must be at least 1')
    if not records:
        raise InputError('no images to adapt to')
    by_camera: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        if record.camera is None:
            raise InputError(f'{record.path} has no camera: a model is adapted to the cameras of its images')
        by_camera.setdefault(record.camera, []).append(index)
    return {name: spread(by_camera[name], crops) for name in sort_names(by_camera)}


def adapt(
    model: nn.Module,
    records: Sequence[Record],
    data_config: dict[str, Any] | None = None,
    *,
    crops: int = 64,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    workers: int = 2,
) -> CameraNorms:
    """Learns what a model has to know of cameras, from images of which nobody says who is on them.

    ```
    norms = adapt(model, dataset.train)
    norms.save('models/site')
    ```

    Args:
        model: takes [B, 3, H, W] and gives [B, D]; timm's classifiers are left out. It stays as it is: the norms are
            of a copy, `norms.model`.
        records: images, each with its camera; their identities are not looked at.
        data_config: how images are prepared, for `timm.data.create_transform`; None for the model's own.
        crops: images of each camera, at most, spread evenly over its records.
        batch_size: images at once. Norms see all the crops of a camera together where they are no more than that, and
            follow one batch after another where they are more.
        device: where to compute; None for where the model is.
        workers: processes that read images; 0 reads them in this one.

    Raises:
        InputError: as `choose_crops`; an image that cannot be read; a camera whose images are of one colour; or a
            model that gives no finite vectors.
    """
    chosen = choose_crops(records, crops)
    network = without_classifiers(copy.deepcopy(model)).eval().to(device)
    norms = CameraNorms(network)
    device = device_of(network)
    batches = [(name, batch) for name, own in chosen.items() for batch in share_out(own, batch_size)]
    transform = create_transform(**(data_config or resolve_data_config(model=model)))
    read = StreamedImages if in_shards(records) else ReIDImages
    images = read(records, transform)
    indices = [batch for _, batch in batches]
    loader = DataLoader(
        images,
        batch_sampler=StreamedBatches(records, indices) if read is StreamedImages else indices,
        num_workers=workers,
        pin_memory=device.type == 'cuda',
    )
    try:
        with progress(total=sum(map(len, indices)), desc='cameras', unit='img') as bar:

            def follow(group: Iterator[tuple[tuple[str, list[int]], tuple]]) -> Iterator[Tensor]:
                for _, (raw, _) in group:
                    yield images.to_input(raw, device)
                    bar.update(len(raw))

            for name, group in groupby(zip(batches, loader, strict=True), key=lambda pair: pair[0][0]):
                norms.observe(name, follow(group), len(chosen[name]))
    except InputError as e:
        # a worker's traceback would keep the loader alive until some later collection, which then takes seconds
        raise e.with_traceback(None) from None
    check_norms(norms)
    return norms


def share_out(indices: Sequence[int], batch_size: int) -> list[Sequence[int]]:
    """Batches of one size, as far as possible, each spread over all indices."""
    count = -(-len(indices) // batch_size)
    return [indices[start::count] for start in range(count)]


def check_norms(norms: CameraNorms) -> None:
    """Warns of cameras with fewer crops than are `ENOUGH`, and of a model without batch norms."""
    for name, count in norms.counts.items():
        if count < ENOUGH:
            _logger.warning(
                "camera '%s': only %d crop%s; its statistics stay close to the model's own, give %d or more",
                name, count, '' if count == 1 else 's', ENOUGH,
            )  # fmt: skip
    if norms and not norms.layout:
        _logger.warning(
            '%s has no batch norms: of each camera only the mean embedding is learnt, and taken from its embeddings',
            type(norms.model).__name__,
        )


def find_cameras(name: str | Path) -> Path | None:
    """The file of the cameras that a model knows, beside its weights; None where there is none.

    Args:
        name: of the model, as for `load_model`; one on the Hub is asked for the file.

    Raises:
        InputError: as `resolve_name`.
    """
    return _beside_weights(name, FILE_NAME)


def _beside_weights(name: str | Path, file: str) -> Path | None:
    """A file of a model's folder, local or on the Hub."""
    source, _, place = resolve_name(name).partition(':')
    if source == 'hf-hub':
        return download(place, file)
    path = Path(place) / file
    return path if source == 'local-dir' and path.is_file() else None


def save_cameras(norms: CameraNorms, folder: str | Path, source: str | Path | None = None) -> Path:
    """Writes a model, its cameras, an example and a card; into the folder of the same weights, what of it is missing.

    Args:
        norms: of a model that timm makes by its name.
        folder: new, empty, or of a model or run of the same weights.
        source: where the model is from, as for `load_model`; None where it has been made in Python.

    Returns:
        The model's folder: that of the run's best model where a run's is given.

    Raises:
        InputError: no camera is known, the folder holds something else, or the model is no timm model.
    """
    if not norms:
        raise InputError('no camera is known: adapt the model first')
    found = _known_folder(norms.model, folder)
    if found is None:
        if not getattr(norms.model, 'pretrained_cfg', None):
            raise InputError(f'{type(norms.model).__name__} is no model that timm makes: it has no model folder')
        found = Path(folder)
        with drafts(found, f'{found}: cannot write the model', last=CONFIG) as draft:
            save_folder(norms.model, draft)
            norms.save(draft)
    elif model_preprocessing(load_model(found)) != model_preprocessing(norms.model):
        raise InputError(f'{found}: prepares images otherwise, as for another size; choose a new or empty folder')
    else:
        norms.save(found)
    if not (found / EXAMPLE).is_file():
        write_example(load_folder(found), found / EXAMPLE)  # with the classifiers that it may have
    _write_card(found, norms, source)
    return found


def _known_folder(model: nn.Module, folder: str | Path) -> Path | None:
    """Where in a folder the same weights lie that a model has; None for a folder to be made or filled.

    Raises:
        InputError: the folder holds something else, or a threshold that would no longer hold.
    """
    folder = Path(folder)
    if holds_nothing(folder):
        return None
    if not any((place / CONFIG).is_file() for place in (folder, folder / 'best')):
        raise InputError(f'{folder}: exists already, and is no model folder; choose a new or empty one')
    folder = find_folder(folder)
    if hash_weights(load_model(folder)) != hash_weights(model):
        raise InputError(f'{folder}: holds another model or other weights; choose a new or empty folder')
    if (folder / CALIBRATION).is_file():
        raise InputError(
            f'{folder / CALIBRATION}: its threshold does not hold for embeddings of other cameras; '
            'choose another folder, or remove this file'
        )
    return folder


def adapt_folder(
    model: str | Path,
    records: Sequence[Record],
    output: str | Path,
    *,
    crops: int = 64,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    workers: int = 2,
    height: int | None = None,
    width: int | None = None,
) -> CameraNorms:
    """Adapts a model to cameras, and writes it with them, an example and a card: what `msinet-hub adapt` does.

    Args:
        model: as for `load_model`. Cameras that it knows already stay known, unless records are of them.
        records: see `adapt`.
        output: see `save_cameras`.
        crops: see `adapt`.
        batch_size: see `adapt`.
        device: see `adapt`.
        workers: see `adapt`.
        height: of the input in pixels, with which the model is written; None for its own.
        width: of the input in pixels.

    Returns:
        What is known of all cameras.

    Raises:
        InputError: as `load_model`, `adapt` and `save_cameras`; the output is checked before the work.
    """
    network = load_model(model, height=height, width=width)
    settled = _known_folder(network, output)
    if settled:  # what is there says how large images are, and which cameras are known
        network = load_model(settled)
    cameras = find_cameras(settled or model)
    if (height or width) and (settled or cameras):
        raise InputError('height and width are for a model without cameras that is written anew: leave them out')
    _, own_height, own_width = network.pretrained_cfg['input_size']
    size = (height or own_height, width or own_width)
    network.pretrained_cfg = {**network.pretrained_cfg, 'input_size': (3, *size)}
    norms = adapt(network, records, crops=crops, batch_size=batch_size, device=device, workers=workers)
    if cameras:
        known = CameraNorms.load(cameras.parent, norms.model)
        known.update(norms)
        norms = known
    save_cameras(norms, output, model)
    return norms


def _write_card(folder: Path, norms: CameraNorms, source: str | Path | None) -> None:
    """The card of where the weights come from, with a section on cameras."""
    name, entry = norms.model.pretrained_cfg['architecture'], None
    if source is not None:
        name, entry = str(source), find_entry(str(source))
        for file in (CARD, PREVIEW):
            if not (folder / file).is_file() and (found := _beside_weights(source, file)):
                replace_file(folder / file, lambda partial, found=found: shutil.copyfile(found, partial))
        if resolve_name(source).startswith('local-dir:'):
            name = Path(name).name  # where it lies is nobody else's business
    update_card(folder, entry)
    describe_cameras(folder, name, norms.counts, bool(norms.layout))
