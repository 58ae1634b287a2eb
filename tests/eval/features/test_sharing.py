"""Extraction that is kept on disk, interrupted, taken up again, and shared out among processes."""

import logging
import os
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from msinet_eval.cli import main
from msinet_eval.features import file as feature_file
from msinet_eval.features.extract import extract, reid_data_config
from msinet_eval.features.types import Features
from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError
from msinet_timm.hub.adapt import adapt


@pytest.fixture
def gallery(market):
    return create_dataset('market1501', str(market)).gallery


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=0).eval()


@pytest.fixture
def options(model):
    return {'data_config': reid_data_config(model, 64, 32), 'workers': 0, 'batch_size': 3}


class Limited(nn.Module):
    """Embeds some batches by a model, and then is interrupted."""

    def __init__(self, model, batches, error=KeyboardInterrupt):
        super().__init__()
        self.model, self.batches, self.error, self.seen = model, batches, error, 0

    def forward(self, images):
        if self.seen == self.batches:
            raise self.error
        self.seen += 1
        return self.model(images)


def test_file_is_written_once_and_then_read(gallery, model, options, tmp_path):
    path = tmp_path / 'gallery.safetensors'
    plain = extract(model, gallery, **options)
    made = extract(model, gallery, file=path, **options)
    assert torch.equal(made.embeddings, plain.embeddings)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]
    assert not path.with_suffix('.shards').exists()
    stored = Features.load(path)
    assert torch.equal(stored.embeddings, plain.embeddings) and stored.paths == plain.paths

    counted = Limited(model, 0)
    counted.__dict__['state_dict'] = model.state_dict  # the same weights
    counted.__class__.__repr__ = lambda self: repr(model)
    counted.num_features = model.num_features
    assert torch.equal(extract(counted, gallery, file=path, **options).embeddings, plain.embeddings)


def test_labels_are_those_of_the_records_and_not_of_the_file(gallery, model, options, tmp_path):
    extract(model, gallery, file=tmp_path / 'f.safetensors', **options)
    renamed = [r._replace(identity=f'{r.identity} again') for r in gallery]
    again = extract(model, renamed, file=tmp_path / 'f.safetensors', **options)
    assert list(again.identities) == [r.identity for r in renamed]


@pytest.mark.parametrize('batch_size', [3, 2])
def test_interrupted_extraction_goes_on(gallery, model, options, tmp_path, monkeypatch, caplog, batch_size):
    monkeypatch.setattr(Limited, '__repr__', lambda self: 'Limited')
    path = tmp_path / 'gallery.safetensors'
    plain = extract(model, gallery, **options)
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error):
            extract(Limited(model, 1, error), gallery, file=path, **options)
    names = sorted(p.name for p in path.with_suffix('.shards').glob('*.safetensors'))
    assert names == ['000000000000-000000000003.safetensors', '000000000003-000000000006.safetensors']
    assert not path.exists()
    last = Limited(model, 99)
    with caplog.at_level(logging.INFO):
        found = extract(last, gallery, file=path, **{**options, 'batch_size': batch_size})
    assert '6 of 10 images are there already' in caplog.text
    assert last.seen == {3: 2, 2: 2}[batch_size]
    torch.testing.assert_close(found.embeddings, plain.embeddings, rtol=0, atol=0 if batch_size == 3 else 1e-6)
    assert list(tmp_path.glob('*.shards')) == []


def test_shards_are_written_as_they_fill(gallery, model, options, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_file, 'SHARD_IMAGES', 6)
    with pytest.raises(KeyboardInterrupt):
        extract(Limited(model, 3), gallery, file=tmp_path / 'f.safetensors', **options)
    shards = sorted((tmp_path / 'f.shards').glob('*.safetensors'))
    assert [len(load_file(shard)['embeddings']) for shard in shards] == [6, 3]


def test_what_was_made_from_something_else_is_refused(gallery, model, options, tmp_path):
    path = tmp_path / 'f.safetensors'
    extract(model, gallery, file=path, **options)
    other = timm.create_model('test_resnet', num_classes=0)
    narrow = {**options, 'data_config': reid_data_config(model, 64, 16)}
    for arguments, changed, what in (
        ((other, gallery), options, 'weights'),
        ((model, gallery), narrow, 'preprocessing'),
        ((model, gallery), {**options, 'flip': True}, 'options'),
        ((model, gallery[:-1]), options, 'images'),
        ((other, gallery), narrow, 'weights and preprocessing'),
    ):
        with pytest.raises(InputError, match=f'f.safetensors: holds features of other {what}: give another folder'):
            extract(*arguments, file=path, **changed)
    os.utime(gallery[0].path, (1, 1))
    with pytest.raises(InputError, match='features of other images'):
        extract(model, gallery, file=path, **options)


