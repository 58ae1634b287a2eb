"""Images inside of tar archives: the shards of a WebDataset, on a local disk or behind a URL.

A path names shard and member: `.../train-000000.tar/000123.jpg`.
"""

import functools
import os
import shlex
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from msinet_timm.errors import InputError, needs
from msinet_timm.files import check_regular

__all__ = [
    'Remote', 'check_root', 'image_file', 'open_shard', 'read_image', 'shard_of', 'split_path', 'typed_root',
]  # fmt: skip


class Remote(str):
    """A place that webdataset fetches files from: a URL, or `pipe:` and a command of the shell, with `{}` for the file.

    Of a plain text nothing is fetched and nothing is run, whatever it says: texts come from tables, recipes and other
    people's runs. So only who writes `Remote('pipe:...')` in Python, or types a folder on the command line, means it.
    """


def typed_root(text: str) -> str:
    """Type of flags for argparse: the folder of a data set, or a remote place, as it was typed."""
    return Remote(text) if _looks_remote(text) else text


def _looks_remote(text: str) -> bool:
    return text.startswith('pipe:') or '://' in text


def check_root(root: str) -> None:
    """Refuses a text that only a `Remote` may be.

    Raises:
        InputError: it would have to be fetched, and comes from a file.
    """
    if not isinstance(root, Remote) and _looks_remote(root) and not os.path.exists(root):
        raise InputError(
            f'{root}: what a file or a plain text names is not fetched, as it may run any command; if you trust it, '
            f"type it: --data-dir {shlex.quote(root)} (in Python: msinet_timm.datasets.Remote('...'))"
        )


def split_path(path: str) -> tuple[str, str] | None:
    """Shard and member that a record's path names; None for the path of an ordinary file."""
    if '.tar/' not in path:
        return None
    shard, member = shard_of(path)
    return None if not isinstance(shard, Remote) and os.path.isdir(shard) else (shard, member)


def image_file(path: str | Path) -> str:
    """The file that holds an image: its shard, or the path itself."""
    parts = split_path(str(path))
    return parts[0] if parts else str(path)


def shard_of(path: str) -> tuple[str, str]:
    """Shard and member of a path that is known to name both; the shard of a remote path is remote, too."""
    shard, _, member = path.rpartition('.tar/')
    return type(path)(f'{shard}.tar'), member


def read_image(path: str) -> bytes:
    """The file of an image, compressed as it is; of a local shard, the member.

    Raises:
        OSError: it cannot be read, is no regular file, or is in a shard that is not local.
    """
    parts = split_path(path)
    if parts is None:
        check_regular(path)
        return Path(path).read_bytes()
    shard, member = parts
    if isinstance(shard, Remote):
        raise OSError('a shard that is not local is only read as a stream, by training and feature extraction')
    check_regular(shard)
    status = os.stat(shard)
    try:
        offset, size = _members(shard, status.st_size, status.st_mtime_ns)[member]
    except tarfile.TarError as e:
        raise OSError(f'the shard is broken: {e}') from e
    except KeyError:
        raise OSError('the shard has no such member') from None
    with open(shard, 'rb') as file:
        file.seek(offset)
        return file.read(size)


@functools.lru_cache(maxsize=32)
def _members(shard: str, size: int, changed: int) -> dict[str, tuple[int, int]]:
    """Offset and size of each member, as long as the shard has that size and time of change."""
    with tarfile.open(shard, 'r:') as tar:
        return {member.name: (member.offset_data, member.size) for member in tar if member.isreg()}


@contextmanager
def open_shard(path: str) -> Iterator[BinaryIO]:
    """A file of a shard set as a stream.

    Args:
        path: of a file, or a `Remote`. In what stands before the last slash of that, `{}` means what stands behind it,
            for commands such as `pipe:aws s3 cp s3://people/{} -/train-000000.tar`.

    Raises:
        InputError: webdataset is needed and not installed.
        OSError: it cannot be read, or is no regular file.
    """
    if not isinstance(path, Remote):
        check_regular(path, empty=True)
        with open(path, 'rb') as file:
            yield file
        return
    with needs('shards', f'{path}:'):
        from webdataset.gopen import gopen
    root, _, name = path.rpartition('/')
    stream = gopen(root.replace('{}', name) if '{}' in root else path)
    try:
        yield stream
        while stream.read(1 << 20):  # a command whose output is not read to its end would fail
            pass
        stream.close()
    except BaseException as e:
        with suppress(Exception):
            stream.close()
        if isinstance(e, OSError):
            raise OSError(f'exit code {stream.status} of the command that fetches it') from e
        raise
