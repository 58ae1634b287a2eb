import copy
import io
import itertools

import pytest
import timm
import torch
from golden_figures import load_json, state_dict
from timm.layers import freeze_batch_norm_2d
from timm.utils import reparameterize_model
from torch import nn

from msinet_timm.models.blocks import Cell, ConvBlock, LightConv, Neck
from msinet_timm.models.interactions import INTERACTIONS, CrossAttention, Exchange, create_interaction
from msinet_timm.models.supernet import MSISuperNet

LIMIT = 5e-6
GENOTYPES = {
    'msmt': 'msmt',
    **{name: [name] * 12 for name in INTERACTIONS},
    'mixed': ['exc', 'cross_att', 'ag', 'exc', 'cross_att', 'exc', 'exc', 'exc', 'none', 'ag', 'exc', 'none'],
}


def randomize(module, gamma=0.3):
    """Gives norms statistics, scales and shifts, and attention a weight, as a training would."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            if part.bias is not None:
                nn.init.normal_(part.bias, 0, 0.1)
        elif isinstance(part, CrossAttention):
            nn.init.constant_(part.gamma, gamma)
    return module.eval()


def create(name='msinet_x0_25', **kwargs):
    torch.manual_seed(0)
    return randomize(timm.create_model(name, **kwargs))


def assert_same(actual, expected):
    if isinstance(expected, (tuple, list)):
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif expected is not None:
        assert actual.shape == expected.shape
        shift = (actual - expected).abs().max() / expected.abs().max()
        assert shift < LIMIT, shift.item()


def outputs(model, x):
    return [
        model(x),
        model.forward_features(x),
        model.forward_intermediates(x),
        model.forward_branches(x, neck_features=True),
        model.forward_head(model.forward_features(x), pre_logits=True),
    ]


@pytest.mark.parametrize('num_classes', [0, 9])
@pytest.mark.parametrize('genotype', GENOTYPES.values(), ids=GENOTYPES)
@torch.no_grad()
def test_genotypes(genotype, num_classes):
    model = create(genotype=genotype, num_classes=num_classes)
    before = copy.deepcopy(model.state_dict())
    fused = reparameterize_model(model)
    x = torch.randn(2, 3, 96, 48)
    expected = outputs(model, x)
    assert_same(outputs(fused, x), expected)
    assert_same(outputs(fused.to(memory_format=torch.channels_last), x), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    kinds = {type(module) for module in fused.modules()}
    assert not kinds & {nn.BatchNorm2d, nn.BatchNorm1d, Cell, ConvBlock, LightConv, Neck, CrossAttention, Exchange}


@pytest.mark.parametrize('name', ['msinet_x0_5', 'msinet_x0_75', 'msinet_x1_0'])
@torch.no_grad()
def test_widths(name):
    model = create(name, num_classes=0)
    x = torch.randn(1, 3, 128, 64)
    assert_same(reparameterize_model(model)(x), model(x))


@pytest.mark.parametrize('places', list(itertools.product(INTERACTIONS, repeat=2)), ids='-'.join)
@pytest.mark.parametrize('in_chs', [24, 32])
@torch.no_grad()
def test_cells(in_chs, places):
    torch.manual_seed(0)
    cell = randomize(Cell(in_chs, 32, places))
    x = torch.randn(2, in_chs, 12, 6).relu()
    assert_same(cell.fuse()(x), cell(x))


@pytest.mark.parametrize('scale', [1, 30])
def test_attention(scale):
    """At the larger scale most shares of the attention are too small for float32."""
    torch.manual_seed(0)
    op = randomize(create_interaction('cross_att', 16))
    x = scale * torch.randn(2, 3, 16, 8, 4).relu()
    assert_same(op.fuse()(*x), op(*x))
    assert_same(op.fuse().double()(*x.double()), op.double()(*x.double()))


def test_small_shares_of_attention_are_zero():
    op = randomize(create_interaction('cross_att', 4)).fuse()
    energy = torch.tensor([0.0, 60, 80, 95]).expand(1, 4, 4)
    assert (-energy).softmax(2).gt(0).all()
    weights = op.weights(energy) - torch.eye(4)
    assert torch.equal(weights[0, 0] > 0, torch.tensor([True, True, False, False]))


def test_attention_without_weight_is_left_out():
    model = create(genotype=['cross_att'] * 12)
    next(part for part in model.modules() if isinstance(part, CrossAttention)).gamma.data.zero_()
    fused = reparameterize_model(model)
    assert not hasattr(fused.stages[0][0].interaction1, 'gamma') and hasattr(fused.stages[0][0].interaction2, 'gamma')


def test_parts_stay_as_they_were():
    cell = randomize(Cell(8, 16, ('ag', 'cross_att')))
    before = copy.deepcopy(cell.state_dict())
    for parameter in cell.fuse().parameters():
        parameter.data.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in cell.state_dict().items())


@torch.no_grad()
def test_training_mode_gives_the_inference_form():
    """timm's scripts reparameterize before they call `eval`."""
    model = create(num_classes=4)
    x = torch.randn(2, 3, 64, 32)
    expected = model(x)
    fused = reparameterize_model(model.train())
    assert model.training
    assert_same(fused(x), expected)
    assert_same(fused.eval()(x), expected)


