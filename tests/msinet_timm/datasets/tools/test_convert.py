"""msinet-data convert: what comes back is what went in."""

import os
from collections import Counter
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from PIL import Image

from msinet_timm.cli.data import main
from msinet_timm.datasets import Record, ReIDDataset, create_dataset
from msinet_timm.datasets.archive import read_image
from msinet_timm.datasets.images import load_image
from msinet_timm.datasets.records import Protocol
from msinet_timm.datasets.tools.convert import LAYOUTS, convert
from msinet_timm.errors import InputError

MARKET = {
    'bounding_box_train': ['0007_c3s3_077419_03.png', '0002_c1s1_000451_03.png', '0002_c2s1_000801_01.png'],
    'query': ['0001_c6s3_089567_00.png', '0001_c1s1_001051_00.png'],
    'bounding_box_test': ['0000_c1s1_000151_01.png', '-1_c1s1_000401_03.png', '0001_c2s1_000301_00.png'],
}


@pytest.fixture
def market(paint, tmp_path):
    for folder, names in MARKET.items():
        for name in names:
            paint(f'market/{folder}/{name}')
    return create_dataset('market1501', str(tmp_path / 'market'))


def content(dataset):
    """What must not change, with the images' bytes."""
    return {
        part: sorted((r.identity, r.camera, read_image(r.path)) for r in getattr(dataset, part))
        for part in ('train', 'query', 'gallery')
    }


def all_records(dataset):
    return dataset.train + dataset.query + dataset.gallery


@pytest.mark.parametrize('layout', LAYOUTS)
def test_there_and_back(market, tmp_path, layout):
    name = {'csv': 'table'}.get(layout, layout)
    target = str(tmp_path / 'new' / ('people.csv' if layout == 'csv' else 'folder'))
    assert main(['convert', 'market1501', market.root, '--to', layout, '--output', target]) == 0
    there = create_dataset(name, target)
    assert content(there) == content(market)
    assert main(['convert', name, target, '--to', 'market1501', '--output', str(tmp_path / 'back')]) == 0
    assert content(create_dataset('market1501', str(tmp_path / 'back'))) == content(market)


@pytest.mark.parametrize('layout', ['folder', 'market1501'])
def test_images_are_hard_links(market, tmp_path, layout):
    convert(market, layout, tmp_path / 'out')
    written = list((tmp_path / 'out').rglob('*.png'))
    assert len(written) == 7
    assert {os.stat(p).st_ino for p in written} == {os.stat(r.path).st_ino for r in all_records(market)}


