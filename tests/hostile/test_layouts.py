"""Data sets as people really have them: read where what they mean is plain, refused in words where it is not."""

import csv
import io
import json
import os
import sys
import tarfile

import numpy as np
import pytest
import torch
from hostile import refused, run
from PIL import Image, features

from msinet_eval.cli import main as evaluate
from msinet_eval.features.types import Features
from msinet_timm.cli.data import main as data
from msinet_timm.datasets import Record, create_dataset
from msinet_timm.datasets.images import load_image
from msinet_timm.errors import InputError
from msinet_train.cli import main as train

EVAL = ('color_histogram', '--workers', 0, '-ds')


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


_count = iter(range(10**6))


def paint(*names, size=(24, 48), **options):
    """Images that differ."""
    for name in names:
        os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
        rng = np.random.default_rng(next(_count))
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(name, **options)


def people(root, *parts, identities=('anna', 'ben'), cameras=('door', 'yard'), ending='.png'):
    for part in parts:
        paint(*(f'{root}/{part}/{i}/{c}/1{ending}' for i in identities for c in cameras))


def write_table(path, rows, header=('path', 'identity', 'split', 'camera'), encoding='utf-8'):
    with open(path, 'w', newline='', encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows])
    return path


def counts(dataset):
    return tuple(map(len, (dataset.train, dataset.query, dataset.gallery)))


# the parts of a folder


@pytest.mark.parametrize(
    'names', [('Train', 'Query', 'Gallery'), ('TRAIN', 'query', 'GALLERY'), ('training', 'probe', 'gallery')]
)
def test_parts_in_any_capitalisation(capsys, names):
    people('p', names[0], identities=('carl', 'dora'))
    people('p', *names[1:])
    assert counts(create_dataset('folder', 'p')) == (4, 4, 4)
    assert run(capsys, data, 'check', 'folder', 'p')[0] in (0, 1)
    assert run(capsys, evaluate, *EVAL, 'folder', '--data-dir', 'p')[0] == 0


def test_a_part_that_is_there_twice(capsys):
    people('p', 'Train', 'train', 'query', 'gallery')
    if len(os.listdir('p')) < 4:
        pytest.skip('this file system does not tell capitals apart')
    refused(capsys, data, 'check', 'folder', 'p', names=['p has both Train and train'])


def test_train_val_and_test(capsys):
    people('p', 'train', identities=('carl', 'dora'))
    people('p', 'Val', identities=('eva', 'finn', 'gus'))
    people('p', 'test')
    dataset = create_dataset('folder', 'p')
    assert counts(dataset) == (4, 2, 2)
    assert {r.identity for r in dataset.train} == {'carl', 'dora'}
    assert {r.identity for r in dataset.query} == {r.identity for r in dataset.gallery} == {'anna', 'ben'}
    assert create_dataset('folder', 'p', seed=3).notes == (
        'Val is set aside: 6 images that are neither trained nor tested on',
        'queries are drawn from test, seed 3',
    )
    code, text = run(capsys, data, 'check', 'folder', 'p')
    assert 'Val is set aside: 6 images' in text and 'queries are drawn from test, seed 0' in text
    refused(capsys, data, 'check', 'folder', 'p', '--data-option', 'test_share=0.3', names=['test_share'])


def test_what_else_test_and_val_mean(capsys):
    people('a', 'train', 'test/Query', 'test/gallery')
    dataset = create_dataset('folder', 'a')
    assert counts(dataset) == (4, 4, 4) and 'a/test/Query' in dataset.query[0].path and not dataset.notes
    people('b', 'train', 'query', 'Test')
    dataset = create_dataset('folder', 'b')
    assert counts(dataset) == (4, 4, 4) and dataset.notes == ('Test is the gallery',)
    people('f', 'training', identities=('carl', 'dora'))
    people('f', 'Testing')
    assert counts(create_dataset('folder', 'f')) == (4, 2, 2)
    people('c', 'train', 'val')
    dataset = create_dataset('folder', 'c')
    assert counts(dataset) == (4, 2, 2) and 'val is tested on' in dataset.notes[0]
    people('d', 'train', 'query', 'gallery', 'test')
    refused(capsys, data, 'check', 'folder', 'd', names=['test and gallery', 'Move one'])
    people('e', '.', identities=('Test', 'anna', 'ben', 'val'))  # somebody's names
    assert {r.identity for part in ('train', 'gallery') for r in getattr(create_dataset('folder', 'e'), part)} == {
        'Test', 'anna', 'ben', 'val',
    }  # fmt: skip


