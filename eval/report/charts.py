"""The charts of a report: curves, histograms and matrices, drawn by matplotlib (extra `plot`)."""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from msinet_timm.charts import create_figure, save_figure
from msinet_timm.drawing import RIGHT, WRONG, shorten, to_hex
from msinet_timm.errors import InputError, needs

__all__ = [
    'MOST_CAMERAS',
    'draw_camera_matrix',
    'draw_cmc',
    'draw_distances',
    'draw_precision_recall',
    'to_svg',
    'write_png',
]

#: Of a matrix that can be read.
MOST_CAMERAS = 24

_INK, _FAINT, _RULE = '#1f2430', '#667085', '#e4e7ec'
SAME, DIFFERENT = to_hex(RIGHT), to_hex(WRONG)
# colours of Okabe and Ito, which colour-blind people tell apart, and styles for print
_LINES = (
    ('#0072b2', '-'),
    ('#d55e00', (0, (5, 1.5))),
    ('#009e73', (0, (1.2, 1.2))),
    ('#cc79a7', (0, (6, 1.5, 1.2, 1.5))),
    ('#1f2430', (0, (3, 1))),
    ('#56b4e9', '-'),
)
_SETTINGS = {
    'font.family': 'sans-serif',
    'font.size': 9.5,
    'text.color': _INK,
    'axes.labelcolor': _FAINT,
    'axes.edgecolor': '#98a2b3',
    'axes.linewidth': 0.8,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': _RULE,
    'grid.linewidth': 0.8,
    'xtick.color': '#98a2b3',
    'ytick.color': '#98a2b3',
    'xtick.labelcolor': _FAINT,
    'ytick.labelcolor': _FAINT,
    'legend.frameon': False,
    'legend.handlelength': 2.2,
    'svg.fonttype': 'none',  # text stays text: small, sharp, in the reader's own font
    'svg.hashsalt': 'msinet-eval',  # the same report gives the same file
}


def _styled(draw: Callable) -> Callable:
    """Makes a function draw in this module's style."""

    @functools.wraps(draw)
    def run(*args, **kwargs):
        with needs('plot'):
            import matplotlib
        with matplotlib.rc_context(_SETTINGS):
            return draw(*args, **kwargs)

    return run


@_styled
def draw_cmc(curves: Sequence[tuple[str, np.ndarray]]):
    """Cumulative match characteristic.

    Args:
        curves: for each model its name and [R] share of queries with a match among the first k+1 images, 0-1.

    Returns:
        A matplotlib figure, as from the other functions.
    """
    figure, axes = _create()
    lines = []
    for number, (_, cmc) in enumerate(curves):
        color, style = _LINES[number % len(_LINES)]
        ranks = np.arange(1, len(cmc) + 1)
        lines += axes.plot(ranks, 100 * np.asarray(cmc), color=color, linestyle=style, linewidth=2)
        axes.plot(1, 100 * cmc[0], 'o', color=color, markersize=5)
    length = max(len(cmc) for _, cmc in curves)
    axes.set_xlim(0.5, length + 0.5)
    axes.set_xticks([k for k in (1, 5, 10, 20, 30, 40, 50) if k <= length])
    low = min(float(cmc[0]) for _, cmc in curves)
    axes.set_ylim(max(0, 10 * np.floor(10 * low) - 10), 101.5)
    axes.locator_params(axis='y', integer=True)  # decimals would push the label off the chart
    axes.set(xlabel='rank k', ylabel='queries with a match among the first k, %')
    return _finish(figure, axes, lines, [name for name, *_ in curves], 'lower right')


@_styled
def draw_precision_recall(curves: Sequence[tuple[str, np.ndarray, np.ndarray]]):
    """Precision against recall.

    Args:
        curves: for each model its name, recall and precision, 0-1, the latter two of one length.
    """
    figure, axes = _create()
    lines = []
    for number, (_, recall, precision) in enumerate(curves):
        color, style = _LINES[number % len(_LINES)]
        lines += axes.plot(100 * recall, 100 * precision, color=color, linestyle=style, linewidth=2)
    axes.set(xlim=(0, 101.5), ylim=(0, 101.5), xlabel='recall, %', ylabel='precision, %')
    return _finish(figure, axes, lines, [name for name, *_ in curves], 'upper right')


