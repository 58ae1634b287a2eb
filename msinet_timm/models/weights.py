"""Where weights come from: hub_configs/*.json as timm's pretrained cfgs, checkpoints as state dicts of MSINet."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg, clean_state_dict

from msinet_timm.errors import InputError

from .entries import check_source, load_entries
from .interactions import INTERACTIONS

__all__ = [
    'CheckpointError', 'checked_filter_fn', 'checkpoint_filter_fn', 'classifier_prefixes', 'fit_state_dict',
    'is_published', 'load_default_cfgs', 'misfit', 'untrained_cfg',
]  # fmt: skip

_logger = logging.getLogger(__name__)


class CheckpointError(InputError, RuntimeError):
    """A checkpoint that doesn't fit the network. A RuntimeError too, as torch's own for missing and surplus keys."""


def _cfg(**kwargs: Any) -> dict[str, Any]:
    """What all MSINets have in common for timm: preprocessing, and the places of the first and last layers."""
    return {
        'interpolation': 'bilinear',
        'crop_pct': 1.0,
        'crop_mode': 'squash',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'stem.conv',
        'classifier': ('global_classifier', 'local_classifier'),
        'paper_ids': 'arXiv:2303.07065',
        'paper_name': 'MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID',
        'origin_url': 'https://github.com/vimar-gu/MSINet',
        **kwargs,
    }


def untrained_cfg() -> dict[str, Any]:
    """The cfg of a genotype that nobody has published weights of."""
    return _cfg(num_classes=0, input_size=(3, 256, 128), pool_size=(16, 8))


def load_default_cfgs() -> dict[str, dict[str, Any]]:
    """timm's pretrained cfgs by `architecture.tag`, from `hub_configs/*.json`.

    An entry names its weights for timm only when it records their SHA-256: the others are templates for weights that
    do not exist yet, and give an architecture's preprocessing. `default` marks the tag that a bare name stands for.

    Raises:
        InputError: an entry is malformed; names the file and the field.
    """
    cfgs = {}
    for name, entry in load_entries(check=False).items():
        try:
            cfgs[name + '*' * entry.default] = PretrainedCfg(**_cfg(**entry.cfg()))
        except Exception:
            entry.check()  # which says what is wrong with a file that somebody has changed
            raise
    return cfgs


# The published implementation's names, piece by piece. It numbers cells and transitions together.
_PUBLISHED_TRUNK = {
    'conv1': 'stem',
    'cells.0': 'stages.0.0',
    'cells.1': 'stages.0.1',
    'cells.2': 'stages.1',
    'cells.3': 'stages.2.0',
    'cells.4': 'stages.2.1',
    'cells.5': 'stages.3',
    'cells.6': 'stages.4.0',
    'cells.7': 'stages.4.1',
    'head': 'global_neck.bn',
    'fc': 'global_neck.fc',
    'classifier': 'global_classifier',
    'f_conv': 'lateral',
    'f_head': 'local_neck.bn',
    'f_fc': 'local_neck.fc',
    'f_classifier': 'local_classifier',
}
_PUBLISHED_CELL = {
    'conv1a': 'reduce_a',
    'conv1b': 'reduce_b',
    'conv2a': 'first_a',
    'conv2b': 'first_b',
    '_op2': 'interaction1',
    '_op2s': 'interaction1.ops',
    'conv3a': 'second_a',
    'conv3b': 'second_b',
    '_op3': 'interaction2',
    '_op3s': 'interaction2.ops',
    'conv4a': 'expand_a',
    'conv4b': 'expand_b',
    'downsample': 'shortcut',
}
_LOCAL_BRANCH = ('lateral.', 'local_neck.', 'local_classifier.')
_FIFTH_MAP = ('stages.5.', 'stages.6.')
_CLASSIFIERS = ('global_classifier.', 'local_classifier.')
_FROZEN_BIASES = ('head.bias', 'f_head.bias')
_LISTED = 3


def is_published(state_dict: dict[str, Any]) -> bool:
    """Whether a state dict has the names of the published implementation, bare or behind `module.`."""
    return any(re.match(r'(module\.)?(conv1\.conv|cells\.\d)', name) for name in state_dict)


def _published_name(name: str) -> str:
    """Our name of a published tensor; unchanged where there is none."""
    match = re.match(r'(cells\.\d+|[^.]+)\.(.+)', name)
    if match is None or match[1] not in _PUBLISHED_TRUNK:
        return name
    part, rest = match.groups()
    cell_part, _, cell_rest = rest.partition('.')
    if cell_part in _PUBLISHED_CELL:
        rest = f'{_PUBLISHED_CELL[cell_part]}.{cell_rest}'
        # Only light convolutions have convolutions that are numbered.
        rest = rest.replace('.conv1.', '.pointwise.').replace('.conv2.', '.depthwise.')
    return f'{_PUBLISHED_TRUNK[part]}.{rest}'


def _published_names(state_dict: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a published checkpoint under our names, without what we have no part for."""
    for name, tensor in state_dict.items():
        if name in _FROZEN_BIASES:
            if tensor.any():
                raise CheckpointError(
                    f'checkpoint: {name} is not zero, but MSINet has no such bias (the published training freezes it '
                    'at zero); this file was not made by it and cannot be represented'
                )
        elif not name.startswith(('align_module.', '_criterion.')):
            yield _published_name(name), tensor


