"""`msinet-hub adapt`, and what the other commands make of a folder that knows cameras."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

from msinet_timm.cli.hub import main
from msinet_timm.datasets import create_dataset
from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.hub.card import Result, write_card
from msinet_timm.hub.folder import read_config, save_folder, write_config
from msinet_timm.hub.load import load_model
from msinet_timm.models.camera_norm import FILE_NAME, CameraNorms

SMALL = {'input_size': (3, 64, 32)}
WRITTEN = {'config.json', 'model.safetensors', FILE_NAME, 'README.md', 'example.safetensors'}


def make_model(folder, name='msinet_x0_25', seed=0, **kwargs):
    torch.manual_seed(seed)
    model = timm.create_model(name, **kwargs).eval()
    save_folder(model, folder, SMALL)
    return model


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A run's folder, with classifiers, a card and a threshold."""
    best = tmp_path_factory.mktemp('run') / 'best'
    make_model(best, num_classes=5)
    results = [Result('market1501', 0.5, 0.75, 0.25, query=3, gallery=9)]
    card = write_card('mine', 'A model.', (64, 32), results, ['market1501'], license='apache-2.0')
    (best / 'README.md').write_text(card.replace('## Limits', '## Same or not\n\nUp to 0.75.\n\n## Limits'))
    (best / 'calibration.json').write_text('{}')
    return best.parent


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder for each camera, one of them with folders of tracklets."""
    folder, rng = tmp_path_factory.mktemp('site'), np.random.default_rng(0)
    for camera, shift in (('door', 0), ('yard', 90)):
        for i in range(18):
            place = folder / camera / (f'track{i // 6}' if camera == 'yard' else '')
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 120, (64, 32, 3), np.uint8) + np.uint8(shift)
            Image.fromarray(pixels).save(place / f'{i:02}.png')
    return folder


def adapt(*flags):
    return main(['adapt', *map(str, flags), '--workers', '0', '--device', 'cpu'])


def test_from_crops_to_an_embedder(source, images, tmp_path, capsys):
    output = tmp_path / 'site'
    assert adapt(source, '--images', images, '--output', output, '--crops', 17) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ['camera  crops', 'door       17', 'yard       17']
    assert lines[-1] == f"Embedder('{output}')(images, cameras='door')"
    assert {path.name for path in output.iterdir()} == WRITTEN
    pixels = [np.asarray(Image.open(path)) for path in sorted(images.glob('yard/*/*.png'))]
    embedder = Embedder(output, 'cpu', batch_size=17)
    assert embedder.cameras == {'door': 17, 'yard': 17}
    own = Embedder(source, 'cpu', batch_size=17)
    own.adapt({'door': sorted(images.glob('door/*.png'))[:17], 'yard': pixels[:17]})
    np.testing.assert_allclose(embedder(pixels, 'yard'), own(pixels, 'yard'), atol=1e-5)

    card = ModelCard((output / 'README.md').read_text())
    assert card.data.license == 'apache-2.0' and len(card.data.eval_results) == 3
    assert '| door | 17 |\n| yard | 17 |' in card.text and "Embedder('local-dir:THIS_FOLDER')" in card.text
    assert card.text.index('## Cameras') < card.text.index('## Limits')
    assert 'thresholds found before, are of embeddings without it' in card.text and '## Same or not' not in card.text
    assert str(source) not in card.text and str(images) not in card.text and 'track0' not in card.text
    assert main(['verify', str(output)]) == 0
    assert 'door (17), yard (17)' in capsys.readouterr().out


def test_again_and_one_more_camera(source, images, tmp_path, capsys):
    """Into its own folder: cameras that are given are learnt anew, others stay; the card says it once."""
    output = tmp_path / 'site'
    adapt(source, '--images', images, '--output', output)
    (tmp_path / 'more').mkdir()
    (tmp_path / 'more' / 'hall').symlink_to(images / 'yard')
    assert adapt(output, '--images', tmp_path / 'more', '--output', output, '--crops', 16) == 0
    assert Embedder(output, 'cpu').cameras == {'door': 18, 'yard': 18, 'hall': 16}
    text = (output / 'README.md').read_text()
    assert text.count('## Cameras') == 1 and '| hall | 16 |' in text and text.count('## Limits') == 1
    assert main(['card', str(output)]) == 0 and '| hall | 16 |' in (output / 'README.md').read_text()


def test_cameras_of_a_data_set(source, images, tmp_path, capsys):
    """Identities that a data set knows change nothing."""
    for i, path in enumerate(sorted(images.glob('*/*.png')) + sorted(images.glob('*/*/*.png'))):
        place = tmp_path / 'people' / 'train' / f'person{i % 3}' / path.relative_to(images).parts[0]
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).symlink_to(path)
    flags = ['-ds', 'folder', '--data-dir', tmp_path / 'people']
    assert adapt(source, *flags, '--output', tmp_path / 'a') == 0
    assert adapt(source, '--images', images, '--output', tmp_path / 'b') == 0
    one, two = (Embedder(tmp_path / name, 'cpu')._norms for name in 'ab')
    for camera in ('door', 'yard'):
        for found, expected in zip(one.statistics(camera), two.statistics(camera), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_model_without_batch_norms_says_so(images, tmp_path, caplog):
    make_model(tmp_path / 'model', 'convnext_atto', num_classes=0)
    assert adapt(tmp_path / 'model', '--images', images, '--output', tmp_path / 'out') == 0
    assert 'ConvNeXt has no batch norms' in caplog.text
    assert 'mean embedding, as the network has no batch norms, learnt' in (tmp_path / 'out' / 'README.md').read_text()


def people(folder):
    for person in ('anna', 'ben', 'cleo'):
        for camera in ('door', 'yard'):
            (folder / person / camera).mkdir(parents=True)
            Image.new('RGB', (32, 64)).save(folder / person / camera / 'a.png')


def loose(folder):
    Image.new('RGB', (32, 64)).save(folder / 'a.png')


def empty_camera(folder):
    (folder / 'door').mkdir()
    Image.new('RGB', (32, 64), 'red').save(folder / 'door' / 'a.png')
    (folder / 'yard' / 'track').mkdir(parents=True)


def one_colour(folder):
    (folder / 'door').mkdir()
    Image.new('RGB', (32, 64), 'red').save(folder / 'door' / 'a.png')


def broken(folder):
    (folder / 'door').mkdir()
    (folder / 'door' / 'a.png').write_bytes(b'none')


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda folder: None, 'holds no images'),
        (people, 'look like <identity>/<camera>/'),
        (loose, 'a.png: expected images in'),
        (empty_camera, 'yard holds no images'),
        (one_colour, "camera 'door': its images are all of one colour"),
        (broken, 'door/a.png: cannot read this image'),
    ],
)
def test_wrong_images(source, tmp_path, capsys, make, message):
    (tmp_path / 'images').mkdir()
    make(tmp_path / 'images')
    assert adapt(source, '--images', tmp_path / 'images', '--output', tmp_path / 'out') == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ([], 'either by --images DIR or by -ds DATASET'),
        (['--images', 'x', '-ds', 'sample'], 'either by --images DIR or by -ds DATASET'),
        (['--images', 'x', '--data-dir', 'y'], 'leave them out with --images'),
        (['--images', 'no/such'], 'no/such is no folder'),
        (['-ds', 'nonsense'], "unknown data set 'nonsense'"),
    ],
)
def test_wrong_flags(source, tmp_path, capsys, flags, message):
    assert adapt(source, *flags, '--output', tmp_path / 'out') == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_an_output_that_holds_something_else(source, images, tmp_path, capsys):
    make_model(tmp_path / 'other', seed=1)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'notes.txt').touch()
    for output, message in (
        (tmp_path / 'other', 'holds another model or other weights'),
        (tmp_path / 'full', 'is no model folder'),
        (source, 'calibration.json: its threshold does not hold'),
    ):
        before = sorted(output.rglob('*'))
        assert adapt(source, '--images', images, '--output', output) == 2
        assert message in capsys.readouterr().err and sorted(output.rglob('*')) == before


def test_images_without_cameras(source, images, tmp_path, capsys):
    (tmp_path / 'people').mkdir()
    (tmp_path / 'people' / 'train').symlink_to(images)
    flags = ['-ds', 'folder', '--data-dir', tmp_path / 'people', '--data-option', 'pattern=(?P<identity>\\d+)']
    assert adapt(source, *flags, '--output', tmp_path / 'out') == 2
    assert '00.png has no camera' in capsys.readouterr().err


def test_verify_finds_cameras_of_other_weights(source, images, tmp_path, capsys):
    adapt(source, '--images', images, '--output', tmp_path / 'out')
    torch.manual_seed(1)
    save_folder(timm.create_model('msinet_x0_25', num_classes=0), tmp_path / 'out', SMALL)
    (tmp_path / 'out' / 'example.safetensors').unlink()
    assert main(['verify', str(tmp_path / 'out')]) == 1
    assert 'cameras        WRONG' in capsys.readouterr().out
    assert main(['verify', str(source)]) == 0
    assert 'cameras' not in capsys.readouterr().out


def test_publish_leaves_cameras_at_home(hub, source, images, tmp_path, capsys, caplog):
    """They tell of a site: they go to the Hub on demand only, and what was there is taken back."""
    caplog.set_level(logging.INFO)
    output, repository = tmp_path / 'out', 'me/site'
    adapt(source, '--images', images, '--output', output)
    write_config(output, read_config(output) | {'camera_norm': True})
    flags = ['publish', str(output), '--repo', repository, '--private']
    assert main(flags) == 0 and load_model(f'hf-hub:{repository}').camera_norm
    files = hub.files(repository)
    assert files.keys() == WRITTEN - {FILE_NAME} | {'preview.png'}
    assert (
        b'Cameras' not in files['README.md'] and b'yard' not in files['README.md'] and b'Limits' in files['README.md']
    )
    assert 'cameras.safetensors stays here' in caplog.text and '| yard |' in (output / 'README.md').read_text()
    assert not Embedder(f'hf-hub:{repository}', 'cpu').cameras
    assert main([*flags, '--cameras']) == 0
    files = hub.files(repository)
    assert FILE_NAME in files and b'| yard | 18 |' in files['README.md']
    assert f"Embedder('hf-hub:{repository}')".encode() in files['README.md']
    assert Embedder(f'hf-hub:{repository}', 'cpu').cameras == {'door': 18, 'yard': 18}
    assert main(['verify', f'hf-hub:{repository}']) == 0
    assert 'door (18), yard (18)' in capsys.readouterr().out
    assert adapt(f'hf-hub:{repository}', '--images', images, '--output', tmp_path / 'again', '--crops', 16) == 0
    assert '| yard | 16 |' in (tmp_path / 'again' / 'README.md').read_text()
    assert main(['publish', str(source), '--repo', 'me/other', '--private', '--cameras']) == 2
    assert 'knows no cameras' in capsys.readouterr().err


def test_the_hash_is_of_what_embeds(source, images, tmp_path):
    """Classifiers play no part: a folder with them takes the cameras of one without."""
    adapt(source, '--images', images, '--output', tmp_path / 'out')
    with_classes = tmp_path / 'classes'
    make_model(with_classes, num_classes=5)
    (with_classes / FILE_NAME).write_bytes((tmp_path / 'out' / FILE_NAME).read_bytes())
    assert Embedder(with_classes, 'cpu').cameras == {'door': 18, 'yard': 18}
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['num_classes'] == 0
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    assert CameraNorms.load(tmp_path / 'out', model).counts == {'door': 18, 'yard': 18}


def test_a_folder_with_classifiers_is_adapted_in_place(source, images, capsys, tmp_path):
    make_model(tmp_path / 'classes', num_classes=5)
    assert adapt(tmp_path / 'classes', '--images', images, '--output', tmp_path / 'classes') == 0
    assert main(['verify', str(tmp_path / 'classes')]) == 0
    assert 'example        ok' in capsys.readouterr().out


def test_a_hub_that_does_not_answer(hub, source, images, tmp_path, caplog, monkeypatch):
    """Whether there are cameras is what it said earlier; if it was never asked, that is said."""
    output = tmp_path / 'out'
    adapt(source, '--images', images, '--output', output)
    for name, flags in (('me/plain', []), ('me/site', ['--cameras'])):
        assert main(['publish', str(output), '--repo', name, '--private', *flags]) == 0
    Embedder('hf-hub:me/plain', 'cpu')
    timm.create_model('hf-hub:me/site', pretrained=True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    caplog.clear()
    assert not Embedder('hf-hub:me/plain', 'cpu').cameras and 'not known' not in caplog.text
    assert not Embedder('hf-hub:me/site', 'cpu').cameras
    assert 'hf-hub:me/site: the Hub does not answer: whether it has cameras.safetensors is not known' in caplog.text


def test_size_of_the_input(tmp_path, capsys):
    """It is the model's own however small crops are; one that is given counts; known cameras keep theirs."""
    for camera in ('door', 'yard'):
        (tmp_path / 'site' / camera).mkdir(parents=True)
        for record in create_dataset('sample').train[:16]:
            name = Path(record.path).with_suffix('.png').name
            Image.open(record.path).resize((64, 128)).save(tmp_path / 'site' / camera / name)
    save_folder(timm.create_model('msinet_x0_25.market1501', num_classes=0), tmp_path / 'whole')
    flags = ['adapt', str(tmp_path / 'whole'), '--images', str(tmp_path / 'site'), '--workers', '0', '--device', 'cpu']
    assert main([*flags, '--output', str(tmp_path / 'small'), '--height', '128', '--width', '64']) == 0
    assert read_config(tmp_path / 'small')['pretrained_cfg']['input_size'] == [3, 128, 64]
    assert Embedder(tmp_path / 'small', device='cpu').data_config['input_size'] == (3, 128, 64)
    assert main([*flags, '--output', str(tmp_path / 'own')]) == 0
    assert read_config(tmp_path / 'own')['pretrained_cfg']['input_size'] == [3, 256, 128]
    capsys.readouterr()
    again = ['adapt', str(tmp_path / 'small'), *flags[2:]]
    assert main([*again, '--output', str(tmp_path / 'more'), '--height', '64']) == 2
    assert 'height and width are for a model without cameras' in capsys.readouterr().err
    assert main([*again, '--output', str(tmp_path / 'more')]) == 0
    assert read_config(tmp_path / 'more')['pretrained_cfg']['input_size'] == [3, 128, 64]


