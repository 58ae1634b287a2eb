"""Training of ReID models: in Python, and by the command `msinet-train`."""

import msinet_commands  # noqa: F401 - comes before PyTorch where this is run as a program

from .engine.loop import TrainingResult, evaluate_only, train
from .settings import TrainSettings

__all__ = ['TrainSettings', 'TrainingResult', 'evaluate_only', 'train']
