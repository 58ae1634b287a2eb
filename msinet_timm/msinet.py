"""Moved to `msinet_timm.models.msinet`; this name goes on working."""

from .models.msinet import *  # noqa: F403
from .models.msinet import __all__  # noqa: F401
