"""Networks of person search to the Hub."""

from pathlib import Path

import torch
from huggingface_hub import ModelCard

from msinet_timm.errors import InputError
from msinet_timm.files import replace_text
from msinet_timm.hub.card import CARD, read_card
from msinet_timm.hub.folder import CONFIG, WEIGHTS, find_folder
from msinet_timm.hub.publish import Published, check_repository, upload

from .card import USE, write_search_card
from .folder import load_search

__all__ = ['publish_search']


def publish_search(folder: str | Path, repository: str, private: bool = False, license: str | None = None) -> Published:
    """Uploads the folder of a network of person search, after checking it; it gets a card where it has none.

    Args:
        folder: of a network or run.
        repository: `OWNER/NAME`.
        private: whether a new repository is.
        license: of the weights; None for what the card says.

    Raises:
        InputError: the folder is no sound network of person search, or the Hub refuses.
    """
    folder = find_folder(folder)
    check_repository(repository)
    network = load_search(folder)
    with torch.inference_mode():
        (found,) = network([torch.full((3, 360, 640), 0.5)])
    for name, values in found.items():
        if not values.isfinite().all():
            raise InputError(f'{folder}: the {name} for a grey frame are not finite')
    card = read_card(folder)
    if card is None:
        about = f'`{network.config["backbone"]}`, made to find people in whole images and to recognise them.'
        card = ModelCard(write_search_card(repository.rpartition('/')[2], about, network.config, {}))
    card.data.license = license or card.data.license or 'unknown'
    card.text = card.text.replace(f"'{USE}'", f"'hf-hub:{repository}'")
    replace_text(folder / CARD, f'{str(card).rstrip()}\n')
    revision = upload(folder, repository, private, [CONFIG, WEIGHTS, CARD])
    return Published(f"PersonSearch('hf-hub:{repository}')", revision, None)
