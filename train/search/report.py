"""What a search leaves to read and to look at."""

from collections.abc import Sequence
from pathlib import Path

import torch

from msinet_timm.charts import create_figure, save_figure
from msinet_timm.commands import format_table
from msinet_timm.files import replace_rows
from msinet_timm.models.genotype import NUM_CELLS, Genotype
from msinet_timm.models.interactions import INTERACTIONS
from msinet_train.curves import read_rows
from msinet_train.run.folder import RunFolder

__all__ = ['add_mixture', 'genotype_table', 'read_mixtures', 'write_mixtures_chart']

_FILE = 'architecture.csv'
_COLUMNS = ['epoch', 'place', *INTERACTIONS]


def genotype_table(genotype: Genotype, mixture: torch.Tensor) -> str:
    """Lines of text: both interactions of each cell with their weights.

    Args:
        genotype: what is chosen.
        mixture: [12, 4] weights of all interactions.
    """
    chosen = mixture.max(1).values.tolist()
    rows = [('cell', 'stage', 'first', '', 'second', '')]
    for cell, names in enumerate(genotype.cells):
        both = [(name, f'{weight:.3f}') for name, weight in zip(names, chosen[2 * cell :], strict=False)]
        rows.append((cell + 1, cell // 2 + 1, *both[0], *both[1]))
    return format_table(rows, '>><')


def add_mixture(folder: RunFolder, epoch: int, mixture: torch.Tensor) -> None:
    """Adds an epoch's weights [12, 4] to `architecture.csv`, in place of those of that epoch and later ones."""
    rows = [row.values() for row in read_mixtures(folder.path) if int(row['epoch']) < epoch]
    rows += [[epoch, place, *(f'{w:.6f}' for w in weights)] for place, weights in enumerate(mixture.tolist())]
    replace_rows(folder.path / _FILE, [_COLUMNS, *rows])


def read_mixtures(folder: Path) -> list[dict[str, str]]:
    """Rows of a search's `architecture.csv`; none where it isn't there."""
    return read_rows(folder / _FILE)


def write_mixtures_chart(rows: Sequence[dict[str, str]], image: Path) -> None:
    """Draws the twelve softmaxes over the epochs, a panel for each place.

    Args:
        rows: of `read_mixtures`.
        image: PNG to write.

    Raises:
        MissingPackageError: matplotlib, an optional package, is missing.
    """
    figure = create_figure((14, 5))
    panels = figure.subplots(2, NUM_CELLS, sharex=True, sharey=True)
    for place in range(2 * NUM_CELLS):
        axes = panels[place % 2, place // 2]
        found = [row for row in rows if int(row['place']) == place]
        for name in INTERACTIONS:
            axes.plot([int(row['epoch']) + 1 for row in found], [float(row[name]) for row in found], label=name)
        axes.set_title(f'cell {place // 2 + 1}, {("first", "second")[place % 2]}', fontsize=10)
        axes.grid(alpha=0.3)
    figure.supxlabel('epoch')
    figure.supylabel('weight')
    panels[0, 0].legend(fontsize=8)
    save_figure(figure, image)
