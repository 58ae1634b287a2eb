"""Backbones of torchvision's detectors: MSINet, or another of timm's networks, with a feature pyramid."""

from itertools import takewhile

import timm
from timm.layers import freeze_batch_norm_2d
from timm.models import FeatureDictNet
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from msinet_timm.errors import InputError

__all__ = ['fpn_backbone']

#: What a pyramid has beyond the network's maps, and how many of these it then has: the last ones, up to stride 32.
_EXTRA = {'pool': 4, 'p6p7': 3}


def fpn_backbone(
    model: str = 'msinet_x1_0',
    *,
    pretrained: bool = False,
    extra: str = 'pool',
    trainable_stages: int | None = None,
    frozen_norm: bool | None = None,
    out_channels: int = 256,
    **kwargs,
) -> BackboneWithFPN:
    """A network with a feature pyramid (Lin et al., CVPR 2017), to which the detectors' default anchors fit.

    Args:
        model: name for `timm.create_model`, also `hf-hub:` or `local-dir:`.
        pretrained: load the model's weights.
        extra: `'pool'` for Faster and Mask R-CNN: maps at strides 4, 8, 16 and 32, and every second value of the last
            one. `'p6p7'` for RetinaNet and FCOS: maps at strides 8, 16 and 32, and two more by convolutions.
        trainable_stages: how many of the network's stages learn, the last ones first; 0 to all of them (MSINet has
            five, the stem among them). None for 3 where `pretrained`, else for all.
        frozen_norm: keep the batch norms' statistics and factors as they are, as small batches need it. None for
            where `pretrained`.
        out_channels: of each map of the pyramid.
        **kwargs: more for `timm.create_model`, such as `stage5=True`, which gives MSINet's last map weights of its own,
            or `output_stride=16`.

    Returns:
        Images [B, 3, H, W] to a dict of five maps [B, out_channels, h, w], the largest first.

    Raises:
        InputError: another `extra`, `trainable_stages` out of range, or a network that has no such maps.
    """
    if extra not in _EXTRA:
        raise InputError(f'extra {extra!r} is unknown: choose one of {", ".join(map(repr, _EXTRA))}')
    features = timm.create_model(model, pretrained=pretrained, features_only=True, out_indices=_EXTRA[extra], **kwargs)
    if not isinstance(features, FeatureDictNet):
        raise InputError(f'{model} does not run its stages one after another, as a pyramid of torchvision needs it')
    stages = [info['module'].replace('.', '_') for info in features.feature_info.info]
    trainable = (3 if pretrained else len(stages)) if trainable_stages is None else trainable_stages
    if trainable not in range(len(stages) + 1):
        raise InputError(f'trainable_stages {trainable!r} is out of range: {model} has {len(stages)} stages')
    _freeze(features, stages[: len(stages) - trainable])
    if pretrained if frozen_norm is None else frozen_norm:
        freeze_batch_norm_2d(features)
    channels = features.feature_info.channels()
    block = LastLevelMaxPool() if extra == 'pool' else LastLevelP6P7(out_channels, out_channels)
    layers = {name: str(number) for number, name in enumerate(features.return_layers)}
    return BackboneWithFPN(features, layers, channels, out_channels, block)


def _freeze(features: nn.ModuleDict, stages: list[str]) -> None:
    """Takes these stages, and what comes before the last of them, out of training."""
    left = set(stages)
    for name, module in takewhile(lambda _: left, features.items()):
        module.requires_grad_(False)
        left.discard(name)
