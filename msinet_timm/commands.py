"""What all commands share: how bad input is reported, and where progress goes."""

import functools
import logging
import sys
from collections.abc import Callable

__all__ = ['InputError', 'command', 'progress']


class InputError(ValueError):
    """Input that a user can mend: the message names the file, field or flag, and the way out."""


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turns a function into the body of a console script.

    An `InputError` becomes one line on standard error and exit code 2; Ctrl-C ends with 130, as shells expect.
    Log messages of level INFO and above go to standard error as plain lines.

    Args:
        main: takes the list of arguments (None: `sys.argv`), returns an exit code or None for 0.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
        try:
            return main(argv) or 0
        except InputError as e:
            print(f'error: {e}', file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            return 130

    return run


def progress(iterable=None, **kwargs):
    """A tqdm bar with rate and remaining time, silent where standard error is no terminal."""
    from tqdm import tqdm

    return tqdm(iterable, disable=None, dynamic_ncols=True, **kwargs)
