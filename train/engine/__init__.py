"""The training loop, and what it is set up from."""

from .loop import TrainingResult, evaluate_only, load_checkpoint, train

__all__ = ['TrainingResult', 'evaluate_only', 'load_checkpoint', 'train']
