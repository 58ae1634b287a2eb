"""A gallery's page in the browser, and the same for programs."""

from .serve import serve

__all__ = ['serve']
