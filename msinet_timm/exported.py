"""Moved to `msinet_timm.export.formats`; this name goes on working."""

from .export.formats import *  # noqa: F403
from .export.formats import __all__  # noqa: F401
