"""The distance below which two images are held to be of one identity, kept beside a model's weights."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from msinet_timm.errors import InputError
from msinet_timm.files import read_json, replace_text
from msinet_timm.models.entries import find_entry

__all__ = ['FILE_NAME', 'Calibration', 'find_calibration']

FILE_NAME = 'calibration.json'
_FALSE_POSITIVE_RATE = 1e-3
_LARGEST = 1e300  # also whole numbers that no float can hold are none


@dataclass(frozen=True)
class Calibration:
    """A threshold, and what it was measured on.

    It holds for embeddings made and normalised as for the measurement, and the rates hold for images like those.

    Attributes:
        threshold: largest Euclidean distance of two images that are held to be of one identity, greater than 0.
        false_positive_rate: share of different pairs that are held to be the same, 0-1.
        true_positive_rate: share of same pairs that are, 0-1.
        dataset: name of the data set it was measured on.
        model: name of the model whose embeddings were measured.

    Raises:
        InputError: a value of another type or out of its range.
    """

    threshold: float
    false_positive_rate: float
    true_positive_rate: float
    dataset: str
    model: str

    def __post_init__(self) -> None:
        for name, highest in (('threshold', math.inf), ('false_positive_rate', 1), ('true_positive_rate', 1)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= min(highest, _LARGEST) or (name == 'threshold' and value == 0):
                range_ = 'a number greater than 0' if name == 'threshold' else 'a number from 0 to 1'
                raise InputError(f'{name} must be {range_}, got {value!r}')
        for name in ('dataset', 'model'):
            if not isinstance(getattr(self, name), str):
                raise InputError(f'{name} must be a name, got {getattr(self, name)!r}')

    @classmethod
    def from_verification(
        cls,
        result: Any,
        *,
        dataset: str,
        model: str,
        false_positive_rate: float = _FALSE_POSITIVE_RATE,
    ) -> 'Calibration':
        """The threshold of one of a result's operating points.

        Args:
            result: of `msinet_eval.metrics.verification.evaluate_verification`, asked for this rate.
            dataset: name of what was measured.
            model: name of what it was measured with.
            false_positive_rate: how many of the different pairs may be held to be the same.

        Raises:
            InputError: the result was not asked for the rate, has too few different pairs to measure it, or no
                threshold keeps it.
        """
        point = result.at(false_positive_rate)
        if math.isnan(point.threshold):
            raise InputError(
                f'no calibration at a false positive rate of {false_positive_rate:g}: {dataset} has only '
                f'{result.different_pairs:,} different pairs'
            )
        if point.threshold <= 0:
            raise InputError(
                f'no calibration: more than {false_positive_rate:g} of the different pairs of {dataset} have no '
                f'distance at all, {model} embeds images alike'
            )
        return cls(point.threshold, point.false_positive_rate, point.true_positive_rate, dataset, model)

    def same(self, distance: float) -> bool:
        """Whether two images at this Euclidean distance are held to be of one identity."""
        return distance <= self.threshold

    def save(self, folder: str | Path) -> Path:
        """Writes `calibration.json` into a model's folder: the whole file, or nothing.

        Raises:
            InputError: it cannot be written.
        """
        path = Path(folder) / FILE_NAME
        replace_text(path, json.dumps(asdict(self), indent=2) + '\n', f'{path}: cannot write the calibration')
        return path

    @classmethod
    def load(cls, path: str | Path) -> 'Calibration':
        """Reads what `save` has written.

        Raises:
            InputError: missing, or not such a file; names the field.
        """
        try:
            entry = read_json(path)
        except (OSError, ValueError) as e:
            raise InputError(f'{path}: cannot read the calibration ({e})') from e
        return _from_entry(entry, str(path))


def find_calibration(model: str | Path) -> Calibration | None:
    """The calibration of a model, as a name or folder of it is given to commands; None where there is none.

    A name in `hub_configs/*.json` (`architecture`, `architecture.tag`, or the Hub id behind `hf-hub:`) has it in that
    entry's field `threshold`: an object with the attributes of `Calibration` except `model`. A folder, with or
    without `local-dir:`, has it in `calibration.json` or `best/calibration.json`; a checkpoint has it beside it.

    Raises:
        InputError: there is one, but it is damaged.
    """
    name = str(model)
    entry = find_entry(name)
    if entry is not None:
        threshold = entry.threshold
        return None if threshold is None else _from_entry(threshold, entry.place, model=entry.name)
    folder = Path(name.removeprefix('local-dir:'))
    if folder.is_file():
        folder = folder.parent
    for path in (folder / FILE_NAME, folder / 'best' / FILE_NAME):
        if path.is_file():
            return Calibration.load(path)
    return None


def _from_entry(entry, place: str, **given: str) -> Calibration:
    if not isinstance(entry, dict):
        raise InputError(f'{place}: a calibration is an object of named values, got {entry!r}')
    values, names = {**given, **entry}, {field.name for field in fields(Calibration)}
    wrong = sorted(names - values.keys()) + sorted(values.keys() - names)
    if wrong:
        raise InputError(f'{place}: missing or unknown fields of a calibration: {", ".join(wrong)}')
    try:
        return Calibration(**values)
    except InputError as e:
        raise InputError(f'{place}: {e}') from e
