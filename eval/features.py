"""A model and a list of pictures -> `Features`: embeddings, and who and what they are of."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader

from msinet_timm.commands import progress
from msinet_timm.datasets import Record
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.cached_images import CachedImages
from msinet_timm.datasets.images import ReIDImages
from msinet_timm.datasets.shards.stream import StreamedBatches, StreamedImages, in_shards
from msinet_timm.errors import InputError

from .distributed import is_primary, share_out
from .feature_file import FeatureFile, describe, fill
from .forward import AMP, device_of, embed, evaluation_mode, inference_form

__all__ = ['Features', 'device_of', 'embed', 'extract', 'reid_data_config']

_TENSORS = ('embeddings', 'identities', 'cameras', 'clothes', 'boxes', 'tracklets')
_TEXTS = ('paths', 'domains')


@dataclass(frozen=True, eq=False)
class Features:
    """Embeddings of pictures, on the CPU.

    Attributes:
        embeddings: [N, D] float32, each of length 1 (of length 0 if the model gave zeros).
        identities: [N] int64.
        cameras: [N] int64, or None where they are unknown.
        paths: N image files.
        clothes: [N] int64, or None where they are unknown.
        boxes: [N, 4] int64, left, top, right and bottom of the part of the file that was embedded (0, 0, 0, 0 for all
            of it); None where no picture has one.
        tracklets: [N] int64, or None where they are unknown.
        domains: N names of places or sources, or None where they are unknown.
    """

    embeddings: Tensor
    identities: Tensor
    cameras: Tensor | None
    paths: tuple[str, ...]
    clothes: Tensor | None = None
    boxes: Tensor | None = None
    tracklets: Tensor | None = None
    domains: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Tensor) -> 'Features':
        """Features of some of the pictures, given by their indices."""
        tensors = {name: None if value is None else value[indices] for name, value in self._tensors().items()}
        chosen = indices.tolist()
        texts = {n: None if value is None else tuple(value[i] for i in chosen) for n, value in self._texts().items()}
        return Features(**tensors, **texts)

    def _tensors(self) -> dict[str, Tensor | None]:
        return {name: getattr(self, name) for name in _TENSORS}

    def _texts(self) -> dict[str, tuple[str, ...] | None]:
        return {name: getattr(self, name) for name in _TEXTS}

    def save(self, path: str | Path, metadata: dict[str, str] | None = None) -> None:
        """Writes one safetensors file, with paths and domains as JSON in its metadata, and further texts if any.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {name: value.contiguous() for name, value in self._tensors().items() if value is not None}
        texts = {name: json.dumps(value) for name, value in self._texts().items() if value is not None}
        try:
            save_file(tensors, path, metadata={**(metadata or {}), **texts})
        except (OSError, safetensors.SafetensorError) as e:
            raise InputError(f'{path}: cannot write features ({e})') from e

    @classmethod
    def load(cls, path: str | Path) -> 'Features':
        """Reads what `save` has written.

        Raises:
            InputError: missing file, or one that `save` has not written.
        """
        try:
            with safetensors.safe_open(path, 'pt') as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                texts = {name: tuple(json.loads(text)) for name, text in file.metadata().items() if name in _TEXTS}
            return cls(**{'cameras': None, **tensors}, **texts)
        except (OSError, safetensors.SafetensorError, AttributeError, TypeError, ValueError) as e:
            raise InputError(f'{path}: not a features file as msinet-eval --features writes ({e})') from e


def reid_data_config(model: nn.Module, height: int | None = None, width: int | None = None) -> dict:
    """timm's data config of a model, changed so that the whole picture is resized and nothing is cropped away.

    Args:
        model: its `pretrained_cfg`, if any, gives input size, mean, standard deviation and interpolation.
        height: of the input in pixels, instead of the model's own. Likewise `width`.
    """
    config = resolve_data_config(pretrained_cfg=getattr(model, 'pretrained_cfg', None), model=model)
    channels, own_height, own_width = config['input_size']
    size = (channels, height or own_height, width or own_width)
    return {**config, 'input_size': size, 'crop_pct': 1.0, 'crop_mode': 'squash'}


