"""What `msinet-eval compare` does: whether one model is better than another, and on which queries."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msinet_eval.evaluation import evaluate, measure
from msinet_eval.features.types import Embedded, Features
from msinet_eval.metrics.bootstrap import Change, Difference, most_changed, paired_bootstrap
from msinet_eval.metrics.ranking import RankingResult
from msinet_eval.report.html import write_page
from msinet_eval.report.result import EvaluationResult
from msinet_eval.settings import EvalSettings
from msinet_timm.commands import format_table
from msinet_timm.datasets import Protocol, ReIDDataset
from msinet_timm.errors import InputError
from msinet_timm.files import replace_text

from .outputs import without_nan

__all__ = ['Comparison', 'compare', 'measure_side']

_FILES = ('query.safetensors', 'gallery.safetensors')


class Comparison(NamedTuple):
    """Two results on the same queries and gallery; where it was drawn several times, on the first draw.

    Attributes:
        a: the first.
        b: the second.
        differences: of `mAP` and `Rank-1`, the second less the first.
        changed: the queries that changed most.
    """

    a: EvaluationResult
    b: EvaluationResult
    differences: dict[str, Difference]
    changed: list[Change]

    @property
    def metrics(self) -> dict[str, tuple[float, float]]:
        """Of both, by name, 0-1."""
        a, b = _first_draw(self.a), _first_draw(self.b)
        return {'mAP': (a.mAP, b.mAP), 'Rank-1': (float(a.cmc[0]), float(b.cmc[0]))}

    @property
    def verdict(self) -> str:
        """What an interval that holds zero, or does not, says of mAP."""
        difference = self.differences['mAP']
        if difference.low > 0:
            return 'B is better than A in mAP: the 95 % interval is above zero'
        if difference.high < 0:
            return 'A is better than B in mAP: the 95 % interval is below zero'
        return 'no clear difference in mAP: chance, through the choice of queries, would explain it'

    def __str__(self) -> str:
        rows = [['', 'A', 'B', 'B - A', '95 % interval', 'p']]
        for name, values in self.metrics.items():
            d = self.differences[name]
            interval = f'{100 * d.low:+.1f} ... {100 * d.high:+.1f}'
            gain = f'{100 * d.value:+.1f}'
            rows.append([name, *(f'{100 * value:.1f}' for value in values), gain, interval, f'{d.p_value:.3f}'])
        lines = [f'A  {self.a.name}', f'B  {self.b.name}', '', format_table(rows), '', self.verdict, '']
        if not self.changed:
            return '\n'.join([*lines, 'no query changed'])
        rows = [['AP in A', 'AP in B', '']]
        for c in self.changed:
            rows.append([f'{100 * c.before:.1f}', f'{100 * c.after:.1f}', self.a.query.paths[c.query]])
        return '\n'.join([*lines, 'queries that changed most:', format_table(rows, '>><')])

    def save(self, path: str | Path, dataset: str | None = None, remarks: Sequence[str] = ()) -> None:
        """Writes it as JSON.

        Args:
            path: of the file.
            dataset: name of the data set, where there is one.
            remarks: what a reader of the metrics must know.

        Raises:
            InputError: it cannot be written.
        """
        query, ranking = self.a.query, _first_draw(self.a)
        metrics = {
            'a': self.a.name,
            'b': self.b.name,
            'dataset': dataset,
            'remarks': list(remarks),
            'queries': ranking.num_valid,
            'queries_skipped': ranking.num_skipped,
            'metrics': {
                name: {'a': a, 'b': b, **self.differences[name]._asdict()} for name, (a, b) in self.metrics.items()
            },
            'changed': [
                {'path': query.paths[c.query], 'identity': query.identities[c.query], 'a': c.before, 'b': c.after}
                for c in self.changed
            ],
        }
        replace_text(path, json.dumps(without_nan(metrics), indent=2) + '\n', f'--json {path}: cannot write')

    def write_html(self, path: str | Path, remarks: Sequence[str] = ()) -> None:
        """Writes a page that shows the queries that changed most with both rankings.

        Args:
            path: of the file.
            remarks: what a reader of the metrics must know.

        Raises:
            InputError: see `msinet_eval.report.html.write_page`.
        """
        picked = [change.query for change in self.changed]
        found = [side.found(picked, removed=2) if picked else [] for side in (self.a, self.b)]
        write_page(
            path,
            'compare.html.jinja',
            title=f'{self.a.name} and {self.b.name}',
            comparison=self,
            remarks=remarks,
            changed=list(zip(self.changed, *found, strict=True)),
        )


def compare(a: EvaluationResult, b: EvaluationResult, *, count: int = 10, samples: int = 1000) -> Comparison:
    """Measures two results on the same images against each other.

    Args:
        a: the first.
        b: the second, of the same images in the same order, by the same protocol.
        count: how many of the queries that changed to name.
        samples: of the paired bootstrap, see `msinet_eval.metrics.bootstrap.paired_bootstrap`.

    Raises:
        InputError: other images, or another order.
    """
    _check_alike(a, b)
    rankings = _first_draw(a), _first_draw(b)
    differences = paired_bootstrap(*rankings, a.query.identities, samples=samples)
    return Comparison(a, b, differences, most_changed(*rankings, count))


def _first_draw(result: EvaluationResult) -> RankingResult:
    return result.ranking.draws[0] if result.ranking.draws else result.ranking


def measure_side(name: str, dataset: ReIDDataset | None, settings: EvalSettings | None = None) -> EvaluationResult:
    """One of the two results to compare.

    Args:
        name: model as `msinet_eval.evaluate` takes it, or a folder that `msinet-eval --features` has written.
        dataset: to measure models on, and whose protocol is followed; None for folders of features alone.
        settings: for models.

    Raises:
        InputError: neither a folder of features nor a model with a data set.
    """
    found = [(Path(name) / file).is_file() for file in _FILES]
    if all(found):
        features = Embedded(*[Features.load(Path(name) / file) for file in _FILES])
        return measure(features, dataset.protocol if dataset else Protocol(), name=name)
    if any(found):
        raise InputError(f'{name} has only one of {" and ".join(_FILES)}: write both with --features')
    if dataset is None:
        raise InputError(f'{name} is no folder of features ({", ".join(_FILES)}): give -ds to measure a model')
    return evaluate(name, dataset, settings, name=name)


def _check_alike(a: EvaluationResult, b: EvaluationResult) -> None:
    """Features may come from other machines: images are known by file name, identity and box."""
    for part in ('query', 'gallery'):
        one, other = getattr(a, part), getattr(b, part)
        if len(one) != len(other):
            raise InputError(
                f'{a.name} has {len(one)} {part} images, {b.name} {len(other)}: measure both on one data set'
            )
        for index, (left, right) in enumerate(zip(_keys(one), _keys(other), strict=True)):
            if left != right:
                names = [f'{f.paths[index]} (identity {f.identities[index]})' for f in (one, other)]
                raise InputError(
                    f'{part} image {index} is {names[0]} in {a.name}, but {names[1]} in {b.name}: '
                    'measure both on one data set'
                )


def _keys(features: Features) -> list[tuple]:
    boxes = [None] * len(features) if features.boxes is None else map(tuple, features.boxes.tolist())
    names = [Path(path).name for path in features.paths]
    return list(zip(names, features.identities, boxes, strict=True))
