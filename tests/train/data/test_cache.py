import csv
import logging
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

import msinet_train.engine.training as training
from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import load_image
from msinet_timm.errors import InputError
from msinet_train.cli import main, parse_args
from msinet_train.data.loader import create_loader
from msinet_train.data.sources import load_data
from msinet_train.engine.loop import train

SMALL = '--model msinet_x0_25 --height 64 --width 32 --batch-size 8 --num-instance 2 --lr 0.01 --workers 0'.split()
CONFIG = dict(input_size=(3, 64, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), interpolation='bilinear')


def settings(market, output, *flags):
    return parse_args(['-ds', 'market1501', '--data-dir', str(market), '--output', str(output), *SMALL, *flags])


def weights(folder):
    return load_file(folder / 'last' / 'model.safetensors')


def metrics(folder):
    with open(folder / 'summary.csv') as file:
        return [{k: v for k, v in row.items() if 'per_second' not in k} for row in csv.DictReader(file)]


@pytest.fixture(scope='module')
def plain(market, tmp_path_factory):
    """A run without a cache."""
    folder = tmp_path_factory.mktemp('plain')
    train(settings(market, folder, '--epochs', '2', '--workers', '1'))
    return folder


def test_cache_changes_no_weight_and_no_metric(market, plain, tmp_path):
    train(settings(market, tmp_path / 'run', '--epochs', '2', '--workers', '1', '--cache', 'memory'))
    a, b = weights(plain), weights(tmp_path / 'run')
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert metrics(plain) == metrics(tmp_path / 'run')


def test_each_image_is_read_once(market, tmp_path, monkeypatch):
    opened = []

    def spy(path, *args):
        opened.append(path)
        return load_image(path, *args)

    monkeypatch.setattr('msinet_timm.datasets.images.load_image', spy)
    train(settings(market, tmp_path / 'run', '--epochs', '2', '--eval-interval', '1', '--cache', 'memory'))
    dataset = create_dataset('market1501', str(market))
    assert sorted(opened) == sorted(r.path for r in dataset.train + dataset.query + dataset.gallery)


def test_resume_with_a_cache_is_exact(market, plain, tmp_path, monkeypatch):
    one_epoch, calls = training.train_one_epoch, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return one_epoch(*args)

    cache, flags = tmp_path / 'cache', ['--epochs', '2', '--workers', '1']
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, 'train_one_epoch', interrupted)
        train(settings(market, tmp_path / 'run', *flags, '--cache', str(cache)))
    assert len(list(cache.glob('*.cache'))) == 3  # train, query and gallery
    train(parse_args(['--resume', str(tmp_path / 'run')]))
    a, b = weights(plain), weights(tmp_path / 'run')
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert metrics(plain) == metrics(tmp_path / 'run')


@pytest.mark.parametrize('cached', [False, True])
def test_draft_decodes_at_a_lower_resolution(market, tmp_path, cached):
    def batch(*flags):
        args = settings(market, tmp_path, '--height', '16', '--width', '8', '--erasing', '0', '--padding', '0', *flags)
        cache = ImageCache(str(tmp_path)) if cached else None
        config = CONFIG | {'input_size': (3, 16, 8)}
        loader = create_loader(args, load_data(args), config, torch.device('cpu'), cache)
        torch.manual_seed(0)
        raw, _ = next(iter(loader))
        return loader.dataset.to_input(raw, torch.device('cpu'))

    whole, draft = batch(), batch('--draft')
    assert not torch.equal(whole, draft)
    assert (whole - draft).abs().mean() < 0.2  # of a standard deviation


@pytest.fixture
def spoilt(market, tmp_path):
    """A copy of the data set where identity 1 has one image left, identity 2 none, and one query is broken."""
    root = tmp_path / 'spoilt'
    shutil.copytree(market, root)
    people = [sorted((root / 'bounding_box_train').glob(f'000{n}_*')) for n in (1, 2)]
    for path in [*people[0][:4], *people[1], min((root / 'query').iterdir())]:
        os.truncate(path, 200)
    return root


def test_skip_broken_keeps_batches_whole(spoilt, tmp_path, caplog, monkeypatch):
    batches, one_epoch = [], training.train_one_epoch

    def spy(task, loader, labels, *args):
        batches.extend(labels[batch].tolist() for batch in loader.batch_sampler)
        return one_epoch(task, loader, labels, *args)

    monkeypatch.setattr(training, 'train_one_epoch', spy)
    with caplog.at_level(logging.INFO):
        result = train(settings(spoilt, tmp_path / 'run', '--epochs', '1', '--skip-broken', '--cache', 'memory'))
    assert 'market1501: broken images skipped: 9 train, 1 query, 0 gallery' in caplog.text
    assert '1 training identities without a readable image: 2' in caplog.text
    assert '21 images of 5 identities' in caplog.text
    assert len(result.last.query) == 2
    assert batches
    for batch in batches:
        assert len(batch) == 8 and all(batch.count(label) == 2 for label in batch)


def test_without_skip_broken_the_image_is_named(spoilt, tmp_path):
    for flags in ([], ['--cache', 'memory']):
        with pytest.raises(InputError, match=r'spoilt/.*/000\d_.*: cannot read this image'):
            train(settings(spoilt, tmp_path / f'run{len(flags)}', '--epochs', '1', *flags))


def test_cache_that_cannot_be_used(market, tmp_path, capsys):
    (tmp_path / 'file').touch()
    flags = ['-ds', 'market1501', '--data-dir', str(market), '--output', str(tmp_path / 'run'), *SMALL]
    assert main([*flags, '--cache', str(tmp_path / 'file')]) == 2
    assert f'error: --cache {tmp_path}/file: cannot be used as a folder' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()
