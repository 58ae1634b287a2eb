"""Genotypes: which interaction stands at each of the twelve places of an MSINet."""

import json
import os
import re
import warnings
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from msinet_timm.errors import InputError
from msinet_timm.files import read_json, replace_text

from .interactions import INTERACTIONS

__all__ = ['NUM_CELLS', 'UNIFORM', 'Genotype', 'find_genotype', 'keep_genotype', 'named_genotypes', 'own_folder']

NUM_CELLS = 6


class Genotype(tuple[str, ...]):
    """Twelve interaction names; entries 2k and 2k + 1 are the first and second interaction of cell k.

    It is a tuple, so that it compares, hashes and turns into JSON as one.

    Args:
        operations: twelve keys of `msinet_timm.models.interactions.INTERACTIONS`.

    Raises:
        ValueError: another number of names, or a name that is no interaction.
    """

    def __new__(cls, operations: Iterable[str]) -> 'Genotype':
        operations = tuple(operations)
        allowed = ', '.join(INTERACTIONS)
        if len(operations) != 2 * NUM_CELLS:
            raise InputError(
                f'a genotype has {2 * NUM_CELLS} interactions, two for each of {NUM_CELLS} cells, '
                f'not {len(operations)}; each is one of {allowed}'
            )
        for place, name in enumerate(operations):
            if name not in INTERACTIONS:
                raise InputError(f'unknown interaction {name!r} at place {place} of a genotype: allowed are {allowed}')
        return super().__new__(cls, operations)

    def __repr__(self) -> str:
        return f'Genotype({list(self)})'

    def __getnewargs__(self) -> tuple[tuple[str, ...]]:
        return (tuple(self),)

    @property
    def cells(self) -> tuple[tuple[str, str], ...]:
        """The pairs of interactions, one pair a cell."""
        return tuple((self[2 * k], self[2 * k + 1]) for k in range(NUM_CELLS))

    @classmethod
    def load(cls, path: str | os.PathLike) -> 'Genotype':
        """Reads a JSON file: a list of twelve names, or an object that has it under `operations`.

        Raises:
            ValueError: the file is missing, is no JSON, or holds no genotype; the message names it.
        """
        path = Path(path)
        try:
            data = read_json(path)
        except OSError as e:
            raise InputError(f'{path}: cannot read this genotype file ({e.strerror or e})') from e
        except ValueError as e:
            raise InputError(f'{path}: this genotype file is no JSON ({e})') from e
        operations = data.get('operations') if isinstance(data, dict) else data
        if not isinstance(operations, list):
            raise InputError(f'{path}: expected a list of {2 * NUM_CELLS} interactions, or one under "operations"')
        try:
            return cls(operations)
        except InputError as e:
            raise InputError(f'{path}: {e}') from e

    def save(self, path: str | os.PathLike, **details: Any) -> None:
        """Writes a JSON file that `load` reads.

        Args:
            path: where to.
            **details: what else to keep beside the operations, such as the data set and the seed of a search.
        """
        replace_text(path, json.dumps({'operations': list(self), **details}, indent=2) + '\n')


#: Genotypes of one interaction at all places, by name. They are for comparisons, and no timm models of their own.
UNIFORM = {f'all_{name}': Genotype([name] * 2 * NUM_CELLS) for name in INTERACTIONS}


@cache
def named_genotypes() -> dict[str, Genotype]:
    """Genotypes by name: `UNIFORM`, `hub_configs/genotypes/*.json`, the user's, and those of `register_genotype`."""
    folder = resources.files('msinet_timm.hub_configs') / 'genotypes'
    files = sorted((f for f in folder.iterdir() if f.name.endswith('.json')), key=lambda f: f.name)
    shipped = UNIFORM | {f.name.removesuffix('.json'): Genotype.load(str(f)) for f in files}
    return _own_genotypes() | shipped


def own_folder() -> Path:
    """Where `keep_genotype` keeps what searches have found, so that all programs of a user know it.

    The environment variable `MSINET_GENOTYPES`, or `msinet_timm/genotypes` where programs keep their data
    (`XDG_DATA_HOME`, `~/.local/share`).
    """
    data = os.environ.get('XDG_DATA_HOME') or Path.home() / '.local' / 'share'
    return Path(os.environ.get('MSINET_GENOTYPES') or Path(data) / 'msinet_timm' / 'genotypes')


def _own_genotypes() -> dict[str, Genotype]:
    """Those of `own_folder`. A broken file must not keep every program from importing the models: it is told of."""
    found = {}
    try:
        files = sorted(own_folder().glob('*.json'))
    except (OSError, RuntimeError):  # a folder that cannot be read, or no home
        return found
    for file in files:
        try:
            check_genotype_name(file.stem)
            found[file.stem] = Genotype.load(file)
        except InputError as e:
            warnings.warn(f'{file}: left out ({e})', stacklevel=2)
    return found


def keep_genotype(name: str, genotype: Genotype, **details: Any) -> Path:
    """Makes a genotype a timm model of every program that imports `msinet_timm` from now on, see `own_folder`.

    Args:
        name: lower-case letters, digits and underscores; `msinet_NAME_x1_0` and so on are the models.
        genotype: to keep; one of that name that was kept before is replaced.
        details: to be kept with it, see `Genotype.save`.

    Returns:
        The file.

    Raises:
        InputError: a bad name, one that is shipped, or a folder that cannot be written.
    """
    check_own_name(name)
    file = own_folder() / f'{name}.json'
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        genotype.save(file, **details)
    except OSError as e:
        raise InputError(
            f'{file}: cannot be written ({e.strerror or e}): set MSINET_GENOTYPES to another folder'
        ) from e
    return file


def check_own_name(name: str) -> None:
    """Raises an InputError unless a genotype can be kept under a name."""
    check_genotype_name(name)
    shipped = named_genotypes().keys() - _own_genotypes().keys()
    if name in shipped:
        raise InputError(f'genotype name {name!r}: is one of {", ".join(sorted(shipped))}, which everybody has')


def find_genotype(spec: 'str | os.PathLike | Iterable[str]') -> Genotype:
    """The genotype that a model argument means.

    Args:
        spec: a name such as `'msmt'`, the path of a JSON file, or twelve interaction names.

    Raises:
        ValueError: no such name or file, or no genotype; the message says what is allowed.
    """
    if isinstance(spec, Genotype):
        return spec
    if isinstance(spec, str) and spec in named_genotypes():
        return named_genotypes()[spec]
    if isinstance(spec, os.PathLike) or (isinstance(spec, str) and (spec.endswith('.json') or os.path.exists(spec))):
        return Genotype.load(spec)
    if isinstance(spec, str):
        raise InputError(
            f'unknown genotype {spec!r}: give one of {", ".join(named_genotypes())}, the path of a JSON file, '
            f'or a list of {2 * NUM_CELLS} out of {", ".join(INTERACTIONS)}'
        )
    return Genotype(spec)


def check_genotype_name(name: str) -> None:
    """Raises a ValueError unless a name can be part of a model's name."""
    if not re.fullmatch(r'[a-z][a-z0-9_]*', name):
        raise InputError(f'genotype name {name!r}: use lower-case letters, digits and underscores, a letter first')
