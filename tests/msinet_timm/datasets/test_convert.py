"""msinet-data convert: what comes back is what went in."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msinet_timm.commands import InputError
from msinet_timm.datasets import Record, ReIDDataset, create_dataset
from msinet_timm.datasets.cli import main
from msinet_timm.datasets.convert import LAYOUTS, convert
from msinet_timm.datasets.images import load_image
from msinet_timm.datasets.records import Protocol

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
    """What must not change, with the pictures' bytes."""
    return {
        part: sorted((r.identity, r.camera, Path(r.path).read_bytes()) for r in getattr(dataset, part))
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
def test_pictures_are_hard_links(market, tmp_path, layout):
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
    convert(ReIDDataset('set', '/', (Record(str(tmp_path / 'link.png'), 1),), (), ()), 'folder', tmp_path / 'out')
    (written,) = (tmp_path / 'out').rglob('*.png')
    assert not written.is_symlink()
    assert os.stat(written).st_ino == os.stat(path).st_ino


def test_identity_0_that_is_no_distractor_moves_away_from_0(paint, tmp_path):
    def records(*labels):
        return tuple(Record(str(paint(f'{n}.png')), identity, 1 + n) for n, identity in enumerate(labels))

    dataset = ReIDDataset('set', '/', records(0, 4), records(7), records(7, 3))
    convert(dataset, 'market1501', tmp_path / 'out')
    back = create_dataset('market1501', str(tmp_path / 'out'))
    assert [r.identity for r in all_records(back)] == [1, 5, 8, 4, 8]


def test_boxes_become_pictures_or_stay_boxes(paint, tmp_path):
    path = paint('a.jpg', size=(30, 30))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(path)
    pixels = np.asarray(load_image(str(path)))
    records = tuple(Record(str(path), 1, c, box=box) for c, box in ((1, (0, 0, 10, 20)), (2, (5, 5, 30, 30))))
    dataset = ReIDDataset('set', '/', (), records[:1], records[1:])
    convert(dataset, 'folder', tmp_path / 'out')
    cropped = create_dataset('folder', str(tmp_path / 'out')).gallery[0]
    assert cropped.box is None
    assert np.array_equal(load_image(cropped.path), pixels[5:30, 5:30])
    convert(dataset, 'csv', tmp_path / 'sub' / 'people.csv')
    assert [r[1:] for r in create_dataset('table', str(tmp_path / 'sub' / 'people.csv')).gallery] == [records[1][1:]]


def test_table_holds_all_that_is_known(paint, tmp_path):
    record = Record(str(paint('pictures/a.png')), 3, 4, 5, -6, 7, 'day, night', 8, (1, 2, 3, 4))
    convert(ReIDDataset('set', '/', (record,), (), ()), 'csv', tmp_path / 'tables' / 'people.csv')
    text = (tmp_path / 'tables' / 'people.csv').read_text()
    assert text.splitlines() == [
        'path,identity,camera,view,time,tracklet,domain,clothes,box,split',
        '../pictures/a.png,3,4,5,-6,7,"day, night",8,1 2 3 4,train',
    ]
    (back,) = create_dataset('table', str(tmp_path / 'tables' / 'people.csv')).train
    assert os.path.samefile(back.path, record.path)
    assert back[1:] == record[1:]


@pytest.mark.parametrize(
    'layout, name, message',
    [
        ('shards', 'out', r"unknown layout 'shards', choose from: folder, csv, market1501"),
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

    with_camera, without = (Record(str(paint('a.png')), 1, 1),), (Record(str(paint('b.png')), 1),)
    refuse("'set' has no query: Market-1501's layout needs all three parts", with_camera, (), ())
    refuse(r"b.png has no camera: Market-1501's names need one", with_camera, without, without)
    refuse("'set' draws its queries at random", with_camera, (), with_camera, protocol=Protocol(draws=2))
