"""Time and memory of rankings: `python -m msinet_eval.benchmark`.

Features are made up, in clusters, at the size of known data sets: easy ones, as of a trained model; hard ones, as of a
weak model or of another domain, whose matches lie anywhere; and tied ones, hard and rounded until nearly all images are
exactly as far as a match. Each form is measured in a process of its own, so that its peak of memory is its own, and the
forms take turns, so that a busy machine slows all of them.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from msinet_eval.metrics.checks import Labels
from msinet_eval.metrics.ranking import evaluate_distances, evaluate_ranking
from msinet_eval.metrics.rerank import ReRanking
from msinet_timm.benchmark.timing import run_process, seconds_of
from msinet_timm.commands import command, format_table, positive, progress, whole
from msinet_timm.errors import InputError
from msinet_timm.files import replace_text

from .plain import plain_k_reciprocal, plain_ranking

__all__ = ['KINDS', 'SIZES', 'Size', 'made_up', 'main']

DIMENSIONS = 768
KINDS = ('easy', 'hard', 'tied')
_HARD = 2.5  # times the noise of easy features
_SIGNS = 16  # dimensions of tied features, of which only the sign is left
_STATUS = Path('/proc/self/status')  # of this process; the kernel's own record of its peak


class Size(NamedTuple):
    """What to measure on.

    Attributes:
        queries: images that ask.
        gallery: images that are ranked.
        distractors: how many of the gallery are of nobody who is asked for.
        identities: who is asked for.
        cameras: that took the images.
        noise: how much easy images of one identity differ, in units of how much identities do.
        plain_queries: how many queries the plain form is measured with; its time and memory are scaled to all.
        plain_rerank: whether the plain form of re-ranking fits into memory.
    """

    queries: int
    gallery: int
    distractors: int
    identities: int
    cameras: int
    noise: float
    plain_queries: int
    plain_rerank: bool


SIZES = {
    'market1501': Size(3_368, 15_913, 2_798, 750, 6, 0.7, 3_368, True),
    'msmt17': Size(11_659, 82_161, 0, 3_060, 15, 0.8, 583, False),
    'small': Size(60, 400, 40, 15, 4, 0.8, 30, True),
}

_LABELS = ('query_ids', 'gallery_ids', 'query_cameras', 'gallery_cameras')


def made_up(size: Size, kind: str = 'easy', seed: int = 0) -> dict[str, np.ndarray]:
    """Features of one of `KINDS`, and labels of query and gallery: `query_ids`, `gallery_cameras`, ...

    Identities lie in a few dimensions, as those of a trained model do; images scatter around them, some much more
    than others, and those of one camera are shifted alike.
    """
    rng = np.random.default_rng(seed)
    latent = 48
    noise = size.noise if kind == 'easy' else size.noise * _HARD
    identities = rng.standard_normal((size.identities, latent), dtype=np.float32)
    cameras = noise / 2 * rng.standard_normal((size.cameras, latent), dtype=np.float32)
    spread = rng.standard_normal((latent, DIMENSIONS), dtype=np.float32)
    made = {}
    for part, number, strangers in (('query', size.queries, 0), ('gallery', size.gallery, size.distractors)):
        ids = np.arange(number) % size.identities
        ids[number - strangers :] = -1
        centres = identities[ids]
        centres[ids < 0] = rng.standard_normal((strangers, latent), dtype=np.float32)
        camera = rng.integers(0, size.cameras, number)
        scatter = noise * rng.lognormal(0, 0.25, (number, 1)).astype(np.float32)
        features = (centres + cameras[camera] + scatter * rng.standard_normal(centres.shape, dtype=np.float32)) @ spread
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        if kind == 'tied':
            features = np.where(np.arange(DIMENSIONS) < _SIGNS, np.sign(features), np.float32(0))
        order = rng.permutation(number)
        made |= {part: features[order], f'{part}_ids': ids[order], f'{part}_cameras': camera[order]}
    return made


def labels(case: dict[str, np.ndarray]) -> list[Labels]:
    """Those of query and gallery, as `evaluate_ranking` takes them."""
    return [Labels(case[f'{part}_ids'], case[f'{part}_cameras']) for part in ('query', 'gallery')]


def _plain(case: dict, size: Size) -> tuple[float, float]:
    few = {name: value[: size.plain_queries] if 'query' in name else value for name, value in case.items()}
    return plain_ranking(**few)[0], size.queries / size.plain_queries


def _plain_rerank(case: dict, size: Size) -> tuple[float, float]:
    distances = plain_k_reciprocal(case['query'], case['gallery'])
    return evaluate_distances(distances, *labels(case)).mAP, 1


def _rerank(case: dict, size: Size) -> tuple[float, float]:
    ranking = ReRanking(case['query'], case['gallery'])
    return evaluate_distances(ranking, *labels(case)).mAP, 1


#: Each takes a case and its size, gives mAP and by what time and memory must be multiplied.
FORMS: dict[str, Callable[[dict, Size], tuple[float, float]]] = {
    'plain': _plain,
    'ranking': lambda case, size: (evaluate_ranking(case['query'], case['gallery'], *labels(case)).mAP, 1),
    'plain re-ranking': _plain_rerank,
    're-ranking': _rerank,
}


def _memory(field: str) -> float:
    """Megabytes of this process: field 'VmRSS' (now) or 'VmHWM' (peak)."""
    lines = _STATUS.read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1000


def measure(form: str, size: Size, folder: Path) -> dict[str, float]:
    """Runs a form once, on the features that were saved in a folder.

    A first run at a tiny size loads what has to be loaded. What features and libraries take is taken off the peak.
    """
    tiny = SIZES['small']
    FORMS[form](made_up(tiny), tiny)
    case = {name: np.load(folder / f'{name}.npy') for name in ('query', 'gallery', *_LABELS)}
    with contextlib.suppress(OSError):
        _STATUS.with_name('clear_refs').write_text('5')  # the peak so far is forgotten
    before = _memory('VmRSS')
    found: list[tuple[float, float]] = []
    (seconds,) = seconds_of(lambda: found.append(FORMS[form](case, size)))
    mAP, scale = found[0]
    extra = max(0.0, _memory('VmHWM') - before)
    return {'seconds': seconds * scale, 'megabytes': extra * scale, 'mAP': mAP, 'scale': scale}


def compare(name: str, kind: str, forms: list[str], repeats: int, threads: int) -> dict[str, dict]:
    """Measures forms at one size and on one kind of features, in turns.

    Returns:
        For each form, median and range of seconds, largest megabytes, mAP, and by what its share of the queries
        was scaled.
    """
    runs = {form: [] for form in forms}
    with tempfile.TemporaryDirectory() as folder:
        for part, values in made_up(SIZES[name], kind).items():
            np.save(Path(folder) / f'{part}.npy', values)
        turns = [form for _ in range(repeats) for form in forms]
        for form in progress(turns, desc=f'{name}, {kind}'):
            arguments = ['--size', name, '--threads', str(threads), '--measure', form, folder]
            try:
                runs[form].append(run_process('msinet_eval.benchmark', *arguments, name=f"form '{form}'"))
            except InputError as e:
                raise InputError(f'{e} for the size {name}') from e
    return {form: _summary(measured) for form, measured in runs.items()}


def _summary(runs: list[dict[str, float]]) -> dict:
    seconds = [run['seconds'] for run in runs]
    return {
        'seconds': statistics.median(seconds),
        'range': [min(seconds), max(seconds)],
        'megabytes': max(run['megabytes'] for run in runs),
        'mAP': runs[0]['mAP'],
        'scale': runs[0]['scale'],
    }


def table(name: str, kind: str, measured: dict[str, dict]) -> str:
    """Lines to print for one size and kind: how hard it is, a form each, and how that compares with its plain form."""
    size = SIZES[name]
    title = (
        f'{name}: {size.queries:,} queries, {size.gallery:,} gallery images, {DIMENSIONS} dimensions, {kind} features '
        f'(mAP {measured["ranking"]["mAP"]:.4f})'
    )
    rows = [('', 'seconds', 'range', 'MB beyond features', 'mAP', '')]
    for form, run in measured.items():
        limits = '{:.2f}-{:.2f}'.format(*run['range'])
        remark = ''
        plain = measured.get('plain re-ranking' if form == 're-ranking' else 'plain', run)
        if run['scale'] > 1:
            remark = f'scaled from {size.plain_queries} queries'
        elif run is not plain and form != 'plain re-ranking':
            remark = f'{plain["seconds"] / run["seconds"]:.1f} x faster than the plain form'
            remark += f', {plain["megabytes"] / max(run["megabytes"], 1):.1f} x less memory'
        rows.append((form, f'{run["seconds"]:.2f}', limits, f'{run["megabytes"]:.0f}', f'{run["mAP"]:.4f}', remark))
    return f'{title}\n{format_table(rows, "<>>>><")}'


def _forms(args: argparse.Namespace, size: Size) -> list[str]:
    forms = ['plain'] * args.baseline + ['ranking']
    if args.rerank:
        forms += ['plain re-ranking'] * (args.baseline and size.plain_rerank) + ['re-ranking']
    return forms


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m msinet_eval.benchmark', description=__doc__.splitlines()[0])
    parser.add_argument(
        '--size', nargs='+', choices=SIZES, default=['market1501', 'msmt17'], help='default: %(default)s'
    )
    parser.add_argument('--kind', nargs='+', choices=KINDS, default=KINDS, help='of features (default: all)')
    parser.add_argument('--baseline', action='store_true', help='measure plain forms, too (minutes, gigabytes)')
    parser.add_argument('--rerank', action='store_true', help='measure re-ranking, too')
    parser.add_argument('--repeats', type=positive, default=3, help='turns of each form (default: %(default)s)')
    parser.add_argument(
        '--threads', type=whole(1, 1024), default=os.cpu_count(), help='of each form (default: all cores)'
    )
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the metrics there')
    parser.add_argument('--measure', nargs=2, metavar=('FORM', 'FOLDER'), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if not _STATUS.exists():
        raise InputError(f'memory is read from {_STATUS}, which only Linux has')
    if args.measure:
        form, folder = args.measure
        print(json.dumps(measure(form, SIZES[args.size[0]], Path(folder))))
        return
    results = {}
    for name in args.size:
        results[name] = {}
        for kind in args.kind:
            measured = compare(name, kind, _forms(args, SIZES[name]), args.repeats, args.threads)
            print(table(name, kind, measured), end='\n\n')
            results[name][kind] = measured
    if args.json:
        replace_text(args.json, json.dumps(results, indent=1) + '\n', f'--json {args.json}: cannot write')


if __name__ == '__main__':
    sys.exit(main())
