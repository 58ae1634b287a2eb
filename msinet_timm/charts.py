"""Charts: matplotlib figures, made and written in one way (extra `plot`)."""

from pathlib import Path

from .errors import needs
from .files import replace_file

__all__ = ['create_figure', 'save_figure']


def create_figure(size: tuple[float, float], layout: str | None = 'constrained'):
    """An empty matplotlib figure.

    Args:
        size: width and height in inches.
        layout: how matplotlib makes room for labels; None to leave that to the caller.

    Raises:
        MissingPackageError: matplotlib, an optional package, is missing.
    """
    with needs('plot'):
        from matplotlib.figure import Figure
    return Figure(figsize=size, layout=layout)


def save_figure(figure, image: str | Path, dpi: int = 100) -> None:
    """Writes a matplotlib figure as PNG: the whole file, or nothing; the same figure gives the same file.

    Args:
        figure: of `create_figure`.
        image: file to write.
        dpi: pixels for each inch.

    Raises:
        OSError: it cannot be written.
    """
    replace_file(image, lambda part: figure.savefig(part, format='png', dpi=dpi, metadata={'Software': None}))
