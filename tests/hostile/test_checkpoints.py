"""Files that people have where weights, settings or features are expected."""

import argparse
import collections
import json
import pathlib
import pickle
import shutil
import struct

import numpy as np
import pytest
import timm
import torch
from hostile import refused, run
from PIL import Image
from safetensors.torch import load_file, save_file

from msinet_eval.cli import main as evaluate
from msinet_eval.features.types import Features
from msinet_timm.cli.data import main as data
from msinet_timm.cli.hub import main as hub
from msinet_timm.datasets import Record
from msinet_timm.hub.folder import save_folder, write_example
from msinet_train import train as train_a_model
from msinet_train.cli import main as train
from msinet_train.search.cli import main as search
from msinet_train.settings import TrainSettings

POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n'
DEEP = '[' * 100_000 + ']' * 100_000
NAME = 'layer1.0.conv1.weight'


@pytest.fixture(scope='module')
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model('test_resnet', num_classes=0).eval()


@pytest.fixture(scope='module')
def sound(model, tmp_path_factory):
    """A model folder, an image, and features."""
    root = tmp_path_factory.mktemp('sound')
    save_folder(model, root / 'model')
    write_example(model, root / 'model' / 'example.safetensors')
    Image.new('RGB', (24, 48), (99, 20, 200)).save(root / 'a.jpg')
    return root


@pytest.fixture
def place(sound, tmp_path, monkeypatch):
    """A folder with copies of what is sound, to work in."""
    for path in sound.rglob('*'):
        if path.is_file():
            target = tmp_path / path.relative_to(sound)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pair(*flags):
    return ('pair', 'a.jpg', 'a.jpg', '--threshold', 1, '--device', 'cpu', *flags)


def beside(state):
    """What trainings of other toolboxes keep: torchreid's rank1 is a number of numpy."""
    return {
        'numpy': {'state_dict': state, 'epoch': 60, 'rank1': np.float64(0.93), 'optimizer': {'lr': np.float32(1)}},
        'array': {'state_dict': state, 'cmc': np.linspace(0, 1, 5), 'names': np.array(['a', 'b']), 'n': np.int64(3)},
        'arguments': {'model': state, 'args': argparse.Namespace(lr=0.1, root=pathlib.PosixPath('/x'))},
        'flat': {**state, 'epoch': 3, 'best': np.float64(1)},
        'ordered': collections.OrderedDict(state),
        'net': {'net': {f'module.{name}': tensor for name, tensor in state.items()}, 'acc': 90.1},
        'nested': {'checkpoint': {'model': state}, 'step': 3},
        'averaged': {'state_dict': {k: v + 1 for k, v in state.items()}, 'state_dict_ema': state},
    }


ENDINGS = ('.pth.tar-60', '.model', '', '.safetensors.bak', '.pth')


@pytest.mark.parametrize('kind', sorted(beside({})))
def test_what_lies_beside_tensors(place, model, capsys, kind):
    torch.save(beside(model.state_dict())[kind], 'model.pth.tar-60')
    code, text = run(capsys, evaluate, *pair('--model', 'test_resnet', '--checkpoint', 'model.pth.tar-60'))
    assert code == 0 and 'distance 0.0000' in text


@pytest.mark.parametrize('ending', ENDINGS)
def test_any_ending(place, model, capsys, ending):
    for name, save in (('a', torch.save), ('b', save_file)):
        save(model.state_dict(), f'{name}{ending}')
        if ending == '.pth':  # the format before torch 1.6, too
            torch.save(model.state_dict(), f'{name}{ending}', _use_new_zipfile_serialization=name == 'b')
        assert run(capsys, evaluate, *pair('--model', 'test_resnet', '--checkpoint', f'{name}{ending}'))[0] == 0


class Foreign(torch.nn.Linear):
    """A class of some other program."""


class Settings:
    """Another."""


