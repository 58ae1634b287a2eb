"""What a training is set to: one dataclass for Python, recipes, `args.yaml` and the flags of the command.

A search has the same settings where it does the same, see `msinet_train.search.settings`.
"""

import argparse
import functools
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from msinet_timm.commands import (
    below_one,
    fraction,
    not_negative,
    not_negative_float,
    pixels,
    positive,
    positive_float,
    processes,
    whole,
)
from msinet_timm.datasets import list_datasets, typed_root
from msinet_timm.datasets.cache import CACHE
from msinet_timm.datasets.readers.reader import key_value
from msinet_timm.datasets.tools.verify import SKIP_BROKEN
from msinet_timm.errors import InputError
from msinet_timm.forms import AMP, amp_name
from msinet_timm.settings import check, document, setting

from .recipe import load_recipe

__all__ = ['NAMED', 'SOURCES', 'CropSettings', 'Settings', 'TrainSettings']


S = TypeVar('S', bound='Settings')
#: What every recipe has to name.
NAMED = load_recipe('scratch').keys()
#: Help text on `dataset`.
SOURCES = f'what to train on, one or more of: {", ".join(list_datasets())}'

_run = functools.partial(setting, 'run')
_data = functools.partial(setting, 'data')
_images = functools.partial(setting, 'changes to images')
_model = functools.partial(setting, 'model')
_unlabelled = functools.partial(setting, 'learning without labels')
_losses = functools.partial(setting, 'losses')
_optimizer = functools.partial(setting, 'optimizer')
_schedule = functools.partial(setting, 'schedule')
_speed = functools.partial(setting, 'speed, memory and processes')


def _parse_resize(text: str) -> tuple[tuple[int, int], float]:
    """`'128x64:0.6'` as ((128, 64), 0.6)."""
    found = re.fullmatch(r'(\d+)x(\d+):([\d.]+)', text)
    if not found:
        raise argparse.ArgumentTypeError('give HEIGHTxWIDTH:SHARE, such as 128x64:0.6')
    height, width = (pixels(n) for n in found.groups()[:2])
    try:
        share = below_one(found[3])
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e  # of which argparse keeps the words
    if not share:
        raise argparse.ArgumentTypeError('the share of the epochs must be above 0')
    return (height, width), share


