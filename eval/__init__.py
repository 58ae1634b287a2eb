"""Evaluation of ReID models: features, rankings, reports, and the command `msinet-eval`."""

from .features import Features, extract
from .metrics import Labels, RankingResult, evaluate_ranking
from .protocol import Evaluation, evaluate

__all__ = ['Evaluation', 'Features', 'Labels', 'RankingResult', 'evaluate', 'evaluate_ranking', 'extract']
