"""Object re-identification for timm: importing this package registers MSINet with timm."""

from msinet_timm.models.genotype import Genotype
from msinet_timm.models.msinet import Embedding, MSINet, register_genotype

__version__ = '0.1.0'

__all__ = ['Embedding', 'Genotype', 'MSINet', 'register_genotype']
