"""Losses that learn from the distances within a batch."""

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ['TripletLoss', 'batch_hard_triplet_loss']


def batch_hard_triplet_loss(features: torch.Tensor, labels: torch.Tensor, margin: float = 0.3) -> torch.Tensor:
    """Triplet loss with the hardest positive and the hardest negative of each image in the batch.

    The mean over anchors of max(0, distance to the farthest image of the same identity - distance to the nearest image
    of another + margin). The anchor counts as an image of its own identity, so an identity with one image has a
    positive at distance 0; a batch of one identity has no negative and costs nothing.

    Source: `In Defense of the Triplet Loss for Person Re-Identification` - https://arxiv.org/abs/1703.07737 (eq. 5)

    Args:
        features: [B, D]; distances are Euclidean.
        labels: [B] identities.
        margin: by how much negatives should be farther than positives, in units of distance.

    Returns:
        The loss, a scalar.
    """
    squares = features.square().sum(1)
    distances = squares[:, None] + squares[None, :] - 2 * features @ features.T
    # A square root has no gradient at zero, which every anchor's distance to itself would otherwise ask for.
    distances = distances.clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~same, -torch.inf).amax(1)
    negative = distances.masked_fill(same, torch.inf).amin(1)
    return F.relu(positive - negative + margin).mean()


class TripletLoss(nn.Module):
    """Batch-hard triplet loss on features of any scale, or normalised to length 1.

    Args:
        margin: see `batch_hard_triplet_loss`.
        normalize: whether to normalise the features first, as the published MSINet does.
    """

    def __init__(self, margin: float = 0.3, normalize: bool = True) -> None:
        super().__init__()
        self.margin = margin
        self.normalize = normalize

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Features [B, D] and identities [B] to a scalar."""
        if self.normalize:
            features = F.normalize(features, dim=1)
        return batch_hard_triplet_loss(features, labels, self.margin)
