"""Moved to `msinet_timm.models.supernet`; this name goes on working."""

from .models.supernet import *  # noqa: F403
from .models.supernet import __all__  # noqa: F401
