import json

import pytest

from msinet_timm.datasets import Record, create_dataset
from msinet_timm.errors import InputError

FILES = {
    'bounding_box_train': ['0007_c3s3_077419_03.jpg', '0002_c1s1_000451_03.jpg', '0002_c2s1_000801_01.JPG'],
    'query': ['0001_c6s3_089567_00.jpg', '0001_c1s1_001051_00.png'],
    'bounding_box_test': ['0000_c1s1_000151_01.jpg', '-1_c1s1_000401_03.jpg', '0001_c2s1_000301_00.jpg'],
}


@pytest.fixture
def market(tmp_path):
    root = tmp_path / 'data'
    for folder, names in FILES.items():
        (root / folder).mkdir(parents=True)
        for name in [*names, 'Thumbs.db', 'readme.txt', '._0002_c1s1_000451_03.jpg']:
            (root / folder / name).touch()
    return root


def test_reads_identities_and_cameras_in_order(market):
    dataset = create_dataset('market1501', str(market))
    assert dataset.name == 'market1501'
    assert dataset.root == str(market)
    assert dataset.train == (
        Record(str(market / 'bounding_box_train' / '0002_c1s1_000451_03.jpg'), '2', '1'),
        Record(str(market / 'bounding_box_train' / '0002_c2s1_000801_01.JPG'), '2', '2'),
        Record(str(market / 'bounding_box_train' / '0007_c3s3_077419_03.jpg'), '7', '3'),
    )
    assert [(r.identity, r.camera) for r in dataset.query] == [('1', '1'), ('1', '6')]


def test_drops_junk_and_keeps_distractors(market):
    dataset = create_dataset('market1501', str(market))
    assert [(r.identity, r.camera) for r in dataset.gallery] == [('0', '1'), ('1', '2')]


@pytest.mark.parametrize('folder', ['Market-1501-v15.09.15', 'market1501', 'Market-1501'])
def test_finds_the_folder_under_its_names(market, folder):
    expected = create_dataset('market1501', str(market))
    parent = market.parent / 'parent'
    parent.mkdir()
    market.rename(parent / folder)
    found = create_dataset('market1501', str(parent))
    assert found.root == str(parent / folder)
    assert [r[1:] for r in found.gallery] == [r[1:] for r in expected.gallery]


def test_missing_part_is_named(market):
    for file in (market / 'query').iterdir():
        file.unlink()
    (market / 'query').rmdir()
    with pytest.raises(InputError, match=r'data/query is missing: expected the folders bounding_box_train'):
        create_dataset('market1501', str(market))


def test_wrong_roots(tmp_path):
    with pytest.raises(InputError, match=r'bounding_box_train, query, bounding_box_test, but .*nowhere is no folder'):
        create_dataset('market1501', str(tmp_path / 'nowhere'))
    with pytest.raises(InputError, match=r'has none of them'):
        create_dataset('market1501', str(tmp_path))
    with pytest.raises(InputError, match=r"'market1501' needs its folder: give --data-dir"):
        create_dataset('market1501')


def test_part_with_nothing_but_junk(market):
    for name in FILES['bounding_box_test'][::2]:
        (market / 'bounding_box_test' / name).unlink()
    with pytest.raises(InputError, match=r'bounding_box_test holds no images: expected files named like'):
        create_dataset('market1501', str(market))


@pytest.mark.parametrize('name', ['cat.jpg', '0002_c1_000451_03.jpg', '-2_c1s1_000451_03.jpg', '0002_c1s1_0451.PNG'])
def test_image_whose_name_does_not_parse(market, name):
    (market / 'query' / name).touch()
    with pytest.raises(InputError, match=rf'query/{name}: expected <identity>_c<camera>s'):
        create_dataset('market1501', str(market))


def test_distractors_are_added_on_request(market):
    (market / 'images').mkdir()
    for name in ('0000_c1s1_000002_00.jpg', 'b.JPG', 'Thumbs.db'):
        (market / 'images' / name).touch()
    dataset = create_dataset('market1501', str(market), distractors_500k='true')
    assert [r[1:3] for r in dataset.gallery] == [('0', '1'), ('1', '2'), ('0', '0'), ('0', '0')]
    assert dataset.notes == ('with 2 more distractors',)
    assert not dataset.known
    assert len(create_dataset('market1501', str(market), distractors_500k=False).gallery) == 2


def test_distractors_that_are_not_there(market):
    (market / 'distractors_500k').mkdir()
    with pytest.raises(InputError, match=r'has no distractors: expected images in a folder'):
        create_dataset('market1501', str(market), distractors_500k=True)


def test_known_counts(market):
    known = create_dataset('market1501', str(market)).known
    assert known == {'train': (751, 12936), 'query': (750, 3368), 'gallery': (751, 15913)}


def test_rendered_tells_its_settings(market):
    counts = {'train': 3, 'query': 2, 'gallery': 3, 'distractors': 1, 'junk': 1}
    settings = {'seed': 5, 'domain': 'mall'}
    (market / 'render.json').write_text(json.dumps({'settings': settings, 'counts': counts}))
    dataset = create_dataset('rendered', str(market))
    assert dataset.name == 'rendered'
    assert dataset.notes == ('rendered: domain mall, seed 5',)
    assert dataset.known == {'train': (None, 3), 'query': (None, 2), 'gallery': (None, 2)}
    assert {r.clothes for r in dataset.train + dataset.gallery} == {None}
    (market / 'render.json').write_text(json.dumps({'settings': settings | {'outfits': 2}, 'counts': counts}))
    dressed = create_dataset('rendered', str(market))
    for part in ('train', 'query', 'gallery'):
        for record, plain in zip(getattr(dressed, part), getattr(dataset, part), strict=True):
            assert record == plain._replace(clothes=record.path.rpartition('_c')[2][2])
    (market / 'render.json').write_text('{}')
    with pytest.raises(InputError, match=r'render.json: not as msinet-data render writes it'):
        create_dataset('rendered', str(market))


def test_sample_reads_another_folder_of_its_kind(market):
    dataset = create_dataset('sample', str(market))
    assert (dataset.name, dataset.root, len(dataset.train)) == ('sample', str(market), 3)


def test_sample_comes_with_the_package():
    dataset = create_dataset('sample')
    assert not {r.identity for r in dataset.train} & {r.identity for r in dataset.query}
    assert {r.identity for r in dataset.query} <= {r.identity for r in dataset.gallery}
    assert all(r.camera is not None for r in dataset.query + dataset.gallery)