def script(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def numbers(path):
    np.savez(path.open('wb'), a=np.zeros(2))


def cut(path):
    torch.save({'a.b': torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:900])


#: A file's name, what makes it, and what the message says.
FILES = {
    'pointer.pth': (POINTER, 'git lfs pull'),
    'pointer.pth.tar-60': (POINTER, 'git lfs pull'),
    'pointer.safetensors': (POINTER, 'git lfs pull'),
    'page.pth': (b'\n<!DOCTYPE html><html>Sign in', 'web page'),
    'empty.pth': (b'', 'is empty'),
    'empty': (b'', 'checkpoints end in'),
    'text.txt': (b'hello', 'checkpoints end in'),
    'noise.pth': (bytes(range(256)) * 9, 'tensors alone'),
    'cut.pth': (cut, 'tensors alone'),
    'header.safetensors': (struct.pack('<Q', 2**60) + b'{"a"', 'tensors alone'),
    'deep.safetensors': (struct.pack('<Q', len(DEEP) + 5) + b'{"a":' + DEEP.encode(), 'tensors alone'),
    'script.pt': (script, 'TorchScript program'),
    'arrays.npz': (numbers, 'tensors alone'),
    'whole.pth': (lambda path: torch.save(Foreign(2, 2), path), ['whole model', 'Foreign', 'model.state_dict()']),
    'wrapped.pth': (lambda path: torch.save({'model': Foreign(2, 2)}, path), ['whole model', 'model.state_dict()']),
    'timm.pth': (lambda path: torch.save(timm.create_model('test_resnet'), path), ['whole model', 'not run']),
    'object.pth': (lambda path: torch.save({'a.b': torch.ones(1), 'c': Settings()}, path), ['Settings', 'not run']),
    'old.pth': (lambda path: path.write_bytes(pickle.dumps(Settings(), 2)), ['Settings']),
    'list.pth': (lambda path: torch.save([torch.zeros(2)], path), ['holds a list', 'model.state_dict()']),
    'tensor.pth': (lambda path: torch.save(torch.zeros(2, 3), path), ['a tensor [2, 3]', 'model.state_dict()']),
    'number.pth': (lambda path: torch.save(3, path), 'holds a int'),
    'nothing.pth': (lambda path: torch.save({}, path), 'no tensors by name'),
    'names.pth': (lambda path: torch.save({'epoch': 1, 'rank1': 0.9}, path), ['no tensors by name', 'epoch, rank1']),
    'several.pth': (
        lambda path: torch.save({'encoder': {'a.b': torch.ones(1)}, 'decoder': {'a.b': torch.ones(1)}}, path),
        ['several sets of tensors', 'encoder, decoder'],
    ),
}


@pytest.mark.parametrize('name', FILES)
def test_files_that_are_no_weights(place, capsys, name):
    content, names = FILES[name]
    path = place / name
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    names = [name, *([names] if isinstance(names, str) else names)]
    left = sorted(place.iterdir())
    refused(capsys, evaluate, *pair('--model', 'test_resnet', '--checkpoint', path), names=names)
    refused(capsys, evaluate, path, '-ds', 'sample', '--model', 'test_resnet', '--workers', 0, names=names)
    refused(capsys, hub, 'convert', path, '--output', 'out', names=names)
    assert sorted(place.iterdir()) == left


VALUES = {
    'NaN': (lambda t: t * torch.nan, [NAME, 'not finite']),
    'infinity': (lambda t: t.double() * 1e300, [NAME, 'not finite']),
    'complex': (lambda t: t + 1j, [NAME, 'complex']),
    'integers': (lambda t: t.long(), [NAME, 'int64 instead of float32']),
    'truth': (lambda t: t > 0, [NAME, 'bool']),
    'sparse': (lambda t: t.to_sparse(), [NAME]),
    'list': (lambda t: t.tolist(), [NAME, 'a list']),
    'text': (lambda t: 'weights', [NAME, 'a str']),
    'none': (lambda t: None, [NAME, 'NoneType']),
    'shape': (lambda t: t[:1], [NAME, 'of another shape']),
}


@pytest.mark.parametrize('kind', VALUES)
def test_values_of_checkpoints(place, model, capsys, kind):
    change, names = VALUES[kind]
    state = model.state_dict()
    torch.save({'state_dict': {**state, NAME: change(state[NAME])}}, 'w.pth')
    refused(capsys, evaluate, *pair('--model', 'test_resnet', '--checkpoint', 'w.pth'), names=['w.pth', *names])
    argv = ('--model', 'test_resnet', '--checkpoint', 'w.pth', '-ds', 'sample', '--output', 'run')
    refused(capsys, train, *argv, names=['w.pth', *names])
    assert not (place / 'run').exists()


@pytest.mark.parametrize('kind', ['NaN', 'complex', 'integers', 'truth', 'shape', 'pointer', 'empty'])
def test_values_of_folders(place, model, capsys, kind):
    path = place / 'model' / 'model.safetensors'
    if kind in ('pointer', 'empty'):
        path.write_bytes(POINTER if kind == 'pointer' else b'')
        names = ['git lfs pull' if kind == 'pointer' else 'cannot create model']
    else:
        state = load_file(path)
        save_file({**state, NAME: VALUES[kind][0](state[NAME]).contiguous()}, path)
        names = [] if kind == 'shape' else [NAME, 'model.safetensors']
    refused(capsys, evaluate, *pair('--model', 'model'), names=names)
    refused(capsys, hub, 'verify', 'model', names=[*names, 'WRONG'], code=1)


def test_a_stored_example_of_another_kind(place, model, capsys):
    example = place / 'model' / 'example.safetensors'
    stored = load_file(example)
    for change in ({'output': torch.full_like(stored['output'], torch.nan)}, {'output': torch.ones(3)}):
        save_file({**stored, **change}, example)
        refused(capsys, hub, 'verify', 'model', names='WRONG', code=1)
    for change in ({'input': torch.zeros(2)}, {'output': stored['output'].long()}, {'input': torch.zeros(2, 2, 3)}):
        save_file({**stored, **change}, example)
        refused(capsys, hub, 'verify', 'model', names='example.safetensors')
    save_file({**stored, 'input': stored['input'][..., 0].contiguous()}, example)
    refused(capsys, hub, 'verify', 'model', names='example.safetensors')


#: Fields of `pretrained_cfg`, and what the message names.
FIELDS = [
    ({'mean': [1]}, 'mean'),
    ({'mean': [0.5, float('nan'), 0.5]}, 'mean'),
    ({'mean': '0.5'}, 'mean'),
    ({'mean': ['0.5'] * 3}, 'mean'),
    ({'std': 0}, 'std'),
    ({'std': [0, 0.2, 0.2]}, 'std'),
    ({'std': [-1, 1, 1]}, 'std'),
    ({'input_size': '3x256x128'}, 'input_size'),
    ({'input_size': ['3', '256', '128']}, 'input_size'),
    ({'input_size': [3, 256]}, 'input_size'),
    ({'input_size': [3, 0, 128]}, 'input_size'),
    ({'input_size': [3, 10**9, 10**9]}, 'input_size'),
    ({'interpolation': 3}, 'interpolation'),
    ({'interpolation': 'best'}, 'interpolation'),
    ({'crop_pct': 'all'}, 'crop_pct'),
    ({'crop_pct': 0}, 'crop_pct'),
    ({'crop_mode': ['squash']}, 'crop_mode'),
    ({'num_classes': '751'}, 'num_classes'),
    ({'classifier': 5}, 'classifier'),
]
#: Whole configurations.
CONFIGS = [
    ('', 'config.json'),
    ('[]', 'names no architecture'),
    ('{"architecture": 5}', 'names no architecture'),
    ('{"architecture": "msinet_x0_25", "camera_norm": 1}', 'camera_norm: expected true or false'),
    ('{"architecture": "test_resnet", "pretrained_cfg": []}', 'pretrained_cfg'),
    ('{"architecture": "test_resnet", "pretrained_cfg": {}, "model_args": ["x"]}', 'model_args'),
    ('{"architecture": "test_resnet", "pretrained_cfg": {}, "num_classes": "many"}', 'num_classes'),
    ('{"architecture": "test_resnet", "pretrained_cfg": {}, "num_classes": ' + '9' * 5000 + '}', 'config.json'),
    ('{"architecture": ' + DEEP + '}', 'nested too deeply'),
    (POINTER.decode(), 'git lfs pull'),
    ('\ufeff{"architecture": 5}', 'names no architecture'),
]


@pytest.mark.parametrize(('fields', 'name'), FIELDS, ids=str)
def test_preprocessing(place, capsys, fields, name):
    path = place / 'model' / 'config.json'
    config = json.loads(path.read_text())
    config['pretrained_cfg'].update(fields)
    if name in config:
        config.update(fields)
    path.write_text(json.dumps(config))
    refused(capsys, evaluate, *pair('--model', 'model'), names=['config.json', name])
    refused(capsys, hub, 'verify', 'model', names=['config.json', name, 'WRONG'], code=1)
    refused(capsys, hub, 'card', 'model', names=['config.json', name])


@pytest.mark.parametrize(('text', 'names'), CONFIGS, ids=[c[0][:60] for c in CONFIGS])
def test_configurations(place, capsys, text, names):
    (place / 'model' / 'config.json').write_text(text, encoding='utf-8')
    refused(capsys, evaluate, *pair('--model', 'model'), names=['config.json', names])
    refused(capsys, hub, 'verify', 'model', names=['config.json', names], code=1)


#: JSON that no reader expects.
JSON = {
    'deep': DEEP,
    'deep object': '{"a":' * 50_000 + '1' + '}' * 50_000,
    'list': '[1]',
    'number': '7',
    'null': 'null',
    'text': '"a"',
    'empty': '',
    'binary': '\x00\x01\x02',
    'huge': '{"dim": 1e999, "threshold": 1' + '0' * 400 + '}',
    'nan': '{"dim": NaN, "shards": NaN, "settings": NaN, "threshold": NaN}',
    'pointer': POINTER.decode(),
}


def write_features(place):
    records = [Record(f'{n}.jpg', name, camera) for n, (name, camera) in enumerate(['ab', 'ac'])]
    for part, record in zip(('query', 'gallery'), records, strict=True):
        Features.of([record], torch.eye(1)).save(place / f'{part}.safetensors')


@pytest.mark.parametrize('kind', JSON)
def test_json_of_all_kinds(place, capsys, kind):
    write_features(place)
    for name in ('store', 'rendered', 'f'):
        (place / name).mkdir()
    for name in ('bounding_box_train', 'query', 'bounding_box_test'):
        (place / 'rendered' / name).mkdir()
        (place / 'rendered' / name / '0001_c1s1_000001_00.jpg').write_bytes((place / 'a.jpg').read_bytes())
    (place / 'f' / 'query.shards').mkdir()
    files = {
        'store/store.json': (evaluate, 'search', 'store', 'query.safetensors'),
        'model/calibration.json': (evaluate, 'pair', 'a.jpg', 'a.jpg', '--model', 'model'),
        'rendered/render.json': (data, 'check', 'rendered', 'rendered'),
        'g.json': (train, '--genotype', 'g.json', '-ds', 'sample', '--output', 'run'),
        'f/query.shards/key.json': (
            *(evaluate, 'color_histogram', '-ds', 'sample', '--features', 'f', '--workers', 0),
        ),
    }
    for file, (main, *argv) in files.items():
        (place / file).write_text(JSON[kind], encoding='utf-8')
        refused(capsys, main, *argv, names=file.replace('/key.json', '').rpartition('/')[2])
    assert not (place / 'run').exists()


@pytest.mark.parametrize(
    ('content', 'names'),
    [
        ({'dim': '1', 'shards': []}, "'1' must be a number"),
        ({'dim': -1, 'shards': []}, '-1 must be a number'),
        ({'dim': 1, 'shards': [['query.safetensors', '1', 9]]}, "'1' must be a number"),
        ({'dim': 1, 'shards': [[7, 1, 9]]}, '7 must be the name'),
        ({'dim': 1, 'shards': [['../query.safetensors', 1, 9]]}, 'must be the name'),
        ({'dim': 1, 'shards': [['query.safetensors']]}, 'store.json'),
        ({'dim': 1, 'shards': [['gone.safetensors', 1, 9]]}, 'is missing'),
    ],
    ids=str,
)
def test_lists_of_stores(place, capsys, content, names):
    write_features(place)
    (place / 'store').mkdir()
    (place / 'store' / 'store.json').write_text(json.dumps(content))
    refused(capsys, evaluate, 'search', 'store', 'query.safetensors', names=names)


ARRAYS = {
    'complex': np.ones((2, 2), complex),
    'names': np.array([['a', 'b']]),
    'objects': np.array([[None, {}]], object),
    'records': np.zeros(2, [('a', 'f4'), ('b', 'f4')]),
    'dates': np.zeros((2, 2), 'M8[s]'),
    'truth': np.ones((2, 2), bool),
    'one': np.float32(1),
    'nan': np.full((2, 2), np.nan, np.float32),
    'empty': np.zeros((0, 2), np.float32),
}
RAW = {
    'nothing': b'',
    'pointer': POINTER,
    'cut': b'\x93NUMPY\x01\x00v\x00{',
    'large': b'\x93NUMPY\x01\x00v\x00'
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999)}".ljust(118),
    'code': b'\x93NUMPY\x01\x00v\x00'
    + b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}".ljust(118),
    'pickle': pickle.dumps({'a': 1}),
}


