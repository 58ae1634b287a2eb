import csv
import itertools
import json
import os
import runpy
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file

from msinet_timm.errors import InputError
from msinet_timm.hub.folder import save_folder
from msinet_timm.hub.load import load_model
from msinet_timm.models.genotype import find_genotype
from msinet_timm.models.interactions import INTERACTIONS
from msinet_timm.processes import Processes, is_primary
from msinet_train.cli import parse_args as parse_training
from msinet_train.engine.loop import train
from msinet_train.search import SearchSettings, engine, search
from msinet_train.search.cli import main, parse_args, parse_comparison
from msinet_train.search.compare import Candidate, _permuted, compare, random_genotypes, verdicts
from msinet_train.search.engine import prepare
from msinet_train.search.latency import interaction_costs
from msinet_train.settings import TrainSettings

TINY = '-ds market1501 --variant x0_25 --height 32 --width 16 --batch-size 6 --num-instance 2 --workers 0'
TINY += ' --warmup-step 0 --epochs 2 --geno-interval 1'


@pytest.fixture(scope='module')
def tiny(market_to_search):
    return [*TINY.split(), '--data-dir', str(market_to_search)]


def run(tiny, folder, flags='', expected=0):
    code = main([*tiny, *flags.split(), '--output', str(folder)])
    assert code == expected
    return folder


def checkpoint(folder):
    return torch.load(folder / 'last.pth.tar', weights_only=True)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.fixture(scope='module')
def searched(tiny, tmp_path_factory):
    return run(tiny, tmp_path_factory.mktemp('search') / 'run')


def test_writes_a_genotype_that_is_a_model(searched, capsys):
    saved = json.loads((searched / 'genotype.json').read_text())
    assert saved['dataset'] == ['market1501'] and saved['epochs'] == 2 and saved['seed'] == 0
    assert saved['command'].startswith('msinet-search -ds market1501')
    names = list(INTERACTIONS)
    assert saved['operations'] == [names[max(range(4), key=row.__getitem__)] for row in saved['weights']]
    model = timm.create_model('msinet_x0_25', genotype=str(searched / 'genotype.json'), num_classes=0).eval()
    assert model.genotype == saved['operations']
    assert model(torch.randn(1, 3, 64, 32)).shape == (1, 384)


def test_leaves_what_people_can_read(searched):
    with open(searched / 'summary.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['epoch'] for row in rows] == ['0', '1']
    assert all(0 < float(row['eval_mAP']) <= 1 and float(row['train_valid_loss']) > 0 for row in rows)
    with open(searched / 'architecture.csv') as file:
        places = list(csv.DictReader(file))
    assert len(places) == 2 * 12
    assert sum(float(places[-1][name]) for name in INTERACTIONS) == pytest.approx(1, abs=1e-5)
    assert (searched / 'architecture.png').stat().st_size > 10_000
    assert 'cell  stage' in (searched / 'log.txt').read_text()


def test_resumed_search_equals_an_uninterrupted_one(tiny, searched, tmp_path):
    folder = run(tiny, tmp_path / 'run', first := '--epochs 1 --milestones 150')
    assert main(['--resume', str(folder), '--epochs', '2', '--milestones', '150', '225', '300']) == 0
    one, two = checkpoint(searched), checkpoint(folder)
    assert_same(one['task'], two['task'])
    assert (searched / 'summary.csv').read_text().splitlines()[0] == (folder / 'summary.csv').read_text().splitlines()[
        0
    ]
    assert (searched / 'architecture.csv').read_text() == (folder / 'architecture.csv').read_text()
    found = json.loads((folder / 'genotype.json').read_text())
    assert found['command'] == ' '.join(['msinet-search', *tiny, first, '--output', str(folder)])
    assert found['epochs'] == 2


def test_a_search_does_not_go_on_with_other_people(searched, market_to_search, tmp_path, capsys):
    shutil.copytree(searched, tmp_path / 'run')
    shutil.copytree(market_to_search, tmp_path / 'data')
    for image in (tmp_path / 'data' / 'bounding_box_train').glob('0003_*'):
        image.rename(image.with_name(f'0099{image.name[4:]}'))
    flags = ['--data-dir', str(tmp_path / 'data'), '--epochs', '3']
    assert main(['--resume', str(tmp_path / 'run'), *flags]) == 2
    error = capsys.readouterr().err
    assert '1 added (99), 1 gone (3)' in error and error.endswith('begin another run by another --output\n')


def test_mixed_precision_starts_later(tiny, searched, tmp_path):
    """An epoch before it is one of float32; the search goes on from there as if it had never been interrupted."""
    flags = '--amp --amp-start 1'
    whole = run(tiny, tmp_path / 'whole', flags)
    parts = run(tiny, tmp_path / 'parts', f'{flags} --epochs 1')
    assert main(['--resume', str(parts), '--epochs', '2']) == 0
    assert_same(checkpoint(parts)['task'], checkpoint(whole)['task'])
    losses = []
    for folder in (whole, searched):
        with open(folder / 'summary.csv') as file:
            losses.append([(row['train_train_loss'], row['train_valid_loss']) for row in csv.DictReader(file)])
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]


