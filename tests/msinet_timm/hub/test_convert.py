"""Published checkpoints into model folders, and model folders into the package."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config

import msinet_timm
from msinet_timm.cli.hub import main
from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.images import load_image
from msinet_timm.hub.convert import ship
from msinet_timm.hub.folder import save_folder
from msinet_timm.hub.verify import verify
from msinet_timm.models.entries import entries_folder, load_entries, sha256_of
from msinet_timm.models.weights import _PUBLISHED_CELL, _PUBLISHED_TRUNK

NAME = 'msinet_x0_25.market1501'


def published(model):
    """The names of the published implementation for a model's tensors."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name == 'centre':  # which is no part of it
            continue
        part, own = max(
            ((p, o) for p, o in _PUBLISHED_TRUNK.items() if name.startswith(f'{o}.')), key=lambda x: len(x[1])
        )
        rest = name[len(own) + 1 :]
        if part.startswith('cells.'):
            pieces = [(p, o) for p, o in _PUBLISHED_CELL.items() if rest.startswith(f'{o}.')]
            if pieces:
                cell, found = max(pieces, key=lambda x: len(x[1]))
                rest = cell + rest[len(found) :].replace('.pointwise.', '.conv1.').replace('.depthwise.', '.conv2.')
        state[f'module.{part}.{rest}'] = tensor
    return state


def create(num_classes, name='msinet_x0_25'):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=num_classes).eval()


def output(model):
    with torch.no_grad():
        return model.eval()(torch.linspace(-1, 1, 3 * 64 * 32).view(1, 3, 64, 32))


@pytest.mark.parametrize('wrapped', [False, True])
def test_convert(tmp_path, capsys, wrapped):
    """ImageNet's classifier stays, and the local branch that its weights lack is the same at every conversion."""
    model = create(1000)
    state = {k: v for k, v in published(model).items() if not k.startswith('module.f_')}
    torch.save({'state_dict': state, 'epoch': 3} if wrapped else state, tmp_path / 'weights.pth.tar')
    assert main(['convert', str(tmp_path / 'weights.pth.tar')]) == 0
    folder = tmp_path / 'weights'
    assert capsys.readouterr().out.strip() == f"timm.create_model('local-dir:{folder}', pretrained=True)"
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    assert loaded.num_classes == 1000 and loaded.pretrained_cfg['input_size'] == (3, 256, 128)
    assert torch.equal(loaded.global_classifier.weight, model.global_classifier.weight)
    assert not loaded.local_classifier.weight.any() and loaded.lateral.weight.std() > 0.01
    assert main(['convert', str(tmp_path / 'weights.pth.tar'), '--output', str(tmp_path / 'again')]) == 0
    assert sha256_of(folder / 'model.safetensors') == sha256_of(tmp_path / 'again' / 'model.safetensors')
    assert [c.passed for c in verify(str(folder))] == [None, True, None, True]


@pytest.mark.parametrize('names', [published, lambda model: model.state_dict()])
def test_convert_of_identities(tmp_path, caplog, names):
    caplog.set_level('INFO')
    model = create(7)
    torch.save(names(model), tmp_path / 'a.pth')
    assert main(['convert', str(tmp_path / 'a.pth'), '--model', 'msinet_x0_25']) == 0
    loaded = timm.create_model(f'local-dir:{tmp_path}/a', pretrained=True)
    assert 'classifier of 7 classes is left out' in caplog.text
    model.reset_classifier(0)
    assert torch.equal(output(loaded), output(model))


def test_convert_takes_the_preprocessing_of_the_model(tmp_path):
    torch.save(published(create(7, 'msinet_x1_0')), tmp_path / 'a.pth')
    assert main(['convert', str(tmp_path / 'a.pth'), '--model', 'msinet_x1_0.veri776']) == 0
    config = json.loads((tmp_path / 'a' / 'config.json').read_text())
    assert config['pretrained_cfg']['input_size'] == [3, 256, 256] and config['num_classes'] == 0


