"""CUHK03-NP, PersonX, RandPerson and ClonedPerson, each in its real layout."""

import pytest

from msinet_timm.datasets import Record, create_dataset
from msinet_timm.errors import InputError

BOXES = {
    'bounding_box_train': ['0002_c2_6.png', '0002_c1_1.PNG'],
    'query': ['0003_c1_1.png'],
    'bounding_box_test': ['0003_c2_7.png', '0004_c1_2.png'],
}


@pytest.mark.parametrize('folder', ['cuhk03-np', 'CUHK03-NP', 'cuhk03', '.'])
@pytest.mark.parametrize('boxes', ['detected', 'labeled'])
def test_cuhk03(plant, brief, folder, boxes):
    root = plant({f'{folder}/{boxes}/{part}': names for part, names in BOXES.items()})
    dataset = create_dataset('cuhk03', str(root), **({} if boxes == 'detected' else {'boxes': boxes}))
    assert brief(dataset.train, dataset.root) == [
        ('bounding_box_train/0002_c1_1.PNG', '2', '1'),
        ('bounding_box_train/0002_c2_6.png', '2', '2'),
    ]
    assert brief(dataset.query, dataset.root) == [('query/0003_c1_1.png', '3', '1')]
    assert [r[1:3] for r in dataset.gallery] == [('3', '2'), ('4', '1')]
    assert dataset.notes == (f'{boxes} boxes',)
    assert dataset.known['train'] == (767, {'detected': 7365, 'labeled': 7368}[boxes])


def test_cuhk03_without_the_boxes_asked_for(plant):
    root = plant({f'cuhk03-np/labeled/{part}': names for part, names in BOXES.items()})
    with pytest.raises(InputError, match=r'detected/bounding_box_train is missing'):
        create_dataset('cuhk03', str(root))


def test_personx_reads_backgrounds_or_one_folder(plant):
    parts = {
        'bounding_box_train': '0001_c{}s1_01_01.jpg',
        'query': '0411_c{}s1_01_01.jpg',
        'bounding_box_test': '0411_c{}s1_02_01.jpg',
    }
    cameras = {'1': 1, '4': 3, '5': 8, '6': 11}
    root = plant({f'PersonX_v1/{n}/{p}': [name.format(c)] for n, c in cameras.items() for p, name in parts.items()})
    dataset = create_dataset('personx', str(root))
    assert [r[1:3] for r in dataset.train] == [('1', '3'), ('1', '8'), ('1', '11')]
    assert (
        [r[1:3] for r in dataset.query]
        == [r[1:3] for r in dataset.gallery]
        == [('411', '3'), ('411', '8'), ('411', '11')]
    )
    assert dataset.known['query'] == (856, 5136)
    chosen = create_dataset('personx', str(root), backgrounds=14)
    assert [r.camera for r in chosen.train] == ['1', '3']
    assert chosen.notes == ('backgrounds 1, 4',)
    assert not chosen.known
    single = create_dataset('personx', str(root / 'PersonX_v1' / '5'))
    assert [r.camera for r in single.train] == ['8']
    assert single.notes == ()


@pytest.mark.parametrize('value', ['', '7', '44', 'a'])
def test_wrong_backgrounds(tmp_path, value):
    with pytest.raises(InputError, match=rf'backgrounds={value} must be digits from 1 to 6'):
        create_dataset('personx', str(tmp_path), backgrounds=value)


@pytest.mark.parametrize('folder', ['randperson_subset', 'randperson_subset/randperson_subset', 'images/subset', '.'])
def test_randperson(plant, folder):
    names = ['000007_s10_c01_f001032.jpg', '000000_c00_s02_f000264.JPG']
    dataset = create_dataset('randperson', str(plant({folder: names})))
    folder = dataset.root
    assert dataset.train == (
        Record(f'{folder}/000000_c00_s02_f000264.JPG', '0', '200', time=264, domain='scene 2'),
        Record(f'{folder}/000007_s10_c01_f001032.jpg', '7', '1001', time=1032, domain='scene 10'),
    )
    assert dataset.query == dataset.gallery == ()
    assert dataset.remarks == ()


def test_randperson_needs_its_names(plant):
    with pytest.raises(InputError, match=r'images named like 000000_s00_c00_f000264.jpg, but .*has none of them'):
        create_dataset('randperson', str(plant({'.': ['0002_c1s1_000451_03.jpg']})))


def test_clonedperson(plant):
    files = {
        'train': ['700000_s02_c00_f023389.jpg', '700000_s06_c03_f023413.jpg'],
        'test/query': ['705227_s02_c02_f001117.jpg'],
        'test/gallery': ['705227_s12_c02_f005521.jpg'],
    }
    root = plant({f'clonedperson/{folder}': names for folder, names in files.items()})
    dataset = create_dataset('clonedperson', str(root))
    assert [r[1:3] for r in dataset.train] == [('700000', '200'), ('700000', '603')]
    assert [(r.identity, r.camera, r.time) for r in dataset.query + dataset.gallery] == [
        ('705227', '202', 1117),
        ('705227', '1202', 5521),
    ]


def test_clonedperson_without_its_test_part(plant):
    dataset = create_dataset('clonedperson', str(plant({'train': ['700000_s02_c00_f023389.jpg']})))
    assert (len(dataset.train), dataset.query, dataset.gallery) == (1, (), ())


def test_clonedperson_with_another_name(plant):
    with pytest.raises(InputError, match=r'train/1_c0001_2.jpg: expected <identity>_s<scene>_c<camera>_f<frame>'):
        create_dataset('clonedperson', str(plant({'train': ['1_c0001_2.jpg']})))
