"""Styles of features, mixed while a model trains."""

import copy
from dataclasses import replace

import pytest
import timm
import torch

from msinet_eval.features.extract import extract
from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError
from msinet_timm.hub.load import load_model
from msinet_timm.processes import Processes
from msinet_train.cli import parse_args
from msinet_train.engine.loop import run_epoch, train
from msinet_train.engine.setup import prepare
from msinet_train.mixstyle import MixStyle, mix_style, mix_styles
from msinet_train.models import create_training_model, freeze, keep_frozen

SMALL = '--height 64 --width 32 --batch-size 8 --num-instance 2 --lr 0.01 --workers 0 --mixstyle 0.7'.split()
SIZE = (3, 64, 32)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_by_hand():
    x, partner, share = torch.randn(4, 3, 5, 2) * 3 + 1, torch.tensor([2, 1, 3, 0]), torch.tensor([0.0, 0.3, 0.6, 1.0])
    found = mix_style(x, partner, share, eps=0.0)
    for b in range(4):
        for c in range(3):
            one, other, keep = x[b, c], x[partner[b], c], share[b]
            deviation = keep * one.std() + (1 - keep) * other.std()
            mean = keep * one.mean() + (1 - keep) * other.mean()
            torch.testing.assert_close(found[b, c], (one - one.mean()) / one.std() * deviation + mean)
    assert torch.equal(found[3], x[3])


def test_gradients_take_styles_for_constants():
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    partner, share = torch.tensor([1, 2, 0]), torch.tensor([0.2, 0.5, 1.0])
    mix_style(x, partner, share, eps=0.0).square().sum().backward()
    y = x.detach().clone().requires_grad_()
    mean, deviation = y.detach().mean((2, 3), keepdim=True), y.detach().std((2, 3), keepdim=True)
    keep = share.view(-1, 1, 1, 1)
    mixed = [keep * s + (1 - keep) * s[partner] for s in (mean, deviation)]
    ((y - mean) / deviation * mixed[1] + mixed[0]).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_maps_without_contrast_and_of_bf16():
    flat = torch.full((2, 3, 4, 4), 5.0)
    assert mix_style(flat, torch.tensor([1, 0]), torch.zeros(2)).isfinite().all()
    x = torch.randn(4, 3, 8, 8)
    draw = torch.tensor([1, 2, 3, 0]), torch.rand(4)
    with torch.autocast('cpu', torch.bfloat16):
        found = mix_style(x.bfloat16(), *draw)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), mix_style(x.bfloat16().float(), *draw).bfloat16().float())


