import copy
import csv
import json
import logging
import shutil
import sys
from dataclasses import replace

import pytest
import timm
import torch
import yaml
from golden_figures import load_json
from PIL import Image
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2

import msinet_train.data.sources as training_sources
import msinet_train.engine.training as training
from msinet_timm.datasets import Protocol
from msinet_timm.errors import InputError
from msinet_timm.processes import Processes
from msinet_train.cli import main, parse_args
from msinet_train.engine import load_checkpoint
from msinet_train.engine.loop import evaluate_only, run_epoch, train
from msinet_train.engine.optim import Stepper, create_schedule
from msinet_train.engine.setup import prepare
from msinet_train.losses.task import ReIDTask
from msinet_train.recipe import list_recipes, load_recipe
from msinet_train.settings import TrainSettings

# of timm's own, which trains in half the time, where MSINet is not the point
SMALL = '--model test_resnet --height 64 --width 32 --batch-size 8 --num-instance 2 --lr 0.01 --workers 0'.split()
MSINET = ['--model', 'msinet_x0_25.market1501']


def run(market, output, *flags):
    return train(parse_args(['-ds', 'market1501', '--data-dir', str(market), '--output', str(output), *SMALL, *flags]))


def weights(folder):
    return load_file(folder / 'last' / 'model.safetensors')


def rows(folder):
    with open(folder / 'summary.csv') as file:
        return list(csv.DictReader(file))


def test_published_schedule():
    golden = load_json('lr_schedule.json')
    args = parse_args(['--recipe', 'scratch'])
    assert args.milestones == golden['milestones']
    optimizer = create_optimizer_v2(torch.nn.Linear(2, 2), opt=args.opt, lr=args.lr)
    scheduler = create_schedule(optimizer, args)
    rates = []
    for epoch in range(args.epochs):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]['lr'])
    assert rates == pytest.approx(golden['lr_of_epoch'], rel=1e-12)


@pytest.mark.charts
def test_run_folder(market, tmp_path):
    result = run(market, tmp_path / 'run', *MSINET, '--epochs', '3', '--eval-interval', '2')
    folder = tmp_path / 'run'
    assert result.folder == folder and result.best_epoch in (1, 2)
    assert not list(folder.glob('*.tmp'))
    with Image.open(folder / 'curves.png') as curves:
        assert curves.size == (1500, 400)

    summary = rows(folder)
    assert [row['epoch'] for row in summary] == ['0', '1', '2']
    assert summary[0]['eval_mAP'] == '' and float(summary[2]['eval_mAP']) == result.last.ranking.mAP
    assert float(summary[0]['train_lr']) == pytest.approx(1e-4)
    terms = ('id_global', 'triplet_global', 'id_local', 'triplet_local')
    assert sum(float(summary[0][f'train_{t}']) for t in terms) == pytest.approx(
        float(summary[0]['train_loss']), rel=1e-5
    )

    settings = yaml.safe_load((folder / 'args.yaml').read_text())
    assert settings['epochs'] == 3 and settings['lr'] == 0.01

    for name in ('last', 'best'):
        model = timm.create_model(f'local-dir:{folder / name}', pretrained=True).eval()
        assert model.num_classes == 0
        assert timm.data.resolve_data_config(model=model)['input_size'] == (3, 64, 32)
        assert model(torch.zeros(1, 3, 64, 32)).shape == (1, 384)


def test_training_learns(market, tmp_path):
    run(market, tmp_path / 'run', *MSINET, *'--epochs 25 --erasing 0 --lr 0.005 --eval-interval 0'.split())
    losses = [float(row['train_loss']) for row in rows(tmp_path / 'run')]
    assert losses[-1] < 0.75 * losses[0]


def test_args_yaml_repeats_the_run(market, tmp_path):
    run(market, tmp_path / 'first', '--epochs', '2', '--seed', '5')
    train(parse_args(['--recipe', str(tmp_path / 'first' / 'args.yaml'), '--output', str(tmp_path / 'second')]))
    first, second = weights(tmp_path / 'first'), weights(tmp_path / 'second')
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / 'first' / 'args.yaml').read_text() == (tmp_path / 'second' / 'args.yaml').read_text()


