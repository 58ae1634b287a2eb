"""Users' own folders."""

import pytest

from msinet_timm.datasets import Protocol, Record, create_dataset
from msinet_timm.datasets.readers.folder import check_camera_folders, split_identities
from msinet_timm.errors import InputError

PARTS = {
    'train/anna': ['1.jpg', '2.JPG'],
    'train/.cache': ['thumb.jpg'],
    'query/ben': ['3.png'],
    'gallery/ben': ['4.webp'],
    'gallery/anna': ['5.jpeg'],
}


def read(root, **options):
    return create_dataset('folder', str(root), **options)


def test_identities_keep_their_names(plant):
    root = plant(PARTS)
    dataset = read(root)
    assert dataset.train == (Record(f'{root}/train/anna/1.jpg', 'anna'), Record(f'{root}/train/anna/2.JPG', 'anna'))
    assert dataset.query == (Record(f'{root}/query/ben/3.png', 'ben'),)
    assert dataset.gallery == (
        Record(f'{root}/gallery/anna/5.jpeg', 'anna'),
        Record(f'{root}/gallery/ben/4.webp', 'ben'),
    )
    assert dataset.remarks == ('no cameras known: images of the same camera count as matches',)


def test_names_of_equal_numbers_are_two_people(plant):
    assert {r.identity for r in read(plant({'train/7': ['1.jpg'], 'train/07': ['1.jpg']})).train} == {'7', '07'}


def test_junk_is_dropped(plant):
    root = plant({'train/-1': ['1.jpg'], 'train/8': ['2.jpg']})
    assert [r.identity for r in read(root).train] == ['8']
    root = plant({'train': ['-1_c1.jpg', '9_c2.jpg']}, 'flat')
    dataset = read(root, pattern=r'(?P<identity>-?\d+)_c(?P<camera>\d+)')
    assert [r[1:3] for r in dataset.train] == [('9', '2')]


def test_cameras_from_folders(plant):
    root = plant({'query/1/door': ['a.jpg'], 'gallery/1/door': ['b.jpg'], 'gallery/1/hall': ['c.jpg']})
    dataset = read(root)
    assert [r.camera for r in dataset.query + dataset.gallery] == ['door', 'door', 'hall']
    assert (dataset.train, dataset.remarks) == ((), ())


def test_cameras_and_more_from_names(plant):
    root = plant({'train/3/deep/er': ['x_c2_t55_night.jpg'], 'train/5': ['x_c1_t7_day.jpg']})
    dataset = read(root, pattern=r'c(?P<camera>\d)_t(?P<time>\d+)_(?P<domain>\w+)\.')
    assert dataset.train == (
        Record(f'{root}/train/3/deep/er/x_c2_t55_night.jpg', '3', '2', time=55, domain='night'),
        Record(f'{root}/train/5/x_c1_t7_day.jpg', '5', '1', time=7, domain='day'),
    )


@pytest.mark.parametrize('folder', ['.', 'some/where'])
def test_identities_from_names(plant, folder):
    root = plant({f'{part}/{folder}': ['0007_c1.jpg', '0007_c2.jpg'] for part in ('query', 'gallery')})
    dataset = read(root, pattern=r'(?P<identity>\d+)_c(?P<camera>\d+)')
    assert [r[1:3] for r in dataset.query] == [('0007', '1'), ('0007', '2')]


def test_clothes_changing_protocol(plant):
    root = plant({f'{part}/1': ['c1_red.jpg', 'c2_blue.jpg'] for part in ('query', 'gallery')})
    pattern = r'c(?P<camera>\d)_(?P<clothes>[a-z]+)'
    dataset = read(root, pattern=pattern, protocol='clothes-changing')
    assert (dataset.protocol, dataset.notes) == (Protocol(same_clothes_removed=True), ('clothes-changing protocol',))
    assert [r.clothes for r in dataset.query] == ['red', 'blue']
    assert read(root, pattern=pattern).protocol == Protocol()


def people(images):
    """Folders of identities -> cameras (None: unknown) -> number of images."""
    return {
        f'{name}/{camera}' if camera else name: [f'{n}.jpg' for n in range(count)]
        for name, cameras in images.items()
        for camera, count in cameras.items()
    }


def test_split_by_identity(plant):
    root = plant(people({str(i): {None: 3} for i in range(10)}))
    dataset = read(root, test_share=0.3)
    train, query, gallery = ({r.identity for r in part} for part in (dataset.train, dataset.query, dataset.gallery))
    count = len(query)
    assert 2 <= count <= 8 and len(train) == 10 - count
    assert query == gallery == set(map(str, range(10))) - train
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (30 - 3 * count, count, 2 * count)
    assert len({r.path for r in dataset.train + dataset.query + dataset.gallery}) == 30
    assert dataset.notes == (f'split by identity: {count} of 10 to test on (test_share 0.3), seed 0',)
    assert read(root, test_share='0.3').query == dataset.query
    assert read(root, test_share=0.3, seed=1).query != dataset.query


