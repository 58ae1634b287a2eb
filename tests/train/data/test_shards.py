"""Training from shards that are read as a stream."""

import pytest
import torch
from safetensors.torch import load_file

import msinet_timm.datasets.shards.stream
from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.shards.pk_stream import PKStream
from msinet_timm.datasets.tools.convert import convert
from msinet_timm.errors import InputError
from msinet_train.cli import main, parse_args
from msinet_train.engine.loop import train

SMALL = '--model msinet_x0_25 --height 64 --width 32 --batch-size 8 --num-instance 2 --lr 0.01 --workers 1'.split()


@pytest.fixture(scope='module')
def shards(market, tmp_path_factory):
    root = tmp_path_factory.mktemp('shards') / 'set'
    convert(create_dataset('market1501', str(market)), 'shards', root, shard_size=10)
    return root


def run(shards, output, *flags):
    return train(parse_args(['-ds', 'shards', '--data-dir', str(shards), '--output', str(output), *SMALL, *flags]))


def weights(folder):
    return load_file(folder / 'last' / 'model.safetensors')


def test_resumed_training_is_an_uninterrupted_one(shards, tmp_path, monkeypatch):
    opened = []
    original = msinet_timm.datasets.shards.stream.open_shard

    def spy(path):
        opened.append(path.rpartition('/')[2].partition('-')[0])
        return original(path)

    monkeypatch.setattr(msinet_timm.datasets.shards.stream, 'open_shard', spy)
    result = run(shards, tmp_path / 'whole', '--epochs', '2', '--eval-interval', '0')
    assert result.last.ranking.mAP > 0
    assert opened == ['train'] * 6 + ['query', 'gallery']  # three shards an epoch

    def stop(sampler, epoch):
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PKStream, 'set_epoch', stop)
        run(shards, tmp_path / 'cut', '--epochs', '2', '--eval-interval', '0')
    train(parse_args(['--resume', str(tmp_path / 'cut')]))
    a, b = weights(tmp_path / 'whole'), weights(tmp_path / 'cut')
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_command(shards, tmp_path, capsys):
    flags = ['-ds', 'shards', '--data-dir', str(shards), '--output', str(tmp_path / 'run'), *SMALL, '--epochs', '1']
    assert main([*flags, '--all-images']) == 2
    assert '--all-images: shards are read as a stream' in capsys.readouterr().err
    assert main([*flags, '--workers', '0']) == 0
    assert (tmp_path / 'run' / 'last' / 'model.safetensors').is_file()


def test_a_shard_that_breaks_while_it_trains(shards, tmp_path):
    convert(create_dataset('shards', str(shards)), 'shards', tmp_path / 'set', shard_size=10)
    dataset = create_dataset('shards', str(tmp_path / 'set'))
    broken = tmp_path / 'set' / 'train-000001.tar'
    data = bytearray(broken.read_bytes())
    data[1024:1100] = b'x' * 76
    data[:200] = b'x' * 200
    broken.write_bytes(data)
    assert dataset.train
    with pytest.raises(InputError, match=r'train-000001.tar: broken after its beginning \('):
        run(tmp_path / 'set', tmp_path / 'run', '--epochs', '1')


def test_cached_shards_are_sampled_like_files(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(msinet_timm.datasets.shards.stream, 'open_shard', None)
    run(shards, tmp_path / 'run', '--epochs', '1', '--cache', 'memory', '--all-images')
