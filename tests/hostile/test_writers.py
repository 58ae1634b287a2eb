"""Nothing half-made reads as whole, and nothing of the user's is lost: kills, full disks, and two at once."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import msinet_timm.datasets.tools.convert as conversion
import msinet_timm.files
from msinet_eval.cli import main as evaluate
from msinet_eval.features.types import Features
from msinet_timm.cli.data import main as data
from msinet_timm.cli.hub import main as hub
from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.archive import read_image
from msinet_timm.errors import InputError
from msinet_timm.export.files import SUFFIXES
from msinet_timm.files import append_text, drafts, locked, replace_file, replace_text
from msinet_timm.hub.folder import save_folder
from msinet_train.cli import main as train
from msinet_train.search.cli import main as search

PARTS = {'bounding_box_train': (1, 2, 3), 'query': (4, 5), 'bounding_box_test': (4, 5, 6)}


@pytest.fixture(scope='module')
def market(tmp_path_factory):
    """Eight images of Market-1501."""
    root, rng = tmp_path_factory.mktemp('market'), np.random.default_rng(0)
    for folder, identities in PARTS.items():
        (root / folder).mkdir()
        for identity in identities:
            name = f'{identity:04d}_c{1 + (folder == "query")}s1_000001_00.png'
            Image.fromarray(rng.integers(0, 255, (16, 8, 3), dtype=np.uint8)).save(root / folder / name)
    return root


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """The folder of a small model."""
    folder = tmp_path_factory.mktemp('model') / 'model'
    save_folder(timm.create_model('msinet_x0_25', num_classes=0), folder)
    return folder


def everything_in(folder):
    """Contents by name, also of what is hidden."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def one_error(text):
    """The only line of an error, without any traceback."""
    lines = [line for line in text.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and 'Traceback' not in text, text
    return lines[0]


# --- the writer itself


def test_a_users_files_of_any_name_stay(market, tmp_path):
    names = ['out.tmp', 'out.csv.tmp', f'out.csv.{os.getpid()}.tmp', '.msinet', '.msinet-mine', 'mine.tmp']
    for name in names:
        (tmp_path / name).write_text(name)
    assert data(['convert', 'market1501', str(market), '--to', 'csv', '--output', str(tmp_path / 'out.csv')]) == 0
    assert sorted(everything_in(tmp_path)) == sorted([*names, 'out.csv'])
    assert all((tmp_path / name).read_text() == name for name in names)


@pytest.mark.usefixtures('_umask')
def test_files_have_the_mode_of_new_files(tmp_path):
    save_folder(timm.create_model('test_resnet', num_classes=0), tmp_path / 'model')
    Features(torch.zeros(1, 2), ('1',), None, ('a.jpg',)).save(tmp_path / 'query.safetensors')
    files = [p for p in tmp_path.rglob('*') if p.is_file()]
    assert len(files) == 3
    assert {oct(p.stat().st_mode & 0o777) for p in files} == {'0o644'}
    os.umask(0o077)
    replace_text(tmp_path / 'mine.txt', 'secret')
    assert (tmp_path / 'mine.txt').stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'link.json').symlink_to(tmp_path / 'there' / 'real.json')
    replace_text(tmp_path / 'link.json', 'new')
    assert (tmp_path / 'link.json').is_symlink() and (tmp_path / 'there' / 'real.json').read_text() == 'new'
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    replace_text(tmp_path / 'pipe', 'through')
    assert os.read(reader, 100) == b'through' and (tmp_path / 'pipe').is_fifo()
    os.close(reader)


def test_names_as_long_as_they_may_be(tmp_path):
    replace_text(tmp_path / f'{"n" * 250}.json', 'x')
    assert (tmp_path / f'{"n" * 250}.json').read_text() == 'x'


