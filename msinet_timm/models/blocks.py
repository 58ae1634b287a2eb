"""What MSINet is made of: convolution blocks, cells of two branches, and necks."""

import copy
from functools import partial

import torch
import torch.nn as nn

from .fused import FusedCell, fold_conv, fold_linear
from .interactions import CrossAttention, Exchange, NoInteraction, create_interaction

__all__ = ['Cell', 'ConvBlock', 'LightConv', 'Neck']


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, and a ReLU unless `act` is off."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 1,
        stride: int = 1,
        act: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, padding=kernel_size // 2, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, **dd)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))

    def fuse(self) -> nn.Module:
        """The inference form: one convolution with a bias, and the ReLU if there is one."""
        conv = fold_conv(self.conv, self.bn)
        return conv if isinstance(self.act, nn.Identity) else nn.Sequential(conv, copy.deepcopy(self.act))


class LightConv(nn.Module):
    """1x1 convolution, then 3x3 depthwise, then one batch norm and ReLU for both."""

    def __init__(self, channels: int, dilation: int = 1, device=None, dtype=None) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False, **dd)
        self.depthwise = nn.Conv2d(
            channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False, **dd
        )
        self.bn = nn.BatchNorm2d(channels, **dd)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.depthwise(self.pointwise(x))))

    def fuse(self) -> nn.Module:
        """The inference form: the depthwise convolution has the norm in it."""
        pointwise, act = copy.deepcopy(self.pointwise), copy.deepcopy(self.act)
        return nn.Sequential(pointwise, fold_conv(self.depthwise, self.bn), act)


class Cell(nn.Module):
    """Two branches of different receptive field, with an interaction halfway and one at their end.

    Branch a sees one light convolution where branch b sees three.

    Args:
        in_chs: channels of the input.
        out_chs: channels of the output.
        interactions: the two interactions: names, or classes of others, see `create_interaction`.
        mid_chs: channels of each branch; None for a quarter of the output's.
        dilation: of the 3x3 convolutions.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        interactions: tuple[str | type[nn.Module], str | type[nn.Module]],
        mid_chs: int | None = None,
        dilation: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        mid_chs = mid_chs or out_chs // 4
        light = partial(LightConv, mid_chs, dilation, **dd)
        self.reduce_a = ConvBlock(in_chs, mid_chs, **dd)
        self.reduce_b = ConvBlock(in_chs, mid_chs, **dd)
        self.first_a = light()
        self.first_b = nn.Sequential(light(), light(), light())
        self.interaction1 = create_interaction(interactions[0], mid_chs, **dd)
        self.second_a = light()
        self.second_b = nn.Sequential(light(), light(), light())
        self.interaction2 = create_interaction(interactions[1], mid_chs, **dd)
        self.expand_a = ConvBlock(mid_chs, out_chs, act=False, **dd)
        self.expand_b = ConvBlock(mid_chs, out_chs, act=False, **dd)
        self.shortcut = ConvBlock(in_chs, out_chs, act=False, **dd) if in_chs != out_chs else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.interaction1(self.first_a(self.reduce_a(x)), self.first_b(self.reduce_b(x)))
        a, b = self.interaction2(self.second_a(a), self.second_b(b))
        return self.act(self.expand_a(a) + self.expand_b(b) + self.shortcut(x))

    def fuse(self) -> nn.Module:
        """The inference form: norms folded, the last convolutions merged, and exchanges left out.

        An exchange only changes which of the parts behind it read which branch; what follows is the same with both
        branches swapped, as the other interactions treat them alike.

        Raises:
            ValueError: a cell with other interactions than `create_interaction` gives, as a supernet's.
        """
        if type(self) is not Cell:
            raise ValueError(f'{type(self).__name__} has no inference form: create the MSINet of the genotype instead')
        second = [_fuse_chain(self.second_a), _fuse_chain(self.second_b)]
        expand = [self.expand_a.fuse(), self.expand_b.fuse()]
        if isinstance(self.interaction1, Exchange):
            second, expand = second[::-1], expand[::-1]
        if isinstance(self.interaction2, Exchange):
            expand = expand[::-1]
        if isinstance(self.shortcut, ConvBlock):
            expand.append(self.shortcut.fuse())
        return FusedCell(
            [self.reduce_a.fuse(), self.reduce_b.fuse()],
            [_fuse_chain(self.first_a), _fuse_chain(self.first_b)],
            second,
            [_fuse_interaction(self.interaction1), _fuse_interaction(self.interaction2)],
            expand,
            copy.deepcopy(self.act),
        )


def _fuse_chain(blocks: nn.Module) -> nn.Module:
    return nn.Sequential(*[block.fuse() for block in blocks]) if isinstance(blocks, nn.Sequential) else blocks.fuse()


def _fuse_interaction(interaction: nn.Module) -> nn.Module:
    if isinstance(interaction, Exchange):
        return NoInteraction()
    return interaction.fuse() if isinstance(interaction, CrossAttention) else copy.deepcopy(interaction)


class Neck(nn.Module):
    """Linear layer and batch norm, both without bias, between the features that are ranked and a classifier."""

    def __init__(self, features: int, device=None, dtype=None) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.fc = nn.Linear(features, features, bias=False, **dd)
        self.bn = nn.BatchNorm1d(features, **dd)
        # The published network freezes this bias at zero; without it every parameter trains.
        self.bn.register_parameter('bias', None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.fc(x))

    def fuse(self) -> nn.Linear:
        """The inference form: one linear layer with a bias."""
        return fold_linear(self.fc, self.bn)
