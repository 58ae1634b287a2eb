"""Rendered data sets: people, whose bodies are of anny, clothed and walking before cameras; vehicles; films; scenes."""

from .dataset import render_dataset
from .identity import DOMAINS
from .scenes import render_scenes
from .video import render_video

__all__ = ['DOMAINS', 'render_dataset', 'render_scenes', 'render_video']
