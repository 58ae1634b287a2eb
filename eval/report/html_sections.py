"""The sections of a report's page."""

import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version

import numpy as np
from PIL import Image

from msinet_eval.metrics.verification import VerificationResult

from .attention import overlay
from .charts import to_svg
from .data import Facts, Measured, Row
from .html_parts import LEGEND, Encoder, draw_found, draw_list, draw_query, figure, percent, svg_image
from .ranked_lists import label, load_listed
from .text import METRICS

__all__ = ['attention', 'chart', 'charts', 'foot', 'heading', 'lists', 'model', 'results', 'tiles']

_PACKAGES = ('msinet-timm', 'torch', 'torchvision', 'timm', 'numpy', 'Pillow')


def heading(facts: Sequence[Facts], title: str) -> str:
    """The title, and how much was measured."""
    query, gallery = facts[0].measured.evaluation.query, facts[0].measured.evaluation.gallery
    sizes = [
        f'{len(query):,} queries of {len(set(query.identities)):,} identities',
        f'{len(gallery):,} gallery images of {len(set(gallery.identities)):,}',
    ]
    if gallery.cameras is not None:
        sizes.append(f'{len(set(gallery.cameras)):,} cameras')
    line = f'<p class="note">{" · ".join(sizes)}</p>' if len(facts) == 1 else ''
    return f'<header><p class="kicker">Re-identification report</p><h1>{escape(title)}</h1>{line}</header>'


def model(facts: Facts) -> str:
    """Where the part of one of several models begins."""
    return f'<h2 class="model">{escape(facts.measured.name)}</h2>'


def tiles(facts: Facts) -> str:
    """The main metrics of a single model, to be seen at once."""
    ranking = facts.measured.evaluation.ranking
    names = ('mAP', 'Rank-1', 'mINP')
    cells = [(f'{name}, %', percent(METRICS[name](ranking)), _range(facts, name)) for name in names]
    if facts.verification:
        rate = _told(facts.verification)['TPR @ FPR 1 %']
        cells.append(('Same pairs told, %', rate, 'at 1 % false alarms'))
    blocks = [f'<div class="tile"><dt>{n}</dt><dd>{v}</dd><dd class="range">{r}</dd></div>' for n, v, r in cells]
    return f'<dl class="tiles">{"".join(blocks)}</dl>'


def _told(v: VerificationResult | None) -> dict[str, str]:
    """How well distance tells same from different; a dash for what was not or could not be measured."""
    values = {
        'ROC-AUC': v and percent(v.auc, 2),
        'EER': v and percent(v.eer),
        'TPR @ FPR 1 %': v and percent(v.at(0.01).true_positive_rate),
        '@ FPR 0.1 %': v and percent(v.at(0.001).true_positive_rate),
    }
    return {name: '–' if value in (None, 'nan') else value for name, value in values.items()}


def _range(facts: Facts, name: str) -> str:
    """The interval of a metric, or its spread over several draws; empty where neither is known."""
    ranking = facts.measured.evaluation.ranking
    if ranking.draws:
        return f'± {percent(ranking.spread(METRICS[name]))} over draws'
    low, high = facts.intervals[name]
    return '' if np.isnan(low) else f'{percent(low)} – {percent(high)}'


def results(facts: Sequence[Facts]) -> str:
    """A table with a row for each model."""
    rows = []
    for f in facts:
        ranking = f.measured.evaluation.ranking
        cells = [f'<td>{percent(get(ranking))}<small>{_range(f, name)}</small></td>' for name, get in METRICS.items()]
        cells += [f'<td>{value}</td>' for value in _told(f.verification).values()]
        rows.append(f'<tr><th scope="row">{escape(f.measured.name)}</th>{"".join(cells)}</tr>')
    head = ''.join(f'<th scope="col">{name}</th>' for name in ('', *METRICS, *_told(None)))
    return (
        '<section><h2>Results</h2><p class="note">In percent. Ranges are 95 % intervals from 1,000 bootstrap samples '
        'of the query identities, ± the standard deviation over drawn galleries. The last four metrics take distance '
        'as a test of whether two images show the same one, over all pairs: area under the ROC curve, equal error '
        'rate, and true positives at a rate of false ones.</p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        '</section>'
    )


_CHARTS = {
    'cmc': ('CMC', 'Share of queries that have a match among the first k images.'),
    'precision_recall': ('Precision and recall', 'All pairs of query and gallery, accepted up to a growing distance.'),
    'distances': (
        'Distances of pairs',
        'Each histogram has area 1; where they overlap, distance alone cannot tell. The line is the {kind} threshold.',
    ),
    'cameras': (
        'From camera to camera',
        'mAP in percent of each camera’s queries, searched in each camera’s images alone.',
    ),
}


def chart(drawn: Mapping, kind: str, facts: Facts, end: str = '') -> str:
    """A chart with its heading; empty if it was not drawn.

    Args:
        drawn: charts by name, as matplotlib figures.
        kind: of the chart.
        facts: whose it is.
        end: of its name, after the kind.
    """
    if kind + end not in drawn:
        return ''
    title, note = _CHARTS[kind]
    note = note.format(kind='equal-error' if facts.measured.threshold is None else 'calibrated')
    image = svg_image(to_svg(drawn[kind + end]), f'{title}: {note}')
    return figure(title, note, image, wide=drawn[kind + end].get_figwidth() > 6)


def charts(title: str, drawn: Sequence[str]) -> str:
    """A section of charts; empty without any."""
    return f'<section><h2>{title}</h2><div class="charts">{"".join(drawn)}</div></section>' if any(drawn) else ''


