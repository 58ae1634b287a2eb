"""People who were seen, found again by an image, and forgotten where that is asked for."""

from .gallery import Gallery, Match
from .store import Crop, Erasure, LogEntry, Sighting
from .times import format_time, parse_time

__all__ = ['Crop', 'Erasure', 'Gallery', 'LogEntry', 'Match', 'Sighting', 'format_time', 'parse_time']