@pytest.mark.parametrize('kind', [*ARRAYS, *RAW, 'several'])
def test_arrays(place, capsys, kind):
    write_features(place)
    path = place / 'e.npy'
    if kind == 'several':
        np.savez(path.open('wb'), a=np.ones((2, 2)), b=np.ones(2))
    elif kind in RAW:
        path.write_bytes(RAW[kind])
    else:
        np.save(path, ARRAYS[kind], allow_pickle=True)
    (place / 'l.csv').write_text('part,identity\nquery,a\nquery,b\ngallery,a\ngallery,b\n')
    refused(capsys, evaluate, '--embeddings', path, path, '--labels', 'l.csv', names='e.npy')
    if kind != 'nan':
        refused(capsys, evaluate, 'search', path, 'query.safetensors', names='e.npy')


def described(**texts):
    return {**{'identities': '["a", "b"]', 'paths': '["1.jpg", "2.jpg"]'}, **texts}


TENSORS = {'embeddings': torch.eye(2), 'identities': torch.tensor([0, 1])}
FEATURES = {
    'fewer paths': (TENSORS, described(paths='["1.jpg"]')),
    'numbers for names': (TENSORS, described(identities='[1, 2]')),
    'one text': (TENSORS, described(paths='"ab"')),
    'no list': (TENSORS, described(paths='7')),
    'deep': (TENSORS, described(paths=DEEP)),
    'beyond the names': ({**TENSORS, 'identities': torch.tensor([0, 5])}, described()),
    'fewer identities': ({**TENSORS, 'identities': torch.tensor([0])}, described()),
    'fractions': ({**TENSORS, 'identities': torch.tensor([0.5, 1])}, described()),
    'integers': ({**TENSORS, 'embeddings': torch.eye(2).long()}, described()),
    'one row': ({**TENSORS, 'embeddings': torch.ones(2)}, described()),
    'one number': ({**TENSORS, 'embeddings': torch.tensor(1.0)}, described()),
    'complex': ({**TENSORS, 'embeddings': torch.eye(2) + 0j}, described()),
    'boxes': ({**TENSORS, 'boxes': torch.ones(2)}, described()),
    'no embeddings': ({'identities': torch.tensor([0, 1])}, described()),
}