def test_tiny_numbers_become_zeros(searched):
    """Numbers below the smallest normal one, of which attention has many, slow a CPU down: a search drops them."""
    if not torch.set_flush_denormal(False):
        pytest.skip('this processor has no such setting')
    tiny = torch.tensor(1e-30)
    assert tiny * 1e-10 > 0
    assert main(['--resume', str(searched), '--device', 'cpu']) == 0
    assert tiny * 1e-10 == 0


@pytest.mark.parametrize(
    'flags',
    ['--order 2', '--objective latency --latency-weight 50', '--memory-init zeros', '--mid-from output', '--amp',
     '--arch-lr 0.01', '--memory-momentum 0.5', '--opt muon', '--opt adamw', '--temperature 0.1', '--seed 1',
     '--split images', '--arch-start 1', '--wake-gates'],
)  # fmt: skip
def test_each_setting_changes_the_search(tiny, searched, tmp_path, flags):
    folder = run(tiny, tmp_path / 'run', f'{flags} --epochs 1')
    found = checkpoint(folder)['task']['trainable_module.arch_weights']
    with open(searched / 'architecture.csv') as file:
        first = [[float(row[name]) for name in INTERACTIONS] for row in csv.DictReader(file) if row['epoch'] == '0']
    assert not torch.allclose(found.softmax(1), torch.tensor(first), atol=2e-6)


@pytest.mark.parametrize(
    'flags, woken', [('', 0), ('--wake-gates', 1), ('--method paths', 1), ('--method paths --no-wake-gates', 0)]
)
def test_gates_are_woken_once_an_epoch(tiny, tmp_path, monkeypatch, flags, woken):
    """By paths, one in each place; by the mixture, within it."""
    seen = []
    monkeypatch.setattr(engine, 'wake', lambda supernet, images: seen.append((supernet.path, images.shape)))
    known = [flag for flag in tiny if flag not in ('--geno-interval', '1')]  # which is of the mixture
    settings = parse_args([*known, *flags.split(), '--output', str(tmp_path)])
    found = prepare(settings, Processes(torch.device('cpu')))
    for epoch in range(2):
        found.run_epoch(epoch)
    path = find_genotype('all_ag') if 'paths' in flags else None
    assert seen == [(path, (6, 3, 32, 16))] * (2 * woken)


