"""Speed of MSINet on the CPU in all its forms, beside models that one would take instead.

Each number of threads and each allocator has a process of its own; in it all models and forms take turns on the same
images. Weights are random: they don't change the speed.
"""

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from msinet_timm.commands import command, format_table, make_folder, positive, positive_float, progress, whole
from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.files import replace_text
from msinet_timm.forms import FORMS
from msinet_timm.forms import PRECISIONS as EMBEDDED_IN
from msinet_timm.memory import keep_memory

from .cameras import CAMERAS, CROPS, cameras_to_markdown, measure_cameras
from .gallery import LENGTH, measure_gallery
from .rendering import measure_rendering, rendering_to_markdown
from .report import describe_machine, read_map, to_csv, to_markdown, write_image
from .runs import INPUT, RUNTIMES, Case, Result, check_model, combinations, create_model, measure, write_files
from .timing import run_process
from .tracking import PEOPLE as PEOPLE_TRACKED
from .tracking import measure_embedding, measure_tracking

__all__ = ['main']

MODELS = (
    'msinet_x1_0',
    'resnet50',
    'resnet18',
    'mobilenetv3_large_100',
    'repvit_m0_9',
    'efficientnet_b0',
    'osnet_x1_0',
)
PRECISIONS = ('float32', 'bf16', 'int8')
ALLOCATORS = ('system', 'kept')
#: What `--render` renders: people, and width and height of their images.
PEOPLE, SIZE = 6, (128, 256)
#: The forms and precisions of an MSINet, and of other models, unless they are named.
OWN_FORMS = (*FORMS, *RUNTIMES)
OTHER_FORMS, OTHER_PRECISIONS = ('channels_last', *RUNTIMES), ('float32', 'bf16')
#: What `--quick` measures.
QUICK = {
    'models': ['msinet_x1_0', 'resnet50', 'mobilenetv3_large_100'],
    'batch_sizes': [1, 32],
    'threads': [os.cpu_count()],
    'allocator': ['kept'],
    'precisions': ['float32', 'bf16'],
}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m msinet_timm.benchmark', description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', default=MODELS, metavar='NAME', help='default: %(default)s')
    parser.add_argument(
        '--forms', nargs='+', choices=[*FORMS, *RUNTIMES], metavar='FORM',
        help=f'of {", ".join([*FORMS, *RUNTIMES])} (default: of MSINet all; of others {", ".join(OTHER_FORMS)})',
    )  # fmt: skip
    parser.add_argument(
        '--precisions', nargs='+', choices=PRECISIONS, metavar='PRECISION',
        help=f'of {", ".join(PRECISIONS)} (default: of MSINet all, of others {", ".join(OTHER_PRECISIONS)})',
    )  # fmt: skip
    parser.add_argument('--batch-sizes', nargs='+', type=positive, default=[1, 8, 32], metavar='N', help='1 8 32')
    parser.add_argument(
        '--threads',
        nargs='+',
        type=whole(1, 1024),
        default=sorted({1, os.cpu_count()}),
        metavar='N',
        help='1, and all cores',
    )
    parser.add_argument(
        '--allocator', nargs='+', choices=ALLOCATORS, default=ALLOCATORS,
        help="the C library's as it is, and one that keeps its memory (default: both)",
    )  # fmt: skip
    parser.add_argument('--rounds', type=positive, default=3, metavar='N', help='of all forms in turns (default: 3)')
    parser.add_argument(
        '--seconds', type=positive_float, default=0.1, help='for each form and batch size in a round (default: 0.1)'
    )
    parser.add_argument('--map', type=Path, metavar='FILE', help='CSV with the columns model and mAP (in percent)')
    parser.add_argument('--output', type=Path, metavar='DIR', help='for benchmark.csv and benchmark.png')
    parser.add_argument('--quick', action='store_true', help='three models, two batch sizes, all cores')
    parser.add_argument(
        '--cameras', action='store_true',
        help=f'instead: images/s of an Embedder with and without cameras, and seconds to adapt it to {len(CAMERAS)} of '
        f'them by {CROPS} crops each (default: msinet_x1_0, fused, float32)',
    )  # fmt: skip
    parser.add_argument(
        '--render', action='store_true',
        help=f'instead: images/s of a core by msinet-data render, and the share of each step, for {PEOPLE} '
        f'people at {SIZE[0]}x{SIZE[1]}',
    )  # fmt: skip
    parser.add_argument(
        '--track', action='store_true',
        help=f'instead: frames/s of a tracker at {PEOPLE_TRACKED} boxes a frame, without embedding them, and with, by '
        'the forms and precisions (default: fused in both precisions)',
    )  # fmt: skip
    parser.add_argument(
        '--gallery', type=whole(1000), metavar='N',
        help=f'instead: seconds to add, find and erase in a gallery of N crops of {LENGTH} numbers each',
    )  # fmt: skip
    parser.add_argument('--job', type=Path, help=argparse.SUPPRESS)
    known = parser.parse_known_args(argv)[0]
    if known.quick:
        parser.set_defaults(**QUICK)
    if known.cameras:
        parser.set_defaults(models=['msinet_x1_0'], forms=['fused'], precisions=['float32'])
    if known.track:
        parser.set_defaults(models=['msinet_x1_0.rendered_128x64'], forms=['fused'], precisions=list(EMBEDDED_IN))
    return parser.parse_args(argv)


