import csv
import itertools
import json
import shutil
from random import Random

import pytest
import timm
import torch

from msinet_timm.models.genotype import NUM_CELLS, Genotype
from msinet_timm.models.interactions import INTERACTIONS
from msinet_timm.models.msinet import MSINet
from msinet_timm.processes import Processes
from msinet_train.engine.loop import resume
from msinet_train.search.cli import main
from msinet_train.search.engine import prepare
from msinet_train.search.paths import Rated, evolve, fair_turns, front_of, plain
from msinet_train.search.settings import SearchSettings

NAMES = list(INTERACTIONS)
BEST = plain(Genotype(NAMES[k % 4] for k in range(2 * NUM_CELLS)))


def hits(genotype):
    return sum(a == b for a, b in zip(genotype, BEST, strict=True)) / len(BEST)


def test_turns_are_fair():
    drawn = list(itertools.islice(fair_turns(Random(1)), 48))
    for place, names in enumerate(zip(*drawn, strict=True)):
        known = set(NAMES) - ({'exc'} if place % 2 else set())
        for start in range(0, 48, len(known)):
            assert set(names[start : start + len(known)]) == known
    drawn = drawn[:40]
    assert drawn == list(itertools.islice(fair_turns(Random(1)), 40))
    assert drawn != list(itertools.islice(fair_turns(Random(2)), 40)) and len(set(drawn)) > 30


def test_breeding_finds_a_known_best_genotype():
    """One of 16.8 million, after 600 ratings that also err; as many random ones come nowhere near."""
    noise = Random(3)
    rated = evolve(lambda g: Rated(hits(g) + noise.gauss(0, 0.03)), 600, Random(0))
    assert len(rated) == 600
    found = max(rated, key=lambda g: rated[g].mAP)
    assert hits(found) >= 11 / 12
    assert max(map(hits, itertools.islice(fair_turns(Random(0)), 600))) <= 9 / 12


def test_few_ratings_are_enough_where_places_add_up():
    """As a sum over the places is fitted to the ratings, 80 find what takes blind breeding hundreds."""
    noise = Random(3)
    rated = evolve(lambda g: Rated(hits(g) + noise.gauss(0, 0.03)), 80, Random(0))
    assert hits(max(rated, key=lambda g: rated[g].mAP)) >= 11 / 12


