"""The one kind of error that a user can mend."""

__all__ = ['InputError']


class InputError(ValueError):
    """Input that a user can mend: the message names the file, field or flag, and the way out."""