@torch.no_grad()
def test_frozen_norms():
    model = create(num_classes=0)
    x = torch.randn(1, 3, 64, 32)
    expected = model(x)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, freeze_batch_norm_2d(child))
    assert_same(reparameterize_model(model)(x), expected)


def test_refusals():
    with pytest.raises(ValueError, match='BatchNorm2d without running statistics'):
        block = ConvBlock(4, 8)
        block.bn = nn.BatchNorm2d(8, track_running_stats=False)
        block.fuse()
    with pytest.raises(ValueError, match='BatchNorm1d without running statistics'):
        neck = Neck(4)
        neck.bn = nn.BatchNorm1d(4, track_running_stats=False)
        neck.fuse()
    with pytest.raises(ValueError, match='MixedCell has no inference form'):
        reparameterize_model(MSISuperNet(4, (4, 8, 8, 8)))


@torch.no_grad()
def test_features_only():
    x = torch.randn(1, 3, 64, 32)
    for wrapper in ('list', 'getter'):
        model = create(features_only=True, feature_cls=wrapper)
        assert_same(reparameterize_model(model)(x), model(x))
    pruned = create(num_classes=0)
    pruned.prune_intermediate_layers([1])
    assert_same(reparameterize_model(pruned)(x), pruned(x))


@torch.no_grad()
def test_fused_models_take_other_forms():
    fused = reparameterize_model(create(num_classes=3))
    x = torch.randn(2, 3, 80, 48)
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    forms = [
        torch.jit.script(fused),
        torch.jit.trace(fused, torch.randn(1, 3, 64, 32), check_trace=False),
        torch.fx.symbolic_trace(fused),
        torch.load(file, weights_only=False),
        copy.deepcopy(fused),
        reparameterize_model(fused),
    ]
    expected = fused(x)
    for form in forms:
        assert_same(form(x), expected)


@torch.no_grad()
def test_export_with_any_batch_and_size():
    fused = reparameterize_model(create(num_classes=3))
    dims = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(fused, (torch.randn(2, 3, 128, 64),), dynamic_shapes=(dims,)).module()
    for shape in ((1, 3, 128, 64), (3, 3, 96, 32)):
        x = torch.randn(shape)
        assert_same(program(x), fused(x))


def test_gradients_of_a_fused_model():
    model = create(num_classes=0)
    fused = reparameterize_model(model)
    found = []
    for network in (model, fused):
        x = torch.ones(1, 3, 64, 32, requires_grad=True)
        network(x).square().sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4 * found[0].abs().max().item())
    assert fused.stages[0][0].expand.weight.grad is not None


def test_weights_fit_one_form():
    model = create(num_classes=0)
    fused = reparameterize_model(model)
    with pytest.raises(RuntimeError, match='of the training form do not fit.*load them before'):
        fused.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match='of a fused MSINet fit only'):
        model.load_state_dict(fused.state_dict())
    with pytest.raises(RuntimeError, match='of the training form'):
        fused.load_state_dict(state_dict(load_json('network.json')['tiny']['state']))
    other = reparameterize_model(create(num_classes=0))
    nn.init.zeros_(other.stem[0].weight)
    other.load_state_dict(fused.state_dict())
    assert torch.equal(other.stem[0].weight, fused.stem[0].weight)


def test_precision_and_meta():
    assert reparameterize_model(create(num_classes=0).bfloat16())(torch.zeros(1, 3, 64, 32).bfloat16()).isfinite().all()
    with torch.device('meta'):
        model = timm.create_model('msinet_x0_25', genotype=['exc', 'none'] * 6, num_classes=5)
    assert reparameterize_model(model)(torch.empty(1, 3, 64, 32, device='meta')).shape == (1, 5)
