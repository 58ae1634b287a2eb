"""From images, or a detector's boxes in a video frame, to embeddings: what a program needs of a model."""

import copy
import functools
import hashlib
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.ops import box_convert

from msinet_timm.datasets.images import ImageLike, any_image, rgb_pixels
from msinet_timm.datasets.records import cover_pixels
from msinet_timm.hub.adapt import check_norms, find_cameras, save_cameras, share_out
from msinet_timm.hub.calibration import find_calibration
from msinet_timm.hub.load import load_model, without_classifiers
from msinet_timm.models.camera_norm import CameraNorms, hash_weights
from msinet_timm.tracking.hosts import thresholds

from . import memory
from .commands import find_device
from .errors import InputError, explained
from .forms import create_form

__all__ = ['Embedder']

Images = Sequence[ImageLike] | torch.Tensor | np.ndarray

_logger = logging.getLogger(__name__)

#: What the four numbers of a box may be, by the names of `torchvision.ops.box_convert`.
_BOX_FORMATS = {
    'xyxy': 'left, top, right, bottom',
    'xywh': 'left, top, width, height',
    'cxcywh': 'centre x, centre y, width, height',
}
# Columns of a tracker's boxes that stand upright, and of those that are turned.
_UPRIGHT, _TURNED = (4, 6, 8), (5, 7, 9)

# Of no camera at all, not even of unknown ones.
_NOBODY = ''


