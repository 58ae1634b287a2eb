"""Exported files: their endings, what is told about a model inside them, and how they appear at once or not at all."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.nn as nn

from msinet_timm.errors import InputError
from msinet_timm.models.entries import PREPROCESSING

from .hosts import Host

__all__ = [
    'METADATA',
    'SUFFIXES',
    'checked_path',
    'describe',
    'file_size',
    'format_of',
    'parts_of',
    'quiet',
]

#: Endings by format.
SUFFIXES = {
    'onnx': '.onnx',
    'openvino': '.xml',
    'torch-export': '.pt2',
    'torchscript': '.pt',
    'executorch': '.pte',
}
#: Name of the metadata inside a file.
METADATA = 'msinet_timm'
#: Other endings of files that are read.
_ALSO = {'.torchscript': 'torchscript'}
#: What belongs to a file, by its ending.
_BESIDE = {'.xml': ('.bin',), '.pte': ('.pte.json',), '.torchscript': ('.torchscript.metadata.json',)}


def format_of(path: Path) -> str:
    """The format that a file's ending stands for.

    Raises:
        InputError: none does.
    """
    known = {suffix: name for name, suffix in SUFFIXES.items()} | _ALSO
    if path.suffix not in known:
        raise InputError(f'{path}: its ending must be one of {", ".join(known)}')
    return known[path.suffix]


def checked_path(path: str | Path, format: str, force: bool, host: Host | None = None) -> Path:
    """Where a file may be written.

    Raises:
        InputError: another ending than the format's, or than the one that a host reads, no folder, or a file that is
            there already, unless by `force`.
    """
    path, suffix = Path(path), host.suffix if host else SUFFIXES[format]
    if path.suffix != suffix:
        raise InputError(f'{path}: a file of the format {format} must end in {suffix}')
    if not path.absolute().parent.is_dir():
        raise InputError(f'{path}: its folder does not exist')
    beside = [path.with_suffix(host.beside[0])] if host and host.beside else []
    for existing in dict.fromkeys((*parts_of(path), *beside)):
        if existing.exists() and not force:
            raise InputError(f'{existing} exists: give another path, or --force to replace it')
    return path


def parts_of(path: Path) -> list[Path]:
    """The files that a path stands for, the one that is opened first."""
    return [path, *(path.with_suffix(suffix) for suffix in _BESIDE.get(path.suffix, ()))]


def file_size(path: Path) -> int:
    """Bytes of a file, and of what belongs to it."""
    return sum(part.stat().st_size for part in parts_of(path))


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps exporters from telling their progress and deprecations, which say nothing about the model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


def describe(
    model: nn.Module, data_config: Mapping[str, Any], *, preprocessing: bool, sizes: tuple, **facts: Any
) -> dict[str, Any]:
    """What a file tells about itself, for JSON.

    Args:
        model: what is exported.
        data_config: timm's.
        preprocessing: whether it is inside.
        sizes: height and width that the file takes, each a number or a name for any.
        **facts: what else to tell.
    """
    channels = data_config['input_size'][0]
    return {
        'architecture': (getattr(model, 'pretrained_cfg', None) or {}).get('architecture') or type(model).__name__,
        'genotype': getattr(model, 'genotype', None),
        'input': {'dtype': 'uint8' if preprocessing else 'float32', 'shape': ['batch', channels, *sizes]},
        'preprocessing': {k: data_config[k] for k in PREPROCESSING if k in data_config} | {'inside': preprocessing},
        'msinet_timm': version('msinet-timm'),
        **facts,
    }
