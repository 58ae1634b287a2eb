"""Embeddings from files, with a table of labels or without."""

import json

import numpy as np
import pytest
import torch
from labelled import labels_of
from safetensors.torch import save_file

from msinet_eval import evaluate_embeddings
from msinet_eval.cli import main
from msinet_eval.features.embeddings import load_embeddings
from msinet_eval.metrics.ranking import evaluate_ranking
from msinet_timm.errors import InputError

QUERY = np.array([[3.0, 0.1], [0.2, 1.0]], np.float32)
GALLERY = np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.6], [-1.0, 0.2]], np.float32)
LABELS = """part,identity,camera,clothes,tracklet,domain,path
query,anna,door,red,1,mall,a.jpg
gallery,anna,hall,red,2,mall,b.jpg
query,bert,door,red,3,mall,c.jpg
gallery,bert,hall,blue,4,mall,d.jpg
gallery,anna,door,red,1,mall,e.jpg
gallery,carl,hall,red,5,street,f.jpg
"""

LABELLED = {
    'query_ids': [0, 1],
    'gallery_ids': [0, 1, 0, 2],
    'query_cameras': [0, 0],
    'gallery_cameras': [1, 1, 0, 1],
}


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / 'query.npy', QUERY)
    np.save(tmp_path / 'gallery.npy', GALLERY.astype(np.float64))
    (tmp_path / 'labels.csv').write_text(LABELS)
    return [str(tmp_path / f'{part}.npy') for part in ('query', 'gallery')]


@pytest.fixture
def labels(tmp_path):
    return str(tmp_path / 'labels.csv')


def normalised(array):
    return torch.nn.functional.normalize(torch.from_numpy(array))


def test_rows_are_in_the_order_of_their_part(files, labels, tmp_path):
    query, gallery, _ = load_embeddings(files, labels)
    torch.testing.assert_close(query.embeddings, normalised(QUERY))
    torch.testing.assert_close(gallery.embeddings, normalised(GALLERY))
    assert gallery.embeddings.dtype == torch.float32
    assert (query.identities, gallery.identities) == (('anna', 'bert'), ('anna', 'bert', 'anna', 'carl'))
    assert (query.cameras, gallery.cameras) == (('door', 'door'), ('hall', 'hall', 'door', 'hall'))
    assert gallery.clothes == ('red', 'blue', 'red', 'red')
    assert gallery.tracklets == ('2', '4', '1', '5')
    assert gallery.domains == ('mall', 'mall', 'mall', 'street')
    assert gallery.paths[1] == str(tmp_path / 'd.jpg')


def test_safetensors_and_other_delimiters(files, labels, tmp_path):
    save_file({'whatever': torch.from_numpy(QUERY)}, tmp_path / 'q.safetensors')
    save_file({'embeddings': torch.from_numpy(GALLERY), 'other': torch.zeros(1)}, tmp_path / 'g.safetensors')
    (tmp_path / 'semicolons.csv').write_text(LABELS.replace(',', ';'), encoding='utf-8-sig')
    pair = [tmp_path / 'q.safetensors', tmp_path / 'g.safetensors']
    expected, found = load_embeddings(files, labels), load_embeddings(pair, tmp_path / 'semicolons.csv')
    for a, b in zip(expected[:2], found[:2], strict=True):
        assert torch.equal(a.embeddings, b.embeddings) and a.cameras == b.cameras
    save_file({'a': torch.zeros(2, 2), 'b': torch.zeros(2, 2)}, tmp_path / 'q.safetensors')
    with pytest.raises(InputError, match='holds a, b: one of them must be named embeddings'):
        load_embeddings(pair, labels)


def test_command_measures_them(files, labels, tmp_path, capsys):
    assert main(['--embeddings', *files, '--labels', labels, '--json', str(tmp_path / 'f.json')]) == 0
    metrics = json.loads((tmp_path / 'f.json').read_text())
    expected = evaluate_ranking(normalised(QUERY), normalised(GALLERY), *labels_of(LABELLED))
    assert metrics['mAP'] == expected.mAP and metrics['cmc'] == expected.cmc.tolist()
    assert metrics['embeddings'] == files and metrics['images_per_second'] is None
    assert f'{100 * expected.mAP:.1f}' in capsys.readouterr().out


def test_files_of_the_command_need_no_labels(market, tmp_path, capsys):
    data = ['-ds', 'market1501', '--data-dir', str(market), '--workers', '0']
    assert main(['color_histogram', *data, '--features', str(tmp_path), '--json', str(tmp_path / 'a.json')]) == 0
    files = [str(tmp_path / f'{part}.safetensors') for part in ('query', 'gallery')]
    png = ['--ranked-lists', str(tmp_path / 'lists.png')]
    assert main(['--embeddings', *files, '--json', str(tmp_path / 'b.json'), *png]) == 0
    a, b = (json.loads((tmp_path / name).read_text()) for name in ('a.json', 'b.json'))
    assert (a['mAP'], a['cmc'], a['images']) == (b['mAP'], b['cmc'], b['images'])
    assert (tmp_path / 'lists.png').stat().st_size > 1000
    # one set of images, of which galleries are drawn
    assert main(['--embeddings', files[1], '--protocol', 'draws=3', '--json', str(tmp_path / 'c.json')]) == 0
    assert len(json.loads((tmp_path / 'c.json').read_text())['draws']) == 3
    assert main(['--embeddings', files[1]]) == 2
    assert (
        'there are no queries: give some, or have them drawn from the gallery (--protocol draws=10)'
        in capsys.readouterr().err
    )


