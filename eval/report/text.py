"""Results for people: a table of metrics in text."""

import math
from collections.abc import Callable, Mapping, Sequence

from msinet_eval.breakdown import Breakdown
from msinet_eval.metrics.ranking import RankingResult
from msinet_timm.commands import format_table

__all__ = ['METRICS', 'list_names', 'matrix', 'metrics', 'table']


def _rank(k: int) -> Callable[[RankingResult], float]:
    return lambda result: float(result.cmc[min(k, len(result.cmc)) - 1])


def metrics(ranks: Sequence[int] = (1, 5, 10)) -> dict[str, Callable[[RankingResult], float]]:
    """What a table shows of a result, by name: mAP, Rank-k for some k, and mINP."""
    cmc = {f'Rank-{k}': _rank(k) for k in ranks}
    return {'mAP': lambda result: result.mAP, **cmc, 'mINP': lambda result: result.mINP}


#: What a table shows unless other ranks are asked for.
METRICS: dict[str, Callable[[RankingResult], float]] = metrics()


def table(
    rows: Sequence[tuple[str, RankingResult]],
    ranks: Sequence[int] = (1, 5, 10),
    intervals: Sequence[Mapping[str, tuple[float, float]] | None] | None = None,
) -> str:
    """Aligned lines of text: a name and its mAP, Rank-k and mINP in percent.

    A rank beyond the end of a short gallery's CMC curve is that curve's last value, since there is nothing after it.
    Where the gallery was drawn several times, the standard deviation over the draws follows each mean.

    Args:
        rows: names and results.
        ranks: k of each Rank-k.
        intervals: of each row, as `bootstrap` gives them, for a line below it; None for none.
    """
    shown = metrics(ranks)
    lines = [['', *shown]]
    for (name, result), interval in zip(rows, intervals or [None] * len(rows), strict=True):
        cells = [f'{100 * metric(result):.1f}' for metric in shown.values()]
        if result.draws:
            spreads = [result.spread(metric) for metric in shown.values()]
            cells = [f'{cell} ±{100 * spread:.1f}' for cell, spread in zip(cells, spreads, strict=True)]
        lines.append([name, *cells])
        if interval and not any(math.isnan(low) for low, _ in interval.values()):
            ends = [interval[metric] for metric in shown]
            lines.append(['  95 % interval', *(f'{100 * low:.1f}-{100 * high:.1f}' for low, high in ends)])
    return format_table(lines)


def matrix(title: str, breakdown: Breakdown) -> str:
    """Aligned lines of text: mAP in percent by groups of queries (rows) and of the gallery; - where nothing matches."""
    lines = [[title, *map(str, breakdown.columns)]]
    for name, values in zip(breakdown.rows, breakdown.mAP, strict=True):
        lines.append([str(name), *('-' if math.isnan(value) else f'{100 * value:.1f}' for value in values)])
    return format_table(lines)


def list_names(names: Sequence[str]) -> str:
    """The first names, for a line of text."""
    return ', '.join(names[:8]) + (', ...' if len(names) > 8 else '')
