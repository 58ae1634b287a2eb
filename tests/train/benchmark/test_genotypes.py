import csv
import math
import statistics
from random import Random

import numpy as np
import pytest
from PIL import Image

from msinet_timm.models.genotype import Genotype
from msinet_train.benchmark.genotypes import main, rate, read_table, spread, tau
from msinet_train.search.cli import main as search
from msinet_train.search.compare import random_genotypes

TINY = '-ds market1501 --variant x0_25 --height 32 --width 16 --batch-size 6 --num-instance 2 --workers 0'
TINY += ' --warmup-step 0 --epochs 1'


def write(path, genotypes, seeds=2):
    rng = Random(0)
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['genotype', 'seed', 'mAP', 'interactions'])
        for name, genotype in genotypes.items():
            writer.writerows([name, seed, rng.random(), ' '.join(genotype)] for seed in range(seeds))
    return path


@pytest.fixture(scope='module')
def runs(market_to_search, tmp_path_factory):
    folder = tmp_path_factory.mktemp('searches')
    common = [*TINY.split(), '--data-dir', str(market_to_search)]
    assert search([*common, '--output', str(folder / 'tcm'), '--geno-interval', '1']) == 0
    assert search([*common, '--method', 'paths', '--candidates', '4', '--output', str(folder / 'paths')]) == 0
    return folder


def test_spread_is_that_of_the_numbers_drawn():
    rng = np.random.default_rng(0)
    own, of_seeds = rng.normal(0.5, 0.03, 4000), [0.1, 0.0, -0.05]
    table = {
        k: {str(seed): mean + of_seeds[seed] + rng.normal(0, 0.01) for seed in rng.permutation(3)[: 2 + k % 2]}
        for k, mean in enumerate(own)
    }
    assert spread(table) == pytest.approx((0.01, 0.03), rel=0.05)


def test_tau_counts_pairs():
    rng = Random(1)
    a, b = ([rng.random() for _ in range(15)] for _ in range(2))
    signs = [math.copysign(1, (a[i] - a[j]) * (b[i] - b[j])) for i in range(15) for j in range(i)]
    value, low, high = tau(a, b)
    assert value == pytest.approx(statistics.mean(signs)) and -1 <= low < value < high <= 1
    assert tau(a, a)[0] == pytest.approx(1)


@pytest.mark.charts
def test_searches_are_asked_what_they_think(runs, tmp_path, capsys):
    genotypes = random_genotypes(4)
    table = write(tmp_path / 'table.csv', genotypes)
    searches = [str(runs / 'tcm'), str(runs / 'paths')]
    assert main([str(table), '--searches', *searches, '--output', str(tmp_path / 'ratings.csv')]) == 0
    out = capsys.readouterr().out
    assert out.startswith('4 genotypes: mAP differs by ') and "Kendall's tau" in out
    with open(tmp_path / 'ratings.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['search'] for row in rows] == [s for s in searches for _ in genotypes]
    assert all(0 < float(row['mAP']) <= 1 and float(row['loss']) < 0 for row in rows)
    assert Image.open(tmp_path / 'ratings.png').size[0] > 400

    with open(runs / 'tcm' / 'architecture.csv') as file:
        mixture = {int(row['place']): row for row in csv.DictReader(file)}
    for row, genotype in zip(rows, genotypes.values(), strict=False):
        by_hand = sum(math.log(float(mixture[place][name])) for place, name in enumerate(genotype))
        assert float(row['mixture']) == pytest.approx(by_hand, abs=1e-4)


def test_paths_are_rated_as_in_the_search(runs):
    with open(runs / 'paths' / 'paths.csv') as file:
        known = {Genotype(row[f'place_{k}'] for k in range(12)): float(row['mAP']) for row in csv.DictReader(file)}
    found = rate(runs / 'paths', list(known))
    assert [rating['mAP'] for rating in found] == pytest.approx(list(known.values()), abs=1e-6)


def test_bad_input(runs, tmp_path, capsys):
    table = write(tmp_path / 'table.csv', random_genotypes(3))
    (tmp_path / 'nonsense.csv').write_text('genotype,seed,mAP,interactions\na,0,high,ag\n')
    for name, mAP in (('percent', '24.3'), ('nan', 'nan')):
        (tmp_path / f'{name}.csv').write_text(f'genotype,seed,mAP,interactions\na,0,{mAP},{" ".join(["ag"] * 12)}\n')
    for argv, message in (
        ([str(tmp_path / 'missing.csv')], 'missing.csv: no table of genotypes'),
        ([str(tmp_path / 'nonsense.csv')], 'nonsense.csv: no table of genotypes'),
        ([str(tmp_path / 'percent.csv')], 'mAP 24.3 is not between 0 and 1'),
        ([str(tmp_path / 'nan.csv')], 'mAP nan is not between 0 and 1'),
        ([str(write(tmp_path / 'two.csv', random_genotypes(2)))], 'two.csv: 2 genotypes, of three at least'),
        ([str(write(tmp_path / 'once.csv', random_genotypes(3), 1))], 'no two genotypes have the same two seeds'),
        ([str(table), '--searches', str(tmp_path)], 'no search there'),
        ([str(table), '--searches', str(runs / 'tcm'), '--data-dir', str(tmp_path)], str(tmp_path)),
    ):
        assert main(argv) == 2
        assert message in capsys.readouterr().err


def test_reads_what_compare_writes(tmp_path):
    genotypes = random_genotypes(3)
    assert list(read_table(write(tmp_path / 'table.csv', genotypes))) == list(genotypes.values())
