"""The network with all interactions at once, from which a search chooses a genotype.

Paper: `MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID` (section 3.3)
    - https://arxiv.org/abs/2303.07065
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn as nn
from timm.models import checkpoint

from msinet_timm.errors import InputError

from .blocks import Cell, ConvBlock
from .genotype import NUM_CELLS, Genotype
from .interactions import INTERACTIONS, create_interaction
from .msinet import WIDTHS, Embedding, MSINet
from .weights import fit_state_dict

__all__ = ['MSISuperNet', 'MixedInteraction']


class MixedInteraction(nn.Module):
    """All interactions of `INTERACTIONS`, in that order, as one weighted sum.

    Each of them is linear in the branches once its gates and attention are known, so the sum is one small matrix for
    each branch, [C, C] between the channels: the identity's, the gates' and the attention's weights together. One
    product with the maps then replaces a product and several passes over the maps for each interaction.

    Args:
        channels: channels of each branch.
    """

    def __init__(self, channels: int, device=None, dtype=None) -> None:
        super().__init__()
        self.ops = nn.ModuleList([create_interaction(name, channels, device, dtype) for name in INTERACTIONS])

    def forward(
        self, a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor | int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both branches [B, C, H, W], and the weight of each interaction, [4], or the number of one, to both."""
        if isinstance(weights, int):
            return self.ops[weights](a, b)
        none, ag, cross_att, exc = weights.unbind()
        gate, gamma = self.ops[1].weights, self.ops[2].gamma
        # [B, HW, C], which of maps in channels_last is no copy
        flat_a, flat_b = (x.permute(0, 2, 3, 1).flatten(1, 2) for x in (a, b))
        energy = flat_a.transpose(1, 2) @ flat_b
        mixed_a = torch.diag_embed(none + cross_att + ag * gate(a).flatten(1))
        mixed_b = torch.diag_embed(none + cross_att + ag * gate(b).flatten(1))
        mixed_a = mixed_a + cross_att * gamma * (-energy).softmax(2)
        mixed_b = mixed_b + cross_att * gamma * (-energy.transpose(1, 2)).softmax(2)
        out_a = torch.baddbmm(exc * flat_b, flat_a, mixed_a.transpose(1, 2))
        out_b = torch.baddbmm(exc * flat_a, flat_b, mixed_b.transpose(1, 2))
        return tuple(out.unflatten(1, a.shape[2:]).permute(0, 3, 1, 2) for out in (out_a, out_b))


class MixedCell(Cell):
    """A cell of `MSINet` with mixed interactions.

    Args:
        in_chs: channels of the input.
        out_chs: channels of the output.
        mid_chs: channels of each branch.
    """

    def __init__(self, in_chs: int, out_chs: int, mid_chs: int, device=None, dtype=None) -> None:
        super().__init__(in_chs, out_chs, (MixedInteraction, MixedInteraction), mid_chs, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor, weights: Sequence[torch.Tensor | int]) -> torch.Tensor:
        """Map [B, in_chs, H, W] and what both places take, see `MixedInteraction`, to the map [B, out_chs, H, W]."""
        a, b = self.interaction1(self.first_a(self.reduce_a(x)), self.first_b(self.reduce_b(x)), weights[0])
        a, b = self.interaction2(self.second_a(a), self.second_b(b), weights[1])
        return self.act(self.expand_a(a) + self.expand_b(b) + self.shortcut(x))