def _fill_local_branch(state_dict: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """Completes a checkpoint without the local branch, as the published ImageNet weights are."""
    missing = [name for name in own if name.startswith(_LOCAL_BRANCH)]
    for name in missing:
        state_dict[name] = torch.zeros_like(own[name]) if name.startswith('local_classifier.') else own[name]
    _logger.warning(
        'the checkpoint has no local branch: %s stay at their initial values%s',
        ', '.join(dict.fromkeys(name.rsplit('.', 1)[0] for name in missing if 'classifier' not in name)),
        ', and local_classifier is zero' if any('classifier' in name for name in missing) else '',
    )


def _of_genotype(
    state_dict: dict[str, torch.Tensor], model: nn.Module, own: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What a supernet holds for the interactions of a model; its neck, of another form, is the model's own.

    Behind an exchange at the second place of a cell, the last convolutions of its branches are each other's: so the
    model begins as without that exchange, with which it is the same network.
    """
    fitting = {name: t for name, t in own.items() if name.startswith('global_neck.')}
    for name in own:
        found = name
        if match := re.fullmatch(r'(stages\.(\d)\.(\d)\.)(interaction|expand_)(\w)\.(.+)', name):
            cell, place, part, which, rest = match[1], 2 * int(match[2]) + 2 * int(match[3]), *match.group(4, 5, 6)
            if part == 'interaction':
                chosen = list(INTERACTIONS).index(model.genotype[place + int(which) - 1])
                found = f'{cell}{part}{which}.ops.{chosen}.{rest}'
            elif model.genotype[place + 1] == 'exc':
                found = f'{cell}{part}{"b" if which == "a" else "a"}.{rest}'
        if name.startswith(('stem.', 'stages.')) and found in state_dict:
            fitting[name] = state_dict[found]
    return fitting


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Fits a checkpoint to a model, or says what doesn't fit.

    Takes the names of this package and of the published implementation, bare or under `state_dict`, with or without
    `module.`. Of a published checkpoint, the neck biases (frozen at zero) and the alignment module are dropped.
    Classifiers of another number of classes than the model's are left out: the model keeps its own. The published
    ImageNet weights lack the local branch: it keeps its initial values, with a warning, and its classifier is set to
    zero, so that the predicted class is the global branch's. Of a supernet of `mid_from='output'`, the model takes its
    own interactions, and keeps its neck. A trained fifth map (`stage5`) keeps its initial values
    where the checkpoint has none, and `centre` is then zero.

    Args:
        state_dict: tensors by name.
        model: the MSINet to fill.

    Returns:
        A state dict with exactly the model's names.

    Raises:
        CheckpointError: a name is missing or surplus, or a frozen bias isn't zero.
    """
    state_dict = clean_state_dict(state_dict.get('state_dict', state_dict))
    if is_published(state_dict):
        state_dict = dict(_published_names(state_dict))
    own = model.state_dict()
    if 'arch_weights' in state_dict and 'arch_weights' not in own:
        state_dict = _of_genotype(state_dict, model, own)
    if 'arch_weights' in own:  # of a supernet: the published search keeps them elsewhere
        state_dict.setdefault('arch_weights', own['arch_weights'])
    if not any(name.startswith(_LOCAL_BRANCH) for name in state_dict) and any(n.startswith('lateral.') for n in own):
        _fill_local_branch(state_dict, own)
    for name in own:
        if name.startswith(_FIFTH_MAP):  # of `stage5`, which weights for ReID have nothing for
            state_dict.setdefault(name, own[name])
    if 'centre' in own:  # which few weights have
        state_dict.setdefault('centre', torch.zeros_like(own['centre']))
    classifiers = () if 'arch_weights' in own else _CLASSIFIERS  # a search goes on with its own
    for name in [name for name in {**own, **state_dict} if name.startswith(classifiers)]:
        if name not in own:
            del state_dict[name]
        elif name not in state_dict or state_dict[name].shape != own[name].shape:
            state_dict[name] = own[name]
    if own.keys() ^ state_dict.keys():
        raise CheckpointError(f'{misfit(state_dict, model)} Is it of another genotype, width or network?')
    return state_dict


def misfit(state_dict: dict[str, torch.Tensor], model: nn.Module) -> str:
    """The sentence that tells which tensors do not fit a model, but for classifiers that a state dict lacks."""
    heads = classifier_prefixes(model)
    own = {n: t for n, t in model.state_dict().items() if n in state_dict or not n.startswith(heads)}
    shapes = [
        f'{name} {list(state_dict[name].shape)} instead of {list(tensor.shape)}'
        for name, tensor in own.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    kinds = {
        'missing': [name for name in own if name not in state_dict],
        'surplus': [name for name in state_dict if name not in own],
        'of another shape': shapes,
    }
    listed = [
        f'{len(names)} {kind} ({", ".join(names[:_LISTED])}{", ..." * (len(names) > _LISTED)})'
        for kind, names in kinds.items()
        if names
    ]
    return f'the checkpoint does not fit {type(model).__name__}: {"; ".join(listed)}.'


def classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    """What the names of a timm model's classifiers begin with."""
    classifiers = (getattr(model, 'pretrained_cfg', None) or {}).get('classifier') or ()
    return tuple(f'{c}.' for c in ([classifiers] if isinstance(classifiers, str) else classifiers))


def checked_filter_fn(
    state_dict: dict[str, Any], model: nn.Module, cache_dir: str | Path | None = None
) -> dict[str, torch.Tensor]:
    """`checkpoint_filter_fn` for pretrained weights: first compares their file with the SHA-256 that is recorded.

    timm calls it between reading a file and filling the model.

    Args:
        state_dict: tensors by name.
        model: the MSINet to fill.
        cache_dir: where timm keeps downloads; None for the Hub's cache.

    Raises:
        ChecksumError: the file is not the recorded one.
        CheckpointError: as `checkpoint_filter_fn`.
    """
    check_source(model.pretrained_cfg, cache_dir)
    return checkpoint_filter_fn(state_dict, model)


def fit_state_dict(model: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *_) -> None:
    """Lets `model.load_state_dict` take published checkpoints: see `nn.Module.register_load_state_dict_pre_hook`.

    Raises:
        RuntimeError: weights of the training form for a fused network, or the other way round.
        CheckpointError: as `checkpoint_filter_fn`.
    """
    fused = isinstance(model.stem, nn.Sequential)
    if strict and fused != (f'{prefix}stem.0.weight' in state_dict):
        raise RuntimeError(
            'weights of the training form do not fit a fused MSINet: load them before it is reparameterized'
            if fused
            else 'weights of a fused MSINet fit only one that is reparameterized as well'
        )
    if not prefix and is_published(state_dict):
        fitting = checkpoint_filter_fn(dict(state_dict), model)
        state_dict.clear()
        state_dict.update(fitting)
    if getattr(model, 'centre', None) is not None:
        state_dict.setdefault(f'{prefix}centre', torch.zeros_like(model.centre))
