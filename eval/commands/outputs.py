"""Where the results of `msinet-eval` go: the terminal, JSON, a summary, charts and images."""

import csv
import functools
import io
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from msinet_eval.breakdown import Breakdown
from msinet_eval.metrics.verification import VerificationResult
from msinet_eval.report.html import PACKAGES, write_report
from msinet_eval.report.ranked_lists import write_ranked_lists
from msinet_eval.report.result import EvaluationResult
from msinet_eval.report.text import matrix, metrics, table
from msinet_timm.commands import make_folder
from msinet_timm.errors import InputError
from msinet_timm.files import append_text, replace_text
from msinet_timm.hub.calibration import Calibration
from msinet_timm.settings import check, document, flag_of, setting

__all__ = ['Outputs', 'calibration_folder', 'describe', 'file_name', 'without_nan', 'write_outputs']


_setting = functools.partial(setting, 'results')


@document
@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What is told of results, and where it is written."""

    GROUPS: ClassVar[tuple[str, ...]] = ('results',)

    intervals: bool = _setting(True, 'show bootstrap 95 % intervals over query identities (default: on)')
    thresholds: bool = _setting(False, 'show how well distances tell same from different: AUC, EER, TPR at FPR')
    breakdown: bool = _setting(False, 'show mAP for each pair of cameras and of domains, as far as known')
    calibrate: bool = _setting(
        False,
        "keep the distance at a false positive rate of 0.1 % in the model's folder, for msinet-eval pair",
    )
    json: str | None = _setting(None, 'write the metrics and how they came about', metavar='FILE')
    summary: str | None = _setting(None, 'append a line of metrics', metavar='CSV')
    html: str | None = _setting(None, 'write a report with curves, ranked lists and what was matched', metavar='FILE')
    png: bool = _setting(False, 'write the curves of --html as PNG files beside it, too')
    ranked_lists: str | None = _setting(None, 'write a PNG of queries and what was found for them', metavar='FILE')

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, check(f, getattr(self, f.name)))
        if self.png and not self.html:
            raise InputError('png writes the curves of a report: give `html` FILE, too')
        if self.ranked_lists and not self.ranked_lists.lower().endswith('.png'):
            raise InputError(f'ranked_lists {self.ranked_lists}: the file name must end in .png')
        if self.html and not self.html.lower().endswith(('.html', '.htm')):
            raise InputError(f'html {self.html}: the file name must end in .html')

    def prepare(self, ranks: Sequence[int]) -> None:
        """Makes folders for what will be written, so that a wrong path shows before the work and not after it.

        Args:
            ranks: k of each Rank-k that a summary will have.

        Raises:
            InputError: a folder cannot be made, or a summary has other columns.
        """
        for name in ('json', 'summary', 'html', 'ranked_lists'):
            if getattr(self, name):
                make_folder(Path(getattr(self, name)).parent, flag_of(name))
        if self.summary:
            _check_summary(self.summary, ranks)


def file_name(name: str) -> str:
    """A result's name as a part of file names."""
    return re.sub(r'[^\w.=]+', '-', name).strip('-.')


def calibration_folder(model: str) -> Path | None:
    """Where a threshold is kept for a model as given on the command line; None if that is neither folder nor file."""
    path = Path(model.removeprefix('local-dir:'))
    if path.is_file():
        return path.parent
    if not path.is_dir():
        return None
    return path if (path / 'config.json').is_file() else path / 'best'


def write_outputs(results: Sequence[EvaluationResult], outputs: Outputs, command: str | None = None) -> None:
    """Prints a table, and writes what is asked for.

    Args:
        results: one or more, of the same ranks.
        outputs: what to tell and to write; `prepare` has been called.
        command: for the foot of a report.

    Raises:
        InputError: a file that cannot be written, or something that these results cannot tell.
    """
    for r in results if outputs.breakdown else ():
        if r.cameras is None and r.domains is None:
            raise InputError(f'breakdown: neither cameras nor domains of {r.name} are known')
    model = _calibrated(results) if outputs.calibrate else None
    for r in results if outputs.thresholds or outputs.calibrate else ():
        _ = r.verification  # raises before anything is told
    for name in ('ranked_lists', 'html'):
        if getattr(outputs, name) and not all(p for r in results for p in (*r.query.paths, *r.gallery.paths)):
            raise InputError(f'{name} shows images: give the --labels a column path')
    intervals = [r.intervals if outputs.intervals else None for r in results]
    print(table([(r.name, r.ranking) for r in results], results[0].settings.ranks, intervals))
    for r in results:
        lines = [*r.remarks, *(_tell(r.verification) if outputs.thresholds else ())]
        if lines and len(results) > 1:
            print(f'{r.name}:')
        for line in lines:
            print(f'  {line}')
        for kind, breakdown in _breakdowns(r, outputs).items():
            print(f'\nmAP of {r.name}, queries by {kind} down, gallery across:')
            print(matrix(kind, breakdown))
    if outputs.json:
        entries = [describe(r, outputs) for r in results]
        told = json.dumps(entries if len(entries) > 1 else entries[0], indent=2) + '\n'
        replace_text(outputs.json, told, f'json {outputs.json}: cannot write')
    if outputs.summary:
        _append_summary(outputs.summary, results)
    for r in results if outputs.ranked_lists else ():
        path = Path(outputs.ranked_lists)
        file = path.with_name(f'{path.stem}-{file_name(r.name)}.png') if len(results) > 1 else path
        write_ranked_lists(file, r)
    if outputs.calibrate:
        (r,) = results
        calibration = Calibration.from_verification(r.verification, dataset=r.dataset, model=model)
        print(f'threshold {calibration.threshold:.4f}: {calibration.save(calibration_folder(model))}')
    if outputs.html:
        write_report(outputs.html, results, command=command, chart_files=outputs.png)


