"""Evaluation of ReID models: features, rankings, reports, and the command `msinet-eval`."""

import msinet_commands  # noqa: F401 - comes before PyTorch where this is run as a program

from .evaluation import evaluate, evaluate_embeddings
from .features import Features, extract
from .metrics import Labels, RankingResult, evaluate_ranking
from .report.result import EvaluationResult
from .settings import EvalSettings

__all__ = [
    'EvalSettings',
    'EvaluationResult',
    'Features',
    'Labels',
    'RankingResult',
    'evaluate',
    'evaluate_embeddings',
    'evaluate_ranking',
    'extract',
]
