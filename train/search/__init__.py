"""Twins contrastive architecture search."""

from .compare import compare
from .engine import search
from .settings import SearchSettings
from .steps import SearchTask, TwinsSplit, architecture_step, create_optimizers, twins_split, weight_step

__all__ = [
    'SearchSettings',
    'SearchTask',
    'TwinsSplit',
    'architecture_step',
    'compare',
    'create_optimizers',
    'search',
    'twins_split',
    'weight_step',
]