def in_a_fork(run):
    """The exit code of a process that is killed in what it does."""
    child = os.fork()
    if not child:
        try:
            run()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(draft):
    draft.write_bytes(b'half')
    die()


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path):
    path = tmp_path / 'table.csv'
    path.write_text('old')
    assert in_a_fork(lambda: replace_file(path, write_half)) == -signal.SIGKILL
    assert len(everything_in(tmp_path)) > 1 and path.read_text() == 'old'
    replace_text(tmp_path / 'other.csv', 'new')
    assert everything_in(tmp_path) == {'table.csv': b'old', 'other.csv': b'new'}


def test_what_a_living_process_writes_stays(tmp_path):
    with drafts(tmp_path) as draft:
        (draft / 'a.txt').write_text('a')
        in_a_fork(lambda: replace_text(tmp_path / 'b', 'b'))
    assert everything_in(tmp_path) == {'a.txt': b'a', 'b': b'b'}


@pytest.mark.parametrize(
    'error, told',
    [
        (OSError(28, 'No space left on device'), 'No space left on device'),
        (PermissionError(13, 'Permission denied'), 'Permission denied'),
        (
            RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 896 vs 854'),
            'torch stopped halfway',
        ),
    ],
)
def test_errors_of_the_disk_name_the_file(tmp_path, error, told):
    def write(draft):
        draft.write_bytes(b'half')
        raise error

    (tmp_path / 'x.pt').write_bytes(b'old')
    with pytest.raises(InputError, match=f'x.pt: cannot write this file .*{told}'):
        replace_file(tmp_path / 'x.pt', write)
    assert everything_in(tmp_path) == {'x.pt': b'old'}
    with pytest.raises(RuntimeError, match='a mistake'):  # and no other errors than those
        replace_file(tmp_path / 'x.pt', lambda draft: (_ for _ in ()).throw(RuntimeError('a mistake')))


# --- full disks

SPACE = 'No space left on device'


