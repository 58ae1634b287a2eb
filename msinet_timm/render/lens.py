"""What a lens does: beside its axis things lean and are stretched, and a wide one bends straight lines."""

from typing import NamedTuple

import numpy as np

from .cameras import Camera

__all__ = ['Crop', 'Lens', 'upright']

_CHEST = 0.9  # metres above the ground, what the middle of a camera's view shows
_EDGE = np.linspace(-1, 1, 9)
_BORDER = np.array([(x, y) for x in _EDGE for y in _EDGE if 1 in (abs(x), abs(y))])


def upright(forward: np.ndarray, up=(0.0, 0.0, 1.0)) -> np.ndarray:
    """Axes [3, 3] of length 1: right, as far up as `up` allows, and `forward`."""
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, forward), forward])


class Lens(NamedTuple):
    """Where on a camera's sensor things are seen: at tangents of angles from its axis, to the right and up.

    Attributes:
        axes: [3, 3] of the camera: right, up and forward.
        barrel: of the division model (Fitzgibbon, CVPR 2001): what a lens without distortion shows at `r`, this one
            shows at `s` with `r = s / (1 - barrel s^2)`. 0 for no distortion.
    """

    axes: np.ndarray
    barrel: float = 0.0

    @classmethod
    def of(cls, camera: Camera) -> 'Lens':
        """The lens of a camera, which looks at the middle of where people walk, or beside it by its `pan`."""
        away = (camera.near + camera.far) / 2
        return cls(upright(np.array([away * np.tan(camera.pan), away, _CHEST - camera.height])), camera.barrel)

    def seen(self, away: np.ndarray) -> np.ndarray:
        """Where [N, 2] points are seen that are `away` [N, 3] metres from the camera."""
        right, up, forward = (away @ self.axes.T).T
        straight = np.stack([right, up], 1) / np.maximum(forward, 0.05)[:, None]
        return straight * (2 / (1 + np.sqrt(1 + 4 * self.barrel * (straight**2).sum(1, keepdims=True))))

    def rays(self, at: np.ndarray) -> np.ndarray:
        """Directions [..., 3] of what is seen at [..., 2]."""
        straight = at / np.maximum(1 - self.barrel * (at**2).sum(-1, keepdims=True), 0.1)
        return straight @ self.axes[:2].astype(at.dtype) + self.axes[2].astype(at.dtype)


class Crop(NamedTuple):
    """A part of what a camera sees.

    Attributes:
        lens: of the camera.
        middle: [2] where its middle is seen.
        tall: its height there.
    """

    lens: Lens
    middle: np.ndarray
    tall: float

    def _rays(self, at: np.ndarray) -> np.ndarray:
        """Directions of what is seen at [..., 2] halves of its height to the right of its middle, and above."""
        return self.lens.rays((self.middle + self.tall / 2 * at).astype(at.dtype))

    def sight(self, aspect: float) -> tuple[np.ndarray, float]:
        """A view without distortion that shows all of the crop, and as little else as may be.

        Args:
            aspect: width of the crop and of the view by their heights.

        Returns:
            Its axes [3, 3], see `upright`, and its vertical field of view in degrees.
        """
        middle, above = self._rays(np.array([[0.0, 0.0], [0.0, 0.01]]))
        axes = upright(middle, above - middle)
        right, up, forward = (self._rays(_BORDER * [aspect, 1.0]) @ axes.T).T
        half = max(np.abs(up / forward).max(), np.abs(right / forward).max() / aspect)
        return axes, float(np.rad2deg(2 * np.arctan(half)))

    def bend(self, layers: np.ndarray, axes: np.ndarray, field: float) -> np.ndarray:
        """What the lens makes of what such a view shows, [H, W, C]: the crop, as large."""
        height, width, channels = layers.shape
        x = (np.arange(width, dtype=np.float32) + 0.5) * 2 - width
        y = height - (np.arange(height, dtype=np.float32) + 0.5) * 2
        rays = self._rays(np.stack(np.broadcast_arrays(x, y[:, None]), -1) / np.float32(height))
        right, up, forward = np.moveaxis(rays @ axes.T.astype(np.float32), -1, 0)
        forward *= np.float32(2 * np.tan(np.deg2rad(field) / 2) / height)  # now the depth of a pixel of the view
        column = np.clip(right / forward + np.float32((width - 1) / 2), 0, width - 1)
        row = np.clip(np.float32((height - 1) / 2) - up / forward, 0, height - 1)
        left, top = (np.minimum(at, size - 2).astype(np.int32) for at, size in ((column, width), (row, height)))
        s, t = (column - left)[..., None], (row - top)[..., None]
        pixels, first = np.ascontiguousarray(layers).reshape(-1, channels), top * width + left
        upper, lower = (
            pixels[at] + s * (pixels[at + 1] - pixels[at]) for at in (first, first + width)
        )  # between four pixels
        return upper + t * (lower - upper)
