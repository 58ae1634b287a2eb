"""The nearest images of galleries of any size."""

from .index import BACKENDS, PARAMETERS, recall, search
from .store import FeatureStore

__all__ = ['BACKENDS', 'PARAMETERS', 'FeatureStore', 'recall', 'search']
