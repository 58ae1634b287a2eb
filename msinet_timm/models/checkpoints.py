"""Weights from a file into a model, and what to say when they are another network's."""

import difflib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from msinet_timm.errors import InputError, one_line

from .weights import classifier_prefixes, is_published, misfit

__all__ = ['SUFFIXES', 'family', 'fill', 'is_checkpoint', 'read_checkpoint']

_logger = logging.getLogger(__name__)

#: Endings of checkpoints.
SUFFIXES = ('.safetensors', '.pth', '.pt', '.tar', '.bin', '.ckpt')

# Families of networks by the end of a tensor's name, before which other libraries put words like `backbone.`
_TELLTALES = {
    'stages.0.0.reduce_a.conv.weight': 'MSINet',
    'cells.0.conv1a.conv.weight': 'MSINet',
    'layer1.0.conv1.weight': 'ResNet',
    'layers.0.blocks.0.attn.relative_position_bias_table': 'Swin transformer',
    'blocks.0.attn.qkv.weight': 'vision transformer',
    'encoder.layers.encoder_layer_0.self_attention.in_proj_weight': 'vision transformer',
    'transformer.resblocks.0.attn.in_proj_weight': 'vision transformer',
    'stages.0.blocks.0.conv_dw.weight': 'ConvNeXt',
    'stage2.0.branches.0.0.conv1.weight': 'HRNet',
    'conv2.0.conv2a.conv1.weight': 'OSNet',
    'conv2.0.conv2a.0.conv1.weight': 'OSNet',
    'blocks.0.0.conv_dw.weight': 'EfficientNet or MobileNet',
    'features.denseblock1.denselayer1.norm1.weight': 'DenseNet',
    'features.0.weight': 'VGG',
}
_SIBLINGS = 12  # networks of one file that are tried, about 0.1 s each


def is_checkpoint(name: str) -> bool:
    """Whether a text names a file of weights, there or not."""
    return Path(name).is_file() or (name.lower().endswith(SUFFIXES) and not timm.is_model(name) and ':' not in name)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, averaged ones (`state_dict_ema`) where there are any.

    Args:
        path: .safetensors or PyTorch's; of the latter nothing but tensors is read: an unsafe pickle is refused.

    Raises:
        InputError: missing, unsafe or broken file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'{path}: no such checkpoint')
    try:
        return load_state_dict(str(path), weights_only=True)
    except Exception as e:  # broken archives and pickles raise whatever they stumble over
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f'{path}: checkpoints end in one of {", ".join(SUFFIXES)}') from e
        raise InputError(f'{path}: cannot be read as tensors alone: {one_line(e)}') from e


def fill(model: nn.Module, path: str | Path, classifiers: bool = False, part: str = '') -> None:
    """Loads a checkpoint into a model; every tensor of the model but the classifiers' must be in the file.

    Names of other implementations are converted as timm does it for pretrained weights.

    Args:
        model: timm's.
        path: see `read_checkpoint`.
        classifiers: load those, too. Otherwise the model keeps its own; where it has none, a log message tells that
            the file's are left out.
        part: where the file has names that begin so, take those alone, without this beginning.

    Raises:
        InputError: as `read_checkpoint`, or another network's, with the names that tell so.
    """
    state = read_checkpoint(path)
    if part and any(name.startswith(part) for name in state):
        state = {name.removeprefix(part): t for name, t in state.items() if name.startswith(part)}
    try:
        model.load_state_dict(_fit(state, model, classifiers), strict=False)
    except InputError as e:
        raise InputError(f'{path}: {e}') from e
    except Exception as e:  # values that are no tensors, and what filters make of them
        raise InputError(f'{path}: cannot load this checkpoint into {type(model).__name__}: {one_line(e)}') from e
    heads = (*classifier_prefixes(model), 'classifier.') if is_published(state) else classifier_prefixes(model)
    if not model.num_classes and (left := [len(t) for name, t in state.items() if name.startswith(heads)]):
        _logger.info('%s: its classifier of %d classes is left out', path, left[0])


def family(names: Iterable[str]) -> tuple[str, str]:
    """A family of networks and the tensor that tells it, such as ('ResNet', 'layer1.0.conv1.weight'); '' if unknown."""
    names = list(names)
    for end, known in _TELLTALES.items():
        for name in names:
            if name == end or name.endswith(f'.{end}'):
                return known, name
    return '', ''


def _fit(state: dict[str, Tensor], model: nn.Module, classifiers: bool) -> dict[str, Tensor]:
    """The tensors under the model's names and of its shapes, with or without its classifiers'."""
    own = model.state_dict()
    families = family(state)[0], family(own)[0]
    if all(families) and families[0] != families[1]:
        raise InputError(_mismatch(state, model))
    convert = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    try:
        converted = convert(state, model) if convert else state
    except ValueError as e:  # where a conversion checks the names itself
        raise InputError(_mismatch(state, model, one_line(e))) from e
    heads = classifier_prefixes(model)

    def counts(name: str) -> bool:
        return not name.startswith(heads) or (classifiers and name in own)

    fitting = {name: tensor for name, tensor in converted.items() if counts(name)}
    if {n: t.shape for n, t in fitting.items()} != {n: t.shape for n, t in own.items() if counts(n)}:
        raise InputError(_mismatch(fitting, model))
    return fitting


def _mismatch(state: dict[str, Tensor], model: nn.Module, problem: str | None = None) -> str:
    """Why tensors do not fit a model, unless the problem is known already; and whose they may be."""
    known, telltale = family(state)
    hint = ''
    if known != family(model.state_dict())[0]:
        hint = f'It looks like a {known}: it has {telltale}' if known else ''
    elif sibling := _sibling(state, model):
        hint = f'--model {sibling} has tensors of these names and shapes'
    return f'{problem or misfit(state, model)} {hint}'.rstrip()


def _sibling(state: dict[str, Tensor], model: nn.Module) -> str:
    """Another network of the model's file that tensors fit, of those the one named most alike; '' if there is none."""
    classifiers = classifier_prefixes(model)
    shapes = {name: tensor.shape for name, tensor in state.items() if not name.startswith(classifiers)}
    alike = difflib.SequenceMatcher(b=model.pretrained_cfg.get('architecture') or '')

    def likeness(name: str) -> float:
        alike.set_seq1(name)
        return -alike.ratio()

    names = timm.list_models(module=type(model).__module__.rpartition('.')[2])
    for name in sorted(names, key=likeness)[:_SIBLINGS]:
        try:
            with torch.device('meta'):
                other = timm.create_model(name, num_classes=0).state_dict()
        except Exception:  # what cannot be built without values is no help
            continue
        if {name: tensor.shape for name, tensor in other.items()} == shapes:
            return name
    return ''
