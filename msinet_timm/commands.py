"""What all commands share: how bad input is reported, and where progress goes."""

import argparse
import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import msinet_commands

from .errors import InputError, check_utf8, one_line

__all__ = [
    'below_one',
    'command',
    'find_device',
    'format_table',
    'fraction',
    'make_folder',
    'not_negative',
    'not_negative_float',
    'pixels',
    'positive',
    'positive_float',
    'processes',
    'progress',
    'whole',
]


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turns a function into the body of a console script.

    An `InputError`, memory that does not suffice, a process that was killed and a full standard output become one line
    on standard error and exit code 2. Ctrl-C ends with 130, and a reader of standard output that went away with 141, as
    shells expect. Log messages go to standard error as plain lines: this project's from level INFO on, others' from
    WARNING on.

    Args:
        main: takes the list of arguments (None: `sys.argv`), returns an exit code or None for 0.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        msinet_commands.ready()  # of what python -m has begun
        handler = logging.StreamHandler(sys.stderr)
        handler.addFilter(_concerns_users)
        logging.basicConfig(level=logging.INFO, format='%(message)s', handlers=[handler])
        # load_image refuses what Pillow warns of here, and names the file
        warnings.filterwarnings('ignore', 'Image size .* could be decompression bomb')
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, 'reconfigure'):  # what it cannot show is shown by its number
                stream.reconfigure(errors='backslashreplace')
        try:
            try:
                _check_arguments(sys.argv[1:] if argv is None else argv)
                return main(argv) or 0
            finally:
                _flush()
        except (Exception, KeyboardInterrupt) as e:
            told = _explain(e)
            if told is None:
                raise
            code, text = told
            with contextlib.suppress(OSError):
                print(text, end='\n' if text else '', file=sys.stderr)
            return code

    return run


def _check_arguments(argv: Sequence[str]) -> None:
    """Refuses names that no file has (a NUL character comes from programs alone), or that no JSON or table can hold."""
    for before, text in zip(('', *argv), argv, strict=False):
        check_utf8(text)
        if '\0' in text:
            raise InputError(f'{before} {text!r} holds a NUL character'.lstrip())


def _concerns_users(record: logging.LogRecord) -> bool:
    """Other libraries tell at level INFO where they look, such as addresses with a signature."""
    return record.levelno >= logging.WARNING or record.name.startswith(('msinet_', '__main__'))


def _flush() -> None:
    if sys.stdout is not None:  # as it is where it was closed from the start
        sys.stdout.flush()


def _explain(error: BaseException) -> tuple[int, str] | None:
    """Exit code and line for how a command ended; None where a user can do nothing about it."""
    if isinstance(error, InputError):
        return 2, f'error: {error}'
    if isinstance(error, KeyboardInterrupt):
        return 130, 'interrupted'
    if isinstance(error, OSError):
        before, told = error.__context__, _explain_output(error)
        # what went wrong first is more telling than that it cannot be written
        return _explain(before) if told and isinstance(before, InputError | KeyboardInterrupt) else told
    text = one_line(error)
    reading = text.startswith('DataLoader worker (pid')
    if reading or type(error).__name__ == 'BrokenProcessPool':
        kind = 'reading' if reading else 'rendering'
        return 2, f'error: a {kind} process was killed, probably for lack of memory: lower --workers ({text})'
    lacking = type(error).__name__ == 'OutOfMemoryError' or "DefaultCPUAllocator: can't allocate" in text
    if isinstance(error, MemoryError) or lacking:
        return 2, f'error: the memory does not suffice: give smaller batches or images, or fewer workers ({text})'
    return None


def _explain_output(error: OSError) -> tuple[int, str] | None:
    """As `_explain`, for an error of standard output, which shows when that is tried again."""
    try:
        print(flush=True)
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # Python itself tries once more, at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141, ''
        return 2, f'error: cannot write to standard output ({error.strerror})'
    return None


def make_folder(folder: str | Path, flag: str) -> Path:
    """Makes a folder that a flag asks for, and those above it, unless it is there.

    Raises:
        InputError: it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f'{flag}: cannot create the folder {folder} ({e.strerror})') from e
    return folder


def format_table(rows: Sequence[Sequence[object]], align: str = '<>') -> str:
    """Aligned lines of text.

    Args:
        rows: cells of each line, as many in all of them; the first line may be a heading.
        align: `<` or `>` for each column; the last stands for all that follow.
    """
    columns = [[str(cell) for cell in column] for column in zip(*rows, strict=True)]
    sides = align.ljust(len(columns), align[-1])
    padded = [
        [f'{cell:{side}{max(map(len, column))}}' for cell in column]
        for column, side in zip(columns, sides, strict=True)
    ]
    return '\n'.join('  '.join(line).rstrip() for line in zip(*padded, strict=True))


def progress(iterable=None, **kwargs):
    """A tqdm bar with rate and remaining time, silent where standard error is no terminal."""
    from tqdm import tqdm

    return tqdm(iterable, disable=None, dynamic_ncols=True, **kwargs)


def find_device(name: str | None = None):
    """The torch device of a name; for None the first GPU, or the CPU where there is none.

    Raises:
        InputError: torch cannot use it.
    """
    import torch

    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # the device "meta" has shapes alone
    except (RuntimeError, AssertionError) as e:  # torch asserts that it was built with CUDA
        raise InputError(f'--device {name} cannot be used: {str(e).splitlines()[0]}') from e
    return device


def _limited(parse: Callable[[str], float], *limits: tuple[Callable[[float], bool], str]) -> Callable[[str], float]:
    def convert(text: str):
        value = parse(text)
        for allowed, words in limits:
            if not allowed(value):
                raise argparse.ArgumentTypeError(f'must be {words}, got {text}')
        return value

    convert.__name__ = 'number'  # argparse says "invalid number value" for what cannot be parsed
    return convert


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """Type of a flag for argparse: an integer in a range, by default up to what libraries in C count to."""
    return _limited(int, (lambda v: v >= low, f'at least {low}'), (lambda v: v <= high, f'at most {high:,}'))


def _real(allowed: Callable[[float], bool], words: str) -> Callable[[str], float]:
    return _limited(float, (allowed, words), (lambda v: v < float('inf'), 'finite'))


#: Types of flags for argparse.
positive = whole(1)
not_negative = whole(0)
pixels = whole(2, 4096)
processes = whole(0, 256)
positive_float = _real(lambda v: v > 0, 'greater than 0')
not_negative_float = _real(lambda v: v >= 0, 'at least 0')
fraction = _real(lambda v: 0 <= v <= 1, 'between 0 and 1')
below_one = _real(lambda v: 0 <= v < 1, 'at least 0 and below 1')
