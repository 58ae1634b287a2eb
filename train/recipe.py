"""Recipes: YAML files of settings under a command line that overrides them."""

import argparse
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from msinet_timm.errors import InputError

__all__ = ['list_recipes', 'load_recipe', 'parse_with_recipe']


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files('msinet_train') / 'recipes'
    return sorted(f.name.removesuffix('.yaml') for f in folder.iterdir() if f.name.endswith('.yaml'))


def load_recipe(name: str) -> dict[str, Any]:
    """Reads a recipe by name or path.

    Raises:
        InputError: no such recipe or file, or a file that holds no settings.
    """
    if name in list_recipes():
        text = (resources.files('msinet_train') / 'recipes' / f'{name}.yaml').read_text(encoding='utf-8')
    else:
        try:
            text = Path(name).read_text(encoding='utf-8')
        except OSError as e:
            raise InputError(
                f'--recipe {name}: no such recipe or file ({e.strerror}); recipes: {", ".join(list_recipes())}'
            ) from e
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise InputError(f'{name}: not valid YAML ({" ".join(str(e).split())})') from e
    if not isinstance(settings, dict):
        raise InputError(f'{name}: expected settings as "name: value" lines')
    return settings


def parse_with_recipe(
    parser: argparse.ArgumentParser, argv: list[str] | None, settings: dict[str, Any], source: str
) -> argparse.Namespace:
    """Parses a command line on top of a recipe's settings, which are checked as if they were given as flags.

    Raises:
        InputError: a setting that the parser has no flag for, or a value that the flag doesn't take.
    """
    actions = {action.dest: action for action in parser._actions if action.dest != 'help'}
    for name, value in settings.items():
        if name not in actions:
            raise InputError(f'{source}: unknown setting {name!r}; known are {", ".join(sorted(actions))}')
        parser.set_defaults(**{name: _check(actions[name], value, f'{source}: {name}')})
    return parser.parse_args(argv)


def _check(action: argparse.Action, value: Any, where: str) -> Any:
    if value is None or isinstance(action, (argparse._StoreTrueAction, argparse.BooleanOptionalAction)):
        if value is not None and not isinstance(value, bool):
            raise InputError(f'{where}: {value!r} must be true or false')
        return value
    if action.nargs is not None:
        if not isinstance(value, list):
            raise InputError(f'{where}: {value!r} must be a list')
        return [_check_one(action, v, where) for v in value]
    return _check_one(action, value, where)


def _check_one(action: argparse.Action, value: Any, where: str) -> Any:
    try:
        value = action.type(str(value)) if action.type else str(value)
    except (argparse.ArgumentTypeError, ValueError) as e:
        raise InputError(f'{where}: {value!r} is not allowed ({e})') from e
    if action.choices is not None and value not in action.choices:
        raise InputError(f'{where}: {value!r} is not one of {", ".join(map(str, action.choices))}')
    return value
