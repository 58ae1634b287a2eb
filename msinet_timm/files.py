"""Files that are there as a whole or not at all."""

import csv
import os
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ['replace_file', 'replace_rows', 'replace_text']


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


def replace_rows(path: str | os.PathLike, rows: Iterable[Iterable]) -> None:
    """`replace_file` with rows of a CSV, in UTF-8."""

    def write(partial: Path) -> None:
        with open(partial, 'w', encoding='utf-8', newline='') as file:
            csv.writer(file).writerows(rows)

    replace_file(path, write)
