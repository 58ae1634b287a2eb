"""What a model folder tells about its weights, for entries and cards."""

import json
from pathlib import Path
from typing import Any

import torch.nn as nn
from huggingface_hub import ModelCard

from .cards import PREVIEW, complete_card, read_results, write_card
from .commands import InputError
from .files import replace_text
from .hub_entries import Entry
from .model_folder import model_preprocessing, read_config

__all__ = ['folder_facts', 'new_entry', 'read_card', 'update_card']

CARD = 'README.md'
CALIBRATION = 'calibration.json'
_CALIBRATED = ('threshold', 'false_positive_rate', 'true_positive_rate', 'dataset')


def read_card(folder: Path) -> ModelCard | None:
    """The card of a folder; None where there is none.

    Raises:
        InputError: its metadata cannot be read.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        return ModelCard(path.read_text(encoding='utf-8'))
    except Exception as e:  # YAML and the Hub's checks fail in many ways
        raise InputError(f'{path}: cannot read the metadata of this card ({" ".join(str(e).split())[:300]})') from e


def _threshold(folder: Path) -> dict[str, Any] | None:
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        return {name: found[name] for name in _CALIBRATED}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f'{path}: cannot read the calibration ({type(e).__name__} {e})') from e


def folder_facts(folder: Path, card: ModelCard | None) -> dict[str, Any]:
    """The fields of an entry that card and calibration know: results, and the threshold of the distance."""
    results = [
        {'dataset': r.dataset, 'protocol': r.protocol, 'mAP': r.mAP, 'rank1': r.rank1, 'mINP': r.mINP}
        for r in (read_results(card.data) if card else [])
    ]
    return {'results': results, 'threshold': _threshold(folder)}


def new_entry(folder: Path, model: nn.Module, card: ModelCard | None, title: str) -> dict[str, Any]:
    """The fields of an entry for which there is no template, but those that depend on the place of the weights."""
    data = card.data.to_dict() if card else {}
    source = model.pretrained_cfg.get('origin_url') or 'https://github.com/vimar-gu/MSINet'
    return {
        'description': f'{title}, trained on {", ".join(data.get("training_data") or ["data that its card names"])}.',
        'num_classes': model.num_classes,
        'preprocessing': model_preprocessing(model),
        'training_data': [{'name': n, 'license': 'not stated', 'url': None} for n in data.get('training_data') or []],
        'recipe': None,
        'paper_url': 'https://arxiv.org/abs/2303.07065',
        'origin_url': source,
        'license': data.get('license') or 'unknown',
        **folder_facts(folder, card),
    }


def update_card(
    folder: Path, entry: Entry | None = None, repository: str | None = None, license: str | None = None
) -> Path:
    """Writes the card of a folder that has none, and adds to one that is there what it doesn't say yet.

    Args:
        folder: of the model.
        entry: of the weights; the card of a folder without one tells what it tells.
        repository: `OWNER/NAME` on the Hub, for the lines of use.
        license: of the weights.
    """
    card = read_card(folder)
    config = read_config(folder)
    license = license or (entry and entry['license'])
    if card is None:
        _, height, width = config.get('pretrained_cfg', {}).get('input_size', (3, 256, 128))
        text = write_card(
            repository.rpartition('/')[2] if repository else folder.absolute().name,
            entry['description'] if entry else f'`{config["architecture"]}`.',
            (height, width),
            training_data=[d['name'] for d in entry['training_data']] if entry else (),
            facts=[f'Trained on: {d["name"]} ({d["license"]})' for d in entry['training_data']] if entry else (),
            license=license or 'unknown',
        )
    else:
        text = str(card)
    text = complete_card(
        text,
        repository=repository,
        license=license,
        threshold=_threshold(folder),
        preview=(folder / PREVIEW).is_file(),
    )
    path = folder / CARD
    replace_text(path, text)
    return path
