import re
import statistics

import pytest

from msinet_timm.datasets import create_dataset
from msinet_train.benchmark.loading import PIPELINE, main, measure


def test_cache_is_much_faster():
    rates = measure(create_dataset('sample').train[:64], 256, 128, repeat=3)
    assert {len(values) for values in rates.values()} == {3}
    cache = statistics.median(rates['cache, normalised by batch'])
    assert cache > 3.5 * statistics.median(rates[PIPELINE])


def test_prints_a_table(capsys):
    assert main(['--images', '5', '--height', '32', '--width', '16', '--repeat', '2', '--batch-size', '4']) == 0
    header, titles, *rows = capsys.readouterr().out.splitlines()
    assert header == '5 images of sample, the first 256x128, for input 32x16'
    assert titles.split()[-3:] == ['median', 'range', 'times']
    assert len(rows) == 3
    for row in rows:
        assert re.fullmatch(r'\D+ [\d,]+ +[\d,]+-[\d,]+ +\d+\.\d', row)
    assert re.search(r' 1\.0$', rows[1])


@pytest.mark.parametrize('argv, message', [(['-ds', 'nothing'], 'unknown data set'), (['--data-dir', 'x'], 'x')])
def test_wrong_input(capsys, argv, message):
    assert main(argv) == 2
    assert message in capsys.readouterr().err
