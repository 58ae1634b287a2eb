import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d

import msinet_timm  # noqa: F401
from msinet_timm.datasets import Record
from msinet_timm.errors import InputError
from msinet_timm.hub.load import load_model
from msinet_timm.processes import Processes
from msinet_train.camera_norm import group_norms
from msinet_train.cli import parse_args
from msinet_train.data.sources import camera_labels
from msinet_train.engine.loop import run_epoch, train
from msinet_train.engine.setup import prepare
from msinet_train.models import create_training_model, freeze, keep_frozen

#: Mixed; camera 5 has a single image, 9 a pair.
CAMERAS = torch.tensor([2, 5, 2, 9, 0, 2, 0, 9, 0, 2])


def by_hand(norm, x, cameras):
    """Each camera's images through torch's own batch norm; and running statistics after this batch."""
    whole, out = F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0, norm.eps), torch.zeros_like(x)
    means, variances = [], []
    for camera in cameras.unique():
        chosen = cameras == camera
        if chosen.sum() == 1:
            out[chosen] = whole[chosen]
            continue
        mean, var = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)
        out[chosen] = F.batch_norm(x[chosen], mean, var, norm.weight, norm.bias, True, 1.0, norm.eps)
        means.append(mean)
        variances.append(var)
    mean, var = torch.stack(means).mean(0), torch.stack(variances).mean(0)
    return out, norm.running_mean.lerp(mean, norm.momentum), norm.running_var.lerp(var, norm.momentum)


def random_norm(kind, **kwargs):
    norm = kind(6, **kwargs).double()
    for p in (*norm.parameters(), norm.running_mean, norm.running_var):
        nn.init.uniform_(p, 0.5, 1.5)
    return norm


@pytest.mark.parametrize(
    'kind, shape, options',
    [
        (nn.BatchNorm2d, (4, 3), {}),
        (nn.BatchNorm2d, (1, 1), {'affine': False}),
        (nn.BatchNorm1d, (), {'momentum': 0.3}),
        (nn.BatchNorm1d, (5,), {'eps': 0.1}),
        (nn.BatchNorm3d, (2, 2, 2), {}),
        (BatchNormAct2d, (4, 3), {'act_layer': nn.GELU}),
    ],
)
def test_each_camera_by_itself(kind, shape, options):
    torch.manual_seed(0)
    norm = random_norm(kind, **options)
    x = 3 * torch.randn(10, 6, *shape, dtype=torch.float64) + 20 * CAMERAS.view(-1, 1, *[1] * len(shape))
    plain = copy.deepcopy(norm)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    expected, mean, var = by_hand(plain, inputs[0], CAMERAS)
    if kind is BatchNormAct2d:
        expected = F.gelu(expected)
    groups = group_norms(nn.Sequential(norm))
    groups(CAMERAS)
    found = norm(inputs[1])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((norm.running_mean, norm.running_var), (mean.detach(), var.detach()), rtol=1e-9, atol=0)
    assert norm.num_batches_tracked == 1
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-8, atol=1e-8)
    for a, b in zip(norm.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)


def test_images_that_are_alone_take_the_batch(dtype=torch.float64):
    """All of them alone: what torch's norm computes, running statistics too; and nothing of it is NaN."""
    for cameras in (torch.arange(4), torch.tensor([0, 0, 1, 2])):
        for shape in ((4, 3), (1, 1)):
            norm, x = random_norm(nn.BatchNorm2d), torch.randn(4, 6, *shape, dtype=dtype)
            plain = copy.deepcopy(norm)
            group_norms(nn.Sequential(norm))(cameras)
            alone = [k for k in range(4) if (cameras == cameras[k]).sum() == 1]
            torch.testing.assert_close(norm(x)[alone], plain(x)[alone])
            if len(alone) == 4:
                assert torch.allclose(norm.running_var, plain.running_var)
                assert torch.allclose(norm.running_mean, plain.running_mean)
            assert norm.running_var.isfinite().all()


