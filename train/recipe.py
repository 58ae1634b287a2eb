"""Recipes: YAML files of settings."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from msinet_timm.errors import InputError, explained

__all__ = ['list_recipes', 'load_recipe']


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
        content = (resources.files('msinet_train') / 'recipes' / f'{name}.yaml').read_bytes()
    else:
        try:
            content = Path(name).read_bytes()
        except OSError as e:
            raise InputError(
                f'--recipe {name}: no such recipe or file ({e.strerror}); recipes: {", ".join(list_recipes())}'
            ) from e
    with explained(f'{name}: not valid YAML'):
        settings = yaml.safe_load(content)
    if not isinstance(settings, dict):
        raise InputError(f'{name}: expected settings as "name: value" lines')
    return settings