def _calibrated(results: Sequence[EvaluationResult]) -> str:
    """What was measured, as it was given: beside it a threshold can be kept."""
    if len(results) != 1:
        raise InputError(f'calibrate needs one model and one data set: these are {len(results)} results')
    model = results[0].source.get('checkpoint') or results[0].source.get('model')
    if model is None or calibration_folder(model) is None:
        raise InputError(f"calibrate writes beside a model's weights: {results[0].name} was not read from a folder")
    if results[0].norms is not None:
        raise InputError(f'calibrate is for plain embeddings, and {results[0].name} goes by the norms of cameras')
    return model


def _breakdowns(result: EvaluationResult, outputs: Outputs) -> dict[str, Breakdown]:
    both = {'camera': result.cameras, 'domain': result.domains} if outputs.breakdown else {}
    return {kind: breakdown for kind, breakdown in both.items() if breakdown is not None}


def _tell(v: VerificationResult) -> list[str]:
    lines = [f'same or different: AUC {100 * v.auc:.2f} %, EER {100 * v.eer:.1f} % at distance {v.eer_threshold:.4f}']
    for point in v.points:
        if point.threshold == point.threshold:  # not NaN
            lines.append(
                f'  TPR {100 * point.true_positive_rate:.1f} % at FPR {100 * point.target:g} %, '
                f'distance {point.threshold:.4f}'
            )
    return [*lines, *v.notes]


def describe(result: EvaluationResult, outputs: Outputs | None = None) -> dict[str, Any]:
    """Metrics and how they came about, as `--json` writes them.

    Args:
        result: what was measured.
        outputs: which of `intervals`, `thresholds` and `breakdown` to tell; None for the defaults.
    """
    outputs = outputs or Outputs()
    ranking, parts = result.ranking, {'query': result.query, 'gallery': result.gallery}
    shown = metrics(result.settings.ranks)
    v = result.verification if outputs.thresholds or outputs.calibrate else None
    told = {
        'model': None,
        'checkpoint': None,
        'embeddings': None,
        'dataset': result.dataset,
        'data_options': {},
        **result.source,
        'remarks': list(result.remarks),
        'images': {part: len(features) for part, features in parts.items()},
        'identities': {part: len(set(features.identities)) for part, features in parts.items()},
        'same_camera_removed': result.query.cameras is not None,
        'same_clothes_removed': result.protocol.same_clothes_removed,
        'test_time': result.settings.test_time,
        'rerank': result.settings.reranking,
        'adapt': result.settings.adapt,
        'camera_norms': result.norms,
        'mAP': ranking.mAP,
        'mINP': ranking.mINP,
        'cmc': ranking.cmc.tolist(),
        'intervals': result.intervals if outputs.intervals else None,
        'draws': [{name: metric(draw) for name, metric in shown.items()} for draw in ranking.draws],
        'spread': {name: ranking.spread(metric) for name, metric in shown.items()} if ranking.draws else None,
        'verification': v
        and {
            'auc': v.auc,
            'eer': v.eer,
            'eer_threshold': v.eer_threshold,
            'points': [point._asdict() for point in v.points],
        },
        'breakdowns': {kind: _to_lists(breakdown) for kind, breakdown in _breakdowns(result, outputs).items()},
        'queries_skipped': ranking.num_skipped,
        'skipped': dict(ranking.skipped),
        'embedding_dim': result.query.embeddings.shape[1],
        'preprocessing': result.data_config,
        'images_per_second': result.images_per_second and round(result.images_per_second, 1),
        'versions': {'python': platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    return without_nan(told)


def _to_lists(breakdown: Breakdown) -> dict[str, list]:
    cells = {name: getattr(breakdown, name).tolist() for name in ('mAP', 'rank1', 'queries')}
    return {'rows': list(breakdown.rows), 'columns': list(breakdown.columns), **cells}


def without_nan(told: Any) -> Any:
    """Values for JSON, with None in the place of NaN, which JSON does not know."""
    if isinstance(told, dict):
        return {name: without_nan(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [without_nan(value) for value in told]
    return None if isinstance(told, float) and told != told else told


def _columns(ranks: Sequence[int]) -> list[str]:
    return ['time', 'model', 'dataset', 'options', *metrics(ranks), 'queries', 'skipped']


def _check_summary(path: str, ranks: Sequence[int]) -> None:
    """A file that lines are appended to must have their columns."""
    try:
        text = Path(path).read_text(encoding='utf-8')
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f'summary {path}: cannot read ({e})') from e
    header = next(csv.reader(text.splitlines()), [])
    if text and header != _columns(ranks):
        raise InputError(
            f'summary {path}: has the columns {", ".join(header)}, but this run gives '
            f'{", ".join(_columns(ranks))}: name another file, or the same `ranks`'
        )


def _append_summary(path: str, results: Sequence[EvaluationResult]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    if not Path(path).exists() or not Path(path).stat().st_size:
        writer.writerow(_columns(results[0].settings.ranks))
    now = datetime.now(timezone.utc).isoformat(timespec='seconds')
    for r in results:
        options = r.source.get('data_options', {}) | r.settings.changes
        if r.norms is not None and not r.settings.adapt:
            options |= {'camera_norms': True}
        model = r.source.get('checkpoint') or r.source.get('model') or r.name
        values = [f'{100 * value:.2f}' for value in r.metrics.values()]
        told = ' '.join(f'{name}={value}' for name, value in options.items())
        writer.writerow([now, model, r.dataset, told, *values, r.ranking.num_valid, r.ranking.num_skipped])
    append_text(path, text.getvalue(), f'summary {path}: cannot write')