class Embedder:
    """Images to embeddings, by one model.

    ```
    embedder = Embedder('runs/market')
    gallery = embedder(['a.jpg', 'b.jpg'])
    found = embedder.crops(frame, boxes) @ gallery.T  # cosines [N, 2]
    ```

    It learns cameras from crops that nobody has labelled, and embeds what they see by their own statistics, see
    `msinet_timm.models.camera_norm`:

    ```
    embedder.adapt({'door': door_crops, 'yard': yard_crops})
    found = embedder(images, cameras=['door', 'yard', 'door'])
    found = embedder.crops(frame, boxes, camera='door')
    embedder.save('models/site')  # Embedder('models/site') knows the cameras
    ```

    Images are prepared as `timm.data.create_transform` does it for the model. Threads may share an embedder: they
    take turns.

    Attributes:
        size: D, the length of an embedding.
        data_config: how images are prepared, see `timm.data.resolve_data_config`.
        device: where the model runs.
        source: name or folder of the model; None for a module.

    Args:
        model: a model that timm knows, also `hf-hub:...` and `local-dir:...`; the folder of a model or of a run, which
            stands for its best model; or a module that takes [B, 3, H, W], which is left as it is. Classifiers are
            left out. A folder that `msinet-hub adapt` or `save` has written knows its cameras.
        device: None for the first GPU, or the CPU where there is none.
        form: how the model runs, see `msinet_timm.forms.FORMS`. For `'compiled'`, batches are filled up to a power of
            two, so that few sizes are compiled.
        precision: `'float32'` or `'bf16'`.
        batch_size: images that the model is given at once.
        normalize: make embeddings of length 1.
        keep_memory: on the CPU, let this process keep the memory it has once used, see
            `msinet_timm.memory.keep_memory`: faster, but it holds for everything else in the process, too.

    Raises:
        InputError: unknown model or device, weights that cannot be read, cameras of other weights, or a module that
            gives no vectors.
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
        network = without_classifiers(network).eval().to(self.device)
        self.data_config = resolve_data_config(model=network)
        self.batch_size, self.normalize = batch_size, normalize
        self._height, self._width = self.data_config['input_size'][1:]
        self.size = self._measure(network)
        self._pads = form == 'compiled'
        self.source = None if isinstance(model, nn.Module) else model
        cameras = self.source and find_cameras(self.source)
        self._norms = CameraNorms.load(cameras.parent, network) if cameras else CameraNorms(network)
        self._form = form, precision
        self._run = create_form(network, form, precision, norms=self._norms if self._norms else None)
        self._learnt = False  # cameras, since the model was read
        self._current: str | None = _NOBODY  # the camera whose statistics the form has
        self._told: set[str | None] = set()
        self._transform = create_transform(**self.data_config, normalize=False)
        statistics = torch.tensor([self.data_config['mean'], self.data_config['std']], device=self.device)
        self._mean, self._std = 255 * statistics.view(2, 1, 3, 1, 1)
        self._lock = threading.Lock()
        shape = batch_size, 3, self._height, self._width
        self._pixels = torch.zeros(shape, dtype=torch.uint8).to(memory_format=torch.channels_last)
        self._input = torch.zeros(shape, device=self.device).to(memory_format=torch.channels_last)

    @property
    def cameras(self) -> dict[str, int]:
        """Crops that have been seen of each camera that is known, see `CameraNorms.counts`."""
        return self._norms.counts

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what embeddings depend on: the model's weights, how images are prepared, and learnt cameras.

        It is that of the first time it was asked for after `adapt`: what `observe` learns moves embeddings a little.
        """
        config = {name: self.data_config[name] for name in sorted(self.data_config)}
        digest = hashlib.sha256(hash_weights(self._norms.model, json.dumps(config, default=str)).encode())
        for camera in sorted(self._norms):
            digest.update(camera.encode())
            for tensor in self._norms.statistics(camera):
                digest.update(tensor.detach().cpu().contiguous().numpy())
        return digest.hexdigest()

    def __call__(self, images: Images, cameras: str | Sequence[str | None] | None = None) -> np.ndarray:
        """Embeds images.

        Args:
            images: image files; PIL images of any mode; RGB arrays [H, W, 3]; or tensors [3, H, W]: mixed if need be,
                or as one array [B, H, W, 3] or one tensor [B, 3, H, W]. Arrays and tensors are uint8, or uint16, of
                which the upper 8 bits count. Files and PIL images are turned upright as their EXIF orientation says:
                one that a program has turned by other means than `PIL.ImageOps.exif_transpose` is to be given as an
                array. A file and what Pillow opens of it have the same embedding.
            cameras: a name for each image, in any order, or one for all. Images of a camera that is not known (None,
                or a name that has not been learnt) are embedded by the model's own statistics, with a warning, once
                for each such name.

        Returns:
            [N, D] float32, a row for each image.

        Raises:
            InputError: an image that cannot be read, is none, or holds numbers whose range is not clear, such as
                fractions: its message names the file or the index; or names of cameras for another number of images.
        """
        images = _listed(images)
        if cameras is None or isinstance(cameras, str):
            cameras = [cameras] * len(images)
        if len(cameras) != len(images):
            raise InputError(f'{len(cameras)} cameras for {len(images)} images: give one for all, or one for each')
        return self._embed(cameras, lambda i: self._prepare(images[i], f'image {i}'))

    def crops(
        self,
        frame: np.ndarray,
        boxes,
        bgr: bool = False,
        camera: str | None = None,
        invalid: str = 'error',
        box_format: str = 'xyxy',
    ) -> np.ndarray:
        """Embeds parts of one image, as a detector finds them.

        Args:
            frame: [H, W, 3] uint8, or uint16, of which the upper 8 bits count.
            boxes: [N, 4] numbers in pixels, an array, tensor or list: left, top, right and bottom, unless `box_format`
                says otherwise. What reaches beyond the frame is cut off, and pixels that a box covers in part belong
                to it.
            bgr: the frame's channels are blue, green and red, as OpenCV reads them, instead of red, green and blue.
            camera: that the frame is of, see `__call__`.
            invalid: what becomes of a box that is not finite or covers nothing of the frame: `'error'`; `'nan'` for a
                row of NaN; or `'black'` to embed a black image where nothing is covered, as trackers do, and to raise
                where it is not finite. The others' rows are the same as without it.
            box_format: `'xyxy'`; `'xywh'` for left, top, width and height; or `'cxcywh'` for the x and y of the centre,
                width and height.

        Returns:
            [N, D] float32, a row for each box; [0, D] for no boxes.

        Raises:
            InputError: a frame or boxes of another form, or an invalid box; its message names the index.
        """
        if invalid not in ('error', 'nan', 'black'):
            raise InputError(f"invalid must be 'error', 'nan' or 'black', got '{invalid}'")
        if box_format not in _BOX_FORMATS:
            raise InputError(f"unknown box_format '{box_format}', choose from: {', '.join(_BOX_FORMATS)}")
        frame, numbers = rgb_pixels(frame, 'the frame'), _BOX_FORMATS[box_format]
        with explained(f'boxes must be numbers [N, 4]: {numbers}'):
            boxes = torch.as_tensor(boxes, dtype=torch.float64).cpu()
        if boxes.numel() and boxes.shape[1:] != (4,):
            raise InputError(f'boxes must be [N, 4]: {numbers}; got {list(boxes.shape)}')
        corners = box_convert(boxes, box_format, 'xyxy') if boxes.numel() else boxes
        places: dict[int, tuple[int, int, int, int] | None] = {}
        for i, box in enumerate(corners.tolist()):
            try:
                places[i] = _whole_pixels(box, frame.shape, f'box {i}')
            except InputError as e:
                if invalid == 'black' and all(map(math.isfinite, box)):
                    places[i] = None
                elif invalid != 'nan':
                    raise InputError(f"{e}; invalid='nan' gives such boxes rows of NaN") from None
        found, step = [*places], -1 if bgr else 1

        def cut(number: int) -> torch.Tensor:
            if places[found[number]] is None:
                return torch.zeros_like(self._pixels[0])
            left, top, right, bottom = places[found[number]]
            return self._prepare(frame[top:bottom, left:right, ::step], f'box {found[number]}')

        embeddings = np.full((len(boxes), self.size), np.nan, np.float32)
        embeddings[found] = self._embed([camera] * len(found), cut)
        return embeddings

    def get_features(self, boxes, image: np.ndarray, camera: str | None = None) -> np.ndarray:
        """`crops` by the protocol of BoxMOT's trackers, for their `reid_model`.

        Args:
            boxes: [N, 4, 6 or 8], or one row: left, top, right and bottom in pixels, and what trackers keep beside it.
                One that covers nothing of the image is embedded as a black one.
            image: [H, W, 3] uint8: blue, green and red, as OpenCV reads them.
            camera: that the image is of, see `__call__`.

        Returns:
            [N, D] float32, a row for each box; [0, D] for no boxes.

        Raises:
            InputError: an image or boxes of another form, such as oriented ones, or a box that is not finite.
        """
        with explained(f'boxes must be [N, 4, 6 or 8]: {_BOX_FORMATS["xyxy"]}, ...'):
            boxes = np.asarray(boxes)
        if not boxes.size:
            return np.empty((0, self.size), np.float32)
        rows = boxes.reshape(1, -1) if boxes.ndim == 1 else boxes
        if rows.ndim == 2 and rows.shape[1] in _TURNED:
            raise InputError(
                f'boxes {list(boxes.shape)} are oriented (centre, size, angle): a tracker of upright ones is needed, '
                f'{_BOX_FORMATS["xyxy"]}'
            )
        if rows.ndim != 2 or rows.shape[1] not in _UPRIGHT:
            raise InputError(f'boxes must be [N, 4, 6 or 8]: {_BOX_FORMATS["xyxy"]}, ...; got {list(boxes.shape)}')
        return self.crops(image, rows[:, :4], bgr=True, camera=camera, invalid='black')

    def thresholds(self, tracker: str) -> dict[str, float]:
        """The distance at which one in a thousand different pairs passes for the same, as a tracker's settings.

        Args:
            tracker: one of `msinet_timm.tracking.TRACKERS`.

        Returns:
            Values by the names that the tracker has for them.

        Raises:
            InputError: a tracker that is not known or has no such threshold, a model without calibration, or one that
                has learnt cameras since.
        """
        source = self.source
        calibration = None if source is None else find_calibration(source)
        if calibration is None:
            name = type(self._norms.model).__name__ if source is None else source
            raise InputError(
                f'{name} has no calibration, so that no threshold is known: give a model folder to Embedder, and let '
                'msinet-eval FOLDER -ds DATASET --calibrate measure it'
            )
        if self._learnt:
            raise InputError(
                f'the calibration of {source} does not hold for the cameras that have been learnt since: take it of an '
                'embedder that has learnt none, and expect other distances'
            )
        return thresholds(calibration, tracker)

    def adapt(self, crops: Mapping[str, Images]) -> None:
        """Learns cameras anew, from crops of whoever; other cameras stay known.

        64 crops of a camera, of different people and hours, are enough; fewer than
        `msinet_timm.models.camera_norm.ENOUGH` warn. All is learnt, or nothing where something is wrong.

        Args:
            crops: by the name of the camera, what `__call__` takes.

        Raises:
            InputError: no cameras, one without crops or with crops of one colour, or an image as in `__call__`; the
                message names the camera or the file.
        """
        if not crops:
            raise InputError('no cameras: give crops of each, as {name: crops}')
        with self._lock:
            fresh = CameraNorms(self._norms.model)
            for camera, images in crops.items():
                self._observe(fresh, camera, images)
            check_norms(fresh)
            self._learn(fresh)
            self.__dict__.pop('digest', None)

    def observe(self, camera: str, crops: Images) -> None:
        """Adds crops to what is known of a camera, in `batch_size` at once; a new name begins a camera.

        For cameras that run: what has been seen long ago fades out, so that light may change, and neither memory nor
        time grow.

        Args:
            camera: its name.
            crops: what `__call__` takes.

        Raises:
            InputError: no crops, crops of one colour, or an image as in `__call__`.
        """
        with self._lock:
            fresh = CameraNorms(self._norms.model)
            fresh.update(self._norms)
            self._observe(fresh, camera, crops)
            self._learn(fresh)

    def save(self, folder: str | Path) -> None:
        """Writes the model and its cameras as a model folder; into that of the same weights, the cameras and its card.

        Args:
            folder: new, empty, or of the same weights.

        Raises:
            InputError: no camera is known, the folder holds something else, or timm cannot make the model by name.
        """
        with self._lock:
            save_cameras(self._norms, folder, self.source)
            self.source = str(folder)

    def _observe(self, norms: CameraNorms, camera: str, images: Images) -> None:
        """Shows all images of a camera to norms."""
        images = _listed(images)
        if not len(images):
            raise InputError(f"camera '{camera}': no images")
        batches = share_out(range(len(images)), self.batch_size)

        def normalised() -> Iterator[torch.Tensor]:
            for batch in batches:
                for place, i in zip(self._pixels, batch, strict=False):
                    place.copy_(self._prepare(images[i], f"camera '{camera}': image {i}"))
                yield self._normalise(len(batch))

        norms.observe(camera, normalised(), len(images))

    def _learn(self, norms: CameraNorms) -> None:
        """Takes over cameras; the first of them change how the model runs."""
        if not self._norms:
            self._run = create_form(norms.model, *self._form, norms=norms)
        self._norms.update(norms)
        self._learnt = True
        self._current = _NOBODY
        self._told -= {*norms}

    def _use(self, camera: str | None) -> None:
        """Makes the form embed the crops of a camera, or those of unknown ones."""
        known = camera if camera in self._norms else None
        if known is None and (camera is not None or self._norms) and camera not in self._told:
            self._told.add(camera)
            which = 'images without a camera' if camera is None else f"camera '{camera}' is not known: its images"
            names = f'; known are {", ".join(self._norms)}' if self._norms else ''
            _logger.warning("%s are embedded by the model's own statistics%s", which, names)
        if self._norms and self._current != known:
            self._run.use(self._norms.statistics(known))
            self._current = known

    def _prepare(self, image: ImageLike, name: str) -> torch.Tensor:
        """An image as [3, height, width] uint8."""
        size = self._height, self._width
        ready = isinstance(image, torch.Tensor) and image.dtype == torch.uint8 and image.shape == (3, *size)
        if ready and self.data_config['crop_pct'] == 1:
            return image
        return self._transform(any_image(image, name))

    def _embed(self, cameras: Sequence[str | None], prepare: Callable[[int], torch.Tensor]) -> np.ndarray:
        """Embeds prepared images of cameras, those of one camera together."""
        embeddings = np.empty((len(cameras), self.size), np.float32)
        groups: dict[str | None, list[int]] = {}
        for i, camera in enumerate(cameras):
            groups.setdefault(camera, []).append(i)
        with self._lock:
            for camera in sorted(groups, key=lambda name: name != self._current):  # what is in place goes first
                self._use(camera)
                own = groups[camera]
                for start in range(0, len(own), self.batch_size):
                    batch = own[start : start + self.batch_size]
                    for place, i in zip(self._pixels, batch, strict=False):
                        place.copy_(prepare(i))
                    embeddings[batch] = self._run_batch(len(batch))
        return embeddings

    @torch.inference_mode()
    def _normalise(self, n: int) -> torch.Tensor:
        """The first n images of `_pixels`, as the model takes them."""
        batch = self._input[:n]
        return torch.sub(self._pixels[:n].to(self.device), self._mean, out=batch).div_(self._std)

    @torch.inference_mode()
    def _run_batch(self, n: int) -> np.ndarray:
        room = min(2 ** (n - 1).bit_length(), self.batch_size) if self._pads else n
        found = self._run(self._normalise(room))[:n]
        return (nn.functional.normalize(found) if self.normalize else found).cpu().numpy()

    @torch.inference_mode()
    def _measure(self, network: nn.Module) -> int:
        found = network(torch.zeros(1, 3, self._height, self._width, device=self.device))
        if not isinstance(found, torch.Tensor) or found.ndim != 2:
            shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise InputError(f'{type(network).__name__} gives {shape} for an image instead of one vector')
        return found.size(1)


def _listed(images: Images) -> Sequence[ImageLike] | torch.Tensor | np.ndarray:
    """Images to be taken by their index."""
    if isinstance(images, (str, Path, Image.Image)) or getattr(images, 'ndim', 4) != 4:
        raise InputError('an embedder takes several images at once: give a list of them, if need be of one')
    return images if isinstance(images, (list, tuple, torch.Tensor, np.ndarray)) else list(images)


def _whole_pixels(box: list[float], shape: tuple[int, ...], name: str) -> tuple[int, int, int, int]:
    if not all(map(math.isfinite, box)):
        raise InputError(f'{name} ({box}) is not finite')
    pixels = cover_pixels(box, (shape[1], shape[0]))
    if pixels is None:
        raise InputError(
            f'{name} ({", ".join(f"{value:g}" for value in box)}: left, top, right, bottom) is empty in a frame of '
            f'{shape[1]}x{shape[0]} pixels'
        )
    return pixels
