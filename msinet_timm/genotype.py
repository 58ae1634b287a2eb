"""Moved to `msinet_timm.models.genotype`; this name goes on working."""

from .models.genotype import *  # noqa: F403
from .models.genotype import __all__  # noqa: F401
