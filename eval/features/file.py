"""Embeddings on disk while they are made, so that an interrupted extraction can be taken up again."""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from msinet_timm.datasets import Record
from msinet_timm.datasets.archive import image_file
from msinet_timm.errors import InputError, explained
from msinet_timm.files import locked, parse_json, read_json, replace_file, replace_text
from msinet_timm.models.camera_norm import CameraNorms, hash_weights

from .types import open_tensors

__all__ = ['FeatureFile', 'describe', 'fill']

# a shard is written when it has so many images, or after so many seconds
SHARD_IMAGES = 16384
SHARD_SECONDS = 30.0
_SHARD = re.compile(r'(\d{1,15})-(\d{1,15})')


def fill(count: int, parts: Iterable[tuple[range, Tensor]], order: Sequence[int] | None = None) -> Tensor:
    """[count, D] of rows that come in parts, each with its range.

    Args:
        count: of all rows.
        parts: ranges, and [n, D] for each.
        order: [count] where each row belongs; None for its own place.
    """
    out = None
    for rows, embeddings in parts:
        if out is None:
            out = torch.empty(count, embeddings.shape[1])
        if embeddings.shape[1] != out.shape[1]:
            raise InputError(f'embeddings of {out.shape[1]} and of {embeddings.shape[1]} dimensions cannot be mixed')
        places = slice(rows.start, rows.stop)
        out[places if order is None else order[places]] = embeddings
    return out


def describe(
    model: nn.Module,
    records: Sequence[Record],
    data_config: dict,
    options: dict,
    norms: CameraNorms | None = None,
) -> dict[str, str]:
    """What embeddings depend on, as digests: the weights, the preprocessing, the options and the images.

    Images count with name, box, size and time of change; their labels don't, as no embedding depends on them. Only
    with the norms of cameras one does: on the camera.
    """
    images = hashlib.sha256()
    for record in records:
        images.update(json.dumps([record.path, record.box, *_stamp(record.path)]).encode())
    described = {
        'weights': hash_weights(model, f'{model!r} {getattr(model, "num_features", None)}')[:32],
        'preprocessing': json.dumps(data_config, sort_keys=True, default=str),
        'options': json.dumps(options, sort_keys=True),
        'images': images.hexdigest()[:32],
    }
    return described if norms is None else {**described, 'cameras': _digest_cameras(records, norms)}


def _digest_cameras(records: Sequence[Record], norms: CameraNorms) -> str:
    """Changes with the camera of an image, and with the statistics of one of them."""
    cameras = [record.camera if record.camera in norms else None for record in records]
    digest = hashlib.sha256(json.dumps(cameras).encode())
    for camera in dict.fromkeys(cameras):
        for tensor in norms.statistics(camera):
            digest.update(tensor.cpu().numpy())
    return digest.hexdigest()[:32]


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(image_file(path))
    except OSError:  # also a shard that is not local; reading it will tell
        return 0, 0
    return status.st_size, status.st_mtime_ns


