"""Files that are there as a whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ['replace_file', 'replace_text']


def replace_file(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """Writes a file under another name, which it gives up in one step; several processes may do so at once.

    Args:
        path: of the file. One that is there already stays until the new one is whole.
        write: takes the other name, and writes that file.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: str | os.PathLike, text: str) -> None:
    """`replace_file` with a text, in UTF-8."""
    replace_file(path, lambda partial: partial.write_text(text, encoding='utf-8'))