@pytest.mark.parametrize('moment', ['in an epoch', 'before the checkpoint'])
def test_resume_is_exact(market, tmp_path, monkeypatch, caplog, moment):
    flags = ['--epochs', '4', '--workers', '1', '--eval-interval', '2']
    run(market, tmp_path / 'whole', *flags)

    calls = 0
    original = training.train_one_epoch

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        if moment == 'in an epoch':
            patch.setattr(training, 'train_one_epoch', interrupted)
        else:
            patch.setattr('msinet_train.run.folder.CheckpointSaver.save_checkpoint', interrupt_third_save())
        run(market, tmp_path / 'parts', *flags)
    assert f'--resume {tmp_path}/parts' in caplog.text

    resumed = train(parse_args(['--resume', str(tmp_path / 'parts')]))
    whole, parts = weights(tmp_path / 'whole'), weights(tmp_path / 'parts')
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    different = {'train_images_per_second'}
    for a, b in zip(rows(tmp_path / 'whole'), rows(tmp_path / 'parts'), strict=True):
        assert {k: v for k, v in a.items() if k not in different} == {k: v for k, v in b.items() if k not in different}
    assert resumed.last is not None


def interrupt_third_save():
    from timm.utils import CheckpointSaver

    original, calls = CheckpointSaver.save_checkpoint, 0

    def save(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    return save


def test_resume_a_finished_run(market, tmp_path):
    result = run(market, tmp_path / 'run', '--epochs', '2')
    again = train(parse_args(['--resume', str(tmp_path / 'run')]))
    assert again.last is None and again.best_mAP == result.best_mAP
    longer = train(parse_args(['--resume', str(tmp_path / 'run'), '--epochs', '3']))
    assert longer.last is not None and len(rows(tmp_path / 'run')) == 3


def test_genotype(market, tmp_path):
    flags = [*MSINET, '--epochs', '1', '--genotype', 'msmt']
    run(market, tmp_path / 'run', *flags)
    assert len(timm.create_model(f'local-dir:{tmp_path}/run/last', pretrained=True).genotype) == 12


@pytest.mark.parametrize(
    'flag, value',
    [('margin', '1.0'), ('smoothing', '0.5'), ('erasing', '1.0'), ('padding', '0'), ('color-jitter', '0.9')],
)
def test_flags_change_the_losses(market, tmp_path, flag, value):
    run(market, tmp_path / 'a', '--epochs', '1')
    run(market, tmp_path / 'b', '--epochs', '1', f'--{flag}', value)
    a, b = (float(rows(tmp_path / name)[0]['train_loss']) for name in 'ab')
    assert abs(a - b) > 1e-3


@pytest.mark.parametrize(
    'flags',
    [
        '--opt sgd',
        '--momentum 0',
        '--weight-decay 0.5',
        '--seed 1',
        '--clip-grad 0.1',
        '--clip-grad 0.1 --clip-mode value',
        '--clip-grad 0.1 --clip-mode agc',
        '--grad-accum-steps 2',
        '--model msinet_x0_25 --amp',  # timm's small network becomes nan in bf16 on some CPUs
        '--no-normalize',
        '--soft-margin',
        '--metric-loss circle',
        '--classifier-loss arcface',
        '--sam-mode neg',
        '--all-images',
        '--opt adamw',
        '--opt adamw --opt-eps 0.1',
        '--opt adamw --opt-betas 0.1 0.2',
        '--layer-decay 0.5',
        '--model-ema --model-ema-decay 0.5',
    ],
)
def test_flags_change_the_weights(plain, market, tmp_path, flags):
    name = next((base for base in ('--opt adamw', '--model msinet_x0_25') if flags.startswith(f'{base} ')), '')
    run(market, tmp_path / 'b', '--epochs', '1', *flags.split())
    if name:
        run(market, tmp_path / 'a', '--epochs', '1', *name.split())
    a, b = weights(tmp_path / 'a' if name else plain), weights(tmp_path / 'b')
    assert any(not torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope='module')
def plain(market, tmp_path_factory):
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp('plain') / 'run'
    run(market, folder, '--epochs', '1')
    return folder


def test_mixed_precision_starts_later(market, tmp_path):
    """An epoch before it is one of float32; the training goes on from there as if it had never been interrupted."""
    flags = [*MSINET, '--amp', '--amp-start', '1', '--epochs']
    run(market, tmp_path / 'plain', *MSINET, '--epochs', '1')
    run(market, tmp_path / 'whole', *flags, '2')
    run(market, tmp_path / 'parts', *flags, '1')
    first, expected = weights(tmp_path / 'parts'), weights(tmp_path / 'plain')
    assert all(torch.equal(first[name], expected[name]) for name in expected)
    train(parse_args(['--resume', str(tmp_path / 'parts'), '--epochs', '2']))
    run(market, tmp_path / 'float32', *MSINET, '--epochs', '2')
    whole, parts, float32 = (weights(tmp_path / name) for name in ('whole', 'parts', 'float32'))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(whole[name], float32[name]) for name in whole)