class Unsafe:
    def __reduce__(self):
        return os.mkdir, ('executed',)


def test_convert_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def refused(message, *flags):
        assert main(['convert', *flags]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()

    refused('no.pth: no such checkpoint', 'no.pth')
    with open('unsafe.pth', 'wb') as file:
        pickle.dump({'state_dict': Unsafe()}, file, protocol=2)
    refused('unsafe.pth: cannot be read as tensors alone', 'unsafe.pth', '--output', 'out')
    assert not (tmp_path / 'executed').exists()
    torch.save(timm.create_model('test_resnet').state_dict(), 'other.pth')
    refused('other.pth: no checkpoint of MSINet', 'other.pth', '--output', 'out')
    torch.save(timm.create_model('msinet_x0_25', genotype=['none'] * 12).state_dict(), 'none.pth')
    refused('none.pth: the checkpoint does not fit MSINet', 'none.pth', '--output', 'out')
    torch.save(timm.create_model('msinet_x0_25', widths=(20, 64, 96, 128)).state_dict(), 'odd.pth')
    refused('a stem of 20 channels', 'odd.pth', '--output', 'out')
    refused('it was taken for msinet_x0_5: say by --model', 'odd.pth', '--output', 'out', '--model', 'msinet_x0_5')
    refused('--model resnet18: give one of msinet_', 'odd.pth', '--output', 'out', '--model', 'resnet18')
    (tmp_path / 'odd').mkdir()
    (tmp_path / 'odd' / 'mine').touch()
    refused('odd: exists already', 'odd.pth')


@pytest.fixture
def package(tmp_path):
    root = tmp_path / 'site'
    ignored = shutil.ignore_patterns('__pycache__', 'sample', 'render', '*.safetensors')
    shutil.copytree(Path(msinet_timm.__file__).parent, root / 'msinet_timm', ignore=ignored)
    shutil.copytree(entries_folder(), root / 'msinet_timm' / 'hub_configs', ignore=ignored)
    return root / 'msinet_timm' / 'hub_configs'


@pytest.mark.slow
def test_ship(tmp_path, package, capsys):
    """Shipped weights load offline, by the bare name, as float32, and only if they are the recorded ones."""
    model = create(0)
    save_folder(model, tmp_path / 'run' / 'best', {'input_size': (3, 64, 32)})
    assert main(['ship', str(tmp_path / 'run'), '--name', NAME, '--package', str(package)]) == 0
    entry = load_entries(package)[NAME]
    assert capsys.readouterr().out.split() == [str(package / f'{NAME}.json'), str(entry.weights)]
    assert entry.sha256 == sha256_of(entry.weights) and entry.preprocessing['input_size'] == [3, 64, 32]
    shipped = load_file(entry.weights)
    assert shipped['lateral.weight'].dtype == torch.float16
    assert shipped['stem.conv.weight'].dtype == shipped['stem.bn.running_var'].dtype == torch.float32
    script = f"""
import json, sys, timm, torch, msinet_timm
from msinet_timm.cli.hub import main
from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.images import load_image
from pathlib import Path
model = timm.create_model({NAME!r}, pretrained=True).eval()
assert {{p.dtype for p in model.parameters()}} == {{torch.float32}}
with torch.no_grad():
    out = model(torch.linspace(-1, 1, 3 * 64 * 32).view(1, 3, 64, 32)).flatten().tolist()
assert main(['verify', {NAME!r}]) == 0
shapes = [timm.create_model({NAME!r}, pretrained=True, num_classes=5)(torch.ones(2, 3, 64, 32)).shape[1]]
grey = timm.create_model({NAME!r}, pretrained=True, in_chans=1, features_only=True)(torch.ones(2, 1, 64, 32))
shapes += [m.shape[1] for m in grey]
listed = timm.list_pretrained('msinet*')
weights = Path({str(entry.weights)!r})
data = bytearray(weights.read_bytes())
data[-3] ^= 1
weights.write_bytes(data)
try:
    timm.create_model({NAME!r}, pretrained=True)
    error = ''
except RuntimeError as e:
    error = str(e)
code = main(['verify', {NAME!r}])
print(json.dumps([out, shapes, listed, error, code]))
"""
    environment = {**os.environ, 'PYTHONPATH': str(package.parent.parent), 'OMP_NUM_THREADS': '1'}
    environment |= {'HF_ENDPOINT': 'http://127.0.0.1:9', 'HF_HOME': str(tmp_path / 'home')}
    result = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    out, shapes, listed, error, code = json.loads(result.stdout.splitlines()[-1])
    expected, out = output(model)[0], torch.tensor(out)
    expected[: model.global_width] -= shipped['centre']  # see `_centre`
    expected[model.global_width :] += shipped['lateral.bias'].sub(model.lateral.bias).repeat(2)
    found, expected = (torch.nn.functional.normalize(x, dim=0) for x in (out, expected))
    assert 0 < (found - expected).norm() < 1e-2
    assert shapes == [5, 16, 64, 96, 128, 128] and listed == [NAME] and code == 1
    assert f'but hub_configs/{NAME}.json records {entry.sha256}' in error


def test_what_features_have_in_common_does_not_ship(tmp_path, package):
    torch.manual_seed(0)
    model = create(0)
    with torch.no_grad():
        model.lateral.bias += 3 * torch.randn(128)
        model.local_neck.bn.running_mean += torch.randn(256)
    save_folder(model, tmp_path / 'm')
    shipped = create(0)
    shipped.load_state_dict(load_file(ship(tmp_path / 'm', NAME, package).weights))
    transform = create_transform(**resolve_data_config(model=model))
    images = torch.stack([transform(load_image(r.path)) for r in create_dataset('sample').train[::5]])
    with torch.inference_mode():
        before, after = (m.eval().forward_branches(images, neck_features=True) for m in (model, shipped))
    common = [
        torch.stack([b.global_feature.mean(0).norm(), b.local_feature.unflatten(1, (2, -1)).mean((0, 1)).norm()])
        for b in (before, after)
    ]
    assert (common[1] < 0.05 * common[0]).all()
    for shift in (before.global_feature - after.global_feature, before.local_feature - after.local_feature):
        assert torch.allclose(shift, shift.mean(0).expand_as(shift), atol=2e-2)  # ranks by distance stay
    assert torch.allclose(before.neck_features, after.neck_features, atol=2e-2)


def test_ship_refuses(tmp_path, package, monkeypatch, capsys):
    folder = tmp_path / 'm'

    def refused(message, name=NAME):
        assert main(['ship', str(folder), '--name', name, '--package', str(package)]) == 2
        assert message in capsys.readouterr().err
        assert not list((package / 'weights').glob(f'{NAME}*')) and load_entries(package)[NAME].sha256 is None

    save_folder(create(0), folder)
    refused('has no entry of this name', 'msinet_x0_25.nothing')
    refused('holds another network than msinet_x1_0.sample', 'msinet_x1_0.sample')
    monkeypatch.setattr('msinet_timm.hub.convert.LARGEST', 100_000)
    refused('in half precision, but 100,000 at most ship')
    monkeypatch.undo()
    model = create(0)
    with torch.no_grad():
        shortcut = model.stages[4][0].shortcut
        shortcut.conv.weight *= 1e-8  # lost in half precision, while the norm behind it brings it back
        shortcut.bn.running_var *= 1e-16
        shortcut.bn.weight *= 3e5
    save_folder(model, folder)
    refused('half precision moves embeddings by')


def test_the_published_size_can_ship(tmp_path, package):
    """2.3 M parameters fit into 5 MB."""
    save_folder(create(0, 'msinet_x1_0'), tmp_path / 'm')
    entry = ship(tmp_path / 'm', 'msinet_x1_0.sample', package)
    assert 4_000_000 < entry.size < 5_000_000