@_styled
def draw_distances(edges: np.ndarray, same: np.ndarray, different: np.ndarray, threshold: float | None = None):
    """Histograms of the distances of pairs, each of area 1.

    Args:
        edges: [B + 1] of the bins, Euclidean distance.
        same: [B] number of pairs of one identity.
        different: [B] number of pairs of two identities.
        threshold: below it, two images are held to be of one identity.
    """
    figure, axes = _create()
    edges, same, different = _coarsen(edges, same, different)
    widths = np.diff(edges)
    top = 0.0
    for counts, color, name, hatch in ((different, DIFFERENT, 'different', '////'), (same, SAME, 'same', None)):
        density = counts / max(counts.sum(), 1) / widths
        top = max(top, density.max())
        # a light hatch tells them apart without colours
        axes.stairs(density, edges, fill=True, facecolor=color + '38', edgecolor=color + '50', hatch=hatch, linewidth=0)
        axes.stairs(density, edges, color=color, linewidth=1.6, label=f'{name} identity')
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.3 * top)
    axes.set_yticks([])
    axes.spines['left'].set_visible(False)
    axes.grid(False)
    if threshold is not None:
        axes.vlines(threshold, 0, 1.18 * top, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
        right = threshold > np.mean(axes.get_xlim())
        axes.annotate(
            f'threshold {threshold:.3f}',
            (threshold, 1.1 * top),
            xytext=(-5 if right else 5, 0),
            textcoords='offset points',
            ha='right' if right else 'left',
            fontsize=9,
        )
    axes.set(xlabel='Euclidean distance of a pair')
    axes.legend(loc='lower center', bbox_to_anchor=(0.5, 0.92), ncols=2)
    figure.subplots_adjust(left=0.04, right=0.97, top=0.92, bottom=0.15)
    return figure


def _coarsen(edges: np.ndarray, same: np.ndarray, different: np.ndarray, most: int = 40) -> tuple[np.ndarray, ...]:
    """The bins in use and one beside them, merged to about `most` at most."""
    used = np.flatnonzero(same + different)
    first, last = max(used[0] - 1, 0), min(used[-1] + 2, len(same))
    step = -(-(last - first) // most)
    starts = np.arange(first, last, step)
    counts = [np.add.reduceat(values[:last], starts) for values in (same, different)]
    return np.append(edges[starts], edges[last]), *counts


@_styled
def draw_camera_matrix(values: np.ndarray, query_cameras: Sequence[str], gallery_cameras: Sequence[str]):
    """A heat map with numbers: how well each camera's queries are found in each other camera.

    Args:
        values: [Q, G] mAP, 0-1; NaN where a pair of cameras has no match.
        query_cameras: [Q] names; the middle of long ones is left out.
        gallery_cameras: [G] names.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    rows, columns = values.shape
    sides = [[shorten(name, 14) for name in names] for names in (query_cameras, gallery_cameras)]
    left, bottom = (0.08 * max(0, max(map(len, names)) - 3) for names in sides)  # room for names beyond short ones
    width = (4.6 if columns <= 10 else 9.6) + left
    height = max(3.3 if rows > 4 else 2.6, 0.7 + 0.34 * rows) + bottom
    figure, axes = _create(width, height)
    shades = LinearSegmentedColormap.from_list('reid', ['#fff7ec', '#b9dfd3', '#3f9e93', '#0b4f6c'])
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    span = max(high - low, 1e-9)
    for row in range(rows):
        for column in range(columns):
            value = values[row, column]
            place = (column + 0.03, row + 0.03)
            if not np.isfinite(value):
                axes.add_patch(Rectangle(place, 0.94, 0.94, facecolor='#f2f4f7', edgecolor='none'))
                axes.text(column + 0.5, row + 0.5, '–', ha='center', va='center', color='#98a2b3')
                continue
            level = (value - low) / span
            axes.add_patch(Rectangle(place, 0.94, 0.94, facecolor=shades(0.08 + 0.92 * level), edgecolor='none'))
            ink = 'white' if level > 0.55 else _INK
            text = f'{100 * value:.0f}'
            axes.text(column + 0.5, row + 0.5, text, ha='center', va='center', color=ink)
    axes.set(xlim=(0, columns), ylim=(rows, 0), xlabel='camera of the gallery', ylabel='of the query')
    axes.set_xticks(np.arange(columns) + 0.5, sides[1], parse_math=False, rotation=90 if bottom else 0)
    axes.set_yticks(np.arange(rows) + 0.5, sides[0], parse_math=False)
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    left, bottom = (0.55 + left) / width, (0.5 + bottom) / height
    figure.subplots_adjust(left=left, right=1 - 0.1 / width, top=1 - 0.1 / height, bottom=bottom)
    return figure


@_styled
def to_svg(figure) -> bytes:
    """The chart as SVG, without anything to be fetched."""
    file = io.BytesIO()
    figure.savefig(file, format='svg', metadata={'Date': None, 'Creator': None})
    return file.getvalue()


@_styled
def write_png(figure, file: Path) -> None:
    """The chart as PNG, for slides and papers.

    Raises:
        InputError: it cannot be written.
    """
    try:
        save_figure(figure, file, dpi=200)
    except OSError as e:
        raise InputError(f'{file}: cannot write this chart ({e.strerror})') from e


def _create(width: float = 4.6, height: float = 3.3):
    figure = create_figure((width, height), layout=None)
    return figure, figure.add_subplot()


def _finish(figure, axes, lines: Sequence, names: Sequence[str], place: str):
    if len(lines) > 1:
        # set afterwards: matplotlib drops labels that begin with _, and sets what is between two $ as mathematics
        legend = axes.legend(lines, ['?'] * len(lines), loc=place)
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set_parse_math(False)
            text.set_text(name)
    figure.subplots_adjust(left=0.13, right=0.97, top=0.97, bottom=0.15)
    return figure