@pytest.mark.parametrize('kind', FEATURES)
def test_features(place, capsys, kind):
    tensors, texts = FEATURES[kind]
    (place / 'f').mkdir()
    for part in ('query', 'gallery'):
        save_file(tensors, place / 'f' / f'{part}.safetensors', metadata=texts)
    refused(capsys, evaluate, '--embeddings', 'f/query.safetensors', 'f/gallery.safetensors', names='query.safetensors')
    refused(capsys, evaluate, 'compare', 'f', 'f', names='query.safetensors')
    if kind != 'boxes':
        refused(capsys, evaluate, 'search', 'f', 'f', '-k', 1, names='.safetensors')


@pytest.mark.parametrize('name', ['x.safetensors', '5-2.safetensors', '000000000000-000000099999.safetensors'])
def test_shards_of_features(place, capsys, name):
    """Strange files among those of an extraction that was interrupted."""
    argv = ('color_histogram', '-ds', 'sample', '--features', 'f', '--workers', 0)
    (place / 'f' / 'query.shards').mkdir(parents=True)
    save_file({'embeddings': torch.eye(2)}, place / 'f' / 'query.shards' / name)
    refused(capsys, evaluate, *argv, names=name)
    assert (place / 'f' / 'query.shards' / name).exists()


#: Lists of lists, of which a text would fill the memory.
BOMB = 'a: &a [x,x,x,x,x,x,x,x,x]\n' + ''.join(
    f'{b}: &{b} [{",".join([f"*{a}"] * 9)}]\n' for a, b in zip('abcdefgh', 'bcdefghi', strict=True)
)
RECIPES = {
    'deep': (DEEP, 'r.yaml'),
    'deep object': ('{a: ' * 50_000 + '1' + '}' * 50_000, 'r.yaml'),
    'binary': (bytes(range(256)), 'r.yaml'),
    'weights': (b'PK\x03\x04' + bytes(99), 'r.yaml'),
    'latin': ('dataset: [Zürich]'.encode('latin-1'), 'r.yaml'),
    'empty': ('', 'expected settings'),
    'list': ('- a', 'expected settings'),
    'pointer': (POINTER, 'r.yaml'),
    'python': ('!!python/object/apply:os.system ["touch ran"]', 'r.yaml'),
    'laughs': (BOMB + 'epochs: *i', 'r.yaml'),
    'keys': ('1: 2\n[a]: 3', 'r.yaml'),
    'number key': ('1: 2', 'unknown setting 1'),
    'huge': ('epochs: 1' + '0' * 5000, 'r.yaml'),
}