def double_precision_epoch(market, *flags):
    """The parts of a training after an epoch in float64, in which rounding cannot hide behind the network's chaos."""
    args = parse_args(['-ds', 'market1501', '--data-dir', str(market), *SMALL, *MSINET, '--epochs', '1', *flags])
    training = prepare(args, Processes(torch.device('cpu')))
    training.task.double()
    to_input = training.loader.dataset.to_input
    training.loader.dataset.to_input = lambda batch, device: to_input(batch, device).double()
    run_epoch(training, 0)
    return training


@pytest.mark.parametrize('flag', ['--grad-checkpointing', '--no-channels-last', '--torchcompile eager'])
def test_flags_that_change_nothing(market, flag):
    expected, training = (double_precision_epoch(market, *flags) for flags in ([], flag.split()))
    active = {
        '--grad-checkpointing': lambda t: t.model.grad_checkpointing,
        '--no-channels-last': lambda t: t.model.stem.conv.weight.is_contiguous(),
        '--torchcompile eager': lambda t: hasattr(t.task.trainable_module, '_orig_mod'),
    }
    assert active[flag](training) and not active[flag](expected)
    a, b = expected.model.state_dict(), training.model.state_dict()
    for name in a:
        if 'num_batches' not in name:
            torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-7, msg=name)


