"""Models in the formats of other runtimes, checked against PyTorch before a file is kept."""

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from msinet_timm.errors import InputError, explained
from msinet_timm.files import drafts, refusing
from msinet_timm.forms import PRECISIONS
from msinet_timm.models.camera_norm import CameraNorms

from .files import SUFFIXES, checked_path, describe, quiet
from .formats import WRITERS, Exported, load_exported
from .graph import create_graph, create_reference, find_images, graph_inputs
from .hosts import HOSTS, ROBOFLOW, check_host

__all__ = ['FORMATS', 'check_request', 'export', 'largest_difference', 'mean_cosine']

_logger = logging.getLogger(__name__)

FORMATS = tuple(SUFFIXES)
#: Formats that cannot be told to compute in bf16.
_FLOAT32_ONLY = ('onnx', 'executorch')
#: Formats whose runtimes have no antialiased resize.
_NO_RESIZE = ('executorch',)
#: Formats in which a file of several cameras is not written.
_ONE_CAMERA = ('executorch',)
#: Most that a float32 file may differ from PyTorch by, as a share of the largest value.
_TOLERANCE = 1e-4
#: A model may multiply rounding errors. Then a file may differ by this many times what PyTorch's float32 differs from
#: float64, up to a limit.
_TIMES_ROUNDING, _MOST_TOLERANCE = 4, 1e-2
#: Least mean cosine of a bf16 file's embeddings to PyTorch's in float32.
_LEAST_COSINE_BF16 = 0.99
_IMAGES = 8

# images, and perhaps the indices of their cameras
_Inputs = tuple[torch.Tensor, ...]


