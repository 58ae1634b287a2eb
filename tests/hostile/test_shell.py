"""Nothing runs a shell, is fetched, or opens a file of the user's unless the user typed it."""

import csv
import json
import sys

import numpy as np
import pytest
import timm
import torch
import yaml
from hostile import refused, run
from PIL import Image

from msinet_eval.cli import main as evaluate
from msinet_eval.features.types import Features
from msinet_timm.cli.data import main as data
from msinet_timm.cli.hub import main as hub_command
from msinet_timm.datasets import Record, Remote, create_dataset
from msinet_timm.datasets.images import load_image
from msinet_timm.datasets.shards.stream import StreamedBatches, in_shards
from msinet_timm.datasets.tools.convert import convert
from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.hub.folder import save_folder
from msinet_train.cli import main as train
from msinet_train.search.cli import main as search
from msinet_train.settings import TrainSettings

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='no shell')


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """What a command that must not run would make; commands that lack a way here write to this folder as well."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'ran'


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.full((48, 24, 3), 99, np.uint8)).save(tmp_path / 'a.jpg')
    return tmp_path / 'a.jpg'


@pytest.fixture
def shards(tmp_path):
    """A set of shards, each image in one colour."""
    people = tmp_path / 'people'
    for part, cameras in (('train', 'ab'), ('query', 'a'), ('gallery', 'bc')):
        for number, identity in enumerate(('anna', 'bert')):
            for camera in cameras:
                folder = people / part / identity / camera
                folder.mkdir(parents=True)
                color = (60 * number + 20, 99, 150)
                Image.new('RGB', (24, 48), color).save(folder / '1.jpg')
    convert(create_dataset('folder', str(people)), 'shards', tmp_path / 'shards')
    return tmp_path / 'shards'


def pipe(mark, text=''):
    return f'pipe:touch {mark}; cat {text}{{}}'


def write_table(path, rows):
    with open(path, 'w', newline='') as file:
        csv.writer(file).writerows([('path', 'identity', 'split', 'camera'), *rows])
    return path


@pytest.mark.parametrize('scheme', ['pipe:touch ran; cat {}', 'file://x', 'https://127.0.0.1:9'])
def test_a_table(mark, tmp_path, image, capsys, scheme):
    """Its rows name a command, and a folder of that name makes the file test pass."""
    path = f'{scheme}/x.tar/0.jpg'
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(image.read_bytes())
    rows = [(path, 'a', part, camera) for part, camera in (('query', 1), ('gallery', 2))]
    table = write_table('t.csv', rows)
    code, text = run(capsys, evaluate, 'color_histogram', '-ds', 'table', '--data-dir', table, '--workers', 0)
    assert code == 0, text  # a file like any other
    assert not mark.exists()


def test_a_table_beside_shards(mark, tmp_path, capsys):
    """The shard of its rows is a file whose name is a command: it is opened as a file, which is no archive."""
    for name in ('pipe:touch ran;#.tar', 'x://touch ran.tar'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1024))
        rows = [(f'{name}/0.jpg', 'a', part, camera) for part, camera in (('query', 1), ('gallery', 2))]
        argv = ('color_histogram', '-ds', 'table', '--data-dir', write_table('t.csv', rows), '--workers', 0)
        refused(capsys, evaluate, *argv, names=[name, '0.jpg'])
        assert not mark.exists()


ROOTS = ['pipe:touch ran; cat {}', 'https://127.0.0.1:9/shards', 's3://people', 'hf://datasets/a/b']


@pytest.mark.parametrize('root', ROOTS)
def test_a_recipe(mark, capsys, root):
    recipe = TrainSettings(dataset='shards').to_dict() | {'data_dir': [root]}
    with open('r.yaml', 'w') as file:
        yaml.safe_dump(recipe, file)
    refused(capsys, train, '--recipe', 'r.yaml', '--output', 'run', names=[root, '--data-dir'])
    assert not mark.exists() and not (mark.parent / 'run').exists()


@pytest.mark.parametrize('command', [train, search])
@pytest.mark.parametrize('root', ROOTS[:2])
def test_somebody_elses_run(mark, capsys, command, root):
    from msinet_train.search.settings import SearchSettings

    settings = (SearchSettings if command is search else TrainSettings)(dataset='shards')
    (mark.parent / 'run').mkdir()
    with open('run/args.yaml', 'w') as file:
        yaml.safe_dump(settings.to_dict() | {'data_dir': [root]}, file)
    refused(capsys, command, '--resume', 'run', names=[root, '--data-dir'])
    assert not mark.exists() and [p.name for p in (mark.parent / 'run').iterdir()] == ['args.yaml']


def test_what_was_typed_is_run(mark, shards, capsys):
    typed = pipe(mark, f'{shards}/')
    argv = ('color_histogram', '-ds', 'shards', '--workers', 0, '--data-dir', typed)
    code, text = run(capsys, evaluate, *argv)
    assert code == 0 and mark.exists(), text
    mark.unlink()
    assert run(capsys, data, 'check', 'shards', typed)[0] in (0, 1) and mark.exists()
    mark.unlink()
    # and is not kept as more than a text
    settings = TrainSettings(dataset='shards', data_dir=[Remote(typed)])
    assert isinstance(settings.data_dir[0], Remote)
    (mark.parent / 'run').mkdir()
    text = yaml.safe_dump(settings.to_dict())
    (mark.parent / 'run' / 'args.yaml').write_text(text)
    assert type(TrainSettings.from_run('run').data_dir[0]) is str
    changed = TrainSettings.from_run('run', data_dir=[Remote(typed)])
    assert isinstance(changed.data_dir[0], Remote) and not mark.exists()


def test_python_says_so_by_type(mark, shards):
    typed = pipe(mark, f'{shards}/')
    with pytest.raises(InputError, match='--data-dir .*Remote'):
        create_dataset('shards', typed)
    with pytest.raises(InputError, match='--data-dir'):
        create_dataset('shards', str(Remote(typed)))
    assert not mark.exists()
    dataset = create_dataset('shards', Remote(typed))
    assert in_shards(dataset.train) and mark.exists()
    mark.unlink()
    plain = [record._replace(path=str(record.path)) for record in dataset.train]
    (batch,) = StreamedBatches(plain, [[0]])
    assert isinstance(batch[0][1], InputError)  # opened as the file that it is not
    with pytest.raises(InputError):
        load_image(plain[0].path)
    with pytest.raises(InputError):
        load_image(dataset.train[0].path)
    assert not mark.exists()


@pytest.mark.parametrize('member', ['a;touch ran;.tar/0.jpg', '$(touch ran)/.tar/0.jpg', 'x/../`touch ran`.tar/0.jpg'])
def test_the_index_of_a_remote_set(mark, shards, capsys, member):
    """Whoever wrote the index names members; the command that was typed gets names of shards alone."""
    rows = (shards / 'index.csv').read_text().splitlines()
    cells = rows[1].split(',')
    (shards / 'index.csv').write_text('\n'.join([rows[0], ','.join([cells[0], member, *cells[2:]]), *rows[2:]]))
    argv = ('color_histogram', '-ds', 'shards', '--workers', 0, '--data-dir', f'pipe:cat {shards}/{{}}')
    refused(capsys, evaluate, *argv, names=['index.csv', 'line 2'])
    assert not mark.exists()


@pytest.mark.parametrize('name', ['train-0;touch ran.tar', 'train-$(touch ran).tar', 'pipe:touch ran.tar', '../x.tar'])
def test_shards_of_a_remote_set(mark, shards, capsys, name):
    rows = (shards / 'index.csv').read_text().splitlines()
    cells = rows[1].split(',')
    (shards / 'index.csv').write_text('\n'.join([rows[0], ','.join([name, *cells[1:]]), *rows[2:]]))
    argv = ('color_histogram', '-ds', 'shards', '--workers', 0, '--data-dir', f'pipe:cat {shards}/{{}}')
    refused(capsys, evaluate, *argv, names=['index.csv, line 2', name])
    assert not mark.exists()


def test_a_features_file(mark, capsys):
    """Its paths are texts, which reports open as files."""
    records = [Record(f'pipe:touch ran;/{n}.tar/0.jpg', name, camera) for n, (name, camera) in enumerate(['ab', 'ac'])]
    for part, record in zip(('query', 'gallery'), records, strict=True):
        Features.of([record], torch.eye(1)).save(f'{part}.safetensors')
    argv = ('--embeddings', 'query.safetensors', 'gallery.safetensors', '--ranked-lists', 'l.png')
    code, text = run(capsys, evaluate, *argv)
    assert 'Traceback' not in text and not mark.exists() and code in (0, 2)


@pytest.fixture
def folder(tmp_path):
    """A model folder, and a change of its configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_folder(timm.create_model('test_resnet', num_classes=0), tmp_path / 'model')

    def change(**fields):
        path = tmp_path / 'model' / 'config.json'
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return tmp_path / 'model'

    return change


