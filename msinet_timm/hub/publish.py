"""`msinet-hub publish`: a model folder to the Hub, and its entry."""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch.nn as nn
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from msinet_timm.errors import InputError, one_line
from msinet_timm.files import replace_text
from msinet_timm.models.camera_norm import FILE_NAME, CameraNorms
from msinet_timm.models.entries import Entry, entries_folder, load_entries, sha256_of, write_entry
from msinet_timm.models.genotype import Genotype, named_genotypes

from .card import CALIBRATION, CARD, PREVIEW, folder_facts, new_entry, read_card, update_card, without_cameras
from .folder import (
    CONFIG,
    EXAMPLE,
    WEIGHTS,
    check_model,
    find_folder,
    is_network,
    model_preprocessing,
    read_config,
    write_config,
    write_example,
)
from .load import load_folder, load_model
from .preview import draw_preview

__all__ = ['Published', 'check_repository', 'publish', 'upload']

_logger = logging.getLogger(__name__)

_UPLOADED = [CONFIG, WEIGHTS, CARD, PREVIEW, EXAMPLE, CALIBRATION, FILE_NAME]


@dataclass(frozen=True)
class Published:
    """What came of it: the line that loads the model, the commit, and the file of the entry, if one was asked for."""

    line: str
    revision: str
    entry: Path | None


def publish(
    folder: str | Path,
    repository: str,
    private: bool = False,
    license: str | None = None,
    entry_file: str | Path | None = None,
    cameras: bool = False,
) -> Published:
    """Uploads a model folder, after checking it, and writes its entry if one is asked for.

    The folder gets what it lacks of a card, a preview image, and a stored example. A repository that exists gets a
    new commit.

    Args:
        folder: of a model or run.
        repository: `OWNER/NAME`.
        private: whether a new repository is.
        license: of the weights; None for what the card or the entry says.
        entry_file: where the entry is written, which makes the weights known by name once it is in `hub_configs/`;
            None writes none.
        cameras: whether to upload what the folder knows of cameras, too. Names and light of a site are in it, so that
            it stays out otherwise, also out of the card.

    Raises:
        InputError: the folder is no sound model, knows no cameras that are to be uploaded, or the Hub refuses.
    """
    folder = find_folder(folder)
    check_repository(repository)
    model = load_folder(folder)
    check_model(model, folder)
    known = (folder / FILE_NAME).is_file()
    if cameras:
        if not known:
            raise InputError(f'{folder}: knows no cameras (no {FILE_NAME}): leave out --cameras')
        CameraNorms.load(folder, load_model(folder))
    elif known:
        _logger.info('%s stays here, with the section on cameras of the card; --cameras uploads it', FILE_NAME)
    template = next((e for e in load_entries().values() if e.hf_hub_id == repository), None)
    name = _entry_name(model, repository, template)
    if template and name != template.name:
        raise InputError(f'{folder}: --repo {repository} is for the network of {template.place}, and this is another')
    if entry_file and name is None:
        raise InputError(
            f'--entry {entry_file}: entries are of models by name, and this network has none: leave it out'
        )
    write_config(folder, read_config(folder))
    write_example(model, folder / EXAMPLE)
    if not (folder / PREVIEW).is_file():
        draw_preview(model, folder / PREVIEW)
    update_card(folder, template, repository, license)
    with _uploaded(folder, cameras or not known) as place:
        revision = upload(place, repository, private, _UPLOADED)
    written = entry_file and _write(Path(entry_file), name, folder, model, repository, revision, template)
    return Published(f"timm.create_model('hf-hub:{repository}', pretrained=True)", revision, written)


def _entry_name(model: nn.Module, repository: str, template: Entry | None) -> str | None:
    """`architecture.tag` if the architecture's name alone makes this network; None if only its folder does."""
    genotype = next((n for n, g in _packaged_genotypes().items() if list(g) == getattr(model, 'genotype', None)), None)
    size = re.fullmatch(r'msinet_.*?(x\d_\d+)', model.pretrained_cfg['architecture'])
    if not genotype or not size:
        return None
    architecture = f'msinet_{size[1]}' if genotype == 'msmt' else f'msinet_{genotype}_{size[1]}'
    if not is_network(model, architecture):
        return None
    if template:
        return f'{architecture}.{template.tag}'
    tag = repository.rpartition('/')[2].removeprefix(f'{architecture}.')
    return f'{architecture}.{re.sub(r"[^A-Za-z0-9_-]+", "_", tag).strip("_-") or "weights"}'


def _packaged_genotypes() -> dict[str, Genotype]:
    """Genotypes that are timm models wherever this package is installed."""
    folder = entries_folder() / 'genotypes'
    return {name: g for name, g in named_genotypes().items() if (folder / f'{name}.json').is_file()}


@contextmanager
def _uploaded(folder: Path, whole: bool) -> Iterator[Path]:
    """A folder as it is uploaded: as it is, or without what it knows of cameras."""
    if whole:
        yield folder
        return
    with TemporaryDirectory() as place:
        for name in _UPLOADED:
            if name != FILE_NAME and (folder / name).is_file():
                shutil.copyfile(folder / name, Path(place) / name)
        card = read_card(folder)
        card.text = without_cameras(card.text)
        replace_text(Path(place) / CARD, str(card))
        yield Path(place)


def check_repository(name: str) -> None:
    """Raises an InputError where a name is not `OWNER/NAME`."""
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', name):
        raise InputError(f'--repo {name}: give OWNER/NAME')


def upload(folder: Path, repository: str, private: bool, names: list[str]) -> str:
    """Creates or updates a repository.

    Args:
        folder: whose files are uploaded.
        repository: `OWNER/NAME`.
        private: whether a new repository is.
        names: of the files.

    Returns:
        The commit.

    Raises:
        InputError: the Hub refuses, or cannot be reached.
    """
    api = HfApi(library_name='msinet-timm')
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise InputError(
                f'--private: {repository} exists and is public; change that in its settings, or drop the flag'
            )
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=names,
            delete_patterns=None if (folder / FILE_NAME).is_file() else FILE_NAME,
            commit_message='Upload weights, configuration and card',
        )
        # where nothing has changed there may be no commit
        return commit.oid or api.model_info(repository).sha
    except (LocalTokenNotFoundError, HFValidationError) as e:
        raise InputError(f'--repo {repository}: {one_line(e)}') from e
    except HfHubHTTPError as e:
        status = getattr(e.response, 'status_code', None)
        hint = '; log in by: hf auth login' if status in (401, 403) else ''
        raise InputError(f'--repo {repository}: the Hub refuses: {one_line(e)}{hint}') from e
    except InputError:
        raise
    except Exception as e:  # connections fail in too many ways to list
        raise InputError(f'--repo {repository}: the Hub cannot be reached: {one_line(e)}') from e


def _write(
    path: Path, name: str, folder: Path, model: nn.Module, repository: str, revision: str, template: Entry | None
) -> Path:
    card = read_card(folder)
    entry = replace(
        template or new_entry(name, model, card, repository),
        file=None,
        revision=revision,
        sha256=sha256_of(folder / WEIGHTS),
        size=(folder / WEIGHTS).stat().st_size,
        num_classes=model.num_classes,
        preprocessing=model_preprocessing(model),
        **folder_facts(folder, card),
    )
    if card and card.data.license:
        entry.license = card.data.license
    write_entry(entry, path)
    return path