def test_shards_of_something_else_are_refused(gallery, model, options, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(Limited(model, 1), gallery, file=tmp_path / 'f.safetensors', **options)
    with pytest.raises(InputError, match=r'f.shards: holds features of other weights'):
        extract(model, gallery, file=tmp_path / 'f.safetensors', **options)


def test_files_that_cannot_be_used(gallery, model, options, tmp_path):
    (tmp_path / 'f.safetensors').write_text('nothing')
    with pytest.raises(InputError, match=r'f.safetensors: not a features file'):
        extract(model, gallery, file=tmp_path / 'f.safetensors', **options)
    (tmp_path / 'g.shards').touch()
    with pytest.raises(InputError, match=r'g.shards: cannot be used as a folder of features'):
        extract(model, gallery, file=tmp_path / 'g.safetensors', **options)


SCRIPT = """
import sys, torch
from msinet_eval.cli import main
from msinet_eval.features import extract, reid_data_config
from msinet_eval.models import load_model
from msinet_timm.datasets import create_dataset
from msinet_timm.hub.adapt import adapt
from msinet_timm.processes import start_processes

weights, market, folder, *argv = sys.argv[1:]
model, config = load_model('test_resnet', weights, 64, 32)
dataset = create_dataset('market1501', market)
norms = adapt(model, dataset.train, config, workers=0)
with start_processes('cpu'):
    assert main(argv) == 0
    for name, changes in (
        ('rank', {'batch_size': 3}),
        ('cameras', {'batch_size': 2, 'norms': norms}),
        ('file', {'batch_size': 2, 'norms': norms, 'file': f'{folder}/file.safetensors'}),
    ):
        features = extract(model, dataset.gallery, data_config=config, workers=0, distributed=True, **changes)
        features.save(f'{folder}/{name}{torch.distributed.get_rank()}.safetensors')
"""


@pytest.mark.slow
def test_torchrun_gives_the_same_bits_and_goes_on(market, model, options, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save(model.state_dict(), weights)
    base = [str(weights), '--model', 'test_resnet', '-ds', 'market1501', '--data-dir', str(market), '--workers', '0']
    base += ['--height', '64', '--width', '32', '--batch-size', '3', '--device', 'cpu', '--no-intervals']
    assert main([*base, '--features', str(tmp_path / 'one')]) == 0

    # all processes but one have written their shards when it ended
    two = tmp_path / 'two'
    gallery = create_dataset('market1501', str(market)).gallery
    file = feature_file.FeatureFile(
        two / 'gallery.safetensors',
        lambda: feature_file.describe(
            model, gallery, options['data_config'], {'flip': False, 'part': 'all', 'neck': False, 'amp': None}
        ),
    )
    assert len(file.pending([range(10)])) == 1
    one = Features.load(tmp_path / 'one' / 'gallery.safetensors').embeddings
    file.write([(range(3, 6), one[3:6])])
    file.release()

    (tmp_path / 'script.py').write_text(SCRIPT)
    launch = ['-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone']
    script = [str(tmp_path / 'script.py'), str(weights), str(market), str(tmp_path)]
    result = subprocess.run(
        [sys.executable, *launch, *script, *base, '--features', str(two)],
        env={**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('mAP') == 1  # one process reports
    assert '3 of 10 images are there already' in result.stderr
    assert 'gallery: 7 images by 2 processes, ' in result.stderr and ' images/s' in result.stderr
    for part in ('query', 'gallery'):
        found, expected = (Features.load(tmp_path / n / f'{part}.safetensors') for n in ('two', 'one'))
        assert torch.equal(found.embeddings, expected.embeddings) and found.paths == expected.paths
    for rank in range(2):
        assert torch.equal(Features.load(tmp_path / f'rank{rank}.safetensors').embeddings, one)

    # by the norms of cameras, in memory and by a file
    norms = adapt(model, create_dataset('market1501', str(market)).train, options['data_config'], workers=0)
    expected = extract(model, gallery, norms=norms, **{**options, 'batch_size': 2})
    assert (expected.embeddings - one).abs().max() > 0.01
    for name in ('cameras0', 'cameras1', 'file0', 'file1', 'file'):
        found = Features.load(tmp_path / f'{name}.safetensors')
        assert torch.equal(found.embeddings, expected.embeddings) and found.paths == expected.paths


def test_keys_of_earlier_versions_are_understood(tmp_path):
    """They called the digest of the images `pictures`."""
    file = feature_file.FeatureFile(tmp_path / 'gallery.safetensors', lambda: {'weights': 'w', 'images': 'i'})
    file.folder.mkdir()
    (file.folder / 'key.json').write_text('{"weights": "w", "pictures": "i"}')
    assert file.pending([range(2)]) == [range(2)]
    (file.folder / 'key.json').write_text('{"weights": "w", "pictures": "j"}')
    with pytest.raises(InputError, match='holds features of other images'):
        file.pending([range(2)])
