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
from msinet_timm.models.camera_norm import FILE_NAME, OWN_MEAN, CameraNorms


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


def test_formats_of_boxes(embedder, paths):
    frame = np.asarray(as_images(paths)[0].resize((64, 128)))
    expected = embedder.crops(frame, [[0, 0, 64, 128], [10, 20, 40, 80]])
    close(embedder.crops(frame, [(0, 0, 64, 128), (10, 20, 30, 60)], box_format='xywh'), expected)
    close(embedder.crops(frame, np.array([[32, 64, 64, 128], [25, 50, 30, 60]]), box_format='cxcywh'), expected)
    assert embedder.crops(frame, [], box_format='xywh').shape == (0, 384)


def test_get_features(embedder, paths):
    """BoxMOT's protocol: blue first, columns of trackers beside the box, black where nothing is to be seen."""
    frame = np.asarray(as_images(paths)[0].resize((64, 128)))
    boxes = np.array([[0, 0, 64, 128], [10, 20, 40, 80], [70, 0, 90, 9]], np.float32)
    expected = np.concatenate([embedder.crops(frame, boxes[:2]), embedder([np.zeros((9, 9, 3), np.uint8)])])
    bgr = frame[..., ::-1]
    for columns in (0, 2, 4):
        close(embedder.get_features(np.pad(boxes, ((0, 0), (0, columns))), bgr), expected)
    close(embedder.get_features(boxes[1], bgr), expected[1:2])
    for none in ([], np.empty((0, 6), np.float32)):
        assert embedder.get_features(none, bgr).shape == (0, 384)


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
        (lambda e: e.crops(FRAME, [[0, 0, 1]], box_format='xywh'), r'boxes must be \[N, 4\]: left, top, width, height'),
        (
            lambda e: e.crops(FRAME, [[0, 0, 1, 1]], box_format='ltwh'),
            "unknown box_format 'ltwh', choose from: xyxy, xyw",
        ),
        (lambda e: e.crops(FRAME, [[5, 5, 0, 3]], box_format='xywh'), 'box 0 .*empty in a frame of 10x20'),
        (lambda e: e.crops(FRAME, [[0, 0, 1, 1]], invalid='zero'), "invalid must be 'error', 'nan' or 'black'"),
        (lambda e: e.get_features(np.zeros((2, 7)), FRAME), r'boxes \[2, 7\] are oriented'),
        (lambda e: e.get_features(np.zeros((2, 3)), FRAME), r'boxes must be \[N, 4, 6 or 8\]: left, top'),
        (lambda e: e.get_features(np.full((1, 4), np.nan), FRAME), 'box 0 .*not finite'),
        (lambda e: e.get_features([[0, 0, 1, 1]], FRAME / 255), 'the frame .*float64'),
        (
            lambda e: e.thresholds('boxmot.botsort'),
            'MSINet has no calibration, .*msinet-eval FOLDER -ds .* --calibrate',
        ),
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
        assert Embedder('msinet_x0_75', 'cpu')(paths[:1]).shape == (1, 640)
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


@pytest.fixture(scope='module')
def cropped():
    """A small model, and crops of two cameras with a light of their own."""
    torch.manual_seed(0)
    model = timm.create_model('msinet_x0_25', num_classes=0, pretrained_cfg_overlay=dict(input_size=(3, 64, 32)))
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    pixels = np.random.default_rng(0).integers(0, 100, (2, 17, 64, 32, 3), np.uint8)
    return model.eval(), {'door': pixels[0], 'yard': pixels[1] + np.array([120, 60, 10], np.uint8)}


@pytest.fixture
def adapted(cropped):
    embedder = Embedder(cropped[0], 'cpu', batch_size=8)
    embedder.adapt(cropped[1])
    return embedder


def test_cameras_by_name(cropped, adapted):
    """Embeddings by a camera's statistics, whatever stands beside them in a call."""
    model, crops = cropped
    pixels = np.concatenate([crops['door'][:5], crops['yard'][:5]])
    plain = Embedder(model, 'cpu')(pixels)
    by_camera = {name: adapted(pixels, name) for name in crops}
    assert adapted.cameras == {'door': 17, 'yard': 17}
    assert all(np.abs(by_camera[a] - b).max() > 0.01 for a, b in (('door', plain), ('yard', plain)))
    assert np.abs(by_camera['door'] - by_camera['yard']).max() > 0.01
    names = ['yard', 'door', None, 'door', 'yard', 'yard', None, 'door', 'door', 'yard']
    mixed, alone = adapted(pixels, names), [adapted(pixels[i : i + 1], name) for i, name in enumerate(names)]
    close(mixed, np.concatenate(alone))
    for i, name in enumerate(names):
        expected = by_camera[name][i] if name else adapted(pixels)[i]
        close(mixed[i], expected)
    close(adapted([Image.fromarray(p) for p in pixels], tuple(names)), mixed)
    assert adapted([], []).shape == (0, 384)


