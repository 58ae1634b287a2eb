"""Weights from a file into a model that embeds, and what to say when they are another network's."""

import difflib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from timm.models import load_checkpoint, load_state_dict
from torch import Tensor, nn

from msinet_timm.errors import InputError

__all__ = ['family', 'fill', 'is_checkpoint', 'one_line', 'read_family']

_logger = logging.getLogger(__name__)

_SUFFIXES = ('.safetensors', '.pth', '.pt', '.tar', '.bin', '.ckpt')
_LISTED = 3

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
    return Path(name).is_file() or (name.lower().endswith(_SUFFIXES) and not timm.is_model(name) and ':' not in name)


def fill(model: nn.Module, path: Path) -> None:
    """Loads weights into a model without classifiers; every tensor of the model must be in the file.

    A classifier in the file is left out, which is logged.

    Args:
        model: timm's, made with `num_classes=0`.
        path: .safetensors or PyTorch's; of the latter nothing but tensors is read.

    Raises:
        InputError: missing, unsafe or broken file, or another network's, with the names that tell so.
    """
    if not path.is_file():
        raise InputError(f'{path}: no such checkpoint')
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f'{path}: checkpoints end in one of {", ".join(_SUFFIXES)}')

    def fit(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        return _fit(state, model, path)

    try:
        # never anything but tensors: an unsafe pickle is refused, not run
        load_checkpoint(model, str(path), filter_fn=fit, weights_only=True)
    except InputError as e:
        raise InputError(f'{path}: {e}') from e
    except Exception as e:  # broken archives and pickles raise whatever they stumble over
        raise InputError(f'{path}: cannot load this checkpoint into {type(model).__name__}: {one_line(e)}') from e


def family(names: Iterable[str]) -> tuple[str, str]:
    """A family of networks and the tensor that tells it, such as ('ResNet', 'layer1.0.conv1.weight'); '' if unknown."""
    names = list(names)
    for end, known in _TELLTALES.items():
        for name in names:
            if name == end or name.endswith(f'.{end}'):
                return known, name
    return '', ''


def read_family(path: str | Path) -> tuple[str, str]:
    """The `family` of a checkpoint.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return family(load_state_dict(str(path), weights_only=True))
    except Exception as e:  # as in `fill`
        raise InputError(f'{path}: cannot read this checkpoint: {one_line(e)}') from e


def _fit(state: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Converts other implementations' names as timm does for pretrained weights, and drops classifiers."""
    own = model.state_dict()
    families = family(state)[0], family(own)[0]
    if all(families) and families[0] != families[1]:
        raise InputError(_mismatch(state, model))
    convert = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    converted = state
    if convert:
        try:
            converted = convert(state, model)
        except ValueError as e:  # where a conversion checks the names itself
            raise InputError(_mismatch(state, model, one_line(e))) from e
    prefixes = _classifier_prefixes(model)
    fitting = {name: tensor for name, tensor in converted.items() if name in own or not name.startswith(prefixes)}
    dropped = [len(tensor) for name, tensor in state.items() if name.removeprefix('module.').startswith(prefixes)]
    if own.keys() ^ fitting.keys() or any(fitting[name].shape != own[name].shape for name in own):
        raise InputError(_mismatch(fitting, model))
    if dropped and not getattr(model, 'num_classes', 0):
        _logger.info('%s: its classifier of %d classes is left out', path, dropped[0])
    return fitting


def _mismatch(state: dict[str, Tensor], model: nn.Module, problem: str | None = None) -> str:
    """Why tensors do not fit a model, unless the problem is known already; and whose they may be."""
    own = model.state_dict()
    known, telltale = family(state)
    sibling = _sibling(state, model) if known == family(own)[0] else ''
    hint = f'It looks like a {known}: it has {telltale}' if known != family(own)[0] and known else ''
    if sibling:
        hint = f'--model {sibling} has tensors of these names and shapes'
    return f'{problem or _list_differences(state, model)} {hint}'.rstrip()


def _list_differences(state: dict[str, Tensor], model: nn.Module) -> str:
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    surplus = [name for name in state if name not in own]
    shapes = [
        f'{name} {list(state[name].shape)} instead of {list(own[name].shape)}'
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    listed = '; '.join(
        f'{len(names)} {kind} ({", ".join(names[:_LISTED])}{", ..." if len(names) > _LISTED else ""})'
        for kind, names in (('missing', missing), ('surplus', surplus), ('of another shape', shapes))
        if names
    )
    return f'this checkpoint does not fit {type(model).__name__}: {listed}.'


def _sibling(state: dict[str, Tensor], model: nn.Module) -> str:
    """Another network of the model's file that tensors fit, of those the one named most alike; '' if there is none."""
    classifiers = _classifier_prefixes(model)
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


def _classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    classifiers = model.pretrained_cfg.get('classifier') or ()
    return tuple(f'{c}.' for c in ([classifiers] if isinstance(classifiers, str) else classifiers))


def one_line(error: Exception, limit: int = 400) -> str:
    """An error's text without line breaks, shortened."""
    text = ' '.join(str(error).split())
    if not text or isinstance(error, KeyError):  # whose text is only the key
        text = f'{type(error).__name__} {text}'.strip()
    return text if len(text) <= limit else f'{text[:limit]} ...'
