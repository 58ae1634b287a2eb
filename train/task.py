"""A model and its ReID losses as one of timm's training tasks."""

import torch
import torch.nn as nn
from timm.loss import LabelSmoothingCrossEntropy
from timm.task import TrainingTask

from msinet_timm.commands import InputError

from .losses import TripletLoss

__all__ = ['ReIDTask']


class ReIDTask(TrainingTask):
    """Identity classification behind the neck and triplets before it, for the global and the local branch.

    The loss is their plain sum, as in the published training: cross entropy (global) + triplet (global) + cross
    entropy (local) + triplet (local).

    Args:
        model: has `forward_branches`, and a classifier for each training identity.
        margin: of the triplet loss.
        smoothing: share of the target that is spread over all identities.
        device: as for `TrainingTask`, and so `dtype` and `verbose`.

    Raises:
        InputError: a model without branches or without classifiers.
    """

    def __init__(
        self,
        model: nn.Module,
        margin: float = 0.3,
        smoothing: float = 0.1,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        if not hasattr(model, 'forward_branches'):
            raise InputError(
                f'{type(model).__name__} has no branches to train: choose one of timm.list_models("msinet*")'
            )
        if model.num_classes <= 0:
            raise InputError(f'{type(model).__name__} has no classifiers: create it with num_classes')
        self.trainable_module = model
        self.classification = LabelSmoothingCrossEntropy(smoothing)
        self.triplet = TripletLoss(margin)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images [B, C, H, W] and labels [B] to the losses.

        Returns:
            `loss`, the global branch's logits as `output`, and each term under its own name.
        """
        branches = self.trainable_module.forward_branches(input)
        terms = {
            'id_global': self.classification(branches.global_logits, target),
            'triplet_global': self.triplet(branches.global_feature, target),
            'id_local': self.classification(branches.local_logits, target),
            'triplet_local': self.triplet(branches.local_feature, target),
        }
        return {'loss': sum(terms.values()), 'output': branches.global_logits, **terms}
