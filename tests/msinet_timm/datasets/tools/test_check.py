"""msinet-data check: each kind of finding, and none on a sound data set."""

from pathlib import Path

import pytest
from PIL import Image

from msinet_timm.cli.data import main
from msinet_timm.datasets import Record, ReIDDataset, create_dataset
from msinet_timm.datasets.records import Protocol
from msinet_timm.datasets.tools.check import check_dataset, summarize
from msinet_timm.datasets.tools.contact_sheet import CAPTION, CELL, GAP, LABEL, draw_contact_sheet


@pytest.fixture
def sound(paint):
    """Identity and camera of all images of a sound data set, which tests then spoil."""

    def make(train=((1, 1), (1, 2)), query=((2, 1),), gallery=((2, 2), (0, 1)), **options):
        parts = {}
        for part, images in (('train', train), ('query', query), ('gallery', gallery)):
            records = [Record(str(paint(f'{part}/{n}.png')), str(i), c and str(c)) for n, (i, c) in enumerate(images)]
            parts[part] = tuple(records)
        return ReIDDataset('set', '/root', **parts, **options)

    return make


def kinds(dataset):
    return {finding.kind: str(finding) for finding in check_dataset(dataset)}


def test_nothing_is_found_in_a_sound_set(sound):
    assert kinds(sound(known={'train': (1, 2), 'gallery': (None, 2)})) == {}


@pytest.mark.parametrize('known', [{'train': (1, 3)}, {'train': (2, 2)}])
def test_counts(sound, known):
    (identities, images) = known['train']
    assert kinds(sound(known=known)) == {
        'counts': f'train: 2 images of 1 identities, but {images} images of {identities} identities are known'
    }
    assert 'but 9 images are known' in kinds(sound(known={'query': (None, 9)}))['counts']


def test_identities_with_one_image_or_camera(sound):
    found = check_dataset(
        sound(train=[(i, 1) for i in range(10, 17)] + [(5, 3), (5, 3)], query=[(2, 1)], gallery=[(2, 1), (0, 1)])
    )
    assert [f.kind for f in found] == ['single', 'camera', 'camera']
    assert str(found[0]).splitlines() == [
        'train: identities with one image: 7',
        *(f'    identity {i}' for i in range(10, 15)),
        '    and 2 more',
    ]
    assert str(found[1]) == 'train: identities under one camera: 1\n    identity 5'
    assert str(found[2]) == 'test: identities under one camera: 1\n    identity 2'


def test_unknown_cameras_are_no_finding(sound):
    cameras = [(2, None), (2, None)]
    assert kinds(sound(train=[(1, None), (1, None)], query=cameras[:1], gallery=cameras[1:])) == {}


def test_identities_in_train_and_test(sound):
    found = kinds(sound(train=[(2, 1), (2, 2)]))
    assert found == {'mixed': 'identities in both train and test: 1\n    identity 2'}
    assert kinds(sound(train=[(0, 1), (0, 2)])) == {}  # a distractor asks for nobody


def test_identities_that_nobody_can_find(sound):
    found = kinds(sound(query=[(2, 1), (3, 1), (3, 2)]))
    assert found == {'query': 'identities that ask but are not in the gallery: 1\n    identity 3'}


def test_drawn_queries_are_in_the_gallery(sound):
    drawn = sound(query=(), gallery=[(2, None), (2, None), (3, None)], protocol=Protocol(draws=10))
    assert kinds(drawn) == {'single': 'test: identities with one image: 1\n    identity 3'}


def test_images(sound, paint):
    dataset = sound(train=[(1, 1), (1, 2), (1, 3), (1, 4)])
    paths = [Path(r.path) for r in dataset.train]
    paths[0].write_bytes(paths[0].read_bytes()[:40])
    paint('train/1.png', size=(15, 40))
    for path in (Path(dataset.query[0].path), paths[2]):
        path.write_bytes(paths[3].read_bytes())
    found = kinds(dataset)
    assert list(found) == ['unreadable', 'tiny', 'duplicate']
    assert found['unreadable'].startswith(f'unreadable images: 1\n    {paths[0]}: cannot read this image (')
    assert found['tiny'] == f'images with a side below 16 pixels: 1\n    {paths[1]}: 15 pixels'
    first, *lines = found['duplicate'].splitlines()
    assert first == 'groups of identical images: 1, 1 of them of different identities'
    assert lines == [f'    {paths[2]} = {paths[3]} = {dataset.query[0].path}']


