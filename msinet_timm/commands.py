"""What all commands share: how bad input is reported, and where progress goes."""

import argparse
import functools
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import InputError

__all__ = [
    'command',
    'find_device',
    'fraction',
    'make_folder',
    'not_negative',
    'positive',
    'positive_float',
    'progress',
    'format_table',
]


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turns a function into the body of a console script.

    An `InputError` becomes one line on standard error and exit code 2; Ctrl-C ends with 130, as shells expect.
    Log messages go to standard error as plain lines: this project's from level INFO on, timm's warnings.

    Args:
        main: takes the list of arguments (None: `sys.argv`), returns an exit code or None for 0.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
        logging.getLogger('timm').setLevel(logging.WARNING)
        # load_image refuses what Pillow warns of here, and names the file
        warnings.filterwarnings('ignore', 'Image size .* could be decompression bomb')
        try:
            return main(argv) or 0
        except InputError as e:
            print(f'error: {e}', file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            return 130

    return run


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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:  # torch asserts that it was built with CUDA
        raise InputError(f'--device {name} cannot be used: {str(e).splitlines()[0]}') from e
    return device


def _limited(parse: Callable[[str], float], allowed: Callable[[float], bool], limit: str) -> Callable[[str], float]:
    def convert(text: str):
        value = parse(text)
        if not allowed(value):
            raise argparse.ArgumentTypeError(f'must be {limit}, got {text}')
        return value

    convert.__name__ = 'number'  # argparse says "invalid number value" for what cannot be parsed
    return convert


#: Types of flags for argparse.
positive = _limited(int, lambda v: v >= 1, 'at least 1')
not_negative = _limited(int, lambda v: v >= 0, 'at least 0')
positive_float = _limited(float, lambda v: 0 < v < float('inf'), 'greater than 0')
fraction = _limited(float, lambda v: 0 <= v <= 1, 'between 0 and 1')
