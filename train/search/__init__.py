"""Twins contrastive architecture search."""

from .steps import SearchTask, TwinsSplit, architecture_step, create_optimizers, twins_split, weight_step

__all__ = ['SearchTask', 'TwinsSplit', 'architecture_step', 'create_optimizers', 'twins_split', 'weight_step']
