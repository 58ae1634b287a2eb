"""The command `msinet-eval compare`: whether one model is better than another, and on which queries."""

import argparse
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from msinet_eval.features.types import Features
from msinet_eval.metrics.bootstrap import Change, Difference, most_changed, paired_bootstrap
from msinet_eval.metrics.ranking import RankingResult
from msinet_eval.models.load import find_model, load_model
from msinet_eval.protocol import evaluate, rank
from msinet_eval.report.html_parts import LEGEND, Encoder, draw_found, draw_list, draw_query, percent, write_page
from msinet_eval.report.ranked_lists import label, list_found, load_listed
from msinet_timm.commands import find_device, not_negative, positive
from msinet_timm.datasets import ReIDDataset, add_data_option, create_dataset, parse_options
from msinet_timm.errors import InputError

__all__ = ['Comparison', 'add_arguments', 'compare', 'run']

_FILES = ('query.safetensors', 'gallery.safetensors')


class Comparison(NamedTuple):
    """Two results on the same queries and gallery.

    Attributes:
        a: result of the first.
        b: result of the second.
        differences: of `mAP` and `Rank-1`, the second less the first.
        changed: the queries that changed most.
    """

    a: RankingResult
    b: RankingResult
    differences: dict[str, Difference]
    changed: list[Change]