def test_copies_where_links_are_impossible(market, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError('another disk')

    monkeypatch.setattr(os, 'link', fail)
    convert(market, 'folder', tmp_path / 'out')
    assert content(create_dataset('folder', str(tmp_path / 'out'))) == content(market)
    assert all(os.stat(p).st_nlink == 1 for p in (tmp_path / 'out').rglob('*.png'))


def test_symbolic_links_are_followed(paint, tmp_path):
    path = paint('a.png')
    (tmp_path / 'link.png').symlink_to(path)
    convert(ReIDDataset('set', '/', (Record(str(tmp_path / 'link.png'), 'anna'),), (), ()), 'folder', tmp_path / 'out')
    (written,) = (tmp_path / 'out').rglob('*.png')
    assert not written.is_symlink()
    assert os.stat(written).st_ino == os.stat(path).st_ino


def test_identity_0_that_is_no_distractor_moves_away_from_0(paint, tmp_path):
    def records(*labels):
        return tuple(Record(str(paint(f'{n}.png')), str(identity), str(1 + n)) for n, identity in enumerate(labels))

    dataset = ReIDDataset('set', '/', records(0, 4), records(7), records(7, 3))
    convert(dataset, 'market1501', tmp_path / 'out')
    back = create_dataset('market1501', str(tmp_path / 'out'))
    assert [r.identity for r in all_records(back)] == list('15848')


@pytest.fixture
def named(paint):
    """Names of which two are equal numbers, and a camera that is none."""

    def records(*names):
        return tuple(Record(str(paint(f'{n}.png')), name, camera) for n, (name, camera) in enumerate(names))

    train, query = records(('1', 'door'), ('01', 'door')), records(('anna b', 'hall'))
    return ReIDDataset('set', '/', train, query, records(('anna b', '7'), ('Anna b', '7')))


@pytest.mark.parametrize('layout', ['folder', 'csv', 'shards'])
def test_names_come_back(named, tmp_path, layout):
    target = tmp_path / ('people.csv' if layout == 'csv' else 'out')
    convert(named, layout, target)
    assert content(create_dataset({'csv': 'table'}.get(layout, layout), str(target))) == content(named)


def test_names_become_numbers_in_the_layout_of_market1501(named, tmp_path, caplog):
    caplog.set_level('INFO')
    convert(named, 'market1501', tmp_path / 'out')
    back = all_records(create_dataset('market1501', str(tmp_path / 'out')))
    # in the order of texts: 01, 1, Anna b, anna b, and 7, door, hall
    assert [(r.identity, r.camera) for r in back] == [('1', '2'), ('2', '2'), ('4', '3'), ('3', '1'), ('4', '1')]
    assert caplog.text.count('each identity gets that of its place in the order of their names') == 1


@pytest.mark.parametrize(
    ('layout', 'name', 'message'),
    [
        ('folder', 'a/b', "'a/b' cannot be the name of a folder of images: rename it, or convert to csv or shards"),
        ('folder', '-1', "'-1' cannot be the name of a folder"),
        ('folder', '.anna', "'.anna' cannot be the name of a folder"),
        ('csv', 'anna ', "0.png: identity 'anna ' begins or ends with white space, which tables do not keep"),
    ],
)
def test_names_that_a_layout_cannot_hold(named, tmp_path, layout, name, message):
    dataset = replace(named, train=(named.train[0]._replace(identity=name),))
    with pytest.raises(InputError, match=message):
        convert(dataset, layout, tmp_path / ('people.csv' if layout == 'csv' else 'out'))
    assert not (tmp_path / 'people.csv').exists() and not (tmp_path / 'out').exists()


def test_boxes_become_images_or_stay_boxes(paint, tmp_path):
    path = paint('a.jpg', size=(30, 30))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(path)
    pixels = np.asarray(load_image(str(path)))
    records = tuple(
        Record(str(path), 'anna', c, box=box) for c, box in (('door', (0, 0, 10, 20)), ('hall', (5, 5, 30, 30)))
    )
    dataset = ReIDDataset('set', '/', (), records[:1], records[1:])
    convert(dataset, 'folder', tmp_path / 'out')
    cropped = create_dataset('folder', str(tmp_path / 'out')).gallery[0]
    assert cropped.box is None
    assert np.array_equal(load_image(cropped.path), pixels[5:30, 5:30])
    convert(dataset, 'csv', tmp_path / 'sub' / 'people.csv')
    assert [r[1:] for r in create_dataset('table', str(tmp_path / 'sub' / 'people.csv')).gallery] == [records[1][1:]]


def test_table_holds_all_that_is_known(paint, tmp_path):
    record = Record(str(paint('images/a.png')), 'anna', '04', 'left', -6, 't7', 'day, night', 'red', (1, 2, 3, 4))
    convert(ReIDDataset('set', '/', (record,), (), ()), 'csv', tmp_path / 'tables' / 'people.csv')
    text = (tmp_path / 'tables' / 'people.csv').read_text()
    assert text.splitlines() == [
        'path,identity,camera,view,time,tracklet,domain,clothes,box,split',
        '../images/a.png,anna,04,left,-6,t7,"day, night",red,1 2 3 4,train',
    ]
    (back,) = create_dataset('table', str(tmp_path / 'tables' / 'people.csv')).train
    assert os.path.samefile(back.path, record.path)
    assert back[1:] == record[1:]


@pytest.mark.parametrize(
    'layout, name, message',
    [
        ('parquet', 'out', r"unknown layout 'parquet', choose from: folder, csv, market1501, shards"),
        ('shards', '.', r'--output .*: give a new or empty folder'),
        ('folder', '.', r'--output .*: give a new or empty folder'),
        ('csv', 'people.txt', r'people.txt: give a new file \*.csv'),
        ('folder', 'file/below', r'--output .*file/below: cannot write'),
    ],
)
def test_wrong_targets(market, tmp_path, layout, name, message):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match=message):
        convert(market, layout, tmp_path / name)


def test_existing_table_is_kept(market, tmp_path):
    (tmp_path / 'people.csv').write_text('mine')
    with pytest.raises(InputError, match='give a new file'):
        convert(market, 'csv', tmp_path / 'people.csv')
    assert (tmp_path / 'people.csv').read_text() == 'mine'