def test_order_changes_nothing():
    """Neither of the images, nor of the numbers of cameras; nor does a constant offset cost precision."""
    norm = random_norm(nn.BatchNorm2d).float()
    group_norms(nn.Sequential(norm))
    x = 1000 + CAMERAS.view(-1, 1, 1, 1) + torch.randn(10, 6, 4, 2)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    found, running = [], []
    for cameras, images in ((CAMERAS, x), (CAMERAS[order], x[order]), (9 - CAMERAS, x)):
        copied = copy.deepcopy(norm)
        copied.groups(cameras)
        found.append(copied(images))
        running.append(torch.stack([copied.running_mean, copied.running_var]))
    torch.testing.assert_close(found[0][order], found[1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(running[0], running[1])
    torch.testing.assert_close(running[0], running[2])
    exact = by_hand(copy.deepcopy(norm).double(), x.double(), CAMERAS)[0]
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('name', ['msinet_x0_25', 'test_resnet', 'test_efficientnet', 'levit_128s'])
def test_models_with_one_camera_compute_as_before(name):
    """A batch of one camera, evaluation mode, and no cameras named: as by the model's own norms, whose names stay."""
    torch.manual_seed(0)
    size = 224 if name.startswith('levit') else 64
    model = create_training_model(name, 5, height=None if size == 224 else 64, width=None if size == 224 else 32)
    model, x = model.double(), torch.randn(4, 3, size, size if size == 224 else 32, dtype=torch.float64)
    plain = copy.deepcopy(model)
    groups = group_norms(model)
    assert plain.state_dict().keys() == model.state_dict().keys()
    for cameras, training in ((None, True), (torch.zeros(4), True), (torch.arange(4), False)):
        groups(cameras)
        found, expected = model.train(training)(x), plain.train(training)(x)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-8, atol=1e-8)
    groups(torch.tensor([0, 1, 0, 1]))
    assert not torch.allclose(model.train()(x), plain.train()(x), rtol=1e-3)


@pytest.mark.parametrize('name', ['msinet_x0_25', 'test_resnet'])
def test_features_of_a_camera_do_not_depend_on_others(name):
    """The features of two cameras in one batch are those of two batches; behind the neck they are not."""
    torch.manual_seed(0)
    model = create_training_model(name, 5, height=64, width=32).double()
    groups, x = group_norms(model), torch.randn(6, 3, 64, 32, dtype=torch.float64)
    x[::2] *= 4
    cameras = torch.tensor([3, 1] * 3)
    groups(cameras)
    together = model.forward_branches(x)
    groups(None)
    for camera in (1, 3):
        apart = model.forward_branches(x[cameras == camera])
        torch.testing.assert_close(together.global_feature[cameras == camera], apart.global_feature)
        assert not torch.allclose(together.global_logits[cameras == camera], apart.global_logits, rtol=1e-3)


def test_frozen_norms_stand_still():
    model = create_training_model('msinet_x0_25', 5, height=64, width=32)
    freeze(model, 2)
    groups = group_norms(model)
    keep_frozen(model.train())
    before = copy.deepcopy(model.state_dict())
    groups(torch.tensor([0, 0, 1, 1]))
    model(torch.randn(4, 3, 64, 32))
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert not any(k.startswith('stem') for k in moved) and any('running_mean' in k for k in moved)


def test_mixed_precision_and_layout():
    """In bf16 statistics are of float32, and images stay in the layout that they came in."""
    torch.manual_seed(0)
    norm = random_norm(nn.BatchNorm2d).float()
    group_norms(nn.Sequential(norm))(CAMERAS)
    x = torch.randn(10, 6, 4, 3).bfloat16().to(memory_format=torch.channels_last)
    expected = by_hand(copy.deepcopy(norm), x.float(), CAMERAS)[0]
    with torch.autocast('cpu', torch.bfloat16):
        found = norm(x)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0.01)


def test_what_cannot_be_grouped():
    with pytest.raises(InputError, match='^VisionTransformer has no batch norms'):
        group_norms(timm.create_model('test_vit', num_classes=0))
    with pytest.raises(InputError, match='norms over all processes'):
        group_norms(nn.Sequential(nn.SyncBatchNorm(3)))
    norm = nn.BatchNorm1d(3)
    group_norms(nn.Sequential(norm))(torch.tensor([0, 0, 1, 1]))
    with pytest.raises(InputError, match='4 cameras were named for a batch norm with 6 rows'):
        norm(torch.randn(6, 3))


