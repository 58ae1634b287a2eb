"""Moved to `msinet_timm.models.genotype`; this name goes on working."""

from msinet_timm.models.genotype import *  # noqa: F403
from msinet_timm.models.genotype import __all__  # noqa: F401
