"""Images from shards as a stream: features, batches for training, and what can go wrong on the way."""

import io
import logging
import os
import tarfile
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import PILToTensor

import msinet_timm.datasets.shards.stream as stream
from msinet_eval.features.extract import extract
from msinet_timm.datasets import Record, ReIDDataset, Remote, create_dataset
from msinet_timm.datasets.shards.pk_stream import PKStream
from msinet_timm.datasets.shards.stream import StreamedBatches, StreamedImages, in_shards
from msinet_timm.datasets.tools.convert import convert
from msinet_timm.errors import InputError

P, K = 4, 3


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """12 identities with 7 to 18 images of noise to train on, 10 others in the gallery."""
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)

    def record(part, identity, number):
        path = root / f'{part}{identity}_{number}.jpg'
        Image.fromarray(rng.integers(0, 255, (24, 12, 3), dtype=np.uint8)).save(path)
        return Record(str(path), str(identity), str(number))

    train = tuple(record('t', identity, n) for identity in range(12) for n in range(7 + identity))
    test = tuple(record('g', identity, n) for identity in range(20, 30) for n in range(2))
    return ReIDDataset('set', str(root), train, test[::2], test[1::2])


@pytest.fixture(scope='module')
def shards(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp('shards') / 'set'
    convert(folder, 'shards', root, shard_size=16)
    return create_dataset('shards', str(root))


@pytest.fixture
def opened(monkeypatch):
    """Names of the shards that were opened as a stream."""
    names = []
    original = stream.open_shard

    def spy(path):
        names.append(os.path.basename(path))
        return original(path)

    monkeypatch.setattr(stream, 'open_shard', spy)
    return names


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=0).eval()


@pytest.mark.parametrize('workers', [0, 2])
def test_features_are_those_of_files(folder, shards, model, opened, workers):
    options = dict(batch_size=6, data_config=dict(input_size=(3, 64, 32), crop_pct=1.0, crop_mode='squash'))
    files = extract(model, folder.gallery + folder.query, workers=0, **options)
    records = shards.gallery + shards.query
    streamed = extract(model, records, workers=workers, **options)
    assert torch.equal(files.embeddings, streamed.embeddings)
    assert files.identities == streamed.identities
    assert streamed.paths == tuple(r.path for r in records)
    assert opened == ['gallery-000000.tar', 'query-000000.tar']


def test_remote_features_are_those_of_files(folder, shards, model):
    remote = create_dataset('shards', Remote(f'pipe:cat {shards.root}/{{}}'))
    assert in_shards(remote.train)
    files, streamed = (extract(model, d.gallery, workers=0) for d in (folder, remote))
    assert torch.equal(files.embeddings, streamed.embeddings)


