"""Rendered data sets: people, whose bodies are of anny, clothed and walking before cameras; vehicles; and films."""

from .dataset import render_dataset
from .identity import DOMAINS
from .video import render_video

__all__ = ['DOMAINS', 'render_dataset', 'render_video']