def test_crops_of_one_file_are_different_images(paint):
    path = str(paint('a.png', size=(40, 40)))
    records = tuple(Record(path, '1', c, box=box) for c, box in (('1', (0, 0, 16, 20)), ('2', (16, 0, 40, 16))))
    assert kinds(ReIDDataset('set', '/', records, (), ())) == {}
    assert list(kinds(ReIDDataset('set', '/', (*records, records[0]), (), ()))) == ['duplicate']


def test_summary(sound):
    assert summarize(sound()).splitlines() == [
        '         identities  images  cameras',
        'train             1       2        2',
        'query             1       1        1',
        'gallery           2       2        2',
    ]


def test_contact_sheet(sound, paint):
    dataset = sound(train=[(i, i % 2) for i in range(9) for _ in range(4)])
    paint('query/0.png', color=(0, 200, 0), size=(88, 176))
    Path(dataset.gallery[0].path).write_bytes(b'')
    sheet = draw_contact_sheet(dataset, identities=3, images=3)
    height = CELL[1] + CAPTION + GAP
    assert sheet.size == (LABEL + 3 * (CELL[0] + GAP) + GAP, 4 * height + GAP)
    top = GAP + 3 * height
    assert sheet.getpixel((LABEL + 44, top + 88)) == (0, 200, 0)  # the only identity to find asks first
    assert sheet.getpixel((LABEL + CELL[0] + GAP + 44, top + 88)) == (255, 255, 255)
    assert sheet.getpixel((LABEL + CELL[0] + GAP, top)) == (213, 60, 0)


def test_contact_sheet_goes_from_camera_to_camera(paint):
    colors = {3: (200, 0, 0), 1: (0, 200, 0), 2: (0, 0, 200)}
    records = tuple(Record(str(paint(f'{n}.png', color)), '1', str(c)) for n, (c, color) in enumerate(colors.items()))
    sheet = draw_contact_sheet(ReIDDataset('set', '/', records, (), ()), images=3)
    shown = [sheet.getpixel((LABEL + n * (CELL[0] + GAP) + CELL[0] // 2, GAP + CELL[1] // 2)) for n in range(3)]
    assert shown == [colors[camera] for camera in (1, 2, 3)]


def test_command_on_the_sample(tmp_path, capsys):
    assert main(['check', 'sample', '--contact-sheet', str(tmp_path / 'sheet.png')]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f'sample: {create_dataset("sample").root}\n')
    assert out.endswith('sound\n')
    with Image.open(tmp_path / 'sheet.png') as image:
        assert image.height > 12 * CELL[1]


def test_command_with_findings(plant, paint, capsys):
    root = plant({})
    for name in ('1/a', '1/b', '2/a'):
        paint(f'data/{name}.png')
    assert main(['check', 'folder', str(root), '--data-option', 'test_share=0']) == 1
    out = capsys.readouterr().out
    assert 'split by identity: 0 of 2 to test on (test_share 0), seed 0' in out
    assert out.endswith('train: identities with one image: 1\n    identity 2\n')
    assert 'sound' not in out


@pytest.mark.parametrize(
    'argv, message',
    [
        (['check', 'market1501', '/nowhere'], '/nowhere is no folder'),
        (['check', 'sample', '--data-option', 'a=b'], "unknown option 'a', it has none"),
        (
            ['check', 'sample', '--contact-sheet', 'sheet.jpg'],
            'sheet.jpg: the file name must end in .png',
        ),
        (
            ['check', 'sample', '--contact-sheet', '/proc/no/s.png'],
            '--contact-sheet: cannot create the folder /proc/no',
        ),
    ],
)
def test_what_cannot_be_read(capsys, argv, message):
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_list(capsys):
    assert main(['list']) == 0
    out = capsys.readouterr().out
    assert out.count('    expects  ') == 19
    assert '    option   split=trainval|train  images to train on; default trainval' in out
    assert '    images train 12,936 of 751 identities, query 3,368 of 750 identities, gallery 15,913 of 751' in out
