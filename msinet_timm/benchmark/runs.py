"""What `python -m msinet_timm.benchmark` measures: models in all forms, timed in turns within one process."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn as nn
from timm.data import resolve_data_config

from msinet_timm.commands import progress
from msinet_timm.errors import InputError
from msinet_timm.export.export import export
from msinet_timm.export.files import SUFFIXES
from msinet_timm.export.formats import load_exported
from msinet_timm.export.quantize import quantize
from msinet_timm.forms import create_form
from msinet_timm.models.weights import untrained_cfg

from .timing import seconds_of

__all__ = [
    'INPUT',
    'RUNTIMES',
    'Case',
    'Result',
    'check_model',
    'combinations',
    'create_model',
    'measure',
    'write_files',
]

#: Channels, height and width of an image.
INPUT = (3, 256, 128)
#: Forms that are files for another runtime.
RUNTIMES = ('onnx', 'openvino')
_PRECISIONS = {'onnx': ('float32', 'int8'), 'openvino': ('float32', 'bf16', 'int8')}
_DATA_CONFIG = resolve_data_config(pretrained_cfg=untrained_cfg())


class Case(NamedTuple):
    """What is measured.

    Attributes:
        model: its name.
        form: one of `msinet_timm.forms.FORMS`, or of `RUNTIMES`.
        precision: `'float32'`, `'bf16'` or `'int8'`.
    """

    model: str
    form: str
    precision: str

    def __str__(self) -> str:
        return f'{self.model}, {self.form}, {self.precision}'


class Result(NamedTuple):
    """What a case takes.

    Attributes:
        case: what was measured. `batch_size`, `threads` and `allocator` say how.
        seconds: of a batch, the median of each round.
    """

    case: Case
    batch_size: int
    threads: int
    allocator: str
    seconds: list[float]

    @property
    def images_per_second(self) -> tuple[float, float, float]:
        """The median, the least and the most."""
        return tuple(self.batch_size / f(self.seconds) for f in (statistics.median, max, min))


def combinations(forms: Sequence[str], precisions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Forms and precisions that go together."""
    for precision in precisions:
        for form in forms:
            if precision in _PRECISIONS.get(form, ('float32', 'bf16')):
                yield form, precision


def create_model(name: str) -> nn.Module:
    """A model without classifier in evaluation mode, equal in each process.

    Its weights are random, and its norms know the statistics of random images: otherwise maps would fade to numbers
    with which processors compute more slowly. Attention counts, as in a trained MSINet.

    Raises:
        InputError: there is no such model, or it comes from a package that isn't installed.
    """
    torch.manual_seed(0)
    check_model(name)
    model = _create_osnet(name) if name.startswith('osnet_') else timm.create_model(name, num_classes=0)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith('.gamma') and name.startswith('msinet'):
            nn.init.constant_(parameter, 0.5)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, *INPUT))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def check_model(name: str) -> None:
    """Raises an InputError for a name that is not one of timm's models or an OSNet."""
    if not name.startswith('osnet_') and not timm.is_model(name):
        raise InputError(f'--models {name}: timm has no such model')


def _create_osnet(name: str) -> nn.Module:
    try:
        import torchreid
    except ImportError as e:  # of something that it doesn't say it needs, too
        missing = ' '.join(dict.fromkeys(['torchreid', e.name]))
        raise InputError(f'{name}: not measured, as {e.name} is not installed (pip install {missing})') from e
    return torchreid.models.build_model(name, num_classes=1, pretrained=False)


def write_files(cases: Sequence[Case], folder: Path) -> tuple[dict[str, str], list[str]]:
    """Exports what the forms of other runtimes need.

    Returns:
        Paths by case, and a remark on each case that has none.
    """
    files, remarks = {}, []
    for case in progress([case for case in cases if case.form in RUNTIMES], desc='export'):
        try:
            files[str(case)] = str(_write_file(case, folder))
        except Exception as e:  # exporters raise their own types
            remarks.append(_remark(case, e))
    return files, remarks


def _write_file(case: Case, folder: Path) -> Path:
    """The file that a case needs, unless it is there already."""
    # OpenVINO takes one file for both floating point precisions
    exported, quantized = (folder / f'{case.model}{kind}{SUFFIXES[case.form]}' for kind in ('', '-int8'))
    if not exported.exists():
        export(create_model(case.model), case.form, exported, data_config=_DATA_CONFIG)
    if case.precision != 'int8':
        return exported
    if not quantized.exists():
        quantize(exported, quantized, torch.randn(8, *INPUT).split(1))
    return quantized


def measure(job: dict[str, Any]) -> dict[str, list]:
    """Times cases in turns, in this process, whose allocator and threads of torch are set before.

    Args:
        job: `cases`, `files` (see `write_files`), `batch_sizes`, `threads`, `rounds` and `seconds`.

    Returns:
        `found`: a case, a batch size and its seconds, see `Result`, each; `remarks`: what could not be measured.
    """
    images = {size: torch.randn(size, *INPUT) for size in job['batch_sizes']}
    runs, remarks, models = [], [], {}
    for case in progress([Case(*names) for names in job['cases']], desc='prepare'):
        try:
            if case.model not in models:
                models[case.model] = create_model(case.model)
            run = _create_run(case, models[case.model], job)
            for batch in images.values():
                _check(run(batch), len(batch))  # compiles, and finds its memory
            runs.append((case, run))
        except Exception as e:  # compilers and runtimes raise their own types
            remarks.append(_remark(case, e))
    found = [(case, size, []) for size in images for case, _ in runs]
    for _ in progress(range(1 + job['rounds']), desc='rounds'):
        for (_, size, seconds), (_, run) in zip(found, runs * len(images), strict=True):
            calls = seconds_of(lambda run=run, size=size: run(images[size]), budget=job['seconds'])
            seconds.append(statistics.median(calls))
    # the first round doesn't count: in it, allocators still find out what all cases in turns need
    return {'found': [(case, size, seconds[1:]) for case, size, seconds in found], 'remarks': remarks}


def _create_run(case: Case, model: nn.Module, job: dict[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    if case.form in RUNTIMES:
        precision = case.precision if case.form == 'openvino' and case.precision != 'int8' else None
        return load_exported(job['files'][str(case)], threads=job['threads'], precision=precision)
    return create_form(model, case.form, case.precision, torch.randn(max(job['batch_sizes']), *INPUT))


def _check(embeddings: torch.Tensor, images: int) -> None:
    if len(embeddings) != images or not embeddings.isfinite().all():
        raise ValueError(f'gives {list(embeddings.shape)} for {images} images, or numbers that are not finite')


def _remark(case: Case, error: Exception) -> str:
    text = ' '.join(str(error).split()) or type(error).__name__
    return f'{case}: {text[:300]}'