def test_cameras_are_prepared_as_what_is_embedded(cropped, adapted):
    """The statistics are those of images as `__call__` prepares them, in batches that are spread over all."""
    model, crops = cropped
    transform = create_transform(**resolve_data_config(model=model))
    norms = CameraNorms(model)
    for name, pixels in crops.items():
        images = torch.stack([transform(Image.fromarray(p)) for p in pixels])
        norms.observe(name, [images[0::3], images[1::3], images[2::3]], 17)
    for name in (*crops, None):
        for found, expected in zip(adapted._norms.statistics(name), norms.statistics(name), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_crops_of_a_camera(cropped, adapted):
    frame = np.concatenate(list(cropped[1]['door'][:4]), axis=1)
    boxes = [[32 * i, 0, 32 * i + 32, 64] for i in range(4)]
    close(adapted.crops(frame, boxes, camera='door'), adapted(cropped[1]['door'][:4], 'door'))
    close(adapted.crops(frame[..., ::-1], boxes, True, 'yard'), adapted(cropped[1]['door'][:4], cameras='yard'))
    assert adapted.crops(frame, [], camera='door').shape == (0, 384)


def test_observe_a_running_camera(cropped):
    """The first crops make the camera known, and more move it; embeddings go by the latest at once."""
    model, crops = cropped
    embedder = Embedder(model, 'cpu', batch_size=8)
    embedder.observe('door', crops['door'][:8])
    first = embedder(crops['door'][:2], 'door')
    embedder.observe('door', crops['door'][8:])
    embedder.observe('yard', list(crops['yard']))
    assert embedder.cameras == {'door': 17, 'yard': 17}
    assert np.abs(embedder(crops['door'][:2], 'door') - first).max() > 1e-3
    norms = CameraNorms(model)
    transform = create_transform(**resolve_data_config(model=model))
    images = torch.stack([transform(Image.fromarray(p)) for p in crops['door']])
    norms.observe('door', images[:8])
    norms.observe('door', [images[8::2], images[9::2]], 9)
    for found, expected in zip(embedder._norms.statistics('door'), norms.statistics('door'), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    before = embedder(crops['yard'][:2], 'yard')
    embedder.adapt({'door': crops['yard']})  # anew, and nothing else
    assert embedder.cameras == {'door': 17, 'yard': 17}
    close(embedder(crops['yard'][:2], 'yard'), before)
    close(embedder(crops['yard'][:2], 'door'), before)


@pytest.mark.parametrize(('form', 'precision'), [('eager', 'float32'), ('torchscript', 'float32'), ('fused', 'bf16')])
def test_cameras_in_all_forms(cropped, adapted, form, precision):
    model, crops = cropped
    embedder = Embedder(model, 'cpu', form, precision, batch_size=8)
    embedder.adapt(crops)
    for name in crops:
        found, expected = (e(crops['door'][:3], name) for e in (embedder, adapted))
        assert np.abs(found - expected).max() < (1e-5 if precision == 'float32' else 0.1)


def test_unknown_cameras_say_so_once(cropped, adapted, caplog):
    pixels = cropped[1]['door'][:2]
    with caplog.at_level(logging.WARNING):
        adapted(pixels, ['door', 'yard'])
        assert not caplog.text
        found = [adapted(pixels, 'hall'), adapted(pixels, ['hall', 'attic']), adapted(pixels), adapted(pixels)]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and said[0].startswith("camera 'hall' is not known") and 'door, yard' in said[0]
    assert 'attic' in said[1] and 'without a camera' in said[2]
    for one in found[1:]:
        close(one, found[0])
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        adapted.observe('hall', cropped[1]['yard'])
        adapted(pixels, 'hall')
        assert not caplog.text
        Embedder(cropped[0], 'cpu')(pixels)
        assert not caplog.text
        Embedder(cropped[0], 'cpu')(pixels, 'door')
    assert "camera 'door' is not known" in caplog.text


def test_few_crops_warn(cropped, caplog):
    embedder = Embedder(cropped[0], 'cpu')
    with caplog.at_level(logging.WARNING):
        embedder.adapt({'door': cropped[1]['door'], 'yard': cropped[1]['yard'][:1]})
    assert "camera 'yard': only 1 crop;" in caplog.text and 'door' not in caplog.text


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda e, crops: e.adapt({}), 'no cameras'),
        (lambda e, crops: e.adapt({'door': crops, 'hall': []}), "camera 'hall': no images"),
        (lambda e, crops: e.adapt({'door': [*crops, 'no/such.jpg']}), 'no/such.jpg'),
        (lambda e, crops: e.adapt({'door': [*crops[:3], None]}), "camera 'door': image 3 .*NoneType"),
        (lambda e, crops: e.adapt({'hall': np.full((20, 64, 32, 3), 7, np.uint8)}), "camera 'hall': .*one colour"),
        (lambda e, crops: e.adapt({0: crops}), 'named by a text, got 0'),
        (lambda e, crops: e.adapt({'door': crops[0]}), 'give a list'),
        (lambda e, crops: e.observe('', crops), 'named by a text'),
        (lambda e, crops: e.observe('door', []), "camera 'door': no images"),
        (lambda e, crops: e(crops[:3], ['door', 'yard']), '2 cameras for 3 images'),
    ],
)
def test_wrong_cameras(cropped, adapted, call, message):
    """Nothing is learnt of a call that goes wrong, not even of the cameras that are right."""
    known, pixels = adapted.cameras, cropped[1]['door']
    before = adapted(pixels[:2], 'door')
    with pytest.raises(InputError, match=message):
        call(adapted, pixels)
    assert adapted.cameras == known
    close(adapted(pixels[:2], 'door'), before)


