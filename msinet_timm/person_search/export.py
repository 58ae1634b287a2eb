"""Networks of person search as ONNX files, checked against PyTorch before a file is kept."""

import json
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.images import load_image
from msinet_timm.errors import InputError, explained, needs
from msinet_timm.export.export import largest_difference
from msinet_timm.export.files import METADATA, checked_path, quiet
from msinet_timm.export.graph import find_images
from msinet_timm.files import drafts, refusing
from msinet_timm.hub.load import SEARCH_ARCHITECTURE

from .network import SearchNetwork

__all__ = ['OUTPUTS', 'export_search']

_logger = logging.getLogger(__name__)

#: What a file gives for a frame: [N, 4] left, top, right and bottom in its pixels, [N], and [N, D] of length 1.
OUTPUTS = ('boxes', 'scores', 'embeddings')
#: Most that an output may differ from PyTorch by, as a share of its largest value.
_TOLERANCE = 1e-3
_FRAMES = 4
_OPSET = 17
#: Sizes of frames that are compared, height and width.
_SIZES = ((360, 640), (240, 200), (96, 300), (480, 360))


class _Graph(nn.Module):
    """A frame of bytes [3, H, W] to boxes, scores and embeddings."""

    def __init__(self, network: SearchNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (found,) = self.network([frame.float() / 255])
        return tuple(found[name] for name in OUTPUTS)


def export_search(
    network: SearchNetwork, path: str | Path, *, images: str | Path | None = None, force: bool = False
) -> Path:
    """Writes a network as ONNX, which takes RGB frames [3, H, W] uint8 of any height and width, one at a time.

    Resizing, normalising and the suppression of doubles are inside. The file gives `boxes`, `scores` and `embeddings`
    of everybody whose score is 0.05 or more; it is compared with PyTorch on frames of several sizes and kept only if
    they are the network's.

    Args:
        network: to be written; it stays as it is.
        path: ends in `.onnx`.
        images: folder of frames to compare on; None for noise, and the sample's people before it.
        force: replace a file that is there.

    Returns:
        The path.

    Raises:
        InputError: the path cannot be written to, or what the file gives is not the network's.
        MissingPackageError: onnx or onnxruntime is not there.
    """
    path = checked_path(path, 'onnx', force)
    with needs('onnx'):
        import onnx
        import onnxruntime
    graph = _Graph(network).eval()
    frames = _frames(images)
    folder, words = path.absolute().parent, f'{path}: cannot write this file'
    axes = {name: {0: 'people'} for name in OUTPUTS} | {'frame': {1: 'height', 2: 'width'}}
    device = next(network.parameters()).device
    network.cpu()
    try:
        with drafts(folder, words, last=path.name) as place:
            draft = place / path.name
            with explained(f'{path}: cannot be exported as onnx'), quiet(), torch.no_grad(), refusing(words, folder):
                # torchvision's detectors are made to be traced so
                torch.onnx.export(
                    graph, (frames[0],), str(draft), dynamo=False, opset_version=_OPSET, input_names=['frame'],
                    output_names=list(OUTPUTS), dynamic_axes=axes,
                )  # fmt: skip
                model = onnx.load(str(draft))
                entry = model.metadata_props.add()
                entry.key, entry.value = METADATA, json.dumps(_metadata(network))
                onnx.save(model, str(draft))
            session = onnxruntime.InferenceSession(str(draft), providers=['CPUExecutionProvider'])
            _compare(graph, session, frames, path)
    finally:
        network.to(device)
    return path


def _metadata(network: SearchNetwork) -> dict:
    return {
        'architecture': SEARCH_ARCHITECTURE,
        **network.config,
        'input': {'dtype': 'uint8', 'shape': [3, 'height', 'width']},
        'outputs': list(OUTPUTS),
        'msinet_timm': version('msinet-timm'),
    }


def _frames(images: str | Path | None) -> list[torch.Tensor]:
    """What is compared on: bytes [3, H, W]."""
    if images is not None:
        shown = [np.array(load_image(path)) for path in find_images(images, _FRAMES)]
        return [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in shown]
    generator, frames = torch.Generator().manual_seed(0), []
    people = [np.array(load_image(record.path)) for record in create_dataset('sample').query[: len(_SIZES)]]
    for (height, width), crop in zip(_SIZES, people, strict=True):
        frame = torch.randint(60, 120, (3, height, width), generator=generator, dtype=torch.uint8)
        person = torch.from_numpy(crop).permute(2, 0, 1)[:, :height, :width]
        frame[:, : person.shape[1], 20 : 20 + person.shape[2]] = person
        frames.append(frame)
    return frames


def _compare(graph: nn.Module, session, frames: Sequence[torch.Tensor], path: Path) -> None:
    """Raises an InputError where a file gives something else than PyTorch does."""
    worst = dict.fromkeys(OUTPUTS, 0.0)
    for frame in frames:
        with torch.inference_mode():
            expected = graph(frame)
        found = [torch.from_numpy(values) for values in session.run(list(OUTPUTS), {'frame': frame.numpy()})]
        if len(found[0]) != len(expected[0]):
            raise InputError(
                f'{path} is not kept: it finds {len(found[0])} people where PyTorch finds {len(expected[0])}, in a '
                f'frame of {frame.shape[2]}x{frame.shape[1]} pixels'
            )
        for name, one, other in zip(OUTPUTS, found, expected, strict=True):
            if len(other):
                worst[name] = max(worst[name], largest_difference(one, other))
    told = ', '.join(f'{name} by {difference:.1e}' for name, difference in worst.items())
    _logger.info(
        '%s: on %d frames, differs from PyTorch, as shares of the largest value: %s', path.name, len(frames), told
    )
    if not max(worst.values()) <= _TOLERANCE:
        raise InputError(f'{path} is not kept: it differs from PyTorch: {told}; up to {_TOLERANCE:g} is right')
