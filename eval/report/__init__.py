"""Results for people: tables of text, charts, ranked lists, and a page of HTML."""

from .html import write_report
from .ranked_lists import write_ranked_lists
from .result import EvaluationResult
from .text import METRICS, matrix, metrics, table

__all__ = ['METRICS', 'EvaluationResult', 'matrix', 'metrics', 'table', 'write_ranked_lists', 'write_report']