def test_settings_reach_the_optimizers(tiny, tmp_path):
    flags = '--lr 0.01 --momentum 0.5 --weight-decay 0.1 --milestones 7 --decay-rate 0.5'
    flags += ' --arch-lr 0.02 --arch-betas 0.6 0.7 --arch-weight-decay 0.2 --arch-milestones 3 --grad-checkpointing'
    args = parse_args([*tiny, *flags.split(), '--epochs', '20', '--output', str(tmp_path)])
    state = prepare(args, Processes(torch.device('cpu')))
    weights, arch = state.weights[0].param_groups[0], state.strategy.optimizer.param_groups[0]
    assert (weights['momentum'], weights['weight_decay']) == (0.5, 0.1)
    assert (arch['betas'], arch['weight_decay']) == ((0.6, 0.7), 0.2)
    rates = []
    for epoch in (2, 3, 6, 7):
        for schedule in (state.weights[1], state.strategy.schedule):
            schedule.step(epoch)
        rates += [weights['lr'], arch['lr']]
    assert rates == pytest.approx([0.01, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.01])
    assert state.task.supernet.grad_checkpointing


def test_latency_prefers_what_is_fast(tiny, tmp_path):
    folder = run(tiny, tmp_path / 'run', '--objective latency --latency-weight 1000 --arch-lr 0.1 --epochs 1')
    state = checkpoint(folder)
    mixture, costs = state['task']['trainable_module.arch_weights'].softmax(1), state['costs']
    assert (mixture[:, 2] < mixture[:, 0]).all() and (costs[:, 2] > costs[:, 0]).all()
    with open(folder / 'summary.csv') as file:
        assert float(next(csv.DictReader(file))['train_expected_ms']) == pytest.approx(
            (mixture * costs).sum().item(), rel=1e-4
        )


def test_costs_are_by_stage():
    costs = interaction_costs((16, 64, 96, 128), (64, 32), torch.device('cpu'), batch_size=2)
    assert costs.shape == (12, 4) and (costs > 0).all()
    assert torch.equal(costs[0], costs[3]) and torch.equal(costs[8], costs[11])


