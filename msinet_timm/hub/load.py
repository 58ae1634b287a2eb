"""From a name, a folder or a checkpoint to a model."""

import difflib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import is_model_pretrained, resolve_model_input_args
from torch import nn

from msinet_timm.errors import InputError, one_line
from msinet_timm.files import pointer
from msinet_timm.models.camera_norm import CAMERA_NORM
from msinet_timm.models.checkpoints import check_loaded, fill

from .folder import CONFIG, WEIGHTS, check_config, find_folder, read_config

__all__ = ['SEARCH_ARCHITECTURE', 'load_folder', 'load_model', 'resolve_name', 'without_classifiers']

_logger = logging.getLogger(__name__)

#: What the configuration of a network of person search names, which no function of timm makes.
SEARCH_ARCHITECTURE = 'person_search'


def resolve_name(name: str | Path, also: Iterable[str] = ()) -> str:
    """The name as `timm.create_model` takes it.

    Args:
        name: as for `load_model`.
        also: names that the caller knows besides, for the hint.

    Raises:
        InputError: no such model or folder; the message has names that are alike.
    """
    name = str(name)
    source, _, place = name.partition(':') if ':' in name else ('', '', name)
    if timm.is_model(name) or source not in ('', 'local-dir'):
        return name
    if source or Path(name).is_dir():
        return f'local-dir:{find_folder(place)}'
    close = difflib.get_close_matches(name.partition('.')[0], [*timm.list_models(), *also], n=3, cutoff=0.5)
    hint = f'did you mean {", ".join(close)}?' if close else 'timm.list_models() lists the names.'
    raise InputError(
        f"unknown model '{name}': it is neither a name that timm knows nor a folder; {hint} A model on the Hub is "
        f'hf-hub:{name if "/" in name else "OWNER/NAME"}'
    )


def load_model(
    name: str | Path,
    checkpoint: str | Path | None = None,
    *,
    pretrained: bool | None = None,
    num_classes: int | None = 0,
    height: int | None = None,
    width: int | None = None,
    also: Iterable[str] = (),
    **model_args: Any,
) -> nn.Module:
    """Creates a model with its weights.

    Args:
        name: a timm model, also `hf-hub:...`; a folder with `config.json` and weights, with or without `local-dir:`; or
            a run's folder, which stands for its `best` model.
        checkpoint: file of weights instead of the pretrained ones, see `msinet_timm.models.checkpoints.fill`.
        pretrained: whether to load the weights that belong to the name; None does so where there are any, and warns
            where there are none.
        num_classes: of the classifiers; None for the model's own, which a checkpoint then has, too.
        height: of the input in pixels, instead of the model's own.
        width: of the input in pixels, instead of the model's own.
        also: names that the caller knows besides, for the hint to an unknown one.
        **model_args: other arguments of the model, such as `genotype`.

    Returns:
        The model in evaluation mode on the CPU.

    Raises:
        InputError: unknown name, weights that are missing, unsafe or do not fit, or an input size that does not fit.
    """
    name = resolve_name(name, also)
    known = ':' in name or is_model_pretrained(name)
    size = None
    if name.startswith('local-dir:'):
        folder = Path(name.removeprefix('local-dir:'))
        _refuse_search(name, read_config(folder))
        if reason := pointer(folder / WEIGHTS):
            raise InputError(f'{folder / WEIGHTS}: {reason}')
    try:
        model_args = {'num_classes': num_classes, **model_args}
        arguments = resolve_model_input_args(name, **model_args)
        if ':' in name:
            check_config(name, arguments['pretrained_cfg'], arguments.get('pretrained_model_args'))
        if height or width:
            _, own_height, own_width = arguments['pretrained_cfg']['input_size']
            size = (3, height or own_height, width or own_width)
            # for networks that are built for one input size, this asks for another
            arguments = resolve_model_input_args(name, {'input_size': size}, **model_args)
        wanted = not checkpoint and (known if pretrained is None else pretrained)
        model = timm.create_model(pretrained=wanted, **arguments).eval()
        config = _read_along(model.pretrained_cfg, CONFIG) if ':' in name else None
        setattr(model, CAMERA_NORM, config is not None and read_config(config.parent).get(CAMERA_NORM, False))
        if wanted:
            check_loaded(model, _weights_of(model.pretrained_cfg))
        if size:
            with torch.inference_mode():
                # fails now, with a network's own words, if it does not take this size
                out = model(torch.zeros(1, *size))
            if isinstance(out, torch.Tensor) and not out.isfinite().all():
                raise ValueError('it gives NaN: give a larger one, or sound weights')
    except InputError:
        raise
    except Exception as e:  # downloads, files and networks fail in too many ways to list
        at = f' for input {size[1]} x {size[2]}' if size else ''
        offline = '; offline, give a checkpoint file of it' if isinstance(e, OSError) and ':' not in name else ''
        raise InputError(f"cannot create model '{name}'{at}: {one_line(e)}{offline}") from e
    if checkpoint:
        fill(model, checkpoint, classifiers=num_classes is None)
    elif pretrained is None and not known:
        _logger.warning(
            "'%s' has no pretrained weights and stays UNTRAINED: give a checkpoint file of it, or the folder of a "
            'trained model', name,
        )  # fmt: skip
    return model


def _refuse_search(name: str, config: Mapping[str, Any]) -> None:
    if config['architecture'] == SEARCH_ARCHITECTURE:
        raise InputError(
            f'{name}: this network finds people in whole frames: msinet_timm.person_search.PersonSearch takes it'
        )


def _weights_of(cfg: Mapping[str, Any]) -> Path | None:
    """The file that timm has read, if it is the usual one."""
    if cfg.get('source') == 'local-dir' or not cfg.get('file'):
        return _read_along(cfg, WEIGHTS)
    path = Path(cfg['file'])
    return path if path.is_file() else None


def _read_along(cfg: Mapping[str, Any], file: str) -> Path | None:
    """A file of the folder, or of the repository in the cache, that timm has read a model from."""
    if cfg.get('source') == 'local-dir':
        path = Path(cfg['file'], file)
    else:
        repository, _, revision = (cfg.get('hf_hub_id') or '').partition('@')
        path = repository and try_to_load_from_cache(repository, file, revision=revision or None)
    return Path(path) if isinstance(path, str | Path) and path and Path(path).is_file() else None


def load_folder(folder: Path) -> nn.Module:
    """The model of a folder that could be published, with its classifiers.

    Raises:
        InputError: unknown architecture; weights that are missing, a pickle, broken, or of other names and shapes.
    """
    config = read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f'{folder}: {WEIGHTS} is missing; msinet-hub convert makes it of a PyTorch checkpoint')
    if not timm.is_model(config['architecture']):
        raise InputError(f'{folder / CONFIG}: architecture {config["architecture"]} is no model that timm knows')
    return load_model(f'local-dir:{folder}', num_classes=None)


def without_classifiers(model: nn.Module) -> nn.Module:
    """The same model, so that it embeds: timm's lose their classifiers, others stay as they are."""
    if getattr(model, 'num_classes', 0) and hasattr(model, 'reset_classifier'):
        model.reset_classifier(0)
    return model
