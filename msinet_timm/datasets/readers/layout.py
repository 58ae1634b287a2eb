"""Finding and reading what benchmarks have on disk: folders under several names, file names that say it all, lists."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern

from msinet_timm.datasets.records import Record
from msinet_timm.errors import InputError

__all__ = ['JUNK', 'FileNames', 'find_folder', 'image_names', 'number_name', 'read_lines', 'require_file']

#: What data sets call images of nobody, such as bad detections.
JUNK = '-1'
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def find_folder(
    root: str | Path, names: Sequence[str], parts: Sequence[str], holds: Callable[[Path], bool] | None = None
) -> Path:
    """The folder of a data set: the root, or what is below it under the names that the data set is known by.

    Args:
        root: where to begin.
        names: of folders, one inside another if need be; case does not matter.
        parts: what is expected there, for the message.
        holds: tells whether a folder is it; None: it holds at least one of the parts. The message of a missing part
            comes later, and is better.

    Raises:
        InputError: there is none.
    """
    root = Path(root)
    holds = holds or (lambda folder: any((folder / part).exists() for part in parts))
    level = [root]
    for _ in range(4):
        for folder in level:
            if holds(folder):
                return folder
        level = [child for folder in level for child in _children(folder, names)]
    state = 'has none of them' if root.is_dir() else 'is no folder'
    raise InputError(
        f'expected a folder with {", ".join(parts)}, but {root} {state}'
        + (f', nor has a folder in it named {" or ".join(names)}' if root.is_dir() and names else '')
    )


def _children(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    if not folder.is_dir():
        return
    order = {name.lower(): number for number, name in reversed(list(enumerate(names)))}
    with os.scandir(folder) as entries:
        found = [(order[e.name.lower()], e.name) for e in entries if e.name.lower() in order and e.is_dir()]
    yield from (folder / name for _, name in sorted(found))


def image_names(folder: Path) -> list[str]:
    """Sorted names of the images in a folder; hidden files such as macOS's `._0002_c1s1_000451_03.jpg` are none."""
    return sorted(n for n in os.listdir(folder) if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith('.'))


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a text file with their numbers from 1, stripped, without the blank ones.

    Raises:
        InputError: the file is missing, holds no lines, or is no text.
    """
    require_file(path)
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f'{path}: cannot read this list ({e})') from e
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise InputError(f'{path} is empty')
    return numbered


def require_file(path: Path, named_in: Path | None = None) -> None:
    """Raises `InputError` if a file is not there, with the list that names it."""
    if not path.is_file():
        raise InputError(f'{path} is missing' + (f', but {named_in} names it' if named_in else ''))


def number_name(number: str | int) -> str:
    """The name that a number in a file name stands for: `2` also for `0002`, which is the same person there."""
    return intern(str(int(number)))


def _to_names(groups: dict[str, str]) -> dict:
    return {name: int(value) if name == 'time' else number_name(value) for name, value in groups.items()}


@dataclass(frozen=True)
class FileNames:
    """File names that tell identity and camera.

    Attributes:
        pattern: of a whole name. Its groups are fields of `Record`.
        form: the pattern for people.
        example: a name.
        fields: groups -> fields of `Record`, where that takes more than `number_name`.
    """

    pattern: re.Pattern
    form: str
    example: str
    fields: Callable[[dict[str, str]], dict] = _to_names

    def record(self, folder: Path, name: str) -> Record:
        """Record of one image.

        Raises:
            InputError: the name does not parse.
        """
        match = self.pattern.fullmatch(name)
        if match is None:
            raise InputError(f'{folder / name}: expected {self.form}, like {self.example}')
        return Record(str(folder / name), **self.fields(match.groupdict()))

    def read(self, folder: Path, parts: Iterable[str]) -> tuple[Record, ...]:
        """Records of a folder in order of file names, without junk.

        Args:
            folder: one of the parts.
            parts: all of them, for the message.

        Raises:
            InputError: no such folder, no images in it, or a name that does not parse.
        """
        if not folder.is_dir():
            raise InputError(f'{folder} is missing: expected the folders {", ".join(parts)} side by side')
        records = tuple(r for r in (self.record(folder, n) for n in image_names(folder)) if r.identity != JUNK)
        if not records:
            raise InputError(f'{folder} holds no images: expected files named like {self.example}')
        return records
