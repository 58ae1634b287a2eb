"""What a lens does: beside its axis things lean and are stretched, and a wide one bends straight lines."""

from typing import NamedTuple

import numpy as np
from PIL import Image

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
        return straight @ self.axes[:2] + self.axes[2]


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
        return self.lens.rays(self.middle + self.tall / 2 * at)

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
        return axes, float(np.rad2deg(2 * np.arctan(1.005 * half)))  # rounding asks for a little more

    def bend(self, layers: np.ndarray, axes: np.ndarray, field: float) -> np.ndarray:
        """What the lens makes of `layers` [H, W, C], which such a view shows: those of the crop, as large.

        What bends is straight within each of 4 x 4 parts, which is right to a small part of a pixel.
        """
        height, width = layers.shape[:2]
        across, down = (np.linspace(0, size, parts + 1).astype(int) for size, parts in ((width, 4), (height, 4)))
        at = np.stack(np.broadcast_arrays(2 * across - width, (height - 2 * down)[:, None]), -1) / height
        right, up, forward = np.moveaxis(self._rays(at) @ axes.T, -1, 0)
        near = height / 2 / np.tan(np.deg2rad(field) / 2) / forward  # the pixels of a metre
        from_ = np.stack([width / 2 + near * right, height / 2 - near * up], -1)
        mesh = []
        for i, j in np.ndindex(4, 4):
            corners = from_[i, j], from_[i + 1, j], from_[i + 1, j + 1], from_[i, j + 1]
            box = across[j], down[i], across[j + 1], down[i + 1]
            mesh.append((tuple(map(int, box)), tuple(np.concatenate(corners).tolist())))
        planes = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in np.moveaxis(layers, -1, 0)]
        bent = [p.transform((width, height), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR) for p in planes]
        return np.stack([np.asarray(plane) for plane in bent], -1)