def split(images, seed, test_share):
    """Names to test on, and the file of each one's queries."""
    records = [Record(f'/data/{name}/{k}.jpg', name) for name, count in images.items() for k in range(count)]
    parts = split_identities(records, seed, test_share)
    tested = {r.identity for r in parts['query'] + parts['gallery']}
    assert {r.identity for r in parts['train']} == images.keys() - tested
    return tested, {r.path for r in parts['query']}


@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('share', [0.5, 0.2, 0.9])
def test_adding_and_removing_people_moves_nobody(seed, share):
    images = {f'person {i}': 3 for i in range(60)}
    tested, asking = split(images, seed, share)
    more, asking_more = split({'aaron': 2, **images, 'zoe': 2, '7': 3}, seed, share)
    assert more & images.keys() == tested
    assert asking <= asking_more
    fewer = {name: count for i, (name, count) in enumerate(images.items()) if i % 7}
    left, asking_left = split(fewer, seed, share)
    assert left == tested & fewer.keys()
    assert asking_left <= asking


def test_a_split_depends_on_names_alone(plant):
    tree = people({name: {'door': 3, 'yard': 2} for name in ('anna', 'ben', 'cleo', 'dora', 'emil', 'fred')})
    here, there = (plant(tree, place) for place in ('here', 'else/where'))
    one, other = ([r.path.removeprefix(str(root)) for r in read(root).query] for root in (here, there))
    assert one == other
    with_more = plant({**tree, 'anna/hall': ['0.jpg'], 'cleo/door': [f'{n}.jpg' for n in range(9)]}, 'more')
    assert {r.identity for r in read(with_more).train} == {r.identity for r in read(here).train}


def test_the_split_of_a_name_stays_over_versions():
    """By these, models were trained: whoever changes them has people tested that they were trained on."""
    tested, asking = split(dict.fromkeys(('anna', 'ben', 'cleo', 'dora', 'emil', 'Zoë', '7', '007'), 2), 0, 0.5)
    assert tested == {'ben', 'cleo', 'emil', 'Zoë', '007'}  # sha256 of '0\\0ben' begins with 03, that of anna with e3
    files = {path.removeprefix('/data/') for path in asking}
    assert files == {'ben/0.jpg', 'cleo/0.jpg', 'emil/0.jpg', 'Zoë/0.jpg', '007/1.jpg'}


def test_shares_are_kept_on_average():
    images = dict.fromkeys(map(str, range(5000)), 2)
    for share in (0.1, 0.5, 0.75):
        assert len(split(images, 3, share)[0]) == pytest.approx(5000 * share, abs=120)
    tested = [split(images, seed, 0.5)[0] for seed in (0, 1)]
    assert len(tested[0] & tested[1]) == pytest.approx(1250, abs=120)


@pytest.mark.parametrize('share', [0.1, 0.3, 0.5, 0.8])
def test_a_few_people_are_on_both_sides(share):
    """As many as there were of so few by rounding the share, up to two."""
    for count in range(2, 11):
        usual = round(share * count)
        for seed in range(40):
            tested, _ = split({f'p{i}': 2 for i in range(count)}, seed, share)
            assert len(tested) >= min(2, usual)
            assert count - len(tested) >= min(2, count - usual)


def test_people_come_first_to_the_side_that_needs_them():
    """Of a few people, those nearest to the share fill a side; when others come who belong there, these go back."""
    names = [f'p{i}' for i in range(12)]
    alone = split(dict.fromkeys(names, 2), 5, 0.5)[0]
    for count in range(4, 13):
        tested = split(dict.fromkeys(names[:count], 2), 5, 0.5)[0]
        wrong = tested ^ (alone & set(names[:count]))
        assert len(wrong) <= 2 and (not wrong or 2 in (len(tested), count - len(tested)))
    for count in range(2, 5):  # all of a kind: the rest has to be filled up
        assert 1 <= len(split(dict.fromkeys(sorted(alone)[:count], 2), 5, 0.5)[0]) < count


def test_every_query_of_a_split_has_a_match_under_another_camera(plant):
    cases = [{'a': 1, 'b': 1}, {'a': 3, 'b': 2}, {'a': 4, 'b': 1, 'c': 1}, {'a': 5}, {'a': 1}, {'a': 1, 'b': 1, 'c': 1}]
    root = plant(people({str(n): cameras for n, cameras in enumerate(cases)}))
    asked = []
    for seed in range(5):
        dataset = read(root, test_share=1, seed=seed)
        asked.append([r.identity for r in dataset.query])
        for q in dataset.query:
            assert any(g.identity == q.identity and g.camera != q.camera for g in dataset.gallery)
        assert {r.identity for r in dataset.gallery} == set('012345')
        assert not dataset.train
    assert all(identities == list('01125') for identities in asked)


def test_split_to_train_on_only(plant):
    dataset = read(plant(people({'1': {None: 2}, '2': {None: 1}})), test_share=0)
    assert (len(dataset.train), dataset.query, dataset.gallery) == (3, (), ())


