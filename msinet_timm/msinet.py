"""Moved to `msinet_timm.models.msinet`; this name goes on working."""

from msinet_timm.models.msinet import *  # noqa: F403
from msinet_timm.models.msinet import __all__  # noqa: F401
