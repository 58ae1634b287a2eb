"""Moved to `msinet_timm.models.interactions`; this name goes on working."""

from msinet_timm.models.interactions import *  # noqa: F403
from msinet_timm.models.interactions import __all__  # noqa: F401
