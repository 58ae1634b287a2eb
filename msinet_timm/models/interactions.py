"""The search space of MSINet: what two branches of a cell can tell each other.

Each interaction takes the maps of both branches, of equal shape [B, C, H, W], and gives two maps of that shape.

Paper: `MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID` (section 3.2)
    - https://arxiv.org/abs/2303.07065
"""

from collections.abc import Callable

import torch
import torch.nn as nn

from .fused import FusedCrossAttention

__all__ = [
    'INTERACTIONS', 'ChannelGate', 'CrossAttention', 'Exchange', 'NoInteraction', 'create_interaction', 'wake_gates',
]  # fmt: skip


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

    @torch.no_grad()
    def wake(self, asleep: torch.Tensor) -> None:
        """Draws hidden units anew that answer no image, and so have no gradient; the gate gives what it gave before.

        Args:
            asleep: [hidden units] which of them.
        """
        fresh = nn.init.kaiming_normal_(torch.empty_like(self.fc1.weight), mode='fan_out', nonlinearity='relu')
        # what they see, means of maps behind a ReLU, is never negative
        fresh *= torch.where(fresh.sum((1, 2, 3), keepdim=True) < 0, -1.0, 1.0)
        self.fc1.weight.copy_(torch.where(asleep.view(-1, 1, 1, 1), fresh, self.fc1.weight))
        self.fc1.bias.masked_fill_(asleep, 0)
        self.fc2.weight.masked_fill_(asleep.view(1, -1, 1, 1), 0)

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


@torch.no_grad()
def wake_gates(model: nn.Module, images: torch.Tensor) -> int:
    """Draws those hidden units of all gates anew that answer none of the images, see `ChannelGate.wake`.

    Args:
        model: whose `forward_features` uses its gates.
        images: [B, C, H, W].

    Returns:
        How many.
    """
    awake: dict[ChannelGate, torch.Tensor] = {}

    def listen(gate: ChannelGate) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            answers = (output > 0).any(0).flatten()
            awake[gate] = answers | awake.get(gate, False)  # for both branches

        return hook

    gates = [module for module in model.modules() if isinstance(module, ChannelGate)]
    handles = [gate.act.register_forward_hook(listen(gate)) for gate in gates]
    try:
        model.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    for gate, units in awake.items():
        gate.wake(~units)
    return sum(int((~units).sum()) for units in awake.values())
