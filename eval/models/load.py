"""From a model's name on the command line to a module and how to feed it."""

import difflib
import logging
from pathlib import Path

import timm
import torch
from timm.models import is_model_pretrained, resolve_model_input_args
from torch import nn

from msinet_eval.features.extract import reid_data_config
from msinet_timm.errors import InputError
from msinet_timm.hub.folder import locate_folder

from .baselines import BASELINES
from .checkpoints import fill, is_checkpoint, one_line, read_family

__all__ = ['find_model', 'load_model']

_logger = logging.getLogger(__name__)

_FILE_OF = 'a checkpoint file, and --model'


def find_model(name: str, architecture: str | None) -> dict:
    """Arguments `name` and `checkpoint` of `load_model` for what a command line says.

    Args:
        name: a model, or a checkpoint file.
        architecture: `--model`: the model that the checkpoint is of.

    Raises:
        InputError: a checkpoint without an architecture, or the other way round.
    """
    if not is_checkpoint(name):
        if architecture:
            raise InputError(f"--model {architecture} is the network of a checkpoint file, but '{name}' is none")
        return {'name': name}
    if architecture:
        return {'name': architecture, 'checkpoint': name}
    if not Path(name).is_file():
        raise InputError(f'{name}: no such checkpoint')
    known, telltale = read_family(name)
    hint = f'; it looks like a {known}: it has {telltale}' if known else ''
    raise InputError(f'{name} is a checkpoint: say by --model which network it is of, like --model msinet_x1_0{hint}')


def load_model(
    name: str, checkpoint: str | Path | None = None, height: int | None = None, width: int | None = None
) -> tuple[nn.Module, dict]:
    """Creates a model that embeds, and its data config.

    Args:
        name: a timm model, also `hf-hub:...` and `local-dir:...`; a folder with `config.json` and weights; a run's
            folder, which stands for its `best` model; or a baseline (`color_histogram`, `color_histogram_stripes`).
            A plain name gets its pretrained weights if timm knows any, else it stays untrained, with a warning.
        checkpoint: weights instead of the pretrained ones, .safetensors or PyTorch's. Classifiers in it are ignored.
        height: of the input in pixels, instead of the model's own. Likewise `width`.

    Returns:
        The model in evaluation mode on the CPU, and a config for `timm.data.create_transform`.

    Raises:
        InputError: unknown name, weights that are missing, unsafe or do not fit, or an input size that does not fit.
    """
    if any(side is not None and side < 1 for side in (height, width)):
        raise InputError(f'input size must be at least 1 x 1, got height {height}, width {width}')
    if name in BASELINES:
        if checkpoint:
            raise InputError(f"'{name}' has no weights to load from {checkpoint}")
        model = BASELINES[name]()
    else:
        model = _create(_resolve(name), checkpoint, height, width)
    return model.eval(), reid_data_config(model, height, width)


def _resolve(name: str) -> str:
    """The name as `timm.create_model` takes it."""
    if ':' in name:
        source, _, place = name.partition(':')
        if source == 'local-dir' and not (Path(place) / 'config.json').is_file():
            raise InputError(f'{place}: no model folder, config.json is missing')
        return name
    if timm.is_model(name):
        return name
    if folder := locate_folder(name):
        return f'local-dir:{folder}'
    if Path(name).is_dir():
        raise InputError(f'{name}: neither a model folder (no config.json) nor a run (no best/config.json)')
    known = [*timm.list_models(), *BASELINES]
    close = difflib.get_close_matches(name.partition('.')[0], known, n=3, cutoff=0.5)
    hint = f'did you mean {", ".join(close)}?' if close else 'timm.list_models() lists the names'
    if '/' in name:
        hint = f'a model on the Hub is hf-hub:{name}'
    raise InputError(f"unknown model '{name}': it is neither a name that timm knows nor a folder; {hint}")


def _create(name: str, checkpoint: str | Path | None, height: int | None, width: int | None) -> nn.Module:
    pretrained = not checkpoint and (':' in name or is_model_pretrained(name))
    size = None
    try:
        arguments = resolve_model_input_args(name, num_classes=0)
        if height or width:
            _, own_height, own_width = arguments['pretrained_cfg']['input_size']
            size = (3, height or own_height, width or own_width)
            # for networks that are built for one input size, this asks for another
            arguments = resolve_model_input_args(name, {'input_size': size}, num_classes=0)
        model = timm.create_model(pretrained=pretrained, **arguments)
        if size:
            _try_size(model, size)
    except InputError:
        raise
    except Exception as e:  # downloads, files and networks fail in too many ways to list
        at = f' for input {size[1]} x {size[2]}' if size else ''
        offline = f'; offline, give {_FILE_OF} {name}' if isinstance(e, OSError) and ':' not in name else ''
        raise InputError(f"cannot create model '{name}'{at}: {one_line(e)}{offline}") from e
    if checkpoint:
        fill(model, Path(checkpoint))
    elif not pretrained:
        _logger.warning("'%s' has no pretrained weights and stays UNTRAINED: give %s %s", name, _FILE_OF, name)
    return model


def _try_size(model: nn.Module, size: tuple[int, int, int]) -> None:
    """Fails now, with a network's own words, if it does not take the input size."""
    with torch.inference_mode():
        model.eval()(torch.zeros(1, *size))
