"""Rendered data sets: people, whose bodies are of anny, clothed and walking before cameras; and vehicles."""

from .dataset import render_dataset
from .identity import DOMAINS

__all__ = ['DOMAINS', 'render_dataset']
