"""A model and images by camera, of whoever -> what the model knows of the cameras."""

import copy
import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader

from msinet_timm.commands import progress
from msinet_timm.datasets.images import ReIDImages
from msinet_timm.datasets.records import Record, sort_names
from msinet_timm.datasets.shards.stream import StreamedBatches, StreamedImages, in_shards
from msinet_timm.errors import InputError
from msinet_timm.models.camera_norm import ENOUGH, CameraNorms

__all__ = ['adapt', 'choose_crops', 'warn_of_few']

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
    return {
        name: [own[i * len(own) // min(crops, len(own))] for i in range(min(crops, len(own)))]
        for name, own in ((name, by_camera[name]) for name in sort_names(by_camera))
    }


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
    network = copy.deepcopy(model)
    if getattr(network, 'num_classes', 0) and hasattr(network, 'reset_classifier'):
        network.reset_classifier(0)
    network.eval().to(device)
    norms = CameraNorms(network)
    device = next((t.device for t in (*network.parameters(), *network.buffers())), torch.device('cpu'))
    batches = [(name, batch) for name, own in chosen.items() for batch in _share_out(own, batch_size)]
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
                norms.observe(name, follow(group))
    except InputError as e:
        # a worker's traceback would keep the loader alive until some later collection, which then takes seconds
        raise e.with_traceback(None) from None
    warn_of_few(norms.counts)
    return norms


def _share_out(indices: list[int], batch_size: int) -> list[list[int]]:
    """Batches of one size, as far as possible, each spread over all indices."""
    count = -(-len(indices) // batch_size)
    return [indices[start::count] for start in range(count)]


def warn_of_few(counts: dict[str, int]) -> None:
    """Warns of cameras with fewer crops than are `ENOUGH`."""
    for name, count in counts.items():
        if count < ENOUGH:
            _logger.warning(
                "camera '%s': only %d crop%s; its statistics stay close to the model's own, give %d or more",
                name, count, '' if count == 1 else 's', ENOUGH,
            )  # fmt: skip
