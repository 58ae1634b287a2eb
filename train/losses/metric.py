"""Losses that learn from the distances within a batch, and classifiers that compare angles."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from msinet_timm.errors import needs

__all__ = ['AngularClassifier', 'CircleLoss', 'TripletLoss', 'batch_hard', 'batch_hard_triplet_loss']


@torch.no_grad()
def batch_hard(
    features: torch.Tensor, labels: torch.Tensor, anchors: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Finds the farthest image of each anchor's identity, and the nearest one of another.

    The anchor counts as an image of its own identity. Needs the memory of one matrix [A, B], and two of booleans.

    Args:
        features: [B, D]; distances are Euclidean.
        labels: [B] identities.
        anchors: A, how many of the first images are anchors; None for all.

    Returns:
        Indices [A] of the positives, indices [A] of the negatives, and booleans [A]: whether there is a negative.
    """
    # Squared distances less the anchor's own square, which does not change who is near and far.
    distances = torch.addmm(features.square().sum(1), features[:anchors], features.T, alpha=-2)
    same = labels[:anchors, None] == labels[None, :]
    negative = distances.masked_fill(same, torch.inf).argmin(1)
    positive = distances.masked_fill_(~same, -torch.inf).argmax(1)
    return positive, negative, ~same.all(1)


def batch_hard_triplet_loss(
    features: torch.Tensor, labels: torch.Tensor, margin: float | None = 0.3, anchors: int | None = None
) -> torch.Tensor:
    """Triplet loss with the hardest positive and the hardest negative of each image in the batch.

    The mean over anchors of max(0, distance to the farthest image of the same identity - distance to the nearest image
    of another + margin), or with soft margin of log(1 + exp(difference of the distances)). The anchor counts as an
    image of its own identity, so an identity with one image has a positive at distance 0; an anchor without negatives
    costs nothing.

    Source: `In Defense of the Triplet Loss for Person Re-Identification` - https://arxiv.org/abs/1703.07737 (eq. 5)

    Args:
        features: [B, D]; distances are Euclidean.
        labels: [B] identities.
        margin: by how much negatives should be farther than positives, in units of distance; None for a soft margin.
        anchors: how many of the first images the mean is over; None for all.

    Returns:
        The loss, a scalar.
    """
    positive, negative, has_negative = batch_hard(features, labels, anchors)

    def distance_to(others: torch.Tensor) -> torch.Tensor:
        # A square root has no gradient at zero, which the distance of an image to itself would otherwise ask for.
        return (features[:anchors] - features[others]).square().sum(1).clamp(min=1e-12).sqrt()

    difference = distance_to(positive) - distance_to(negative)
    loss = F.softplus(difference) if margin is None else F.relu(difference + margin)
    return torch.where(has_negative, loss, 0).mean()


class TripletLoss(nn.Module):
    """Batch-hard triplet loss on features of any scale, or normalised to length 1.

    Args:
        margin: see `batch_hard_triplet_loss`; None for a soft margin.
        normalize: whether to normalise the features first, as the published MSINet does.
    """

    def __init__(self, margin: float | None = 0.3, normalize: bool = True) -> None:
        super().__init__()
        self.margin = margin
        self.normalize = normalize

    def forward(self, features: torch.Tensor, labels: torch.Tensor, anchors: int | None = None) -> torch.Tensor:
        """Features [B, D] and identities [B], of which the first `anchors` are this process's own, to a scalar."""
        if self.normalize:
            features = F.normalize(features, dim=1)
        return batch_hard_triplet_loss(features, labels, self.margin, anchors)


def _metric_learning():
    with needs('losses', 'a circle loss, ArcFace or CosFace'):
        from pytorch_metric_learning import losses
    return losses


class CircleLoss(nn.Module):
    """Circle loss on cosines, all pairs of a batch against each other, from pytorch-metric-learning.

    Source: `Circle Loss: A Unified Perspective of Pair Similarity Optimization` - https://arxiv.org/abs/2002.10857

    Args:
        margin: the relaxation m of the paper, which uses 0.25 for persons.
        scale: gamma of the paper.

    Raises:
        InputError: pytorch-metric-learning is not installed.
    """

    def __init__(self, margin: float = 0.25, scale: float = 128) -> None:
        super().__init__()
        self.loss = _metric_learning().CircleLoss(m=margin, gamma=scale)

    def forward(self, features: torch.Tensor, labels: torch.Tensor, anchors: int | None = None) -> torch.Tensor:
        """Features [B, D] and identities [B] to a scalar.

        `anchors` has no effect: the loss averages over the images that cost something, which is no mean of parts.
        Given the images of all processes, every process computes all of it.
        """
        return self.loss(features, labels)


class AngularClassifier(nn.Module):
    """A classifier that compares angles, and its cross entropy with a margin, from pytorch-metric-learning.

    Sources: `ArcFace: Additive Angular Margin Loss for Deep Face Recognition` - https://arxiv.org/abs/1801.07698
        `CosFace: Large Margin Cosine Loss for Deep Face Recognition` - https://arxiv.org/abs/1801.09414

    Args:
        kind: `'arcface'` (margin 28.6 degrees) or `'cosface'` (margin 0.35); both with scale 64.
        features: D, their length.
        num_classes: identities to tell apart.
        smoothing: share of the target that is spread over all identities.

    Raises:
        InputError: pytorch-metric-learning is not installed.
    """

    def __init__(self, kind: str, features: int, num_classes: int, smoothing: float = 0.0) -> None:
        super().__init__()
        losses = _metric_learning()
        create = {'arcface': losses.ArcFaceLoss, 'cosface': losses.CosFaceLoss}[kind]
        self.loss = create(num_classes=num_classes, embedding_size=features)
        self.loss.cross_entropy = nn.CrossEntropyLoss(reduction='none', label_smoothing=smoothing)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Features [B, D], of any length, and identities [B] to a scalar."""
        return self.loss(features, labels)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, D] to scaled cosines [B, num_classes], without the margin."""
        return self.loss.get_logits(features)
