"""What person search finds in a frame."""

from typing import NamedTuple

import numpy as np

__all__ = ['Found']


class Found(NamedTuple):
    """The people in a frame; `Gallery.add` and `Tracker.update` take it in the place of boxes.

    Attributes:
        boxes: [N, 4] float32: left, top, right and bottom in pixels.
        scores: [N] float32 of the detector, 0 to 1, the highest first.
        embeddings: [N, D] float32 of length 1.
    """

    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
