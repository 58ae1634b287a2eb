"""From images, or a detector's boxes in a video frame, to embeddings: what a program needs of a model."""

import copy
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from PIL import Image
from timm.data import create_transform, resolve_data_config

from msinet_timm.datasets.images import load_image
from msinet_timm.hub.load import load_model

from . import memory
from .commands import find_device
from .errors import InputError
from .forms import create_form

__all__ = ['Embedder']

ImageLike = str | Path | Image.Image | np.ndarray | torch.Tensor


class Embedder:
    """Images to embeddings, by one model.

    ```
    embedder = Embedder('runs/market')
    gallery = embedder(['a.jpg', 'b.jpg'])
    found = embedder.crops(frame, boxes) @ gallery.T  # cosines [N, 2]
    ```

    Images are prepared as `timm.data.create_transform` does it for the model. Threads may share an embedder: they
    take turns.

    Attributes:
        size: D, the length of an embedding.
        data_config: how images are prepared, see `timm.data.resolve_data_config`.
        device: where the model runs.

    Args:
        model: a model that timm knows, also `hf-hub:...` and `local-dir:...`; the folder of a model or of a run, which
            stands for its best model; or a module that takes [B, 3, H, W], which is left as it is. Classifiers are
            left out.
        device: None for the first GPU, or the CPU where there is none.
        form: how the model runs, see `msinet_timm.forms.FORMS`. For `'compiled'`, batches are filled up to a power of
            two, so that few sizes are compiled.
        precision: `'float32'` or `'bf16'`.
        batch_size: images that the model is given at once.
        normalize: make embeddings of length 1.
        keep_memory: on the CPU, let this process keep the memory it has once used, see
            `msinet_timm.memory.keep_memory`: faster, but it holds for everything else in the process, too.

    Raises:
        InputError: unknown model or device, weights that cannot be read, or a module that gives no vectors.
        ValueError: unknown form or precision, or one that this machine cannot run.
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        device: str | torch.device | None = None,
        form: str = 'fused',
        precision: str = 'float32',
        batch_size: int = 32,
        normalize: bool = True,
        keep_memory: bool = True,
    ) -> None:
        if batch_size < 1:
            raise InputError(f'batch_size must be at least 1, got {batch_size}')
        self.device = find_device(device)
        if keep_memory and self.device.type == 'cpu':
            memory.keep_memory()
        network = copy.deepcopy(model) if isinstance(model, nn.Module) else load_model(model)
        if getattr(network, 'num_classes', 0) and hasattr(network, 'reset_classifier'):
            network.reset_classifier(0)
        network.eval().to(self.device)
        self.data_config = resolve_data_config(model=network)
        self.batch_size, self.normalize = batch_size, normalize
        self._height, self._width = self.data_config['input_size'][1:]
        self.size = self._measure(network)
        self._pads = form == 'compiled'
        self._run = create_form(network, form, precision)
        self._transform = create_transform(**self.data_config, normalize=False)
        statistics = torch.tensor([self.data_config['mean'], self.data_config['std']], device=self.device)
        self._mean, self._std = 255 * statistics.view(2, 1, 3, 1, 1)
        self._lock = threading.Lock()
        shape = batch_size, 3, self._height, self._width
        self._pixels = torch.zeros(shape, dtype=torch.uint8).to(memory_format=torch.channels_last)
        self._input = torch.zeros(shape, device=self.device).to(memory_format=torch.channels_last)

    def __call__(self, images: Sequence[ImageLike] | torch.Tensor | np.ndarray) -> np.ndarray:
        """Embeds images.

        Args:
            images: image files, which are turned upright as their EXIF orientation says; PIL images; RGB arrays
                [H, W, 3] uint8; or tensors [3, H, W] uint8: mixed if need be, or as one array [B, H, W, 3] or one
                tensor [B, 3, H, W].

        Returns:
            [N, D] float32, a row for each image.

        Raises:
            InputError: an image that cannot be read or is none; its message names the file or the index.
        """
        if isinstance(images, (str, Path, Image.Image)) or getattr(images, 'ndim', 4) != 4:
            raise InputError('an embedder takes several images at once: give a list of them, if need be of one')
        return self._embed(len(images), (self._prepare(image, f'image {i}') for i, image in enumerate(images)))

    def crops(self, frame: np.ndarray, boxes, bgr: bool = False) -> np.ndarray:
        """Embeds parts of one image, as a detector finds them.

        Args:
            frame: [H, W, 3] uint8.
            boxes: [N, 4] numbers, an array, tensor or list: left, top, right and bottom in pixels. What reaches
                beyond the frame is cut off, and pixels that a box covers in part belong to it.
            bgr: the frame's channels are blue, green and red, as OpenCV reads them, instead of red, green and blue.

        Returns:
            [N, D] float32, a row for each box; [0, D] for no boxes.

        Raises:
            InputError: a frame or boxes of another form, or a box that covers nothing of the frame; its message names
                the index.
        """
        _check_array(frame, 'the frame')
        boxes = torch.as_tensor(boxes, dtype=torch.float64).cpu()
        if boxes.numel() and boxes.shape[1:] != (4,):
            raise InputError(f'boxes must be [N, 4]: left, top, right, bottom; got {list(boxes.shape)}')
        places = [_whole_pixels(box, frame.shape, f'box {i}') for i, box in enumerate(boxes.tolist())]
        step = -1 if bgr else 1
        parts = (frame[top:bottom, left:right, ::step] for left, top, right, bottom in places)
        return self._embed(len(places), (self._prepare(part, f'box {i}') for i, part in enumerate(parts)))

    def _prepare(self, image: ImageLike, name: str) -> torch.Tensor:
        """An image as [3, height, width] uint8."""
        if isinstance(image, torch.Tensor):
            if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3 or not image.numel():
                raise InputError(f'{name} must be a tensor [3, H, W] uint8, got {list(image.shape)} {image.dtype}')
            if image.shape[1:] == (self._height, self._width) and self.data_config['crop_pct'] == 1:
                return image
            image = image.permute(1, 2, 0).cpu().numpy()
        if isinstance(image, np.ndarray):
            _check_array(image, name)
            image = Image.fromarray(np.ascontiguousarray(image))
        elif isinstance(image, (str, Path)):
            image = load_image(str(image))
        elif not isinstance(image, Image.Image):
            raise InputError(f'{name} must be a file, a PIL image, an array or a tensor, got {type(image).__name__}')
        return self._transform(image.convert('RGB'))

    def _embed(self, count: int, images: Iterator[torch.Tensor]) -> np.ndarray:
        embeddings = np.empty((count, self.size), np.float32)
        with self._lock:
            for start in range(0, count, self.batch_size):
                n = min(self.batch_size, count - start)
                for place in self._pixels[:n]:
                    place.copy_(next(images))
                embeddings[start : start + n] = self._run_batch(n)
        return embeddings

    @torch.inference_mode()
    def _run_batch(self, n: int) -> np.ndarray:
        room = min(2 ** (n - 1).bit_length(), self.batch_size) if self._pads else n
        batch = self._input[:room]
        torch.sub(self._pixels[:room].to(self.device), self._mean, out=batch).div_(self._std)
        found = self._run(batch)[:n]
        return (nn.functional.normalize(found) if self.normalize else found).cpu().numpy()

    @torch.inference_mode()
    def _measure(self, network: nn.Module) -> int:
        found = network(torch.zeros(1, 3, self._height, self._width, device=self.device))
        if not isinstance(found, torch.Tensor) or found.ndim != 2:
            shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise InputError(f'{type(network).__name__} gives {shape} for an image instead of one vector')
        return found.size(1)


def _check_array(image: np.ndarray, name: str) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f'{list(image.shape)} {image.dtype}' if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f'{name} must be an array [H, W, 3] uint8, got {got}')
    if not image.size:
        raise InputError(f'{name} has no pixels')


def _whole_pixels(box: list[float], shape: tuple[int, ...], name: str) -> tuple[int, int, int, int]:
    if not all(map(math.isfinite, box)):
        raise InputError(f'{name} ({box}) is not finite')
    left, top = (max(0, math.floor(value)) for value in box[:2])
    right, bottom = (min(limit, math.ceil(value)) for value, limit in zip(box[2:], (shape[1], shape[0]), strict=True))
    if box[0] >= box[2] or box[1] >= box[3] or left >= right or top >= bottom:
        raise InputError(
            f'{name} ({", ".join(f"{value:g}" for value in box)}: left, top, right, bottom) is empty in a frame of '
            f'{shape[1]}x{shape[0]} pixels'
        )
    return left, top, right, bottom