def test_accumulation_is_the_mean_of_whole_batches(market):
    """Two batches accumulated step as their mean does; the rest of an epoch counts as much by itself."""
    task = ReIDTask(timm.create_model('msinet_x0_25', num_classes=4).eval()).double()
    images, labels = torch.randn(3, 4, 3, 32, 16, dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    before = copy.deepcopy(task.state_dict())

    def weights_after(losses):
        task.load_state_dict(before)
        optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
        stepper = Stepper(task, optimizer, accumulate=2)
        losses(stepper, optimizer)
        return copy.deepcopy(task.state_dict()), stepper.steps

    def accumulated(stepper, _):
        for k in range(3):
            stepper(task(images[k], labels)['loss'], k, 3)

    def plain(_, optimizer):
        for chosen in (images[:2], images[2:]):
            torch.stack([task(x, labels)['loss'] for x in chosen]).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    (a, steps), (b, _) = weights_after(accumulated), weights_after(plain)
    assert steps == 2
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_averaged_weights(market, tmp_path):
    """They are averaged at each step, have metrics of their own, and are what is saved."""
    flags = [*MSINET, '--epochs', '2', '--eval-interval', '1', '--model-ema']
    run(market, tmp_path / 'same', *flags, '--model-ema-decay', '0')
    run(market, tmp_path / 'run', *flags, '--model-ema-decay', '0.9')
    same, averaged = (torch.load(tmp_path / name / 'last.pth.tar') for name in ('same', 'run'))
    names = [k for k in same['state_dict'] if 'num_batches' not in k]
    assert all(torch.equal(same['state_dict'][k], same['state_dict_ema'][k]) for k in names)
    assert any(not torch.equal(averaged['state_dict'][k], averaged['state_dict_ema'][k]) for k in names)
    saved = weights(tmp_path / 'run')
    assert all(torch.equal(averaged['state_dict_ema'][k], saved[k]) for k in saved)
    row = rows(tmp_path / 'run')[-1]
    assert 0 <= float(row['eval_ema_mAP']) <= 1 and 'eval_ema_rank1' in row
    assert rows(tmp_path / 'same')[-1]['eval_ema_mAP'] == rows(tmp_path / 'same')[-1]['eval_mAP']
    run(market, tmp_path / 'warm', *flags, '--model-ema-decay', '0.9', '--model-ema-warmup')
    warm = torch.load(tmp_path / 'warm' / 'last.pth.tar')['state_dict_ema']
    assert any(not torch.equal(averaged['state_dict_ema'][k], warm[k]) for k in names)


def test_evaluate_only(market, tmp_path, capsys):
    result = run(market, tmp_path / 'run', '--epochs', '1')
    where = ['-ds', 'market1501', '--data-dir', str(market), '--workers', '0', '--output', str(tmp_path / 'none')]
    expected = f'{100 * result.last.ranking.mAP:.1f}'
    assert main(['--resume', str(tmp_path / 'run'), '--evaluate']) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ['market1501', expected]
    measured = evaluate_only(parse_args([*where, *SMALL, '--model', str(tmp_path / 'run')]))
    assert measured.main.ranking.mAP == pytest.approx(result.last.ranking.mAP)
    assert torch.allclose(measured.main.query.embeddings, result.last.query.embeddings, atol=1e-5)
    assert not (tmp_path / 'none').exists() and len(rows(tmp_path / 'run')) == 1


def test_log_and_milestones(market, tmp_path):
    run(market, tmp_path / 'run', '--epochs', '3', '--checkpoint-interval', '2')
    lines = (tmp_path / 'run' / 'log.txt').read_text().splitlines()
    assert 'test_resnet on market1501: 30 images of 6 identities' in lines[0]
    assert sum(' images/s  left 0:' in line for line in lines) == 3
    assert sorted(f.name for f in (tmp_path / 'run').glob('milestone*')) == ['milestone-2.pth.tar']
    assert torch.load(tmp_path / 'run' / 'milestone-2.pth.tar')['epoch'] == 1


# for crops of cameras there is test_unlabelled.py
@pytest.mark.parametrize('recipe', [name for name in list_recipes() if name != 'unlabelled'])
def test_recipes_run(market, tmp_path, recipe):
    """Each recipe, shortened, from the data to a model that embeds; where it asks for weights it gets some."""
    torch.save(timm.create_model('msinet_x0_25', num_classes=0).state_dict(), tmp_path / 'initial.pth')
    sources = ['-ds', 'market1501', '--data-dir', str(market)]
    target = ['-dt', 'market1501'] if 'cross' in recipe else []
    flags = ['--recipe', recipe, *sources, *target, *SMALL, *MSINET, '--output', str(tmp_path / 'run'), '--epochs', '1']
    if load_recipe(recipe).get('pretrained'):
        with pytest.raises(InputError, match='^pretrained: msinet_x0_25.market1501 has no pretrained weights'):
            train(parse_args(flags))
        flags += ['--checkpoint', str(tmp_path / 'initial.pth')]
    result = train(parse_args(flags))
    assert len(result.measurement.evaluations) == 1 + bool(target)
    assert ('train_alignment' in rows(tmp_path / 'run')[0]) == ('sam' in recipe)


def test_cosine_schedule():
    args = parse_args(['--sched', 'cosine', '--epochs', '20', '--warmup-step', '2', '--lr', '0.1'])
    optimizer = create_optimizer_v2(torch.nn.Linear(2, 2), opt=args.opt, lr=args.lr)
    scheduler = create_schedule(optimizer, args)
    rates = []
    for epoch in range(20):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]['lr'])
    assert rates[0] == pytest.approx(0.001) and max(rates) < 0.1 and rates[-1] < 0.002
    assert rates[2:] == sorted(rates[2:], reverse=True)


@pytest.mark.parametrize(
    'flags, expected',
    [
        ('--sched constant', 1.0),
        ('--sched poly --decay-rate 1', 0.1),
        ('--sched poly --decay-rate 2', 0.01),
        ('--sched cosine --min-lr 0.5', 0.512),
    ],
)
def test_other_schedules(flags, expected):
    args = parse_args([*flags.split(), '--epochs', '10', '--warmup-step', '0', '--lr', '1'])
    optimizer = create_optimizer_v2(torch.nn.Linear(2, 2), opt=args.opt, lr=args.lr)
    scheduler = create_schedule(optimizer, args)
    scheduler.step(9)
    assert optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=0.01)