def test_an_exchange_at_a_second_place_is_none():
    """The network is the same one with the last convolutions of its branches swapped."""
    torch.manual_seed(0)
    genotype = Genotype(['ag', 'exc'] * 3 + ['exc', 'exc', 'none', 'cross_att', 'exc', 'ag'])
    assert list(plain(genotype)) == ['ag', 'none'] * 3 + ['exc', 'none', 'none', 'cross_att', 'exc', 'ag']
    models = [MSINet(num_classes=2, genotype=g, widths=(8, 16, 24, 32)).eval() for g in (genotype, plain(genotype))]
    exchanged, other = models
    other.load_state_dict(exchanged.state_dict())
    for k, (_, second) in enumerate(genotype.cells):
        if second == 'exc':
            cell = other.stages[2 * (k // 2)][k % 2]
            cell.expand_a, cell.expand_b = cell.expand_b, cell.expand_a
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(exchanged(images), other(images))


def test_breeding_rates_as_many_as_asked_and_none_twice():
    asked = []
    rated = evolve(lambda g: asked.append(g) or Rated(0.0), 10, Random(0))
    assert len(asked) == len(set(asked)) == 10 and list(rated) == asked


def test_front_is_what_nothing_beats():
    rng = Random(5)
    rated = {g: Rated(rng.random(), rng.random()) for g in itertools.islice(fair_turns(rng), 60)}
    front = front_of(rated)
    times = [rated[g].milliseconds for g in front]
    assert times == sorted(times) and [rated[g].mAP for g in front] == sorted(rated[g].mAP for g in front)
    for g, mine in rated.items():
        beaten = any(o.mAP >= mine.mAP and o.milliseconds <= mine.milliseconds and o != mine for o in rated.values())
        assert (g in front) is not beaten


def test_front_spans_speed_and_precision():
    """Each place of the best genotype costs a millisecond: the front holds every trade."""
    rated = evolve(lambda g: Rated(hits(g), 12 * hits(g)), 300, Random(0))
    assert len({rated[g].mAP for g in front_of(rated)}) >= 8


TINY = '-ds market1501 --variant x0_25 --height 32 --width 16 --batch-size 6 --num-instance 2 --workers 0'
TINY += ' --warmup-step 0 --epochs 2 --method paths --candidates 6'


@pytest.fixture(scope='module')
def tiny(market_to_search):
    return [*TINY.split(), '--data-dir', str(market_to_search)]


@pytest.fixture(scope='module')
def searched(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp('paths') / 'run'
    assert main([*tiny, '--objective', 'front', '--output', str(folder)]) == 0
    return folder


def test_a_search_by_paths(searched):
    with open(searched / 'paths.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and {row['epoch'] for row in rows} == {'1'}
    assert all(0 <= float(row['mAP']) <= 1 and float(row['milliseconds']) > 0 for row in rows)
    found = json.loads((searched / 'genotype.json').read_text())
    best = max(rows, key=lambda row: (float(row['mAP']), -float(row['milliseconds'])))
    assert found['mAP'] == pytest.approx(float(best['mAP']), abs=1e-6) and found['method'] == 'paths'
    front = [json.loads(file.read_text()) for file in sorted((searched / 'front').iterdir())]
    assert front[-1]['operations'] == found['operations'] == [best[f'place_{k}'] for k in range(12)]
    assert 'interactions' in (searched / 'log.txt').read_text()
    with open(searched / 'summary.csv') as file:
        assert all(0 < float(row['eval_mAP'] or 1) <= 1 and row['train_train_loss'] for row in csv.DictReader(file))


@pytest.mark.charts
def test_a_chart_of_what_was_rated(searched):
    assert (searched / 'paths.png').stat().st_size > 5_000


def test_a_resumed_search_equals_an_uninterrupted_one(tiny, tmp_path, monkeypatch):
    """Interrupted after its first epoch, and again among the ratings, of which none is done twice."""
    whole, folder = tmp_path / 'whole', tmp_path / 'run'
    assert main([*tiny, '--output', str(whole)]) == 0
    assert main([*tiny, '--epochs', '1', '--output', str(folder)]) == 0
    asked = []
    from msinet_train.search.judge import Judge

    rate = Judge.__call__

    def some(self, genotype):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(genotype)
        return rate(self, genotype)

    monkeypatch.setattr(Judge, '__call__', some)
    go_on = ['--resume', str(folder), '--epochs', '2']
    assert main(go_on) != 0
    monkeypatch.setattr(Judge, '__call__', lambda self, genotype: asked.append(genotype) or rate(self, genotype))
    assert main(go_on) == 0
    assert len(asked) == 7 and asked[-1] in asked[:-1]  # six, and the best again for its statistics
    one, two = (torch.load(f / 'last.pth.tar', weights_only=True) for f in (whole, folder))
    assert one['task'].keys() == two['task'].keys()
    differ = {name for name, tensor in one['task'].items() if not torch.equal(tensor, two['task'][name])}
    assert not differ
    assert two['rated'] == one['rated']


def test_a_resumed_front_goes_on_with_the_times_it_has_measured(tiny, searched, tmp_path):
    shutil.copytree(searched, tmp_path / 'run')
    before = torch.load(searched / 'last.pth.tar', weights_only=True)['costs']
    (tmp_path / 'run' / 'front' / '99.json').write_text('{}')  # a longer front of fewer epochs
    assert main(['--resume', str(tmp_path / 'run'), '--epochs', '3']) == 0
    assert torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=True)['costs'] == before
    names = {f'{k}.json' for k in range(len(list((tmp_path / 'run' / 'front').iterdir())))}
    assert {file.name for file in (tmp_path / 'run' / 'front').iterdir()} == names
    assert '"epochs": 3' in (tmp_path / 'run' / 'front' / '0.json').read_text()


def test_genotypes_learn_alone_before_they_are_rated(tiny, tmp_path):
    """All from the same weights and by the same batches, of which nothing is left afterwards."""
    plain_run, tuned_run = tmp_path / 'plain', tmp_path / 'tuned'
    assert main([*tiny, '--output', str(plain_run)]) == 0
    assert main([*tiny, '--tune-steps', '2', '--output', str(tuned_run)]) == 0
    one, two = (torch.load(f / 'last.pth.tar', weights_only=True) for f in (plain_run, tuned_run))
    weights = [n for n in one['task'] if 'running' not in n and 'num_batches' not in n]
    assert all(torch.equal(one['task'][n], two['task'][n]) for n in weights)
    rated = two['rated'][0]
    settings = SearchSettings.from_run(tuned_run)
    search = prepare(settings, Processes(torch.device('cpu')))
    resume(search, None)
    genotype, judge, weight = Genotype(rated[0]), search.judge(), search.supernet.stem.conv.weight
    before = weight.clone()
    with search.tuned(genotype):
        again = judge(genotype)
        assert not torch.equal(weight, before)
    assert torch.equal(weight, before)
    # of another number of steps, an interrupted search takes no ratings over
    search.strategy.epoch = 1
    assert len(search.strategy._known(tuned_run / 'paths.csv')) == 6
    assert search.strategy._known(plain_run / 'paths.csv') == {}
    assert again == pytest.approx(rated[1], abs=1e-6)


def test_keeps_models_for_all_programs(tiny, searched, tmp_path, monkeypatch):
    monkeypatch.setenv('MSINET_GENOTYPES', str(tmp_path / 'own'))
    assert main(['--resume', str(searched), '--keep', 'kept_test']) == 0
    kept = sorted((tmp_path / 'own').iterdir())
    assert [f.stem for f in kept] == [f'kept_test_{k}' for k in range(len(list((searched / 'front').iterdir())))]
    model = timm.create_model('msinet_x0_25', genotype=str(kept[-1]), num_classes=0)
    assert list(model.genotype) == json.loads((searched / 'genotype.json').read_text())['operations']


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--objective latency', '--objective latency is for --method tcm'),
        ('--candidates 3', '--candidates'),
        ('--arch-lr 0.1', '--arch-lr is a setting of --method tcm: give that, too'),
        ('--order 2', '--order is a setting of --method tcm'),
        ('--loss triplet', "invalid choice: 'triplet'"),
        ('--tune-steps -1', '--tune-steps'),
        ('--latency-weight 2', '--latency-weight is a setting of --objective latency'),
        ('--keep msmt', "--keep msmt: genotype name 'msmt': is one of"),
        ('--keep Mine', "--keep Mine: genotype name 'Mine': use lower-case letters"),
    ],
)
def test_bad_input(tiny, tmp_path, capsys, flags, message):
    assert exit_of([*tiny, *flags.split(), '--output', str(tmp_path / 'run')]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_settings_of_paths_are_not_for_tcm(tiny, tmp_path, capsys):
    common = [*tiny[: tiny.index('--method')], *tiny[tiny.index('--candidates') + 2 :]]
    assert exit_of([*common, '--tune-steps', '3', '--output', str(tmp_path / 'run')]) == 2
    assert '--tune-steps is a setting of --method paths' in capsys.readouterr().err


def exit_of(argv):
    try:
        return main(argv)
    except SystemExit as e:
        return e.code


def test_a_broken_table_of_ratings(searched, tmp_path, capsys):
    shutil.copytree(searched, tmp_path / 'run')
    (tmp_path / 'run' / 'paths.csv').write_text('nonsense\n1\n')
    assert main(['--resume', str(tmp_path / 'run'), '--epochs', '3']) == 2
    error = capsys.readouterr().err
    assert 'paths.csv: no table of rated genotypes' in error and 'remove it; the epoch is kept' in error
