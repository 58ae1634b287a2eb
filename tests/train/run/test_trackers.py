import sys

import pytest

from msinet_timm.errors import InputError
from msinet_train.cli import parse_args
from msinet_train.engine.loop import train

SMALL = '--recipe small --model test_resnet --height 32 --width 16 --batch-size 4 --num-instance 2 --workers 0'.split()


def run(market, output, *flags):
    return train(parse_args([*SMALL, '-ds', 'market1501', '--data-dir', str(market), '--output', str(output), *flags]))


def test_tensorboard(market, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(market, tmp_path / 'run', '--epochs', '2', '--lr', '0.005', '--log-tensorboard')
    train(parse_args(['--resume', str(tmp_path / 'run'), '--epochs', '3']))
    events = EventAccumulator(str(tmp_path / 'run' / 'tensorboard')).Reload()
    assert [event.step for event in events.Scalars('train/loss')] == [0, 1, 2]
    assert [event.step for event in events.Scalars('eval/mAP')] == [1, 2]
    assert events.Scalars('train/lr')[0].value == pytest.approx(5e-5)


def test_wandb_offline(market, tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    run(market, tmp_path / 'run', '--epochs', '1', '--log-wandb', '--wandb-project', 'mine')
    name = (tmp_path / 'run' / 'wandb.id').read_text()
    (record,) = (tmp_path / 'run' / 'wandb').glob(f'offline-run-*/run-{name}.wandb')
    assert record.stat().st_size > 1000 and b'train_loss' in record.read_bytes() and b'mine' in record.read_bytes()
    train(parse_args(['--resume', str(tmp_path / 'run'), '--epochs', '2']))
    assert (tmp_path / 'run' / 'wandb.id').read_text() == name


@pytest.mark.parametrize(
    'flag, module, message',
    [
        ('--log-tensorboard', 'tensorboard', r'pip install "msinet-timm\[tensorboard\]"'),
        ('--log-wandb', 'wandb', r'pip install "msinet-timm\[wandb\]"'),
    ],
)
def test_missing_packages(market, tmp_path, monkeypatch, flag, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, 'torch.utils.tensorboard', raising=False)
    with pytest.raises(InputError, match=message):
        run(market, tmp_path / 'run', '--epochs', '1', flag)
