"""What a reader of a data set declares: its options, the folders it expects, and the published counts."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from msinet_timm.commands import not_negative
from msinet_timm.datasets.records import UNFINISHED, Counts, ReIDDataset
from msinet_timm.datasets.scenes import SceneSet
from msinet_timm.errors import InputError, check_utf8

from .layout import telling_skipped

__all__ = ['Option', 'Reader', 'add_data_option', 'key_value', 'parse_options']


@dataclass(frozen=True)
class Option:
    """A choice that a reader offers.

    Attributes:
        name: keyword of the reader's function.
        default: its type is the option's; a text where that is None.
        about: what it does, in a few words.
        choices: all values that are allowed; empty for any.
    """

    name: str
    default: str | int | float | bool | None
    about: str
    choices: tuple[str | int, ...] = ()

    def convert(self, value, dataset: str):
        """A value from Python or from a command line, in the option's type.

        Raises:
            InputError: it is not of that type, or not among the choices.
        """
        if self.choices:
            for choice in self.choices:
                if str(value) == str(choice):
                    return choice
            expected = ', '.join(map(str, self.choices))
        elif isinstance(self.default, bool):
            if str(value).lower() in ('true', 'false'):
                return str(value).lower() == 'true'
            expected = 'true, false'
        else:
            kind = str if self.default is None else type(self.default)
            try:
                return not_negative(value) if kind is int else kind(value)
            except (ValueError, argparse.ArgumentTypeError):
                expected = {int: 'an integer from 0 to 2,147,483,647', float: 'a number'}[kind]
        raise InputError(f"data set '{dataset}': option {self.name}={value} must be one of: {expected}")

    def __str__(self) -> str:
        choices = [str(c) for c in self.choices] or (['true', 'false'] if isinstance(self.default, bool) else [])
        default = '' if self.default is None else f'; default {str(self.default).lower()}'
        return f'{self.name}={"|".join(choices) or self.name.upper()}  {self.about}{default}'


@dataclass(frozen=True)
class Reader:
    """A data set that `create_dataset` knows, or `create_scenes`.

    Attributes:
        read: takes the root and the options as keywords.
        about: what it is, in a line.
        layout: the files that are expected, in a line.
        options: what may be chosen.
        known: published counts, by a description of the choice that they belong to ('' where there is none).
        needs_root: False if the data set is found without.
    """

    read: Callable[..., ReIDDataset | SceneSet]
    about: str
    layout: str
    options: tuple[Option, ...] = ()
    known: Mapping[str, Counts] = field(default_factory=dict)
    needs_root: bool = True

    def __call__(self, name: str, root: str | Path | None, options: Mapping) -> ReIDDataset | SceneSet:
        """Reads the data set.

        Raises:
            InputError: no root where one is needed, an unknown option or value, or whatever the reader finds wrong.
        """
        allowed = {option.name: option for option in self.options}
        for key in options:
            if key not in allowed:
                known = f'its options are: {", ".join(allowed)}' if allowed else 'it has none'
                raise InputError(f"data set '{name}': unknown option '{key}', {known}")
        converted = {key: allowed[key].convert(value, name) for key, value in options.items()}
        if root is None and self.needs_root:
            raise InputError(f"data set '{name}' needs its folder: give --data-dir, or root in Python")
        if root is not None and os.path.isdir(os.path.join(root, UNFINISHED)):
            raise InputError(
                f'{root}: its conversion is not finished: give the command msinet-data convert once more, which goes on'
            )
        root = str(root) if isinstance(root, Path) else root
        try:
            with telling_skipped(root or name):
                dataset = self.read(root, **converted)
        except InputError:
            raise
        except OSError as e:
            raise InputError(f'{e.filename or root}: cannot read it ({e.strerror or e})') from e
        check_utf8(dataset.root)
        dataset.check()
        return replace(dataset, options=dict(options))


def key_value(text: str) -> str:
    """Type of a flag for argparse: `KEY=VALUE`, unchanged."""
    if not text.partition('=')[0].isidentifier() or '=' not in text:
        raise argparse.ArgumentTypeError(f'expected KEY=VALUE, got {text!r}')
    return text


def add_data_option(parser: argparse._ActionsContainer) -> None:
    """Gives a command the flag `--data-option KEY=VALUE ...`, whose values `parse_options` takes."""
    parser.add_argument(
        '--data-option',
        type=key_value,
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='options of the data set, see msinet-data list',
    )


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
    """Options for `create_dataset` from texts that `key_value` has passed; the last of a name counts."""
    return {key: value for key, _, value in (pair.partition('=') for pair in pairs)}
