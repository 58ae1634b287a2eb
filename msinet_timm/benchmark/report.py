"""What `python -m msinet_timm.benchmark` leaves: tables in Markdown, a CSV, an image."""

import csv
import io
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

from msinet_timm.charts import create_figure, save_figure
from msinet_timm.errors import InputError

from .runs import Case, Result

__all__ = ['describe_machine', 'read_map', 'to_csv', 'to_markdown', 'write_image']

_ALLOCATORS = {'system': "the C library's default allocator", 'kept': 'an allocator that keeps its memory'}
_MARKERS = {'float32': 'o', 'bf16': 's', 'int8': '^'}


def describe_machine() -> str:
    """Processor, cores, what torch uses of it, and the versions of all runtimes."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        found = re.search(r'^model name\s*:\s*(.+)$', cpuinfo.read_text(), re.MULTILINE)
        name = found[1] if found else name
    cores = os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    versions = []
    for package in ('torch', 'timm', 'onnxruntime', 'openvino'):
        try:
            versions.append(f'{package} {metadata.version(package)}')
        except metadata.PackageNotFoundError:
            continue
    return f'{name}, {cores} core{"s" * (cores != 1)} ({capability}), {platform.system()}; {", ".join(versions)}'


def read_map(path: Path | None) -> dict[str, float]:
    """mAP in percent by model, of a CSV with the columns `model` and `mAP`; none for None.

    Raises:
        InputError: the file cannot be read, or isn't that.
    """
    if path is None:
        return {}
    try:
        with open(path, newline='', encoding='utf-8') as file:
            return {row['model']: float(row['mAP']) for row in csv.DictReader(file)}
    except OSError as e:
        raise InputError(f'--map {path}: cannot be read ({e.strerror or e})') from e
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f'--map {path}: give a CSV with the columns model and mAP, a number in each row') from e


def _ratio(result: Result, baselines: Mapping[tuple, Result]) -> float | None:
    """How many times the baseline's images per second."""
    baseline = baselines.get((result.batch_size, result.threads, result.allocator))
    return baseline and result.images_per_second[0] / baseline.images_per_second[0]


def _baselines(results: Sequence[Result]) -> dict[tuple, Result]:
    """The first MSINet as it is: contiguous, eager, float32."""
    first = next((r.case.model for r in results if r.case.model.startswith('msinet')), None)
    case = Case(first, 'eager', 'float32')
    return {(r.batch_size, r.threads, r.allocator): r for r in results if r.case == case}


def to_csv(results: Sequence[Result], parameters: Mapping[str, float], mAP: Mapping[str, float]) -> str:
    """A row for each result; milliseconds are of a batch."""
    baselines = _baselines(results)
    text = io.StringIO()
    columns = ['model', 'parameters', 'form', 'precision', 'batch_size', 'threads', 'allocator', 'ms', 'ms_min',
               'ms_max', 'images_per_second', 'of_baseline', 'mAP']  # fmt: skip
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(columns)
    for result in results:
        rates = result.images_per_second
        ms = [f'{1000 * result.batch_size / rate:.3f}' for rate in (rates[0], rates[2], rates[1])]
        ratio = _ratio(result, baselines)
        model, form, precision = result.case
        writer.writerow([model, int(parameters[model]), form, precision, *result[1:4], *ms, f'{rates[0]:.2f}',
                         '' if ratio is None else f'{ratio:.3f}', mAP.get(model, '')])  # fmt: skip
    return text.getvalue()


def to_markdown(results: Sequence[Result], parameters: Mapping[str, float], mAP: Mapping[str, float]) -> str:
    """A table for each number of threads and allocator: images per second, their range, and the share of the baseline.

    Args:
        results: what was measured.
        parameters: number of them, by model.
        mAP: in percent, by model, where known.
    """
    baselines = _baselines(results)
    lines = []
    for threads, allocator in dict.fromkeys((r.threads, r.allocator) for r in results):
        chosen = [r for r in results if (r.threads, r.allocator) == (threads, allocator)]
        sizes = sorted({r.batch_size for r in chosen})
        cells = {(r.case, r.batch_size): _cell(r, baselines) for r in chosen}
        heads = [
            'model',
            'M parameters',
            *(['mAP'] if mAP else []),
            'form',
            'precision',
            *(f'batch {n}' for n in sizes),
        ]
        lines += ['', f'{threads} thread{"s" * (threads != 1)}, {_ALLOCATORS[allocator]}; images/s:', '']
        lines += [f'| {" | ".join(heads)} |', f'|{"---|" * len(heads)}']
        for case in dict.fromkeys(r.case for r in chosen):
            row = [case.model, f'{parameters[case.model] / 1e6:.1f}']
            row += [f'{mAP[case.model]:.1f}' if case.model in mAP else ''] if mAP else []
            row += [case.form, case.precision, *(cells[case, size] for size in sizes)]
            lines.append(f'| {" | ".join(row)} |')
    return '\n'.join(lines[1:])


def _cell(result: Result, baselines: Mapping[tuple, Result]) -> str:
    rate, least, most = (f'{r:.0f}' if r >= 100 else f'{r:.1f}' for r in result.images_per_second)
    ratio = _ratio(result, baselines)
    return f'{rate} ({least}-{most})' + ('' if ratio is None else f', {ratio:.2f} x')


def write_image(
    results: Sequence[Result], parameters: Mapping[str, float], mAP: Mapping[str, float], image: Path
) -> None:
    """Draws images per second over parameters: each model by the fastest of its forms in each precision.

    Of several ways of measuring, the one with most threads, the largest batch, and memory kept is drawn.

    Raises:
        MissingPackageError: matplotlib, an optional package, is missing.
    """
    figure = create_figure((9, 5))
    from matplotlib.ticker import LogFormatter

    way = max((r.threads, r.batch_size, r.allocator == 'kept') for r in results)
    drawn = [r for r in results if (r.threads, r.batch_size, r.allocator == 'kept') == way]
    axes = figure.subplots()
    colors = {model: f'C{i}' for i, model in enumerate(dict.fromkeys(r.case.model for r in drawn))}
    for precision, marker in _MARKERS.items():
        best = {}
        for r in drawn:
            if r.case.precision == precision:
                best[r.case.model] = max(r.images_per_second[0], best.get(r.case.model, 0))
        if best:
            x = [parameters[model] / 1e6 for model in best]
            axes.scatter(x, list(best.values()), c=[colors[model] for model in best], marker=marker, s=60)
            axes.scatter([], [], c='0.4', marker=marker, s=60, label=precision)
    for model, color in colors.items():
        label = f'{model}, mAP {mAP[model]:.1f} %' if model in mAP else model
        axes.plot([], [], color=color, linewidth=6, label=label)
    axes.set(xscale='log', yscale='log', xlabel='parameters, millions', ylabel='images/s')
    for axis in (axes.xaxis, axes.yaxis):  # 20, not 2 x 10^1
        axis.set_major_formatter('{x:g}')
        axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    axes.margins(0.1)
    axes.set_title(f'batch {way[1]}, {way[0]} thread{"s" * (way[0] != 1)}, fastest form of each precision', fontsize=10)
    axes.grid(alpha=0.3, which='both')
    axes.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize=9)
    save_figure(figure, image, dpi=150)
