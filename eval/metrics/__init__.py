"""Rankings, verification and how far their metrics can be trusted."""

from .checks import Labels
from .nearest import nearest
from .ranking import RankingResult, evaluate_distances, evaluate_ranking

__all__ = ['Labels', 'RankingResult', 'evaluate_distances', 'evaluate_ranking', 'nearest']
