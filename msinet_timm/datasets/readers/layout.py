"""Finding and reading what benchmarks have on disk: folders under several names, file names that say it all, lists."""

import codecs
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import TextIO

from msinet_timm.datasets.images import IMAGE_SUFFIXES
from msinet_timm.datasets.records import Record
from msinet_timm.errors import InputError
from msinet_timm.files import OWN

__all__ = [
    'JUNK',
    'FileNames',
    'find_folder',
    'folder_names',
    'image_names',
    'list_folder',
    'no_text',
    'number_name',
    'open_text',
    'pick_folders',
    'pick_images',
    'read_lines',
    'require_file',
    'skip',
    'skip_files',
    'telling_skipped',
    'walk',
]

#: What data sets call images of nobody, such as bad detections: in Market-1501 and in MARS.
JUNK = ('-1', '00-1')
# what systems leave everywhere, and texts about a data set
_HARMLESS = re.compile(
    r'thumbs\.db|desktop\.ini|\.ds_store|\._.*|\.git.*|(readme|licen[cs]e|citation)\b.*', re.IGNORECASE
)
_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF32_LE: 'utf-32',  # which begins as that of UTF-16
    codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}

_logger = logging.getLogger(__name__)

# what the reader that runs has left out; readers are many, and all of them list folders by the functions below
_skipped: ContextVar[Counter[str]] = ContextVar('skipped')


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


@contextmanager
def telling_skipped(root: str) -> Iterator[None]:
    """Logs, once, how many files of a data set's folder were left out inside the `with`, and of what kind."""
    skipped: Counter[str] = Counter()
    token = _skipped.set(skipped)
    try:
        yield
    finally:
        _skipped.reset(token)
    if skipped:
        kinds = ', '.join(f'{count:,} {kind}' for kind, count in skipped.most_common())
        _logger.warning(f'{root}: {skipped.total():,} skipped: {kinds}')


def skip(kind: str, count: int = 1) -> None:
    """Counts what a reader leaves out of a data set's folder."""
    if count:
        _skipped.get(Counter())[kind] += count


def skip_files(names: Iterable[str]) -> None:
    """Counts files by their ending, but for those that systems leave everywhere and texts about a data set."""
    for name in names:
        if not _is_harmless(name):
            skip('hidden' if name.startswith('.') else os.path.splitext(name)[1].lower() or 'without ending')


def _is_harmless(name: str) -> bool:
    return bool(_HARMLESS.fullmatch(name)) or name.startswith(OWN)


def pick_images(names: Iterable[str]) -> list[str]:
    """Those of a folder's files that are images, sorted; the others are counted as skipped.

    Hidden files such as macOS's `._0002_c1s1_000451_03.jpg` are no images.
    """
    names = list(names)
    images = {name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.')}
    skip_files(name for name in names if name not in images)
    return sorted(images)


def pick_folders(names: Iterable[str]) -> list[str]:
    """Those of a folder's folders that are not hidden, sorted; the others are counted as skipped."""
    names = sorted(names)
    skip('hidden folders', sum(name.startswith('.') and not _is_harmless(name) for name in names))
    return [name for name in names if not name.startswith('.')]


def image_names(folder: Path) -> list[str]:
    """Sorted names of the images in a folder that should hold nothing else; see `pick_images`."""
    folders, files = list_folder(folder)
    skip(f'folders in {folder.name}', len(pick_folders(folders)))
    return pick_images(files)


def folder_names(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder that should hold nothing else; see `pick_folders`."""
    folders, files = list_folder(folder)
    skip(f'images beside the folders in {folder.name}', len(pick_images(files)))
    return pick_folders(folders)


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder."""
    names: tuple[list[str], list[str]] = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            names[not entry.is_dir()].append(entry.name)
    return names


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """What `os.walk` gives, through links to folders, too.

    Raises:
        OSError: a folder cannot be opened, which `os.walk` itself passes over.
    """

    def refuse(error: OSError) -> None:
        raise error

    return os.walk(folder, onerror=refuse, followlinks=True)


def open_text(path: Path, encoding: str | None = None) -> TextIO:
    """Opens a text of the user's, with line ends as they are.

    Args:
        path: of the file.
        encoding: None for that of the mark at its beginning, else UTF-8.

    Raises:
        InputError: it is UTF-16 without a mark, or something else that is no text.
        OSError: it cannot be read.
    """
    if encoding is None:
        with open(path, 'rb') as file:
            start = file.read(4)
        if b'\0' in start and not start.startswith(tuple(_MARKS)):
            way = f'write it anew, as by iconv -f utf-16le -t utf-8 {path} > new'
            raise InputError(f'{path}: not UTF-8, perhaps UTF-16: {way}')
        encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), 'utf-8')
    return open(path, encoding=encoding, newline='')


def no_text(path: Path, what: str, error: UnicodeError) -> str:
    """What is wrong with a text (a `table`, a `list`) that cannot be decoded, and the way out."""
    told, source = str(error), getattr(error, 'encoding', '').lower()
    if source == 'utf-8':
        source = 'cp1252'
        with open(path, 'rb') as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as e:
                    shown = line[max(0, e.start - 20) : e.start + 20].strip().decode('utf-8', 'backslashreplace')
                    told = f"line {number} holds '{shown}', perhaps it is {source}"
                    break
    way = f'write it anew, as by iconv -f {source} -t utf-8 {path} > new'
    return f'{path}: cannot read this {what} ({told}); it must be UTF-8 text: {way}'


def read_lines(path: Path, may_be_empty: bool = False) -> list[tuple[int, str]]:
    """Lines of a text file with their numbers from 1, stripped, without the blank ones.

    Raises:
        InputError: the file is missing, holds no lines where it must, or is no text.
    """
    require_file(path)
    try:
        with open_text(path) as file:
            lines = file.read().splitlines()
    except OSError as e:
        raise InputError(f'{path}: cannot read this list ({e})') from e
    except UnicodeError as e:
        raise InputError(no_text(path, 'list', e)) from e
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered and not may_be_empty:
        raise InputError(f'{path} is empty')
    return numbered


def require_file(path: Path, named_in: Path | None = None) -> None:
    """Raises `InputError` if a file is not there, or is a folder, with the list that names it."""
    if not path.is_file():
        wrong = 'is a folder: give a file' if path.is_dir() else 'is missing'
        raise InputError(f'{path} {wrong}' + (f', but {named_in} names it' if named_in else ''))


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
        records = tuple(r for r in (self.record(folder, n) for n in image_names(folder)) if r.identity not in JUNK)
        if not records:
            raise InputError(f'{folder} holds no images: expected files named like {self.example}')
        return records
