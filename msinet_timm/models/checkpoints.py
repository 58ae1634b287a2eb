"""Weights from a file into a model, and what to say when they are another network's."""

import argparse
import codecs
import datetime
import difflib
import functools
import logging
import pathlib
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor, nn

from msinet_timm.errors import InputError, one_line
from msinet_timm.files import pointer

from .weights import classifier_prefixes, is_published, misfit

__all__ = ['SUFFIXES', 'check_loaded', 'check_values', 'family', 'fill', 'is_checkpoint', 'read_checkpoint']

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
#: Where trainings keep their weights, in the order in which they are looked for.
_KEYS = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'model_state_dict', 'net', 'network')
_VALUES = (pathlib.PurePosixPath, pathlib.PosixPath, pathlib.PureWindowsPath, datetime.date, datetime.datetime)
_SAVE = 'in the program that made it, save the tensors alone: torch.save(model.state_dict(), FILE)'
_LISTED = 3
_SIBLINGS = 12  # networks of one file that are tried, about 0.1 s each


def is_checkpoint(name: str) -> bool:
    """Whether a text names a file of weights, there or not."""
    return Path(name).is_file() or (name.lower().endswith(SUFFIXES) and not timm.is_model(name) and ':' not in name)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, averaged ones (`state_dict_ema`) where there are any.

    Args:
        path: safetensors or PyTorch's, of any ending. Of the latter nothing but tensors is read, and what is harmless
            beside them: an unsafe pickle is refused.

    Raises:
        InputError: missing, unsafe or broken file, or one without tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'{path}: no such checkpoint')
    content = _read(path)
    if not isinstance(content, dict):
        what = f'a tensor {list(content.shape)}' if isinstance(content, Tensor) else f'a {type(content).__name__}'
        raise InputError(f'{path}: holds {what} instead of tensors by name: {_SAVE}')
    state = clean_state_dict({str(name): value for name, value in _unwrap(content, path).items()})
    # what else is kept beside tensors, such as the number of the epoch, has no place in a network
    state = {name: value for name, value in state.items() if isinstance(value, Tensor) or '.' in name}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = value.type() if isinstance(value, Tensor) else f'a {type(value).__name__}'
            raise InputError(f'{path}: {name} is {kind} instead of a tensor of plain numbers: {_SAVE}')
    return state


def _read(path: Path) -> Any:
    """What is in a file, by its beginning: endings such as `.tar-60` tell nothing."""
    with open(path, 'rb') as file:
        head = file.read(512)
    if reason := pointer(path):
        raise InputError(f'{path}: {reason}')
    if re.match(rb'\s*<(!doctype|html|\?xml)', head, re.IGNORECASE):
        raise InputError(f'{path}: is a web page, not the weights: download the file itself')
    tensors = head[8:9] == b'{'  # behind the length of the header
    known = tensors or head[:2] == b'PK' or head[:1] == b'\x80' or path.suffix.lower() in SUFFIXES
    if not known:
        raise InputError(
            f'{path}: checkpoints end in one of {", ".join(SUFFIXES)}, and this one begins like none of them'
        )
    if not head:
        raise InputError(f'{path}: is empty: copy or download it again')
    try:
        if tensors:
            return load_file(path)
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # what torch warns of is refused, and the message says why
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:  # broken archives and pickles raise whatever they stumble over
        raise InputError(f'{path}: cannot be read as tensors alone: {_reason(path, e)}') from e


def _reason(path: Path, error: Exception) -> str:
    """Why torch does not read a file, and the way out."""
    if 'TorchScript' in str(error):
        return f'it is a TorchScript program. {_SAVE}'
    try:
        with torch.serialization.safe_globals(_harmless()):
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a file that torch has written
        foreign = re.findall(r'GLOBAL ([\w.]+)', str(error))
    with open(path, 'rb') as file:
        begin = file.read(1 << 16)  # where the pickle is, in all of torch's formats
    if foreign and all(name in begin for name in (b'_modules', b'_buffers', b'_parameters')):
        return f'it is a whole model, pickled with its code ({", ".join(foreign[:3])}), which is not run. {_SAVE}'
    if foreign:
        return f'it holds objects besides tensors ({", ".join(foreign[:3])}), whose code is not run. {_SAVE}'
    return one_line(error)


@functools.cache
def _harmless() -> list[Any]:
    """What people keep beside weights, of which nothing can be run: numpy's numbers, arguments, paths and dates."""
    core = np._core.multiarray  # known to pickles by its old name, too
    numbers = [(f, f'numpy.{room}.multiarray.{f.__name__}') for room in ('core', '_core') for f in _rebuilders(core)]
    dtypes = {type(np.dtype(code)) for code in '?bhilqBHILQefdFDSU'}
    return [*numbers, np.ndarray, np.dtype, *dtypes, codecs.encode, argparse.Namespace, *_VALUES]


def _rebuilders(core: Any) -> tuple:
    return core.scalar, core._reconstruct


def _unwrap(content: dict, path: Path) -> dict:
    """The tensors in what trainings keep beside other things."""
    while not any(isinstance(value, Tensor) for value in content.values()):
        found = {name: value for name, value in content.items() if isinstance(value, dict) and value}
        name = next((name for name in _KEYS if name in found), None)
        if name is None:
            holding = [name for name, value in found.items() if _holds_tensors(value)]
            if len(holding) != 1:
                listed = ', '.join(map(str, holding or list(content)[:_LISTED]))
                several = 'several sets of tensors' if holding else 'no tensors by name'
                raise InputError(f'{path}: holds {several} ({listed or "nothing"}): {_SAVE}')
            name = holding[0]
        content = found[name]
    return content


def _holds_tensors(value: Any, depth: int = 4) -> bool:
    if not isinstance(value, dict) or not depth:
        return isinstance(value, Tensor)
    return any(_holds_tensors(inner, depth - 1) for inner in value.values())


def check_values(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuses weights that cannot be right.

    Args:
        state: tensors by the names of the model.
        own: the model's.

    Raises:
        InputError: complex numbers, integers for fractions or the other way round, or values that are not finite.
    """
    for name, tensor in state.items():
        if name not in own:
            continue
        if tensor.is_complex() or tensor.is_floating_point() != own[name].is_floating_point():
            raise InputError(f'{name} holds {_type(tensor)} instead of {_type(own[name])}')
        if not torch.isfinite(tensor.to(own[name].dtype)).all():
            raise InputError(f'{name} holds values that are not finite')


def check_loaded(model: nn.Module, path: Path | None) -> None:
    """As `check_values`, for weights that timm has loaded, which turns numbers of any kind into those of the model.

    Args:
        model: with these weights.
        path: the file that they are from, if it is known.

    Raises:
        InputError: as `check_values`; names the file.
    """
    own = model.state_dict()
    try:
        check_values(own, own)
        if path and path.suffix == '.safetensors':
            with safe_open(path, 'pt') as file:
                for name in own.keys() & file.keys():
                    kind = file.get_slice(name).get_dtype()
                    if kind.startswith(('F', 'BF')) != own[name].is_floating_point():
                        raise InputError(f'{name} holds {kind} instead of {_type(own[name])}')
    except InputError as e:
        raise InputError(f'{path}: {e}' if path else str(e)) from e


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix('torch.')


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
        fitting = _fit(state, model, classifiers)
        check_values(fitting, model.state_dict())
        model.load_state_dict(fitting, strict=False)
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