def test_draws():
    mixing = MixStyle(0.3, 2)
    mixing(4000)
    for draw in mixing.draws:
        assert torch.equal(draw.partner.sort().values, torch.arange(4000))
        mixed = draw.share[draw.share < 1]
        assert len(mixed) / 4000 == pytest.approx(0.3, abs=0.04)  # of a few the share is 1 in float32
        assert (mixed < 0.5).float().mean() == pytest.approx(0.55, abs=0.1)
        assert ((mixed > 0.1) & (mixed < 0.9)).float().mean() < 0.25  # Beta(0.1, 0.1) keeps either style
    assert not torch.equal(mixing.draws[0].partner, mixing.draws[1].partner)
    torch.manual_seed(1), mixing(4)
    before = mixing.draws
    again = MixStyle(0.3, 2)
    torch.manual_seed(1), again(4)
    assert all(torch.equal(a, b) for x, y in zip(before, again.draws, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize('name', ['msinet_x0_25', 'test_resnet', 'test_convnext', 'test_efficientnet'])
def test_in_training_alone(name):
    model = create_training_model(name, 5)
    images, before = torch.randn(4, *SIZE), model.state_dict()
    model.eval()
    with torch.no_grad():
        expected = model(images)
    mixing = mix_styles(model, 1.0, SIZE)
    with torch.no_grad():
        assert torch.equal(model(images), expected)
        mixing(4)
        assert torch.equal(model(images), expected)
        assert model.state_dict().keys() == before.keys()
        for module in model.modules():  # so that nothing else is of chance
            module.training = isinstance(module, type(getattr(model, 'backbone', model)))
        assert len(mixing.draws) == 2 and not torch.equal(model(images), expected)


def test_where_styles_are_mixed():
    """Behind the first and the second stage, by the draws of each."""
    model = create_training_model('msinet_x0_25', 5).double()
    images = torch.randn(4, *SIZE, dtype=torch.float64)
    plain = copy.deepcopy(model)
    mixing = mix_styles(model.float(), 1.0, SIZE)
    model.double()
    mixing(4)
    x = plain.maxpool(plain.stem(images))
    for i, stage in enumerate(plain.stages[:5]):
        if i == 4:
            before_last = x
        x = stage(x)
        if i in (0, 2):
            x = mix_style(x, *mixing.draws[i // 2])
    expected = torch.cat([x, plain.lateral(before_last)], 1)
    torch.testing.assert_close(model.forward_features(images), expected)


def test_frozen_stages_are_mixed_too():
    model = create_training_model('msinet_x0_25', 5)
    freeze(model, 3)
    images, mixing = torch.randn(4, *SIZE), mix_styles(model, 1.0, SIZE)
    keep_frozen(model.train())
    assert not model.stages[0].training
    maps = []
    model.stages[1].register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    for draw in (False, True):
        mixing(4) if draw else None
        model.forward_features(images)
    assert not torch.allclose(*maps)


def test_copies_go_by_their_own_mode():
    model = create_training_model('test_resnet', 5)
    mixing = mix_styles(model, 1.0, SIZE)
    mixing(4)
    twin, images = copy.deepcopy(model).eval(), torch.randn(4, *SIZE)
    plain = create_training_model('test_resnet', 5).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(images), plain(images))


def epoch(market, *flags):
    """A training after an epoch in float64, in which rounding cannot hide behind the network's chaos."""
    args = parse_args(['-ds', 'market1501', '--data-dir', str(market), *SMALL, '--epochs', '1', *flags])
    training = prepare(args, Processes(torch.device('cpu')))
    training.task.double()
    to_input = training.loader.dataset.to_input
    training.loader.dataset.to_input = lambda batch, device: to_input(batch, device).double()
    run_epoch(training, 0)
    return {k: v for k, v in training.model.state_dict().items() if 'num_b' not in k}


@pytest.mark.parametrize(
    'flag, model', [('--grad-checkpointing', 'msinet_x0_25'), ('--torchcompile eager', 'test_resnet')]
)
def test_checkpointed_and_compiled_alike(market, flag, model):
    chosen = ['--model', model]
    expected, found, plain = (epoch(market, *chosen, *flags) for flags in ([], flag.split(), ['--mixstyle', '0']))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert any(not torch.allclose(plain[name], expected[name]) for name in expected)


def test_run_and_resume(market, tmp_path):
    flags = '--model msinet_x0_25 --model-ema --model-ema-decay 0.5 --eval-interval 1 --amp --amp-start 1'.split()
    settings = parse_args(['-ds', 'market1501', '--data-dir', str(market), *SMALL, *flags, '--epochs', '2'])
    train(replace(settings, output=str(tmp_path / 'whole')))
    train(replace(settings, output=str(tmp_path / 'parts'), epochs=1))
    train(parse_args(['--resume', str(tmp_path / 'parts'), '--epochs', '2']))
    whole, parts = (torch.load(tmp_path / name / 'last.pth.tar') for name in ('whole', 'parts'))
    for key in ('state_dict', 'state_dict_ema'):
        assert all(torch.equal(whole[key][name], parts[key][name]) for name in whole[key])
    # what is saved is a plain model, and embeds as one
    model = load_model(tmp_path / 'whole' / 'last')
    assert not any(module._forward_hooks for module in model.modules())
    assert model.state_dict().keys() == timm.create_model('msinet_x0_25', num_classes=0).state_dict().keys()
    features = extract(model, create_dataset('market1501', str(market)).query, workers=0)
    assert features.embeddings.isfinite().all()


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--model', 'test_vit'], r'^mixstyle 0.7: VisionTransformer does not tell which stages .*; do without'),
        (['--model', 'test_resnet', '--camera-norm'], '^camera_norm: not with mixstyle'),
    ],
)
def test_wrong_settings(market, flags, message):
    settings = parse_args(
        ['-ds', 'market1501', '--data-dir', str(market), *SMALL, '--height', '160', '--width', '160', *flags]
    )
    with pytest.raises(InputError, match=message):
        prepare(settings, Processes(torch.device('cpu')))


def test_maps_of_another_layout():
    model = torch.nn.Module()
    model.forward_features = lambda x: model.stage(torch.zeros(1, 4, 4, 8))
    model.stage, model.feature_info = torch.nn.Identity(), [dict(num_chs=8, reduction=4, module='stage')]
    with pytest.raises(InputError, match=r'gives \[1, 4, 4, 8\] behind stage, and not a map \[B, 8, H, W\]'):
        mix_styles(model, 0.5, SIZE)
