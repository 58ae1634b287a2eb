"""People before other backgrounds: what is kept, what is replaced, and what is said without masks."""

import random
import re

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms as T

from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import ReIDImages, UnreadableImageError
from msinet_timm.datasets.records import Record
from msinet_timm.errors import InputError
from msinet_train.data.backgrounds import Backgrounds, remove_person

GROUNDS = {'a': (200, 20, 20), 'b': (20, 200, 20), 'c': (20, 20, 200)}
PERSON = (250, 250, 250)


def figure(size=(32, 64)) -> np.ndarray:
    mask = np.zeros(size[::-1], np.uint8)
    mask[10:60, 11:21] = 255
    mask[10:60, 10] = 128
    return mask


@pytest.fixture
def rendered(tmp_path):
    """Three images of a white person on grounds of three colours, with masks, as `msinet-data render` lays them out."""
    records = []
    for part in ('bounding_box_train', 'masks/bounding_box_train'):
        (tmp_path / part).mkdir(parents=True)
    for name, ground in GROUNDS.items():
        share = figure()[..., None] / 255
        pixels = (share * PERSON + (1 - share) * ground).round().astype(np.uint8)
        path = tmp_path / 'bounding_box_train' / f'{name}.png'
        Image.fromarray(pixels).save(path)
        Image.fromarray(figure()).save(tmp_path / 'masks/bounding_box_train' / path.name)
        records.append(Record(str(path), name))
    return records


def read(records):
    def open_(index: int) -> Image.Image:
        return Image.open(records[index].path).convert('RGB')

    return open_


def test_a_removed_person_is_gone(rendered):
    mask = Image.fromarray(figure())
    for index, ground in enumerate(GROUNDS.values()):
        assert np.abs(np.asarray(remove_person(read(rendered)(index), mask)).astype(int) - ground).max() <= 3


def test_what_fills_is_near_and_what_is_far_stays():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (64, 32, 3)).astype(np.uint8)
    pixels[:, :16] //= 4
    found = np.asarray(remove_person(Image.fromarray(pixels), Image.fromarray(figure()))).astype(int)
    far = np.ones((64, 32), bool)
    far[8:62, 8:23] = False
    assert np.array_equal(found[far], pixels[far])
    filled = found[20:50, 11:21]
    assert filled[:, 0].mean() + 20 < filled[:, -1].mean()  # dark at the side of what is dark


def test_an_image_that_is_all_person_gives_a_blurred_one():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 32, 3)).astype(np.uint8)
    found = np.asarray(remove_person(Image.fromarray(pixels), Image.new('L', (32, 64), 255)))
    assert found.std() < pixels.std() / 4 and abs(found.mean() - pixels.mean()) < 10


def test_the_person_stays_and_the_ground_is_that_of_another(rendered):
    change, mask, grounds = Backgrounds(rendered, 1.0), figure(), set()
    random.seed(0)
    for _ in range(30):
        found = np.asarray(change(0, read(rendered))).astype(int)
        assert (found[mask == 255] == PERSON).all()
        ground = tuple(found[0, 0].tolist())
        assert ground in GROUNDS.values()
        assert np.abs(found[mask == 0] - ground).max() <= 3
        edge = (np.array(PERSON) * 128 + np.array(GROUNDS['a']) * 127) / 255
        assert np.abs(found[mask == 128] - (128 * edge + 127 * np.array(ground)) / 255).max() <= 4
        grounds.add(ground)
    assert len(grounds) == 3


def test_probability(rendered):
    random.seed(1)
    change, plain = Backgrounds(rendered[:2], 0.4), np.asarray(read(rendered)(0))
    changed = np.mean([not np.array_equal(change(0, read(rendered)), plain) for _ in range(600)])
    assert changed == pytest.approx(0.4, abs=0.06)


def test_cached_images_change_as_others_do(rendered):
    config = dict(input_size=(3, 64, 32), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation='bilinear')
    order = [0, 2, 1] * 5
    cached = ImageCache('memory').images(rendered, config, change=Backgrounds(rendered, 0.7))
    random.seed(3)
    pixels, _ = cached.__getitems__(order)
    plain = ReIDImages(rendered, T.Compose([T.Resize((64, 32)), np.array]), change=Backgrounds(rendered, 0.7))
    random.seed(3)
    assert np.array_equal(pixels.images.numpy(), np.stack([plain[i][0] for i in order]))


def test_masks_are_resized(rendered):
    small = [Image.open(r.path).convert('RGB').resize((16, 32)) for r in rendered]
    random.seed(0)
    found = np.asarray(Backgrounds(rendered, 1.0)(0, small.__getitem__)).astype(int)
    assert found.shape == (32, 16, 3) and np.abs(found[10:28, 7:9] - PERSON).max() <= 3


def test_images_without_masks(rendered, tmp_path):
    mask = tmp_path / 'masks' / 'bounding_box_train' / 'b.png'
    boxed = [rendered[0]._replace(box=(0, 0, 8, 8))]
    with pytest.raises(InputError, match=f'^{re.escape(boxed[0].path)} has no mask'):
        Backgrounds(boxed, 0.5)
    mask.write_bytes(b'torn')
    for path in ('a.jpg', str(tmp_path / 'shard-000.tar') + '/a.jpg'):
        with pytest.raises(InputError, match=f'^{re.escape(path)} has no mask'):
            Backgrounds([Record(path, 'a')], 0.5)
    with pytest.raises(UnreadableImageError, match=re.escape(str(mask))):
        Backgrounds(rendered, 1.0)(1, read(rendered))
    mask.unlink()
    with pytest.raises(InputError, match=rf'^{re.escape(rendered[1].path)} has no mask: .* --masks'):
        Backgrounds(rendered, 0.5)