def test_adapting_once_more_keeps_size_and_cameras(tmp_path):
    """Into a folder that was written with another size: that size, and the cameras that it knows."""
    for camera in ('door', 'yard'):
        (tmp_path / camera / camera).mkdir(parents=True)
        for record in create_dataset('sample').train[:4]:
            name = Path(record.path).with_suffix('.png').name
            Image.open(record.path).resize((64, 128)).save(tmp_path / camera / camera / name)
    save_folder(timm.create_model('msinet_x0_25.market1501', num_classes=0), whole := tmp_path / 'whole')
    flags = ['--workers', '0', '--device', 'cpu', '--output', str(tmp_path / 'out')]
    assert (
        main(['adapt', str(whole), '--images', str(tmp_path / 'door'), *flags, '--height', '128', '--width', '64']) == 0
    )
    assert main(['adapt', str(whole), '--images', str(tmp_path / 'yard'), *flags]) == 0
    assert read_config(tmp_path / 'out')['pretrained_cfg']['input_size'] == [3, 128, 64]
    embedder = Embedder(tmp_path / 'out', device='cpu')
    assert sorted(embedder.cameras) == ['door', 'yard']
    half = Embedder(whole, device='cpu')
    half.adapt({'door': sorted((tmp_path / 'door' / 'door').iterdir())})
    with pytest.raises(InputError, match='prepares images otherwise'):
        half.save(tmp_path / 'out')