@pytest.mark.parametrize(
    'flags, message',
    [
        (
            '--batch-size 20',
            'smaller half of the search has 9 identities, three fifths of 15; a batch of 10 needs 20 in',
        ),
        ('--batch-size 7', 'not a multiple of --num-instance'),
        ('--amp --amp-dtype float16', 'float16 needs CUDA'),
        ('--amp-start 2', '--amp-start is for --amp'),
        ('--order 2 --opt muon', '--order 2 looks ahead a step of plain SGD, not of muon: leave out --opt'),
        ('--objective front', '--objective front needs --method paths'),
        ('--candidates 9', '--candidates is a setting of --method paths: give that, too'),
        ('-ds duke', 'withdrawn'),
    ],
)
def test_bad_input(tiny, tmp_path, capsys, flags, message):
    run(tiny, tmp_path / 'run', flags, expected=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_does_not_search_over_another_search(tiny, searched, capsys):
    assert main([*tiny, '--output', str(searched)]) == 2
    assert '--resume' in capsys.readouterr().err


def test_resume_of_nothing(tmp_path, capsys):
    assert main(['--resume', str(tmp_path)]) == 2
    assert 'no search there' in capsys.readouterr().err


def test_defaults_are_the_published_search():
    args = parse_args([])
    assert (args.dataset, args.epochs, args.lr, args.arch_lr) == (['msmt17'], 350, 0.025, 0.002)
    assert (args.milestones, args.arch_milestones, args.arch_betas) == ([150, 225, 300], [150, 225, 350], [0.5, 0.999])
    assert (args.batch_size, args.num_instance, args.memory_momentum, args.temperature) == (64, 4, 0.2, 0.05)
    assert str(args.folder) == 'runs/search_msmt17'


SPY = """
import sys
import torch
import msinet_train.engine.loop as loop
from msinet_train.search.cli import main

run_epoch = loop.run_epoch

def spy(search, epoch):
    metrics = run_epoch(search, epoch)
    torch.save(search.task.state_dict(), f'{sys.argv[1]}/{search.processes.rank}.pt')
    return metrics

loop.run_epoch = spy
raise SystemExit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize('method', ['tcm', 'paths'])
def test_two_processes_keep_one_supernet(tiny, tmp_path, method):
    if method == 'paths':
        tiny = [*tiny[: tiny.index('--geno-interval')], *tiny[tiny.index('--geno-interval') + 2 :]]
        tiny += ['--method', 'paths', '--candidates', '4', '--tune-steps', '2']
    (tmp_path / 'spy.py').write_text(SPY)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    command += [str(tmp_path / 'spy.py'), str(tmp_path), *tiny, '--device', 'cpu', '--epochs', '1', '--batch-size', '4']
    command += ['--output', str(tmp_path / 'run')]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = (torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in (0, 1))
    assert_same(one, two)
    assert one['train_memory.features'].any(1).all()
    assert len(find_genotype(tmp_path / 'run' / 'genotype.json')) == 12


def test_random_genotypes_differ_and_repeat():
    drawn = random_genotypes(5, seed=3)
    assert len(set(drawn.values())) == 5 and drawn == random_genotypes(5, seed=3) != random_genotypes(5, seed=4)


@pytest.mark.charts
def test_compare(searched, market_to_search, tmp_path, capsys):
    flags = f'-ds market1501 --data-dir {market_to_search} --batch-size 8'
    flags += ' --recipe demo --model msinet_x0_25 --no-pretrained'
    flags += ' --height 32 --width 16 --epochs 1 --warmup-step 0 --workers 0'
    command = ['compare', str(searched / 'genotype.json'), '--random', '1', '--no-uniform', '--seeds', '0', '1']
    command += ['--output', str(tmp_path), *flags.split()]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert first.splitlines()[0].split() == ['mAP', 'Rank-1', 'ms']
    assert {line.split()[0] for line in first.splitlines()[1:]} == {'run', 'random_0'}
    with open(tmp_path / 'compare.csv') as file:
        rows = list(csv.DictReader(file))
    assert [(row['genotype'], row['seed']) for row in rows] == [
        ('run', '0'), ('run', '1'), ('random_0', '0'), ('random_0', '1')
    ]  # fmt: skip
    config = json.loads((tmp_path / 'random_0' / 'seed1' / 'last' / 'config.json').read_text())
    assert config['model_args']['genotype'] == list(random_genotypes(1)['random_0'])
    assert (tmp_path / 'compare.png').stat().st_size > 5_000

    stamp = (tmp_path / 'run' / 'seed0' / 'last.pth.tar').stat().st_mtime
    assert main(command) == 0  # nothing is trained again
    assert (tmp_path / 'run' / 'seed0' / 'last.pth.tar').stat().st_mtime == stamp


def candidate(name, *mAP):
    return Candidate(name, 1.0, mAP, mAP)


CHANCE = [candidate(f'random_{k}', m, m + 0.02) for k, m in enumerate((0.30, 0.32, 0.28, 0.30))]


def test_verdict():
    told = verdicts([candidate('run', 0.41, 0.40, 0.42), *CHANCE, candidate('all_ag', 0.43, 0.40)])
    better, best = told.splitlines()
    # 3 of 7 units: 35 choices, of which none other comes as high; means 0.41 and 0.31
    assert better == 'run: better than random: yes, +10.0 ± 1.0 mAP, p = 0.029'
    assert best == 'run: as good as the best uniform one, all_ag: no, -0.5 mAP'


def test_verdict_of_several_searches():
    """Each genotype of a file is a unit; one that everybody has was not found by them."""
    found = [candidate('a', 0.40, 0.44), candidate('b', 0.38), candidate('msmt', 0.10)]
    told = verdicts([*found, *CHANCE, candidate('all_ag', 0.43, 0.40)])
    # of 15 pairs, one comes as high; means 0.40 and 0.31
    assert 'a, b together: better than random: yes, +9.0 ± 2.2 mAP, p = 0.067' in told.splitlines()
    assert told.splitlines()[-1] == 'a, b together: as good as the best uniform one, all_ag: no, -1.5 mAP'


def test_verdict_of_chance():
    told = verdicts([candidate('run', 0.31, 0.33, 0.32), *CHANCE, candidate('all_ag', 0.29)])
    assert told.splitlines()[0].startswith('run: better than random: no, +1.0 ± 1.0 mAP, p = 0.')
    assert told.splitlines()[1] == 'run: as good as the best uniform one, all_ag: yes, +3.0 mAP'
    assert verdicts(CHANCE) == '' and verdicts([candidate('a', 0.1), *CHANCE]) == ''


def test_permutations_are_drawn_where_they_are_many():
    found, chance = [0.5, 0.4, 0.45], [0.4, 0.42, 0.38, 0.41, 0.43]
    exact = _permuted(found, chance)
    sums = [sum(c) for c in itertools.combinations([*found, *chance], 3)]
    assert exact == sum(s >= sum(found) - 1e-12 for s in sums) / 56
    assert _permuted(found, chance, most=50) == pytest.approx(exact, abs=0.1)
    assert _permuted(found, chance, most=50) == _permuted(found, chance, most=50) > 0


def test_compare_tells_genotypes_from_values_of_flags():
    args, flags = parse_comparison('--random 0 --recipe small -ds sample'.split())
    assert args.genotypes == [] and flags == ['--recipe', 'small', '-ds', 'sample']
    args, flags = parse_comparison('msmt a.json --seeds 1 2 --epochs 3'.split())
    assert (args.genotypes, args.seeds, flags) == (['msmt', 'a.json'], [1, 2], ['--epochs', '3'])


@pytest.mark.parametrize(
    'flags, named',
    [('--seed 1', '--seed'), ('--seed=0', '--seed'), ('--resume=DIR', '--resume'), ('--res DIR', '--resume'),
     ('--genotype=x', '--genotype'), ('--geno x', '--genotype'), ('--evaluate', '--evaluate'), ('--out x', '--output')],
)  # fmt: skip
def test_compare_refuses_what_it_sets_itself(flags, named):
    with pytest.raises(InputError, match=f'^{named}: the comparison sets it itself'):
        parse_comparison(f'msmt {flags}'.split())


def test_compare_trains_in_folders_of_its_own(tmp_path, monkeypatch):
    """Also where the settings come from a run that goes on: that one is left alone."""
    trained = []

    def spy(settings):
        trained.append(settings)
        raise InputError('not trained here')

    monkeypatch.setattr(sys.modules['msinet_train.search.compare'], 'train', spy)
    with pytest.raises(InputError, match='not trained here'):
        compare(['msmt'], TrainSettings(resume=tmp_path / 'foreign'), output=tmp_path / 'compare')
    assert trained[0].folder == tmp_path / 'compare' / 'msmt' / 'seed0'


def test_compare_starts_from_a_model_folder(market_to_search, tmp_path, capsys):
    sizes = '--height 32 --width 16 --epochs 1 --warmup-step 0 --workers 0 --batch-size 8 --recipe demo --no-pretrained'
    flags = f'{sizes} -ds market1501 --data-dir {market_to_search}'.split()
    train(parse_training([*flags, '--model', 'msinet_x0_25', '--output', str(tmp_path / 'run')]))
    own = ['--no-uniform', '--random', '1', '--seeds', '0', '--output', str(tmp_path / 'compare')]
    model = ['--model', str(tmp_path / 'run' / 'last'), '--no-pretrained']
    assert main(['compare', 'msmt', *own, *flags, *model]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[-2:]} == {'msmt', 'random_0'}


def test_old_name_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['search_cli', '--help'])
    with pytest.raises(SystemExit) as error:
        runpy.run_module('msinet_train.search_cli', run_name='__main__')
    assert error.value.code == 0 and 'msinet-search' in capsys.readouterr().out


def test_one_process_prints(monkeypatch, capsys):
    monkeypatch.setattr('msinet_train.search.cli.search', lambda settings, command: find_genotype('msmt'))
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, printed in (('0', True), ('1', False)):
        monkeypatch.setenv('RANK', rank)
        assert main([]) == 0
        assert bool(capsys.readouterr().out) == printed
    monkeypatch.setenv('WORLD_SIZE', '1')
    assert is_primary()


def test_compare_needs_a_folder(tmp_path, capsys):
    file = tmp_path / 'file'
    file.touch()
    assert main(['compare', 'msmt', '--random', '1', '--no-uniform', '--output', str(file), '-ds', 'sample']) == 2
    assert f'--output: cannot create the folder {file}' in capsys.readouterr().err


def test_compare_needs_two(tmp_path, capsys):
    assert main(['compare', 'msmt', '--no-uniform', '--random', '0', '--output', str(tmp_path)]) == 2
    assert 'needs two genotypes' in capsys.readouterr().err
    assert main(['compare', 'msmt', '--seed', '3']) == 2


@pytest.mark.parametrize('name', INTERACTIONS)
def test_uniform_genotypes_are_named(name):
    assert set(find_genotype(f'all_{name}')) == {name}
    assert not timm.is_model(f'msinet_all_{name}_x1_0')  # the list of models is for those that people use


def test_a_search_in_python(searched, market_to_search, tmp_path):
    """The same as by the command; trackers take its metrics, too."""
    settings = SearchSettings(
        dataset='market1501', data_dir=market_to_search, output=tmp_path / 'run', variant='x0_25', height=32, width=16,
        batch_size=6, num_instance=2, workers=0, warmup_step=0, epochs=2, geno_interval=1, log_tensorboard=True,
    )  # fmt: skip
    genotype = search(settings)
    assert list(genotype) == json.loads((searched / 'genotype.json').read_text())['operations']
    assert_same(checkpoint(tmp_path / 'run')['task'], checkpoint(searched)['task'])
    assert list((tmp_path / 'run' / 'tensorboard').iterdir())


def test_a_search_begins_with_the_weights_of_a_model(tiny, tmp_path):
    """Also of one with another genotype; resumed, it does not look for it again."""
    model = load_model('msinet_x0_25.rendered_128x64', genotype='all_ag', pretrained=False)
    save_folder(model, tmp_path / 'model')
    begin = ['--start-from', str(tmp_path / 'model'), '--mid-from', 'output', '--lr', '1e-9', '--epochs', '1']
    assert main([*tiny, *begin, '--variant', 'x0_25', '--output', str(tmp_path / 'run')]) == 0
    found = torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=True)['task']
    mine = {name.removeprefix('trainable_module.'): tensor for name, tensor in found.items()}
    for name in ('stem.conv.weight', 'stages.4.1.expand_b.conv.weight'):
        torch.testing.assert_close(mine[name], model.state_dict()[name], atol=1e-3, rtol=0)
    weights = load_file(tmp_path / 'run' / 'supernet.safetensors')
    assert torch.equal(weights['stem.conv.weight'], mine['stem.conv.weight'])
    shutil.rmtree(tmp_path / 'model')
    assert main(['--resume', str(tmp_path / 'run'), '--epochs', '2']) == 0


@pytest.mark.parametrize(
    'model, message',
    [
        ('msinet_x0_25.rendered_128x64', 'it needs the widths of the supernet'),  # which are those of the input
        ('msinet_x0_75', '--start-from msinet_x0_75: has no weights to start from'),
        ('msinet_x9', "--start-from msinet_x9: unknown model 'msinet_x9'"),
        ('missing/folder', '--start-from missing/folder: unknown model'),
    ],
)
def test_a_model_that_no_search_begins_with(tiny, tmp_path, capsys, model, message):
    assert main([*tiny, '--start-from', model, '--variant', 'x0_25', '--output', str(tmp_path / 'run')]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'run').exists()
