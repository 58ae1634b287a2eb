"""Embedding by camera norms: batches of one camera each, and a network that goes with them."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from msinet_timm.datasets import Record
from msinet_timm.datasets.shards.stream import in_shards
from msinet_timm.errors import InputError
from msinet_timm.models.camera_norm import CameraNorms, switched_form

from .forward import embed

__all__ = ['CameraNetwork', 'batches_by_camera', 'check_norms']

# images of a stream of shards that are sorted by camera at once: what is read before its batch comes is kept
_WINDOW = 4096


def batches_by_camera(records: Sequence[Record], batch_size: int, norms: CameraNorms) -> tuple[list[int], list[range]]:
    """An order of images in which cameras are apart, and batches of one camera each.

    Args:
        records: images. Cameras that are not known count as one.
        batch_size: images at once, at most. The order does not depend on it.
        norms: tell which cameras are known.

    Returns:
        Indices of all records, and ranges of places among these.
    """
    window = _WINDOW if in_shards(records) else len(records)
    groups = [
        (index // window, record.camera in norms, record.camera if record.camera in norms else '')
        for index, record in enumerate(records)
    ]
    order = sorted(range(len(records)), key=groups.__getitem__)
    batches, start = [], 0
    for _, group in groupby(order, key=groups.__getitem__):
        stop = start + len(list(group))
        batches += [range(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]
        start = stop
    return order, batches


class CameraNetwork:
    """The network of camera norms, as fast as `inference_form`, for one camera after another.

    Args:
        norms: of at least one camera. Their model, in evaluation mode, stays as it is.
    """

    def __init__(self, norms: CameraNorms) -> None:
        self._norms = norms
        self._network, self._switch = switched_form(norms)
        self._network.to(memory_format=torch.channels_last)
        self._used, self._offset = (), None

    def embed(self, camera: str | None, images: Tensor, part: str = 'all', **options) -> Tensor:
        """Embeddings of a camera's images less its mean: [B, 3, H, W] -> [B, D] float32, not normalised.

        Args:
            camera: one that is not known gives the model's own statistics.
            images: normalised, on the model's device.
            part: see `msinet_eval.features.embed`.
            options: of `msinet_eval.features.embed`, except `neck`.
        """
        if (camera,) != self._used:
            statistics = self._norms.statistics(camera)
            self._switch(statistics)
            self._used, self._offset = (camera,), statistics.embedding.to(images.device)
        found = embed(self._network, images, part=part, **options).float()
        size = found.shape[1]
        return found - (self._offset[:size] if part == 'global' else self._offset[-size:])


def check_norms(norms: CameraNorms, model: nn.Module, neck: bool) -> None:
    """Refuses norms that a model cannot be embedded by.

    Raises:
        InputError: no cameras, norms of another model or other weights, or features behind the necks.
    """
    if not norms:
        raise InputError('norms: no camera has been seen: adapt the model to some')
    if neck:
        raise InputError(
            '`neck`: the mean that is taken from the embeddings of a camera is of those before the necks: leave out '
            '`neck`, or the norms of cameras (--no-camera-norms)'
        )
    own, given = norms.model.state_dict(), model.state_dict()
    if not all(name in given and torch.equal(given[name].cpu(), tensor.cpu()) for name, tensor in own.items()):
        raise InputError(
            f'norms: they are of another model or other weights than the {type(model).__name__} given: adapt that one'
        )
