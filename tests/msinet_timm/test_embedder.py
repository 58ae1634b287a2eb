import copy
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn

from msinet_timm import memory
from msinet_timm.datasets import create_dataset
from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.hub.folder import save_folder


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    model = timm.create_model('msinet_x0_25', num_classes=3).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return model


@pytest.fixture(scope='module')
def paths():
    return [record.path for record in create_dataset('sample').query[:5]]


@pytest.fixture(scope='module')
def embedder(model):
    return Embedder(model, 'cpu', batch_size=2)


@torch.no_grad()
def plain(model, images, normalize=True):
    """As one would write it with timm alone."""
    transform = create_transform(**resolve_data_config(model=model))
    batch = torch.stack([transform(image) for image in images])
    found = model.forward_head(model.forward_features(batch), pre_logits=True)
    return (nn.functional.normalize(found) if normalize else found).numpy()


def as_images(paths):
    return [Image.open(path).convert('RGB') for path in paths]


def close(actual, expected):
    assert actual.dtype == np.float32 and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_all_kinds_of_images(model, embedder, paths):
    images = as_images(paths)
    expected = plain(model, images)
    arrays = [np.asarray(image) for image in images]
    assert embedder.size == 384 and model.num_classes == 3
    close(embedder(paths), expected)
    close(embedder(images), expected)
    close(embedder(arrays), expected)
    close(embedder([torch.tensor(array).permute(2, 0, 1) for array in arrays]), expected)
    close(embedder([paths[0], *images[1:3], *arrays[3:]]), expected)


def test_pixels_of_the_model_input(model, embedder, paths):
    resized = np.stack([np.asarray(image.resize((128, 256), Image.BICUBIC)) for image in as_images(paths)])
    expected = plain(model, [Image.fromarray(pixels) for pixels in resized])
    close(embedder(resized), expected)
    close(embedder(torch.tensor(resized).permute(0, 3, 1, 2)), expected)


def test_raw_embeddings(model, paths):
    close(Embedder(model, 'cpu', normalize=False)(paths), plain(model, as_images(paths), normalize=False))


@pytest.mark.parametrize(('form', 'precision', 'limit'), [('torchscript', 'float32', 1e-5), ('fused', 'bf16', 0.05)])
def test_forms(model, paths, form, precision, limit):
    found = Embedder(model, 'cpu', form, precision)(paths)
    assert np.abs(found - plain(model, as_images(paths))).max() < limit
    assert precision == 'float32' or np.abs(found - plain(model, as_images(paths))).max() > 1e-5


def test_compiled_batches_are_of_few_sizes(model, paths, monkeypatch):
    sizes = []

    def create(network, form, precision, norms):
        def run(images):
            sizes.append(len(images))
            with torch.no_grad():
                return network(images)

        return run

    monkeypatch.setattr('msinet_timm.embedder.create_form', create)
    found = Embedder(model, 'cpu', 'compiled', batch_size=7)(paths)
    assert sizes == [7]
    close(found, plain(model, as_images(paths)))
    Embedder(model, 'cpu', 'compiled', batch_size=2)(paths)
    assert sizes == [7, 2, 2, 1]
    Embedder(model, 'cpu', 'fused', batch_size=3)(paths)
    assert sizes == [7, 2, 2, 1, 3, 2]


def test_other_preprocessing(paths):
    """A centre crop, another interpolation and other statistics, of another family's model."""
    torch.manual_seed(0)
    settings = dict(input_size=(3, 64, 64), crop_pct=0.8, interpolation='bilinear', mean=(0.1, 0.2, 0.3))
    other = timm.create_model('resnet10t', num_classes=4, pretrained_cfg_overlay=settings).eval()
    embedder = Embedder(other, 'cpu')
    expected = plain(other, as_images(paths))
    close(embedder(paths), expected)
    square = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    close(embedder(torch.tensor(square).permute(0, 3, 1, 2)), plain(other, [Image.fromarray(p) for p in square]))


@pytest.mark.parametrize('bgr', [False, True])
def test_crops(model, embedder, paths, bgr):
    frame = np.concatenate([np.asarray(image.resize((64, 128))) for image in as_images(paths)], axis=1)
    boxes = [[0, 0, 64, 128], [-9.5, 3.2, 40.1, 70.9], [300.5, 100, 999, 999], [10.2, 20.2, 10.4, 20.4]]
    whole = [(0, 0, 64, 128), (0, 3, 41, 71), (300, 100, 320, 128), (10, 20, 11, 21)]
    expected = plain(model, [Image.fromarray(frame).crop(box) for box in whole])
    given = frame[..., ::-1] if bgr else frame
    for kind in (boxes, np.array(boxes, np.float32), torch.tensor(boxes)):
        close(embedder.crops(given, kind, bgr=bgr), expected)
    close(embedder.crops(given, np.array(boxes[:1], np.int32), bgr=bgr), expected[:1])


