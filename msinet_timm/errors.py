"""What a user can mend: wrong input, and packages that are missing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ['InputError', 'MissingPackageError', 'check_utf8', 'explained', 'needs', 'one_line']


class InputError(ValueError):
    """Input that a user can mend: the message names the file, field or flag, and the way out."""


class MissingPackageError(InputError, ImportError):
    """An optional package is missing: the message says how to install it."""


def check_utf8(name: str, what: str = '') -> None:
    """Refuses the name of a file that no JSON, table or page can hold.

    Args:
        name: to look at.
        what: it is the name of, for the message.

    Raises:
        InputError: its bytes are no UTF-8, so that Python has put surrogates into it; the message shows the bytes.
    """
    if name.isascii():
        return
    try:
        name.encode()
    except UnicodeEncodeError:
        try:
            shown = os.fsencode(name).decode('utf-8', 'backslashreplace')
        except UnicodeEncodeError:  # other surrogates
            shown = name.encode('utf-8', 'backslashreplace').decode()
        raise InputError(
            f'{what}{shown}: this name is not UTF-8: rename it, as by convmv -r -f cp1252 -t utf-8 --notest'
        ) from None


def one_line(error: Exception, limit: int = 400) -> str:
    """An exception's text without line breaks, shortened; the name of its type where the text says nothing alone."""
    text = ' '.join(str(error).split())
    if not text or isinstance(error, KeyError):  # whose text is only the key
        text = f'{type(error).__name__} {text}'.strip()
    return text if len(text) <= limit else f'{text[:limit]} ...'


@contextmanager
def explained(words: str) -> Iterator[None]:
    """Turns whatever goes wrong in files, networks and other packages into an `InputError`.

    Args:
        words: what could not be done, to what; the exception's text follows.

    Raises:
        InputError: any exception inside the `with`; an `InputError` stays as it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        raise InputError(f'{words}: {one_line(e)}') from e


@contextmanager
def needs(extra: str, what: str = '') -> Iterator[None]:
    """Turns a failing import into the way out.

    Args:
        extra: of msinet-timm, which brings the package.
        what: needs it, for the message.

    Raises:
        MissingPackageError: the package is missing.
    """
    try:
        yield
    except ImportError as e:
        package = (e.name or str(e)).partition('.')[0]
        missing = f'{what} needs {package}' if what else f'{package} is not installed'
        raise MissingPackageError(f'{missing}: pip install "msinet-timm[{extra}]"') from e
