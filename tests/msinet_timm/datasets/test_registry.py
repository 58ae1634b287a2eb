"""The registry: names, options, and what is refused."""

import pytest

from msinet_timm.datasets import Record, ReIDDataset, create_dataset, get_reader, list_datasets, read_datasets
from msinet_timm.datasets.readers.reader import Option, key_value, parse_options
from msinet_timm.datasets.records import sort_names
from msinet_timm.errors import InputError

NAMES = 'clonedperson cuhk03 folder ltcc market1501 msmt17 personx prcc randperson rendered sample shards table'.split()
NAMES += ['vehicleid', 'veri776', 'veriwild']


def test_names():
    assert list_datasets() == NAMES
    with pytest.raises(InputError, match=r"unknown data set 'market', choose from: clonedperson, .*, veriwild"):
        create_dataset('market')


@pytest.mark.parametrize('name', ['dukemtmc', 'DukeMTMC-reID', 'occluded_duke'])
def test_withdrawn(name):
    with pytest.raises(InputError, match=rf"'{name}': DukeMTMC .* withdrawn .* in 2019 .* use market1501, msmt17"):
        create_dataset(name, '/data')


@pytest.mark.parametrize('name', [name for name in NAMES if name != 'sample'])
def test_needs_a_root_that_is_there(name, tmp_path):
    with pytest.raises(InputError, match=f"'{name}' needs its folder: give --data-dir"):
        create_dataset(name)
    with pytest.raises(InputError, match=r'nowhere is no f(older|ile)'):
        create_dataset(name, str(tmp_path / 'nowhere'))


def test_unknown_options():
    with pytest.raises(InputError, match=r"'msmt17': unknown option 'spilt', its options are: split, version"):
        create_dataset('msmt17', '/data', spilt='train')
    with pytest.raises(InputError, match=r"'veri776': unknown option 'split', it has none"):
        create_dataset('veri776', '/data', split='train')


@pytest.mark.parametrize(
    'default, choices, given, expected',
    [
        ('a', ('a', 'b'), 'b', 'b'),
        (800, (800, 1600), '1600', 1600),
        (0, (), '7', 7),
        (0.5, (), '0.25', 0.25),
        (False, (), 'True', True),
        (False, (), True, True),
        (None, (), 'x=y', 'x=y'),
        (None, ('v1',), 'v1', 'v1'),
    ],
)
def test_values_are_converted(default, choices, given, expected):
    value = Option('key', default, 'about', choices).convert(given, 'set')
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    'default, choices, given, expected',
    [
        ('a', ('a', 'b'), 'c', 'a, b'),
        (0, (), '1.5', 'an integer'),
        (0.5, (), 'half', 'a number'),
        (False, (), 'yes', 'true, false'),
    ],
)
def test_wrong_values(default, choices, given, expected):
    with pytest.raises(InputError, match=f"data set 'set': option key={given} must be one of: {expected}"):
        Option('key', default, 'about', choices).convert(given, 'set')


def test_options_of_a_command_line():
    pairs = ['split=train', r'pattern=(?P<identity>\d+)', 'split=trainval', 'empty=']
    assert [key_value(pair) for pair in pairs] == pairs
    assert parse_options(pairs) == {'split': 'trainval', 'pattern': r'(?P<identity>\d+)', 'empty': ''}


@pytest.mark.parametrize('text', ['split', '=train', 'runs/best'])
def test_what_is_no_option_of_a_command_line(text):
    with pytest.raises(Exception, match=f"expected KEY=VALUE, got '{text}'"):
        key_value(text)


def test_readers_describe_their_options():
    lines = [str(option) for option in get_reader('msmt17').options]
    assert lines == [
        'split=trainval|train  images to train on; default trainval',
        'version=v1|v2  needed only where both are there',
    ]


def test_remarks_say_that_no_camera_is_known():
    def remarks(*cameras, notes=()):
        records = tuple(Record('x.jpg', 'a', camera) for camera in cameras)
        return ReIDDataset('set', '/', (Record('y.jpg', 'b'),), records[:1], records[1:], notes=notes).remarks

    off = 'no cameras known: images of the same camera count as matches'
    assert remarks(None, None, notes=('note',)) == ('note', off)
    assert remarks('1', '2') == remarks() == ()


def test_names_are_in_order_and_each_of_its_own():
    assert sort_names(['10', '9', '010', '9']) == ['9', '010', '10']
    assert sort_names(['b10', '9', 'b9']) == ['9', 'b10', 'b9']
    assert sort_names(['7' * 5000, '8']) == ['8', '7' * 5000]


@pytest.fixture
def vehicles(plant):
    split = 'train_test_split'
    tests = {f'{split}/test_list_{size}.txt': '0000002 9\n0000004 9\n' for size in (800, 1600, 2400)}
    return str(plant({'image': ['0000002.jpg', '0000004.jpg'], f'{split}/train_list.txt': '0000002 7\n', **tests}))


def test_several_at_once(vehicles):
    found = read_datasets(['vehicleid', 'sample', 'vehicleid'], [vehicles], {'size': '1600'})
    assert list(found) == ['vehicleid', 'sample', 'vehicleid2']
    assert found['vehicleid2'].root == vehicles != found['sample'].root
    assert found['vehicleid'].options == {'size': '1600'} and found['sample'].options == {}
    with pytest.raises(InputError, match='2 folders for 3 data sets: give one for all, or one for each'):
        read_datasets(['vehicleid', 'sample', 'vehicleid'], [vehicles, vehicles])
    with pytest.raises(InputError, match="unknown option 'sizes': none of vehicleid, sample has it"):
        read_datasets(['vehicleid', 'sample'], [vehicles], {'sizes': 'all'})


def test_every_choice_of_an_option(vehicles):
    found = read_datasets(['vehicleid', 'sample'], [vehicles], {'size': 'all'}, expand=True)
    assert list(found) == ['vehicleid size=800', 'vehicleid size=1600', 'vehicleid size=2400', 'sample']
    assert found['vehicleid size=1600'].options == {'size': '1600'}
    with pytest.raises(InputError, match='option size=all must be one of: 800, 1600, 2400'):
        read_datasets(['vehicleid'], [vehicles], {'size': 'all'})
