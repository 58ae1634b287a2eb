"""Rendered person data sets: bodies of anny, clothed, walking before cameras, rendered by mitsuba on the CPU."""

from .dataset import render_dataset
from .identity import DOMAINS

__all__ = ['DOMAINS', 'render_dataset']
