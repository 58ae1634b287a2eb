"""Spatial alignment: images of one identity should match one another as they match themselves, others' not."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from msinet_timm.errors import InputError

__all__ = ['SpatialAlignment', 'max_correlation']

PUBLISHED = {'align_module.pos_pam.query_conv.': 'query.', 'align_module.pos_pam.key_conv.': 'key.'}


class _MaxCorrelation(torch.autograd.Function):
    """Keeps where each maximum is instead of the correlations it was taken from."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, anchors: int) -> torch.Tensor:
        images, positions, _ = x.shape
        best = x.new_empty(anchors, images, positions)
        where = torch.empty(anchors, images, positions, dtype=torch.int32, device=x.device)
        memory = x.new_empty(images * positions, positions)
        for b in range(anchors):
            # Two images' correlations serve both ways around: an anchor is compared with itself and those behind it.
            block = memory[: (images - b) * positions]
            torch.mm(x[b:].flatten(0, 1), x[b].T, out=block)
            block = block.view(images - b, positions, positions)
            best[b, b:], where[b, b:] = block.max(2)
            if b + 1 < anchors:
                best[b + 1 :, b], where[b + 1 :, b] = block[1 : anchors - b].max(1)
        ctx.mark_non_differentiable(where)
        ctx.save_for_backward(x, where)
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, where = ctx.saved_tensors
        anchors, images, positions = where.shape
        rows = x.flatten(0, 1)
        first = torch.arange(0, anchors * positions, positions, dtype=torch.int32, device=x.device)
        match = (where + first[:, None, None]).flatten(1)  # [anchors, rows]: the row that matches a row best
        grad = grad.flatten(1)
        # Each row learns from its match in every anchor ...
        grad_x = F.embedding_bag(match.T.contiguous(), rows, per_sample_weights=grad.T.contiguous(), mode='sum')
        # ... and each of an anchor's rows from those that it is the match of.
        match, order = match.sort(dim=1, stable=True)
        bags = torch.searchsorted(match.flatten(), torch.arange(anchors * positions, device=x.device).int())
        grad_x[: anchors * positions] += F.embedding_bag(
            order.flatten(), rows, bags, per_sample_weights=grad.gather(1, order).flatten(), mode='sum'
        )
        return grad_x.view_as(x), None


def max_correlation(x: torch.Tensor, anchors: int | None = None) -> torch.Tensor:
    """How well each position of each image is matched by the best position of each anchor.

    Takes the memory of one anchor's correlations, B x N x N, at a time.

    Args:
        x: vectors [B, N, C], not normalised.
        anchors: A, how many of the first images are anchors; None for all.

    Returns:
        [A, B, N]: at [b, p, i] the maximum over j of <x[p, i], x[b, j]>.
    """
    return _MaxCorrelation.apply(x, len(x) if anchors is None else anchors)


def _mean_direction(u: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The mean [A, N] of those vectors of [A, B, N] that [A, B] chooses; zero where it chooses none."""
    weights = chosen.to(u.dtype) / chosen.sum(1, keepdim=True).clamp(min=1)
    return (weights[:, None] @ u)[:, 0]


class SpatialAlignment(nn.Module):
    """Loss that aligns the maps of a batch, position by position.

    With U[b, p] as `max_correlation` gives it, P[b] the same of image b with itself after two learned projections
    (position attention), and D(u, v) = 1 - cosine: *positive* alignment is the mean of D(P[b], U[b, p]) over anchors b
    and images p of b's identity, b included; *negative* alignment is the mean of D(U[b, p], U[b, r]) over anchors b
    and pairs p, r of images of other identities, p = r included. Each anchor counts the same, however many images its
    identity has. It has a part in training only.

    Source: `MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID` (section 3.4)
        - https://arxiv.org/abs/2303.07065

    Args:
        channels: C, how many of the map's first channels to align.
        mode: `'pos'`, `'neg'`, or `'pos_neg'` for the sum of both.

    Raises:
        InputError: an unknown mode.
    """

    MODES = ('pos', 'neg', 'pos_neg')

    def __init__(self, channels: int, mode: str = 'pos_neg', device=None, dtype=None) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if mode not in self.MODES:
            raise InputError(f'unknown alignment {mode!r}: choose one of {", ".join(self.MODES)}')
        self.channels = channels
        self.mode = mode
        self.query, self.key = [nn.Conv2d(channels, max(1, channels // 8), 1, **dd) for _ in range(2)]
        for conv in (self.query, self.key):
            nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
            nn.init.zeros_(conv.bias)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False):
        """As torch's, and takes the alignment out of state dicts of the published implementation as well."""
        published = {
            ours + name.partition(theirs)[2]: tensor
            for theirs, ours in PUBLISHED.items()
            for name, tensor in state_dict.items()
            if theirs in name
        }
        return super().load_state_dict(published or state_dict, strict=strict, assign=assign)

    def attention(self, maps: torch.Tensor) -> torch.Tensor:
        """How well each position of an image is matched within the image itself: maps [B, C, H, W] to P [B, H*W]."""
        query, key = self.query(maps).flatten(2), self.key(maps).flatten(2)
        return (query.transpose(1, 2) @ key).max(2).values

    def forward(self, feature_map: torch.Tensor, labels: torch.Tensor, anchors: int | None = None) -> torch.Tensor:
        """Maps [B, at least C, H, W] and identities [B], the first of them anchors (None: all), to a scalar."""
        maps = feature_map[:, : self.channels]
        u = F.normalize(max_correlation(maps.flatten(2).transpose(1, 2).contiguous(), anchors), dim=2)
        same = labels[:anchors, None] == labels[None, :]
        if 'pos' in self.mode:
            p = F.normalize(self.attention(maps[:anchors]), dim=1)
            loss = 1 - (p * _mean_direction(u, same)).sum(1).mean()
        else:
            # Without gradient the optimizer would pass the projections over, and not decay their weights.
            loss = 0 * sum(parameter.sum() for parameter in self.parameters())
        if 'neg' in self.mode:
            # The mean cosine of all pairs is the square of the mean direction: no pair needs to be formed.
            squares = _mean_direction(u, ~same).square().sum(1)
            loss = loss + torch.where(same.all(1), 0, 1 - squares).mean()
        return loss
