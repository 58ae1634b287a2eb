"""What a training of person search is set to."""

import functools
from dataclasses import dataclass
from typing import ClassVar

from msinet_timm.commands import fraction, not_negative, not_negative_float, positive, positive_float, whole
from msinet_timm.errors import InputError
from msinet_timm.person_search.network import MAX_SIZE, MIN_SIZE
from msinet_timm.settings import document, setting
from msinet_train.settings import Settings

__all__ = ['PersonSearchSettings']

_search = functools.partial(setting, 'person search (--task search)')


@document
@dataclass(frozen=True, kw_only=True)
class PersonSearchSettings(Settings):
    """What a training of person search is set to.

    Raises:
        InputError: a value of another type or out of range, or several data sets.
    """

    GROUPS: ClassVar = (
        'run', 'data', 'model', 'person search (--task search)', 'optimizer', 'schedule',
        'speed, memory and processes',
    )  # fmt: skip
    #: What `msinet_train.engine.optim` asks for, and this training does not change.
    opt_eps: ClassVar = None
    opt_betas: ClassVar = None

    task: str = setting('run', 'search', 'what is trained', choices=('search',))
    eval_interval: int = setting('run', 0, 'epochs between evaluations; 0: at the end', not_negative)
    dataset: list[str] = setting('data', ['rendered_scenes'], 'what to train on', short='-ds', metavar='NAME')
    batch_size: int = setting('data', 4, 'frames at once', positive)

    model: str = setting(
        'model', 'msinet_x0_5', 'an MSINet that embeds images of one person, hf-hub:..., or the folder of one or of a '
        'run; also of person search, to go on from', metavar='NAME|DIR',
    )  # fmt: skip
    genotype: str | None = setting('model', None, "interactions (default: the model's own)", metavar='NAME|FILE')
    pretrained: bool = setting('model', True, 'start from the weights that belong to the name')

    min_size: int | None = _search(
        None, f"that a frame's shorter side is resized to (default: {MIN_SIZE}, or the network's own)",
        whole(64, 10_000), metavar='PIXELS',
    )  # fmt: skip
    max_size: int | None = _search(
        None, f"that its longer side must not exceed then (default: {MAX_SIZE}, or the network's own)",
        whole(64, 10_000), metavar='PIXELS',
    )  # fmt: skip
    trainable_stages: int | None = _search(
        None, "of the detector's five, how many learn, the last ones first (default: 3 where there are weights)",
        whole(0, 5),
    )  # fmt: skip
    detector_epochs: int = _search(0, 'first epochs, in which the detector learns alone', not_negative, metavar='N')
    lr_pretrained: float = _search(
        0.1, 'share of the learning rate for what begins with weights', fraction, metavar='SHARE'
    )
    flip: float = _search(0.5, 'probability of a mirror image', fraction, metavar='P')
    box_jitter: float = _search(
        0.1, "how far the sides of boxes to be embedded are moved, as a share of width and height, as a detector's "
        'boxes are off', fraction, metavar='SHARE',
    )  # fmt: skip
    identity_weight: float = _search(1.0, 'of the loss of identities in the sum', positive_float, metavar='WEIGHT')
    memory_momentum: float = _search(0.5, 'share of the old row in the memory of identities', fraction)
    temperature: float = _search(1 / 30, 'of similarities to that memory', positive_float)
    queue: int = _search(500, 'of people whom nobody has named, how many are remembered', whole(0, 1_000_000))

    opt: str = setting('optimizer', 'adamw', "timm's optimizer")
    lr: float = setting('optimizer', 1e-3, 'learning rate', positive_float)
    weight_decay: float = setting('optimizer', 1e-4, 'on every parameter', not_negative_float)
    clip_grad: float | None = setting('optimizer', 10.0, 'of gradients', positive_float, metavar='LIMIT')
    grad_accum_steps: int = setting('optimizer', 1, 'batches for each step of the optimizer', positive)
    sched: str = setting(
        'schedule', 'cosine', 'how the learning rate falls', choices=('multistep', 'cosine', 'poly', 'constant')
    )
    epochs: int = setting('schedule', 20, 'how often to go through the frames', positive)
    milestones: list[int] = setting(
        'schedule', [16], 'epochs at which it falls (multistep)', positive, nargs='*'
    )  # fmt: skip
    warmup_step: int = setting('schedule', 1, 'epochs of linear warm-up', not_negative)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.dataset) > 1 or len(self.data_dir or ()) > 1:
            raise InputError(f'dataset {" ".join(self.dataset)}: person search learns from one, in one `data_dir`')
        if self.min_size and self.max_size and self.min_size > self.max_size:
            raise InputError(f'min_size {self.min_size} is above `max_size` {self.max_size}')
        if self.detector_epochs >= self.epochs:
            raise InputError(
                f'detector_epochs {self.detector_epochs} leave none of {self.epochs} `epochs` to learn identities in'
            )

    def _name(self) -> str:
        return f'{super()._name()}_{self.model}'
