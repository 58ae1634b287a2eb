"""Rankings, verification and how far their metrics can be trusted."""

from .nearest import nearest
from .ranking import RankingResult, evaluate_distances, evaluate_ranking

__all__ = ['RankingResult', 'evaluate_distances', 'evaluate_ranking', 'nearest']
