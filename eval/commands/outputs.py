"""Where the metrics of `msinet-eval` go: the terminal, JSON, a summary, and images."""

import argparse
import csv
import io
import json
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from torch import nn

from msinet_eval.breakdown import Breakdown
from msinet_eval.metrics.calibration import Calibration, find_calibration
from msinet_eval.metrics.verification import VerificationResult
from msinet_eval.protocol import Evaluation
from msinet_eval.report.ranked_lists import write_ranked_lists
from msinet_eval.report.text import matrix, metrics, table
from msinet_timm.commands import make_folder
from msinet_timm.datasets import ReIDDataset
from msinet_timm.errors import InputError

__all__ = ['CHANGES', 'Row', 'calibration_folder', 'file_name', 'prepare_outputs', 'report']

_PACKAGES = ('msinet-timm', 'torch', 'torchvision', 'timm', 'numpy', 'Pillow')
#: Flags that change features or their ranking, apart from re-ranking's.
CHANGES = ('flip', 'part', 'neck', 'amp', 'camera_mean', 'multi_shot', 'query_expansion', 'database_augmentation')


@dataclass(frozen=True, eq=False)
class Row:
    """A model on a data set, measured.

    Attributes:
        name: of the row.
        model: as given on the command line; None for embeddings.
        dataset: with the protocol that was followed; of embeddings, one without images.
        evaluation: what is reported.
        lists: the same before re-ranking, for images of ranked lists; `evaluation` itself without re-ranking.
        remarks: what a reader of the metrics must know.
        intervals: 95 % intervals by metric; None where they are not asked for, or the gallery was drawn.
        verification: None where it is not asked for.
        breakdowns: by `camera` and `domain`, before re-ranking; empty where they are not asked for.
        data_config: how images were fed to the model; None for embeddings.
        module: the model itself; None for embeddings.
    """

    name: str
    model: str | None
    dataset: ReIDDataset
    evaluation: Evaluation
    lists: Evaluation
    remarks: tuple[str, ...]
    intervals: dict[str, tuple[float, float]] | None
    verification: VerificationResult | None
    breakdowns: dict[str, Breakdown]
    data_config: dict | None
    module: nn.Module | None


def file_name(name: str) -> str:
    """A row's name as a part of file names."""
    return re.sub(r'[^\w.=]+', '-', name).strip('-.')


def calibration_folder(model: str) -> Path | None:
    """Where a threshold is kept for a model as given on the command line; None if that is neither folder nor file."""
    path = Path(model.removeprefix('local-dir:'))
    if path.is_file():
        return path.parent
    if not path.is_dir():
        return None
    return path if (path / 'config.json').is_file() else path / 'best'


def prepare_outputs(args: argparse.Namespace) -> None:
    """Makes folders for what will be written, so that a wrong path shows before the work and not after it.

    Raises:
        InputError: a folder cannot be made, a name has a wrong ending, or a summary has other columns.
    """
    if args.ranked_lists and not args.ranked_lists.lower().endswith('.png'):
        raise InputError(f'--ranked-lists {args.ranked_lists}: the file name must end in .png')
    if args.html and not args.html.lower().endswith(('.html', '.htm')):
        raise InputError(f'--html {args.html}: the file name must end in .html')
    folders = {flag: getattr(args, flag) and Path(getattr(args, flag)).parent for flag in _FILES}
    for flag, folder in (folders | {'features': args.features}).items():
        if folder:
            make_folder(folder, f'--{flag.replace("_", "-")}')
    if args.summary:
        _check_summary(args)


_FILES = ('json', 'summary', 'html', 'ranked_lists')


