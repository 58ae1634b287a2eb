"""Person search for programs: a frame to the people in it, and what each of them looks like."""

import functools
import threading
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from msinet_timm.commands import find_device
from msinet_timm.datasets.images import ImageLike, any_image
from msinet_timm.errors import InputError, explained
from msinet_timm.models.camera_norm import hash_weights

from .folder import load_search
from .found import Found
from .network import SearchNetwork

__all__ = ['PersonSearch']


class PersonSearch:
    """Frames to people: boxes, scores and embeddings, by one network.

    ```
    search = PersonSearch('runs/search')
    boxes, scores, embeddings = search('frame.jpg')
    asked = search.embed('query.jpg', [[412, 80, 470, 233]])
    similar = embeddings @ asked[0]  # cosines [N]
    ```

    Threads may share one: they take turns.

    Attributes:
        size: D, the length of an embedding.
        device: where the network runs.
        source: name or folder of the network; None for a module.
        network: that runs.

    Args:
        model: the folder of a network or of a run, which stands for its best one; `hf-hub:OWNER/NAME`; or a
            `SearchNetwork`, which is put into evaluation mode and onto the device.
        device: None for the first GPU, or the CPU where there is none.
        score: that a box must have at least, 0 to 1.

    Raises:
        InputError: unknown device, a folder that holds no network of person search, a broken one, or `score` out of
            range.
    """

    def __init__(
        self, model: str | Path | SearchNetwork, device: str | torch.device | None = None, score: float = 0.5
    ) -> None:
        if not 0 <= score <= 1:
            raise InputError(f'score must be 0 to 1, got {score}')
        self.device = find_device(device)
        self.network = (model if isinstance(model, SearchNetwork) else load_search(model)).eval().to(self.device)
        self.source = None if isinstance(model, SearchNetwork) else model
        self.score = score
        self.size = self.network.embedding_size
        self._lock = threading.Lock()

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the weights, and of how frames are prepared."""
        return hash_weights(self.network, repr(sorted(self.network.config.items())))

    @torch.inference_mode()
    def __call__(self, frame: ImageLike, bgr: bool = False) -> Found:
        """Finds and embeds the people in a frame.

        Args:
            frame: image file; PIL image of any mode; array [H, W, 3] or tensor [3, H, W], both uint8, or uint16, of
                which the upper 8 bits count.
            bgr: the channels of an array or tensor are blue, green and red, as OpenCV reads them.

        Returns:
            Whose score is `score` or more; perhaps nobody.

        Raises:
            InputError: a frame that cannot be read, or of another type.
        """
        pixels = self._prepare(frame, bgr)
        with self._lock:
            (found,) = self.network([pixels])
        kept = found['scores'] >= self.score
        return Found(*(found[name][kept].float().cpu().numpy() for name in ('boxes', 'scores', 'embeddings')))

    @torch.inference_mode()
    def embed(self, frame: ImageLike, boxes, bgr: bool = False) -> np.ndarray:
        """Embeds people whose boxes are known, such as who is asked for.

        Args:
            frame: see `__call__`.
            boxes: [N, 4] left, top, right and bottom in pixels. What reaches beyond the frame is cut off.
            bgr: see `__call__`.

        Returns:
            [N, D] float32 of length 1; [0, D] for no boxes.

        Raises:
            InputError: a frame or boxes of another form, or a box that is not finite or covers nothing of the frame;
                its message names the index.
        """
        pixels = self._prepare(frame, bgr)
        with explained('boxes must be numbers [N, 4]: left, top, right, bottom'):
            boxes = torch.as_tensor(np.asarray(boxes, np.float32))
        if boxes.numel() and (boxes.ndim != 2 or boxes.shape[1] != 4):
            raise InputError(f'boxes must be [N, 4]: left, top, right, bottom; got {list(boxes.shape)}')
        boxes = boxes.reshape(-1, 4)
        height, width = pixels.shape[1:]
        inside = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], 2)
        empty = ~(boxes.isfinite().all(1) & (inside[:, 1] > inside[:, 0]).all(1))
        if empty.any():
            i = int(empty.int().argmax())
            raise InputError(
                f'box {i} ({", ".join(f"{v:g}" for v in boxes[i].tolist())}: left, top, right, bottom) is not finite, '
                f'or empty in a frame of {width}x{height} pixels'
            )
        with self._lock:
            found = self.network.embed([pixels], [boxes.to(self.device)])
        return F.normalize(found).float().cpu().numpy()

    def _prepare(self, frame: ImageLike, bgr: bool) -> torch.Tensor:
        """A frame as [3, H, W] of 0 to 1, on the device."""
        image = np.array(any_image(frame, 'the frame'))
        if bgr and isinstance(frame, np.ndarray | torch.Tensor):
            image = image[..., ::-1].copy()
        return torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255
