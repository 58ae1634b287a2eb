"""Person search: one network that finds people in frames, and embeds them."""

from .folder import load_search, save_search
from .found import Found
from .network import SearchNetwork, create_search_network
from .search import PersonSearch

__all__ = ['Found', 'PersonSearch', 'SearchNetwork', 'create_search_network', 'load_search', 'save_search']
