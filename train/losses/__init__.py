"""ReID losses, spatial alignment, and the task that puts them together with a model."""

from .metric import AngularClassifier, CircleLoss, TripletLoss, batch_hard, batch_hard_triplet_loss

__all__ = ['AngularClassifier', 'CircleLoss', 'TripletLoss', 'batch_hard', 'batch_hard_triplet_loss']
