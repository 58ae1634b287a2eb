"""LTCC and PRCC, each in its real layout and its two protocols."""

import pytest

from msinet_timm.datasets import Protocol, Record, create_dataset
from msinet_timm.errors import InputError

LTCC = {
    'train': ['000_1_c5_004155.png', '000_2_c11_015833.png'],
    'query': ['094_1_c9_015833.png'],
    'test': ['094_1_c2_000100.png', '094_3_c9_000200.PNG'],
}


@pytest.mark.parametrize('folder', ['LTCC_ReID', 'ltcc', '.'])
def test_ltcc(plant, folder):
    root = plant({f'{folder}/{part}': names for part, names in LTCC.items()})
    dataset = create_dataset('ltcc', str(root))
    folder = dataset.root
    assert dataset.train == (
        Record(f'{folder}/train/000_1_c5_004155.png', '0', '5', clothes='1'),
        Record(f'{folder}/train/000_2_c11_015833.png', '0', '11', clothes='2'),
    )
    assert dataset.query == (Record(f'{folder}/query/094_1_c9_015833.png', '94', '9', clothes='1'),)
    assert [(r.camera, r.clothes) for r in dataset.gallery] == [('2', '1'), ('9', '3')]
    assert dataset.protocol == Protocol()
    assert dataset.notes == ('standard protocol',)
    changing = create_dataset('ltcc', str(root), protocol='clothes-changing')
    assert changing.protocol == Protocol(same_clothes_removed=True)
    assert changing.notes == ('clothes-changing protocol',)
    assert changing.gallery == dataset.gallery


def test_wrong_ltcc(plant):
    with pytest.raises(InputError, match=r'query/094_c9_1.png: expected <identity>_<clothes>_c<camera>_<frame>, like'):
        create_dataset('ltcc', str(plant(LTCC | {'query': ['094_c9_1.png']})))


PRCC = {
    'rgb/train/001': ['A_cropped_rgb001.jpg', 'B_cropped_rgb002.jpg', 'C_cropped_rgb003.jpg'],
    'rgb/val/001': ['A_cropped_rgb009.jpg'],
    'rgb/test/A/074': ['cropped_rgb001.jpg', 'cropped_rgb002.JPG'],
    'rgb/test/B/074': ['cropped_rgb003.jpg'],
    'rgb/test/C/074': ['cropped_rgb004.jpg'],
    'sketch/train/001': ['A_cropped_rgb001.jpg'],
}


@pytest.mark.parametrize('folder', ['prcc', 'PRCC', '.'])
def test_prcc(plant, folder):
    root = plant({f'{folder}/{name}': names for name, names in PRCC.items()})
    dataset = create_dataset('prcc', str(root))
    folder = dataset.root
    assert folder.endswith('rgb')
    assert dataset.train == (
        Record(f'{folder}/train/001/A_cropped_rgb001.jpg', '1', 'A', clothes='1'),
        Record(f'{folder}/train/001/B_cropped_rgb002.jpg', '1', 'B', clothes='1'),
        Record(f'{folder}/train/001/C_cropped_rgb003.jpg', '1', 'C', clothes='2'),
    )
    assert dataset.query == (Record(f'{folder}/test/C/074/cropped_rgb004.jpg', '74', 'C', clothes='2'),)
    assert dataset.gallery == (
        Record(f'{folder}/test/A/074/cropped_rgb001.jpg', '74', 'A', clothes='1'),
        Record(f'{folder}/test/A/074/cropped_rgb002.JPG', '74', 'A', clothes='1'),
    )
    assert dataset.protocol == Protocol(draws=10)
    assert dataset.known['query'] == (71, 3543)
    standard = create_dataset('prcc', str(root), protocol='standard', gallery='all')
    assert standard.query == (Record(f'{folder}/test/B/074/cropped_rgb003.jpg', '74', 'B', clothes='1'),)
    assert standard.protocol == Protocol()
    assert standard.known['query'] == (71, 3873)
    assert standard.notes == ('standard protocol, all gallery images',)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            {'rgb/train/001': ['cropped_rgb001.jpg']},
            r'train/001/cropped_rgb001.jpg: expected <camera>_..., like',
        ),
        ({'rgb/test/A/anna': []}, r'test/A/anna: expected folders named by the number of an identity'),
        ({'rgb/test/C/074': []}, r'test/C holds no images'),
    ],
)
def test_wrong_prcc(plant, change, message):
    with pytest.raises(InputError, match=message):
        create_dataset('prcc', str(plant(PRCC | change)))


def test_prcc_without_a_camera(plant):
    root = plant({name: names for name, names in PRCC.items() if '/C/' not in name})
    with pytest.raises(InputError, match=r'test/C is missing: expected prcc/rgb with train/<identity>'):
        create_dataset('prcc', str(root))
    assert create_dataset('prcc', str(root), protocol='standard').query
