"""Folders in the Hub's layout: `config.json`, `model.safetensors`, and what shows that they still compute the same."""

import inspect
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf

from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.images import load_image
from msinet_timm.errors import InputError, explained
from msinet_timm.files import drafts, read_json, replace_file, replace_text
from msinet_timm.models.camera_norm import CAMERA_NORM
from msinet_timm.models.entries import PREPROCESSING, check_preprocessing
from msinet_timm.models.genotype import named_genotypes

__all__ = [
    'CONFIG', 'EXAMPLE', 'WEIGHTS', 'check_config', 'check_model', 'deviation', 'download',
    'embed_images', 'embedding_shift', 'find_folder', 'is_network', 'model_preprocessing', 'read_config', 'save_folder',
    'write_config', 'write_example',
]  # fmt: skip

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
EXAMPLE = 'example.safetensors'
_logger = logging.getLogger(__name__)

#: Arguments of `timm.create_model` itself, which opens files for them; a network has others.
_OF_TIMM = frozenset(inspect.signature(timm.create_model).parameters) - {'kwargs'}


def save_folder(model: nn.Module, folder: str | Path, data_config: dict[str, Any] | None = None) -> None:
    """Writes `config.json` and `model.safetensors`, for timm and for the timm wrapper of transformers.

    Args:
        model: timm's.
        folder: made where it is missing.
        data_config: preprocessing that the weights were trained for; None for the model's own.
    """
    with drafts(folder, f'{folder}: cannot write the model', last=CONFIG) as draft:
        save_for_hf(model, str(draft), safe_serialization=True, data_config=data_config)
        marks = {CAMERA_NORM: True} if getattr(model, CAMERA_NORM, False) else {}
        write_config(draft, read_config(draft) | marks)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes `config.json` without the number of classes among the model's arguments, which transformers gives too."""
    arguments = {k: v for k, v in config.get('model_args', {}).items() if k != 'num_classes'}
    replace_text(folder / CONFIG, json.dumps({**config, 'model_args': arguments}, indent=2) + '\n')


def read_config(folder: str | Path) -> dict[str, Any]:
    """The fields of `config.json`.

    Raises:
        InputError: missing, no JSON, without an architecture, or with a field that cannot be right.
    """
    path = Path(folder) / CONFIG
    try:
        config = read_json(path)
    except (OSError, ValueError) as e:
        raise InputError(f'{path}: cannot read the configuration of a model ({e})') from e
    if not isinstance(config, dict) or not isinstance(config.get('architecture'), str):
        raise InputError(f'{path}: names no architecture')
    check_config(path, config.get('pretrained_cfg', config), config.get('model_args'))
    check_config(path, {'num_classes': config.get('num_classes')})
    if not isinstance(config.get(CAMERA_NORM, False), bool):
        raise InputError(f'{path}: {CAMERA_NORM}: expected true or false, got {str(config[CAMERA_NORM])[:80]!r}')
    return config


def check_config(place: str | Path, pretrained_cfg: Any, model_args: Any = None) -> None:
    """Checks what a model's configuration says that came with its weights, and so may be anybody's.

    Args:
        place: where it is, for messages.
        pretrained_cfg: in it, how images are prepared and which parts are classifiers.
        model_args: for the network; None where there are none.

    Raises:
        InputError: a value of another type or out of range, or an argument that names a file on this machine.
    """
    try:
        check_preprocessing(pretrained_cfg)
    except InputError as e:
        raise InputError(f'{place}: pretrained_cfg: {e}') from e
    if model_args is not None and not isinstance(model_args, dict):
        raise InputError(f'{place}: model_args: expected named values, got a {type(model_args).__name__}')
    for name, value in (model_args or {}).items():
        if name in _OF_TIMM or name.startswith('pretrained') or _names_file(name, value):
            raise InputError(
                f'{place}: model_args.{name}: {str(value)[:80]!r} may name a file of this machine, which no '
                'configuration that comes with weights has to open: remove it, and give the file yourself'
            )


def _names_file(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return value not in named_genotypes() if name == 'genotype' else '/' in value or '\\' in value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_names_file('', item) for item in inner)


