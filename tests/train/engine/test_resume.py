"""A run that is killed at any moment and resumed ends with the weights of one that wasn't."""

import csv
import random
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from msinet_train.cli import parse_args
from msinet_train.engine.loop import train

pytestmark = pytest.mark.charts

FLAGS = (
    '--recipe small --model msinet_x0_25 --height 64 --width 32 --batch-size 8 --num-instance 2 --epochs 6 --workers 0 '
    '--eval-interval 1 --model-ema --model-ema-decay 0.5 --grad-accum-steps 2 '
    '--miscrop 0.5 --camera-tone 0.5 --camera-quality 0.5 --mixstyle 0.5 --wake-gates --progressive-resize 64x16:0.5 '
    '--checkpoint-interval 2 --sam-mode pos --teacher msinet_x1_0 --teacher-weight 2'
).split()

# Kills itself, without any chance to clean up, in the middle of the n-th write of a kind.
KILLED = """
import os, signal, sys
import torch
moment, count = sys.argv[1], int(sys.argv[2])

def die_at(original, before):
    def call(*args, **kwargs):
        global count
        count -= 1
        if count:
            return original(*args, **kwargs)
        before(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    return call

if moment == 'half a checkpoint':
    def half(state, path):
        original(state, path)
        os.truncate(path, os.path.getsize(path) // 2)
    original = torch.save
    torch.save = die_at(torch.save, half)
elif moment == 'before the duplicates':
    from timm.utils import CheckpointSaver
    CheckpointSaver._track_checkpoint = die_at(CheckpointSaver._track_checkpoint, lambda *args, **kwargs: None)
elif moment == 'half a model folder':
    import safetensors.torch
    def half(tensors, path):
        with open(path, 'wb') as file:
            file.write(b'0' * 100)
    safetensors.torch.save_file = die_at(safetensors.torch.save_file, half)
import torch._dynamo  # what takes long to import comes before the clock starts
from msinet_train.cli import main
print('ready', flush=True)
sys.exit(main(sys.argv[3:]))
"""


def start(moment, count, argv):
    return subprocess.Popen(
        [sys.executable, '-c', KILLED, moment, str(count), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope='module')
def whole(market, tmp_path_factory):
    """A run without interruption, and how long it takes."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    began = time.perf_counter()
    train(parse_args([*FLAGS, '-ds', 'market1501', '--data-dir', str(market), '--output', str(folder)]))
    return folder, time.perf_counter() - began


def metrics(folder):
    with open(folder / 'summary.csv') as file:
        return [{k: v for k, v in row.items() if 'per_second' not in k} for row in csv.DictReader(file)]


def assert_same(a, b):
    def same(x, y, where):
        if isinstance(x, dict):
            assert x.keys() == y.keys(), where
            for key in x:
                same(x[key], y[key], f'{where}.{key}')
        elif isinstance(x, torch.Tensor):
            assert torch.equal(x, y), where
        elif isinstance(x, (list, tuple)):
            assert len(x) == len(y), where
            for k, (i, j) in enumerate(zip(x, y, strict=True)):
                same(i, j, f'{where}[{k}]')
        else:
            assert x == y, where

    files = {f.name for f in a.iterdir()}
    assert files == {f.name for f in b.iterdir()}
    assert {'milestone-2.pth.tar', 'milestone-4.pth.tar', 'model_best.pth.tar', 'last.pth.tar'} <= files
    for name in sorted(f for f in files if f.endswith('.pth.tar')):
        same(torch.load(a / name), torch.load(b / name), name)
    for name in ('last', 'best'):
        x, y = (load_file(folder / name / 'model.safetensors') for folder in (a, b))
        assert all(torch.equal(x[key], y[key]) for key in x)
    assert metrics(a) == metrics(b)


@pytest.mark.slow
def test_killed_while_it_writes(market, whole, tmp_path):
    folder = tmp_path / 'run'
    argv = [*FLAGS, '-ds', 'market1501', '--data-dir', str(market), '--output', str(folder)]
    # half a model folder before there is any checkpoint, and so on
    for moment, count in (('half a model folder', 1), ('half a checkpoint', 2), ('before the duplicates', 1)):
        process = start(moment, count, argv)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -9, errors
        argv = ['--resume', str(folder)]
    train(parse_args(argv))
    assert_same(whole[0], folder)


@pytest.mark.slow
def test_killed_at_random(market, whole, tmp_path):
    folder = tmp_path / 'run'
    argv = [*FLAGS, '-ds', 'market1501', '--data-dir', str(market), '--output', str(folder)]
    for seed in range(2):
        process = start('at random', 0, argv)
        assert process.stdout.readline() == 'ready\n'
        time.sleep(random.Random(seed).uniform(0.1, 0.7) * whole[1])
        process.kill()
        process.communicate()
        if (folder / 'args.yaml').exists():
            argv = ['--resume', str(folder)]
    train(parse_args(argv))
    assert_same(whole[0], folder)


def torchrun(*argv):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    result = subprocess.run([*command, '-m', 'msinet_train.cli', *argv], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_two_processes(market, tmp_path):
    """They train one model, the first alone writes, and a resumed run ends as one without interruption."""
    folder, again = tmp_path / 'run', tmp_path / 'again'
    flags = FLAGS[: FLAGS.index('--checkpoint-interval')] + ['--epochs', '2', '--checkpoint-interval', '1']
    flags += ['--batch-size', '4', '--sync-bn', '--gather-features', '--device', 'cpu']
    torchrun(*flags, '-ds', 'market1501', '--data-dir', str(market), '--output', str(folder))
    assert (folder / 'log.txt').read_text().count('epoch 1/2') == 1
    assert [row['epoch'] for row in metrics(folder)] == ['0', '1']
    norms = [k for k in torch.load(folder / 'last.pth.tar')['state_dict'] if k.startswith('module.')]
    assert not norms and len(load_file(folder / 'last' / 'model.safetensors')) > 100

    # as if it had been killed in the second epoch
    shutil.copytree(folder, again)
    (again / 'milestone-1.pth.tar').replace(again / 'last.pth.tar')
    torchrun('--resume', str(again))
    a, b = (torch.load(f / 'last.pth.tar') for f in (folder, again))
    for key in ('state_dict', 'state_dict_ema'):
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])
    assert metrics(folder) == metrics(again)
