"""From a model's name on the command line to a module and how to feed it."""

from pathlib import Path

from torch import nn

from msinet_eval.features.extract import reid_data_config
from msinet_timm.errors import InputError
from msinet_timm.export.module import is_exported
from msinet_timm.hub import load
from msinet_timm.hub.adapt import find_cameras
from msinet_timm.models.checkpoints import family, is_checkpoint, read_checkpoint

from .baselines import BASELINES

__all__ = ['find_model', 'find_norms', 'load_model']


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
    known, telltale = family(read_checkpoint(name))
    hint = f'; it looks like a {known}: it has {telltale}' if known else ''
    raise InputError(f'{name} is a checkpoint: say by --model which network it is of, like --model msinet_x1_0{hint}')


def load_model(
    name: str, checkpoint: str | Path | None = None, height: int | None = None, width: int | None = None
) -> tuple[nn.Module, dict]:
    """Creates a model that embeds, and its data config.

    Args:
        name: as for `msinet_timm.hub.load.load_model`, or a baseline (`color_histogram`, `color_histogram_stripes`).
        checkpoint: weights instead of the pretrained ones, .safetensors or PyTorch's. Classifiers in it are ignored.
        height: of the input in pixels, instead of the model's own.
        width: of the input in pixels, instead of the model's own.

    Returns:
        The model in evaluation mode on the CPU, and a config for `timm.data.create_transform`.

    Raises:
        InputError: unknown name, weights that are missing, unsafe or do not fit, or an input size that does not fit.
    """
    if any(side is not None and side < 1 for side in (height, width)):
        raise InputError(f'input size must be at least 1 x 1, got height {height}, width {width}')
    if name not in BASELINES:
        model = load.load_model(name, checkpoint, height=height, width=width, also=BASELINES)
    elif checkpoint:
        raise InputError(f"'{name}' has no weights to load from {checkpoint}")
    else:
        model = BASELINES[name]().eval()
    return model, reid_data_config(model, height, width)


def find_norms(name: str) -> Path | None:
    """The model folder of a name as for `load_model`, if it knows cameras: for `CameraNorms.load`; else None."""
    if name in BASELINES or is_checkpoint(name) or is_exported(name):
        return None
    found = find_cameras(name)
    return found and found.parent
