"""Models for other runtimes: written, checked against PyTorch, quantised and run."""

from .export import FORMATS, check_request, export, largest_difference, mean_cosine
from .formats import Exported, load_exported, openvino_core

__all__ = [
    'FORMATS',
    'Exported',
    'check_request',
    'export',
    'largest_difference',
    'load_exported',
    'mean_cosine',
    'openvino_core',
]