def test_what_a_layout_cannot_hold(paint, tmp_path):
    def refuse(message, *parts, **options):
        with pytest.raises(InputError, match=message):
            convert(ReIDDataset('set', '/', *parts, **options), 'market1501', tmp_path / 'out')
        assert not (tmp_path / 'out').exists()

    with_camera, without = (Record(str(paint('a.png')), '1', '1'),), (Record(str(paint('b.png')), '1'),)
    refuse("'set' has no query: Market-1501's layout needs all three parts", with_camera, (), ())
    refuse(r"b.png has no camera: Market-1501's names need one", with_camera, without, without)
    refuse("'set' draws its queries at random", with_camera, (), with_camera, protocol=Protocol(draws=2))


def test_shards_become_folders_and_tables(market, tmp_path):
    convert(market, 'shards', tmp_path / 'shards', shard_size=2)
    shards = create_dataset('shards', str(tmp_path / 'shards'))
    for layout, name, target in (('folder', 'folder', 'people'), ('csv', 'table', 'people.csv')):
        convert(shards, layout, tmp_path / target)
        assert content(create_dataset(name, str(tmp_path / target))) == content(market)


def test_training_shards_are_made_for_pk_batches(paint, tmp_path):
    """Groups of up to 16 of an identity, nearly equally large, none over two shards, neither they nor identities in
    order; the rest as it was."""
    paths = [str(paint(f'{n}.png')) for n in range(90)]
    identities = [0] * 33 + [1] * 16 + [2] * 3 + [3] * 38
    train = tuple(
        Record(path, str(identity), str(n)) for n, (path, identity) in enumerate(zip(paths, identities, strict=True))
    )
    dataset = ReIDDataset('set', '/', train, train[:5], train[5:10])
    convert(dataset, 'shards', tmp_path / 'a', shard_size=20)
    shards = create_dataset('shards', str(tmp_path / 'a'))
    assert content(shards) == content(dataset)
    assert [r.camera for r in shards.query + shards.gallery] == list('0123456789')
    sizes = Counter(r.path.split('/')[-2] for r in shards.train)
    assert max(sizes.values()) <= 20 and sizes.keys() == {f'train-00000{n}.tar' for n in range(len(sizes))}
    runs = [(int(i), len(list(run))) for i, run in groupby(r.identity for r in shards.train)]
    groups = {(0, 11): 3, (1, 16): 1, (2, 3): 1, (3, 13): 2, (3, 12): 1}
    assert sum(i * n for i, n in runs) == sum(i * n * times for (i, n), times in groups.items())
    by_shard = Counter((r.path.split('/')[-2], r.identity) for r in shards.train)
    assert all(count in (3, 11, 12, 13, 16) for count in by_shard.values())
    assert [i for i, _ in runs] != sorted(i for i, _ in runs)
    cameras = [int(r.camera) for r in shards.train if r.identity == '1']
    assert sorted(cameras) == list(range(33, 49)) != cameras
    convert(dataset, 'shards', tmp_path / 'b', shard_size=20)
    for path in (tmp_path / 'a').iterdir():
        assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()


def test_shard_size_of_the_command(market, tmp_path, capsys):
    command = ['convert', 'market1501', market.root, '--output', str(tmp_path / 'out'), '--shard-size', '1', '--to']
    assert main([*command, 'folder']) == 2
    assert '--shard-size 1: the layout folder has no shards' in capsys.readouterr().err
    assert main([*command, 'shards']) == 0
    assert len(list((tmp_path / 'out').glob('*.tar'))) == 7


def test_suffixes_in_shards(paint, tmp_path):
    jpeg = paint('a.jpg')
    odd, none = jpeg.rename(tmp_path / 'a.part'), paint('b.PNG').rename(tmp_path / 'b')
    records = (Record(str(odd), '1', '1'), Record(str(none), '2', '1'), Record(str(paint('c.BMP')), '3', '1'))
    convert(ReIDDataset('set', '/', (), records[:1], records), 'shards', tmp_path / 'out')
    names = [r.path.rpartition('/')[2] for r in create_dataset('shards', str(tmp_path / 'out')).gallery]
    assert names == ['000000.jpg', '000001.jpg', '000002.bmp']


def test_images_that_cannot_be_read(market, tmp_path):
    os.remove(market.query[0].path)
    with pytest.raises(InputError, match=r'query/0001_c1s1_001051_00.png: cannot read this image \(No such file'):
        convert(market, 'shards', tmp_path / 'out')