@pytest.mark.parametrize('kind', RECIPES)
def test_recipes(place, capsys, kind):
    content, names = RECIPES[kind]
    (place / 'r.yaml').write_bytes(content.encode() if isinstance(content, str) else content)
    refused(capsys, train, '--recipe', 'r.yaml', '--output', 'run', names=names)
    (place / 'r').mkdir()
    (place / 'r' / 'args.yaml').write_bytes((place / 'r.yaml').read_bytes())
    for command in (train, search):
        refused(capsys, command, '--resume', 'r', names='args.yaml')
    assert not (place / 'run').exists() and not (place / 'ran').exists()


@pytest.mark.parametrize(
    'value', ['[1, [2]]', '{a: 1}', 'null', '"\\0"', '2001-01-01', '&x [*x]', '1' + '0' * 5000], ids=str
)
@pytest.mark.parametrize('name', ['epochs', 'dataset', 'lr', 'amp', 'color_jitter', 'model', 'data_dir'])
def test_settings_of_wrong_types(place, capsys, name, value):
    settings = {k: v for k, v in TrainSettings().to_dict().items() if k != name}
    (place / 'r.yaml').write_text(json.dumps(settings)[:-1] + f', "{name}": {value}}}')
    code, text = run(capsys, train, '--recipe', 'r.yaml', '--output', 'run', '--epochs', 1, '--dataset', 'nothing')
    assert code == 2 and 'Traceback' not in text and len(text) < 3000
    assert not (place / 'run').exists()