def test_shares_of_two_processes(shards, opened):
    """Of each process's batches, one after the other, all images come, and only shards at the border come twice."""
    batches = [range(n, min(n + 8, len(shards.train))) for n in range(0, len(shards.train), 8)]
    seen = []
    for share in (batches[: len(batches) // 2], batches[len(batches) // 2 :]):
        sampler = StreamedBatches(shards.train, share)
        assert len(sampler) == len(share)
        seen += chain(*sampler)
    assert [index for index, _ in seen] == list(range(len(shards.train)))
    assert all(content == stream_bytes(shards.train[index]) for index, content in seen)
    assert len(opened) <= 1 + len({r.path.rpartition('/')[0] for r in shards.train})


def stream_bytes(record):
    shard, _, member = record.path.rpartition('/')
    with tarfile.open(shard) as tar:
        return tar.extractfile(member).read()


def test_batches_in_any_order_and_images_twice(shards):
    batches = [[30, 2, 2], [1, 30], [0, 99]]
    with pytest.raises(RuntimeError):  # an image is kept for one batch
        list(StreamedBatches(shards.train, batches))
    found = [[index for index, _ in batch] for batch in StreamedBatches(shards.train, [[30, 2, 2], [1], [0, 99]])]
    assert found == [[30, 2, 2], [1], [0, 99]]


def test_in_shards(folder, shards):
    assert in_shards(shards.train)
    assert not in_shards(folder.train)
    assert not in_shards(folder.train[:1] + shards.train)
    assert not in_shards(())


def identities(dataset, batch):
    return [dataset.train[index].identity for index, _ in batch]


@pytest.mark.parametrize('buffer', [24, 40, None])
def test_pk_batches(shards, opened, buffer):
    sampler = PKStream(shards.train, P, K, seed=3, buffer=buffer)
    batches = list(sampler)
    assert len(batches) == len(sampler) > 1 and sampler.batch_size == 12
    for batch in batches:
        found = identities(shards, batch)
        assert len(set(found)) == P and found == [i for i in found[::K] for _ in range(K)]
        assert len({index for index, _ in batch}) == 12
        assert all(content == stream_bytes(shards.train[index]) for index, content in batch)
    assert max(Counter(index for batch in batches for index, _ in batch).values()) == 1
    assert len(opened) == len(set(opened)) >= 12
    if buffer is None:  # all of it fits: only what fills no group, and the last of less than P identities, are left out
        groups = sum((7 + identity) // K for identity in range(12))
        assert groups // P - 3 <= len(batches) <= groups // P


def test_epochs_depend_on_seed_and_epoch_alone(shards):
    def epoch(number, seed=0, before=()):
        sampler = PKStream(shards.train, P, K, seed, buffer=40)
        for other in before:
            sampler.set_epoch(other)
            assert next(iter(sampler))
        sampler.set_epoch(number)
        return [[index for index, _ in batch] for batch in sampler]

    assert epoch(2) == epoch(2, before=(0, 1)) == epoch(2, before=(5,))
    assert len({str(epoch(n, seed)) for n in range(3) for seed in range(2)}) == 6


@pytest.mark.parametrize('workers', [0, 2])
def test_loader(shards, workers):
    sampler = PKStream(shards.train, P, K, buffer=40)
    images = StreamedImages(shards.train, PILToTensor())
    loader = DataLoader(images, batch_sampler=sampler, num_workers=workers, collate_fn=images.collate)
    assert len(loader) == len(sampler)
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        expected = [[index for index, _ in batch] for batch in sampler]
        found = list(loader)
        assert [indices.tolist() for _, indices in found] == expected
        for batch, indices in found[:2]:
            plain = [PILToTensor()(Image.open(io_of(shards.train[i]))) for i in indices]
            assert torch.equal(batch, torch.stack(plain))


def io_of(record):
    return io.BytesIO(stream_bytes(record))


def test_memory_is_bounded(shards, monkeypatch):
    """Of what was read and is still to come in a batch, there is never more than the buffer holds."""
    read = []
    original = stream._read_shard

    def spy(*args):
        for item in original(*args):
            read.append(item[0])
            yield item

    monkeypatch.setattr(stream, '_read_shard', spy)
    monkeypatch.setattr(stream, '_AHEAD', 1)
    for epoch in range(5):
        read.clear()
        sampler = PKStream(shards.train, P, K, buffer=30)
        sampler.set_epoch(epoch)
        used = most = 0
        for batch in sampler:
            most = max(most, len(read) - used)
            used += len(batch)
        assert P * K < most <= 30 + 2  # and what is read ahead


@pytest.mark.parametrize('count', [2, 3])
def test_processes_share_out_shards(shards, count):
    samplers = [PKStream(shards.train, 3, 2, buffer=30, num_replicas=count, rank=rank) for rank in range(count)]
    for epoch in range(3):
        seen = []
        for sampler in samplers:
            sampler.set_epoch(epoch)
            batches = list(sampler)
            assert len(batches) == len(sampler) == len(samplers[0])
            assert all(len(set(identities(shards, batch))) == 3 for batch in batches)
            seen.append({shards.train[index].path.rpartition('/')[0] for batch in batches for index, _ in batch})
        assert sum(map(len, seen)) == len(set.union(*seen))


def stub(identities, shard_size=10):
    """Records of shards that are not there."""
    return [Record(f'/s/train-{n // shard_size:06d}.tar/{n}.jpg', str(i)) for n, i in enumerate(identities)]


def drawn(records, *args, epoch=0, **kwargs):
    sampler = PKStream(records, *args, **kwargs)
    sampler.set_epoch(epoch)
    return [[records[i] for i in batch] for batch in sampler._batches.batches]


def test_few_images_are_repeated_all_of_them():
    records = stub([0, 1, 2, 2, 3, 3, 3, 3])
    (batch,) = drawn(records, 4, 3)
    count = Counter(r.path for r in batch)
    assert [sorted(count[r.path] for r in records if r.identity == str(i)) for i in range(4)][:3] == [[3], [3], [1, 2]]
    assert sum(count[r.path] for r in records[4:]) == 3


def test_all_groups_come_while_the_buffer_is_large_enough():
    records = stub([i for i in range(64) for _ in range(8)], shard_size=16)
    batches = drawn(records, 4, 4, buffer=128)
    assert len(batches) >= 0.9 * len(records) / 16
    pairs = {frozenset(r.path for r in b[n : n + 4]) for b in batches for n in range(0, 16, 4)}
    other = drawn(records, 4, 4, buffer=128, epoch=1)
    assert len(pairs & {frozenset(r.path for r in b[n : n + 4]) for b in other for n in range(0, 16, 4)}) < 15


def test_badly_sorted_shards_are_told(caplog):
    rng = np.random.default_rng(0)
    records = stub(rng.permutation([i for i in range(500) for _ in range(4)]).tolist())
    with caplog.at_level(logging.WARNING):
        few = drawn(records, 4, 4, buffer=400)
        assert 'of the training images find no other 3 of their identity among 400 in the stream' in caplog.text
        assert 'write the shards anew with msinet-data convert' in caplog.text
        caplog.clear()
        many = drawn(records, 4, 4, buffer=2000)
        assert not caplog.text
    assert len(few) < len(many) and len(many) > 110
    # all of an identity one after the other: the buffer overflows with few of them, and gives batches still
    assert len(drawn(stub([i for i in range(10) for _ in range(50)]), 4, 4, buffer=64)) >= 5


@pytest.mark.parametrize(
    'people, kwargs, message',
    [
        ([0, 1, 2], {}, r'4 identities with 3 images each do not come together in the stream of 1 shards: use a'),
        ([*range(9)], {'num_replicas': 2}, r'1 training shards cannot be shared out among 2 processes: start fewer'),
        (
            [*range(13)],
            {'num_replicas': 2},
            r'in the stream of 2 shards for each of 2 processes: use a smaller --batch',
        ),
    ],
)
def test_too_little(people, kwargs, message):
    with pytest.raises(InputError, match=message):
        PKStream(stub(people), P, K, **kwargs)


def break_shard(path, how):
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        second = tar.getmembers()[2]
    if how == 'cut':
        data = data[: second.offset_data + 100]
    elif how == 'header':
        data[second.offset : second.offset + 300] = b'x' * 300
    elif how == 'empty':
        data = b''
    path.write_bytes(data)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
    'how, message',
    [
        ('cut', r'gallery-000000.tar: broken after 000000.json \(unexpected end of data\): copy or write it again'),
        ('header', r'gallery-000000.tar/000001.jpg is missing from its shard, but the index names it: bring'),
        ('empty', r'gallery-000000.tar: broken after its beginning \(empty file\)'),
        ('gone', r'gallery-000000.tar: broken after its beginning \(.*No such file'),
    ],
)
def test_shards_that_break_while_they_are_used(folder, model, tmp_path, how, message, workers):
    convert(folder, 'shards', tmp_path / 'set')
    dataset = create_dataset('shards', str(tmp_path / 'set'))
    path = tmp_path / 'set' / 'gallery-000000.tar'
    path.unlink() if how == 'gone' else break_shard(path, how)
    with pytest.raises(InputError, match=message) as error:
        extract(model, dataset.gallery, workers=workers)
    assert len(str(error.value).splitlines()) == 1


def test_a_broken_image_is_named(folder, model, tmp_path):
    with open(tmp_path / 'a.jpg', 'wb') as file:
        file.write(b'no image')
    record = Record(str(tmp_path / 'a.jpg'), '1', '1')
    convert(ReIDDataset('set', '/', (), (record,), (record,)), 'shards', tmp_path / 'set')
    dataset = create_dataset('shards', str(tmp_path / 'set'))
    for workers in (0, 1):
        with pytest.raises(InputError, match=r'query-000000.tar/000000.jpg: cannot read this image'):
            extract(model, dataset.query, workers=workers)