def _cases(args: argparse.Namespace) -> list[Case]:
    cases = []
    for model in args.models:
        check_model(model)
        own = model.startswith('msinet')
        forms = args.forms or (OWN_FORMS if own else OTHER_FORMS)
        precisions = args.precisions or (PRECISIONS if own else OTHER_PRECISIONS)
        cases += [Case(model, *pair) for pair in combinations(forms, precisions)]
    if not cases:
        raise InputError('--forms and --precisions: none of these forms computes in such a precision')
    return cases


def _refuse_files(args: argparse.Namespace, flag: str) -> None:
    for name in ('map', 'output'):
        if getattr(args, name):
            raise InputError(f'--{name} is not for {flag}, which prints a table: leave it out')


def _measure_rendering(args: argparse.Namespace) -> str:
    _refuse_files(args, '--render')
    table = rendering_to_markdown(measure_rendering(PEOPLE, *SIZE))
    return f'{describe_machine()}; {SIZE[0]}x{SIZE[1]}, time of the processor\n\n{table}'


def _measure_cameras(args: argparse.Namespace) -> str:
    _refuse_files(args, '--cameras')
    cases = _embedder_cases(args, '--cameras')
    return cameras_to_markdown(measure_cameras(cases, args.batch_sizes, args.threads, args.rounds))


def _measure_tracks(args: argparse.Namespace) -> str:
    _refuse_files(args, '--track')
    cases = _embedder_cases(args, '--track')
    speeds = {f'{name} (of the processor)': found for name, found in measure_tracking().items()}
    for case in cases:
        torch.set_num_threads(args.threads[-1])
        embedder = Embedder(case.model, 'cpu', case.form, case.precision)
        name = f'embedding, {case.model}, {case.form}, {case.precision}, threads: {args.threads[-1]}'
        speeds[name] = measure_embedding(embedder, rounds=args.rounds)
    rows = [(name, *(f'{f(v):,.1f}' for f in (median, min, max))) for name, v in speeds.items()]
    return format_table([('frames/s', 'median', 'lowest', 'highest'), *rows])


def _embedder_cases(args: argparse.Namespace, flag: str) -> list[Case]:
    cases = _cases(args)
    for case in cases:
        if case.form not in FORMS or case.precision not in EMBEDDED_IN:
            raise InputError(f'{flag}: an Embedder does not run as {case.form} in {case.precision}')
    return cases


