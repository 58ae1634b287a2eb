"""People followed through one view and across cameras; and embeddings for other people's trackers."""

from .hosts import TRACKERS, thresholds, ultralytics_callback, ultralytics_encoder
from .identities import Event, Identities
from .network import CameraNetwork
from .tracker import Track, Tracker, byte_track
from .tracklets import Tracklet, weigh

__all__ = [
    'TRACKERS',
    'CameraNetwork',
    'Event',
    'Identities',
    'Track',
    'Tracker',
    'Tracklet',
    'byte_track',
    'thresholds',
    'ultralytics_callback',
    'ultralytics_encoder',
    'weigh',
]
