import pytest
import timm
import torch
from golden_figures import image, load_json, state_dict
from timm.optim import create_optimizer_v2

from msinet_timm.commands import InputError
from msinet_timm.pretrained import _published_name
from msinet_train.task import ReIDTask

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


@pytest.fixture(scope='module')
def step():
    """One published training step, in float64."""
    golden = load_json('training.json')['none']
    torch.manual_seed(0)
    model = timm.create_model('msinet_x1_0', widths=(32, 64, 96, 128), num_classes=4)
    model.load_state_dict(state_dict(golden['state']))
    task = ReIDTask(model).double().train()
    optimizer = create_optimizer_v2(
        model, opt='momentum', lr=0.065, momentum=0.9, weight_decay=5e-4, filter_bias_and_bn=False
    )
    output = task(image(4, (8, 3, 256, 128)).double(), LABELS)
    output['loss'].backward()
    gradients = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    optimizer.step()
    return golden, output, gradients, {name: p.norm().item() for name, p in model.named_parameters()}


def test_published_losses(step):
    golden, output, _, _ = step
    expected = {
        'loss': golden['total'],
        'id_global': golden['softmax_global'],
        'triplet_global': golden['triplet_global'],
    }
    assert {name: output[name].item() for name in expected} == pytest.approx(expected, rel=1e-5)
    local = output['id_local'] + output['triplet_local']
    assert local.item() == pytest.approx(golden['local'], rel=1e-5)
    assert output['output'].shape == (8, 4)


@pytest.mark.parametrize('what, index', [('grad_norm', 2), ('param_norm_after_step', 3)])
def test_published_step(step, what, index):
    golden = step[0]
    trained = {name: value for name, value in golden[what].items() if name not in golden['frozen']}
    expected = {_published_name(name): value for name, value in trained.items()}
    assert golden['frozen'] == ['head.bias', 'f_head.bias']
    assert step[index] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_eval_model_is_the_bare_model():
    model = timm.create_model('msinet_x0_25', num_classes=3)
    assert ReIDTask(model).get_eval_model() is model


@pytest.mark.parametrize(
    'model, message', [('test_resnet', 'no branches'), (('msinet_x0_25', dict(num_classes=0)), 'no classifiers')]
)
def test_models_that_cannot_train(model, message):
    name, kwargs = (model, {}) if isinstance(model, str) else model
    with pytest.raises(InputError, match=message):
        ReIDTask(timm.create_model(name, **kwargs))
