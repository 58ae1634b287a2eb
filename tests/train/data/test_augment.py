import random

import numpy as np
import pytest
import torch
from PIL import Image

from msinet_timm.datasets import Record
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import load_image
from msinet_train.data.augment import PixelAugmentation, RandomErasing, training_transform

CONFIG = dict(input_size=(3, 64, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), interpolation='bilinear')


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)
    torch.manual_seed(0)


def test_erased_rectangles():
    areas, aspects = [], []
    for _ in range(400):
        image = RandomErasing(1.0)(torch.zeros(3, 256, 128))
        (rows, columns) = torch.nonzero(image[0]).T
        h, w = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert len(rows) == h * w and h < 256 and w < 128
        assert torch.equal(image[:, rows[0], columns[0]], torch.tensor([0.4914, 0.4822, 0.4465]))
        areas.append(len(rows) / (256 * 128))
        aspects.append((h / w).item())
    assert 0.019 < min(areas) and max(areas) < 0.41
    assert 0.28 < min(aspects) and max(aspects) < 3.5
    # Uniform, not log-uniform: half of 0.3-3.33 lies above 1.8 (tall and large ones do not fit, hence the slack).
    assert 0.4 < np.mean(np.array(aspects) > 1.8) < 0.6


@pytest.mark.parametrize('probability', [0.0, 0.25, 1.0])
def test_erasing_probability(probability):
    erased = [RandomErasing(probability)(torch.zeros(3, 64, 32)).any().item() for _ in range(1000)]
    assert np.mean(erased) == pytest.approx(probability, abs=0.05)


def test_transform_without_chance():
    photo = Image.new('RGB', (48, 96), (255, 0, 51))
    image = training_transform(CONFIG, erasing=0, padding=0)(photo)
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor(CONFIG['mean'])) / torch.tensor(CONFIG['std'])
    torch.testing.assert_close(image, expected[:, None, None].expand(3, 64, 32))


def test_crop_moves_at_most_by_the_black_border():
    black = -torch.tensor(CONFIG['mean']) / torch.tensor(CONFIG['std'])
    image = Image.new('RGB', (32, 64), (255, 255, 255))
    transform = training_transform(CONFIG, erasing=0)
    widths = []
    for _ in range(200):
        is_black = (transform(image) - black[:, None, None]).abs().amax(0) < 1e-5
        rows, columns = is_black.all(1).sum().item(), is_black.all(0).sum().item()
        assert is_black.sum() == rows * 32 + columns * 64 - rows * columns
        widths.append((rows, columns))
    assert np.max(widths, 0).tolist() == [10, 10] and np.min(widths, 0).tolist() == [0, 0]


def test_flip():
    photo = Image.fromarray(np.repeat(np.arange(32, dtype=np.uint8)[None, :, None] * 8, 64, 0).repeat(3, 2))
    transform = training_transform(CONFIG, erasing=0, padding=0)
    flipped = [bool(image[0, 0, 0] > image[0, 0, -1]) for image in (transform(photo) for _ in range(300))]
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.1)


def test_color_jitter():
    image = Image.new('RGB', (32, 64), (100, 100, 100))
    plain = training_transform(CONFIG, erasing=0, padding=0)(image)
    transform = training_transform(CONFIG, erasing=0, padding=0, color_jitter=(0.5, 0, 0, 0))
    grey = [(transform(image) * 0.2 + 0.5)[0, 0, 0].item() * 255 for _ in range(100)]
    assert 48 < min(grey) < 60 and 140 < max(grey) < 152
    assert torch.equal(training_transform(CONFIG, erasing=0, padding=0, color_jitter=(0, 0, 0, 0))(image), plain)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(
    'padding, jitter, cameras',
    [
        (10, (), {}),
        (0, (), {}),
        (40, (0.2, 0.15, 0.15, 0.1), {}),
        (4, (), {'miscrop': 0.5}),
        (10, (0.2, 0.15, 0.15, 0.1), {'miscrop': 0.5, 'camera_tone': 0.5, 'camera_quality': 0.5}),
    ],
)
def test_cached_pixels_are_those_of_the_transform(tmp_path, interpolation, padding, jitter, cameras):
    rng = np.random.default_rng(0)
    records = []
    for number, shape in enumerate([(128, 64, 3), (200, 31, 3), (30, 50, 3), (64, 32, 3), (77, 200)]):
        path = tmp_path / f'{number}.jpg'
        Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(path)
        records.append(Record(str(path), str(number), box=(3, 2, 25, 28) if number == 2 else None))
    config = CONFIG | {'interpolation': interpolation}
    cached = ImageCache('memory').images(
        records, config, PixelAugmentation(padding, jitter, **cameras), RandomErasing(0.5, value=(0.1, 0.2, 0.3))
    )
    transform = training_transform(config, 0, padding, jitter, **cameras)
    transform.transforms.append(RandomErasing(0.5, value=(0.1, 0.2, 0.3)))
    order = [3, 0, 4, 1, 2] * 8
    random.seed(1), torch.manual_seed(1)
    batch, indices = cached.__getitems__(order)
    images = cached.to_input(batch, torch.device('cpu'))
    random.seed(1), torch.manual_seed(1)
    expected = torch.stack([transform(load_image(records[i].path, records[i].box)) for i in order])
    assert torch.equal(images, expected)
    assert indices.tolist() == order
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert batch.rectangles.any(1).sum() in range(8, 33)
