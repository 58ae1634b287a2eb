import csv
import re

import numpy as np
import pytest
import torch
from labelled import named

from msinet_eval.cli import MEANINGS, main
from msinet_eval.features.types import Features
from msinet_eval.search.index import PARAMETERS


@pytest.fixture
def folder(tmp_path):
    """Features as msinet-eval --features writes them."""
    rng = np.random.default_rng(0)
    for name, count in (('query', 6), ('gallery', 300)):
        embeddings = torch.from_numpy(rng.standard_normal((count, 8)).astype(np.float32))
        paths = tuple(f'{name}{i}.jpg' for i in range(count))
        Features(embeddings, named(range(count)), named(i % 4 for i in range(count)), paths).save(
            tmp_path / f'{name}.safetensors'
        )
    return tmp_path


def read(text):
    return list(csv.DictReader(text.splitlines()))


def test_features_of_a_folder(folder, capsys):
    assert main(['search', str(folder), str(folder), '-k', '3']) == 0
    rows = read(capsys.readouterr().out)
    query, gallery = (Features.load(folder / f'{name}.safetensors').embeddings for name in ('query', 'gallery'))
    distances = torch.cdist(query, gallery)
    assert len(rows) == 18
    for number, row in enumerate(rows):
        found = int(distances[number // 3].argsort()[number % 3])
        assert float(row.pop('distance')) == pytest.approx(float(distances[number // 3, found]), rel=1e-4)
        assert row == {
            'query': f'query{number // 3}.jpg',
            'rank': str(number % 3 + 1),
            'index': str(found),
            'identity': str(found),
            'camera': str(found % 4),
            'path': f'gallery{found}.jpg',
        }


def test_recall_is_told(folder, caplog, capsys):
    caplog.set_level('INFO')
    files = [str(folder / 'gallery.safetensors'), str(folder / 'query.safetensors')]
    shares = []
    for nprobe in ('1', '16'):
        options = ['--backend', 'ivfpq', '--nlist', '16', '--nprobe', nprobe, '--m', '4', '--refine', '30', '--recall']
        assert main(['search', *files, *options]) == 0
        shares.append(float(re.search(r'6 queries in 300 images.*recall@10 ([0-9.]+)', caplog.text).group(1)))
        caplog.clear()
    assert shares[0] < 0.9 < shares[1]
    assert capsys.readouterr().out.startswith('query,rank,distance,index,identity,camera,path\n')


def test_images(market, tmp_path, capsys):
    """Everybody wears one colour: all three of an identity come first."""
    command = ['color_histogram', '-ds', 'market1501', '--data-dir', str(market), '--workers', '0', '--no-intervals']
    assert main([*command, '--features', str(tmp_path)]) == 0
    images = sorted(str(path) for path in (market / 'query').iterdir())
    output = tmp_path / 'found.csv'
    found = ['search', str(tmp_path), *images, '--model', 'color_histogram', '-k', '3', '--output', str(output)]
    capsys.readouterr()
    assert main(found) == 0
    assert capsys.readouterr().out == ''
    rows = read(output.read_text())
    assert [row['query'] for row in rows[::3]] == images
    assert [row['identity'] for row in rows] == ['1'] * 3 + ['2'] * 3 + ['3'] * 3
    assert all(float(row['distance']) < 0.7 for row in rows)


def test_array(tmp_path, capsys):
    np.save(tmp_path / 'gallery.npy', np.eye(4, dtype=np.float32))
    np.save(tmp_path / 'query.npy', np.eye(4, dtype=np.float32)[2:])
    assert main(['search', str(tmp_path / 'gallery.npy'), str(tmp_path / 'query.npy'), '-k', '1']) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ['0,1,0,2,,,', '1,1,0,3,,,']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{0}', 'a.jpg'], 'a.jpg is no file of features: to search for images, give --model'),
        (['{0}', '{0}', '--model', 'color_histogram'], 'holds features, which need no --model'),
        (['{0}', '{0}', 'a.jpg'], 'holds features: give nothing else'),
        (['{0}', '{0}', '-k', '301'], 'k must be from 1 to the number of gallery images, 300'),
        (['{0}', '{0}', '--ef', '3'], 'exact has no parameter ef'),
        (['{0}/none', '{0}'], 'has no store.json'),
        (['{0}', '{0}', '--output', '{0}'], r'--output .*: cannot write'),
    ],
)
def test_bad_input(folder, capsys, arguments, message):
    assert main(['search', *(argument.format(folder) for argument in arguments)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_every_parameter_has_a_flag_that_is_explained():
    assert sorted(MEANINGS) == PARAMETERS
