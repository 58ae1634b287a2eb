"""Files that are there as a whole or not at all, folders that one process at a time writes to, and what JSON holds."""

import contextlib
import csv
import errno
import json
import logging
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError

from .errors import InputError, one_line

__all__ = [
    'WriteError',
    'append_text',
    'check_regular',
    'drafts',
    'holds_nothing',
    'locked',
    'parse_json',
    'pointer',
    'read_json',
    'refusing',
    'replace_file',
    'replace_rows',
    'replace_text',
    'sweep',
]

_logger = logging.getLogger(__name__)

#: How everything begins that is put beside a user's files for a while.
OWN = '.msinet'
_DRAFT = f'{OWN}-', '.tmp'
_LOCK = f'{OWN}.lock'
#: What is no file, by the kind that the system gives.
_KINDS = {stat.S_IFDIR: 'a folder', stat.S_IFIFO: 'a pipe', stat.S_IFSOCK: 'a socket'}
_KINDS |= dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), 'a device')
#: What torch says where a file ends before it should; it knows no reason.
_TORCH = ('inline_container', 'PytorchStreamWriter', 'PyTorchStreamWriter', 'cannot be opened', 'Parent directory')


class WriteError(InputError, OSError):
    """A file that cannot be written, as on a full or read-only disk. An OSError too, whose `strerror` is the reason."""

    def __init__(self, message: str, reason: str = '') -> None:
        super().__init__(message)
        self.strerror = reason


@contextlib.contextmanager
def refusing(words: str, folder: Path) -> Iterator[None]:
    """Turns what goes wrong in writing files of a folder into one error.

    Args:
        words: what could not be done, to what; the reason follows.
        folder: where it was tried.

    Raises:
        WriteError: an error of the system, of safetensors, or of torch's writing.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as e:
        reason = (e.strerror if not e.filename or _is_in(e.filename, folder) else '') or one_line(e)
        raise WriteError(f'{words} ({reason})', reason) from e
    except SafetensorError as e:
        raise WriteError(f'{words} ({one_line(e)})', one_line(e)) from e
    except RuntimeError as e:
        if not any(word in str(e) for word in _TORCH):
            raise
        reason = one_line(e, 100)
        with contextlib.suppress(OSError):
            reason = f'torch stopped halfway; the disk has {shutil.disk_usage(folder).free:,} bytes left'
        raise WriteError(f'{words} ({reason})', reason) from e


def _is_in(path: str | bytes | int, folder: Path) -> bool:
    return isinstance(path, int) or os.path.abspath(os.fsdecode(path)).startswith(os.path.abspath(folder))


@contextlib.contextmanager
def drafts(
    folder: str | os.PathLike, words: str | None = None, last: str | None = None, swept: bool = False
) -> Iterator[Path]:
    """Gives a new folder to write files in, which at the end take their places in `folder`, whole and on the disk.

    It lies in `folder`, under a name that nobody else has. If an error happens, nothing changes; if the process is
    killed, it is left behind, until the next one that writes to `folder` removes it. Files get the mode that the umask
    gives new ones.

    Args:
        folder: made where it is missing, if something is written.
        words: what could not be done, to what, for the error; None for the folder's name.
        last: name of a file that makes others count: it goes before they come, and comes after them.
        swept: whether the folder needs no look for what killed processes have left.

    Raises:
        WriteError: a file cannot be written.
    """
    folder = Path(folder)
    words = words or f'{folder}: cannot write there'
    with refusing(words, folder):
        made = _make_folder(folder)
        try:
            if not swept:
                sweep(folder)
            draft, lock = _new_draft(folder)
            try:
                yield draft
                mode = (draft / _LOCK).stat().st_mode & 0o666
                files = sorted(p for p in draft.iterdir() if not p.name.startswith(OWN))
                for file in files:
                    with contextlib.suppress(PermissionError, NotImplementedError):  # of disks that know no modes
                        file.chmod(mode)
                    with open(file, 'rb') as written:
                        os.fsync(written.fileno())
                if last is not None and len(files) > 1:
                    (folder / last).unlink(missing_ok=True)
                for file in sorted(files, key=lambda file: file.name == last):
                    file.replace(folder / file.name)
            except InputError as e:  # nobody knows the draft
                e.args = (str(e).replace(str(draft), str(folder)),)
                raise
            finally:
                lock.release()
                shutil.rmtree(draft, ignore_errors=True)
        except BaseException:
            for path in made:  # the deepest first; those that hold something stay
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise


def _make_folder(folder: Path) -> list[Path]:
    """Makes a folder and those above it; returns the new ones, the deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _new_draft(folder: Path) -> tuple[Path, filelock.BaseFileLock]:
    """A new folder, and the lock inside that shows that its process lives."""
    while True:
        draft = Path(tempfile.mkdtemp(_DRAFT[1], _DRAFT[0], folder))
        lock = filelock.FileLock(draft / _LOCK, thread_local=False)
        # until it is locked, another process may take it for one that was left
        with contextlib.suppress(filelock.Timeout, FileNotFoundError):
            lock.acquire(blocking=False)
            if (draft / _LOCK).exists():
                return draft, lock
            lock.release()