def test_a_folder_that_is_no_part(capsys, caplog):
    people('p', 'train', 'query', 'gallery', 'trian')
    for command in (('check', 'folder', 'p'), ('convert', 'folder', 'p', '--to', 'csv', '--output', 'x.csv')):
        refused(capsys, data, *command, names=['trian (4 images)', 'train, val, test, query or gallery'])
    refused(capsys, evaluate, *EVAL, 'folder', '--data-dir', 'p', names=['trian (4 images)'])
    assert not os.path.exists('x.csv')
    for name in os.listdir('p/trian'):
        os.rename(f'p/trian/{name}', f'p/train/{name}2')
    open('p/trian/a.mat', 'w').close()
    run(capsys, data, 'check', 'folder', 'p')
    assert 'p: 1 skipped: 1 files in trian' in caplog.text


# files


ENDINGS = ['.tif', '.tiff', '.ppm', '.gif', '.jfif', '.jp2', '.bmp', '.webp', '.JPG', '.Tif', '.jpeg']


@pytest.mark.parametrize('ending', ENDINGS)
def test_images_of_every_ending(capsys, caplog, ending):
    if ending == '.jp2' and not features.check('jpg_2000'):
        pytest.skip('this Pillow reads no JPEG 2000')
    people('p', 'query', 'gallery', ending=ending)
    code, text = run(capsys, data, 'check', 'folder', 'p')
    assert 'unreadable' not in text and 'skipped' not in caplog.text
    assert counts(create_dataset('folder', 'p')) == (0, 4, 4)
    assert run(capsys, evaluate, *EVAL, 'folder', '--data-dir', 'p')[0] == 0


def test_the_first_image_of_a_file():
    first, second = (Image.new('RGB', (8, 8), colour) for colour in ('red', 'blue'))
    for name in ('a.gif', 'a.tif'):
        first.save(name, save_all=True, append_images=[second])
        assert load_image(name).getpixel((3, 3)) == (255, 0, 0)


def test_nothing_is_skipped_silently(capsys, caplog):
    people('p', 'train', 'query', 'gallery')
    for name in ('train/anna/door/notes.txt', 'train/anna/b.txt', 'query/ben/c.heic', 'query/ben/.secret', 'gallery/x'):
        open(f'p/{name}', 'w').close()
    paint('p/lost.png', 'p/query/anna/.thumbnails/1.png')
    for name in ('Thumbs.db', '.DS_Store', 'README.md', 'train/._1.png', 'train/anna/door/desktop.ini'):
        open(f'p/{name}', 'w').close()  # of which nobody wants to know
    for main, argv in ((data, ('check', 'folder', 'p')), (evaluate, (*EVAL, 'folder', '--data-dir', 'p'))):
        caplog.clear()
        run(capsys, main, *argv)
        (line,) = [line for line in caplog.messages if 'skipped' in line]
        assert line.startswith('p: 7 skipped: 2 .txt, ')
        for kind in ('1 .heic', '1 hidden', '1 without ending', '1 images beside the folders in p', '1 hidden folders'):
            assert kind in line


def test_nor_in_a_benchmark(capsys, caplog):
    name = '{:04}_c{}s1_000001_00.png'.format
    for part, camera in (('bounding_box_train', 1), ('query', 1), ('bounding_box_test', 2)):
        paint(*(f'm/{part}/{name(i, camera)}' for i in (1, 2)))
    paint('m/query/more/0003_c1s1_000001_00.png')
    open('m/query/list.csv', 'w').close()
    assert run(capsys, evaluate, *EVAL, 'market1501', '--data-dir', 'm')[0] == 0
    assert caplog.messages.count('m: 2 skipped: 1 folders in query, 1 .csv') == 1


