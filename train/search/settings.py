"""What a search is set to."""

import functools
from dataclasses import dataclass
from typing import ClassVar

from msinet_timm.commands import (
    below_one,
    fraction,
    not_negative,
    not_negative_float,
    positive,
    positive_float,
    processes,
    whole,
)
from msinet_timm.models.msinet import WIDTHS
from msinet_timm.settings import document, setting
from msinet_train.settings import SOURCES, CropSettings

__all__ = ['SearchSettings']

_supernet = functools.partial(setting, 'supernet')
_method = functools.partial(setting, 'method')
_steps = functools.partial(setting, 'steps')


@document
@dataclass(frozen=True, kw_only=True)
class SearchSettings(CropSettings):
    """What a search is set to; the defaults are the published search.

    Raises:
        InputError: a value of another type or out of range.
    """

    NOUN: ClassVar = 'search'
    GROUPS: ClassVar = (
        'run', 'data', 'changes to images', 'supernet', 'method', 'steps', 'schedule', 'speed, memory and processes',
    )  # fmt: skip

    output: str | None = setting('run', None, 'run folder (default: runs/search_DATASET)', metavar='DIR')
    workers: int = setting('run', 2, 'processes that read images, for each half', processes)
    geno_interval: int = setting(
        'run', 5, 'epochs between genotypes and evaluations of tcm; paths has one at the end', positive, of='method=tcm'
    )
    dataset: list[str] = setting('data', ['msmt17'], SOURCES, short='-ds', metavar='NAME')

    variant: str = _supernet('x1_0', 'its widths', choices=tuple(WIDTHS))
    mid_from: str = _supernet(
        'input', "whose quarter the branches of a cell have: its input's, as published, or its output's, as in the "
        'final network', choices=('input', 'output'),
    )  # fmt: skip
    start_from: str | None = _supernet(
        None, 'an MSINet of these widths, as for msinet-train --model, whose weights the supernet begins with, but for '
        'its interactions; with --mid-from output (default: none, random ones)', metavar='NAME|DIR',
    )  # fmt: skip
    wake_gates: bool | None = _supernet(
        None, 'once an epoch, draw those hidden units of gates anew that answer no image (default: with paths only, as '
        'the published search does not)',
    )  # fmt: skip
    memory_momentum: float = _supernet(0.2, 'share of the old row in the class memories', fraction)
    temperature: float = _supernet(0.05, 'of the class memories', positive_float)
    memory_init: str = _supernet(
        'centroids', 'what the memories start from; zeros: as published', choices=('centroids', 'zeros')
    )

    method: str = _method(
        'tcm', 'tcm: the published search, which learns a mixture of all interactions; paths: each step trains one '
        'genotype, and at the end those are bred that rank images best', choices=('tcm', 'paths'),
    )  # fmt: skip
    split: str = _method(
        'twins', 'what the halves share: as published, or half of the images of every identity',
        choices=('twins', 'images'),
    )  # fmt: skip
    objective: str = _method(
        'contrastive', 'latency, of tcm: the time that the interactions take on this device counts, too; front, of '
        'paths: one genotype for each time that another cannot beat', choices=('contrastive', 'latency', 'front'),
    )  # fmt: skip
    latency_weight: float = _method(
        1.0,
        "of the time, as a share of the slowest network's",
        positive_float,
        of='objective=latency',
        metavar='WEIGHT',
    )
    candidates: int = _method(
        192, 'genotypes that paths rates at the end', whole(4, 100_000), of='method=paths', metavar='N'
    )
    loss: str | None = _method(
        None, 'what the weights learn with: classification and triplets, as in trainings (default of paths), or the '
        'class memory, as published (default of tcm)', choices=('reid', 'memory'),
    )  # fmt: skip
    tune_steps: int = _method(
        0, 'steps that each of them trains alone before paths rates it, from the weights that all share; each then '
        'takes about as long as so many steps of the search', not_negative, of='method=paths', metavar='N'
    )  # fmt: skip
    keep: str | None = _method(
        None, 'make what is found a timm model on this machine, msinet_NAME_x1_0 and so on; of a front '
        'msinet_NAME_0_x1_0, msinet_NAME_1_x1_0, ..., the fastest first', metavar='NAME',
    )  # fmt: skip
    arch_start: int = _method(
        0, 'epochs in which tcm trains the weights alone', not_negative, of='method=tcm', metavar='EPOCHS'
    )

    opt: str = _steps(
        'momentum', "timm's optimizer of the weights: plain SGD, as published, or one that gets further in few steps",
        choices=('momentum', 'muon', 'adamw'),
    )  # fmt: skip
    lr: float = _steps(0.025, 'of the weights', positive_float)
    momentum: float = _steps(0.9, 'of the weights', fraction)
    weight_decay: float = _steps(5e-4, 'of the weights', not_negative_float)
    arch_lr: float = _steps(0.002, 'of the architecture, by Adam', positive_float, of='method=tcm')
    arch_betas: list[float] = _steps([0.5, 0.999], 'of the architecture', below_one, of='method=tcm', nargs=2)
    arch_weight_decay: float = _steps(1e-3, 'of the architecture', not_negative_float, of='method=tcm')
    arch_milestones: list[int] = _steps(
        [150, 225, 350], 'epochs at which its learning rate falls (multistep)', positive, of='method=tcm', nargs='*'
    )
    order: int = _steps(1, '2: the architecture looks one weight step ahead; slower', choices=(1, 2), of='method=tcm')

    def _name(self) -> str:
        return f'search_{super()._name()}'