def export(
    model: nn.Module,
    format: str,
    path: str | Path,
    *,
    data_config: Mapping[str, Any],
    preprocessing: bool = False,
    precision: str = 'float32',
    dynamic_size: bool = False,
    images: str | Path | None = None,
    facts: Mapping[str, Any] | None = None,
    force: bool = False,
    norms: CameraNorms | None = None,
    camera: str | None = None,
    host: str | None = None,
) -> Path:
    """Writes a model's inference form for another runtime. It takes any number of images at once, ExecuTorch 64.

    The file is compared with PyTorch on images, in several batch sizes (and input sizes, where it takes any), and
    kept only if its embeddings are the model's. Inside are its architecture, genotype, preprocessing, the kind of input
    that it takes, and the package's version, for `msinet_timm.export.load_exported` and other readers.

    Args:
        model: embeds images [B, 3, H, W] as [B, D]; in evaluation mode. It stays as it is.
        format: one of `FORMATS`.
        path: with the format's ending; OpenVINO writes a `.bin` beside it, ExecuTorch its metadata as `.pte.json`.
        data_config: timm's, as `timm.data.resolve_data_config(model=model)` gives it.
        preprocessing: let the file take RGB images [B, 3, H, W] of 0 to 255, uint8, and resize (antialiased) and
            normalise them by itself. ExecuTorch cannot resize: images must have the model's size there.
        precision: `'bf16'` stores weights so, or for OpenVINO the wish to compute so. Not for ONNX and ExecuTorch.
        dynamic_size: let the file take images of any height and width. TorchScript always does, ExecuTorch cannot.
        images: folder of images to compare on; None for the sample's.
        facts: what else to put inside, such as the SHA-256 of the weights.
        force: replace files that are there.
        norms: of the cameras that the model has been adapted to. The file has a second input then, `cameras` [B] int64:
            for each image the index of its camera, in the order of `norms`; whatever else stands for an unknown one.
            Their names are in the metadata.
        camera: one of `norms`: the file embeds images as this camera's, and has no second input.
        host: one of `msinet_timm.export.hosts.HOSTS`, a program that reads the file: with the ending that it looks for,
            for images as it feeds them, and with what must lie beside it.

    Returns:
        The path.

    Raises:
        InputError: what is asked for is not possible, norms are of another model, a camera is not known, something is
            not installed, or the embeddings are not the model's. In float32 they may differ by 1e-4 of the largest
            value. Where the model multiplies rounding errors, they may differ by four times what its own embeddings
            differ from those in float64, but never by more than 1e-2. In bf16 the mean cosine must be 0.99 or more.
    """
    check_request(format, preprocessing, precision, dynamic_size)
    if host is not None:
        if host == ROBOFLOW:
            raise InputError(f'{host} reads a folder of weights, see msinet_timm.export.hosts.write_roboflow')
        check_host(host, format, preprocessing, precision, dynamic_size)
        if norms is not None and camera is None:
            raise InputError(f'{host} feeds images alone: write a file for each camera (`camera`)')
    check_cameras(model, norms, camera, format)
    program = None if host is None else HOSTS[host]
    path = checked_path(path, format, force, program)
    fed = None if program is None else program.fed(data_config)
    one_by_one = program is not None and program.batch == 1
    resize = preprocessing and format not in _NO_RESIZE
    any_size = dynamic_size or resize or format == 'torchscript'
    own_size = tuple(data_config['input_size'][1:])
    shown = find_images(images, _IMAGES)
    inputs = graph_inputs(shown, fed or data_config, preprocessing=preprocessing, resize=resize)
    bf16 = precision == 'bf16' and format != 'openvino'
    options = {'preprocessing': preprocessing, 'resize': resize, 'norms': norms, 'camera': camera, 'host': program}
    graph = create_graph(model, data_config, bf16=bf16, **options)
    # the model as it is decides what is right
    right = create_reference(model, data_config, **options)
    known = {} if norms is None else {'camera': camera} if camera is not None else {'cameras': list(norms)}
    if host is not None:
        known['host'] = host
        if any(margins := program.margins(data_config)):
            known['margins'] = margins
    metadata = describe(
        model,
        fed or data_config,
        preprocessing=preprocessing,
        sizes=('height', 'width') if any_size else own_size,
        format=format,
        precision=precision,
        **known,
        **(facts or {}),
    )
    batches = [(batch,) for batch in (list(inputs) if one_by_one else _batches(list(inputs), any_size=any_size))]
    example = {'images': _example(data_config, preprocessing)}
    axes = {'images': {0: 'batch', 2: 'height', 3: 'width'} if any_size else {0: 'batch'}}
    if one_by_one:
        metadata['input']['shape'][0] = 1
        example, axes = {'images': example['images'][:1]}, {'images': {}}
    if 'cameras' in known:
        batches = list(_with_cameras(batches, len(norms)))
        example['cameras'], axes['cameras'] = torch.tensor([0, len(norms)]), {0: 'batch'}
    folder, words = path.absolute().parent, f'{path}: cannot write this file'
    with drafts(folder, words, last=path.name) as place:
        draft = place / path.name
        # exporters raise their own types
        failed = f'{path}: {metadata["architecture"]} cannot be exported as {format}'
        with explained(failed), quiet(), torch.no_grad(), refusing(words, folder):
            WRITERS[format](graph, example, draft, axes, json.dumps(metadata))
        written = load_exported(draft)
        _compare(right, written, batches, precision, path)
        if program is not None and program.beside:
            suffix, text = program.beside
            told = text(path.name, data_config, written(batches[0][0]).shape[1])
            draft.with_suffix(suffix).write_text(told, encoding='utf-8')
    return path


def check_cameras(model: nn.Module, norms: CameraNorms | None, camera: str | None, format: str) -> None:
    """Raises an InputError where there is nothing known of the cameras that `export` is asked for."""
    if norms is None:
        if camera is not None:
            raise InputError(f"camera '{camera}': nothing is known of cameras without `norms`")
        return
    if norms.model is not model:
        raise InputError('norms are of another model than the one to be exported: give norms.model')
    if camera is None and format in _ONE_CAMERA:
        raise InputError(f'{format} takes no file of several cameras: write one for each (`camera`)')
    if not norms:
        raise InputError('no camera has been seen: give crops of each')
    if camera is not None and camera not in norms:
        raise InputError(f"camera '{camera}' is not known, choose from: {', '.join(norms)}")


