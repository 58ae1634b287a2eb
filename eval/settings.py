"""How a model is measured: the settings of `msinet_eval.evaluate` and the flags of `msinet-eval`."""

import functools
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from msinet_eval.features.forward import PARTS
from msinet_timm.commands import fraction, pixels, positive, processes
from msinet_timm.datasets.cache import CACHE
from msinet_timm.datasets.tools.verify import SKIP_BROKEN
from msinet_timm.errors import InputError
from msinet_timm.forms import AMP, amp_name
from msinet_timm.settings import check, document, setting

from .protocol import parse_protocol

__all__ = ['EvalSettings']

_data = functools.partial(setting, 'data')
_model = functools.partial(setting, 'model')
_ranking = functools.partial(setting, 'ranking')
_RERANKING = {'k1': 20, 'k2': 6, 'lambda_value': 0.3}


@document
@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """How embeddings are made, changed and ranked.

    Raises:
        InputError: a value of another type or out of range; the message begins with the setting's name.
    """

    GROUPS: ClassVar[tuple[str, ...]] = ('data', 'model', 'ranking', 'results')

    protocol: list[str] | None = _data(
        None,
        "measure by these rules instead of the data set's: standard, or some of clothes-changing, all-cameras "
        "(images of a query's own camera count) and draws=N (one gallery image of each identity, drawn N times)",
        metavar='RULE',
    )
    skip_broken: bool = _data(False, SKIP_BROKEN)
    cache: str = _data('none', CACHE, metavar='none|memory|DIR')

    height: int | None = _model(None, "input height (default: the model's own)", convert=pixels, metavar='PIXELS')
    width: int | None = _model(None, "input width (default: the model's own)", convert=pixels, metavar='PIXELS')
    flip: bool = _model(False, 'mean of the embeddings of an image and its mirror image')
    part: str = _model('all', 'part of the embedding', choices=PARTS)
    neck: bool = _model(False, 'take the features behind the necks')
    amp: bool = _model(False, 'mixed precision; embeddings stay float32')
    amp_dtype: str = _model('bf16', 'its lower one', convert=amp_name, choices=AMP, of='amp')
    batch_size: int = _model(64, 'images at once', convert=positive, metavar='N')
    workers: int = _model(2, 'processes that read images', convert=processes, metavar='N')
    device: str | None = _model(None, 'cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    camera_norms: bool = _model(
        True, 'use what a model folder knows of cameras (cameras.safetensors of msinet-hub adapt; default: on)'
    )
    adapt: int | None = _model(
        None,
        'adapt the model to the cameras first, by N images of each, whose identities are not used, and measure both',
        convert=positive,
        metavar='N',
    )
    adapt_on: str | None = _model(
        None,
        'images to adapt to: train, or test, that is, query and gallery themselves (transductive; default: train)',
        choices=('train', 'test'),
    )
    features: str | None = _model(
        None,
        'keep query.safetensors and gallery.safetensors there: an interrupted extraction goes on, a finished one '
        'is not repeated; under torchrun all processes share it',
        metavar='DIR',
    )

    camera_mean: bool = _ranking(False, "take each camera's mean from its embeddings")
    multi_shot: bool = _ranking(False, 'rank tracklets, each by the mean of its images')
    query_expansion: int | None = _ranking(
        None, 'mean of each query and its K nearest gallery images', convert=positive, metavar='K'
    )
    database_augmentation: int | None = _ranking(
        None, 'mean of each gallery image and the K nearest', convert=positive, metavar='K'
    )
    rerank: bool = _ranking(False, 're-rank by k-reciprocal neighbours (CVPR 2017)')
    k1: int | None = _ranking(None, 'neighbours of an image (default: 20)', convert=positive, metavar='N')
    k2: int | None = _ranking(None, 'neighbours to average over (default: 6)', convert=positive, metavar='N')
    lambda_value: float | None = _ranking(
        None, 'share of the original distance (default: 0.3)', convert=fraction, metavar='SHARE'
    )
    ranks: list[int] = setting('results', [1, 5, 10], 'Rank-k to show', convert=positive, metavar='K')

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, check(f, getattr(self, f.name)))
        if not self.ranks:
            raise InputError('ranks: give at least one')
        if self.protocol:
            parse_protocol(self.protocol)
        for name in () if self.rerank else _RERANKING:
            if getattr(self, name) is not None:
                raise InputError(f'{name} is a setting of `rerank`: give that, too')
        if self.adapt_on and not self.adapt:
            raise InputError('adapt_on is a setting of `adapt`: give that, too')
        if self.adapt and not self.camera_norms:
            raise InputError(
                'adapt asks for the norms of cameras, which --no-camera-norms leaves out: give one of them'
            )
        if self.adapt and self.neck:
            raise InputError('neck: cameras are known by the embeddings before the necks: leave it out, or `adapt`')

    @property
    def reranking(self) -> dict[str, float] | None:
        """`k1`, `k2` and `lambda_value`; None without re-ranking."""
        if not self.rerank:
            return None
        given = {name: getattr(self, name) for name in _RERANKING}
        return _RERANKING | {name: value for name, value in given.items() if value is not None}

    @property
    def test_time(self) -> dict[str, Any]:
        """What changes features, by name, and `amp`, the precision where it is mixed."""
        return {name: getattr(self, name) for name in _TEST_TIME} | {'amp': self.amp_dtype if self.amp else None}

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from plain embeddings and their plain ranking."""
        changed = {name: value for name, value in self.test_time.items() if value not in (None, False, 'all')}
        adapted = {'adapt': self.adapt, 'adapt_on': self.adapt_on or 'train', 'transductive': self.transductive}
        return changed | (self.reranking or {}) | (adapted if self.adapt else {})

    @property
    def transductive(self) -> bool:
        """Whether the model is adapted to the images that it is measured on."""
        return self.adapt_on == 'test'


_TEST_TIME = ('flip', 'part', 'neck', 'amp', 'camera_mean', 'multi_shot', 'query_expansion', 'database_augmentation')