FILES = [
    {'checkpoint_path': 'secret.pth'},
    {'cache_dir': 'cache'},
    {'pretrained_cfg_overlay': {'file': 'secret.pth'}},
    {'pretrained_cfg': {'file': 'secret.pth'}},
    {'pretrained_strict': False},
    {'genotype': 'secret.json'},
    {'genotype': 'secret'},
    {'weights': '/etc/passwd'},
    {'block_args': [{'init': '../secret.pth'}]},
    {'init': 'C:\\secret.pth'},
    {'init': 'https://127.0.0.1:9/x'},
]


@pytest.mark.parametrize('arguments', FILES, ids=str)
def test_a_configuration_names_files(mark, folder, image, capsys, arguments):
    model = timm.create_model('test_resnet', num_classes=0)
    torch.save(model.state_dict(), 'secret.pth')
    named = f'model_args.{next(iter(arguments))}'
    path = folder(model_args=arguments)
    before = sorted(p.name for p in mark.parent.iterdir())
    refused(capsys, evaluate, 'pair', image, image, '--model', path, '--threshold', 1, names=['config.json', named])
    refused(capsys, hub_command, 'verify', path, names=['config.json', named], code=1)
    refused(capsys, train, '--model', path, '-ds', 'sample', '--output', 'run', names=['config.json', named])
    with pytest.raises(InputError, match=named):
        Embedder(path)
    assert sorted(p.name for p in mark.parent.iterdir()) == before


