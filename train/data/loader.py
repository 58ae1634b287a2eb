"""From records to batches on their way to the model."""

import argparse

import torch
from torch.utils.data import DataLoader

from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import ReIDImages
from msinet_timm.datasets.shards.pk_stream import PKStream
from msinet_timm.datasets.shards.stream import StreamedImages, in_shards
from msinet_timm.errors import InputError
from msinet_timm.processes import Processes

from .augment import PixelAugmentation, RandomErasing, training_transform
from .sampler import PKSampler
from .sources import TrainingData

__all__ = ['create_loader']


def create_loader(
    args: argparse.Namespace,
    data: TrainingData,
    data_config: dict,
    device: torch.device,
    cache: ImageCache | None = None,
    processes: Processes | None = None,
) -> DataLoader:
    """PK batches of (what `loader.dataset.to_input` makes images of, their indices in `data.train`).

    Args:
        data: of which only the images to learn from and their labels are used.
        data_config: preprocessing.
        device: of the model.
        cache: where resized images are kept; None reads and resizes them each time.
        processes: that share out each epoch's batches; None for this one alone.

    Raises:
        InputError: a batch size that K doesn't divide, too few identities, or shards that give no such batches.
    """
    if args.batch_size % args.num_instance:
        raise InputError(f'--batch-size {args.batch_size} is not a multiple of --num-instance {args.num_instance}')
    processes = processes or Processes(device)
    streamed = cache is None and in_shards(data.train)
    sampler = _create_sampler(args, data, streamed, processes)
    if cache is None:
        transform = training_transform(data_config, args.erasing, args.padding, args.color_jitter)
        read = StreamedImages if streamed else ReIDImages
        images = read(data.train, transform, data_config['input_size'][1:] if args.draft else None)
    else:
        augment = PixelAugmentation(args.padding, args.color_jitter)
        erase = RandomErasing(args.erasing) if args.erasing > 0 else None
        images = cache.images(data.train, data_config, augment, erase, draft=args.draft)
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=args.workers,
        collate_fn=images.collate,
        pin_memory=device.type == 'cuda',
    )


def _create_sampler(
    args: argparse.Namespace, data: TrainingData, streamed: bool, processes: Processes
) -> PKSampler | PKStream:
    size = args.batch_size // args.num_instance, args.num_instance, args.seed
    share = {'num_replicas': processes.count, 'rank': processes.rank}
    if not streamed:
        return PKSampler(data.labels, *size, all_images=args.all_images, **share)
    if args.all_images:
        raise InputError('--all-images: shards are read as a stream, which leaves some out; leave out the flag')
    return PKStream(data.train, *size, **share)
