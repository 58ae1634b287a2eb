"""The search space of MSINet: what two branches of a cell can tell each other.

Each interaction takes the maps of both branches, of equal shape [B, C, H, W], and gives two maps of that shape.

Paper: `MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID` (section 3.2)
    - https://arxiv.org/abs/2303.07065
"""

from collections.abc import Callable

import torch
import torch.nn as nn

from .fused import FusedCrossAttention

__all__ = ['INTERACTIONS', 'ChannelGate', 'CrossAttention', 'Exchange', 'NoInteraction', 'create_interaction']


class NoInteraction(nn.Module):
    """Leaves both branches to themselves."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a, b


class Exchange(nn.Module):
    """Swaps the branches: each goes on with what the other has seen."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return b, a


class ChannelGate(nn.Module):
    """Weights the channels of each branch by that branch's own mean; one gate serves both.

    Args:
        channels: channels of each branch.
        reduction: how many times narrower the hidden layer is than the branch (at least one channel is kept).
    """

    def __init__(self, channels: int, reduction: int = 16, device=None, dtype=None) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1, **dd)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, 1, **dd)
        self.gate = nn.Sigmoid()

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """A branch [B, C, H, W] to the weights of its channels, [B, C, 1, 1] between 0 and 1."""
        return self.gate(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a * self.weights(a), b * self.weights(b)


class CrossAttention(nn.Module):
    """Attention between the channels of both branches, strongest where two channels are least alike.

    A channel's query is its map in its own branch, the keys are the other branch's channels, the values its own
    branch's. The result is added with one learned weight, `gamma`, that starts at zero.

    Args:
        channels: channels of each branch. The module has no parameter of that size.
    """

    def __init__(self, channels: int, device=None, dtype=None) -> None:
        super().__init__()
        self.channels = channels
        self.gamma = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat_a, flat_b = a.flatten(2), b.flatten(2)
        energy = flat_a @ flat_b.transpose(1, 2)
        from_a = (-energy).softmax(dim=-1) @ flat_a
        from_b = (-energy.transpose(1, 2)).softmax(dim=-1) @ flat_b
        return a + self.gamma * from_a.view(a.shape), b + self.gamma * from_b.view(b.shape)

    def fuse(self) -> nn.Module:
        """The inference form; an attention of weight 0 does nothing and is left out."""
        return FusedCrossAttention(self.gamma, self.channels) if self.gamma.any() else NoInteraction()


#: All interactions by the names that genotypes use, in the order of the search's architecture weights.
INTERACTIONS = {
    'none': NoInteraction,
    'ag': ChannelGate,
    'cross_att': CrossAttention,
    'exc': Exchange,
}


def create_interaction(name: str | Callable[..., nn.Module], channels: int, device=None, dtype=None) -> nn.Module:
    """Makes an interaction.

    Args:
        name: a key of `INTERACTIONS`, or a class of another interaction that takes channels, device and dtype.
        channels: channels of each branch.

    Raises:
        ValueError: no interaction has that name.
    """
    if callable(name):
        return name(channels, device=device, dtype=dtype)
    if name not in INTERACTIONS:
        raise ValueError(f'unknown interaction {name!r}: it must be one of {", ".join(INTERACTIONS)}')
    if name in ('none', 'exc'):
        return INTERACTIONS[name]()
    return INTERACTIONS[name](channels, device=device, dtype=dtype)
