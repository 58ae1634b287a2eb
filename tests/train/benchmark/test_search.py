import copy
import json

import pytest
import torch
from golden_figures import image

from msinet_timm.models.supernet import MixedInteraction, MSISuperNet
from msinet_train.benchmark.search import PlainSearch, main
from msinet_train.benchmark.steps import KINDS
from msinet_train.search.cli import parse_args
from msinet_train.search.steps import SearchTask, architecture_step, create_optimizers, weight_step

SMALL = '--variant x0_25 --batch-size 8 --height 64 --width 32'.split()
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])


@pytest.fixture
def task():
    """A search in float64 that is under way: its attention counts, and its memories are filled."""
    torch.manual_seed(0)
    task = SearchTask(MSISuperNet(4, (8, 16, 24, 32)), 4, 5).double().train()
    for memory in (task.train_memory, task.valid_memory):
        memory.initialize(torch.randn(40, 32), torch.arange(40) % len(memory.features))
    for module in task.modules():
        if isinstance(module, MixedInteraction):
            torch.nn.init.constant_(module.ops[2].gamma, 0.5)
    torch.nn.init.normal_(task.supernet.arch_weights)
    return task


def batch(seed):
    return image(seed, (8, 3, 64, 32)).double(), LABELS


def close(ours, plain, what):
    # the hidden layer of a narrow gate can be dead, without any gradient
    assert (ours - plain).norm() <= 1e-10 * plain.norm() and (plain.norm() > 0 or '.fc' in what), what


def gradients(loss, parameters):
    return torch.autograd.grad(loss, parameters, allow_unused=True)


@pytest.mark.parametrize('half', ['train', 'valid'])
def test_both_losses_are_the_same(task, half):
    """What is timed is one and the same thing: equal losses, gradients and memories, in float64."""
    args = parse_args([])
    plain = PlainSearch(task, *create_optimizers(args, task.supernet))
    task.to(memory_format=torch.channels_last)
    images, labels = batch(1)
    expected = plain.loss(images, labels, half)
    found = task(images.to(memory_format=torch.channels_last), labels, half=half)['loss']
    close(found, expected, 'loss')
    names = [name for name, _ in task.supernet.named_parameters()]
    pairs = [
        gradients(loss, list(net.parameters())) for loss, net in ((found, task.supernet), (expected, plain.supernet))
    ]
    for name, ours, theirs in zip(names, *pairs, strict=True):
        if 'global_' in name:  # for display
            assert ours is None and theirs is None
        else:
            close(ours, theirs, name)
    close(task.memory(half).features, plain.memories[half].features, 'memory')


def test_steps_differ_by_the_leak_alone(task):
    """The published weight step is ours, and a step along the validation batch's gradient."""
    args = parse_args([])
    plain = PlainSearch(task, *create_optimizers(args, task.supernet))
    probe = copy.deepcopy(task)
    leak = dict(zip(
        [name for name, _ in probe.supernet.named_parameters()],
        gradients(probe(*batch(1), half='valid')['loss'], list(probe.supernet.parameters())),
        strict=True,
    ))  # fmt: skip
    before = copy.deepcopy(task.supernet.state_dict())
    task.to(memory_format=torch.channels_last)
    weights, arch = create_optimizers(args, task.supernet)
    architecture_step(task, batch(1), arch)
    weight_step(task, batch(2), weights)
    plain(batch(2), batch(1))
    close(task.supernet.arch_weights - before['arch_weights'],
          plain.supernet.arch_weights - before['arch_weights'], 'arch_weights')  # fmt: skip
    for name, parameter in plain.supernet.named_parameters():
        if name != 'arch_weights' and leak[name] is not None:
            published = parameter + args.lr * leak[name]
            close(task.supernet.get_parameter(name) - before[name], published - before[name], name)
    for half, memory in plain.memories.items():
        close(task.memory(half).features, memory.features, half)


@pytest.mark.parametrize('kind', KINDS)
def test_each_kind_is_timed(kind, capsys):
    try:
        assert main([*SMALL, '--steps', '2', '--kind', kind]) == 0
    finally:
        torch.set_flush_denormal(False)
    seconds = json.loads(capsys.readouterr().out)
    assert len(seconds) == 2 and min(seconds) > 0


@pytest.mark.slow
def test_speed(capsys, monkeypatch):
    monkeypatch.setattr('msinet_train.benchmark.steps.KINDS', KINDS[:2])  # processes take long to start
    assert main([*SMALL, '--rounds', '1', '--steps', '1']) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert tuple(row.split('  ')[0] for row in rows) == KINDS[:2]
    assert float(rows[0].split()[-2]) == 1 and float(rows[1].split()[-1]) == 1
