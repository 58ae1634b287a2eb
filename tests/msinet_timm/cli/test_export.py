"""`msinet-hub export` as users call it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from msinet_eval.commands.hub import main
from msinet_eval.features.extract import reid_data_config
from msinet_timm.cli.export import speed_ratio
from msinet_timm.cli.hub import main as zoo_main
from msinet_timm.datasets import create_dataset
from msinet_timm.export.formats import load_exported
from msinet_timm.hub.folder import save_folder
from msinet_timm.models.camera_norm import CameraNorms
from msinet_timm.models.entries import sha256_of


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A run's folder; its model has classifiers."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('runs') / 'mine'
    model = timm.create_model('test_resnet', num_classes=5)
    save_folder(model, path / 'best', reid_data_config(model, 64, 32))
    return path


@pytest.fixture
def sample(tmp_path):
    """The sample's first identities as a data set of their own."""
    found = create_dataset('sample')
    identities = sorted({r.identity for r in found.query})[:3]
    for part in ('query', 'gallery'):
        target = tmp_path / 'data' / part
        for record in getattr(found, part):
            if record.identity in identities:
                folder = target / str(record.identity)
                folder.mkdir(parents=True, exist_ok=True)
                Image.open(record.path).save(folder / f'c{record.camera}_{Path(record.path).stem}.png')
    return tmp_path / 'data'


def export(*flags):
    return main(['export', *map(str, flags)])


def test_run_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export(folder, '--format', 'torchscript') == 0
    assert capsys.readouterr().out.startswith('mine.pt: ')
    exported = load_exported('mine.pt')
    model = timm.create_model(f'local-dir:{folder}/best', pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-5)
    facts = exported.metadata
    assert facts['weights_sha256'] == sha256_of(folder / 'best' / 'model.safetensors')
    assert facts['source'] == str(folder) and facts['preprocessing']['input_size'] == [3, 64, 32]

    assert export(f'local-dir:{folder}', '--format', 'torchscript') == 2
    assert 'mine.pt exists' in capsys.readouterr().err
    assert export(folder, '--format', 'torchscript', '--force', '--preprocessing', '--precision', 'bf16') == 0
    assert Path('mine-bf16.pt').is_file()
    facts = load_exported('mine-bf16.pt').metadata
    assert (facts['input']['dtype'], facts['precision']) == ('uint8', 'bf16')


def test_flags(folder, tmp_path, capsys):
    cases = [
        (['--precision', 'bf16', '--format', 'onnx'], 'has no bf16'),
        (['--calibration-images', tmp_path], 'is for --int8'),
        (['--calibration-count', 3], 'is for --int8'),
        (['--int8'], '--int8 needs --calibration-images'),
        (['--int8', '--calibration-images', tmp_path], '--int8 is for the formats onnx and openvino'),
        (['--int8', '--calibration-images', tmp_path, '--format', 'onnx', '--output', 'x.onnx'], 'no images in it'),
        (['--data-dir', tmp_path], 'name it by --dataset'),
        (['--dataset', 'nothing'], "unknown data set 'nothing'"),
        (['--preprocessing', '--dynamic-size'], 'leave out --dynamic-size'),
        (['--output', tmp_path / 'x.onnx'], 'must end in .pt'),
        (['--images', tmp_path / 'none', '--output', tmp_path / 'x.pt'], 'no such folder of images'),
    ]
    for flags, message in cases:
        assert export(folder, '--format', 'torchscript', *flags) == 2
        assert message in capsys.readouterr().err
    assert export('msinet_x9', '--format', 'onnx') == 2
    assert 'give a folder' in capsys.readouterr().err


def test_for_a_program(folder, site, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export(folder, '--for', 'boxmot') == 0
    assert export(site, '--for', 'boxmot', '--camera', 'a/b') == 0
    assert export(folder, '--for', 'roboflow') == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith('mine-roboflow: after import msinet_timm, ')
    names = ('mine-boxmot.torchscript', 'site-a_b-boxmot.torchscript')
    made = {'mine-roboflow', *names, *(f'{name}.metadata.json' for name in names)}
    assert {path.name for path in tmp_path.iterdir()} == made
    images = torch.randn(2, 3, 64, 32)
    model = timm.create_model(f'local-dir:{folder}/best', pretrained=True, num_classes=0).eval()
    own = timm.data.resolve_data_config(model=model)  # 0.5, where boxmot takes ImageNet's
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    with torch.no_grad():
        expected = model((images * std + mean - own['mean'][0]) / own['std'][0])
    torch.testing.assert_close(load_exported(names[0])(images), expected, rtol=1e-4, atol=1e-5)
    assert load_exported(names[1]).metadata['camera'] == 'a/b'


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ('--for boxmot --precision bf16', 'boxmot feeds float32 and reads no bf16 file: leave out --precision'),
        ('--for opencv --int8 --calibration-images .', 'opencv reads float32 files: leave out --int8'),
        ('--for ultralytics --preprocessing', 'ultralytics resizes and scales images itself'),
        ('--for deepstream-onnx --dynamic-size', 'deepstream-onnx takes the size of images from the file'),
        ('--for boxmot --cameras', 'boxmot feeds images alone: give --camera NAME'),
        ('--for boxmot --output x.pt', 'must end in .torchscript'),
        ('--for roboflow --precision bf16', 'roboflow feeds float32 and reads no bf16 file'),
        ('--for roboflow --camera door', '--camera: roboflow reads weights, no exported file'),
        ('--for roboflow --images .', '--images: roboflow reads weights'),
        ('--for roboflow -ds sample', '--dataset: roboflow reads weights'),
        ('--for roboflow --output config.json', 'config.json is a file: roboflow reads a folder'),
        ('--for roboflow --output full', 'reid_config.json exists: give another folder, or --force'),
        ('--for tensorrt', "invalid choice: 'tensorrt'"),
        ('--for boxmot --format onnx', 'not allowed with argument --for'),
        ('', 'one of the arguments --format --for is required'),
    ],
)
def test_flags_of_a_program(folder, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'config.json').touch()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'reid_config.json').touch()
    try:
        code = export(folder, *flags.split())
    except SystemExit as e:  # argparse's own
        code = e.code
    assert code == 2 and message in capsys.readouterr().err


