"""Architecture search: by the published twins contrastive way, or by single paths."""

from .compare import compare, verdicts
from .engine import search
from .judge import Judge, held_out
from .paths import Rated, SinglePaths, evolve
from .settings import SearchSettings
from .steps import SearchTask, TwinsSplit, architecture_step, create_optimizers, twins_split, weight_step
from .strategy import Strategy
from .twins import TwinsContrastive

__all__ = [
    'Judge',
    'Rated',
    'SearchSettings',
    'SearchTask',
    'SinglePaths',
    'Strategy',
    'TwinsContrastive',
    'TwinsSplit',
    'architecture_step',
    'compare',
    'create_optimizers',
    'evolve',
    'held_out',
    'search',
    'twins_split',
    'verdicts',
    'weight_step',
]
