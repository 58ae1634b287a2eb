"""Object re-identification for timm: importing this package registers MSINet with timm."""

from .genotype import Genotype
from .msinet import Embedding, MSINet, register_genotype

__all__ = ['Embedding', 'Genotype', 'MSINet', 'register_genotype']