def test_a_folder_that_cannot_be_read(capsys, monkeypatch):
    people('p', 'train', 'query', 'gallery')
    scan = os.scandir

    def denied(path='.'):
        if str(path).endswith('anna'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scan(path)

    monkeypatch.setattr(os, 'scandir', denied)
    refused(capsys, data, 'check', 'folder', 'p', names=['anna: cannot read it (Permission denied)'])


# who is in them


@pytest.mark.parametrize('junk', ['00-1', '-1'])
def test_folders_of_mars(capsys, caplog, junk):
    people('m', 'train', identities=('0001', '0003'))
    people('m', 'query', identities=('0002', '0004'), cameras=('1',))
    people('m', 'gallery', identities=(junk, '0000', '0002', '0004'), cameras=('2', '3'))
    dataset = create_dataset('folder', 'm')
    assert counts(dataset) == (4, 2, 6) and {r.identity for r in dataset.gallery} == {'0000', '0002', '0004'}
    assert f'm: 2 skipped: 2 images of nobody (identity {junk})' in caplog.text
    assert run(capsys, data, 'check', 'folder', 'm')[0] == 0
    # split by us, nobody asks for distractors, and nobody trains on them
    people('s', '.', identities=(junk, '0000', '0001', '0002', '0003', '0004'))
    for seed in range(4):
        dataset = create_dataset('folder', 's', seed=seed)
        assert not {'0000', junk} & {r.identity for r in dataset.train + dataset.query}
        assert sum(r.identity == '0000' for r in dataset.gallery) == 2
        assert '2 distractors, of identity 0000' in dataset.notes
    people('t', 'train', identities=('0001', '0003'))
    people('t', 'test', identities=(junk, '0000', '0002', '0004'))
    dataset = create_dataset('folder', 't')
    assert {r.identity for r in dataset.query} == {'0002', '0004'}
    assert {r.identity for r in dataset.gallery} == {'0000', '0002', '0004'}
    rows = [('m/train/0001/door/1.png', junk, 'train', 1)]
    refused(capsys, data, 'check', 'table', write_table('t.csv', rows), names=[f'line 2, identity: {junk}'])


def test_mars_as_it_is_published(capsys):
    for part, identities in (('train', ('0001', '0003')), ('test', ('00-1', '0000', '0002', '0004'))):
        for i in identities:
            for camera in (1, 2):
                for tracklet in (1, 2):
                    paint(*(f'm/bbox_{part}/{i}/{i}C{camera}T{tracklet:04}F{frame:03}.jpg' for frame in (1, 2)))
    pattern = r'pattern=C(?P<camera>\d)T(?P<tracklet>\d+)F'
    dataset = create_dataset('folder', 'm', pattern=pattern.partition('=')[2])
    assert {r.identity for r in dataset.train} == {'0001', '0003'}
    assert {(r.identity, r.camera) for r in dataset.query} == {(i, c) for i in ('0002', '0004') for c in '12'}
    assert {r.tracklet for r in dataset.train} == {f'{i}/{n}' for i in ('0001', '0003') for n in ('0001', '0002')}
    argv = (*EVAL, 'folder', '--data-dir', 'm', '--data-option', pattern, '--multi-shot')
    code, text = run(capsys, evaluate, *argv)
    assert code == 0 and 'queries are drawn from bbox_test' in text and '8 distractors, of identity 0000' in text


def test_without_junk_0000_is_somebody():
    people('s', '.', identities=('0000', '0001', '0002', '0003'))
    assert '0000' in {r.identity for r in create_dataset('folder', 's', test_share=0).train}


BIG = ('12345678901234567890', '98765432109876543210', '-not a number')


def test_numbers_beyond_64_bits(capsys):
    cameras = ('11111111111111111111', '22222222222222222222')
    people('p', 'train', identities=('55555555555555555555', '66666666666666666666'), cameras=cameras)
    people('p', 'query', identities=BIG, cameras=cameras[:1])
    people('p', 'gallery', identities=BIG, cameras=cameras[1:])
    for layout in ('csv', 'shards', 'folder'):
        output = f'{layout}.csv' if layout == 'csv' else layout
        assert run(capsys, data, 'convert', 'folder', 'p', '--to', layout, '--output', output)[0] == 0
        name = 'table' if layout == 'csv' else layout
        dataset = create_dataset(name, output)
        assert {r.identity for r in dataset.query} == set(BIG) and {r.camera for r in dataset.train} == set(cameras)
        code, text = run(capsys, data, 'check', name, output)
        assert 'unreadable' not in text and 'identities in both' not in text
        argv = (*EVAL, name, '--data-dir', output, '--json', f'{layout}.json')
        assert run(capsys, evaluate, *argv)[0] == 0


def test_numbers_that_a_spreadsheet_has_shortened(capsys):
    paint('a.png', 'b.png')
    rows = [('a.png', '1.23457E+19', 'train', '1'), ('b.png', '7', 'train', '9.9E+18')]
    table = write_table('t.csv', rows)
    refused(capsys, data, 'check', 'table', table, names=['line 2, identity: 1.23457E+19', 'line 3, camera: 9.9E+18'])
    pyarrow = pytest.importorskip('pyarrow')
    from pyarrow import parquet

    columns = {'path': ['a.png', 'b.png'], 'split': ['train'] * 2, 'identity': [12345678901234567890.0, 7.0]}
    parquet.write_table(pyarrow.table(columns), 't.parquet')
    with pytest.raises(InputError, match='row 1, identity: .*digits'):
        create_dataset('table', 't.parquet')
    parquet.write_table(
        pyarrow.table(columns | {'identity': pyarrow.array([12345678901234567890, 7], pyarrow.uint64())}), 't.parquet'
    )
    assert create_dataset('table', 't.parquet').train[0].identity == '12345678901234567890'


def tracklets(numbers):
    """A table of images by identity, camera and number of the tracklet, all in query and gallery."""
    rows = []
    for identity, camera, number in numbers:
        for part in ('query', 'gallery'):
            for k in range(2):
                name = f'{part}_{identity}_{camera}_{number}_{k}.png'
                paint(name)
                rows.append((name, identity, part, camera, number))
    return write_table('t.csv', rows, ('path', 'identity', 'split', 'camera', 'tracklet'))


@pytest.mark.parametrize(
    'numbers',
    [
        # anew for each identity under each camera, as in MARS
        [(i, c, n) for i in ('anna', 'ben') for c in ('1', '2') for n in ('0001', '0002')],
        # and for each identity alone
        [('anna', '1', '1'), ('anna', '2', '2'), ('ben', '1', '1'), ('ben', '2', '3')],
    ],
)
def test_tracklets_that_begin_anew(capsys, numbers):
    table = tracklets(numbers)
    dataset = create_dataset('table', table)
    assert {r.tracklet for r in dataset.gallery} == {f'{i}/{n}' for i, _, n in numbers}
    assert 'tracklets begin anew with each identity' in dataset.notes[-1]
    code, text = run(capsys, evaluate, *EVAL, 'table', '--data-dir', table, '--multi-shot')
    assert code == 0, text


def test_tracklets_that_mix_identities(capsys):
    """As likely a mistake in the table; who knows better says so."""
    table = tracklets([('anna', '1', '4'), ('anna', '2', '1'), ('ben', '1', '4'), ('ben', '2', '7')])
    argv = (*EVAL, 'table', '--data-dir', table, '--multi-shot')
    refused(capsys, evaluate, *argv, names=['tracklet 4 mixes identities', 'option tracklets=identity'])
    assert run(capsys, evaluate, *argv, '--data-option', 'tracklets=identity')[0] == 0
    dataset = create_dataset('table', table, tracklets='camera')
    assert {r.tracklet for r in dataset.gallery} == set('147') and not dataset.notes


# tables


def test_paths_of_windows(capsys):
    paint('a/b.png', 'a/c.png')
    table = write_table('t.csv', [(r'a\b.png', 1, 'query', 1), (r'.\a\c.png', 1, 'gallery', 2)])
    assert run(capsys, evaluate, *EVAL, 'table', '--data-dir', table)[0] == 0
    dataset = create_dataset('table', table)
    assert os.path.samefile(dataset.query[0].path, 'a/b.png')
    table = write_table('t.csv', [(r'C:\x\b.png', 1, 'query', 1)])
    refused(capsys, data, 'check', 'table', table, names=['line 2, path: no such file', r'C:\x\b.png'])
    if os.sep == '/':  # where such a name is a file's own, it is meant
        paint(r'a\b.png')
        table = write_table('t.csv', [(r'a\b.png', 1, 'train', 1)])
        assert create_dataset('table', table).train[0].path.endswith(r'a\b.png')


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-8-sig', 'utf-32'])
def test_a_table_with_a_mark(capsys, encoding):
    paint('é.png', 'b.png')
    rows = [('é.png', 'Zoë', 'query', 1), ('b.png', 'Zoë', 'gallery', 2)]
    table = write_table('t.csv', rows, encoding=encoding)
    assert create_dataset('table', table).query[0].identity == 'Zoë'
    assert run(capsys, evaluate, *EVAL, 'table', '--data-dir', table)[0] == 0


def test_a_table_without_a_mark(capsys):
    paint('é.png', 'b.png')
    rows = [('b.png', 'Zoë', 'gallery', 2), ('é.png', 'Zoë', 'query', 1)]
    table = write_table('t.csv', rows, encoding='cp1252')
    names = ['t.csv: cannot read this table', 'line 2', r'Zo\xeb', 'iconv -f cp1252', 'option encoding=cp1252']
    refused(capsys, data, 'check', 'table', table, names=names)
    dataset = create_dataset('table', table, encoding='cp1252')
    assert dataset.query[0].identity == 'Zoë' and dataset.query[0].path.endswith('é.png')
    refused(capsys, data, 'check', 'table', table, '--data-option', 'encoding=klingon', names=['encoding=klingon'])
    refused(capsys, data, 'check', 'table', table, '--data-option', 'encoding=hex', names=['encoding=hex'])
    write_table('t.csv', rows, encoding='utf-16-le')
    refused(capsys, data, 'check', 'table', table, names=['t.csv: not UTF-8, perhaps UTF-16', 'iconv -f utf-16le'])
    os.truncate(write_table('t.csv', rows, encoding='utf-16'), 99)
    refused(capsys, data, 'check', 'table', table, names=['t.csv', 'utf-16'])


def test_labels_of_embeddings_are_a_table_too(capsys):
    for part in ('query', 'gallery'):
        np.save(f'{part}.npy', np.eye(2, 4, dtype=np.float32))
    rows = [(part, name, camera) for part, camera in (('query', 1), ('gallery', 2)) for name in ('Zoë', 'Åsa')]
    argv = ('--embeddings', 'query.npy', 'gallery.npy', '--labels', 'l.csv')
    write_table('l.csv', rows, ('part', 'identity', 'camera'), encoding='utf-16')
    assert run(capsys, evaluate, *argv)[0] == 0
    write_table('l.csv', rows, ('part', 'identity', 'camera'), encoding='cp1252')
    refused(capsys, evaluate, *argv, names=['l.csv: cannot read', 'must be UTF-8', 'iconv -f cp1252'])


def test_a_list_of_a_benchmark(capsys):
    """Its lists are texts like tables."""
    paint('v/image/0000001.jpg', 'v/image/0000002.jpg')
    os.makedirs('v/train_test_split')
    for name, encoding in (('train_list', 'utf-16'), ('test_list_800', 'cp1252')):
        with open(f'v/train_test_split/{name}.txt', 'w', encoding=encoding) as file:
            file.write('0000001 1\n0000002 é\n'[: 20 if encoding == 'cp1252' else 10])
    refused(
        capsys, data, 'check', 'vehicleid', 'v', names=['test_list_800.txt: cannot read this list', 'iconv', 'line 2']
    )


BOXES = [
    ('0.4 0 19.2 40', (0, 0, 20, 40)),
    ('-3.5 -1 20 40', (0, 0, 20, 40)),
    ('4 8 1000 1000', (4, 8, 24, 48)),
    ('4 8 1e30 99', (4, 8, 24, 48)),
]


@pytest.mark.parametrize(('text', 'box'), BOXES)
def test_boxes_are_cut_off(capsys, text, box):
    paint('a.png', 'b.png')
    header = ('path', 'identity', 'split', 'camera', 'box')
    table = write_table('t.csv', [('a.png', 1, 'query', 1, text), ('b.png', 1, 'gallery', 2, '')], header)
    (record,) = create_dataset('table', table).query
    with Image.open('a.png') as image:
        assert np.array_equal(load_image(record.path, record.box), image.crop(box))
    assert run(capsys, evaluate, *EVAL, 'table', '--data-dir', table, '--features', 'f')[0] == 0
    assert run(capsys, data, 'convert', 'table', table, '--to', 'folder', '--output', 'out')[0] == 0


@pytest.mark.parametrize('text', ['5 5 5 9', '9 5 5 9', '-9 0 -1 9', '0 -9 9 0', 'nan 0 9 9', '0 0 inf 9', '1 2 3'])
def test_boxes_that_show_nothing(capsys, text):
    paint('a.png')
    table = write_table('t.csv', [('a.png', 1, 'train', 1, text)], ('path', 'identity', 'split', 'camera', 'box'))
    refused(capsys, data, 'check', 'table', table, names=['t.csv', f"line 2, box: '{text}'"])


def test_a_box_outside_of_its_image(capsys):
    paint('a.png', 'b.png')
    header = ('path', 'identity', 'split', 'camera', 'box')
    table = write_table('t.csv', [('a.png', 1, 'query', 1, '30 0 40 9'), ('b.png', 1, 'gallery', 2, '')], header)
    names = ['a.png: the box (30, 0, 40, 9) shows nothing of its 24x48 pixels']
    refused(capsys, evaluate, *EVAL, 'table', '--data-dir', table, names=names)
    code, text = run(capsys, data, 'check', 'table', table)
    assert code == 1 and names[0] in text


# names that are no UTF-8


@pytest.fixture
def odd():
    """Such a name, where the file system takes it."""
    name = os.fsdecode(b'caf\xe9')
    try:
        os.makedirs(name)
        os.rmdir(name)
        name.encode()
    except UnicodeEncodeError:
        return name
    except OSError:
        pass
    pytest.skip('all names are Unicode here')


SHOWN = r'caf\xe9'


@pytest.mark.parametrize('where', ['identity', 'camera', 'file'])
def test_names_that_are_not_utf8(capsys, odd, where):
    for part in ('query', 'gallery'):
        for i in ('anna', 'ben'):
            name = {'identity': f'{odd}/1/1', 'camera': f'{i}/{odd}/1', 'file': f'{i}/1/{odd}'}[where]
            paint(f'p/{part}/{name}.png')
    for to, output in (('csv', 't.csv'), ('folder', 'f'), ('shards', 's'), ('market1501', 'm')):
        argv = ('convert', 'folder', 'p', '--to', to, '--output', output)
        refused(capsys, data, *argv, names=[SHOWN, 'not UTF-8', 'rename'])
        assert not os.path.exists(output)
    refused(capsys, data, 'check', 'folder', 'p', names=[SHOWN])
    argv = (*EVAL, 'folder', '--data-dir', 'p', '--html', 'r.html', '--json', 'r.json')
    refused(capsys, evaluate, *argv, names=[SHOWN])
    refused(capsys, train, '-ds', 'folder', '--data-dir', 'p', '--output', 'run', names=[SHOWN])
    assert os.listdir() == ['p']


def test_arguments_that_are_not_utf8(capsys, odd):
    people('p', 'query', 'gallery')
    for flag in ('--html', '--json', '--features', '--ranked-lists'):
        refused(capsys, evaluate, *EVAL, 'folder', '--data-dir', 'p', flag, odd, names=[SHOWN, 'rename'])
    os.rename('p', odd)
    refused(capsys, data, 'check', 'folder', odd, names=[SHOWN])
    refused(capsys, evaluate, *EVAL, 'folder', '--data-dir', odd, names=[SHOWN])
    refused(capsys, train, '-ds', 'folder', '--data-dir', 'x', '--output', odd, names=[SHOWN])


def test_the_arguments_of_a_process(capsys, monkeypatch, odd):
    """They come from elsewhere than those of a call."""
    monkeypatch.setattr(sys, 'argv', ['msinet-data', 'check', 'folder', odd])
    assert data() == 2
    assert f'error: {SHOWN}: this name is not UTF-8' in capsys.readouterr().err


def test_standard_output_that_knows_less_than_names(monkeypatch):
    people('p', 'query', 'gallery', identities=('Zoë', 'Åsa'), cameras=('door',))
    output = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(output, 'ascii'))
    assert data(['check', 'folder', 'p']) == 1
    assert rb'identity Zo\xeb' in output.getvalue()


