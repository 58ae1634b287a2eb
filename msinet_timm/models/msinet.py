"""MSINet: a small network for object re-identification with searched interactions between two scales.

Paper: `MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID` (CVPR 2023)
    - https://arxiv.org/abs/2303.07065

Written from a description of what the published network computes; its names of parameters are understood by
`checkpoint_filter_fn`.
"""

import os
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d, get_device_dtype
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices

from .blocks import Cell, ConvBlock, Neck
from .genotype import UNIFORM, Genotype, check_genotype_name, find_genotype, named_genotypes
from .weights import checked_filter_fn, checkpoint_filter_fn, fit_state_dict, load_default_cfgs, untrained_cfg

# timm looks for checkpoint_filter_fn beside the network
__all__ = ['Embedding', 'MSINet', 'checkpoint_filter_fn', 'register_genotype']

LOCAL_WIDTH = 128
OUTPUT_STRIDES = (32, 16, 8)
WIDTHS = {
    'x1_0': (64, 256, 384, 512),
    'x0_75': (48, 192, 288, 384),
    'x0_5': (32, 128, 192, 256),
    'x0_25': (16, 64, 96, 128),
}


class Embedding(NamedTuple):
    """What one image gives for ReID losses and for ranking.

    Attributes:
        feature_map: [B, stage 3 + 128, H/16, W/16]; the local branch's channels are the last.
        global_feature: [B, stage 3], pooled over the image, less the network's `centre`, before the neck.
        local_feature: [B, 256], pooled over the upper and the lower half, before the neck.
        global_logits: [B, classes], or None for a model without classifiers.
        local_logits: [B, classes], or None for a model without classifiers.
        neck_features: [B, stage 3 + 256], both features behind their necks; None unless asked for.
    """

    feature_map: torch.Tensor
    global_feature: torch.Tensor
    local_feature: torch.Tensor
    global_logits: torch.Tensor | None = None
    local_logits: torch.Tensor | None = None
    neck_features: torch.Tensor | None = None


def _pool(halve: bool, ceil_mode: bool) -> nn.Module:
    """Means over 2x2: every second one, or all, with the last row and column repeated."""
    if halve:
        return nn.AvgPool2d(2, stride=2, ceil_mode=ceil_mode)
    return nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride=1))