@pytest.mark.charts
def test_data_set_to_train_on_only(market, tmp_path, caplog):
    options = ['--data-option', r'pattern=(?P<identity>\d+)_c(?P<camera>\d+)', 'test_share=0']
    flags = ['-ds', 'folder', '--data-dir', str(market / 'bounding_box_train'), '--epochs', '1']
    with caplog.at_level(logging.INFO):
        result = run(market, tmp_path / 'run', *flags, *options)
    assert 'folder: nothing to measure: no query and gallery' in caplog.text
    assert 'folder: split by identity: 0 of 6 to test on (test_share 0), seed 0' in caplog.text
    assert (result.last, result.best_mAP) == (None, 0)
    assert rows(tmp_path / 'run')[0]['eval_mAP'] == ''
    assert weights(tmp_path / 'run')
    assert not (tmp_path / 'run' / 'best').exists()
    assert (tmp_path / 'run' / 'curves.png').exists()
    settings = yaml.safe_load((tmp_path / 'run' / 'args.yaml').read_text())
    assert settings['data_option'] == options[1:]
    again = parse_args(['--recipe', str(tmp_path / 'run' / 'args.yaml'), '--data-option', 'test_share=1'])
    assert again.data_option == [*options[1:], 'test_share=1']
    with pytest.raises(InputError, match="data set 'folder' has no images to train on"):
        train(again)


