import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from msinet_timm.datasets import Record
from msinet_timm.datasets.images import ReIDImages, UnreadableImageError, load_image
from msinet_timm.errors import InputError


def save(path, pixels, **kwargs):
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **kwargs)
    return str(path)


def test_gives_image_and_index(tmp_path):
    records = [Record(save(tmp_path / f'{v}.png', np.full((4, 2, 3), v)), str(v)) for v in (10, 20, 30)]
    images, indices = next(iter(DataLoader(ReIDImages(records, pil_to_tensor), batch_size=3)))
    assert images.shape == (3, 3, 4, 2)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert indices.tolist() == [0, 1, 2]


def test_converts_to_rgb(tmp_path):
    gray = save(tmp_path / 'gray.png', [[7, 8]])
    transparent = save(tmp_path / 'alpha.png', [[[1, 2, 3, 128]]])
    assert np.asarray(load_image(gray)).tolist() == [[[7] * 3, [8] * 3]]
    assert np.asarray(load_image(transparent)).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize('suffix', ['png', 'tif', 'pgm'])
def test_grey_of_16_bits_is_scaled(tmp_path, suffix):
    path = tmp_path / f'deep.{suffix}'
    Image.fromarray(np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)).save(path)
    assert np.asarray(load_image(str(path))).tolist() == [[[v] * 3 for v in (0, 0, 1, 0x12, 255)]]


@pytest.mark.parametrize('pixels', [np.float32([[0.5]]), np.int32([[0x10000]]), np.int32([[-1]])])
def test_numbers_that_are_no_colours(tmp_path, pixels):
    path = tmp_path / 'numbers.tif'
    Image.fromarray(pixels).save(path)
    with pytest.raises(UnreadableImageError, match=f'{path}: .*convert it to 8 bits'):
        load_image(str(path))


def test_palette_with_transparency(tmp_path, recwarn):
    image = Image.new('P', (2, 1))
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / 'palette.png', transparency=bytes([0, 128]))
    assert np.asarray(load_image(str(tmp_path / 'palette.png'))).tolist() == [[[1, 2, 3], [200, 100, 50]]]
    assert not recwarn.list


def test_cmyk(tmp_path):
    Image.new('CMYK', (8, 8), (0, 255, 255, 0)).save(tmp_path / 'print.jpg', quality=100)
    red, green, blue = np.asarray(load_image(str(tmp_path / 'print.jpg')))[4, 4].tolist()
    assert red > 250 and green < 5 and blue < 5


@pytest.mark.parametrize('limit', [127, 50])  # from this on Pillow warns, and from twice as many pixels it refuses
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, limit):
    path = save(tmp_path / 'bomb.png', np.zeros((8, 16, 3)))
    assert load_image(path).size == (16, 8)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
    with pytest.raises(UnreadableImageError, match=rf'^{path}: cannot read this image \([^\n]*pixels[^\n]*$'):
        load_image(path)


@pytest.mark.parametrize(
    'at_least, size', [((100, 50), (50, 100)), ((101, 50), (100, 200)), ((100, 51), (100, 200)), ((20, 10), (13, 25))]
)
def test_draft_stays_large_enough(tmp_path, at_least, size):
    noise = np.random.default_rng(0).integers(0, 255, (200, 100, 3))
    path = save(tmp_path / 'large.jpg', noise)
    small = load_image(path, at_least=at_least)
    assert small.size == size
    assert load_image(path).size == (100, 200)
    assert load_image(path, (0, 0, 90, 150), at_least).size == (90, 150)


def test_draft_of_a_turned_image_looks_the_same(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 250, 240)[None, :, None], (120, 240, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / 'turned.jpg', ramp, exif=exif)
    small, whole = load_image(path, at_least=(120, 60)), load_image(path)
    assert (small.size, whole.size) == ((60, 120), (120, 240))
    assert load_image(path, at_least=(60, 120)).size == (120, 240)  # wide enough only when lying
    difference = np.asarray(whole.resize(small.size, Image.Resampling.BOX), int) - np.asarray(small)
    assert np.abs(difference).max() <= 2


def test_honours_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = save(tmp_path / 'turned.png', [[[1] * 3, [2] * 3]], exif=exif)
    assert np.asarray(load_image(path))[:, :, 0].tolist() == [[1], [2]]


def broken_files(folder):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    save(folder / 'whole.jpg', noise)
    whole = (folder / 'whole.jpg').read_bytes()
    (folder / 'truncated.jpg').write_bytes(whole[: len(whole) // 2])
    (folder / 'text.jpg').write_text('no image')
    (folder / 'empty.jpg').touch()
    return [folder / name for name in ('truncated.jpg', 'text.jpg', 'empty.jpg', 'missing.jpg')]


def test_broken_file_is_named(tmp_path):
    for path in broken_files(tmp_path):
        with pytest.raises(UnreadableImageError, match=rf'^{path}: cannot read this image \(.+\); replace'):
            load_image(str(path))


@pytest.mark.parametrize('num_workers', [0, 1])
def test_broken_file_gives_one_line_from_any_worker(tmp_path, num_workers):
    path = broken_files(tmp_path)[0]
    loader = DataLoader(ReIDImages([Record(str(path), '0')], pil_to_tensor), num_workers=num_workers)

    def read():
        try:
            list(loader)
        except InputError as e:
            raise e.with_traceback(None) from None  # which keeps the worker alive until it is collected, for seconds

    with pytest.raises(InputError) as caught:
        read()
    assert '\n' not in str(caught.value)
    assert str(caught.value).startswith(f'{path}: cannot read this image (')


def test_indices_reach_records_through_workers(tmp_path):
    records = [Record(save(tmp_path / f'{v}.png', np.full((2, 2, 3), v)), str(v)) for v in range(6)]
    loader = DataLoader(ReIDImages(records, pil_to_tensor), batch_size=2, num_workers=1, shuffle=True)
    for images, indices in loader:
        assert torch.equal(images[:, 0, 0, 0], indices.to(torch.uint8))
