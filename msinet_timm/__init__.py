"""Object re-identification for timm: importing this package registers MSINet with timm."""

import msinet_commands  # noqa: F401 - comes before PyTorch where this is run as a program
from msinet_timm.models.genotype import Genotype
from msinet_timm.models.msinet import Embedding, MSINet, register_genotype

__version__ = '0.1.0'

__all__ = ['Embedding', 'Genotype', 'MSINet', 'register_genotype']