@pytest.mark.parametrize('arguments', FILES[:3], ids=str)
def test_a_configuration_on_the_hub_names_files(mark, folder, image, capsys, hub, arguments):
    """Whoever publishes a model names files of whoever loads it: none is opened, and none is made but in the cache."""
    torch.save(timm.create_model('test_resnet', num_classes=0).state_dict(), 'secret.pth')
    named = f'model_args.{next(iter(arguments))}'
    path = folder(model_args=arguments)
    hub.repositories['some/body'] = {'private': False, 'commits': {}, 'branches': {}}
    hub.commit('some/body', {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()})
    name, before = 'hf-hub:some/body', sorted(p.name for p in mark.parent.iterdir())
    refused(capsys, evaluate, 'pair', image, image, '--model', name, '--threshold', 1, names=['some/body', named])
    refused(capsys, hub_command, 'verify', name, names=named, code=1)
    refused(capsys, train, '--model', name, '-ds', 'sample', '--output', 'run', names=['some/body', named])
    refused(capsys, hub_command, 'export', name, '--format', 'torchscript', '--output', 'm.pt', names=named)
    with pytest.raises(InputError, match=named):
        Embedder(name)
    assert sorted({p.name for p in mark.parent.iterdir()} - {'cache'}) == before


def test_arguments_of_the_network_are_taken(folder, image, capsys):
    path = folder(model_args={'act_layer': 'silu', 'drop_rate': 0.1})
    assert run(capsys, evaluate, 'pair', image, image, '--model', path, '--threshold', 1)[0] == 0
