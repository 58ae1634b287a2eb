"""Results for people: HTML pages that are one file, such as the report on how good a model is, and where and why it
fails. The pages themselves are in `templates`."""

import base64
import io
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from msinet_eval.metrics.ranking import RankingResult
from msinet_eval.metrics.verification import VerificationResult
from msinet_timm.drawing import REMOVED, RIGHT, WRONG, to_hex
from msinet_timm.errors import InputError
from msinet_timm.files import replace_file

from . import charts
from .attention import PairAttention, attend, has_places, overlay
from .ranked_lists import Found, load_listed, names
from .text import metrics

__all__ = ['MAX_BYTES', 'PACKAGES', 'write_page', 'write_report']

#: A page is never larger.
MAX_BYTES = 5_000_000
#: Whose versions tell how metrics came about.
PACKAGES = ('msinet-timm', 'torch', 'torchvision', 'timm', 'numpy', 'Pillow')

# height in pixels and JPEG quality of images, tried until a page is small enough
_DETAILS = ((192, 84), (144, 80), (112, 74), (80, 66), (56, 60))
_ATTENDED = 2  # of each kind of queries, those with attention maps
_REMOVED = 4  # most images of a list that a rule has removed


def write_report(
    path: str | Path,
    results: Sequence,
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
        results: each an `EvaluationResult`, of one or more models or data sets, before re-ranking: compared in one
            table, then described one after another.
        title: heading; None for the names.
        command: command line, for the foot.
        queries: how many to list of each kind: worst, median and random. Fewer where several are described.
        top: ranks of each list.
        chart_files: write each chart as a PNG, too, named after the report.
        seed: of the random queries.

    Raises:
        InputError: no results or some of other ranks, matplotlib is missing (extra `plot`), an unreadable image, or a
            file that cannot be written.
    """
    if not results:
        raise InputError('a report needs at least one evaluation')
    if len(ranks := {str(r.settings.ranks): r for r in results}) > 1:
        raise InputError(f'a report has one table: evaluate with the same `ranks`, not {" and ".join(ranks)}')
    results = [r.before_reranking() for r in results]
    path, count = Path(path), max(1, 2 * queries // (1 + len(results)))
    told = [_verification(r) for r in results]
    drawn = _draw_charts(results, told)
    write_page(
        path,
        'report.html.jinja',
        title=title or ', '.join(dict.fromkeys(r.name for r in results)),
        models=[
            {'result': r, 'told': v, 'ranges': _ranges(r), 'lists': _lists(r, count, top, seed)}
            for r, v in zip(results, told, strict=True)
        ],
        charts=drawn,
        command=command,
        configs=list({repr(r.data_config): r.data_config for r in results if r.data_config}.values()),
        versions=[('Python', platform.python_version()), *((name, version(name)) for name in PACKAGES)],
    )
    for name, chart in drawn.items() if chart_files else ():
        charts.write_png(chart, path.with_name(f'{path.stem}_{name}.png'))


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Writes a page with images as fine as 5 MB allow.

    Args:
        path: of the HTML file.
        template: in `templates`.
        values: what the template takes, besides the functions that all take.

    Raises:
        InputError: the page is too large even so, or cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader(__package__), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        'percent': _percent,
        'number': '{:,.0f}'.format,
        'file_name': lambda file: Path(file).name,
        'distinct': _distinct,
    }
    environment.globals |= {
        'load': load_listed,
        'names': names,
        'overlay': overlay,
        'enlarge': _enlarge,
        'svg': _svg,
        'has_places': has_places,
        'colors': {'right': to_hex(RIGHT), 'wrong': to_hex(WRONG), 'removed': to_hex(REMOVED)},
    }
    for height, quality in _DETAILS:
        environment.globals['jpeg'] = _jpeg_encoder(height, quality)
        page = environment.get_template(template).render(values).encode()
        if len(page) <= MAX_BYTES:
            break
    else:
        raise InputError(f'{path}: the page would be larger than 5 MB: ask for fewer models or queries in it')
    replace_file(path, lambda draft: draft.write_bytes(page), f'{path}: cannot write the page')


def _percent(value: float, digits: int = 1) -> str:
    """A share of one as a number of percent, without the sign; a dash for what could not be measured."""
    return '–' if value != value else f'{100 * value:.{digits}f}'


def _jpeg_encoder(height: int, quality: int) -> Callable[[Image.Image], str]:
    """A function from images to data URIs of JPEGs that are no higher than `height` pixels."""

    def encode(image: Image.Image) -> str:
        width = max(1, round(image.width * height / image.height))
        if image.height > height:
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, 'JPEG', quality=quality, optimize=True)
        return _data_uri('image/jpeg', file.getvalue())

    return encode


def _svg(chart) -> str:
    return _data_uri('image/svg+xml', charts.to_svg(chart))


def _data_uri(kind: str, data: bytes) -> str:
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def _enlarge(image: Image.Image) -> Image.Image:
    """At least 128 pixels high, so that a map over a small image is smooth."""
    scale = max(1.0, 128 / image.height)
    return image.resize((max(1, round(scale * image.width)), round(scale * image.height)))


def _verification(result) -> VerificationResult | None:
    try:
        return result.verification
    except InputError:  # all images are of one identity
        return None


def _ranges(result) -> dict[str, str]:
    """What follows each metric: its interval, or its spread over draws; empty where neither is known."""
    if result.ranking.draws:
        spreads = {name: result.ranking.spread(get) for name, get in metrics(result.settings.ranks).items()}
        return {name: f'± {_percent(spread)} over draws' for name, spread in spreads.items()}
    ends = result.intervals.items()
    return {name: '' if np.isnan(low) else f'{_percent(low)} – {_percent(high)}' for name, (low, high) in ends}


def _draw_charts(results: Sequence, told: Sequence[VerificationResult | None]) -> dict[str, Any]:
    """All charts by name, which is also that of their files."""
    drawn = {'cmc': charts.draw_cmc([(r.name, r.ranking.cmc) for r in results])}
    curves = [(r.name, *v.precision_recall.T) for r, v in zip(results, told, strict=True) if v]
    if curves:
        drawn['precision_recall'] = charts.draw_precision_recall(curves)
    for number, (r, v) in enumerate(zip(results, told, strict=True), start=1):
        end = f'_{number}' if len(results) > 1 else ''
        if v:
            threshold = v.eer_threshold if r.threshold is None else r.threshold
            drawn[f'distances{end}'] = charts.draw_distances(
                v.bin_edges, v.same_histogram, v.different_histogram, threshold
            )
        if (
            r.query.cameras is not None
            and max(_distinct(f.cameras) for f in (r.query, r.gallery)) <= charts.MOST_CAMERAS
        ):
            drawn[f'cameras{end}'] = charts.draw_camera_matrix(r.cameras.mAP, r.cameras.rows, r.cameras.columns)
    return drawn


def _distinct(names: Sequence[str]) -> int:
    """How many there are."""
    return len(set(names))


def _lists(result, count: int, top: int, seed: int) -> dict[str, list[tuple[int, list[Found], PairAttention | None]]]:
    """Queries to look at by kind: each its index, what was found, and what the model saw in it and the nearest."""
    lists = {}
    for kind, picked in _pick(result.ranking, count, seed).items():
        found = result.found(picked, top, _REMOVED)
        attended = [_attend(result, *both) for both in zip(picked[:_ATTENDED], found, strict=False)]
        attended += [None] * (len(picked) - len(attended))
        lists[kind] = list(zip(picked, found, attended, strict=True))
    return lists


def _pick(ranking: RankingResult, count: int, seed: int) -> dict[str, list[int]]:
    """The worst queries, those in the middle, and some of the others; none of them twice."""
    precision = ranking.average_precision
    order = np.argsort(precision, kind='stable')[: ranking.num_valid].tolist()
    worst, rest = order[:count], order[count:]
    middle = min(max(0, len(order) // 2 - count // 2 - len(worst)), max(0, len(rest) - count))
    median, others = rest[middle : middle + count], rest[:middle] + rest[middle + count :]
    drawn = np.random.default_rng(seed).permutation(others)[:count].tolist()
    return {kind: picked for kind, picked in (('worst', worst), ('median', median), ('random', drawn)) if picked}


def _attend(result, query: int, found: Sequence[Found]) -> PairAttention | None:
    nearest = next((f for f in found if f.rank == 1), None)
    # the two images may be of different cameras, and the model as it is would see others than were ranked
    if result.model is None or result.data_config is None or nearest is None or result.norms is not None:
        return None
    images = load_listed(result.query, query), load_listed(result.gallery, nearest.index)
    return attend(result.model, *images, result.data_config)
