"""Training of ReID models: in Python, and by the command `msinet-train`."""

from .engine.loop import TrainingResult, evaluate_only, train
from .settings import TrainSettings

__all__ = ['TrainSettings', 'TrainingResult', 'evaluate_only', 'train']
