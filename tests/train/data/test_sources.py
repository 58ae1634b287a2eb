import csv

import pytest

from msinet_timm.datasets import Record, ReIDDataset
from msinet_timm.errors import InputError
from msinet_train.cli import parse_args
from msinet_train.data.sources import class_labels, load_data, union
from msinet_train.engine.loop import train

SMALL = '--model test_resnet --height 32 --width 16 --batch-size 8 --num-instance 2 --epochs 1 --workers 0'.split()


def dataset(name, *records):
    return ReIDDataset(name, '/', records, (), ())


def test_union_keeps_identities_and_cameras_apart():
    a = dataset('a', Record('1', '17', '3'), Record('2', '2', '3'), Record('3', '17', '1', domain='day'))
    b = dataset('a', Record('4', '17', '3'), Record('5', '0', None))
    records = union({'a': a, 'a2': b})
    assert [(r.path, r.identity, r.camera, r.domain) for r in records] == [
        ('1', 'a/17', 'a/3', 'a'),
        ('2', 'a/2', 'a/3', 'a'),
        ('3', 'a/17', 'a/1', 'a/day'),
        ('4', 'a2/17', 'a2/3', 'a2'),
        ('5', 'a2/0', None, 'a2'),
    ]
    assert class_labels(a.train, b.train).tolist() == [1, 0, 1, 3, 2]


def settings(market, *flags):
    return parse_args(['--recipe', 'small', '--data-dir', str(market), *SMALL, *flags])


def test_sources_and_targets(market):
    data = load_data(settings(market, '-ds', 'market1501', 'sample', '-dt', 'market1501'))
    single = load_data(settings(market, '-ds', 'market1501'))
    sample = load_data(parse_args(['--recipe', 'demo']))
    assert data.num_classes == single.num_classes + sample.num_classes
    assert data.labels.unique().tolist() == list(range(data.num_classes))
    assert [r.path for r in data.train] == [r.path for r in (*single.train, *sample.train)]
    assert list(data.measured) == ['market1501', 'sample', 'market15012']


def test_a_run_on_two_sources_and_a_target(market, tmp_path):
    flags = ['-ds', 'market1501', 'market1501', '-dt', 'market1501', '--output', str(tmp_path / 'run')]
    result = train(settings(market, *flags))
    assert list(result.measurement.evaluations) == ['market1501', 'market15012', 'market15013']
    with open(tmp_path / 'run' / 'summary.csv') as file:
        row = next(csv.DictReader(file))
    assert float(row['eval_mAP']) == float(row['eval_market15012_mAP']) == result.last.ranking.mAP
    assert 'market15013 | 3 | 9 |' in (tmp_path / 'run' / 'best' / 'README.md').read_text()


def test_folders_and_options_of_each(market):
    roots = [str(market), str(market / 'bounding_box_train')]
    options = [r'pattern=(?P<identity>\d+)_c(?P<camera>\d+)', 'test_share=0.5', 'seed=3']
    data = load_data(
        settings(market, '-ds', 'market1501', '-dt', 'folder', '--data-dir', *roots, '--data-option', *options)
    )
    assert 'folder: split by identity: 2 of 6 to test on (test_share 0.5), seed 3' in data.remarks
    assert len({r.identity for r in data.measured['folder'].query}) == 2


@pytest.mark.parametrize(
    'flags, message',
    [
        (['-ds', 'market1501', '-dt', 'market1501', '--data-dir', 'a', 'b', 'c'], '--data-dir: 3 folders for 2 data'),
        (['-ds', 'market1501', 'sample', '--data-option', 'colour=3'], "unknown option 'colour'"),
        (['-ds', 'market1501', 'market1502'], 'market1502'),
    ],
)
def test_wrong_data(market, flags, message):
    with pytest.raises(InputError, match=message):
        load_data(settings(market, *flags))


def test_target_without_a_gallery(market):
    flags = ['-dt', 'folder', '--data-option', r'pattern=(?P<identity>\d+)_c(?P<camera>\d+)', 'test_share=0']
    with pytest.raises(InputError, match="'folder' has no query and gallery: it cannot be a target"):
        load_data(
            settings(market, '-ds', 'market1501', *flags, '--data-dir', str(market), f'{market}/bounding_box_train')
        )