def _resize(text: str) -> str:
    """A size and its share, checked."""
    _parse_resize(text)
    return text


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all trainings and searches have in common, by default as published."""

    #: What an error calls it, and headings of the help, in their order.
    NOUN: ClassVar[str] = 'run'
    GROUPS: ClassVar[tuple[str, ...]] = ()

    output: str | None = _run(None, 'run folder (default: runs/DATASET_MODEL)', metavar='DIR')
    resume: str | None = _run(None, 'continue the run or search in this folder, as it was set', metavar='DIR')
    seed: int = _run(0, 'of weights, batches and augmentation', not_negative)
    device: str | None = _run(None, 'cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    workers: int = _run(2, 'processes that read images', processes)
    log_tensorboard: bool = _run(False, 'write metrics for TensorBoard')
    log_wandb: bool = _run(False, 'send metrics to Weights & Biases')
    wandb_project: str = _run('msinet-timm', 'project there', of='log_wandb', metavar='NAME')

    dataset: list[str] = _data(['market1501'], SOURCES, short='-ds', metavar='NAME')
    data_dir: list[str] | None = _data(
        None, 'folder of all data sets, or of each of -ds and -dt', metavar='DIR', type=typed_root
    )
    data_option: list[str] = _data(
        [], 'options of the data set, see msinet-data list', key_value, extends=True, metavar='KEY=VALUE'
    )

    opt: str = _optimizer('momentum', "timm optimizer; 'momentum' is plain SGD, 'sgd' is Nesterov's")
    lr: float = _optimizer(0.065, 'learning rate', positive_float)
    momentum: float = _optimizer(0.9, 'of the optimizer', fraction)
    weight_decay: float = _optimizer(5e-4, 'on every parameter', not_negative_float)

    sched: str = _schedule(
        'multistep', 'how the learning rate falls', choices=('multistep', 'cosine', 'poly', 'constant')
    )
    epochs: int = _schedule(350, 'how often to go through the images', positive)
    milestones: list[int] = _schedule([150, 225, 300], 'epochs at which it falls (multistep)', positive, nargs='*')
    decay_rate: float = _schedule(0.1, 'by which factor it falls (multistep); power (poly)', positive_float)
    min_lr: float = _schedule(0.0, 'where it ends (cosine, poly)', not_negative_float)
    warmup_step: int = _schedule(10, 'epochs of linear warm-up', not_negative)
    warmup_factor: float = _schedule(0.01, 'share of the learning rate at the start of warm-up', fraction)

    amp: bool = _speed(False, 'mixed precision')
    amp_dtype: str = _speed('bf16', 'its lower one; float16 on CUDA only', amp_name, choices=AMP, of='amp')
    amp_start: int = _speed(0, 'how many epochs to compute in float32 first', not_negative, metavar='EPOCH')

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, check(f, getattr(self, f.name)))
        if not self.dataset:
            raise InputError('dataset: name at least one')

    @classmethod
    def from_recipe(cls: type[S], recipe: str, **changes: Any) -> S:
        """Settings of a recipe.

        Args:
            recipe: name of one, or a YAML file such as the `args.yaml` of a run.
            changes: settings that take the place of the recipe's.

        Raises:
            InputError: no such recipe, or a wrong setting in it or in `changes`.
        """
        values, known = load_recipe(recipe), {f.name for f in fields(cls)}
        strange = [name for name in values if name not in known]
        if strange:
            raise InputError(f'{recipe}: unknown setting {strange[0]!r}; known are {", ".join(sorted(known))}')
        missing = [name for name in sorted(NAMED & known) if name not in {**values, **changes}]
        if missing:
            raise InputError(f'{recipe}: lacks {", ".join(missing)}; add them, or give them as flags')
        try:
            settings = cls(**values)
        except InputError as e:
            raise InputError(f'{recipe}: {e}') from e
        return replace(settings, **changes)

    @classmethod
    def from_run(cls: type[S], folder: str | Path, **changes: Any) -> S:
        """Settings that continue a run.

        Args:
            folder: of the run.
            changes: settings that take the place of the run's.

        Raises:
            InputError: no run there, or a wrong setting.
        """
        return cls.from_recipe(cls.file_of(folder), **changes, resume=folder)

    @classmethod
    def file_of(cls, folder: str | Path) -> str:
        """The settings of the run in a folder."""
        source = Path(folder) / 'args.yaml'
        if not source.is_file():
            raise InputError(f'resume {folder}: no {cls.NOUN} there ({source} is missing)')
        return str(source)

    @property
    def folder(self) -> Path:
        """What the run is written to: `resume`, `output`, or a folder in `runs` that is named by what it is of."""
        return Path(self.resume or self.output or f'runs/{re.sub("[^a-zA-Z0-9_.-]+", "_", self._name())}')

    def _name(self) -> str:
        return '_'.join(self.dataset)

    def to_dict(self) -> dict[str, Any]:
        """What the run is, in plain types, without where it is and whether it goes on there."""
        values = {name: value for name, value in asdict(self).items() if name not in ('output', 'resume')}
        return values | {'data_dir': self.data_dir and [str(root) for root in self.data_dir]}


@dataclass(frozen=True, kw_only=True)
class CropSettings(Settings):
    """What those have in common that learn from images of one person or vehicle each."""

    target: list[str] = _data(
        [], 'more data sets to be measured on (cross-domain)', short='-dt', nargs='*', metavar='NAME'
    )
    skip_broken: bool = _data(False, SKIP_BROKEN)
    cache: str = _data('none', CACHE, metavar='none|memory|DIR')
    draft: bool = _data(
        False,
        'decode training JPEGs of twice the input size and more at a lower resolution: faster, not quite the same',
    )
    height: int = _data(256, 'of the input', pixels, metavar='PIXELS')
    width: int = _data(128, 'of the input', pixels, metavar='PIXELS')
    batch_size: int = _data(64, 'images at once in each process: identities times --num-instance', whole(2))
    num_instance: int = _data(4, 'images of each identity in a batch', positive, metavar='K')
    all_images: bool = _data(False, 'epochs in which every image has its turn; the published ones leave some out')

    padding: int = _images(10, 'border from which a random crop is taken', whole(0, 1024), metavar='PIXELS')
    color_jitter: list[float] = _images(
        [], 'of brightness, contrast, saturation, hue', fraction, nargs='*', metavar='RANGE'
    )
    erasing: float = _images(0.5, 'probability of random erasing', fraction, metavar='P')
    miscrop: float = _images(
        0.0,
        "probability of a careless detector's crop: off-centre, cut at head or feet, too wide",
        fraction,
        metavar='P',
    )
    camera_tone: float = _images(
        0.0, "probability of another camera's light, gamma, black and saturation", fraction, metavar='P'
    )
    camera_quality: float = _images(
        0.0, "probability of a worse camera's blur, pixels, noise, grey and JPEG", fraction, metavar='P'
    )

    background: float = _images(
        0.0, 'probability that rendered people stand before the background of another image', fraction, metavar='P'
    )

    grad_checkpointing: bool = _speed(False, 'less memory for more time')

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.color_jitter) > 4 or self.color_jitter[3:] > [0.5]:
            told = ' '.join(map(str, self.color_jitter))
            raise InputError(f'color_jitter {told}: give brightness, contrast, saturation and hue, this up to 0.5')


@document
@dataclass(frozen=True, kw_only=True)
class TrainSettings(CropSettings):
    """What a training is set to; the defaults are the recipe `scratch`, the published training from random weights.

    Raises:
        InputError: a value of another type or out of range.
    """

    GROUPS: ClassVar = (
        'run', 'data', 'changes to images', 'learning without labels', 'model', 'losses', 'optimizer', 'schedule',
        'speed, memory and processes',
    )  # fmt: skip

    eval_interval: int = _run(10, 'epochs between evaluations; 0: at the end', not_negative)
    checkpoint_interval: int = _run(
        0, 'keep the checkpoint of every N-th epoch, as milestone-N; 0: only the newest and the best',
        convert=not_negative,
    )  # fmt: skip

    unlabelled: bool = _unlabelled(
        False, 'nobody knows who is in the images to learn from: join them across cameras, in rounds'
    )
    round_epochs: int = _unlabelled(12, 'epochs until crops are joined anew', positive, of='unlabelled')
    camera_crops: int = _unlabelled(64, 'crops of each camera that its norms are taken from', positive, of='unlabelled')
    held_out: float = _unlabelled(
        0.2, 'share of people that at first only tell whether it got better', below_one, of='unlabelled'
    )

    model: str = _model(
        'msinet_x1_0', 'any timm model, hf-hub:..., or the folder of a model or run', metavar='NAME|DIR'
    )
    genotype: str | None = _model(None, "interactions (default: the model's own)", metavar='NAME|FILE')
    pretrained: bool | None = _model(
        None, 'start from the weights that belong to the name (default: for folders and hf-hub: only)'
    )
    checkpoint: str | None = _model(None, 'start from these weights', metavar='FILE')
    freeze: int = _model(0, 'keep the first N stages as they are', not_negative)
    camera_norm: bool = _model(False, "batch norms take each camera's images by themselves")
    mixstyle: float = _model(
        0.0, 'MixStyle: probability that features take on the style of other images', fraction, metavar='P'
    )
    wake_gates: bool = _model(
        False, "once an epoch, draw those hidden units of MSINet's gates anew that answer no image"
    )

    metric_loss: str = _losses('triplet', 'of features', choices=('triplet', 'circle'))
    margin: float = _losses(0.3, 'of the triplet or circle loss', positive_float)
    soft_margin: bool = _losses(
        False, 'in place of the margin, the smooth triplet loss log(1 + exp(difference of the distances))'
    )
    normalize: bool = _losses(True, 'compare features at length 1 (triplet)')
    classifier_loss: str = _losses('softmax', 'of logits', choices=('softmax', 'arcface', 'cosface'))
    smoothing: float = _losses(0.1, 'of the targets', below_one)
    sam_mode: str | None = _losses(None, 'spatial alignment (default: none)', choices=('pos', 'neg', 'pos_neg'))
    sam_ratio: float = _losses(2.0, 'of spatial alignment', positive_float, of='sam_mode', metavar='WEIGHT')

    teacher: str | None = _losses(None, 'a larger model, whose embeddings this one learns from, too')
    teacher_weight: float = _losses(1.0, 'of what it teaches', positive_float, of='teacher', metavar='WEIGHT')

    progressive_resize: list[str] = _schedule(
        [], 'smaller inputs to begin with, each for a share of the epochs; the rest is at --height and --width',
        _resize, nargs='*', metavar='HEIGHTxWIDTH:SHARE',
    )  # fmt: skip

    opt_eps: float | None = _optimizer(None, "of the optimizer (default: timm's)", positive_float)
    opt_betas: list[float] | None = _optimizer(None, "of the optimizer (timm's)", below_one)
    layer_decay: float | None = _optimizer(
        None, 'factor of the learning rate from each layer to the one before', fraction
    )
    clip_grad: float | None = _optimizer(None, 'of gradients', positive_float, metavar='LIMIT')
    clip_mode: str = _optimizer('norm', 'what --clip-grad limits', choices=('norm', 'value', 'agc'), of='clip_grad')
    grad_accum_steps: int = _optimizer(1, 'batches for each step of the optimizer', positive)
    model_ema: bool = _optimizer(False, 'average the weights, and keep those')
    model_ema_decay: float = _optimizer(0.9998, 'how slowly', below_one, of='model_ema')
    model_ema_warmup: bool = _optimizer(False, 'average faster at first', of='model_ema')

    channels_last: bool = _speed(True, 'the faster layout in memory')
    torchcompile: str | None = _speed(None, 'compile the model', nargs='?', const='inductor', metavar='BACKEND')
    sync_bn: bool = _speed(False, 'batch norms over all processes')
    gather_features: bool = _speed(False, 'look for positives and negatives in all processes')

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_share = sum(share for _, share in map(_parse_resize, self.progressive_resize))
        if whole_share > 1 - 1e-6:
            raise InputError(
                f'progressive_resize {" ".join(self.progressive_resize)}: shares of the epochs add up to '
                f'{whole_share:g}: leave some below 1 for {self.height}x{self.width}'
            )

    @property
    def input_sizes(self) -> dict[int, tuple[int, int]]:
        """Height and width of images from an epoch on, counted from 0; shares of the epochs are rounded down."""
        sizes, done = {}, 0.0
        for size, share in map(_parse_resize, self.progressive_resize):
            sizes[self._epochs_in(done)] = size  # takes the place of one that has no epoch
            done += share
        sizes[self._epochs_in(done)] = self.height, self.width
        return sizes

    def _epochs_in(self, share: float) -> int:
        return int(share * self.epochs + 1e-6)  # 0.29 * 100 is a little less than 29

    def _name(self) -> str:
        return f'{super()._name()}_{self.model}'