class MSINet(nn.Module):
    """Multi-scale interaction network.

    `forward` gives logits [B, num_classes] (the mean of both branches' classifiers), or, with `num_classes` 0, the
    embedding [B, `head_hidden_size`]: the global feature, then the local one, neither normalised. `forward_branches`
    gives both branches apart.

    Maps are positive, and so are means of them: embeddings of all images can point the same way. The buffer `centre`
    [stage 3] is taken from global features: zero as published, and what features have in common in the weights that
    ship, so that distances of embeddings of length 1 tell people apart.

    Args:
        genotype: the interactions: a name such as `'msmt'`, twelve interaction names, a `Genotype`, or the path of a
            genotype JSON.
        widths: channels of the stem and of the three stages, each of the stages' a multiple of 4.
        num_classes: identities or classes to tell apart; 0 leaves the classifiers out.
        in_chans: channels of the images.
        global_pool: pooling of the whole map and of both halves of the local one: any of timm's, such as `'avg'`
            (the published one), `'max'` or `'catavgmax'`; `''` leaves the map as it is (only without classifiers).
        drop_rate: dropout before the classifiers.
        output_stride: of the last maps, 32, 16 or 8. Below 32, later convolutions are dilated instead: 8 gives stage 3
            at the stride of stage 2.
        stage5: two cells of the last stage's width, with its interactions, for the fifth map, which else is the fourth
            one's average over 2x2. No embedding needs it, so that weights for ReID leave it at its initial values.
        dense: for dense prediction, round odd heights and widths up when they are halved, as ResNets do (the published
            network rounds down), and let `forward` run the fifth map, too, where tracing looks for it. `features_only`
            sets it.

    Raises:
        ValueError: an unknown or malformed genotype, or widths or an output stride that cannot be built.
    """

    __jit_unused_properties__ = ['_model_args']
    __constants__ = ['DEPTH']
    DEPTH = 3  # stages that embeddings come from

    def __init__(
        self,
        genotype: str | os.PathLike | Iterable[str] = 'msmt',
        widths: tuple[int, int, int, int] = WIDTHS['x1_0'],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        output_stride: int = 32,
        stage5: bool = False,
        dense: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        genotype = find_genotype(genotype)
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f'output_stride {output_stride!r}: give {", ".join(map(str, OUTPUT_STRIDES))}')
        widths = tuple(widths)
        if len(widths) != 4 or any(w < 4 or w % 4 for w in widths[1:]) or widths[0] < 1:
            raise ValueError(f'widths {widths}: give four, of the stem and of three stages in multiples of 4')
        self.genotype = list(genotype)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.dense = dense
        self.grad_checkpointing = False

        stem, *stages = widths
        self.stem = ConvBlock(in_chans, stem, 7, stride=2, **dd)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.feature_info = [dict(num_chs=stem, reduction=2, module='stem')]
        blocks = []
        prev, stride, dilation = stem, 4, 1
        for i, width in enumerate((*stages, stages[-1])):
            kept = i < len(stages) or stage5
            if i > 0:
                halved = stride < output_stride
                stride, dilation = (2 * stride, dilation) if halved else (stride, 2 * dilation)
                pool = _pool(halved, dense or i == len(stages))
                blocks.append(nn.Sequential(ConvBlock(prev, prev, **dd), pool) if kept else nn.Sequential(pool))
            self.feature_info.append(dict(num_chs=width, reduction=stride, module=f'stages.{len(blocks)}'))
            pair = genotype.cells[2 * min(i, 2) : 2 * min(i, 2) + 2] if kept else []
            cells = [Cell(c, width, x, dilation=dilation, **dd) for c, x in zip((prev, width), pair, strict=False)]
            blocks.append(nn.Sequential(*(cells or [nn.Identity()])))
            prev = width
        # In execution order: stage, transition, stage, transition, stage; then what only the fifth map needs.
        self.stages = nn.Sequential(*blocks)
        self.global_width = prev
        self.lateral = nn.Conv2d(stages[1], LOCAL_WIDTH, 1, **dd)
        self.num_features = prev + LOCAL_WIDTH

        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self._reset_necks(**dd)
        self._reset_classifiers(**dd)
        self.apply(self._init_weights)
        self.register_load_state_dict_pre_hook(fit_state_dict)

    @property
    def _model_args(self) -> dict[str, Any]:
        return self.__dict__.get('_recorded_args', {})

    @_model_args.setter
    def _model_args(self, args: dict[str, Any]) -> None:
        # timm writes these to config.json: names and paths of genotypes mean nothing on another machine.
        self.__dict__['_recorded_args'] = dict(args, genotype=self.genotype) if 'genotype' in args else args

    @staticmethod
    def _init_weights(m: nn.Module) -> None:
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=0.01)
        if isinstance(m, (nn.Conv2d, nn.Linear)) and m.bias is not None:
            nn.init.zeros_(m.bias)

    def _feature_lengths(self) -> tuple[int, int]:
        """Lengths of the pooled global and local features; the local one is 0 once its branch is pruned."""
        mult = self.global_pool.feat_mult()
        return self.global_width * mult, (0 if self.lateral is None else 2 * LOCAL_WIDTH * mult)

    def _reset_necks(self, **dd: Any) -> None:
        """Makes both necks for the current lengths of features; a pruned network has none."""
        lengths = self._feature_lengths()
        self.global_neck, self.local_neck = (
            [Neck(n, **dd).train(self.training) for n in lengths] if lengths[1] else [nn.Identity(), nn.Identity()]
        )
        self.head_hidden_size = sum(lengths)
        self.register_buffer('centre', torch.zeros(lengths[0], **dd) if lengths[1] else None)

    def _reset_classifiers(self, **dd: Any) -> None:
        self.global_classifier, self.local_classifier = [
            nn.Linear(n, self.num_classes, **dd) if n and self.num_classes > 0 else nn.Identity()
            for n in self._feature_lengths()
        ]

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return dict(stem=r'^stem', blocks=r'^stages\.(\d+)' if coarse else r'^stages\.(\d+)\.(\d+)')

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        return self.global_classifier, self.local_classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifiers.

        Args:
            num_classes: 0 for none.
            global_pool: another pooling; the necks are renewed where it changes the length of the features.
        """
        dd = get_device_dtype(self)
        renewed = [self.global_classifier, self.local_classifier]
        lengths = self._feature_lengths()
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True).train(self.training)
        if self._feature_lengths() != lengths:
            self._reset_necks(**dd)
            renewed = [self.global_neck, self.local_neck]
        self._reset_classifiers(**dd)
        for module in (*renewed, *self.get_classifier()):
            module.apply(self._init_weights).train(self.training)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Features and the maps they came from.

        Args:
            x: images [B, in_chans, H, W].
            indices: which of `feature_info`'s five maps: the last n, a list, or all for None.
            norm: has no effect, as no norm follows the last stage.
            stop_early: skip what comes after the last map asked for. The features are then that map, unless it is the
                third stage's or comes after it.
            output_fmt: `'NCHW'`, the only layout.
            intermediates_only: leave the features out.

        Returns:
            The features of `forward_features`, and the list of maps; or that list alone.
        """
        if output_fmt != 'NCHW':
            raise ValueError('MSINet gives its maps as NCHW only')
        take_indices, max_index = feature_take_indices((len(self.stages) + 1) // 2 + 1, indices)
        whole = max_index >= self.DEPTH or not stop_early
        x, before_last, intermediates = self._forward_stages(
            x, max(max_index, self._depth() if whole else 0), take_indices
        )
        if intermediates_only:
            return intermediates
        if self.lateral is not None and whole:
            x = torch.cat([x, self.lateral(before_last)], dim=1)
        return x, intermediates

    def _depth(self) -> int:
        """How many stages `forward_features` runs: those left, but for the fifth map's where an embedding is made."""
        embeds = self.lateral is not None and not self.dense
        return self.DEPTH if embeds else (len(self.stages) + 1) // 2

    def _forward_stages(
        self, x: torch.Tensor, depth: int, taps: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Images to the last map, the one before the third stage, and those at the taps.

        Args:
            x: images [B, in_chans, H, W].
            depth: how many stages to run; 0 for the stem alone.
            taps: which maps to keep: 0 for the stem's, then the number of the stage.

        Returns:
            The last of these maps, but never the fifth one beside the local branch; the one before the third stage; and
            those at the taps.
        """
        x = self.stem(x)
        maps = [x] if 0 in taps else []
        if depth > 0:
            x = self.maxpool(x)
        before_last = last = x
        for i, stage in enumerate(self.stages):
            if i < 2 * depth - 1:  # TorchScript can neither slice a Sequential nor break out of it
                if i == 4:
                    before_last = x
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    x = checkpoint_seq(stage, x)
                else:
                    x = stage(x)
                if i < 2 * self.DEPTH - 1 or self.lateral is None:
                    last = x
                if i % 2 == 0 and i // 2 + 1 in taps:
                    maps.append(x)
        return last, before_last, maps

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Removes what the given maps don't need.

        Args:
            indices: as for `forward_intermediates`.
            prune_norm: has no effect, as no norm follows the last stage.
            prune_head: remove the head also where the last stage stays. The lateral convolution and the necks belong
                to it: the network's map is then its last tap.

        Returns:
            The absolute indices of the maps.
        """
        take_indices, max_index = feature_take_indices((len(self.stages) + 1) // 2 + 1, indices)
        if max_index == 0:
            self.maxpool = nn.Identity()
        pruned = max_index < self.DEPTH
        self.stages = self.stages[: max(0, 2 * max_index - 1)]
        if pruned or prune_head:
            self.num_features = self.global_width = self.feature_info[max_index]['num_chs']
            self.lateral = None
            self._reset_necks()
            self.reset_classifier(0, '')
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, in_chans, H, W] to the map [B, num_features, H/16, W/16]: the last stage's, then the lateral's."""
        x, before_last, _ = self._forward_stages(x, self._depth(), [])
        if self.lateral is not None:
            x = torch.cat([x, self.lateral(before_last)], dim=1)
        return x

    def _pool(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map [B, num_features, h, w] to the global and the local feature, the latter of two halves."""
        if self.lateral is None:
            return self.global_pool(x), x
        height = x.size(2)
        upper = height // 2
        local = x.narrow(1, self.global_width, x.size(1) - self.global_width)
        halves = [
            self.global_pool(local.narrow(2, 0, upper)),
            self.global_pool(local.narrow(2, upper, height - upper)),
        ]
        centre = self.centre.to(x.dtype)  # or features in bf16 would become float32
        return self.global_pool(x.narrow(1, 0, self.global_width)) - centre, torch.cat(halves, dim=1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The map to logits [B, num_classes]; without classifiers, or with `pre_logits`, to the embedding."""
        if self.global_pool.pool_type == '':
            if self.num_classes > 0 and not pre_logits:
                raise ValueError("global_pool='' gives the map, which cannot be classified: use num_classes=0 with it")
            return x
        global_feature, local_feature = self._pool(x)
        if pre_logits or self.num_classes == 0:
            if self.lateral is None:
                return global_feature
            return torch.cat([global_feature, local_feature], dim=1)
        x = self.global_classifier(F.dropout(self.global_neck(global_feature), self.drop_rate, self.training))
        if self.lateral is not None:
            local_neck = F.dropout(self.local_neck(local_feature), self.drop_rate, self.training)
            x = (x + self.local_classifier(local_neck)) / 2
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def forward_branches(self, x: torch.Tensor, neck_features: bool = False) -> Embedding:
        """Both branches apart, as ReID losses need them.

        Args:
            x: images [B, in_chans, H, W].
            neck_features: also give the features behind the necks.

        Raises:
            ValueError: the network has no pooling, or its local branch is pruned.
        """
        if self.lateral is None or not self.global_pool.pool_type:
            raise ValueError('forward_branches needs the local branch and pooling: this MSINet is pruned to its maps')
        feature_map = self.forward_features(x)
        features = self._pool(feature_map)
        logits, necks = (None, None), None
        if self.num_classes > 0 or neck_features:
            necks = self.global_neck(features[0]), self.local_neck(features[1])
        if self.num_classes > 0:
            logits = [
                classifier(F.dropout(neck, self.drop_rate, self.training))
                for neck, classifier in zip(necks, self.get_classifier(), strict=True)
            ]
        return Embedding(feature_map, *features, *logits, torch.cat(necks, dim=1) if neck_features else None)


def _check_out_indices(indices: int | Iterable[int]) -> None:
    """Raises ValueError for maps that don't exist; timm takes the last n for a number."""
    last = MSINet.DEPTH + 1
    if isinstance(indices, int):
        if not 1 <= indices <= last + 1:
            raise ValueError(
                f'out_indices {indices}: MSINet has {last + 1} maps, 0 to {last}; give 1 to {last + 1} of them'
            )
    elif wrong := [i for i in indices if i not in range(-last - 1, last + 1)]:
        raise ValueError(f'out_indices {wrong} do not exist: MSINet has {last + 1} maps, 0 to {last}')


default_cfgs = generate_default_cfgs(load_default_cfgs())


def _create_msinet(variant: str, pretrained: bool = False, **kwargs: Any) -> MSINet:
    if kwargs.get('features_only'):
        kwargs.setdefault('dense', True)
        _check_out_indices(kwargs.get('out_indices', ()))
    return build_model_with_cfg(
        MSINet,
        variant,
        pretrained,
        pretrained_filter_fn=partial(checked_filter_fn, cache_dir=kwargs.get('cache_dir')),
        feature_cfg=dict(out_indices=(0, 1, 2, 3, 4), flatten_sequential=True),
        **kwargs,
    )


@register_model
def msinet_x1_0(pretrained: bool = False, **kwargs: Any) -> MSINet:
    """The published network: 2.3 M parameters."""
    return _create_msinet('msinet_x1_0', pretrained, **dict(dict(widths=WIDTHS['x1_0']), **kwargs))


@register_model
def msinet_x0_75(pretrained: bool = False, **kwargs: Any) -> MSINet:
    """Three quarters of the published widths."""
    return _create_msinet('msinet_x0_75', pretrained, **dict(dict(widths=WIDTHS['x0_75']), **kwargs))


@register_model
def msinet_x0_5(pretrained: bool = False, **kwargs: Any) -> MSINet:
    """Half of the published widths."""
    return _create_msinet('msinet_x0_5', pretrained, **dict(dict(widths=WIDTHS['x0_5']), **kwargs))


@register_model
def msinet_x0_25(pretrained: bool = False, **kwargs: Any) -> MSINet:
    """A quarter of the published widths."""
    return _create_msinet('msinet_x0_25', pretrained, **dict(dict(widths=WIDTHS['x0_25']), **kwargs))


def _register_variants(name: str, genotype: Genotype) -> list[str]:
    names = []
    for size in WIDTHS:

        def entrypoint(pretrained: bool = False, *, _size: str = size, **kwargs: Any) -> MSINet:
            # Saved under the width's own name, so that config.json means something where `name` isn't registered.
            base = f'msinet_{_size}'
            model_args = dict(genotype=genotype, widths=WIDTHS[_size])
            overlay = dict(kwargs.pop('pretrained_cfg_overlay', None) or {}, architecture=base)
            model = _create_msinet(
                f'msinet_{name}_{_size}', pretrained, pretrained_cfg_overlay=overlay, **dict(model_args, **kwargs)
            )
            model._model_args = model_args
            return model

        model_name = f'msinet_{name}_{size}'
        entrypoint.__name__ = entrypoint.__qualname__ = model_name
        if model_name not in default_cfgs:
            default_cfgs.update(generate_default_cfgs({model_name: untrained_cfg()}))
        globals()[model_name] = entrypoint  # timm adds its name to __all__
        register_model(entrypoint)
        names.append(model_name)
    return names


def register_genotype(name: str, genotype: str | os.PathLike | Iterable[str]) -> list[str]:
    """Makes a genotype a timm model in this process, in every width: `msinet_NAME_x1_0` and so on.

    Args:
        name: lower-case letters, digits and underscores.
        genotype: as the model argument of `MSINet`.

    Returns:
        The names of the models.

    Raises:
        ValueError: a bad name, or no genotype.
    """
    check_genotype_name(name)
    found = find_genotype(genotype)
    if named_genotypes().get(name) == found and f'msinet_{name}_x1_0' in default_cfgs:
        return [f'msinet_{name}_{size}' for size in WIDTHS]
    named_genotypes()[name] = found
    return _register_variants(name, found)


for _name, _genotype in named_genotypes().items():
    if _name != 'msmt' and _name not in UNIFORM:
        _register_variants(_name, _genotype)