@pytest.mark.parametrize('name', ['epochs', 'dataset', 'amp', 'color_jitter', 'data_dir'])
def test_a_setting_larger_than_memory(place, capsys, name):
    """Lists of lists, of which a text would hold 9 to the power of 9 values."""
    lists = [BOMB.splitlines()[0].partition(': ')[2]]
    lists += [line.partition(': ')[2] for line in BOMB.splitlines()[1:]]
    settings = {k: v for k, v in TrainSettings().to_dict().items() if k != name}
    (place / 'r.yaml').write_text(json.dumps(settings)[:-1] + f', "{name}": [{", ".join(lists)}]}}')
    refused(capsys, train, '--recipe', 'r.yaml', '--output', 'run', names=['r.yaml', name])


@pytest.mark.parametrize(
    'kind', ['list', 'tensor', 'empty', 'pointer', 'whole', 'epoch', 'negative', 'no epoch', 'names']
)
def test_checkpoints_of_runs(place, capsys, kind):
    """`--resume` of a run whose checkpoint is something else."""
    (place / 'r').mkdir()
    settings = TrainSettings(dataset='sample', model='test_resnet', epochs=2, workers=0)
    (place / 'r' / 'args.yaml').write_text(json.dumps(settings.to_dict()))
    path = place / 'r' / 'last.pth.tar'
    contents = {
        'list': [1],
        'tensor': torch.zeros(2),
        'whole': Foreign(2, 2),
        'epoch': {'epoch': 'three'},
        'negative': {'epoch': -1},
        'no epoch': {'state_dict': {}},
        'names': {'epoch': 1, 'task': 5},
    }
    if kind in contents:
        torch.save(contents[kind], path)
    else:
        path.write_bytes(POINTER if kind == 'pointer' else b'')
    refused(capsys, train, '--resume', 'r', names='last.pth.tar')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp('runs') / 'r'
    size = dict(height=32, width=16, batch_size=16, num_instance=2)
    train_a_model(TrainSettings(output=str(folder), dataset='sample', model='test_resnet', epochs=1, workers=0, **size))
    return folder


