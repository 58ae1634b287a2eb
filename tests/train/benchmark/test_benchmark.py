import pytest
import timm
import torch

from msinet_train.benchmark.__main__ import gradients, main, plain_step
from msinet_train.benchmark.gradients import cosines, gradient, in_float32, kept_in_float32
from msinet_train.losses.task import ReIDTask

SMALL = '--model msinet_x0_25 --batch-size 8 --height 64 --width 32'.split()


def test_both_steps_are_the_same():
    """What is timed is one and the same thing: equal losses and gradients in float64."""
    torch.manual_seed(0)
    model = timm.create_model('msinet_x0_25', num_classes=5).double().train()
    images, labels = torch.randn(8, 3, 64, 32, dtype=torch.float64), torch.arange(8) // 2
    loss = plain_step(model, images, labels)
    loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    task = ReIDTask(model).to(memory_format=torch.channels_last)
    assert task(images.to(memory_format=torch.channels_last), labels)['loss'].item() == pytest.approx(loss.item())
    found = gradient(task, images.to(memory_format=torch.channels_last), labels)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.slow
def test_speed(capsys):
    assert main([*SMALL, '--rounds', '1']) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    names = [row.split('  ')[0] for row in rows]
    assert names == ['plain', 'tuned plain', "ours, system's allocator", 'ours', 'ours, bf16']
    assert float(rows[0].split()[-2]) == 1 and float(rows[1].split()[-1]) == 1


def test_gradients():
    found = gradients('msinet_x0_25', batch_size=8, height=64, width=32)
    assert found['float32']['all'][0] > 0.9 > found['bf16']['all'][0]
    shares = next(iter(found.values()))
    assert sum(share for part, (_, share) in shares.items() if part != 'all') == pytest.approx(1)


def test_parts_kept_in_float32():
    model = timm.create_model('msinet_x0_25', num_classes=5)
    (stem,) = modules = kept_in_float32(model, ['stem'])
    seen = []
    stem.conv.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    images = torch.randn(4, 3, 32, 16)
    with torch.autocast('cpu', torch.bfloat16):
        model(images)
        in_float32(modules)
        model(images)
    assert seen == [torch.bfloat16, torch.float32]
    norms = kept_in_float32(model, ['norms'])
    assert len(norms) == sum('BatchNorm' in type(m).__name__ for m in model.modules())


def test_cosines():
    expected = {'stem.a': torch.tensor([3.0]), 'stages.0.b': torch.tensor([4.0, 0.0])}
    found = {'stem.a': torch.tensor([-1.0]), 'stages.0.b': torch.tensor([1.0, 1.0])}
    result = cosines(found, expected)
    assert result['stem'] == (-1, pytest.approx(9 / 25)) and result['stages.0'] == pytest.approx((0.5**0.5, 16 / 25))
    assert result['all'][0] == pytest.approx((-3 + 4) / (5 * 3**0.5))
