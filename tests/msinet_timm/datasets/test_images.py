import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from msinet_timm.commands import InputError
from msinet_timm.datasets import Record
from msinet_timm.datasets.images import ReIDImages, UnreadableImageError, load_image


def save(path, pixels, **kwargs):
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **kwargs)
    return str(path)


def test_gives_picture_and_index(tmp_path):
    records = [Record(save(tmp_path / f'{v}.png', np.full((4, 2, 3), v)), v) for v in (10, 20, 30)]
    images, indices = next(iter(DataLoader(ReIDImages(records, pil_to_tensor), batch_size=3)))
    assert images.shape == (3, 3, 4, 2)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert indices.tolist() == [0, 1, 2]


def test_converts_to_rgb(tmp_path):
    gray = save(tmp_path / 'gray.png', [[7, 8]])
    transparent = save(tmp_path / 'alpha.png', [[[1, 2, 3, 128]]])
    assert np.asarray(load_image(gray)).tolist() == [[[7] * 3, [8] * 3]]
    assert np.asarray(load_image(transparent)).tolist() == [[[1, 2, 3]]]


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
    (folder / 'text.jpg').write_text('no picture')
    (folder / 'empty.jpg').touch()
    return [folder / name for name in ('truncated.jpg', 'text.jpg', 'empty.jpg', 'missing.jpg')]


def test_broken_file_is_named(tmp_path):
    for path in broken_files(tmp_path):
        with pytest.raises(UnreadableImageError, match=rf'^{path}: cannot read this picture \(.+\); replace'):
            load_image(str(path))


@pytest.mark.parametrize('num_workers', [0, 1])
def test_broken_file_gives_one_line_from_any_worker(tmp_path, num_workers):
    path = broken_files(tmp_path)[0]
    loader = DataLoader(ReIDImages([Record(str(path), 0)], pil_to_tensor), num_workers=num_workers)
    with pytest.raises(InputError) as caught:
        list(loader)
    assert '\n' not in str(caught.value)
    assert str(caught.value).startswith(f'{path}: cannot read this picture (')


def test_indices_reach_records_through_workers(tmp_path):
    records = [Record(save(tmp_path / f'{v}.png', np.full((2, 2, 3), v)), v) for v in range(6)]
    loader = DataLoader(ReIDImages(records, pil_to_tensor), batch_size=2, num_workers=1, shuffle=True)
    for images, indices in loader:
        assert torch.equal(images[:, 0, 0, 0], indices.to(torch.uint8))