def test_nothing(embedder):
    frame = np.zeros((8, 8, 3), np.uint8)
    for none in ([], np.zeros((0, 4)), torch.zeros(0, 4)):
        assert embedder.crops(frame, none).shape == (0, 384)
    assert embedder([]).shape == (0, 384) and embedder([]).dtype == np.float32


FRAME = np.zeros((20, 10, 3), np.uint8)


@pytest.mark.parametrize(
    ('box', 'message'),
    [
        ([3, 3, 3, 9], 'box 1 .*empty in a frame of 10x20'),
        ([5, 5, 2, 9], 'box 1 .*empty'),
        ([10, 0, 30, 9], 'box 1 .*empty'),
        ([2, -8, 5, 0], 'box 1 .*empty'),
        ([float('nan'), 0, 5, 5], 'box 1 .*not finite'),
    ],
)
def test_empty_boxes(embedder, box, message):
    with pytest.raises(InputError, match=message):
        embedder.crops(FRAME, [[0, 0, 5, 5], box])


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda e: e('a.jpg'), 'give a list'),
        (lambda e: e(FRAME), 'give a list'),
        (lambda e: e(Image.new('RGB', (4, 4))), 'give a list'),
        (lambda e: e(['no/such.jpg']), 'no/such.jpg'),
        (lambda e: e([FRAME, FRAME.astype(float)]), r'image 1 .*\[20, 10, 3\] float64'),
        (lambda e: e([FRAME, FRAME[..., 0]]), r'image 1 .*\[20, 10\]'),
        (lambda e: e([FRAME[:0]]), 'image 0 has no pixels'),
        (lambda e: e([None]), 'image 0 .*NoneType'),
        (lambda e: e(torch.zeros(1, 3, 8, 8)), 'image 0 .*float32'),
        (lambda e: e.crops([1], [[0, 0, 1, 1]]), 'the frame .*list'),
        (lambda e: e.crops(FRAME, [0, 0, 1, 1]), r'boxes must be \[N, 4\]'),
        (lambda e: e.crops(FRAME, [[0, 0, 1]]), r'boxes must be \[N, 4\]'),
    ],
)
def test_bad_input(embedder, call, message):
    with pytest.raises(InputError, match=message):
        call(embedder)


def test_threads_take_turns(embedder, paths):
    expected = [embedder([path]) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(lambda path: embedder([path]), paths), expected, strict=True):
            np.testing.assert_array_equal(found, one)


def test_folders(model, embedder, paths, tmp_path):
    save_folder(model, tmp_path / 'run' / 'best')
    expected = embedder(paths[:1])
    for name in (tmp_path / 'run', tmp_path / 'run' / 'best', f'local-dir:{tmp_path / "run"}'):
        close(Embedder(name, 'cpu')(paths[:1]), expected)
    (tmp_path / 'run' / 'best' / 'model.safetensors').write_bytes(b'broken')
    with pytest.raises(InputError, match='cannot create model .*best'):
        Embedder(tmp_path / 'run')
    with pytest.raises(InputError, match="unknown model 'msinet_x9_9': .* did you mean msinet"):
        Embedder('msinet_x9_9')
    with pytest.raises(InputError, match='batch_size'):
        Embedder('msinet_x0_25', batch_size=0)
    with pytest.raises(InputError, match='Sequential gives'):
        Embedder(nn.Sequential(nn.Conv2d(3, 4, 1)), 'cpu')


def test_untrained(caplog, paths):
    with caplog.at_level(logging.WARNING):
        assert Embedder('msinet_x0_25', 'cpu')(paths[:1]).shape == (1, 384)
    assert 'UNTRAINED' in caplog.text


def test_memory_is_kept_on_request(model, monkeypatch):
    calls = []
    monkeypatch.setattr(memory, 'keep_memory', lambda: calls.append(1))
    Embedder(model, 'cpu', keep_memory=False)
    assert not calls
    Embedder(model, 'cpu')
    assert calls


def test_the_model_stays_as_it_was(model):
    before = copy.deepcopy(model.state_dict())
    trained = model.train()
    Embedder(trained, 'cpu', precision='bf16')
    assert trained.training and trained.num_classes == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    model.eval()
