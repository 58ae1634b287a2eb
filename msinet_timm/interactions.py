"""Moved to `msinet_timm.models.interactions`; this name goes on working."""

from .models.interactions import *  # noqa: F403
from .models.interactions import __all__  # noqa: F401
