"""A model and a list of images -> `Features`: embeddings, and who and what they are of."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader

from msinet_timm.commands import progress
from msinet_timm.datasets import Record
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.cached_images import CachedImages
from msinet_timm.datasets.images import ReIDImages
from msinet_timm.datasets.records import check_cameras
from msinet_timm.datasets.shards.stream import StreamedBatches, StreamedImages, in_shards
from msinet_timm.errors import InputError
from msinet_timm.forms import AMP, DTYPES, amp_name, autocast
from msinet_timm.models.camera_norm import CameraNorms
from msinet_timm.processes import is_primary

from .cameras import CameraNetwork, batches_by_camera, check_norms
from .file import FeatureFile, describe, fill
from .forward import device_of, embed, evaluation_mode, inference_form
from .sharing import share_out
from .types import Features

__all__ = ['extract', 'reid_data_config']


def reid_data_config(model: nn.Module, height: int | None = None, width: int | None = None) -> dict:
    """timm's data config of a model, changed so that the whole image is resized and nothing is cropped away.

    Args:
        model: its `pretrained_cfg`, if any, gives input size, mean, standard deviation and interpolation.
        height: of the input in pixels, instead of the model's own.
        width: of the input in pixels, instead of the model's own.
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
    norms: CameraNorms | None = None,
    description: str = 'images',
    network_of: Callable[[], nn.Module | CameraNetwork] | None = None,
) -> Features:
    """Embeds images, in the order of the records.

    The model runs in evaluation mode and is left in the mode it came in; it moves to `device` for good.

    Args:
        model: takes [B, 3, H, W]. What it gives is normalised to length 1 at the very end: with `flip`, after the mean.
        records: images, all with a camera or all without.
        transform: PIL image -> [3, H, W]; None for the evaluation transform of `data_config`.
        data_config: for `timm.data.create_transform`; None for `reid_data_config(model)`.
        cache: where resized images are kept; only without a `transform`.
        batch_size: images at once.
        workers: processes that read images; 0 reads them in this one.
        device: None for the one that the model is on.
        flip: see `embed`.
        part: see `embed`.
        neck: see `embed`.
        amp: `'bf16'` or `'float16'`, in which the model computes by autocast; embeddings stay float32.
        file: where the features are kept, see `msinet_eval.features.file.FeatureFile`: an interrupted extraction goes
            on there, and a finished one is only read. Not with a `transform`, which cannot be compared.
        distributed: share the images out among the processes of torch's process group. All of them call this with
            the same arguments, and all get the features of all images.
        norms: of cameras that the model has been adapted to: each image is embedded by its camera's, and the camera's
            mean is taken from its embedding before that is normalised. Images of cameras that are not known, or
            without one, are embedded by what `norms.statistics(None)` gives. Not with `neck`.
        description: what the progress bar says.
        network_of: gives `inference_form(model)`, or `CameraNetwork(norms)`, where several calls share it, see
            `embed_dataset`; None makes it anew.

    Raises:
        InputError: no records, some without a camera, an unreadable image, an embedding that is not finite, a
            transform with a cache or a file, a file that holds something else, or norms of another model.
    """
    if not records:
        raise InputError('no images to embed')
    check_cameras(records)
    if transform and (cache or file):
        raise InputError('a cache or a file goes by data_config: leave out the transform, or the cache and the file')
    amp = amp and amp_name(amp)
    if amp not in (None, *AMP):
        raise InputError(f"amp '{amp}' must be one of {', '.join(AMP)}, or None")
    data_config = data_config or reid_data_config(model)
    device = torch.device(device) if device is not None else device_of(model)
    if norms is not None:
        check_norms(norms, model, neck)
    network_of = network_of or (lambda: inference_form(model) if norms is None else CameraNetwork(norms))
    options = {'flip': flip, 'part': part, 'neck': neck}

    def run(batches: Sequence[range], bar) -> Iterator[Tensor]:
        if cache is None:
            read = StreamedImages if in_shards(records) else ReIDImages
            images = read(records, transform or create_transform(**data_config))
        else:
            images = cache.images(records, data_config)
        source = model if norms is None else norms.model
        source.to(device)
        with evaluation_mode(source):
            network = network_of()
            wanted = batches if order is None else [order[batch.start : batch.stop] for batch in batches]
            for raw, indices in _loader(images, wanted, workers, device):
                with torch.inference_mode(), autocast(device, amp):
                    batch = images.to_input(raw, device)
                    if norms is None:
                        batch = embed(network, batch, **options).float()
                    else:
                        batch = network.embed(records[int(indices[0])].camera, batch, **options)
                    batch = nn.functional.normalize(batch)
                yield _check_finite(batch.cpu(), indices, records)
                bar.update(len(indices))

    order = None
    batches = [range(start, min(start + batch_size, len(records))) for start in range(0, len(records), batch_size)]
    place = None
    if norms is not None:
        order, batches = batches_by_camera(records, batch_size, norms)
    try:
        if file is None and not distributed:
            with progress(total=len(records), desc=description, unit='img') as bar:
                embeddings = fill(len(records), zip(batches, run(batches, bar), strict=True), order)
        else:
            kind = {**options, 'amp': amp and str(DTYPES[amp]).removeprefix('torch.')}
            place = file and FeatureFile(file, lambda: describe(model, records, data_config, kind, norms), order)
            embeddings = share_out(run, batches, place, distributed, description, order)
    except InputError as e:
        # a worker's traceback would keep the loader alive until some later collection, which then takes seconds
        raise e.with_traceback(None) from None
    else:
        features = Features.of(records, embeddings)
        if file is not None and (is_primary() or not distributed):
            place.finish(features.save)
        return features
    finally:
        if place is not None:
            place.release()


def _loader(images: ReIDImages | CachedImages, batches: Sequence[range], workers: int, device: torch.device):
    """Gives (raw images, indices) of each batch, in order: the one place where images are read."""
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
