"""A picture of how a training went."""

import csv
from pathlib import Path

from msinet_timm.files import replace_file

__all__ = ['create_figure', 'read_rows', 'save_figure', 'write_curves']


def write_curves(summary: Path, picture: Path) -> None:
    """Draws losses, learning rate, mAP and Rank-1 over the epochs.

    Args:
        summary: a run's `summary.csv`.
        picture: PNG to write.

    Raises:
        ImportError: matplotlib, an optional package, is missing.
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
    save_figure(figure, picture)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, as texts by column; none where there is no file."""
    if not path.exists():
        return []
    with open(path, encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def create_figure(size: tuple[float, float]):
    """An empty matplotlib figure of that many inches.

    Raises:
        ImportError: matplotlib, an optional package, is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError('curves need matplotlib: pip install "msinet-timm[plot]"') from e
    return Figure(figsize=size, layout='constrained')


def save_figure(figure, picture: Path) -> None:
    """Writes a matplotlib figure as PNG: the whole file, or nothing."""
    replace_file(picture, lambda partial: figure.savefig(partial, format='png'))


def _panels(columns: list[str]) -> dict[str, list[str]]:
    """Columns of the summary by the axis that they share. Which losses there are depends on model and settings."""
    others = ('train_lr', 'train_accuracy', 'train_images_per_second')
    return {
        'loss': [c for c in columns if c.startswith('train_') and c not in others],
        'learning rate': ['train_lr'],
        'share': [c for c in columns if c.startswith('eval_') and c.endswith(('mAP', 'rank1'))],
    }