def test_labels_of_shards_that_are_not_unicode(capsys):
    people('p', 'query', 'gallery')
    assert run(capsys, data, 'convert', 'folder', 'p', '--to', 'shards', '--output', 's')[0] == 0
    with open('s/query-000000.tar', 'rb+') as file:
        content = file.read()
        file.seek(0)
        changed = content.replace(b'"anna"', b'"\\ud8"', 1)  # a broken escape
        assert changed != content
        file.write(changed)
    os.unlink('s/index.csv')
    refused(capsys, data, 'check', 'shards', 's', names=['query-000000.tar', 'no JSON'])
    label = json.dumps({'identity': 'anna', 'camera': 'door'}).encode()
    odd = b'{"identity":"\\ud800","camera":"d"}'.ljust(len(label))
    assert len(odd) == len(label)
    with open('s/query-000000.tar', 'rb+') as file:
        file.write(content.replace(label, odd))
    refused(capsys, data, 'check', 'shards', 's', names=['query-000000.tar/', r'identity \ud800', 'not UTF-8'])


def test_nor_in_shards(capsys, caplog):
    people('p', 'query', 'gallery')
    assert run(capsys, data, 'convert', 'folder', 'p', '--to', 'shards', '--output', 's')[0] == 0
    os.unlink('s/index.csv')
    open('s/val-000000.tar', 'w').close()
    with tarfile.open('s/query-000000.tar', 'a') as tar:
        for name in ('000000.txt', '999999.json', '.hidden.png'):
            member = tarfile.TarInfo(name)
            content = b'{"identity": "anna"}'
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for told in ('4 skipped: 1 .tar, 1 .txt, 1 hidden, 1 .json', '1 skipped: 1 .tar'):  # the second time by the index
        caplog.clear()
        run(capsys, data, 'check', 'shards', 's')
        assert caplog.messages.count(f's: {told}') == 1


def test_features_of_names_that_are_not_utf8(capsys):
    """As files have them that the version before has written."""
    for part, camera in (('query', '1'), ('gallery', '2')):
        Features.of([Record('caf\udce9.png', 'anna', camera)], torch.eye(1)).save(f'{part}.safetensors')
    argv = ('--embeddings', 'query.safetensors', 'gallery.safetensors', '--html', 'r.html')
    refused(capsys, evaluate, *argv, names=['query.safetensors', r'caf\udce9', 'must be UTF-8'])
