"""Moved to `msinet_timm.models.supernet`; this name goes on working."""

from msinet_timm.models.supernet import *  # noqa: F403
from msinet_timm.models.supernet import __all__  # noqa: F401
