"""`msinet-hub convert` and `ship`: checkpoints into model folders, model folders into weights inside the package."""

import copy
import logging
from dataclasses import replace
from pathlib import Path

import timm
import torch
import torch.nn as nn
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.images import load_image
from msinet_timm.errors import InputError
from msinet_timm.files import drafts, holds_nothing, replace_file
from msinet_timm.models.checkpoints import fill, read_checkpoint
from msinet_timm.models.entries import Entry, entries_folder, load_entries, sha256_of, write_entry
from msinet_timm.models.msinet import WIDTHS
from msinet_timm.models.weights import is_published

from .card import folder_facts, read_card
from .folder import (
    CONFIG,
    EXAMPLE,
    check_model,
    embedding_shift,
    find_folder,
    is_network,
    model_preprocessing,
    save_folder,
    write_example,
)
from .load import load_folder
from .verify import example_of

__all__ = ['convert', 'ship']

_logger = logging.getLogger(__name__)

_STEMS = {stem: f'msinet_{size}' for size, (stem, *_) in WIDTHS.items()}
_PUBLISHED = 'market1501'  # whose preprocessing is that of the published trainings of people
_IMAGENET = 1000
LARGEST = 5_000_000
LARGEST_SHIFT = 1e-2  # of distances that are about 1 between people


def convert(file: str | Path, output: str | Path, model: str | None = None) -> Path:
    """Makes a model folder of a checkpoint of the published implementation, or of this package's names.

    A classifier of 1000 classes is ImageNet's and stays; any other tells training identities apart and is left out.
    What the published ImageNet weights lack, the local branch, is drawn from a fixed seed.

    Args:
        file: of which nothing but tensors is read.
        output: folder to write.
        model: the network, such as `msinet_x1_0` or `msinet_x1_0.veri776`, whose preprocessing is written; None for
            that of the stem's width, as published for people.

    Raises:
        InputError: not a file of tensors, another network's, or the folder is taken.
    """
    file, output = Path(file), Path(output)
    if not holds_nothing(output):
        raise InputError(f'{output}: exists already; choose another --output')
    state = read_checkpoint(file)
    if not is_published(state) and 'stem.conv.weight' not in state:
        raise InputError(f'{file}: no checkpoint of MSINet; its tensors are {", ".join(list(state)[:4])}, ...')
    classifier = state.get('classifier.weight', state.get('global_classifier.weight'))
    imagenet = classifier is not None and len(classifier) == _IMAGENET
    name = model or _guess(file, state, imagenet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _create(name, _IMAGENET if imagenet else 0)
        try:
            fill(network, file, classifiers=True)
        except InputError as e:
            raise InputError(f'{e}; it was taken for {name}: say by --model which network it is') from e
    check_model(network.eval(), file)
    with drafts(output, f'{output}: cannot write the model', last=CONFIG) as draft:
        save_folder(network, draft)
        write_example(network, draft / EXAMPLE)
    return output


def _create(name: str, num_classes: int) -> nn.Module:
    if not name.startswith('msinet_') or not timm.is_model(name):
        raise InputError(f'--model {name}: give one of {", ".join(timm.list_models("msinet_*"))}')
    return timm.create_model(name, pretrained=False, num_classes=num_classes)


def _guess(file: Path, state: dict[str, torch.Tensor], imagenet: bool) -> str:
    width = len(state.get('conv1.conv.weight', state.get('stem.conv.weight', ())))
    if width not in _STEMS:
        raise InputError(f'{file}: a stem of {width} channels is of no width known; say by --model which network it is')
    name = f'{_STEMS[width]}.in1k'
    return name if imagenet and name in load_entries() else f'{_STEMS[width]}.{_PUBLISHED}'


def ship(folder: str | Path, name: str = 'msinet_x1_0.sample', package: str | Path | None = None) -> Entry:
    """Puts a model's weights into the package, in half precision, so that they load without the Hub.

    What all features of the sample have in common, which tells nobody apart and lets distances of embeddings of
    length 1 shrink, is taken out of them.
    Small tensors stay as they are: norms, depthwise convolutions and the stem move embeddings more than all others
    together, and are a twentieth of the file.

    Args:
        folder: of a model or run.
        name: of the entry that is completed.
        package: folder of the entries; None for this installation's.

    Raises:
        InputError: no such entry, weights of another network, more than 5 MB, or embeddings that half precision
            moves by 1e-2 or more.
    """
    folder = find_folder(folder)
    package = Path(package) if package else entries_folder()
    entry = load_entries(package).get(name)
    if entry is None:
        raise InputError(f'{name}: {package} has no entry of this name: write {name}.json, from one beside it')
    model = load_folder(folder)
    check_model(model, folder)
    if model.num_classes != entry.num_classes or not is_network(model, entry.architecture):
        raise InputError(f'{folder}: holds another network than {entry.name}, or another number of classes')
    _centre(model)
    path = package / 'weights' / f'{name}.safetensors'
    path.parent.mkdir(parents=True, exist_ok=True)
    halved = {k: v.half() if _is_large(v) else v for k, v in model.state_dict().items()}
    shipped = copy.deepcopy(model)
    shipped.load_state_dict(halved)
    shift = embedding_shift(model, shipped)
    if not shift < LARGEST_SHIFT:
        raise InputError(
            f'{folder}: half precision moves embeddings by {shift:.1e}, but less than {LARGEST_SHIFT:g} is wanted'
        )

    def write(partial: Path) -> None:
        save_file(halved, partial)
        if (size := partial.stat().st_size) > LARGEST:
            raise InputError(f'{folder}: {size:,} bytes in half precision, but {LARGEST:,} at most ship')

    replace_file(path, write)
    write_example(shipped, example_of(path))
    _logger.info('half precision moves embeddings by %.1e; %s has %d bytes', shift, path, path.stat().st_size)
    shipped_entry = replace(
        entry,
        **folder_facts(folder, read_card(folder)),
        revision=None,
        file=f'weights/{path.name}',
        sha256=sha256_of(path),
        size=path.stat().st_size,
        preprocessing=model_preprocessing(model),
    )
    write_entry(shipped_entry, package / f'{name}.json')
    return shipped_entry


@torch.no_grad()
def _centre(model: nn.Module) -> None:
    """Moves both features so that their means over the sample are zero; what their necks make of them stays.

    Both halves of the local one share a bias, and so are moved alike.
    """
    transform = create_transform(**resolve_data_config(model=model))
    images = torch.stack([transform(load_image(record.path)) for record in create_dataset('sample').train])
    found = [model.forward_branches(batch) for batch in images.split(64)]
    mean = torch.cat([branches.global_feature for branches in found]).mean(0)
    model.centre += mean
    model.global_neck.bn.running_mean -= model.global_neck.fc(mean)
    mean = torch.cat([branches.local_feature for branches in found]).unflatten(1, (2, -1)).mean((0, 1))
    model.lateral.bias -= mean
    model.local_neck.bn.running_mean -= model.local_neck.fc(mean.repeat(2))


def _is_large(tensor: torch.Tensor) -> bool:
    """Whether a tensor is not one of a norm, a depthwise convolution or a stem of colours, nor a bias."""
    return tensor.is_floating_point() and tensor.dim() > 1 and tensor.shape[1] > 3