def test_threads_with_cameras(cropped, adapted):
    pixels, names = cropped[1]['door'], ['door', 'yard'] * 6
    expected = [adapted(pixels[:3], name) for name in names]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(lambda name: adapted(pixels[:3], name), names), expected, strict=True):
            close(found, one)


def test_save(cropped, adapted, tmp_path):
    """A folder of its own; into that of the same weights what it lacks; nothing into any other."""
    model, crops = cropped
    expected = adapted(crops['door'][:3], 'door')
    adapted.save(tmp_path / 'site')
    written = {'config.json', 'model.safetensors', FILE_NAME, 'README.md', 'example.safetensors'}
    assert {p.name for p in (tmp_path / 'site').iterdir()} == written
    assert '| yard | 17 |' in (tmp_path / 'site' / 'README.md').read_text()
    loaded = Embedder(tmp_path / 'site', 'cpu')
    assert loaded.cameras == adapted.cameras
    close(loaded(crops['door'][:3], 'door'), expected)
    loaded.observe('hall', crops['yard'])
    loaded.save(tmp_path / 'site')
    assert Embedder(f'local-dir:{tmp_path / "site"}', 'cpu').cameras == {'door': 17, 'yard': 17, 'hall': 17}
    assert '| hall | 17 |' in (tmp_path / 'site' / 'README.md').read_text()
    assert {p.name for p in (tmp_path / 'site').iterdir()} == written
    save_folder(model, tmp_path / 'run' / 'best')
    weights = (tmp_path / 'run' / 'best' / 'model.safetensors').stat().st_mtime_ns
    adapted.save(tmp_path / 'run')
    assert {p.name for p in (tmp_path / 'run' / 'best').iterdir()} == written
    assert (tmp_path / 'run' / 'best' / 'model.safetensors').stat().st_mtime_ns == weights
    assert Embedder(tmp_path / 'run', 'cpu').cameras == adapted.cameras


def test_what_is_not_saved(cropped, adapted, tmp_path):
    model, _ = cropped
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.stem.conv.weight.mul_(1.5)
    save_folder(other, tmp_path / 'other')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'a.txt').touch()
    (tmp_path / 'file').touch()
    for folder, message in (('other', 'holds another model'), ('full', 'no model folder'), ('file', 'no model folder')):
        with pytest.raises(InputError, match=message):
            adapted.save(tmp_path / folder)
    with pytest.raises(InputError, match='no camera is known'):
        Embedder(model, 'cpu').save(tmp_path / 'new')
    save_folder(model, tmp_path / 'calibrated')
    (tmp_path / 'calibrated' / 'calibration.json').write_text('{}')
    with pytest.raises(InputError, match='calibration.json: its threshold does not hold'):
        adapted.save(tmp_path / 'calibrated')
    plain = Embedder(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 'cpu')
    plain.observe('door', cropped[1]['door'])
    with pytest.raises(InputError, match='Sequential is no model that timm makes'):
        plain.save(tmp_path / 'plain')
    assert not (tmp_path / 'new').exists() and not (tmp_path / 'plain').exists()
    assert not list(tmp_path.glob(f'*/{FILE_NAME}'))


def test_cameras_of_other_weights_are_refused(cropped, adapted, tmp_path):
    adapted.save(tmp_path / 'site')
    other = copy.deepcopy(cropped[0])
    with torch.no_grad():
        other.stem.conv.weight.mul_(1.5)
    save_folder(other, tmp_path / 'site')
    with pytest.raises(InputError, match='cameras.safetensors: of another model or other weights'):
        Embedder(tmp_path / 'site', 'cpu')


def test_a_model_without_batch_norms(cropped, caplog):
    torch.manual_seed(0)
    settings = dict(input_size=(3, 64, 32))
    model = timm.create_model('convnext_atto', num_classes=0, pretrained_cfg_overlay=settings).eval()
    raw = Embedder(model, 'cpu', normalize=False)
    plain = raw(cropped[1]['door'])
    with caplog.at_level(logging.WARNING):
        raw.adapt({'door': cropped[1]['door']})
    assert 'ConvNeXt has no batch norms: of each camera only the mean embedding' in caplog.text
    close(raw(cropped[1]['door'], 'door'), plain - plain.mean(0) * 17 / (17 + OWN_MEAN))