def _parameters(models: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Numbers of parameters, of the models that there are; and a remark on each of the others."""
    parameters, remarks = {}, []
    for model in models:
        try:
            parameters[model] = sum(p.numel() for p in create_model(model).parameters())
        except InputError as e:
            remarks.append(str(e))
    return parameters, remarks


def _measure_in_process(job: dict, threads: int, allocator: str, folder: Path) -> tuple[list[Result], list[str]]:
    file = folder / 'job.json'
    file.write_text(json.dumps(job | {'threads': threads, 'allocator': allocator}))
    try:
        output = run_process('msinet_timm.benchmark', '--job', str(file), environment={'OMP_NUM_THREADS': str(threads)})
    except InputError as e:
        return [], [f'{threads} threads, allocator {allocator}: {e}']
    found = [Result(Case(*case), size, threads, allocator, seconds) for case, size, seconds in output['found']]
    return found, output['remarks']


def _work(file: Path) -> None:
    """The part of one process: measures and prints JSON."""
    job = json.loads(file.read_text())
    if job['allocator'] == 'kept' and not keep_memory():
        print(json.dumps({'found': [], 'remarks': ['only glibc has an allocator that can be told to keep its memory']}))
        return
    torch.set_num_threads(job['threads'])
    logging.disable(logging.WARNING)  # compilers have much to say
    print('\n' + json.dumps(measure(job)))


def _write(folder: Path, text: str, results: Sequence[Result], parameters: dict, mAP: dict) -> list[str]:
    """Writes the CSV and the image; returns a remark if there is no image."""
    replace_text(folder / 'benchmark.csv', text)
    try:
        write_image(results, parameters, mAP, folder / 'benchmark.png')
    except InputError as e:
        return [str(e)]
    return []


@command
def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark; the exit code is 1 if nothing could be measured."""
    args = _parse(argv)
    if args.job:
        _work(args.job)
        return 0
    if args.render:
        return _measure_rendering(args)
    if args.track:
        print(f'{describe_machine()}\n\n{_measure_tracks(args)}')
        return 0
    if args.gallery:
        _refuse_files(args, '--gallery')
        rows = [
            (name, *((f'{s:.3f}' for s in v) if isinstance(v, tuple) else (f'{v:,.3f}', '')))
            for name, v in measure_gallery(args.gallery).items()
        ]
        print(f'{describe_machine()}; {args.gallery:,} crops; seconds, of a search the median\n')
        print(format_table([('', 'clock', 'processor'), *rows]))
        return 0
    if args.cameras:
        print(f'{describe_machine()}; {INPUT[1]}x{INPUT[2]}, images/s\n\n{_measure_cameras(args)}')
        return 0
    mAP = read_map(args.map)
    if args.output:
        make_folder(args.output, '--output')
    cases = _cases(args)
    parameters, remarks = _parameters(args.models)
    cases = [case for case in cases if case.model in parameters]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        files, failed = write_files(cases, Path(name))
        remarks += failed
        job = {
            'cases': [case for case in cases if case.form not in RUNTIMES or str(case) in files],
            'files': files,
            **{key: getattr(args, key) for key in ('batch_sizes', 'rounds', 'seconds')},
        }
        ways = [(threads, allocator) for threads in args.threads for allocator in args.allocator if job['cases']]
        for threads, allocator in progress(ways, desc='benchmark'):
            found, failed = _measure_in_process(job, threads, allocator, Path(name))
            results += found
            remarks += failed
    if results:
        height, width = INPUT[1:]
        print(f'{describe_machine()}; {height}x{width}, medians (ranges) of {args.rounds} rounds\n')
        print(to_markdown(results, parameters, mAP))
        if args.output:
            remarks += _write(args.output, to_csv(results, parameters, mAP), results, parameters, mAP)
    for remark in dict.fromkeys(remarks):
        print(f'\n- {remark}', end='')
    print()
    return 0 if results else 1


if __name__ == '__main__':
    raise SystemExit(main())
