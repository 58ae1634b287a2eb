"""Results for people: one HTML file that shows how good a model is, and where and why it fails."""

from collections.abc import Sequence
from pathlib import Path

from msinet_timm.errors import InputError

from . import charts
from . import html_sections as sections
from .data import Facts, Measured, look_into
from .html_parts import Encoder, write_page

__all__ = ['Measured', 'write_report']


def write_report(
    path: str | Path,
    measured: Sequence[Measured],
    *,
    title: str | None = None,
    command: str | None = None,
    queries: int = 4,
    top: int = 10,
    chart_files: bool = False,
    seed: int = 0,
) -> None:
    """Writes a report that is one file: it fetches nothing, runs no script, and stays below 5 MB.

    It shows a table with 95 % intervals, CMC and precision-recall curves, distances of same and different pairs,
    metrics for each pair of cameras, ranked lists of the worst, of median and of random queries, and what the model
    saw in some of them. The foot says how all of it came about.

    Args:
        path: of the HTML file.
        measured: one or more models or data sets: compared in one table, then described one after another.
        title: heading; None for the names.
        command: command line, for the foot.
        queries: how many to list of each kind: worst, median and random. Fewer where several are described.
        top: ranks of each list.
        chart_files: write each chart as a PNG, too, named after the report.
        seed: of the random queries.

    Raises:
        InputError: matplotlib is missing (extra `plot`), an unreadable image, or a file that cannot be written.
    """
    if not measured:
        raise InputError('a report needs at least one evaluation')
    path, count = Path(path), max(1, 2 * queries // (1 + len(measured)))
    facts = [look_into(m, queries=count, top=top, seed=seed) for m in measured]
    drawn = _draw_charts(facts)
    title = title or ', '.join(dict.fromkeys(m.name for m in measured))
    write_page(path, title, lambda encode: _body(facts, drawn, title, command, encode))
    for name, chart in drawn.items() if chart_files else ():
        file = path.with_name(f'{path.stem}_{name}.png')
        try:
            file.write_bytes(charts.to_png(chart))
        except OSError as e:
            raise InputError(f'{file}: cannot write this chart ({e.strerror})') from e


def _draw_charts(facts: Sequence[Facts]) -> dict:
    """All charts by name, which is also that of their files."""
    drawn = {'cmc': charts.draw_cmc([(f.measured.name, f.measured.evaluation.ranking.cmc) for f in facts])}
    curves = [(f.measured.name, *f.verification.precision_recall.T) for f in facts if f.verification]
    if curves:
        drawn['precision_recall'] = charts.draw_precision_recall(curves)
    for number, f in enumerate(facts, start=1):
        end = f'_{number}' if len(facts) > 1 else ''
        if f.verification:
            v, calibrated = f.verification, f.measured.threshold
            threshold = v.eer_threshold if calibrated is None else calibrated
            drawn[f'distances{end}'] = charts.draw_distances(
                v.bin_edges, v.same_histogram, v.different_histogram, threshold
            )
        if f.cameras:
            drawn[f'cameras{end}'] = charts.draw_camera_matrix(f.cameras.mAP, f.cameras.rows, f.cameras.columns)
    return drawn


def _body(facts: Sequence[Facts], drawn: dict, title: str, command: str | None, encode: Encoder) -> str:
    parts = [sections.heading(facts, title)]
    if len(facts) == 1:
        parts.append(sections.tiles(facts[0]))
    parts.append(sections.results(facts))
    shared = [sections.chart(drawn, kind, facts[0]) for kind in ('cmc', 'precision_recall')]
    if len(facts) > 1:
        parts.append(sections.charts('Curves', shared))
    for number, f in enumerate(facts, start=1):
        end = f'_{number}' if len(facts) > 1 else ''
        own = [sections.chart(drawn, kind, f, end) for kind in ('distances', 'cameras')]
        if len(facts) > 1:
            parts += [sections.model(f), sections.charts('Distances and cameras', own)]
        else:
            parts.append(sections.charts('Charts', shared + own))
        parts += [sections.lists(f, encode), sections.attention(f, encode)]
    parts.append(sections.foot(facts, command))
    return '\n'.join(parts)
