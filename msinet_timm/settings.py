"""Settings as a dataclass: its fields are the values of a Python call, their checks, and the flags of a command."""

import argparse
import re
import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = [
    'add_settings',
    'check',
    'check_used',
    'document',
    'flag_of',
    'flags_named',
    'given',
    'kind_of',
    'setting',
]

_NESTED = (list, tuple, dict, set)


def setting(
    group: str,
    default: Any,
    about: str,
    convert: Callable[[str], Any] | None = None,
    choices: Sequence[Any] = (),
    of: str = '',
    **flag: Any,
):
    """A field of a settings class.

    Args:
        group: heading of the command's help.
        default: what it is unless it is given.
        about: help text.
        convert: turns a text into a value, and refuses what is out of range; None goes by the field's type.
        choices: all values that are allowed; empty for any.
        of: name of the setting without which this one has no effect, or `'name=value'`.
        flag: what only the command needs: `short`, another flag; `metavar`, `nargs` and `const` of argparse; `type`,
            where a text that is typed means more than one in a file; `extends`, whether the flag adds to the recipe's
            list.
    """
    metadata = dict(group=group, about=about, convert=convert, choices=choices, of=of, flag=flag)
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def kind_of(setting: Field) -> tuple[type, bool, bool]:
    """By the type hint: type of the value, or of each in a list; whether it is a list; whether None is allowed."""
    hints = typing.get_args(setting.type) if isinstance(setting.type, types.UnionType) else (setting.type,)
    many = typing.get_origin(hints[0]) is list
    return typing.get_args(hints[0])[0] if many else hints[0], many, type(None) in hints


def check(setting: Field, value: Any) -> Any:
    """A value in the type of a setting; a single text or path where texts are listed becomes a list.

    Raises:
        InputError: it is not of that type, or not in the setting's range.
    """
    item, many, optional = kind_of(setting)
    if value is None and optional:
        return None
    if item is bool:
        if not isinstance(value, bool):
            raise InputError(f'{setting.name}: {_shown(value)} must be true or false')
        return value
    if not many:
        return _check_one(setting, item, value)
    values = [value] if item is str and isinstance(value, str | Path) else value
    if not isinstance(values, list | tuple):
        raise InputError(f'{setting.name}: {_shown(value)} must be a list')
    count = setting.metadata['flag'].get('nargs')
    if isinstance(count, int) and len(values) != count:
        raise InputError(f'{setting.name}: {list(values)} must have {count} values')
    return [_check_one(setting, item, v) for v in values]


def _shown(value: Any) -> str:
    """A value for a message. Lists in lists are only named: a few lines of YAML can hold more than any memory."""
    return f'a {type(value).__name__}' if isinstance(value, _NESTED) else repr(value)


def _check_one(setting: Field, item: type, value: Any) -> Any:
    choices = setting.metadata['choices']
    if isinstance(value, _NESTED):
        raise InputError(f'{setting.name}: {_shown(value)} is not allowed where one value is meant')
    try:
        if value is None:
            raise ValueError('it cannot be empty')
        text = value if isinstance(value, str) else str(value)  # which may be of a type of its own, as a remote place
        if '\0' in text:
            raise ValueError('it holds a NUL character')
        convert = setting.metadata['convert'] or item
        value = text if convert is str else convert(text)
    except (argparse.ArgumentTypeError, ValueError) as e:
        raise InputError(f'{setting.name}: {value!r} is not allowed ({e})') from e
    if choices and value not in choices:
        raise InputError(f'{setting.name}: {value!r} is not one of {", ".join(map(str, choices))}')
    return value


def document(cls: type) -> type:
    """Adds the settings to the docstring of their class, as its attributes."""
    texts = '\n'.join(f'        {f.name}: {f.metadata["about"]}' for f in fields(cls))
    cls.__doc__ = f'{cls.__doc__.rstrip()}\n\n    Attributes:\n{texts}\n'
    return cls


def add_settings(
    parser: argparse.ArgumentParser,
    settings: type,
    groups: Mapping[str, argparse._ActionsContainer] | None = None,
    silent: Container[str] = (),
    names: Container[str] | None = None,
) -> None:
    """Gives a command a flag for each setting. Flags that are not given leave no trace in what is parsed.

    Args:
        parser: of the command.
        settings: the class, whose `GROUPS` are the headings of the help in their order.
        groups: of flags that there are already, by their headings.
        silent: names of settings whose defaults the help does not tell.
        names: of the settings to give a flag, without headings; None for all.
    """
    groups = groups or {}
    for title in settings.GROUPS:
        group = parser if names else groups.get(title) or parser.add_argument_group(title)
        for setting in fields(settings):
            if setting.metadata['group'] == title and (not names or setting.name in names):
                _add_setting(group, setting, setting.name not in silent)


def _add_setting(group: argparse._ActionsContainer, setting: Field, show_default: bool) -> None:
    flag, about = dict(setting.metadata['flag']), setting.metadata['about']
    item, many, _ = kind_of(setting)
    names = [*filter(None, [flag.pop('short', None)]), flag_of(setting.name)]
    default = setting.default if setting.default is not MISSING else setting.default_factory()
    if show_default and 'default:' not in about and default not in (None, []) and item is not bool:
        about += f' (default: {" ".join(map(str, default)) if many else default})'
    if item is bool:
        flag['action'] = 'store_true' if default is False else argparse.BooleanOptionalAction
    else:
        flag.setdefault('type', setting.metadata['convert'] or item)
        flag['choices'] = setting.metadata['choices'] or None
        if item is int and not flag['choices']:
            flag.setdefault('metavar', 'N')
        if many:
            flag.setdefault('nargs', '+')
        if flag.pop('extends', False):
            flag['action'] = 'extend'
    group.add_argument(*names, default=argparse.SUPPRESS, help=about.replace('%', '%%'), **flag)


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return f'--{name.replace("_", "-")}'


def check_used(settings: Any, names: Container[str]) -> None:
    """Refuses settings that were given without the one that they are of.

    Args:
        settings: all of them.
        names: of those that were given.

    Raises:
        InputError: one of them has no effect.
    """
    for setting in fields(settings):
        of, _, needed = setting.metadata['of'].partition('=')
        if not of or setting.name not in names:
            continue
        value = getattr(settings, of)
        if value != needed if needed else not value:
            raise InputError(f'{setting.name} is a setting of `{of}`{f" {needed}" if needed else ""}: give that, too')


def given(args: argparse.Namespace, settings: type) -> dict[str, Any]:
    """The settings that were given as flags, by name."""
    return {f.name: getattr(args, f.name) for f in fields(settings) if hasattr(args, f.name)}


@contextmanager
def flags_named(*settings: type) -> Iterator[None]:
    """Puts flags in the place of settings in the words of an `InputError` from inside.

    A setting is a name at the beginning, or in backquotes: "k1 is a setting of `rerank`: give that, too".
    """
    names = '|'.join(f.name for kind in settings for f in fields(kind))
    try:
        yield
    except InputError as e:
        # a folder or file may be called as a setting is
        told = rf'^({names})(?=[ :])(?! is no | is missing| has | holds )|`({names})`'
        e.args = (re.sub(told, lambda found: flag_of(found[1] or found[2]), str(e)),)
        raise
