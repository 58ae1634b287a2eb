"""Programs that read a model from a file of their own making: what they feed it, and what must lie beside it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
import yaml
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from msinet_timm.errors import InputError, explained
from msinet_timm.files import drafts

__all__ = ['HOSTS', 'ROBOFLOW', 'Host', 'check_host', 'checked_folder', 'write_roboflow']

#: The one that is given a folder of weights instead of an exported file.
ROBOFLOW = 'roboflow'
#: What a box is taken to measure where a program enlarges it by a number of pixels.
_BOX_HEIGHT = 160
_FOLDER_FILES = ('reid_config.json', 'weights.safetensors')


@dataclass(frozen=True)
class Host:
    """What a program expects of an exported file. It cuts boxes out and resizes them to the model's size.

    Attributes:
        format: one of `msinet_timm.export.FORMATS`.
        mean: what it takes from RGB values of 0 to 1, and
        std: divides them by, before it feeds them to the file.
        grow: what it makes of a box's height or width in pixels before it cuts the box out, about its centre; None for
            a program that leaves boxes as they are.
        batch: how many images it feeds at once; None for any number.
        suffix: ending of the file.
        beside: ending of a file beside it, and what makes its text of the file's name, timm's data config and the
            length of an embedding.
    """

    format: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grow: Callable[[float], float] | None = None
    batch: int | None = None
    suffix: str = '.onnx'
    beside: tuple[str, Callable[[str, Mapping[str, Any], int], str]] | None = None

    def fed(self, data_config: Mapping[str, Any]) -> dict[str, Any]:
        """How images are prepared for the file, as timm's data config."""
        return {**data_config, 'mean': self.mean, 'std': self.std}

    def margins(self, data_config: Mapping[str, Any]) -> tuple[int, int]:
        """Rows at the top, and as many at the bottom, and columns at the left and the right, that are not of the box.

        The file cannot know how large a box was: they are those of one that is 160 pixels high.
        """
        height, width = data_config['input_size'][1:]
        if self.grow is None:
            return 0, 0
        scale = _BOX_HEIGHT / height
        return tuple(round(side * (1 - scale * side / self.grow(scale * side)) / 2) for side in (height, width))


def _boxmot(name: str, data_config: Mapping[str, Any], length: int) -> str:
    """Without it, the size of crops would be guessed of the file's name."""
    settings = {'img_size': list(data_config['input_size'][1:])}
    return json.dumps({'schema_version': 1, 'preprocess': 'resize', 'model_kwargs': settings}, indent=2) + '\n'


def _deepstream(name: str, data_config: Mapping[str, Any], length: int) -> str:
    """The section of a tracker's configuration: one scale for all channels is all that it knows, so none is used."""
    section = {
        'reidType': 2,
        'batchSize': 100,
        'workspaceSize': 1000,
        'reidFeatureSize': length,
        'reidHistorySize': 100,
        'inferDims': list(data_config['input_size']),
        'networkMode': 0,
        'inputOrder': 0,
        'colorFormat': 0,
        'offsets': [0.0, 0.0, 0.0],
        'netScaleFactor': 1.0,
        'keepAspc': 0,
        'addFeatureNormalization': 1,
        'onnxFile': name,
    }
    return yaml.safe_dump({'ReID': section}, sort_keys=False, default_flow_style=None)


_NONE, _BYTES = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
#: By name. ultralytics and opencv know no mean and deviation by channel; opencv before 5 reads no batch of any size.
HOSTS: dict[str, Host] = {
    'boxmot': Host(
        'torchscript',
        IMAGENET_DEFAULT_MEAN,
        IMAGENET_DEFAULT_STD,
        suffix='.torchscript',
        beside=('.torchscript.metadata.json', _boxmot),
    ),
    'ultralytics': Host('onnx', *_NONE, grow=lambda side: 1.02 * side + 10),
    'opencv': Host('onnx', *_BYTES, batch=1),
    'deepstream-onnx': Host('onnx', *_BYTES, beside=('.yml', _deepstream)),
}


def check_host(host: str, format: str | None, preprocessing: bool, precision: str, dynamic_size: bool) -> None:
    """Raises an InputError where a file for a program cannot be as it is asked for."""
    if host not in (*HOSTS, ROBOFLOW):
        raise InputError(f"unknown program '{host}', choose from: {', '.join((*HOSTS, ROBOFLOW))}")
    if host != ROBOFLOW and format != HOSTS[host].format:
        raise InputError(f'{host} reads {HOSTS[host].format}, not {format}')
    if precision != 'float32':
        raise InputError(f'{host} feeds float32 and reads no {precision} file: leave out --precision')
    if preprocessing:
        raise InputError(f'{host} resizes and scales images itself: leave out --preprocessing')
    if dynamic_size:
        raise InputError(f'{host} takes the size of images from the file: leave out --dynamic-size')


def checked_folder(folder: str | Path, force: bool) -> Path:
    """Where a folder for `write_roboflow` may be written: new, empty, or beside other files such as a model's.

    Raises:
        InputError: a file, or a folder that has such files already, unless by `force`.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f'{folder} is a file: {ROBOFLOW} reads a folder')
    for existing in (folder / name for name in _FOLDER_FILES):
        if existing.exists() and not force:
            raise InputError(f'{existing} exists: give another folder, or --force to replace it')
    return folder


def write_roboflow(
    model: nn.Module, folder: str | Path, *, data_config: Mapping[str, Any], force: bool = False
) -> Path:
    """Writes the folder that `ReIDModel.from_pretrained` of Roboflow's `reid` reads, after `import msinet_timm`.

    Args:
        model: in evaluation mode, without classifiers, as timm makes it by its name.
        folder: new, or another; files in it stay, such as those of a model's own folder.
        data_config: timm's.
        force: replace such files that are there.

    Returns:
        The folder.

    Raises:
        InputError: a network that timm does not make by name, such as one with another genotype, an interpolation that
            `reid` does not know, or a folder that cannot be written.
    """
    folder = checked_folder(folder, force)
    if data_config['interpolation'] not in ('bilinear', 'bicubic', 'nearest'):
        raise InputError(f'{ROBOFLOW} resizes bilinear, bicubic or nearest, not {data_config["interpolation"]}')
    name = (getattr(model, 'pretrained_cfg', None) or {}).get('architecture')
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with explained(f'{folder}: {ROBOFLOW} makes networks by their names, and timm makes another of {name}'):
        twin = timm.create_model(str(name), num_classes=0).eval()
        twin.load_state_dict(weights)
        images = torch.rand(2, *data_config['input_size'], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(twin(images), model.cpu()(images))
    config = {
        'architecture': f'timm:{name}',
        'preprocessing': {
            'input_size': list(data_config['input_size'][1:]),
            'mean': list(data_config['mean']),
            'std': list(data_config['std']),
            'interpolation': data_config['interpolation'],
            'to_rgb': True,
            'resize_mode': 'stretch',
        },
    }
    settings, values = _FOLDER_FILES
    with drafts(folder, f'{folder}: cannot write there', last=settings) as place:
        save_file(weights, place / values)
        (place / settings).write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    return folder