def extract(
    model: nn.Module,
    records: Sequence[Record],
    *,
    transform: Callable | None = None,
    data_config: dict | None = None,
    cache: ImageCache | None = None,
    batch_size: int = 64,
    workers: int = 2,
    device: str | torch.device | None = None,
    flip: bool = False,
    part: str = 'all',
    neck: bool = False,
    amp: str | None = None,
    file: str | Path | None = None,
    distributed: bool = False,
    description: str = 'images',
) -> Features:
    """Embeds pictures, in the order of the records.

    The model runs in evaluation mode and is left in the mode it came in; it moves to `device` for good.

    Args:
        model: takes [B, 3, H, W], see `embed`, and so for `flip`, `part` and `neck`. What it gives is normalised to
            length 1 at the very end: with `flip`, after the mean.
        records: pictures, all with a camera or all without.
        transform: PIL image -> [3, H, W]; None for the evaluation transform of `data_config`.
        data_config: for `timm.data.create_transform`; None for `reid_data_config(model)`.
        cache: where resized pictures are kept; only without a `transform`.
        batch_size: images at once.
        workers: processes that read images; 0 reads them in this one.
        device: None for the one that the model is on.
        amp: `'bfloat16'` or `'float16'`, in which the model computes by autocast; embeddings stay float32.
        file: where the features are kept, see `msinet_eval.feature_file.FeatureFile`: an interrupted extraction goes
            on there, and a finished one is only read. Not with a `transform`, which cannot be compared.
        distributed: share the pictures out among the processes of torch's process group. All of them call this with
            the same arguments, and all get the features of all pictures.
        description: what the progress bar says.

    Raises:
        InputError: no records, some without a camera, an unreadable picture, an embedding that is not finite, a
            transform with a cache or a file, or a file that holds something else.
    """
    if not records:
        raise InputError('no pictures to embed')
    cameras = _cameras(records)
    if transform and (cache or file):
        raise InputError('a cache or a file goes by data_config: leave out the transform, or the cache and the file')
    if amp not in (None, *AMP):
        raise InputError(f"amp '{amp}' must be one of {', '.join(AMP)}, or None")
    data_config = data_config or reid_data_config(model)
    device = torch.device(device) if device is not None else device_of(model)
    options = {'flip': flip, 'part': part, 'neck': neck}

    def run(batches: Sequence[range], bar) -> Iterator[Tensor]:
        if cache is None:
            read = StreamedImages if in_shards(records) else ReIDImages
            images = read(records, transform or create_transform(**data_config))
        else:
            images = cache.images(records, data_config)
        autocast = torch.autocast(device.type, AMP[amp] if amp else None, enabled=amp is not None)
        model.to(device)
        with evaluation_mode(model):
            network = inference_form(model)
            for raw, indices in _loader(images, batches, workers, device):
                with torch.inference_mode(), autocast:
                    batch = nn.functional.normalize(embed(network, images.to_input(raw, device), **options).float())
                yield _check_finite(batch.cpu(), indices, records)
                bar.update(len(indices))

    batches = [range(start, min(start + batch_size, len(records))) for start in range(0, len(records), batch_size)]
    try:
        if file is None and not distributed:
            with progress(total=len(records), desc=description, unit='img') as bar:
                embeddings = fill(len(records), zip(batches, run(batches, bar), strict=True))
        else:
            kind = {**options, 'amp': amp}
            place = file and FeatureFile(file, lambda: describe(model, records, data_config, kind))
            embeddings = share_out(run, batches, place, distributed, description)
    except InputError as e:
        # a worker's traceback would keep the loader alive until some later collection, which then takes seconds
        raise e.with_traceback(None) from None
    features = Features(
        embeddings=embeddings,
        identities=torch.tensor([r.identity for r in records]),
        cameras=cameras,
        paths=tuple(r.path for r in records),
        clothes=_labels(records, 'clothes'),
        boxes=torch.tensor([r.box or (0, 0, 0, 0) for r in records]) if any(r.box for r in records) else None,
        tracklets=_labels(records, 'tracklet'),
        domains=None if any(r.domain is None for r in records) else tuple(r.domain for r in records),
    )
    if file is not None and (is_primary() or not distributed):
        place.finish(features.save)
    return features


def _loader(images: ReIDImages | CachedImages, batches: Sequence[range], workers: int, device: torch.device):
    """Gives (raw images, indices) of each batch, in order: the one place where pictures are read."""
    return DataLoader(
        images,
        batch_sampler=StreamedBatches(images.records, batches) if isinstance(images, StreamedImages) else batches,
        num_workers=workers,
        collate_fn=images.collate,
        pin_memory=device.type == 'cuda',
    )


def _check_finite(embeddings: Tensor, indices: Tensor, records: Sequence[Record]) -> Tensor:
    finite = embeddings.isfinite().all(1)
    if not finite.all():
        path = records[int(indices[~finite][0])].path
        raise InputError(f'the model gives NaN or infinity for {path}: its weights are broken')
    return embeddings


def _labels(records: Sequence[Record], field: str) -> Tensor | None:
    """[N] int64, or None where some are unknown."""
    labels = [getattr(record, field) for record in records]
    return None if None in labels else torch.tensor(labels)


def _cameras(records: Sequence[Record]) -> Tensor | None:
    unknown = [r for r in records if r.camera is None]
    if not unknown:
        return torch.tensor([r.camera for r in records])
    if len(unknown) == len(records):
        return None
    raise InputError(f'{unknown[0].path} has no camera but other pictures have: give all of them one, or none')