SMALL = '--model test_resnet --height 64 --width 32 --batch-size 8 --num-instance 2 --lr 0.01 --workers 0'.split()


def settings(market, *flags):
    return parse_args(['-ds', 'market1501', '--data-dir', str(market), *SMALL, '--camera-norm', *flags])


def test_run_and_resume(market, tmp_path):
    """Weights other than without, in files of the same names; a run in two parts ends with the same weights."""
    flags = '--model-ema --model-ema-decay 0.5 --grad-accum-steps 2 --eval-interval 1'.split()
    runs = {name: settings(market, *flags, '--output', str(tmp_path / name)) for name in ('plain', 'whole', 'parts')}
    train(replace(runs['plain'], camera_norm=False, epochs=2))
    train(replace(runs['whole'], epochs=2))
    train(replace(runs['parts'], epochs=1))
    train(parse_args(['--resume', str(tmp_path / 'parts'), '--epochs', '2']))
    plain, whole, parts = (torch.load(tmp_path / name / 'last.pth.tar') for name in runs)
    for key in ('state_dict', 'state_dict_ema'):
        assert plain[key].keys() == whole[key].keys()
        assert any(not torch.equal(plain[key][name], whole[key][name]) for name in plain[key])
        assert all(torch.equal(whole[key][name], parts[key][name]) for name in whole[key])
    assert timm.create_model(f'local-dir:{tmp_path}/whole/last', pretrained=True)
    # how much adapting changes goes by how a model was trained, of which its folder tells
    assert [load_model(tmp_path / name / 'last').camera_norm for name in runs] == [False, True, True]
    further = settings(market, '--model', str(tmp_path / 'whole'), '--epochs', '1', '--output', str(tmp_path / 'on'))
    train(replace(further, camera_norm=False))
    assert not load_model(tmp_path / 'on' / 'last').camera_norm


def test_gradient_checkpointing_counts_once(market):
    states = []
    for flags in ([], ['--grad-checkpointing']):
        training = prepare(
            settings(market, '--model', 'msinet_x0_25', '--epochs', '1', *flags), Processes(torch.device('cpu'))
        )
        training.task.double()
        to_input = training.loader.dataset.to_input
        training.loader.dataset.to_input = lambda batch, device, f=to_input: f(batch, device).double()
        run_epoch(training, 0)
        # torch's own norms in necks count on the way back
        states.append({k: v for k, v in training.model.state_dict().items() if 'neck' not in k or 'num_b' not in k})
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_processes_go_on_with_the_same_statistics(market, tmp_path):
    command = '-m torch.distributed.run --standalone --nproc-per-node 2 -m msinet_train.cli --camera-norm'.split()
    flags = [*SMALL, '--batch-size', '4', '--epochs', '2', '--device', 'cpu', '--gather-features']
    flags += ['-ds', 'market1501', '--data-dir', str(market), '--output', str(tmp_path / 'run')]
    result = subprocess.run([sys.executable, *command, *flags], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    state = torch.load(tmp_path / 'run' / 'last.pth.tar')['state_dict']
    assert all(v.isfinite().all() for v in state.values())
    assert any(k.endswith('running_mean') and v.abs().max() > 0.01 for k, v in state.items())


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--sync-bn'], '^camera_norm: not with sync_bn'),
        (['--torchcompile', 'eager'], '^camera_norm: not with torchcompile'),
        (['--model', 'test_vit'], '^camera_norm: VisionTransformer has no batch norms .*; do without'),
    ],
)
def test_wrong_settings(market, flags, message):
    with pytest.raises(InputError, match=message):
        prepare(settings(market, *flags), Processes(torch.device('cpu')))


def test_wrong_cameras():
    records = [Record('a.jpg', '1', 'yard'), Record('b.jpg', '2', 'door'), Record('c.jpg', '2', 'yard')]
    assert camera_labels(records).tolist() == [1, 0, 1]
    with pytest.raises(InputError, match='^d.jpg has no camera'):
        camera_labels([*records, Record('d.jpg', '3')])
    with pytest.raises(InputError, match="^all images are of one camera, 'yard'"):
        camera_labels(records[::2])