@pytest.mark.parametrize(
    'files, options, message',
    [
        ({'train/1': ['a.jpg']}, {'seed': 0}, r'has the folder train, so that nothing is split: leave out seed and'),
        ({'train/1': ['a.jpg']}, {'test_share': 0.5}, r'has the folder train, so that nothing is split'),
        ({'query/1': ['a.jpg']}, {}, r'has only one of the folders query and gallery'),
        (
            {'train': ['a.jpg']},
            {},
            r'train/a.jpg: expected images in .*/train/<identity>/ or .* give the option pattern=',
        ),
        ({'train/1/2/3': ['a.jpg']}, {}, r'train/1/2/3/a.jpg: expected images in'),
        ({'train/1/cam': ['a.jpg'], 'train/2': ['b.jpg']}, {}, r'train/2/b.jpg has no camera but other images have'),
        ({'1/2': ['a.jpg'], '2/1': ['a.jpg']}, {}, r'none of 1 identities to test on has two images under different'),
        ({'1': ['a.jpg'], '2': ['a.jpg']}, {}, r'none of 1 identities to test on has two images: folders are read as'),
        ({'1': []}, {}, r'data holds no images'),
        ({'1': ['a.jpg']}, {'test_share': 1.5}, r'option test_share=1.5 must be between 0 and 1'),
        ({'1': ['a.jpg']}, {'pattern': '('}, r'option pattern=\( is no regular expression'),
        ({'1': ['a.jpg']}, {'pattern': r'(?P<person>\d)'}, r'named groups may be identity, camera, .*; not person'),
        ({'1': ['a.jpg']}, {'pattern': r'(\d)'}, r'named groups may be .*; it has none'),
        (
            {'1': ['a.jpg']},
            {'pattern': r'c(?P<camera>\d)'},
            r'1/a.jpg: the option pattern=.* matches nothing',
        ),
        ({'1': ['a.jpg']}, {'pattern': r'(?P<time>\w)'}, r'1/a.jpg: time a is no number'),
        ({'.': ['a.jpg']}, {'pattern': r'(?P<identity>\d*)'}, r'a.jpg: expected images in'),
    ],
)
def test_wrong_folders(plant, files, options, message):
    with pytest.raises(InputError, match=message):
        read(plant(files), **options)


CAMERAS = {'yard/t2': ['1.jpg', '2.jpg'], 'yard': ['3.jpg'], 'door': ['1.jpg', '2.jpg'], '.cache/t': ['x.jpg']}


@pytest.mark.parametrize('part', ['', 'train/'])
def test_folders_of_cameras(plant, part):
    """Each tracklet, or image without one, is somebody of its own."""
    root = plant({f'{part}{folder}': names for folder, names in CAMERAS.items()})
    dataset = read(root, layout='cameras')
    found = [(r.path.removeprefix(f'{root}/{part}'), r.identity, r.camera, r.tracklet) for r in dataset.train]
    assert found == [
        ('door/1.jpg', 'door/1.jpg', 'door', None),
        ('door/2.jpg', 'door/2.jpg', 'door', None),
        ('yard/3.jpg', 'yard/3.jpg', 'yard', None),
        ('yard/t2/1.jpg', 'yard/t2', 'yard', 't2'),
        ('yard/t2/2.jpg', 'yard/t2', 'yard', 't2'),
    ]
    assert not dataset.query and not dataset.gallery
    check_camera_folders(dataset)


def test_a_test_set_beside_cameras_has_identities(plant):
    dataset = read(plant({'train/door': ['1.jpg'], 'query/anna/door': ['2.jpg'], 'gallery/anna/yard': ['3.jpg']}),
                   layout='cameras')  # fmt: skip
    assert [(r.identity, r.camera) for r in dataset.query + dataset.gallery] == [('anna', 'door'), ('anna', 'yard')]


@pytest.mark.parametrize(
    ('tree', 'options', 'message'),
    [
        ({'door': ['1.jpg'], 'yard/t1': []}, {}, 'yard holds no images: put some of this camera into it'),
        ({'.': ['1.jpg']}, {}, '1.jpg: expected images in .*/<camera>/'),
        ({'door/t1/deep': ['1.jpg']}, {}, '1.jpg: expected images in'),
        ({'door': []}, {}, 'holds no images'),
        ({'door': ['1.jpg']}, {'seed': 1}, 'nobody is known in the layout cameras.*leave out seed'),
        ({'door': ['1.jpg']}, {'layout': 'camera'}, 'layout=camera must be one of: identities, cameras'),
    ],
)
def test_wrong_folders_of_cameras(plant, tree, options, message):
    with pytest.raises(InputError, match=message):
        read(plant(tree), **{'layout': 'cameras', **options})


def test_folders_of_identities_are_no_cameras(plant):
    people = {f'{person}/{camera}': ['1.jpg'] for person in ('anna', 'ben', 'cleo') for camera in ('door', 'yard')}
    with pytest.raises(InputError, match='3 folders .anna, .*same 2 in them .door, .*look like <identity>/<camera>/'):
        check_camera_folders(read(plant(people), layout='cameras'))
    check_camera_folders(read(plant({f'{c}/{t}': ['1.jpg'] for c in 'ab' for t in 'xyz'}, 'other'), layout='cameras'))