def test_without_cameras_a_remark_says_so(files, tmp_path, capsys):
    table = tmp_path / 'two.csv'
    table.write_text('\n'.join(','.join(line.split(',')[:2]) for line in LABELS.splitlines()))
    assert main(['--embeddings', *files, '--labels', str(table)]) == 0
    assert 'no cameras known: images of the same camera count as matches' in capsys.readouterr().out
    assert main(['--embeddings', *files, '--labels', str(table), '--ranked-lists', str(tmp_path / 'l.png')]) == 2
    assert '--ranked-lists shows images: give the --labels a column path' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('line', 'text', 'message'),
    [
        (2, 'train,anna,door,red,1,mall,a.jpg', "line 2, part: 'train' must be one of query, gallery"),
        (3, 'gallery,,hall,red,2,mall,b.jpg', 'line 3, identity: empty'),
        (4, 'query,bert,,red,3,mall,c.jpg', 'line 4, camera: empty, but other rows have one'),
        (5, 'gallery,bert,hall', 'line 5, row: 4 fields too few'),
        (6, 'gallery,anna,door,red,1,mall,e.jpg,x', 'line 6, row: 1 fields too many'),
        (1, 'part,camera', 'lacks the column identity; it has part, camera. Required are part, identity'),
        (7, '', 'has 3 rows of the part gallery for 4 embeddings'),
    ],
)
def test_wrong_labels(files, labels, tmp_path, line, text, message):
    lines = LABELS.splitlines()
    lines[line - 1] = text
    (tmp_path / 'labels.csv').write_text('\n'.join(lines))
    with pytest.raises(InputError, match='labels.csv') as caught:
        load_embeddings(files, labels)
    assert message in str(caught.value)


def test_wrong_files(files, labels, tmp_path):
    def refuse(query, message, table=labels):
        np.save(tmp_path / 'wrong.npy', query)
        with pytest.raises(InputError, match=message):
            load_embeddings([tmp_path / 'wrong.npy', files[1]], table)

    refuse(np.ones((2, 3), np.float32), r'wrong.npy has 3 dimensions, .*gallery.npy 2: they are of different models')
    refuse(np.ones(2, np.float32), r'embeddings must be \[images, dimensions\], not empty; got \[2\]')
    refuse(np.array([[1, 2], [np.nan, 1]], np.float32), 'embedding 1 .from 0. is not finite')
    refuse(np.array([['a', 'b'], ['c', 'd']]), 'cannot read these embeddings')
    refuse(QUERY, 'has no identities: give --labels', None)
    with pytest.raises(InputError, match='nowhere.npy: cannot read these embeddings'):
        load_embeddings([tmp_path / 'nowhere.npy', files[1]], labels)
    with pytest.raises(InputError, match='embeddings end in .npy or .safetensors'):
        load_embeddings([tmp_path / 'query.txt', files[1]], labels)
    with pytest.raises(InputError, match='cannot read this table'):
        load_embeddings(files, tmp_path / 'nowhere.csv')


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--flip'], '--flip is for models'),
        (['--part', 'global'], '--part is for models'),
        (['--features', 'x'], '--features is for models'),
        (['--amp', '--amp-dtype', 'float16'], '--amp is for models'),
        (['--batch-size', '8'], '--batch-size is for models'),
        (['--workers', '0'], '--workers is for models'),
        (['--cache', 'memory'], '--cache is for models'),
        (['--data-dir', 'x'], '--data-dir is for models'),
        (['--model', 'x'], '--model is for models'),
        (['-ds', 'sample'], '--embeddings are measured instead of a model on a data set'),
    ],
)
def test_flags_that_would_have_no_effect(files, labels, capsys, flags, message):
    assert main(['--embeddings', *files, '--labels', labels, *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'setting', [{'flip': True}, {'part': 'global'}, {'amp': True}, {'height': 64}, {'skip_broken': True}]
)
def test_settings_that_would_have_no_effect(files, labels, setting):
    with pytest.raises(InputError, match=f'{next(iter(setting))} is for models'):
        evaluate_embeddings(files, labels, **setting)


def test_one_file_or_two(files, labels):
    for wrong, got in ([], '0 files'), ([*files, files[1]], '3 files'), (files[1], f"the text '{files[1]}'"):
        with pytest.raises(InputError, match='embeddings: list one file of queries and one of the gallery') as error:
            load_embeddings(wrong, labels)
        assert str(error.value).endswith(f'got {got}')


def test_columns_that_are_not_used_are_not_read(files, labels, tmp_path, caplog):
    header, *rows = LABELS.splitlines()
    lines = [f'{header},time,box', *(f'{row},noon,{number} 0 20 20' for number, row in enumerate(rows))]
    (tmp_path / 'more.csv').write_text('\n'.join(lines))
    found, expected = load_embeddings(files, tmp_path / 'more.csv'), load_embeddings(files, labels)
    assert 'columns time, box are not used' in caplog.text
    assert found.gallery.boxes is None and found.gallery.paths == expected.gallery.paths
