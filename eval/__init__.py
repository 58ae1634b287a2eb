"""Evaluation of ReID models: features, rankings, reports, and the command `msinet-eval`."""

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
