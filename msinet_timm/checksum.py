"""Whether weights are the ones that an entry of `hub_configs/` records."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from .commands import InputError
from .hub_entries import Entry, load_entries

__all__ = ['ChecksumError', 'check_file', 'check_source', 'sha256_of']

#: In the order in which timm looks for them.
_WEIGHTS = ('model.safetensors', 'pytorch_model.bin')


class ChecksumError(InputError, RuntimeError):
    """Weights other than those recorded. A RuntimeError too, as timm's own for weights that cannot be loaded."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_file(path: Path, entry: Entry, source: str) -> None:
    """Compares a file with what an entry records.

    Args:
        path: the weights.
        entry: with a SHA-256.
        source: for the message: what the weights were asked for by.

    Raises:
        ChecksumError: it is another file; the message has both sums.
    """
    found = sha256_of(path)
    if found != entry['sha256']:
        raise ChecksumError(
            f'{source}: {path} has the SHA-256 {found}, but {entry.place} records {entry["sha256"]}: it is damaged, or '
            'not the published file. Delete it to download it again. If newer weights have been published, update '
            'msinet-timm, or ask for them by their commit: hf-hub:OWNER/NAME@COMMIT'
        )


def check_source(cfg: Mapping[str, Any], cache_dir: str | Path | None = None) -> None:
    """Checks the file that timm has just read, before its tensors go anywhere, if an entry records it.

    A repository that is asked for at another revision than the entry's is not the entry's, nor is a file or state
    dict given in place of it.

    Args:
        cfg: the model's `pretrained_cfg`.
        cache_dir: as given to `timm.create_model`.

    Raises:
        ChecksumError: the entry records another sum.
    """
    # timm's order: a folder or repository that was asked for by name, then a state dict, a file, the entry's repository
    hub_id = file = None
    if cfg.get('source') == 'hf-hub':
        hub_id = cfg.get('hf_hub_id')
    elif not cfg.get('source') and not cfg.get('state_dict'):
        file = cfg.get('file')
        hub_id = None if file else cfg.get('hf_hub_id')
    for entry in load_entries().values():
        if not entry['sha256']:
            continue
        if file and file == str(entry.weights):
            check_file(entry.weights, entry, entry.name)
        elif hub_id and not entry.weights and hub_id in (entry['hf_hub_id'], entry.hub_id):
            check_file(_cached(hub_id, cfg.get('hf_hub_filename'), cache_dir), entry, f'hf-hub:{hub_id}')


def _cached(hub_id: str, name: str | None, cache_dir: str | Path | None) -> Path:
    """The file in the Hub's cache that timm has read: no request is made."""
    repository, _, revision = hub_id.partition('@')
    for candidate in [name] if name else _WEIGHTS:
        try:
            return Path(
                hf_hub_download(
                    repository, candidate, revision=revision or None, cache_dir=cache_dir, local_files_only=True
                )
            )
        except LocalEntryNotFoundError:
            continue
    raise ChecksumError(f'hf-hub:{hub_id}: its weights are not in the cache, and so cannot be compared with their sum')
