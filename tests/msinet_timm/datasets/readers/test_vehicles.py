"""VeRi-776, VehicleID and VERI-Wild, each in its real layout."""

import pytest

from msinet_timm.datasets import Protocol, Record, create_dataset
from msinet_timm.errors import InputError

VERI = {
    'image_train': ['0001_c001_00016450_0.jpg', '-1_c003_00016450_0.jpg', '0001_c020_00016460_0.JPG'],
    'image_query': ['0002_c002_00030600_0.jpg'],
    'image_test': ['0002_c005_00031000_0.jpg', '0005_c001_00000001_1.jpg'],
}


@pytest.mark.parametrize('folder', ['VeRi', 'veri', 'VeRi-776', 'veri776', '.'])
def test_veri776(plant, folder):
    root = plant({f'{folder}/{part}': names for part, names in VERI.items()})
    dataset = create_dataset('veri776', str(root))
    folder = dataset.root
    assert dataset.train == (
        Record(f'{folder}/image_train/0001_c001_00016450_0.jpg', '1', '1', time=16450),
        Record(f'{folder}/image_train/0001_c020_00016460_0.JPG', '1', '20', time=16460),
    )
    assert dataset.query == (Record(f'{folder}/image_query/0002_c002_00030600_0.jpg', '2', '2', time=30600),)
    assert [r[1:3] for r in dataset.gallery] == [('2', '5'), ('5', '1')]
    assert dataset.known == {'train': (576, 37778), 'query': (200, 1678), 'gallery': (200, 11579)}


def test_veri776_wrong_name(plant):
    root = plant(VERI | {'image_query': ['vehicle.jpg']})
    with pytest.raises(InputError, match=r'image_query/vehicle.jpg: expected <identity>_c<camera>_<time>_<box>, like'):
        create_dataset('veri776', str(root))


VEHICLEID = {
    'image': ['0000001.jpg', '0000002.jpg', '0000003.JPG', '0000004.jpg'],
    'train_test_split/train_list.txt': '\ufeff0000001 7\n\n0000003 7\n',
    'train_test_split/test_list_800.txt': '0000002 9\n0000004 9\n',
    'train_test_split/test_list_2400.txt': '0000004 9\n',
}


@pytest.mark.parametrize('folder', ['VehicleID', 'vehicleid', 'VehicleID_V1.0', 'vehicleid/VehicleID_V1.0', '.'])
def test_vehicleid(plant, brief, folder):
    root = plant({f'{folder}/{name}': content for name, content in VEHICLEID.items()})
    dataset = create_dataset('vehicleid', str(root))
    assert brief(dataset.train, dataset.root) == [('image/0000001.jpg', '7'), ('image/0000003.JPG', '7')]
    assert dataset.query == ()
    assert brief(dataset.gallery, dataset.root) == [('image/0000002.jpg', '9'), ('image/0000004.jpg', '9')]
    assert dataset.protocol == Protocol(draws=10)
    assert dataset.known['gallery'] == (800, 6493)
    assert dataset.remarks == (
        'test of 800 vehicles: mean of 10 draws of one gallery image for each',
        'no cameras known: images of the same camera count as matches',
    )
    large = create_dataset('vehicleid', str(root), size='2400')
    assert len(large.gallery) == 1
    assert large.known['gallery'] == (2400, 19777)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            {'train_test_split/train_list.txt': '0000001'},
            r"train_list.txt, line 1: expected '<image> <vehicle>'",
        ),
        ({'train_test_split/train_list.txt': '0000001 7\n0000009 7'}, r'line 2: there is no image 0000009.jpg in'),
        ({'train_test_split/test_list_800.txt': '0000001 x'}, r'test_list_800.txt, line 1: expected'),
    ],
)
def test_wrong_vehicleid(plant, change, message):
    with pytest.raises(InputError, match=message):
        create_dataset('vehicleid', str(plant(VEHICLEID | change)))


def test_vehicleid_without_files(plant):
    root = plant({'train_test_split/train_list.txt': '0000001 7'})
    with pytest.raises(InputError, match=r'image is missing: it holds the images of VehicleID'):
        create_dataset('vehicleid', str(root))
    with pytest.raises(InputError, match=r'test_list_1600.txt is missing'):
        create_dataset('vehicleid', str(plant(VEHICLEID)), size=1600)
    with pytest.raises(InputError, match=r"'vehicleid': option size=900 must be one of: 800, 1600, 2400"):
        create_dataset('vehicleid', str(root), size=900)


WILD = {
    'images/00001': ['000001.jpg', '000002.jpg'],
    'images/00002': ['000003.jpg', '000004.jpg'],
    'train_test_split/train_list.txt': '00001/000001\n00001/000002\n',
    'train_test_split/test_3000_query.txt': '00002/000003\n',
    'train_test_split/test_3000.txt': '\n00002/000004\n\n',
    'train_test_split/vehicle_info.txt': 'id/image;Camera ID;Time;Model;Type;Color\n'
    '00001/000001;32;2018-03-11 09:26:11;Volkswagen;SUV;White\n'
    '00001/000002;5;2018-03-11 09:26:12;Volkswagen;SUV;White\n'
    '00002/000003;174;yesterday;Ford;SUV;Black\n\n'
    '00002/000004;1;2018-03-11 09:26:13;Ford;SUV;Black\n',
}


@pytest.mark.parametrize('folder', ['VERI-Wild', 'veri-wild', 'VERIWild', '.'])
def test_veriwild(plant, folder):
    root = plant({f'{folder}/{name}': content for name, content in WILD.items()})
    dataset = create_dataset('veriwild', str(root))
    folder = dataset.root
    assert dataset.train == (
        Record(f'{folder}/images/00001/000001.jpg', '1', '32', time=1520760371),
        Record(f'{folder}/images/00001/000002.jpg', '1', '5', time=1520760372),
    )
    assert dataset.query == (Record(f'{folder}/images/00002/000003.jpg', '2', '174'),)
    assert dataset.gallery == (Record(f'{folder}/images/00002/000004.jpg', '2', '1', time=1520760373),)
    assert dataset.protocol == Protocol()
    assert dataset.known == {'train': (30671, 277797), 'query': (3000, 3000), 'gallery': (3000, 38861)}


@pytest.mark.parametrize(
    'change, message',
    [
        (
            {'train_test_split/train_list.txt': '00001/000009'},
            r'train_list.txt, line 1: 00001/000009 is not in',
        ),
        ({'train_test_split/test_3000.txt': 'a.jpg'}, r"test_3000.txt, line 1: expected '<vehicle>/<image>', got"),
        (
            {'train_test_split/vehicle_info.txt': 'header\n00001/000001;left;now\n'},
            r"vehicle_info.txt, line 2: expected '<vehicle>/<image>;<camera>;<time>;...', got",
        ),
    ],
)
def test_wrong_veriwild(plant, change, message):
    with pytest.raises(InputError, match=message):
        create_dataset('veriwild', str(plant(WILD | change)))


def test_veriwild_missing_things(plant):
    root = plant(WILD)
    with pytest.raises(InputError, match=r'test_5000_query.txt is missing'):
        create_dataset('veriwild', str(root), size=5000)
    (root / 'images/00002/000003.jpg').unlink()
    with pytest.raises(InputError, match=r'000003.jpg is missing, but .*test_3000_query.txt names it'):
        create_dataset('veriwild', str(root))