@pytest.fixture(scope='module')
def site(folder, tmp_path_factory):
    """A copy of the folder that knows two cameras."""
    path = tmp_path_factory.mktemp('models') / 'site'
    shutil.copytree(folder / 'best', path)
    model = timm.create_model(f'local-dir:{path}', pretrained=True, num_classes=0).eval()
    norms = CameraNorms(model)
    for number, name in enumerate(('front door', 'a/b'), 1):
        norms.observe(name, number * torch.randn(20, 3, 64, 32) - number)
    norms.save(path)
    return path


def test_cameras(site, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export(site, '--format', 'torchscript', '--cameras') == 0
    assert export(site, '--format', 'torchscript', '--camera', 'a/b') == 0
    both, one = capsys.readouterr().out.splitlines()
    assert both.startswith('site-cameras.pt: ') and both.endswith(', cameras 0 front door, 1 a/b, 2 any other')
    assert one.startswith('site-a_b.pt: ') and one.endswith(', of camera a/b')
    images = torch.randn(2, 3, 64, 32)
    found = load_exported('site-cameras.pt')(images, cameras=['a/b', 'front door'])
    torch.testing.assert_close(load_exported('site-a_b.pt')(images)[0], found[0], rtol=1e-4, atol=1e-5)
    assert (load_exported('site-a_b.pt')(images)[1] - found[1]).abs().max() > 1e-3
    for name, flags, message in (
        (site, ['--camera', 'yard'], "camera 'yard' is not known, choose from: front door, a/b"),
        (folder, ['--camera', 'yard'], f'{folder} knows no cameras (cameras.safetensors)'),
        (folder, ['--cameras'], 'make it by msinet-hub adapt'),
        (site, ['--cameras', '--int8', '--calibration-images', tmp_path, '--format', 'onnx'], 'one camera a file'),
        (site, ['--cameras', '-ds', 'sample'], 'leave out --camera and --cameras'),
    ):
        assert export(name, '--format', 'torchscript', *flags, '--output', 'x.pt') == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export(site, '--format', 'torchscript', '--cameras', '--camera', 'a/b')
    assert 'argument --camera: not allowed with argument --cameras' in capsys.readouterr().err
    assert not Path('x.pt').exists()


def test_own_images_decide(folder, tmp_path, capsys):
    """What the file is compared on is the folder that is named: a broken image in it is found."""
    (tmp_path / 'a.jpg').write_bytes(b'no image')
    assert export(folder, '--format', 'torchscript', '--output', tmp_path / 'x.pt', '--images', tmp_path) == 2
    assert 'a.jpg: cannot read this image' in capsys.readouterr().err


@pytest.mark.slow
def test_int8(folder, tmp_path, sample, capsys):
    path = tmp_path / 'x.xml'
    flags = ('--int8', '--calibration-images', sample, '--calibration-count', 6, '--output', path)
    assert export(folder, '--format', 'openvino', *flags, '-ds', 'folder', '--data-dir', sample) == 0
    size, gain, calibrated, accuracy = capsys.readouterr().out.splitlines()
    assert size.startswith(f'{path}: ') and 'int8' in size
    # of a network as small as this the names are the most
    assert 0 < float(gain.split('format: ')[1].split(' of the size')[0]) < 2 and ' times as fast' in gain
    assert calibrated == 'calibrated on 6 images'
    found, right = (float(part.split(' %')[0].split()[-1]) for part in accuracy.split(', '))
    assert 0 < right <= 100 and abs(found - right) < 20
    assert load_exported(path).metadata['calibration_images'] == 6
    assert load_exported(path).metadata['weights_sha256']


def test_accuracy_of_a_file_with_preprocessing(folder, tmp_path, sample, capsys):
    flags = ('--output', tmp_path / 'x.pt', '--preprocessing', '-ds', 'folder', '--data-dir', sample)
    assert export(folder, '--format', 'torchscript', *flags) == 0
    assert 'mAP on folder' in (line := capsys.readouterr().out.splitlines()[-1]) and '+0.00 points' in line


def test_without_the_evaluation_no_data_set_can_be_named(capsys):
    assert zoo_main(['export', 'x', '--format', 'onnx', '--int8']) == 2  # the error of a flag that it has
    capsys.readouterr()
    with pytest.raises(SystemExit):
        zoo_main(['export', 'x', '--format', 'onnx', '-ds', 'sample'])
    assert 'unrecognized arguments: -ds sample' in capsys.readouterr().err


def test_speed_ratio(monkeypatch):
    now = 0

    def model(seconds):
        def run(images):
            nonlocal now
            now += seconds

        return run

    monkeypatch.setattr('msinet_timm.benchmark.timing.time', SimpleNamespace(perf_counter=lambda: now))
    assert speed_ratio(model(6), model(2), torch.zeros(1)) == 3