def check_request(format: str, preprocessing: bool, precision: str, dynamic_size: bool) -> None:
    """Raises an InputError where `export` cannot do what these arguments ask for."""
    if format not in FORMATS:
        raise InputError(f"unknown format '{format}', choose from: {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision '{precision}', choose from: {', '.join(PRECISIONS)}")
    if precision == 'bf16' and format in _FLOAT32_ONLY:
        raise InputError(f'the CPU runtime of {format} has no bf16: export to openvino, torch-export or torchscript')
    if dynamic_size and format == 'executorch':
        raise InputError('executorch plans its memory for one size of images: leave out --dynamic-size')
    if preprocessing and dynamic_size:
        raise InputError('--preprocessing resizes images to the size of the model: leave out --dynamic-size')


def _example(data_config: Mapping[str, Any], preprocessing: bool) -> torch.Tensor:
    """Images to trace with: two, as torch.export takes a size of 1 for a constant."""
    example = torch.rand(2, *data_config['input_size'], generator=torch.Generator().manual_seed(0))
    return (255 * example).byte() if preprocessing else example


def _batches(inputs: Sequence[torch.Tensor], *, any_size: bool) -> list[torch.Tensor]:
    """Images in batches of different sizes, which also differ in height and width if they may."""
    if len({tuple(one.shape) for one in inputs}) > 1:
        # images of their own sizes go with their mirror images
        return [inputs[0], *(torch.cat([one, one.flip(-1), one.flip(-2)]) for one in inputs[1:])]
    batches = [inputs[0], torch.cat(list(inputs))]
    return [*batches, F.pad(batches[1], (0, 11, 0, 22))] if any_size else batches


def _with_cameras(batches: Sequence[_Inputs], known: int) -> Iterator[_Inputs]:
    """Adds cameras to batches: unknown ones first, then the last that is known, and so on."""
    start = 0
    for (images,) in batches:
        yield images, (known - torch.arange(start, start + len(images))) % (known + 1)
        start += len(images)


def _compare(right: nn.Module, exported: Exported, batches: Sequence[_Inputs], precision: str, path: Path) -> None:
    expected = _embed(right, batches)
    found = torch.cat([exported(*inputs) for inputs in batches])
    difference, cosine = largest_difference(found, expected), mean_cosine(found, expected)
    _logger.info(
        '%s: embeddings of %d images differ from PyTorch by at most %.1e of the largest value (mean cosine %.6f)',
        path.name, len(found), difference, cosine,
    )  # fmt: skip
    if precision == 'float32':
        tolerance = _TOLERANCE
        if difference > tolerance:
            exact = _embed(
                copy.deepcopy(right).cpu().double(), [(images.double(), *cameras) for images, *cameras in batches]
            )
            rounding = largest_difference(expected, exact)
            tolerance = max(tolerance, min(_TIMES_ROUNDING * rounding, _MOST_TOLERANCE))
        wrong, limit = not difference <= tolerance, f'{tolerance:.1g}'
    else:
        wrong, limit = not cosine >= _LEAST_COSINE_BF16, f'a cosine of {_LEAST_COSINE_BF16:g}'
    if wrong:
        raise InputError(
            f'{path} is not kept: its embeddings differ from PyTorch by {difference:.1e} of the largest value '
            f'(mean cosine {cosine:.6f}), and up to {limit} is right'
        )


@torch.inference_mode()
def _embed(model: nn.Module, batches: Sequence[_Inputs]) -> torch.Tensor:
    device = next(model.parameters(), torch.empty(0)).device
    return torch.cat([model(*(one.to(device) for one in inputs)).cpu() for inputs in batches])


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two tensors of one shape, as a share of the largest expected value; inf for NaN."""
    difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
    return difference if difference == difference else float('inf')


def mean_cosine(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The mean cosine of embeddings [N, D] to others of the same images."""
    return F.cosine_similarity(found.double(), expected.double()).mean().item()
