"""A person in one view without a gap: where and when, and what the crops look like, weighed by how much they show."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ['Lately', 'Tracklet', 'weigh']

#: Height in pixels from which on a box counts in full.
TALL = 96
#: Width of a person by their height, and how near to the frame's edge, by its width, a box may go on behind it.
SLENDER, EDGE = 0.4, 0.01
#: Crops of a tracklet that are remembered one by one.
SAMPLES = 8


def weigh(boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """How much the crop of each box tells of who is in it.

    The weight is the detector's score times the share of the box that is seen, squared, and less for small boxes. A
    box is covered by those that overlap it and end lower in the image, which are nearer to the camera; what lies
    outside the frame is not seen either. Detectors often end a box at the frame's edge: one that does is held to be
    as much of a person as it is wide for its height, or high for its width.

    Args:
        boxes: [N, 4] left, top, right and bottom in pixels.
        scores: [N], 0 to 1.
        size: width and height of the frame; None for one without edges.

    Returns:
        [N] 0 to 1.
    """
    if not len(boxes):
        return np.zeros(0)
    boxes = np.asarray(boxes, float)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas = np.maximum(sides.prod(1), 1e-9)
    common = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    nearer = boxes[None, :, 3] > boxes[:, None, 3]
    covered = (np.maximum(common, 0).prod(2) * nearer).max(1) / areas
    inside = 1.0
    if size is not None:
        low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], size)
        wide, tall = np.maximum(high - low, 1e-9).T
        beside, below = ((low <= EDGE * size[0]) | (high >= np.array(size) - EDGE * size[0])).T
        inside = np.maximum(high - low, 0).prod(1) / areas
        inside = np.where(beside, np.minimum(inside, wide / (SLENDER * tall)), inside)
        inside = np.where(below, np.minimum(inside, SLENDER * tall / wide), inside)
    return np.asarray(scores) * (np.maximum(1 - covered, 0) * inside) ** 2 * np.minimum(1, sides[:, 1] / TALL)


@dataclass(eq=False, slots=True)
class Tracklet:
    """Boxes of one person in one view, which motion and appearance say is the same.

    Attributes:
        number: among all tracklets, from 1.
        camera: name of the view.
        start: time of the first box, in seconds.
        end: time of the last one.
        boxes: how many there are.
        crops: how many of them were embedded.
        weight: sum of the crops' weights, see `weigh`.
        samples: the weights and embeddings of a few crops, from the whole time.
    """

    number: int
    camera: str | None
    start: float
    end: float
    boxes: int = 0
    crops: int = 0
    weight: float = 0.0
    samples: list[tuple[float, np.ndarray]] = field(default_factory=list)
    _sum: np.ndarray | None = None
    _stride: int = 1

    def learn(self, weighed: np.ndarray, weight: float) -> None:
        """Adds a crop's embedding [D] of length 1, times its weight."""
        if self._sum is None:
            self._sum = weighed.copy()
        else:
            self._sum += weighed
        self.weight += weight
        if self.crops % self._stride == 0:  # the sample number i is of the crop number i times the stride
            if len(self.samples) == SAMPLES:  # every other one goes, and from now on every other one comes
                del self.samples[1::2]
                self._stride *= 2
            if self.crops % self._stride == 0:
                self.samples.append((weight, weighed / weight))
        self.crops += 1

    def unlearn(self, weighed: np.ndarray, weights: list[float]) -> None:
        """Takes away the latest crops: the sum [D] of their embeddings times their weights, and the weights."""
        self._sum -= weighed
        self.weight -= sum(weights)
        self.crops -= len(weights)
        del self.samples[-(-self.crops // self._stride) :]

    def meets(self, other: 'Tracklet') -> bool:
        """Whether one view shows both at once."""
        return self.camera == other.camera and self.start <= other.end and other.start <= self.end

    def distance(self, vector: np.ndarray) -> float:
        """Euclidean distance of its feature to a vector [D], both at length 1; `crops` is not 0."""
        own, given = self._sum.dot(self._sum).item(), vector.dot(vector).item()
        cosine = vector.dot(self._sum).item() / math.sqrt(given * own + 1e-24)
        return math.sqrt(max(0.0, 2 - 2 * cosine))

    @property
    def feature(self) -> np.ndarray | None:
        """[D] the weighted mean of the embeddings, of length 1; None before the first crop."""
        return None if self._sum is None else unit(self._sum)


class Lately:
    """The latest crops of a tracklet, which may turn out to be of somebody else than those before.

    Attributes:
        crops: time, embedding [D] of length 1 times its weight, and the weight of each.
        sum: [D] of these products.
    """

    __slots__ = ('crops', 'sum')

    def __init__(self) -> None:
        self.crops: deque[tuple[float, np.ndarray, float]] = deque()
        self.sum: Any = 0.0

    def add(self, time: float, weighed: np.ndarray, weight: float, count: int) -> None:
        """Adds a crop; of more than `count`, the first one goes."""
        self.crops.append((time, weighed, weight))
        self.sum = self.sum + weighed
        if len(self.crops) > count:
            self.drop_first()

    @property
    def weights(self) -> list[float]:
        return [weight for _, _, weight in self.crops]

    def drop_first(self) -> None:
        self.sum -= self.crops.popleft()[1]

    def distance(self, tracklet: Tracklet) -> float:
        """Euclidean distance, 0 to 2, of their mean to that of the crops before, at length 1."""
        whole, late = tracklet._sum, self.sum
        # numbers of Python, with which it reckons faster than with numpy's
        own, common, all_ = late.dot(late).item(), whole.dot(late).item(), whole.dot(whole).item()
        cosine = (common - own) / math.sqrt(max(own * (all_ - 2 * common + own), 1e-24))
        return math.sqrt(min(4.0, max(0.0, 2 - 2 * cosine)))


def unit(vector: np.ndarray) -> np.ndarray:
    """A vector, or each row of a matrix, at length 1."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)