def find_folder(name: str | Path) -> Path:
    """A model folder, with or without `local-dir:`; a run's folder stands for its `best` model.

    Raises:
        InputError: it holds no model.
    """
    path = Path(str(name).removeprefix('local-dir:'))
    for folder in (path, path / 'best'):
        if (folder / CONFIG).is_file():
            return folder
    raise InputError(f'{path}: neither a model folder (no {CONFIG}) nor a run (no best/{CONFIG})')


def download(hub_id: str, name: str) -> Path | None:
    """A file that a repository may have, in the cache of `huggingface_hub`; None where it has none.

    Where the Hub cannot be reached, what it said earlier holds; a file that it was never asked for is left out with a
    warning.

    Args:
        hub_id: `OWNER/NAME` or `OWNER/NAME@REVISION`.
        name: of the file.

    Raises:
        InputError: no such repository.
    """
    repository, _, revision = hub_id.partition('@')
    with explained(f'hf-hub:{hub_id}: cannot be downloaded'):
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except LocalEntryNotFoundError:
            if try_to_load_from_cache(repository, name, revision=revision or None) is None:
                _logger.warning(
                    'hf-hub:%s: the Hub does not answer: whether it has %s is not known, and none is used', hub_id, name
                )
            return None
        except EntryNotFoundError:
            return None


def model_preprocessing(model: nn.Module) -> dict[str, Any]:
    """How images are prepared for a model, as an entry records it."""
    config = resolve_data_config(model=model)
    return {k: list(config[k]) if isinstance(config[k], tuple) else config[k] for k in PREPROCESSING}


def is_network(model: nn.Module, architecture: str) -> bool:
    """Whether a model is the network that timm makes by a name, so that this name can load its weights."""
    own = timm.create_model(architecture, num_classes=model.num_classes)
    shapes = [{name: tensor.shape for name, tensor in m.state_dict().items()} for m in (own, model)]
    return shapes[0] == shapes[1] and own.genotype == getattr(model, 'genotype', None)


def check_model(model: nn.Module, place: Path) -> None:
    """Refuses weights that cannot be right.

    Raises:
        InputError: a value is not finite, or an image's output isn't.
    """
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise InputError(f'{place}: {name} holds values that are not finite')
    if not torch.isfinite(_run(model, [Image.new('RGB', (64, 128), 'gray')])).all():
        raise InputError(f'{place}: the output for a grey image is not finite')


@torch.inference_mode()
def _run(model: nn.Module, images: Sequence[Image.Image]) -> torch.Tensor:
    """Outputs of RGB images."""
    return model(_batch(model, images))


@torch.inference_mode()
def embed_images(model: nn.Module, images: Sequence[Image.Image]) -> torch.Tensor:
    """Embeddings [N, D] of length 1 of N RGB images, also of a classifier."""
    features = model.forward_features(_batch(model, images))
    return nn.functional.normalize(model.forward_head(features, pre_logits=True))


def _batch(model: nn.Module, images: Sequence[Image.Image]) -> torch.Tensor:
    transform = create_transform(**resolve_data_config(model=model))
    return torch.stack([transform(image) for image in images])


def write_example(model: nn.Module, path: Path) -> None:
    """Stores an image and the model's output for it: `input`, RGB bytes [H, W, 3], and `output` [1, features]."""
    image = load_image(create_dataset('sample').query[0].path)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
    tensors = {'input': pixels, 'output': _run(model, [image])}
    replace_file(path, lambda partial: save_file(tensors, partial))


def deviation(model: nn.Module, path: Path) -> float:
    """How far the output for a stored image is from the stored one: largest difference, over the largest output.

    The image goes through the model's preprocessing, so that a change of it shows as well.

    Raises:
        InputError: no such file as `write_example` makes.
    """
    with explained(f'{path}: cannot read the stored example'):
        stored = load_file(path)
        pixels, expected = stored['input'], stored['output']
        if pixels.dtype != torch.uint8 or pixels.shape[2:] != (3,) or not expected.is_floating_point():
            raise ValueError('expected an input [H, W, 3] of bytes, and an output of fractions')
        image = Image.fromarray(pixels.numpy())
    found = _run(model, [image])
    if found.shape != expected.shape:
        return float('inf')
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def embedding_shift(model: nn.Module, other: nn.Module) -> float:
    """The largest distance between two models' embeddings, of length 1, of the same images of the sample."""
    images = [load_image(r.path) for r in create_dataset('sample').query[::7]]
    return (embed_images(model, images) - embed_images(other, images)).norm(dim=1).max().item()
