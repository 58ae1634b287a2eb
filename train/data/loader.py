"""From records to batches on their way to the model."""

import torch
from torch.utils.data import DataLoader

from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import ReIDImages
from msinet_timm.datasets.shards.pk_stream import PKStream
from msinet_timm.datasets.shards.stream import StreamedImages, in_shards
from msinet_timm.errors import InputError
from msinet_timm.processes import Processes
from msinet_train.settings import CropSettings

from .augment import PixelAugmentation, RandomErasing, training_transform
from .backgrounds import Backgrounds
from .sampler import PKSampler
from .sources import TrainingData

__all__ = ['create_loader']


def create_loader(
    settings: CropSettings,
    data: TrainingData,
    data_config: dict,
    device: torch.device,
    cache: ImageCache | None = None,
    processes: Processes | None = None,
) -> DataLoader:
    """PK batches of (what `loader.dataset.to_input` makes images of, their indices in `data.train`).

    Args:
        settings: `batch_size`, `num_instance`, `all_images`, `padding`, `color_jitter`, `erasing`, `miscrop`,
            `camera_tone`, `camera_quality`, `background`, `draft`, `seed` and `workers` count.
        data: of which only the images to learn from and their labels are used.
        data_config: preprocessing.
        device: of the model.
        cache: where resized images are kept; None reads and resizes them each time.
        processes: that share out each epoch's batches; None for this one alone.

    Raises:
        InputError: a batch size that K doesn't divide, too few identities, shards that give no such batches, or
            images without masks for `background`.
    """
    if settings.batch_size % settings.num_instance:
        raise InputError(
            f'batch_size {settings.batch_size} is not a multiple of `num_instance` {settings.num_instance}'
        )
    processes = processes or Processes(device)
    streamed = cache is None and in_shards(data.train)
    sampler = _create_sampler(settings, data, streamed, processes)
    changes = settings.padding, settings.color_jitter
    cameras = {name: getattr(settings, name) for name in ('miscrop', 'camera_tone', 'camera_quality')}
    backgrounds = Backgrounds(data.train, settings.background) if settings.background else None
    if cache is None:
        transform = training_transform(data_config, settings.erasing, *changes, **cameras)
        at_least = data_config['input_size'][1:] if settings.draft else None
        if streamed:
            images = StreamedImages(data.train, transform, at_least)
        else:
            images = ReIDImages(data.train, transform, at_least, backgrounds)
    else:
        augment = PixelAugmentation(*changes, **cameras)
        erase = RandomErasing(settings.erasing) if settings.erasing > 0 else None
        images = cache.images(data.train, data_config, augment, erase, settings.draft, backgrounds)
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=settings.workers,
        collate_fn=images.collate,
        pin_memory=device.type == 'cuda',
    )


def _create_sampler(
    settings: CropSettings, data: TrainingData, streamed: bool, processes: Processes
) -> PKSampler | PKStream:
    size = settings.batch_size // settings.num_instance, settings.num_instance, settings.seed
    share = {'num_replicas': processes.count, 'rank': processes.rank}
    if not streamed:
        return PKSampler(data.labels, *size, all_images=settings.all_images, **share)
    if settings.all_images:
        raise InputError('all_images: shards are read as a stream, which leaves some out: do without')
    return PKStream(data.train, *size, **share)