_LISTS = {
    'worst': ('Worst queries', 'lowest average precision'),
    'median': ('Median queries', 'as many do better as do worse'),
    'random': ('Random queries', 'drawn from the rest'),
}


def lists(facts: Facts, encode: Encoder) -> str:
    """Ranked lists of some queries."""
    ranking, query, gallery = facts.measured.evaluation[:3]
    blocks = []
    for kind, rows in facts.rows.items():
        title, note = _LISTS[kind]
        blocks.append(f'<h3>{title} <small>{note}</small></h3>')
        for row in rows:
            lines = [
                f'AP {percent(ranking.average_precision[row.query])} %',
                f'first match at rank {int(ranking.first_match_rank[row.query]):,}',
                label(query, row.query),
            ]
            asked = draw_query(query, row.query, lines, encode)
            image = load_listed(query, row.query)
            cells = [draw_found(gallery, found, encode) for found in row.found]
            blocks.append(draw_list(asked, cells, wide=image.width > image.height))
    return (
        '<section><h2>Ranked lists</h2><p class="note">Each query with its nearest gallery images; below them the '
        f'rank, d (the Euclidean distance), identity and camera.</p>{LEGEND}{"".join(blocks)}</section>'
    )


def attention(facts: Facts, encode: Encoder) -> str:
    """What the model saw in some queries and in what it found for them."""
    m, shown = facts.measured, [row for rows in facts.rows.values() for row in rows if row.attention]
    if not shown:
        why = 'only embeddings are known' if m.model is None else f'{type(m.model).__name__} has no spatial features'
        return f'<section><h2>What was matched</h2><p class="note">Left out: {escape(why)}.</p></section>'
    pairs = ''.join(_pair(m, row, encode) for row in shown)
    return (
        '<section><h2>What was matched</h2><p class="note">A query and the image nearest to it. <b>Energy</b> is the '
        'length of the feature vector at each place: where the model looks at all. <b>Agreement</b> is what each place '
        'adds to the similarity of the two: where the one looks like the other. '
        f'<span class="nowrap">least<i class="scale"></i>most</span></p><div class="pairs">{pairs}</div></section>'
    )


def _pair(m: Measured, row: Row, encode: Encoder) -> str:
    nearest = row.nearest
    sides = (
        ('query', 'query', load_listed(m.evaluation.query, row.query)),
        ('nearest', nearest.kind, load_listed(m.evaluation.gallery, nearest.index)),
    )
    cells = []
    for number, (name, kind, image) in enumerate(sides):
        image = _enlarge(image)
        cells.append(
            f'<figure><div class="frame {kind}"><img src="{encode(image)}" alt="{name}"></div>'
            f'<figcaption>{name}</figcaption></figure>'
        )
        for kind, maps in (('energy', row.attention.energy), ('agreement', row.attention.agreement)):
            source = encode(overlay(image, maps[number]))
            cells.append(f'<figure><img src="{source}" alt="{kind} in {name}"><figcaption>{kind}</figcaption></figure>')
    names = label(m.evaluation.query, row.query), label(m.evaluation.gallery, nearest.index)
    line = f'{names[0]} → {names[1]}, d {nearest.distance:.3f}'
    return f'<div class="pair"><p>{line}</p>{"".join(cells)}</div>'


def _enlarge(image: Image.Image) -> Image.Image:
    """At least 128 pixels high, so that a map over a small image is smooth."""
    scale = max(1.0, 128 / image.height)
    return image.resize((max(1, round(scale * image.width)), round(scale * image.height)))


def foot(facts: Sequence[Facts], command: str | None) -> str:
    """How the metrics came about."""
    measured = [f.measured for f in facts]
    items = [(m.name if len(measured) > 1 else 'Protocol', _protocol(m)) for m in measured]
    configs = {repr(m.data_config): m.data_config for m in measured if m.data_config}
    for config in configs.values():
        items.append(('Preprocessing', escape('; '.join(f'{key} {value}' for key, value in config.items()))))
    if command:
        items.append(('Command', f'<code>{escape(command)}</code>'))
    versions = [f'{name} {version(name)}' for name in _PACKAGES]
    items.append(('Versions', ', '.join([f'Python {platform.python_version()}', *versions])))
    rows = ''.join(f'<dt>{escape(name)}</dt><dd>{text}</dd>' for name, text in items)
    return f'<section><h2>How these metrics came about</h2><dl class="facts">{rows}</dl></section>'


def _protocol(m: Measured) -> str:
    ranking, query, gallery, rate = m.evaluation
    lines = [f'{len(query):,} queries, {len(gallery):,} gallery images.']
    if query.cameras is not None:
        lines.append('Gallery images of a query’s own identity and camera are removed from its ranking.')
    if m.same_clothes_removed:
        lines.append('Gallery images of a query’s identity in the same clothes are removed, too.')
    remarks = dict.fromkeys(m.dataset.remarks if m.dataset else ())
    if not any('skipped' in remark for remark in remarks):  # else they have told already, in more detail
        lines += [f'{count:,} queries skipped: {why}.' for why, count in ranking.skipped.items() if count]
    if ranking.draws:
        lines.append(f'Metrics are means over {len(ranking.draws)} random draws of the gallery; lists show the first.')
    lines.append('Average precision is the mean of the precision at the rank of each match (rectangular).')
    lines += [f'{remark[:1].upper()}{remark[1:]}.' for remark in remarks]
    if rate:
        lines.append(f'{rate:,.0f} images per second were read and embedded.')
    return f'<ul>{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'
