import logging

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from msinet_timm.datasets.records import Record
from msinet_timm.errors import InputError
from msinet_timm.hub.adapt import adapt, choose_crops
from msinet_timm.models.camera_norm import CameraNorms


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    size = dict(input_size=(3, 64, 32))
    return timm.create_model('msinet_x0_25', num_classes=3, pretrained_cfg_overlay=size).eval()


@pytest.fixture(scope='module')
def records(tmp_path_factory):
    """20 images of two cameras, of other light, one after the other in turn."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp('crops')
    found = []
    for i in range(20):
        pixels = rng.integers(0, 128, (64, 32, 3), np.uint8) + (i % 2) * 100
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i:02}.png')
        found.append(Record(str(folder / f'{i:02}.png'), f'person {i}', ('door', 'yard')[i % 2]))
    return found


def tensors_of(norms):
    return [tensor for name in norms for tensor in norms.statistics(name)]


def test_as_images_that_are_prepared_one_by_one(model, records):
    """The same as from tensors, however they are read; identities and the order of cameras play no part."""
    transform = create_transform(**resolve_data_config(model=model))
    images = [transform(Image.open(record.path)) for record in records]
    plain = CameraNorms(timm.create_model('msinet_x0_25', num_classes=0).eval())
    plain.model.load_state_dict({k: v for k, v in model.state_dict().items() if 'classifier' not in k})
    for start, name in enumerate(('door', 'yard')):
        plain.observe(name, torch.stack(images[start::2]))
    for workers, given in ((0, records), (1, [r._replace(identity='x') for r in records[10:] + records[:10]])):
        norms = adapt(model, given, workers=workers)
        assert norms.counts == {'door': 10, 'yard': 10} and list(norms) == ['door', 'yard']
        for found, expected in zip(tensors_of(norms), tensors_of(plain), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert model.num_classes == 3 and norms.model is not model


def test_crops_are_spread_evenly(records):
    assert choose_crops(records, 4) == {'door': [0, 4, 10, 14], 'yard': [1, 5, 11, 15]}
    assert choose_crops(records, 64) == {'door': list(range(0, 20, 2)), 'yard': list(range(1, 20, 2))}
    assert choose_crops(records, 1) == {'door': [0], 'yard': [1]}


def test_batches_are_mixed_from_all_of_a_camera(model, records):
    """Ten crops in batches of four come close to ten at once, though norms follow them one batch after another.

    The first norm, which sees images through nothing that changes, has exactly the statistics of all.
    """
    whole, parts = (adapt(model, records, batch_size=size, workers=0) for size in (64, 4))
    assert parts.counts == whole.counts and parts.layout == whole.layout
    _, first = parts.layout[0]
    for found, expected in zip(tensors_of(parts), tensors_of(whole), strict=True):
        assert (found - expected).norm() < 0.25 * expected.norm()
    for name in parts:
        for found, expected in zip(parts.statistics(name)[:2], whole.statistics(name)[:2], strict=True):
            torch.testing.assert_close(found[:first], expected[:first], rtol=1e-5, atol=1e-6)


def test_few_crops_warn(model, records, caplog):
    with caplog.at_level(logging.WARNING):
        adapt(model, records, crops=1, workers=0)
    assert "camera 'door': only 1 crop;" in caplog.text and "camera 'yard'" in caplog.text


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda r: [], 'no images to adapt to'),
        (lambda r: [*r[:3], r[3]._replace(camera=None)], '03.png has no camera'),
        (lambda r: [r[0]._replace(path='no/such.png')], 'no/such.png'),
    ],
)
@pytest.mark.parametrize('workers', [0, 1])
def test_wrong_records(model, records, change, message, workers):
    with pytest.raises(InputError, match=message):
        adapt(model, change(records), workers=workers)


def test_wrong_settings_and_images(model, records, tmp_path):
    with pytest.raises(InputError, match='crops=0 must be at least 1'):
        adapt(model, records, crops=0)
    path = str(tmp_path / 'grey.png')
    Image.new('RGB', (32, 64), 'gray').save(path)
    with pytest.raises(InputError, match="camera 'hall': its images are all of one colour"):
        adapt(model, [*records, *[Record(path, str(i), 'hall') for i in range(20)]], workers=0)
    broken = timm.create_model('msinet_x0_25', num_classes=0)
    with torch.no_grad():
        broken.stem.conv.weight.fill_(float('nan'))
    with pytest.raises(InputError, match="camera 'door': MSINet gives no finite vectors"):
        adapt(broken, records, workers=0)