def test_broken_loss_names_the_images(market, tmp_path):
    with pytest.raises(InputError, match=r'the loss became nan: lower `lr` or .*bounding_box_train/000\d_c'):
        run(market, tmp_path / 'run', '--epochs', '9', '--lr', '1e30', '--warmup-step', '0', '--eval-interval', '0')


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--batch-size', '7'], '^batch_size 7 is not a multiple of `num_instance` 2'),
        (['--batch-size', '64'], 'needs 32 identities but the training set has 6'),
        (['--model', 'msinet_x9'], "^model msinet_x9: unknown model 'msinet_x9': .* did you mean msinet_x1_0"),
        (['--model', 'test_resnet', '--genotype', 'msmt'], '^model test_resnet: .*genotype'),
        (['--genotype', 'mmst'], "unknown genotype 'mmst'"),
        (['--opt', 'sdg'], '^opt sdg'),
        (['--opt-eps', '0.1'], '^opt_eps: the optimizer momentum has none'),
        (['--opt-betas', '0.1'], '^opt_betas: the optimizer momentum has none'),
        (['--amp', '--amp-dtype', 'float16'], '^amp_dtype float16 needs CUDA, not cpu: choose bf16'),
        (['--amp-start', '2'], '^amp_start is for `amp`: give that, too'),
        (['--freeze', '9'], '^freeze 9: MSINet has 6 stages'),
        (['--pretrained'], '^pretrained: msinet_x0_25.market1501 has no pretrained weights; .*`checkpoint`'),
        (['--torchcompile', 'quick'], '^torchcompile quick: '),
        (['--device', 'cuda:7'], '--device cuda:7'),
        (['--data-dir', '/nowhere'], '/nowhere'),
    ],
)
def test_wrong_settings(market, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        run(market, tmp_path / 'run', *MSINET, '--epochs', '1', *flags)
    assert not (tmp_path / 'run').exists()


def test_a_run_is_not_overwritten(market, tmp_path):
    run(market, tmp_path / 'run', '--epochs', '1')
    with pytest.raises(InputError, match='holds a run already; continue it with `resume` .* another `output`'):
        run(market, tmp_path / 'run', '--epochs', '1')


def test_resume_with_another_model(market, tmp_path):
    run(market, tmp_path / 'run', '--epochs', '1')
    with pytest.raises(InputError, match=r'does not fit the settings of this run \(.*\.weight'):
        train(parse_args(['--resume', str(tmp_path / 'run'), '--model', 'msinet_x0_5', '--epochs', '2']))


def test_curves_without_matplotlib(market, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with caplog.at_level(logging.INFO):
        run(market, tmp_path / 'run', '--epochs', '1')
    assert 'pip install "msinet-timm[plot]"' in caplog.text and not (tmp_path / 'run' / 'curves.png').exists()


def test_a_chart_that_fails_hides_nothing(market, tmp_path, monkeypatch, caplog):
    """The run ends by its own error, with its trackers closed, or well."""
    closed = []

    class Tracker:
        def log(self, epoch, metrics):
            if epoch:
                raise ZeroDivisionError

        def close(self):
            closed.append(True)

    def full(summary, image):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(training, 'write_curves', full)
    monkeypatch.setattr('msinet_train.engine.loop.create_trackers', lambda *_: [Tracker()])
    with caplog.at_level(logging.INFO):
        run(market, tmp_path / 'well', '--epochs', '1')
    assert 'no curves: [Errno 28] No space left on device' in caplog.text and closed == [True]
    with pytest.raises(ZeroDivisionError):
        run(market, tmp_path / 'run', '--epochs', '2')
    assert closed == [True, True]

    def broken(summary, image):
        assert len(closed) == 3
        raise ValueError('of the chart')

    monkeypatch.setattr(training, 'write_curves', broken)
    with pytest.raises(ValueError, match='of the chart'):
        run(market, tmp_path / 'broken', '--epochs', '1')


def test_unreadable_checkpoint(tmp_path):
    (tmp_path / 'last.pth.tar').write_bytes(b'no checkpoint')
    with pytest.raises(InputError, match=r'last.pth.tar: cannot be read: '):
        load_checkpoint(tmp_path / 'last.pth.tar')


@pytest.mark.parametrize('seconds, drawings', [(1e6, [2, 4]), (-1, [2, 3, 4])])
def test_curves_are_drawn_now_and_then_and_at_the_end(market, tmp_path, monkeypatch, seconds, drawings):
    """After the first evaluation, some time after the last drawing, and at the end, however it comes."""
    drawn = []
    monkeypatch.setattr('msinet_train.engine.loop.DRAWING', seconds)
    monkeypatch.setattr(
        training, 'write_curves', lambda summary, image: drawn.append(len(summary.read_text().splitlines()))
    )
    run(market, tmp_path / 'run', '--epochs', '3', '--eval-interval', '1')
    assert drawn == drawings

    drawn.clear()
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr('msinet_train.run.folder.CheckpointSaver.save_checkpoint', interrupt_third_save())
        run(market, tmp_path / 'interrupted', '--epochs', '4', '--eval-interval', '0')
    assert drawn == [4]


def test_an_epoch_is_kept_before_it_is_measured(market, tmp_path, monkeypatch, capsys):
    """Else all would be lost where the evaluation fails, and `--resume` would fail alike."""
    flags = ['--epochs', '2', '--eval-interval', '1', '--checkpoint-interval', '1']
    run(market, tmp_path / 'whole', *flags)
    measure, calls = training.measure, []

    def fail(*args):
        calls.append(args)
        if len(calls) == 2:
            raise InputError('gallery/7.jpg: cannot read this image')
        return measure(*args)

    folder = tmp_path / 'parts'
    with monkeypatch.context() as patch:
        patch.setattr(training, 'measure', fail)
        argv = ['-ds', 'market1501', '--data-dir', str(market), '--output', str(folder), *SMALL, *flags]
        assert main(argv) == 2
    told = (
        f'error: gallery/7.jpg: cannot read this image; the epoch is kept, and msinet-train --resume {folder} measures'
    )
    assert told in capsys.readouterr().err
    assert load_checkpoint(folder / 'unmeasured.pth.tar')['epoch'] == 1
    assert [row['eval_mAP'] == '' for row in rows(folder)] == [False, True]
    with pytest.raises(InputError, match='holds a run already'):
        run(market, folder, *flags)

    monkeypatch.setattr(training, 'train_one_epoch', None)  # nothing is left to train
    assert train(parse_args(['--resume', str(folder)])).last is not None
    assert {f.name for f in folder.iterdir()} == {f.name for f in (tmp_path / 'whole').iterdir()}
    for name in ('last.pth.tar', 'milestone-2.pth.tar', 'model_best.pth.tar'):
        a, b = (load_checkpoint(f / name) for f in (tmp_path / 'whole', folder))
        assert a['saver'] == b['saver'] and a['epoch'] == b['epoch']
        assert all(torch.equal(a['state_dict'][key], b['state_dict'][key]) for key in a['state_dict'])
    different = {'train_images_per_second'}
    for a, b in zip(rows(tmp_path / 'whole'), rows(folder), strict=True):
        assert {k: v for k, v in a.items() if k not in different} == {k: v for k, v in b.items() if k not in different}


@pytest.mark.parametrize('fault', ['no match', 'broken image', 'no clothes'])
def test_what_cannot_be_measured_is_refused_before_the_training(market, tmp_path, capsys, monkeypatch, fault):
    shutil.copytree(market, tmp_path / 'data')
    gallery = tmp_path / 'data' / 'bounding_box_test'
    if fault == 'no match':
        for image in list(gallery.iterdir()):
            image.rename(gallery / f'99{image.name[2:]}')
        message = 'no query has a match in the gallery of market1501: check that both have identities in common'
    elif fault == 'broken image':
        last = max(gallery.iterdir())
        last.write_bytes(last.read_bytes()[:300])
        message = f'{last}: cannot read this image'
    else:
        dataset = training_sources.read_datasets
        protocol = Protocol(same_clothes_removed=True)
        monkeypatch.setattr(
            training_sources,
            'read_datasets',
            lambda *args, **options: {
                name: replace(found, protocol=protocol) for name, found in dataset(*args, **options).items()
            },
        )
        message = 'needs the clothes of all images'
    monkeypatch.setattr(training, 'train_one_epoch', None)
    argv = ['-ds', 'market1501', '--data-dir', str(tmp_path / 'data'), '--output', str(tmp_path / 'run')]
    assert main([*argv, *SMALL, '--epochs', '1']) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'resize, epochs, expected',
    [
        ([], 10, {0: (256, 128)}),
        (['128x64:0.6'], 10, {0: (128, 64), 6: (256, 128)}),
        (['128x64:0.29'], 100, {0: (128, 64), 29: (256, 128)}),
        (['64x32:0.3', '128x64:0.4'], 10, {0: (64, 32), 3: (128, 64), 7: (256, 128)}),
        (['64x32:0.05', '128x64:0.6'], 10, {0: (128, 64), 6: (256, 128)}),
        (['128x64:0.6'], 1, {0: (256, 128)}),
    ],
)
def test_sizes_by_epoch(resize, epochs, expected):
    assert TrainSettings(progressive_resize=resize, epochs=epochs).input_sizes == expected


@pytest.mark.parametrize('cache', ['none', 'memory'])
def test_smaller_inputs_to_begin_with(market, tmp_path, cache):
    """What the model sees, and how it is kept; a run in two parts ends with the same weights."""
    flags = ['--progressive-resize', '32x16:0.7', '--epochs', '3', '--padding', '8', '--cache', cache]
    args = parse_args(['-ds', 'market1501', '--data-dir', str(market), *SMALL, *flags])
    training = prepare(args, Processes(torch.device('cpu')))
    sizes = []
    training.model.backbone.conv1.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[2:]))
    for epoch in range(3):
        sizes.clear()
        run_epoch(training, epoch)
        assert {tuple(size) for size in sizes} == {(32, 16) if epoch < 2 else (64, 32)}
    assert 'at 32x16 from epoch 1 on; at 64x32 from epoch 3 on' in str(training)
    if cache == 'none':
        assert [loader.dataset.transform.transforms[2].padding for loader in training.loaders.values()] == [4, 8]

    run(market, tmp_path / 'whole', *flags)
    # as if it had ended after its second epoch
    run(market, tmp_path / 'part', *flags, '--checkpoint-interval', '2')
    (tmp_path / 'part' / 'milestone-2.pth.tar').replace(tmp_path / 'part' / 'last.pth.tar')
    train(parse_args(['--resume', str(tmp_path / 'part')]))
    whole, parts = weights(tmp_path / 'whole'), weights(tmp_path / 'part')
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    config = json.loads((tmp_path / 'part' / 'last' / 'config.json').read_text())
    assert config['pretrained_cfg']['input_size'] == [3, 64, 32]