def sweep(folder: str | os.PathLike) -> None:
    """Removes drafts from a folder whose processes were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(_DRAFT[0]) and entry.name.endswith(_DRAFT[1])):
                continue
            lock = filelock.FileLock(Path(entry.path) / _LOCK, thread_local=False)
            with contextlib.suppress(OSError, NotImplementedError):  # also a Timeout: its process lives
                lock.acquire(blocking=False)
                shutil.rmtree(entry.path, ignore_errors=True)
                lock.release()


def holds_nothing(folder: str | os.PathLike) -> bool:
    """Whether a folder is missing or empty, but for what this package has put there for a while."""
    folder = Path(folder)
    if not os.path.lexists(folder):
        return True
    return folder.is_dir() and all(name.startswith(OWN) for name in os.listdir(folder))


def replace_file(
    path: str | os.PathLike, write: Callable[[Path], object], words: str | None = None, swept: bool = False
) -> None:
    """Writes a file elsewhere, see `drafts`, and puts it in its place in one step; several processes may do so at once.

    Of a link, the file that it points to is replaced. A pipe or device gets the bytes.

    Args:
        path: of the file. One that is there already stays until the new one is whole.
        write: takes the path to write to, whose name is the file's.
        words: what could not be done, to what, for the error; None for a general one.
        swept: see `drafts`.

    Raises:
        WriteError: it cannot be written.
    """
    words = words or f'{path}: cannot write this file'
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with refusing(words, path), tempfile.TemporaryDirectory() as folder:
            write(Path(folder, 'file'))
            with open(path, 'wb') as file:
                file.write(Path(folder, 'file').read_bytes())
        return
    path = Path(os.path.realpath(path))
    with refusing(words, path.parent):
        os.stat(f'{path.parent}/.')  # unlike `drafts`, this makes no folder
    with drafts(path.parent, words, swept=swept) as draft:
        write(draft / path.name)


def replace_text(path: str | os.PathLike, text: str, words: str | None = None) -> None:
    """`replace_file` with a text, in UTF-8."""
    replace_file(path, lambda draft: draft.write_text(text, encoding='utf-8'), words)


def replace_rows(path: str | os.PathLike, rows: Iterable[Iterable], words: str | None = None) -> None:
    """`replace_file` with rows of a CSV, in UTF-8."""

    def write(draft: Path) -> None:
        with open(draft, 'w', encoding='utf-8', newline='') as file:
            csv.writer(file).writerows(rows)

    replace_file(path, write, words)


def append_text(path: str | os.PathLike, text: str, words: str) -> None:
    """Adds a text to a file, in UTF-8: all of it, or nothing; several processes may do so at once.

    Args:
        path: of the file, which is made where it is missing.
        text: to add.
        words: what could not be done, to what, for the error.

    Raises:
        WriteError: it cannot be written.
    """
    with refusing(words, Path(path)), open(path, 'ab', buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        content = text.encode()
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, size)
            raise


@contextlib.contextmanager
def locked(folder: str | os.PathLike, words: str | None = None) -> Iterator[None]:
    """Keeps other processes, also those of other machines, from writing to a folder.

    It ends with the process, however that ends. Where the file system has no locks, the log says so.

    Args:
        folder: made where it is missing.
        words: what could not be done, to what, for the error; None for a general one.

    Raises:
        InputError: another process holds it; the message tells which one.
        WriteError: nothing can be written there.
    """
    path = Path(folder) / _LOCK
    held: list[int] = []

    def describe(descriptor: int) -> None:
        held[:] = [os.fstat(descriptor).st_ino]
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f'{os.getpid()} on {socket.gethostname()}'.encode())

    lock = filelock.FileLock(path, thread_local=False, on_acquired=describe)
    with refusing(words or f'{folder}: cannot write there', Path(folder)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            while True:
                lock.acquire(blocking=False)
                # a process that just ended may have removed the file, so that a third one would lock another
                if path.exists() and path.stat().st_ino in held:
                    break
                lock.release()
        except filelock.Timeout as e:
            with contextlib.suppress(OSError):
                holder = path.read_text(encoding='utf-8')
                raise InputError(
                    f'{folder}: process {holder} writes there: wait until it ends, stop it, or choose another folder'
                ) from e
            raise InputError(f'{folder}: another process writes there: choose another folder') from e
        except NotImplementedError:
            _logger.warning(f'{folder}: its file system has no locks: let no other process write there')
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
            lock.release()


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds, in UTF-8.

    Raises:
        OSError: it is missing, no regular file, or cannot be read.
        ValueError: it is no JSON.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would be waited for, a device has no end
        raise OSError(errno.EINVAL, 'not a regular file', str(path))
    if reason := pointer(path):
        raise ValueError(reason)
    return parse_json(Path(path).read_text(encoding='utf-8-sig'))


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None


def check_regular(path: str | os.PathLike, empty: bool = False) -> None:
    """Refuses what is there like a file and is none, before it is opened: a pipe would wait, a device might never end.

    Args:
        path: of the file.
        empty: whether it may be empty, as those seem that the system makes up while they are read.

    Raises:
        OSError: it is missing, no regular file, or empty.
    """
    status = os.stat(path)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind or not (status.st_size or empty):
        raise OSError(f'it is {kind} and no file' if kind else 'the file is empty')


def pointer(path: str | os.PathLike) -> str:
    """Why a file is none, where it is one of the pointers that Git LFS leaves in place of large files; else ''."""
    try:
        # a file without a size may be one that the system makes up, and have no end
        small = os.path.isfile(path) and 0 < os.path.getsize(path) < 1024
        with open(path if small else os.devnull, 'rb') as file:
            found = file.read(24) == b'version https://git-lfs.'
    except OSError:
        return ''
    return 'it is a pointer of Git LFS, which stands for the file itself: run git lfs pull where it is from' * found
