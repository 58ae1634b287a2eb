"""Results for people: tables of text, charts, ranked lists, and a page of HTML."""

from .html import write_report
from .ranked_lists import write_ranked_lists
from .result import EvaluationResult
from .text import matrix, table

__all__ = ['EvaluationResult', 'matrix', 'table', 'write_ranked_lists', 'write_report']
