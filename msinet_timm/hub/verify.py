"""`msinet-hub verify`: whether weights are the recorded ones and compute what they did when they were published."""

from dataclasses import dataclass
from pathlib import Path

import torch.nn as nn
from huggingface_hub import hf_hub_download

from msinet_timm.errors import InputError, explained
from msinet_timm.models.camera_norm import CameraNorms
from msinet_timm.models.entries import ChecksumError, Entry, check_file, find_entry, load_entries, sha256_of

from .adapt import find_cameras
from .folder import CONFIG, EXAMPLE, WEIGHTS, deviation, download, find_folder, model_preprocessing
from .load import load_folder, load_model

__all__ = ['Check', 'example_of', 'find_weights', 'load_weights', 'verify']

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """One line of the answer; `passed` is None where there is nothing to compare with."""

    name: str
    passed: bool | None
    found: str

    def __str__(self) -> str:
        return f'{self.name:14} {({True: "ok", False: "WRONG", None: "-"})[self.passed]:6} {self.found}'


def example_of(weights: Path) -> Path:
    """Where the stored image and output of weights in the package are."""
    return weights.with_name(weights.name.replace('.safetensors', f'.{EXAMPLE}'))


def verify(name: str) -> list[Check]:
    """Checks the hash, names and shapes, preprocessing, cameras if any are known, and the stored output of weights.

    Args:
        name: of an entry, a folder, or `hf-hub:OWNER/NAME[@REVISION]`.

    Raises:
        InputError: nothing to verify has this name, or it cannot be downloaded.
    """
    entry, weights, example = find_weights(name)
    checks = [_check_hash(weights, entry, name)]
    try:
        model = load_weights(weights, entry)
    except InputError as e:
        return [*checks, Check('shapes', False, str(e))]
    count = sum(1 for _ in model.state_dict())
    checks.append(Check('shapes', True, f'{count} tensors fit {model.pretrained_cfg["architecture"]}'))
    checks.append(_check_preprocessing(model, entry))
    checks += _check_cameras(name)
    if example is None:
        return [*checks, Check('example', None, 'no image and output are stored with these weights')]
    off = deviation(model, example)
    return [*checks, Check('example', off <= _TOLERANCE, f'output is off by {off:.1e} (up to {_TOLERANCE:g} is ok)')]


def find_weights(name: str) -> tuple[Entry | None, Path, Path | None]:
    """The entry, the weights, and the stored example that a name means, see `verify`."""
    if Path(name.removeprefix('local-dir:')).is_dir():
        folder = find_folder(name)
        return None, folder / WEIGHTS, _existing(folder / EXAMPLE)
    entry = find_entry(name)
    if name.startswith('hf-hub:'):
        return (entry if entry and entry.sha256 else None), *_download(name.removeprefix('hf-hub:'))
    if entry is None:
        known = ', '.join(load_entries())
        raise InputError(f'{name}: give a folder, hf-hub:OWNER/NAME or one of {known}')
    if not entry.available:
        raise InputError(f'{entry.name} has no weights yet: {entry.place} is a template without their sha256')
    if entry.weights:
        return entry, entry.weights, _existing(example_of(entry.weights))
    return entry, *_download(entry.hub_id)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _download(hub_id: str) -> tuple[Path, Path | None]:
    repository, _, revision = hub_id.partition('@')
    with explained(f'hf-hub:{hub_id}: cannot be downloaded'):
        _, weights = [Path(hf_hub_download(repository, f, revision=revision or None)) for f in (CONFIG, WEIGHTS)]
    return weights, download(hub_id, EXAMPLE)


def _check_hash(weights: Path, entry: Entry | None, name: str) -> Check:
    if not weights.is_file():
        return Check('hash', False, f'{weights} is missing')
    if entry is None:
        return Check('hash', None, f'{sha256_of(weights)} (no entry records it)')
    try:
        check_file(weights, entry, name)
    except ChecksumError as e:
        return Check('hash', False, str(e))
    return Check('hash', True, f'{entry.sha256}, as {entry.place} records')


def load_weights(weights: Path, entry: Entry | None) -> nn.Module:
    """The model of what `find_weights` has found, in evaluation mode; their hash is not judged here.

    Raises:
        InputError: as `load_folder` or `load_model`.
    """
    if entry is None or not entry.weights:
        return load_folder(weights.parent)
    # as a checkpoint, as the sum has been judged already
    return load_model(entry.name, weights, num_classes=None)


def _check_cameras(name: str) -> list[Check]:
    """Whether what is known of cameras is of these weights; nothing where no camera is known."""
    path = find_cameras(name)
    if path is None:
        return []
    try:
        norms = CameraNorms.load(path.parent, load_model(name))
    except InputError as e:
        return [Check('cameras', False, str(e))]
    return [Check('cameras', True, ', '.join(f'{camera} ({count})' for camera, count in norms.counts.items()))]


def _check_preprocessing(model: nn.Module, entry: Entry | None) -> Check:
    found = model_preprocessing(model)
    if entry is None:
        return Check('preprocessing', None, ', '.join(f'{k} {v}' for k, v in found.items()))
    wrong = [f'{k} {found[k]} instead of {v}' for k, v in entry.preprocessing.items() if found[k] != v]
    return Check('preprocessing', not wrong, '; '.join(wrong) or f'as {entry.place} records')
