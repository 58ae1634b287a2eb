import pytest

from msinet_timm.datasets import Record, create_dataset
from msinet_timm.errors import InputError

TRAIN = '0000/0000_000_01_0303morning_0015_0.jpg 0\n\n0001/0001_002_15_0114noon_0063_2.jpg 1\n'
VAL = '0001/0001_005_04_0114noon_0070_1.jpg 1\n'
QUERY = '0000/0000_014_03_0303morning_0022_0.jpg 0\n'
GALLERY = '0000/0000_000_01_0303morning_0015_0.jpg 0\n \n0002/0002_000_02_0113noon_0015_0.jpg 2'
FOLDERS = {'v1': ('MSMT17_V1', 'train', 'test'), 'v2': ('MSMT17_V2', 'mask_train_v2', 'mask_test_v2')}


def files(version, parent=None):
    folder, train, test = FOLDERS[version]
    folder = folder if parent is None else parent
    lists = {'train': TRAIN, 'val': VAL, 'query': QUERY, 'gallery': GALLERY}
    return {
        **{f'{folder}/list_{name}.txt': text for name, text in lists.items()},
        f'{folder}/{train}/0000': ['0000_000_01_0303morning_0015_0.jpg'],
        f'{folder}/{train}/0001': ['0001_002_15_0114noon_0063_2.jpg', '0001_005_04_0114noon_0070_1.jpg'],
        f'{folder}/{test}/0000': ['0000_014_03_0303morning_0022_0.jpg', '0000_000_01_0303morning_0015_0.jpg'],
        f'{folder}/{test}/0002': ['0002_000_02_0113noon_0015_0.jpg'],
    }


@pytest.mark.parametrize('version', ['v1', 'v2'])
@pytest.mark.parametrize('parent', [None, '.', 'msmt17', 'MSMT17', 'msmt17/{}'])
def test_both_versions_in_all_places(plant, version, parent):
    folder, train, test = FOLDERS[version]
    parent = folder if parent is None else parent.format(folder)
    root = plant(files(version, parent))
    dataset = create_dataset('msmt17', str(root))
    folder = root / parent
    assert dataset.root == str(folder)
    assert dataset.train == (
        Record(f'{folder}/{train}/0000/0000_000_01_0303morning_0015_0.jpg', '0', '1'),
        Record(f'{folder}/{train}/0001/0001_002_15_0114noon_0063_2.jpg', '1', '15'),
        Record(f'{folder}/{train}/0001/0001_005_04_0114noon_0070_1.jpg', '1', '4'),
    )
    assert dataset.query == (Record(f'{folder}/{test}/0000/0000_014_03_0303morning_0022_0.jpg', '1041', '3'),)
    assert [r[1:3] for r in dataset.gallery] == [('1041', '1'), ('1043', '2')]
    assert dataset.notes == (f'MSMT17 version {version[1]}, train and validation images to train on',)
    assert dataset.known['train'] == (1041, 32621)


def test_train_alone(plant):
    root = plant(files('v1'))
    (root / 'MSMT17_V1' / 'list_val.txt').unlink()
    dataset = create_dataset('msmt17', str(root), split='train')
    assert [r.identity for r in dataset.train] == ['0', '1']
    assert dataset.notes == ('MSMT17 version 1, train images without the validation ones to train on',)
    assert dataset.known['train'] == (1041, 30248)
    with pytest.raises(InputError, match=r'list_val.txt is missing'):
        create_dataset('msmt17', str(root))


def test_upper_case_v2(plant):
    root = plant(files('v2'))
    for part in ('train', 'test'):
        (root / 'MSMT17_V2' / f'mask_{part}_v2').rename(root / 'MSMT17_V2' / f'mask_{part}_V2')
    assert 'mask_test_V2' in create_dataset('msmt17', str(root)).query[0].path


def test_both_versions_at_once(plant):
    root = plant(files('v1') | files('v2'))
    with pytest.raises(InputError, match=r'both versions of MSMT17: give the option version=v1 or version=v2'):
        create_dataset('msmt17', str(root))
    for version in FOLDERS:
        assert FOLDERS[version][0] in create_dataset('msmt17', str(root), version=version).root


def test_version_that_is_not_there(plant):
    with pytest.raises(InputError, match=r'expected a folder with mask_train_v2, mask_test_v2'):
        create_dataset('msmt17', str(plant(files('v1'))), version='v2')


@pytest.mark.parametrize(
    'change, message',
    [
        ({'MSMT17_V1/list_train.txt': '0000/0000_000_01_x.jpg\n'}, r'list_train.txt, line 1: expected a line like'),
        ({'MSMT17_V1/list_train.txt': '\n0000/a.jpg 0\n'}, r"list_train.txt, line 2: .* got '0000/a.jpg 0'"),
        ({'MSMT17_V1/list_query.txt': '0000/0000_000_01_0303morning_0015_0.jpg zero'}, r'list_query.txt, line 1: '),
        ({'MSMT17_V1/list_query.txt': '\n \n'}, r'list_query.txt is empty'),
        (
            {'MSMT17_V1/list_gallery.txt': '0009/0009_000_01_0303morning_0015_0.jpg 9'},
            r'0009_000_01_0303morning_0015_0.jpg is missing, but .*list_gallery.txt names it',
        ),
    ],
)
def test_wrong_lists(plant, change, message):
    root = plant(files('v1'))
    plant(change)
    with pytest.raises(InputError, match=message):
        create_dataset('msmt17', str(root))


def test_missing_folders(plant, tmp_path):
    with pytest.raises(InputError, match=r'MSMT17_V1/test is missing: it holds the images of list_query.txt'):
        create_dataset('msmt17', str(plant({n: c for n, c in files('v1').items() if '/test/' not in n})))
    with pytest.raises(InputError, match=r'list_train.txt is missing beside the images of MSMT17'):
        create_dataset('msmt17', str(plant({'train/0000': ['0000_000_01_0303morning_0015_0.jpg']}, 'bare')))
    with pytest.raises(InputError, match=r'expected a folder with train, test .*, but .*nowhere is no folder'):
        create_dataset('msmt17', str(tmp_path / 'nowhere'))
