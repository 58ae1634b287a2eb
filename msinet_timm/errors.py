"""The one kind of error that a user can mend, and how others become it."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ['InputError', 'needs', 'one_line']


class InputError(ValueError):
    """Input that a user can mend: the message names the file, field or flag, and the way out."""


def one_line(error: Exception, limit: int = 400) -> str:
    """An exception's text without line breaks, shortened; the name of its type where the text says nothing alone."""
    text = ' '.join(str(error).split())
    if not text or isinstance(error, KeyError):  # whose text is only the key
        text = f'{type(error).__name__} {text}'.strip()
    return text if len(text) <= limit else f'{text[:limit]} ...'


@contextmanager
def needs(extra: str, subject: str = 'this') -> Iterator[None]:
    """Turns the failing import of an optional package into the way out.

    Args:
        extra: of this package, which brings what is missing.
        subject: what needs it: a flag, a file or a feature.

    Raises:
        InputError: an import inside the `with` fails.
    """
    try:
        yield
    except ImportError as e:
        package = (e.name or str(e)).partition('.')[0]
        raise InputError(f'{subject} needs {package}: pip install "msinet-timm[{extra}]"') from e