SAVERS = {
    'gone': None,
    'list': [1],
    'text': 'saver',
    'empty': {},
    'no pending': {'pending': ...},
    'pending': {'pending': 3},
    'pending of three': {'pending': (1, 2, 3)},
    'pending of texts': {'pending': ('1', '0.5')},
    'best epoch': {'best_epoch': 'two'},
    'best metric': {'best_metric': torch.ones(1)},
    'no number': {'best_metric': float('nan')},
    'files': {'checkpoint_files': 'checkpoint-0.pth.tar'},
    'files without metrics': {'checkpoint_files': ['checkpoint-0.pth.tar']},
    'metric of a file': {'checkpoint_files': [('checkpoint-0.pth.tar', 'good')]},
    'a file of the user': {'checkpoint_files': [('/tmp/x', 0.9), ('../mine.txt', 0.1)]},
}


@pytest.mark.parametrize('kind', SAVERS)
def test_what_a_checkpoint_tells_of_others(trained, tmp_path, capsys, kind):
    """By it files are ranked, and removed: none but the run's own."""
    folder = tmp_path / 'r'
    shutil.copytree(trained, folder)
    (tmp_path / 'mine.txt').write_text('mine')
    state = torch.load(folder / 'last.pth.tar', weights_only=True)
    wrong = SAVERS[kind]
    if isinstance(wrong, dict) and wrong:
        wrong = {name: value for name, value in (state['saver'] | wrong).items() if value is not ...}
    torch.save({**state, 'saver': wrong}, folder / 'last.pth.tar')
    before = sorted(p.name for p in folder.iterdir())
    refused(capsys, train, '--resume', folder, '--epochs', 2, names=['last.pth.tar', 'saver'])
    assert (tmp_path / 'mine.txt').exists() and sorted(p.name for p in folder.iterdir()) == before
