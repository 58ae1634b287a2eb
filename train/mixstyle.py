"""MixStyle: features take on the style of other images' features while a model trains.

The mean and deviation of a feature map's channels tell much of the camera and little of the person. Mixed with those of
another image of the batch they are of a camera that nobody has seen. Source: Zhou et al., "Domain Generalization with
MixStyle" (ICLR 2021).
"""

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from msinet_eval.features.forward import evaluation_mode
from msinet_timm.errors import InputError, explained

from .models import backbone_of

__all__ = ['MixStyle', 'mix_style', 'mix_styles']

#: Downsampling of the early stages after which styles are mixed, and the parameter of the Beta distribution from which
#: their shares are drawn, as published.
REDUCTIONS, ALPHA = (4, 8), 0.1


def mix_style(x: Tensor, partner: Tensor, share: Tensor, eps: float = 1e-6) -> Tensor:
    """Feature maps with mean and deviation of each channel mixed with those of other images.

    Gradients see what is mixed as constants, as published.

    Args:
        x: [B, C, H, W].
        partner: [B] int64, the image that each one's style is mixed with.
        share: [B] that an image keeps of its own style, 0 to 1; exactly 1 leaves it as it is.
        eps: added to variances.
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide.detach(), (2, 3), keepdim=True)
        deviation = (variance + eps).sqrt()
        rest = (1 - share.to(wide.dtype)).view(-1, 1, 1, 1)
        scale = 1 + rest * (deviation[partner] / deviation - 1)
        shift = mean + rest * (mean[partner] - mean) - mean * scale
        return torch.addcmul(shift, wide, scale).to(x.dtype)


class _Draw(NamedTuple):
    partner: Tensor
    share: Tensor


class MixStyle:
    """What is mixed at each place in the batch that comes next.

    It is drawn before the batch, so that what runs twice for a gradient (`grad_checkpointing`) runs alike, and compiled
    code needs no random numbers.

    Args:
        probability: that the style of an image is mixed at a place, 0 to 1.
        places: how many.
        device: of the maps.
    """

    def __init__(self, probability: float, places: int, device: torch.device | str = 'cpu') -> None:
        self.probability = probability
        self.device = device
        self.draws: list[_Draw | None] = [None] * places

    def __call__(self, images: int) -> None:
        """Draws for a batch of so many images, by torch's generator of the CPU."""
        beta = torch.distributions.Beta(ALPHA, ALPHA)
        for place in range(len(self.draws)):
            partner, share = torch.randperm(images), beta.sample((images,))
            share = torch.where(torch.rand(images) < self.probability, share, 1.0)
            self.draws[place] = _Draw(partner.to(self.device), share.to(self.device))


class _Place:
    """A hook behind a stage."""

    def __init__(self, backbone: nn.Module, mixing: MixStyle, place: int) -> None:
        self.backbone, self.mixing, self.place = backbone, mixing, place

    def __call__(self, module: nn.Module, inputs: tuple, x: Tensor) -> Tensor:
        draw = self.mixing.draws[self.place]
        # of the backbone, as stages that are frozen are always in evaluation mode
        return mix_style(x, *draw) if self.backbone.training and draw is not None else x


def mix_styles(
    model: nn.Module, probability: float, input_size: tuple[int, int, int], device: torch.device | str = 'cpu'
) -> MixStyle:
    """Lets a model mix styles behind its early stages, in training mode alone; its parameters stay what they are.

    ```
    mixing = mix_styles(model, 0.5, (3, 256, 128))
    mixing(len(images))
    loss = task(images, target)
    ```

    Args:
        model: as `create_training_model` gives it, still on the CPU, changed in place.
        probability: that the style of an image is mixed at a stage, 0 to 1.
        input_size: channels, height and width of an image.
        device: that the model moves to.

    Returns:
        What is to be called with the size of each batch; until then, nothing is mixed.

    Raises:
        InputError: a model that does not tell its stages apart, or whose early stages give no maps [B, C, H, W].
    """
    backbone = backbone_of(model)
    stages = _early_stages(backbone)
    shapes: dict[str, torch.Size | None] = {}
    hooks = [
        stage.register_forward_hook(
            lambda module, inputs, x, name=name: shapes.__setitem__(name, getattr(x, 'shape', ()))
        )
        for name, (stage, _) in stages.items()
    ]
    try:
        with explained(f'{type(backbone).__name__}: cannot be run'), torch.inference_mode(), evaluation_mode(backbone):
            backbone.forward_features(torch.zeros(1, *input_size))
    finally:
        for hook in hooks:
            hook.remove()
    for name, (_, channels) in stages.items():
        shape = tuple(shapes.get(name, ()))
        if len(shape) != 4 or shape[1] != channels or shape[2] * shape[3] < 2:
            raise InputError(
                f'{type(backbone).__name__} gives {list(shape)} behind {name}, and not a map [B, {channels}, H, W] '
                'that has a style'
            )
    mixing = MixStyle(probability, len(stages), device)
    for place, (stage, _) in enumerate(stages.values()):
        stage.register_forward_hook(_Place(backbone, mixing, place))
    return mixing


def _early_stages(backbone: nn.Module) -> dict[str, tuple[nn.Module, int]]:
    """By name, the modules whose outputs are the maps of early stages, and the channels of these."""
    info = getattr(backbone, 'feature_info', None)
    entries = info if isinstance(info, list) else []
    early = {entry['module']: entry['num_chs'] for entry in entries if entry.get('reduction') in REDUCTIONS}
    modules = dict(backbone.named_modules())
    if not early or not all(name in modules for name in early):
        told = ' and '.join(map(str, REDUCTIONS))
        raise InputError(f'{type(backbone).__name__} does not tell which stages give maps of 1/{told} of the input')
    return {name: (_last(modules[name]), channels) for name, channels in early.items()}


def _last(stage: nn.Module) -> nn.Module:
    """What gives the output of a stage: gradient checkpointing runs the modules of a `Sequential` one by one."""
    while isinstance(stage, nn.Sequential):
        stage = stage[-1]
    return stage
