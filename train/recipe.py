"""Recipes: YAML files of settings."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from msinet_timm.errors import InputError

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
