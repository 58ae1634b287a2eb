"""What `python -m msinet_timm.benchmark --cameras` measures: embedding by cameras' statistics, and learning them."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from msinet_timm.commands import progress
from msinet_timm.embedder import Embedder

from .runs import INPUT, Case, create_model
from .timing import in_turns, seconds_of

__all__ = ['CAMERAS', 'CROPS', 'CameraTimes', 'cameras_to_markdown', 'measure_cameras']

#: Cameras, and crops of each, that a model is adapted to.
CAMERAS, CROPS = ('door', 'yard', 'hall'), 64


class CameraTimes(NamedTuple):
    """What cameras cost, on the CPU.

    Attributes:
        case: the model, its form and precision.
        batch_size: images in a call.
        threads: of torch.
        seconds: of calls, by `'without'` cameras, images of `'one'`, and of three `'mixed'`.
        adapting: seconds to learn all cameras.
    """

    case: Case
    batch_size: int
    threads: int
    seconds: dict[str, list[float]]
    adapting: float


def measure_cameras(
    cases: Sequence[Case],
    batch_sizes: Sequence[int],
    threads: Sequence[int],
    rounds: int = 3,
    clock: Callable[[], float] | None = None,
) -> list[CameraTimes]:
    """Times an `Embedder` that knows no cameras and one that knows three, in turns, on random images.

    Args:
        cases: of a form in `msinet_timm.forms.FORMS`.
        batch_sizes: images in a call.
        threads: numbers of threads of torch.
        rounds: of all in turns, for each.
        clock: see `seconds_of`.
    """
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, *INPUT), dtype=torch.uint8, generator=generator)

    crops, found = {name: images(CROPS) for name in CAMERAS}, []
    before = torch.get_num_threads()
    try:
        for case, count in progress([(case, count) for case in cases for count in threads], desc='cameras'):
            torch.set_num_threads(count)
            model = create_model(case.model)
            model.pretrained_cfg = {**(getattr(model, 'pretrained_cfg', None) or {}), 'input_size': INPUT}
            model.pretrained_cfg['crop_pct'] = 1.0  # images that are prepared already stay as they are
            plain, adapted = (Embedder(model, 'cpu', case.form, case.precision, max(batch_sizes)) for _ in range(2))
            adapted.adapt(crops)
            (adapting,) = seconds_of(lambda adapted=adapted: adapted.adapt(crops), clock=clock)
            for size in batch_sizes:
                batch = images(size)
                runs = {
                    'without': lambda plain=plain, batch=batch: plain(batch),
                    'one': lambda adapted=adapted, batch=batch: adapted(batch, CAMERAS[0]),
                    'mixed': lambda adapted=adapted, batch=batch: adapted(
                        batch, [CAMERAS[i % len(CAMERAS)] for i in range(len(batch))]
                    ),
                }
                found.append(CameraTimes(case, size, count, in_turns(runs, rounds, clock), adapting))
    finally:
        torch.set_num_threads(before)
    return found


def cameras_to_markdown(results: Sequence[CameraTimes]) -> str:
    """A table of images/s, medians of the rounds, and of seconds."""
    head = ('model', 'form', 'precision', 'threads', 'batch', 'without', 'one camera', 'three, mixed', 'adapting')
    rows = [head, ['---'] * len(head)]
    for result in results:
        rates = {name: result.batch_size / statistics.median(seconds) for name, seconds in result.seconds.items()}
        cells = [f'{rate:.1f}, {100 * (rate / rates["without"] - 1):+.1f} %' for rate in rates.values()]
        cells[0] = f'{rates["without"]:.1f}'
        rows.append([*result.case, result.threads, result.batch_size, *cells, f'{result.adapting:.1f} s'])
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in rows)
