"""Results for people: tables of text, charts, ranked lists, and a page of HTML."""

from .ranked_lists import write_ranked_lists
from .text import matrix, table

__all__ = ['matrix', 'table', 'write_ranked_lists']
