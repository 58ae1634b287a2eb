"""How fast one core gets training images ready: `python -m msinet_train.benchmark.loading`.

Three ways are measured in turn, round by round: decoding alone, the transforms for single images (`--cache none`),
and batches from the cache with their normalisation. It is the processor's time that counts: what else the machine does
hardly matters, and waiting for a disk doesn't either.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from msinet_timm.benchmark.timing import in_turns
from msinet_timm.commands import command, format_table, pixels, positive
from msinet_timm.datasets import Record, create_dataset, list_datasets, typed_root
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import ReIDImages, load_image
from msinet_timm.errors import InputError
from msinet_train.data.augment import PixelAugmentation, RandomErasing, training_transform

__all__ = ['main', 'measure']

PIPELINE = 'transforms for each image'


def ways(records: Sequence[Record], height: int, width: int, batch_size: int) -> dict[str, Callable[[], None]]:
    """Functions that read all records once, by name; augmentation as in the published training."""
    config = {
        'input_size': (3, height, width),
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'interpolation': 'bilinear',
    }
    plain = ReIDImages(records, training_transform(config))
    cached = ImageCache('memory').images(records, config, PixelAugmentation(), RandomErasing())
    device = torch.device('cpu')

    def batches() -> Iterator[list[int]]:
        order = iter(torch.randperm(len(records)).tolist())
        while batch := list(itertools.islice(order, batch_size)):
            yield batch

    def decode() -> None:
        for record in records:
            load_image(record.path, record.box)

    def run_plain() -> None:
        for indices in batches():
            plain.to_input(plain.collate([plain[i] for i in indices])[0], device)

    def run_cached() -> None:
        for indices in batches():
            cached.to_input(cached.collate(cached.__getitems__(indices))[0], device)

    return {'decoding alone': decode, PIPELINE: run_plain, 'cache, normalised by batch': run_cached}


def measure(
    records: Sequence[Record], height: int, width: int, batch_size: int = 64, repeat: int = 5
) -> dict[str, list[float]]:
    """Rates in images per second by name, one for each round after a first that doesn't count."""
    runs = ways(records, height, width, batch_size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = in_turns(runs, repeat, time.process_time)
    finally:
        torch.set_num_threads(threads)
    return {name: [len(records) / s for s in values] for name, values in seconds.items()}


def format_rates(rates: dict[str, list[float]]) -> str:
    """A table of medians, ranges, and how many times as fast as the transforms for single images each way is."""
    base = statistics.median(rates[PIPELINE])
    rows = [('images per second on one core', 'median', 'range', 'times')]
    for name, values in rates.items():
        median = statistics.median(values)
        spread = f'{min(values):,.0f}-{max(values):,.0f}'
        rows.append((name, f'{median:,.0f}', spread, f'{median / base:.1f}'))
    return format_table(rows)


@command
def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog='python -m msinet_train.benchmark.loading',
        description='Measures how fast one core gets training images ready, with and without the cache.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('-ds', '--dataset', default='sample', help=f'one of: {", ".join(list_datasets())}')
    parser.add_argument('--data-dir', type=typed_root, metavar='DIR', help='folder of the data set')
    parser.add_argument('--height', type=pixels, default=256, metavar='PIXELS', help='of the input')
    parser.add_argument('--width', type=pixels, default=128, metavar='PIXELS', help='of the input')
    parser.add_argument('--batch-size', type=positive, default=64, metavar='N', help='images at once')
    parser.add_argument('--images', type=positive, default=256, metavar='N', help='of the training part')
    parser.add_argument('--repeat', type=positive, default=5, metavar='N', help='rounds')
    args = parser.parse_args(argv)
    records = create_dataset(args.dataset, args.data_dir).train[: args.images]
    if not records:
        raise InputError(f"data set '{args.dataset}' has no images to train on")
    width, height = load_image(records[0].path, records[0].box).size
    print(f'{len(records)} images of {args.dataset}, the first {height}x{width}, for input {args.height}x{args.width}')
    print(format_rates(measure(records, args.height, args.width, args.batch_size, args.repeat)))


if __name__ == '__main__':
    raise SystemExit(main())