class MSISuperNet(nn.Module):
    """MSINet with all four interactions at each of its twelve places, weighted by a softmax.

    It has the global branch only. As in the published search, a branch has a quarter of the channels of its cell's
    *input*, where those of the final network have a quarter of the output's; `mid_from='output'` takes the latter.

    Attributes:
        arch_weights: [12, 4] parameter: a row for each place of the genotype, a column for each of `INTERACTIONS`. It
            starts near zero, and so with interactions of nearly equal weight.
        path: a genotype whose interactions alone are computed, as if `arch_weights` were certain of them; None, as at
            the start, for all of them. It is no part of the state.

    Args:
        num_classes: identities of the classifier.
        widths: channels of the stem and of the three stages, see `MSINet`.
        in_chans: channels of the images.
        mid_from: `'input'` or `'output'`, whose quarter the branches have.

    Raises:
        ValueError: widths that cannot be built, or another `mid_from`.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, int, int, int] = WIDTHS['x1_0'],
        in_chans: int = 3,
        mid_from: str = 'input',
        device=None,
        dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if len(widths) != 4 or any(w < 4 or w % 4 for w in widths):
            raise ValueError(f'widths {widths}: give four, of the stem and of three stages, in multiples of 4')
        if mid_from not in ('input', 'output'):
            raise ValueError(f"mid_from is 'input' or 'output', not {mid_from!r}")
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = widths[-1]
        self.grad_checkpointing = False
        self.path: Genotype | None = None
        self.arch_weights = nn.Parameter(1e-3 * torch.randn(2 * NUM_CELLS, len(INTERACTIONS), **dd))

        self.stem = ConvBlock(in_chans, widths[0], 7, stride=2, **dd)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks, prev = [], widths[0]
        for i, width in enumerate(widths[1:]):
            if i > 0:
                blocks.append(nn.Sequential(ConvBlock(prev, prev, **dd), nn.AvgPool2d(2, stride=2)))
            mid = [(chs if mid_from == 'input' else width) // 4 for chs in (prev, width)]
            cells = [MixedCell(prev, width, mid[0], **dd), MixedCell(width, width, mid[1], **dd)]
            blocks.append(nn.ModuleList(cells))
            prev = width
        self.stages = nn.ModuleList(blocks)  # in execution order: stage, transition, stage, transition, stage

        norm = nn.BatchNorm1d(prev, **dd)
        norm.register_parameter('bias', None)
        self.global_neck = nn.Sequential(OrderedDict(bn=norm))
        self.global_classifier = nn.Linear(prev, num_classes, bias=False, **dd)
        self.apply(MSINet._init_weights)
        nn.init.normal_(self.global_classifier.weight, std=0.001)
        self.register_load_state_dict_pre_hook(fit_state_dict)

    def mixture(self) -> torch.Tensor:
        """The weight of each interaction at each place: [12, 4], rows that sum to 1."""
        return self.arch_weights.softmax(1)

    def genotype(self) -> Genotype:
        """The interaction of the largest weight at each place."""
        names = list(INTERACTIONS)
        return Genotype(names[k] for k in self.arch_weights.argmax(1).tolist())

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters but the architecture's."""
        return [p for name, p in self.named_parameters() if name != 'arch_weights']

    @torch.no_grad()
    def load_trunk(self, model: MSINet) -> None:
        """Takes the weights of a network of any genotype, but for its interactions, local branch, neck and classifier.

        Raises:
            InputError: it has other widths.
        """
        theirs = model.state_dict()
        own = {n: t for n, t in self.state_dict().items() if n.startswith(('stem.', 'stages.')) and '.ops.' not in n}
        other = next((n for n, t in own.items() if n not in theirs or theirs[n].shape != t.shape), None)
        if other:
            mine, found = (list(d[other].shape) if other in d else 'nothing' for d in (own, theirs))
            raise InputError(
                f'{other} is {found} there instead of {mine}: it needs the widths of the supernet, whose branches have '
                "a quarter of a cell's output (mid_from output)"
            )
        for name, tensor in own.items():
            tensor.copy_(theirs[name])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, in_chans, H, W] to the last stage's map [B, num_features, H/16, W/16]."""
        x = self.maxpool(self.stem(x))
        if self.path is None:
            places = self.mixture().view(NUM_CELLS, 2, -1).unbind()
        else:
            names = list(INTERACTIONS)
            places = [tuple(map(names.index, cell)) for cell in self.path.cells]
        for i, block in enumerate(self.stages):
            if i % 2:
                x = block(x)
                continue
            for cell, weights in zip(block, places[i : i + 2], strict=True):
                x = checkpoint(cell, x, weights) if self.grad_checkpointing else cell(x, weights)
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The map to logits [B, num_classes], or with `pre_logits` to the embedding [B, num_features]."""
        x = x.mean((2, 3))
        return x if pre_logits else self.global_classifier(self.global_neck(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_branches(self, x: torch.Tensor) -> Embedding:
        """As `MSINet.forward_branches`, without a local branch."""
        feature_map = self.forward_features(x)
        feature = feature_map.mean((2, 3))
        return Embedding(feature_map, feature, None, self.global_classifier(self.global_neck(feature)))
