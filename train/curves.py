"""A picture of how a training went."""

import csv
from pathlib import Path

__all__ = ['save_figure', 'write_curves']


def write_curves(summary: Path, picture: Path) -> None:
    """Draws losses, learning rate, mAP and Rank-1 over the epochs.

    Args:
        summary: a run's `summary.csv`.
        picture: PNG to write.

    Raises:
        ImportError: matplotlib, an optional package, is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError('curves need matplotlib: pip install "msinet-timm[plot]"') from e

    with open(summary, encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    panels = _panels(list(rows[0]))
    figure = Figure(figsize=(15, 4), layout='constrained')
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


def save_figure(figure, picture: Path) -> None:
    """Writes a matplotlib figure as PNG, under another name first."""
    partial = picture.with_suffix('.tmp')
    figure.savefig(partial, format='png')
    partial.replace(picture)


def _panels(columns: list[str]) -> dict[str, list[str]]:
    """Columns of the summary by the axis that they share. Which losses there are depends on model and settings."""
    others = ('train_lr', 'train_accuracy', 'train_images_per_second')
    return {
        'loss': [c for c in columns if c.startswith('train_') and c not in others],
        'learning rate': ['train_lr'],
        'share': [c for c in columns if c.startswith('eval_') and c.endswith(('mAP', 'rank1'))],
    }