class _Side(NamedTuple):
    name: str
    query: Features
    gallery: Features


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    what = 'a model as for msinet-eval, or a folder that msinet-eval --features has written'
    parser.add_argument('a', metavar='A', help=what)
    parser.add_argument('b', metavar='B', help='likewise')
    parser.add_argument('-ds', '--dataset', help='data set to measure models on; not needed for two folders')
    parser.add_argument('--data-dir', metavar='DIR', help='folder of the data set')
    add_data_option(parser)
    parser.add_argument('--batch-size', type=positive, default=64, metavar='N', help='images at once (default: 64)')
    parser.add_argument(
        '--workers', type=not_negative, default=2, metavar='N', help='processes that read images (default: 2)'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    parser.add_argument(
        '--top', type=positive, default=10, metavar='N', help='queries to name that changed most (default: 10)'
    )
    parser.add_argument('--samples', type=positive, default=1000, metavar='N', help='of the bootstrap (default: 1000)')
    parser.add_argument('--json', metavar='FILE', help='write the metrics')
    parser.add_argument('--html', metavar='FILE', help='write a page that shows these queries with both rankings')


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    dataset = None
    if args.dataset:
        dataset = create_dataset(args.dataset, args.data_dir, **parse_options(args.data_option))
    same_clothes = dataset is not None and dataset.protocol.same_clothes_removed
    sides = [_load_side(flag, name, dataset, args) for flag, name in (('A', args.a), ('B', args.b))]
    _check_alike(*sides)
    comparison = compare(
        *[(side.query, side.gallery) for side in sides],
        count=args.top,
        samples=args.samples,
        same_clothes_removed=same_clothes,
    )
    print(_table(comparison, sides))
    remarks = list(dataset.remarks if dataset else ())
    if dataset and dataset.protocol.draws:
        remarks.append('the gallery is drawn at random: compared on the first draw')
    for remark in remarks:
        print(f'  {remark}')
    if args.json:
        _write_json(args.json, comparison, sides, args.dataset, remarks)
    if args.html:
        _write_html(args.html, comparison, sides, same_clothes)
    return 0


def compare(
    a: tuple[Features, Features],
    b: tuple[Features, Features],
    *,
    count: int = 10,
    samples: int = 1000,
    same_clothes_removed: bool = False,
) -> Comparison:
    """Measures two models' features of the same images against each other.

    Args:
        a: features of the queries and of the gallery, by the first model.
        b: by the second, of the same images in the same order.
        count: how many of the queries that changed to name.
        samples: of the paired bootstrap, see `msinet_eval.metrics.bootstrap.paired_bootstrap`.
        same_clothes_removed: as for `msinet_eval.protocol.rank`.
    """
    results = [rank(query, gallery, same_clothes_removed=same_clothes_removed) for query, gallery in (a, b)]
    differences = paired_bootstrap(*results, a[0].identities, samples=samples)
    return Comparison(*results, differences, most_changed(*results, count))


def _load_side(flag: str, name: str, dataset: ReIDDataset | None, args: argparse.Namespace) -> _Side:
    found = [(Path(name) / file).is_file() for file in _FILES]
    if all(found):
        return _Side(name, *[Features.load(Path(name) / file) for file in _FILES])
    if any(found):
        raise InputError(f'{flag}: {name} has only one of {" and ".join(_FILES)}: write both with --features')
    if dataset is None:
        raise InputError(f'{flag}: {name} is no folder of features ({", ".join(_FILES)}): give -ds to measure a model')
    model, config = load_model(**find_model(name, None))
    evaluation = evaluate(
        model,
        dataset,
        data_config=config,
        batch_size=args.batch_size,
        workers=args.workers,
        device=find_device(args.device),
    )
    return _Side(name, evaluation.query, evaluation.gallery)


def _check_alike(a: _Side, b: _Side) -> None:
    """Features may come from other machines: images are known by file name, identity and box."""
    for part in ('query', 'gallery'):
        one, other = getattr(a, part), getattr(b, part)
        if len(one) != len(other):
            raise InputError(
                f'{a.name} has {len(one)} {part} images, {b.name} {len(other)}: measure both on one data set'
            )
        for index, (left, right) in enumerate(zip(_keys(one), _keys(other), strict=True)):
            if left != right:
                names = [f'{f.paths[index]} (identity {f.identities[index]})' for f in (one, other)]
                raise InputError(
                    f'{part} image {index} is {names[0]} in {a.name}, but {names[1]} in {b.name}: '
                    'measure both on one data set'
                )


def _keys(features: Features) -> list[tuple]:
    boxes = [None] * len(features) if features.boxes is None else map(tuple, features.boxes.tolist())
    names = [Path(path).name for path in features.paths]
    return list(zip(names, features.identities, boxes, strict=True))


def _metrics(comparison: Comparison) -> dict[str, tuple[float, float]]:
    a, b = comparison.a, comparison.b
    return {'mAP': (a.mAP, b.mAP), 'Rank-1': (float(a.cmc[0]), float(b.cmc[0]))}


def _verdict(difference: Difference) -> str:
    """What an interval that holds zero, or does not, says of mAP."""
    if difference.low > 0:
        return 'B is better than A in mAP: the 95 % interval is above zero'
    if difference.high < 0:
        return 'A is better than B in mAP: the 95 % interval is below zero'
    return 'no clear difference in mAP: chance, through the choice of queries, would explain it'


def _table(comparison: Comparison, sides: Sequence[_Side]) -> str:
    lines = [f'A  {sides[0].name}', f'B  {sides[1].name}', '']
    lines.append(f'{"":8}{"A":>7}{"B":>8}{"B - A":>9}  {"95 % interval":>16}{"p":>9}')
    for name, (a, b) in _metrics(comparison).items():
        d = comparison.differences[name]
        interval = f'{100 * d.low:+.1f} ... {100 * d.high:+.1f}'
        lines.append(f'{name:8}{100 * a:7.1f}{100 * b:8.1f}{100 * d.value:+9.1f}  {interval:>16}{d.p_value:9.3f}')
    lines += ['', _verdict(comparison.differences['mAP'])]
    if comparison.changed:
        lines += ['', 'queries that changed most:', f'{"AP in A":>9}{"AP in B":>9}']
        paths = sides[0].query.paths
        lines += [f'{100 * c.before:9.1f}{100 * c.after:9.1f}  {paths[c.query]}' for c in comparison.changed]
    else:
        lines += ['', 'no query changed']
    return '\n'.join(lines)


def _write_json(path: str, comparison: Comparison, sides: Sequence[_Side], dataset: str | None, remarks: list) -> None:
    query = sides[0].query
    metrics = {
        'a': sides[0].name,
        'b': sides[1].name,
        'dataset': dataset,
        'remarks': remarks,
        'queries': comparison.a.num_valid,
        'queries_skipped': comparison.a.num_skipped,
        'metrics': {
            name: {'a': a, 'b': b, **comparison.differences[name]._asdict()}
            for name, (a, b) in _metrics(comparison).items()
        },
        'changed': [
            {'path': query.paths[c.query], 'identity': query.identities[c.query], 'a': c.before, 'b': c.after}
            for c in comparison.changed
        ],
    }
    try:
        Path(path).write_text(json.dumps(metrics, indent=2) + '\n', encoding='utf-8')
    except OSError as e:
        raise InputError(f'--json {path}: cannot write ({e.strerror})') from e


def _write_html(path: str, comparison: Comparison, sides: Sequence[_Side], same_clothes_removed: bool) -> None:
    picked = [change.query for change in comparison.changed]
    lists = [
        list_found(s.query, s.gallery, picked, same_clothes_removed=same_clothes_removed) if picked else []
        for s in sides
    ]
    title = f'{sides[0].name} and {sides[1].name}'
    write_page(Path(path), title, lambda encode: _body(comparison, sides, lists, encode))


def _body(comparison: Comparison, sides: Sequence[_Side], lists: Sequence[list], encode: Encoder) -> str:
    rows = []
    for name, (a, b) in _metrics(comparison).items():
        d = comparison.differences[name]
        cells = (percent(a), percent(b), f'{100 * d.value:+.1f}', f'{100 * d.low:+.1f} … {100 * d.high:+.1f}')
        rows.append(
            f'<tr><th scope="row">{name}, %</th>{"".join(f"<td>{c}</td>" for c in cells)}<td>{d.p_value:.3f}</td></tr>'
        )
    blocks = [_changed(number, change, sides, lists, encode) for number, change in enumerate(comparison.changed)]
    verdict = _verdict(comparison.differences['mAP'])
    names = [f'<span class="versus">{letter}</span> {escape(s.name)}' for letter, s in zip('AB', sides, strict=True)]
    head = ''.join(f'<th scope="col">{name}</th>' for name in ('', 'A', 'B', 'B − A', '95 % interval', 'p'))
    return (
        '<header><p class="kicker">Re-identification: two models compared</p>'
        f'<h1>{" ".join(names)}</h1><p class="note">{verdict[:1].upper()}{verdict[1:]}.</p></header>'
        '<section><h2>Results</h2><p class="note">Paired bootstrap over the query identities: both models are measured '
        f'on the same draws.</p><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        '</table></div></section>'
        f'<section><h2>Queries that changed most</h2>{LEGEND}{"".join(blocks) or "<p>None changed.</p>"}</section>'
    )


def _changed(number: int, change: Change, sides: Sequence[_Side], lists: Sequence[list], encode: Encoder) -> str:
    query, rows = sides[0].query, []
    image = load_listed(query, change.query)
    for name, side, found, precision in zip('AB', sides, lists, (change.before, change.after), strict=True):
        asked = draw_query(
            query, change.query, [f'{name}: AP {percent(precision)} %', label(query, change.query)], encode
        )
        cells = [draw_found(side.gallery, f, encode) for f in found[number]]
        rows.append(draw_list(asked, cells, wide=image.width > image.height))
    heading = escape(Path(query.paths[change.query]).name)
    gain = f'{100 * (change.after - change.before):+.1f}'
    return f'<h3>{heading} <small>{gain} points of AP in B</small></h3>{"".join(rows)}'
