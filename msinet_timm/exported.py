"""Moved to `msinet_timm.export.formats`; this name goes on working."""

from msinet_timm.export.formats import *  # noqa: F403
from msinet_timm.export.formats import __all__  # noqa: F401
