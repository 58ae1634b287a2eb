"""Charts of how trainings went: `python -m msinet_train.curves` draws several runs together."""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from msinet_timm.charts import create_figure, save_figure
from msinet_timm.commands import command
from msinet_timm.errors import InputError

__all__ = ['read_rows', 'write_comparison', 'write_curves']


def write_curves(summary: Path, image: Path) -> None:
    """Draws losses, learning rate, mAP and Rank-1 over the epochs.

    Args:
        summary: a run's `summary.csv`.
        image: PNG to write.

    Raises:
        MissingPackageError: matplotlib, an optional package, is missing.
    """
    figure = create_figure((15, 4))
    rows = read_rows(summary)
    panels = _panels(list(rows[0]))
    for axes, (label, columns) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for column in columns:
            points = [(int(row['epoch']) + 1, float(row[column])) for row in rows if row[column]]
            if points:  # a data set to train on only is never measured
                axes.plot(*zip(*points, strict=True), '.-' if column.startswith('eval') else '-', label=column)
        axes.set(xlabel='epoch', ylabel=label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save_figure(figure, image)


def write_comparison(groups: Mapping[str, Sequence[Path]], image: Path, column: str = 'eval_mAP') -> None:
    """Draws one chart of several runs over the epochs: a line for each group's mean, a band from lowest to highest.

    Args:
        groups: run folders by name, such as those of several seeds. Only epochs that all of a group measured count.
        image: PNG to write.
        column: of `summary.csv`, a share.

    Raises:
        MissingPackageError: matplotlib, an optional package, is missing.
        InputError: a folder is no run, or has nothing in that column.
    """
    figure = create_figure((7, 4))
    axes = figure.subplots()
    for name, runs in groups.items():
        measured = [_column(Path(run) / 'summary.csv', column) for run in runs]
        epochs = sorted(set.intersection(*(set(values) for values in measured)))
        values = [[100 * run[epoch] for run in measured] for epoch in epochs]
        label = name if len(runs) == 1 else f'{name} ({len(runs)} runs)'
        (line,) = axes.plot(epochs, [sum(v) / len(v) for v in values], '.-', label=label)
        axes.fill_between(epochs, [min(v) for v in values], [max(v) for v in values], color=line.get_color(), alpha=0.2)
    axes.set(xlabel='epoch', ylabel=f'{column.removeprefix("eval_")} in %')
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, image)


def _column(summary: Path, column: str) -> dict[int, float]:
    """A column of `summary.csv` by epoch, counted from 1."""
    rows = read_rows(summary)
    if not rows:
        raise InputError(f'{summary.parent}: no run there ({summary.name} is missing or empty)')
    found = {int(row['epoch']) + 1: float(row[column]) for row in rows if row.get(column)}
    if not found:
        raise InputError(f'{summary}: nothing in the column {column}; it has {", ".join(rows[0])}')
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, as texts by column; none where there is no file."""
    if not path.exists():
        return []
    with open(path, encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def _panels(columns: list[str]) -> dict[str, list[str]]:
    """Columns of the summary by the axis that they share. Which losses there are depends on model and settings."""
    others = ('train_lr', 'train_accuracy', 'train_images_per_second')
    return {
        'loss': [c for c in columns if c.startswith('train_') and c not in others],
        'learning rate': ['train_lr'],
        'share': [c for c in columns if c.startswith('eval_') and c.endswith(('mAP', 'rank1'))],
    }


def _group(text: str) -> tuple[str, list[Path]]:
    name, _, runs = text.partition('=')
    if not name or not runs:
        raise argparse.ArgumentTypeError(f'{text}: write NAME=RUN or NAME=RUN,RUN,...')
    return name, [Path(run) for run in runs.split(',')]


@command
def main(argv: list[str] | None = None) -> None:
    """Draws several runs together."""
    parser = argparse.ArgumentParser(
        prog='python -m msinet_train.curves', description='Draws how runs went, those of one name as mean and range.'
    )
    parser.add_argument('groups', nargs='+', type=_group, metavar='NAME=RUN,RUN,...', help='run folders')
    parser.add_argument('--column', default='eval_mAP', help='of summary.csv (default: eval_mAP)')
    parser.add_argument('--output', type=Path, default=Path('curves.png'), metavar='FILE', help='PNG (curves.png)')
    args = parser.parse_args(argv)
    write_comparison(dict(args.groups), args.output, args.column)


if __name__ == '__main__':
    raise SystemExit(main())
