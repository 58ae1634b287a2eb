"""A picture of how a training went."""

import csv
from pathlib import Path

__all__ = ['write_curves']

_PANELS = (
    ('loss', ('train_loss', 'train_id_global', 'train_triplet_global', 'train_id_local', 'train_triplet_local')),
    ('learning rate', ('train_lr',)),
    ('share', ('eval_mAP', 'eval_rank1')),
)


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
    figure = Figure(figsize=(15, 4), layout='constrained')
    for axes, (label, columns) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for column in columns:
            points = [(int(row['epoch']) + 1, float(row[column])) for row in rows if row[column]]
            if points:  # a data set to train on only is never measured
                axes.plot(*zip(*points, strict=True), '.-' if column.startswith('eval') else '-', label=column)
        axes.set(xlabel='epoch', ylabel=label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    partial = picture.with_suffix('.tmp')
    figure.savefig(partial, format='png')
    partial.replace(picture)