def fill(folder, leave=0):
    """Leaves so many kilobytes."""
    with open(folder / 'filler', 'wb', buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(folder / 'filler', max(0, (folder / 'filler').stat().st_size - 1024 * leave))


def test_an_old_table_survives_a_full_disk(small_disk):
    disk = small_disk(256)
    replace_text(disk / 'summary.csv', 'old\n')
    fill(disk, 16)
    for write in (replace_text, append_text):
        with pytest.raises(InputError, match=f'summary.csv: cannot write .*{SPACE}'):
            write(disk / 'summary.csv', 'n' * 100_000, 'summary.csv: cannot write')
    assert (disk / 'summary.csv').read_text() == 'old\n' and sorted(os.listdir(disk)) == ['filler', 'summary.csv']


@pytest.mark.parametrize('layout', ['csv', 'folder', 'market1501', 'shards'])
def test_convert_to_a_full_disk_goes_on_later(small_disk, market, capsys, layout):
    disk = small_disk(128)
    fill(disk, 0 if layout == 'csv' else 16)
    target = disk / ('out.csv' if layout == 'csv' else 'out')
    argv = ['convert', 'market1501', str(market), '--to', layout, '--output', str(target)]
    assert data(argv) == 2
    assert str(target) in one_error(capsys.readouterr().err)
    name = {'csv': 'table'}.get(layout, layout)
    with pytest.raises(InputError):
        create_dataset(name, str(target))
    (disk / 'filler').unlink()
    assert data(argv) == 0
    assert content(create_dataset(name, str(target))) == content(create_dataset('market1501', str(market)))
    assert sorted(os.listdir(disk)) == [target.name]


@pytest.mark.parametrize(
    'argv, file',
    [
        (['check', 'market1501', '{market}', '--contact-sheet', '{disk}/sheet.png'], 'sheet.png'),
        (['card', '{disk}/model'], 'model'),
        (['eval', '{model}', '--json', '{disk}/a.json', '-ds', 'market1501', '--data-dir', '{market}'], 'a.json'),
        (['eval', '{model}', '--features', '{disk}/f', '-ds', 'market1501', '--data-dir', '{market}'], 'f'),
        (['eval', '{model}', '--cache', '{disk}/c', '-ds', 'market1501', '--data-dir', '{market}'], 'c'),
        (['eval', '{model}', '--summary', '{disk}/s.csv', '-ds', 'market1501', '--data-dir', '{market}'], 's.csv'),
        (['eval', '{model}', '--html', '{disk}/r.html', '-ds', 'market1501', '--data-dir', '{market}'], 'r.html'),
        (['train', '{disk}/run'], 'run'),
        (['search', '{disk}/run'], 'run'),
    ],
)
def test_commands_on_a_full_disk(small_disk, market, model, capsys, argv, file):
    disk = small_disk(512)
    if argv[0] == 'card':
        (disk / 'model').mkdir()
        (disk / 'model' / 'config.json').write_bytes((model / 'config.json').read_bytes())
        (disk / 'model' / 'model.safetensors').symlink_to(model / 'model.safetensors')
    fill(disk, 8 if argv[0] in ('train', 'search') else 0)
    before = everything_in(disk)
    word, *argv = [word.format(disk=disk, market=market, model=model) for word in argv]
    tiny = '-ds sample --height 32 --width 16 --batch-size 8 --num-instance 2 --epochs 1 --workers 0'.split()
    if word == 'train':
        code = train([*tiny, '--model', 'test_resnet', '--output', *argv])
    elif word == 'search':
        code = search([*tiny, '--variant', 'x0_25', '--memory-init', 'zeros', '--output', *argv])
    elif word == 'eval':
        code = evaluate([*argv, '--workers', '0', '--no-intervals'])
    else:
        code = (data if word == 'check' else hub)([word, *argv])
    error = one_error(capsys.readouterr().err)
    assert code == 2 and file in error and ('space' in error or 'left' in error or 'are free' in error)
    assert not [name for name in everything_in(disk) if '.tmp' in name]
    assert before.items() <= everything_in(disk).items()


@pytest.mark.slow
def test_export_to_a_full_disk(small_disk, tmp_path):
    """In a process of their own, one format after another: torch used to abort it."""
    needed = {'torchscript': 'torch', 'torch-export': 'torch', 'onnx': 'onnxscript', 'openvino': 'openvino'}
    formats = [format for format, package in needed.items() if find_spec(package)]
    save_folder(timm.create_model('test_resnet', num_classes=0), tmp_path / 'model')
    disk = small_disk(512)
    paths = [disk / f'm{SUFFIXES[format]}' for format in formats]
    for path in paths:
        path.write_bytes(b'old')
    code = 'import sys; from msinet_timm.cli.hub import main; print([main(line.split("|")) for line in sys.argv[1:]])'
    lines = [
        f'export|{tmp_path / "model"}|--format|{format}|--output|{path}|--force'
        for format, path in zip(formats, paths, strict=True)
    ]
    done = subprocess.run([sys.executable, '-c', code, *lines], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f'{[2] * len(formats)}\n', done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == len(formats) and 'Traceback' not in done.stderr, done.stderr
    assert all(str(path) in error for path, error in zip(paths, errors, strict=True))
    assert everything_in(disk) == {path.name: b'old' for path in paths}


def test_a_folder_that_is_read_only(small_disk, model, capsys):
    disk = small_disk(512)
    (disk / 'model').mkdir()
    for name in ('config.json', 'model.safetensors'):
        (disk / 'model' / name).symlink_to(model / name)
    subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    assert hub(['card', str(disk / 'model')]) == 2
    assert 'Read-only file system' in one_error(capsys.readouterr().err)
    argv = '-ds sample --model test_resnet --height 32 --width 16 --batch-size 8 --num-instance 2 --workers 0'.split()
    assert train([*argv, '--output', str(disk / 'run')]) == 2
    assert f'--output {disk / "run"}: cannot write there (Read-only' in one_error(capsys.readouterr().err)


# --- conversions that are killed


def killed_at(count, argv):
    """A conversion that is killed at the n-th image."""

    def die_at(original):
        def call(*args, **kwargs):
            nonlocal count
            count -= 1
            if not count:
                die()
            return original(*args, **kwargs)

        return call

    os.link, conversion._read = die_at(os.link), die_at(conversion._read)
    data(argv)


def content(dataset):
    return {
        part: sorted((r.identity, r.camera, read_image(r.path)) for r in getattr(dataset, part))
        for part in ('train', 'query', 'gallery')
    }


@pytest.mark.parametrize('layout', ['folder', 'market1501', 'shards'])
@pytest.mark.parametrize('count', [2, 7])
def test_a_killed_conversion_is_no_data_set_and_goes_on(market, tmp_path, layout, count):
    target = tmp_path / 'out'
    argv = ['convert', 'market1501', str(market), '--to', layout, '--output', str(target)]
    assert in_a_fork(lambda: killed_at(count, argv)) == -signal.SIGKILL
    with pytest.raises(InputError, match='not finished: give the command msinet-data convert once more'):
        create_dataset(layout, str(target))
    other = 'shards' if layout == 'folder' else 'folder'
    assert data([*argv[:4], other, *argv[5:]]) == 2  # something else does not go on with it
    assert data(argv) == 0
    assert data(['convert', 'market1501', str(market), '--to', layout, '--output', str(tmp_path / 'whole')]) == 0
    assert everything_in(target) == everything_in(tmp_path / 'whole')
    assert content(create_dataset(layout, str(target))) == content(create_dataset('market1501', str(market)))


def test_a_conversion_that_was_killed_while_it_moved(market, tmp_path, monkeypatch):
    argv = ['convert', 'market1501', str(market), '--to', 'folder', '--output', str(tmp_path / 'out')]
    move, calls = Path.replace, []

    def stop(self, target):
        if Path(target).parent == tmp_path / 'out':
            calls.append(target)
            if len(calls) == 2:
                raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, 'replace', stop)
    assert data(argv) == 130
    with pytest.raises(InputError, match='not finished'):
        create_dataset('folder', str(tmp_path / 'out'))
    monkeypatch.undo()
    assert data(argv) == 0
    assert content(create_dataset('folder', str(tmp_path / 'out'))) == content(
        create_dataset('market1501', str(market))
    )


# --- two at once


@pytest.fixture
def held():
    """Lets another process write to a folder; gives its number."""
    running = []

    def hold(folder):
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            with locked(folder):
                os.write(tell, b'ready')
                signal.pause()
        running.append(child)
        assert os.read(told, 5) == b'ready'
        return child

    yield hold
    for child in running:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_second_writer_is_told_of_the_first(tmp_path, held):
    child = held(tmp_path)
    with (
        pytest.raises(InputError, match=f'process {child} on {socket.gethostname()} writes there'),
        locked(tmp_path),
    ):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(tmp_path):  # it ends with its process
        assert os.listdir(tmp_path) == ['.msinet.lock']
    assert not os.listdir(tmp_path)


TINY = '-ds sample --height 32 --width 16 --batch-size 8 --num-instance 2 --epochs 1 --workers 0'.split()


@pytest.mark.parametrize(
    'run, argv, folder',
    [
        (train, [*TINY, '--model', 'test_resnet', '--output', '{}'], 'run'),
        (search, [*TINY, '--variant', 'x0_25', '--output', '{}'], 'run'),
        (evaluate, ['{model}', '-ds', 'sample', '--features', '{}', '--workers', '0'], 'f'),
        (data, ['convert', 'sample', '--to', 'folder', '--output', '{}'], 'out'),
    ],
)
def test_commands_do_not_write_where_another_process_does(tmp_path, held, model, capsys, run, argv, folder):
    folder = tmp_path / folder
    child = held(folder / 'query.shards' if run is evaluate else folder)
    before = everything_in(folder)
    assert run([word.format(folder, model=model) for word in argv]) == 2
    assert f'process {child} on {socket.gethostname()} writes there' in one_error(capsys.readouterr().err)
    assert everything_in(folder) == before


def test_without_locks_a_warning_is_all(tmp_path, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(msinet_timm.files.filelock.FileLock, 'acquire', refuse)
    with locked(tmp_path):
        assert 'has no locks' in caplog.text
