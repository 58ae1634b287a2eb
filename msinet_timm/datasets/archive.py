"""Images inside of tar archives: the shards of a WebDataset, on a local disk or behind a URL.

A path names shard and member: `.../train-000000.tar/000123.jpg`.
"""

import functools
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from msinet_timm.errors import needs

__all__ = ['is_remote', 'open_shard', 'image_file', 'read_image', 'split_path']


def split_path(path: str) -> tuple[str, str] | None:
    """Shard and member that a record's path names; None for the path of an ordinary file."""
    shard, found, member = path.rpartition('.tar/')
    return (f'{shard}.tar', member) if found and not os.path.isdir(f'{shard}.tar') else None


def image_file(path: str | Path) -> str:
    """The file that holds an image: its shard, or the path itself."""
    parts = split_path(str(path))
    return parts[0] if parts else str(path)


def read_image(path: str) -> bytes:
    """The file of an image, compressed as it is; of a local shard, the member.

    Raises:
        OSError: it cannot be read, or is in a shard that is not local.
    """
    parts = split_path(path)
    if parts is None:
        return Path(path).read_bytes()
    shard, member = parts
    if is_remote(shard):
        raise OSError('a shard that is not local is only read as a stream, by training and feature extraction')
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


def is_remote(path: str) -> bool:
    return path.startswith('pipe:') or '://' in path


@contextmanager
def open_shard(path: str) -> Iterator[BinaryIO]:
    """A file of a shard set as a stream.

    Args:
        path: of a file or URL. In what stands before the last slash, `{}` means what stands behind it, for commands
            such as `pipe:aws s3 cp s3://people/{} -/train-000000.tar`.

    Raises:
        InputError: webdataset is needed and not installed.
        OSError: it cannot be read.
    """
    if not is_remote(path):
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
