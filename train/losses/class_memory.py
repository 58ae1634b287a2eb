"""A memory of classes, against which features are contrasted."""

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

from msinet_train.distributed import is_distributed

__all__ = ['ClassMemory']


class ClassMemory(nn.Module):
    """Contrastive loss against one remembered feature for each class, which follows the features it is given.

    The loss is the cross entropy of the similarities to all rows, before the batch changes them; its gradient goes
    through the features only. In training mode, a call then updates the rows: sample by sample, in the order of the
    batch, a class's row becomes `momentum * row + (1 - momentum) * feature`, at length 1. Note that `momentum` is the
    share of the *old* row. Under several processes every one of them applies the samples of all, in the order of their
    ranks, so that their memories stay equal.

    Source: `MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID` (section 3.3)
        - https://arxiv.org/abs/2303.07065

    Attributes:
        features: [num_classes, dim] buffer of rows of length 1, or of zeros for classes that have not been seen.

    Args:
        num_classes: classes to remember.
        dim: length of a feature.
        momentum: share of the old row, 0 to 1.
        temperature: by which similarities are divided, larger than 0.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        momentum: float = 0.2,
        temperature: float = 0.05,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.temperature = temperature
        self.register_buffer('features', torch.zeros(num_classes, dim, device=device, dtype=dtype))

    @torch.no_grad()
    def initialize(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Sets each class's row to the direction of the mean of its normalised features.

        Args:
            features: [N, dim] of any scale.
            labels: [N] classes; rows of classes that are not among them become zero.
        """
        features = F.normalize(features.to(self.features), dim=1)
        sums = torch.zeros_like(self.features).index_add_(0, labels.to(self.features.device), features)
        self.features = F.normalize(sums, dim=1)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Features [B, dim] of any scale and classes [B] to the mean loss, a scalar."""
        features = F.normalize(features.to(self.features.dtype), dim=1)
        loss = F.cross_entropy(features @ self.features.T / self.temperature, labels)
        if self.training:
            self.update(features.detach(), labels)
        return loss

    @torch.no_grad()
    def update(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Moves the rows towards the batch's features [B, dim], of length 1, of classes [B]."""
        if is_distributed():
            features, labels = _gather(features), _gather(labels)
        # Samples of different classes do not touch each other's rows, so that the sequence is one of rounds: the
        # first sample of each class, then the second of those that have two, ...
        order = labels.argsort(stable=True)
        grouped = labels[order]
        position = torch.arange(len(labels), device=labels.device)
        is_first = torch.ones_like(grouped, dtype=torch.bool)
        is_first[1:] = grouped[1:] != grouped[:-1]
        turn = position - torch.where(is_first, position, 0).cummax(0).values
        rows = self.features.clone()  # autograd holds the old ones for the loss
        for k in range(int(turn.max()) + 1):
            samples = order[turn == k]
            classes = labels[samples]
            rows[classes] = F.normalize(self.momentum * rows[classes] + (1 - self.momentum) * features[samples], dim=1)
        self.features = rows


def _gather(values: torch.Tensor) -> torch.Tensor:
    """Values of all processes, of equal shape in each, in the order of their ranks."""
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)