def report(args: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Prints the table, and writes what was asked for."""
    intervals = [row.intervals for row in rows]
    print(table([(row.name, row.evaluation.ranking) for row in rows], args.ranks, intervals))
    for row in rows:
        lines = [*row.remarks, *(_describe(row.verification) if args.thresholds else ())]
        if lines and len(rows) > 1:
            print(f'{row.name}:')
        for line in lines:
            print(f'  {line}')
        for kind, breakdown in row.breakdowns.items():
            print(f'\nmAP of {row.name}, queries by {kind} down, gallery across:')
            print(matrix(kind, breakdown))
    if args.json:
        entries = [_metrics(args, row) for row in rows]
        _write(args.json, '--json', json.dumps(entries if len(entries) > 1 else entries[0], indent=2) + '\n', 'w')
    if args.summary:
        _append_summary(args, rows)
    if args.ranked_lists:
        for row in rows:
            _write_lists(args, row, several=len(rows) > 1)
    if args.calibrate:
        row = rows[0]
        calibration = Calibration.from_verification(row.verification, dataset=row.dataset.name, model=row.model)
        print(f'threshold {calibration.threshold:.4f}: {calibration.save(calibration_folder(row.model))}')
    if args.html:
        from msinet_eval.report.html import write_report

        measured = [_to_measured(args, row) for row in rows]
        command = ' '.join(['msinet-eval', *sys.argv[1:]]) if Path(sys.argv[0]).name == 'msinet-eval' else None
        write_report(args.html, measured, command=command, chart_files=args.png)


def _describe(v: VerificationResult) -> list[str]:
    lines = [f'same or different: AUC {100 * v.auc:.2f} %, EER {100 * v.eer:.1f} % at distance {v.eer_threshold:.4f}']
    for point in v.points:
        if point.threshold == point.threshold:  # not NaN
            lines.append(
                f'  TPR {100 * point.true_positive_rate:.1f} % at FPR {100 * point.target:g} %, '
                f'distance {point.threshold:.4f}'
            )
    return [*lines, *v.notes]


def _title(row: Row) -> str:
    ranking = row.lists.ranking
    before = '' if row.lists is row.evaluation else ' before re-ranking'
    metrics = f'mAP {100 * ranking.mAP:.1f} %, Rank-1 {100 * ranking.cmc[0]:.1f} %'
    return '; '.join([f'{row.name}{before}: {metrics}', *row.remarks])


def _write_lists(args: argparse.Namespace, row: Row, several: bool) -> None:
    path = Path(args.ranked_lists)
    _need_paths(row, '--ranked-lists')
    write_ranked_lists(
        path.with_name(f'{path.stem}-{file_name(row.name)}.png') if several else path,
        row.lists.query,
        row.lists.gallery,
        row.lists.ranking,
        title=_title(row),
        same_clothes_removed=row.dataset.protocol.same_clothes_removed,
    )


def _need_paths(row: Row, flag: str) -> None:
    if not all((*row.lists.query.paths, *row.lists.gallery.paths)):
        raise InputError(f'{flag} shows images: give the --labels a column path')


def _to_measured(args: argparse.Namespace, row: Row):
    from msinet_eval.report.html import Measured

    _need_paths(row, '--html')
    before = '' if row.lists is row.evaluation else ' before re-ranking'
    dataset = replace(row.dataset, notes=row.remarks)
    plain = row.model and all(getattr(args, name) in (None, False, 'all') for name in CHANGES)
    calibration = find_calibration(row.model) if plain else None
    threshold = calibration and calibration.threshold
    return Measured(
        f'{row.name}{before}',
        row.lists,
        dataset,
        row.module,
        row.data_config,
        threshold,
        verification=row.verification,
        cameras=row.breakdowns.get('camera'),
    )


def _metrics(args: argparse.Namespace, row: Row) -> dict:
    ranking, query, gallery, rate = row.evaluation
    parts = {'query': query, 'gallery': gallery}
    shown = metrics(args.ranks)
    v = row.verification
    return {
        'model': args.model or row.model,
        'checkpoint': row.model if args.model else None,
        'embeddings': args.embeddings,
        'dataset': row.dataset.name,
        'data_options': row.dataset.options,
        'remarks': list(row.remarks),
        'images': {part: len(features) for part, features in parts.items()},
        'identities': {part: len(set(features.identities)) for part, features in parts.items()},
        'same_camera_removed': query.cameras is not None,
        'same_clothes_removed': row.dataset.protocol.same_clothes_removed,
        'test_time': {name: getattr(args, name) for name in CHANGES},
        'rerank': args.rerank,
        'mAP': ranking.mAP,
        'mINP': ranking.mINP,
        'cmc': ranking.cmc.tolist(),
        'intervals': row.intervals,
        'draws': [{name: metric(draw) for name, metric in shown.items()} for draw in ranking.draws],
        'spread': {name: ranking.spread(metric) for name, metric in shown.items()} if ranking.draws else None,
        'verification': v
        and {
            'auc': v.auc,
            'eer': v.eer,
            'eer_threshold': v.eer_threshold,
            'points': [_without_nan(point._asdict()) for point in v.points],
        },
        'breakdowns': {kind: _breakdown_metrics(breakdown) for kind, breakdown in row.breakdowns.items()},
        'queries_skipped': ranking.num_skipped,
        'skipped': dict(ranking.skipped),
        'embedding_dim': query.embeddings.shape[1],
        'preprocessing': row.data_config,
        'images_per_second': rate and round(rate, 1),
        'versions': {'python': platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def _breakdown_metrics(breakdown: Breakdown) -> dict:
    cells = {
        name: [[None if value != value else value for value in row] for row in getattr(breakdown, name).tolist()]
        for name in ('mAP', 'rank1', 'queries')
    }
    return {'rows': list(breakdown.rows), 'columns': list(breakdown.columns), **cells}


def _without_nan(metrics: dict) -> dict:
    return {name: None if value != value else value for name, value in metrics.items()}


def _columns(args: argparse.Namespace) -> list[str]:
    return ['time', 'model', 'dataset', 'options', *metrics(args.ranks), 'queries', 'skipped']


def _check_summary(args: argparse.Namespace) -> None:
    """A file that lines are appended to must have their columns."""
    try:
        text = Path(args.summary).read_text(encoding='utf-8')
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f'--summary {args.summary}: cannot read ({e})') from e
    header = next(csv.reader(text.splitlines()), [])
    if text and header != _columns(args):
        raise InputError(
            f'--summary {args.summary}: has the columns {", ".join(header)}, but this run gives '
            f'{", ".join(_columns(args))}: name another file, or the same --ranks'
        )


def _append_summary(args: argparse.Namespace, rows: Sequence[Row]) -> None:
    path, text = Path(args.summary), io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    if not path.exists() or not path.stat().st_size:
        writer.writerow(_columns(args))
    now = datetime.now(timezone.utc).isoformat(timespec='seconds')
    changed = [(name, getattr(args, name)) for name in CHANGES if getattr(args, name) not in (None, False, 'all')]
    changed += list((args.rerank or {}).items())
    for row in rows:
        ranking = row.evaluation.ranking
        options = [*row.dataset.options.items(), *changed]
        values = [f'{100 * metric(ranking):.2f}' for metric in metrics(args.ranks).values()]
        said = [now, row.model or row.name, row.dataset.name, ' '.join(f'{k}={v}' for k, v in options)]
        writer.writerow([*said, *values, ranking.num_valid, ranking.num_skipped])
    _write(args.summary, '--summary', text.getvalue(), 'a')


def _write(path: str, flag: str, text: str, mode: str) -> None:
    try:
        with open(path, mode, encoding='utf-8') as file:
            file.write(text)
    except OSError as e:
        raise InputError(f'{flag} {path}: cannot write ({e.strerror})') from e
