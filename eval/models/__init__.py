"""Models to evaluate: by name, from a folder or a checkpoint, and baselines."""

from .load import find_model, load_model

__all__ = ['find_model', 'load_model']