class FeatureFile:
    """A features file that is written in shards, which an interrupted extraction leaves for the next one.

    Beside `gallery.safetensors`, the folder `gallery.shards` holds files named by their rows, `START-STOP.safetensors`,
    each written under another name and renamed when it is whole, and `key.json`, which tells what they were made from.
    Another number of processes or another batch size may go on with them. When nothing is missing, they become the
    file and go.

    Args:
        path: the file, `*.safetensors`. For several machines its folder must be one that all of them share.
        key: gives what embeddings depend on, see `describe`; only called where it is needed.
        order: where the rows of shards belong in the file; None for their own places.
    """

    def __init__(self, path: str | Path, key: Callable[[], dict[str, str]], order: Sequence[int] | None = None) -> None:
        self.path = Path(path)
        self.folder = self.path.with_suffix('.shards')
        self.order = order
        self._key = functools.cache(key)
        self._held = contextlib.ExitStack()

    def release(self) -> None:
        """Lets others write, after `pending` has kept them away."""
        self._held.close()

    def pending(self, batches: Sequence[range]) -> list[range]:
        """Batches that are not there; makes the folder if any is missing, and keeps other extractions out of it.

        Raises:
            InputError: what is there was made from something else, the folder cannot be made, or a process of another
                extraction writes to it.
        """
        key, words = self._key(), f'{self.folder}: cannot be used as a folder of features'
        description = self.folder / 'key.json'
        self.release()
        with contextlib.ExitStack() as held:
            if not self.path.exists():
                held.enter_context(locked(self.folder, words))
            if self.path.exists():  # now, or since another process has let the folder go
                _compare(_read_key(self.path), key, self.path)
                return []
            with explained(words):
                if not description.exists():
                    replace_text(description, json.dumps(key))
                found = read_json(description)
            _compare(found, key, self.folder)
            present = self._present(batches[-1].stop)
            self._held = held.pop_all()
        return [batch for batch in batches if not present[batch.start : batch.stop].all()]

    def _present(self, count: int) -> Tensor:
        """[count] bool: whether a shard has the row."""
        present = torch.zeros(count, dtype=torch.bool)
        for rows, path in self._shards():
            if not rows or rows.stop > count:
                raise InputError(f'{path}: no shard of features of {count} images: remove it')
            present[rows.start : rows.stop] = True
        return present

    def write(self, parts: Iterable[tuple[range, Tensor]]) -> None:
        """Writes shards of parts that come in order, also when they end with an error."""
        held: list[tuple[range, Tensor]] = []
        since = time.monotonic()
        try:
            for rows, embeddings in parts:
                gap = held and held[-1][0].stop != rows.start
                full = held and rows.stop - held[0][0].start > SHARD_IMAGES
                if gap or full or time.monotonic() - since > SHARD_SECONDS:
                    self._write_shard(held)
                    held, since = [], time.monotonic()
                held.append((rows, embeddings))
        finally:
            self._write_shard(held)

    def _write_shard(self, held: list[tuple[range, Tensor]]) -> None:
        if not held:
            return
        path = self.folder / f'{held[0][0].start:012d}-{held[-1][0].stop:012d}.safetensors'
        embeddings = torch.cat([embeddings for _, embeddings in held])
        replace_file(path, lambda draft: save_file({'embeddings': embeddings}, draft), f'{path}: cannot write features')

    def _shards(self) -> Iterator[tuple[range, Path]]:
        for path in sorted(self.folder.glob('*.safetensors')):
            if not (found := _SHARD.fullmatch(path.stem)):
                raise InputError(f'{path}: no shard of features (START-STOP.safetensors): remove it')
            yield range(*map(int, found.groups())), path

    def join(self, count: int, patience: float = 60.0) -> Tensor:
        """All embeddings [count, D]; waits some seconds for shards that a shared folder is slow to show.

        Raises:
            InputError: some are still missing then.
        """
        if self.path.exists():
            return _read_rows(self.path, count)
        end = time.monotonic() + patience
        while not self._present(count).all():
            if time.monotonic() > end:
                raise InputError(f'{self.folder}: lacks shards of other processes: all machines must share this folder')
            time.sleep(0.2)
        return fill(count, ((rows, _read_rows(path, len(rows))) for rows, path in self._shards()), self.order)

    def finish(self, save: Callable[[Path, dict[str, str]], None]) -> None:
        """Writes the file by `save(path, metadata)`, unless it is there, and removes the shards."""
        if not self.path.exists():
            save(self.path, {'key': json.dumps(self._key())})
            shutil.rmtree(self.folder, ignore_errors=True)


def _read_rows(path: Path, count: int) -> Tensor:
    """[count, D] embeddings of a file."""
    with explained(f'{path}: cannot be read: remove it to have it made again'), open_tensors(path) as file:
        embeddings = file.get_tensor('embeddings')
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise InputError(f'{path} holds {list(embeddings.shape)} for {count} images: remove it to have it made again')
    return embeddings


def _compare(found: dict[str, str], key: dict[str, str], place: Path) -> None:
    if not isinstance(found, dict):
        raise InputError(f'{place}: does not tell what its features are of: give another folder, or remove this one')
    if 'pictures' in found:  # the name that earlier versions wrote
        found = {'images': found['pictures'], **found}
        del found['pictures']
    different = [name for name in {**key, **found} if found.get(name) != key.get(name)]
    if different:
        raise InputError(
            f'{place}: holds features of other {" and ".join(different)}: give another folder, or remove this one'
        )


def _read_key(path: Path) -> dict[str, str]:
    try:
        with open_tensors(path) as file:
            return parse_json((file.metadata() or {}).get('key', '{}'))
    except (OSError, safetensors.SafetensorError, ValueError) as e:
        raise InputError(f'{path}: not a features file as msinet-eval --features writes ({e})') from e
