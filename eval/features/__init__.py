"""Images to embeddings, and embeddings as files."""

from .extract import extract, reid_data_config
from .forward import device_of, embed
from .types import Embedded, Features

__all__ = ['Embedded', 'Features', 'device_of', 'embed', 'extract', 'reid_data_config']
