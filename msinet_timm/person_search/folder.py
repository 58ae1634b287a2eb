"""Folders of networks of person search: `config.json` and `model.safetensors`, as the Hub has them."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file

from msinet_timm.errors import InputError, explained, one_line
from msinet_timm.files import drafts, pointer, replace_text
from msinet_timm.hub.folder import CONFIG, WEIGHTS, download, find_folder, read_config
from msinet_timm.hub.load import SEARCH_ARCHITECTURE
from msinet_timm.models.entries import check_preprocessing
from msinet_timm.models.genotype import find_genotype

from .network import SearchNetwork, create_search_network

__all__ = ['is_search_folder', 'load_search', 'save_search']

#: What `SearchNetwork.config` consists of.
_FIELDS = {
    'backbone': str, 'genotype': list, 'input_size': list, 'min_size': int, 'max_size': int, 'frozen_norm': bool,
    'mean': list, 'std': list,
}  # fmt: skip
#: Pixels of a frame's side.
_LEAST_SIZE, _MOST_SIZE = 64, 10_000


def save_search(network: SearchNetwork, folder: str | Path, **facts: Any) -> None:
    """Writes a network.

    Args:
        network: as `create_search_network` or `load_search` gives it.
        folder: made where it is missing.
        facts: what else `config.json` tells, such as its metrics.

    Raises:
        InputError: nothing can be written there.
    """
    with drafts(folder, f'{folder}: cannot write the model', last=CONFIG) as draft:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, draft / WEIGHTS, metadata={'format': 'pt'})
        config = {'architecture': SEARCH_ARCHITECTURE, 'num_classes': 0, SEARCH_ARCHITECTURE: network.config, **facts}
        replace_text(draft / CONFIG, json.dumps(config, indent=2) + '\n')


def is_search_folder(name: str | Path) -> bool:
    """Whether a folder of a model or of a run, or `hf-hub:OWNER/NAME`, holds a network of person search."""
    try:
        return read_config(_find(name))['architecture'] == SEARCH_ARCHITECTURE
    except InputError:
        return False


def load_search(
    name: str | Path,
    *,
    min_size: int | None = None,
    max_size: int | None = None,
    trainable_stages: int | None = None,
) -> SearchNetwork:
    """Reads what `save_search` has written.

    Args:
        name: folder of a model, or of a run, which stands for its best one; or `hf-hub:OWNER/NAME`.
        min_size: that a frame's shorter side is resized to, in pixels, instead of the network's own.
        max_size: that its longer side must not exceed then, instead of the network's own.
        trainable_stages: see `create_search_network`.

    Returns:
        The network in evaluation mode on the CPU.

    Raises:
        InputError: no such folder, one of another kind of model, or weights that are missing, broken or do not fit.
    """
    folder = _find(name)
    config = read_config(folder)
    if config['architecture'] != SEARCH_ARCHITECTURE:
        raise InputError(
            f'{name}: holds {config["architecture"]}, which embeds images of one person: Embedder takes it; a network '
            'that finds people, too, is what msinet-train --task search trains'
        )
    told = _checked(folder / CONFIG, config.get(SEARCH_ARCHITECTURE))
    sizes = {'min_size': min_size or told['min_size'], 'max_size': max_size or told['max_size']}
    weights = folder / WEIGHTS
    if str(name).startswith('hf-hub:'):
        weights = download(str(name).removeprefix('hf-hub:'), WEIGHTS) or weights
    if reason := pointer(weights):
        raise InputError(f'{weights}: {reason}')
    with explained(f'{folder / CONFIG}: cannot be built'):
        network = create_search_network(
            told['backbone'],
            pretrained=False,
            genotype=told['genotype'],
            frozen_norm=told['frozen_norm'],
            trainable_stages=trainable_stages,
            preprocessing={name: tuple(told[name]) for name in ('input_size', 'mean', 'std')},
            **sizes,
        )
    with explained(f'{weights}: does not fit {folder / CONFIG}'):
        network.load_state_dict(load_file(weights))
    for key, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise InputError(f'{weights}: {key} holds values that are not finite')
    return network


def _find(name: str | Path) -> Path:
    """The folder of a model, which of the Hub's is in its cache, with the configuration."""
    if not str(name).startswith('hf-hub:'):
        return find_folder(name)
    config = download(str(name).removeprefix('hf-hub:'), CONFIG)
    if config is None:
        raise InputError(f'{name}: has no {CONFIG}')
    return config.parent


def _checked(place: Path, told: Any) -> dict[str, Any]:
    """What a configuration says of the network, which may be anybody's."""
    if not isinstance(told, dict):
        raise InputError(f'{place}: {SEARCH_ARCHITECTURE}: expected named values, got a {type(told).__name__}')
    for name, kind in _FIELDS.items():
        if type(told.get(name)) is not kind:
            raise InputError(f'{place}: {SEARCH_ARCHITECTURE}.{name}: expected a {kind.__name__}')
    try:
        check_preprocessing({name: told[name] for name in ('input_size', 'mean', 'std')})
        find_genotype(told['genotype'])
    except ValueError as e:
        raise InputError(f'{place}: {SEARCH_ARCHITECTURE}: {one_line(e)}') from e
    if not told['backbone'].startswith('msinet_') or not timm.is_model(told['backbone']):
        raise InputError(f'{place}: {SEARCH_ARCHITECTURE}.backbone: {told["backbone"][:80]!r} is no MSINet')
    if not _LEAST_SIZE <= told['min_size'] <= told['max_size'] <= _MOST_SIZE:
        raise InputError(
            f'{place}: {SEARCH_ARCHITECTURE}: min_size {told["min_size"]} and max_size {told["max_size"]} must be '
            f'{_LEAST_SIZE} to {_MOST_SIZE}, the first not above the second'
        )
    return told
