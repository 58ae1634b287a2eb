import copy
import shutil

import pytest
import timm
import torch
from small_network import SmallNetwork
from torch import nn

from msinet_timm.forms import FORMS, PRECISIONS, Form, create_form
from msinet_timm.models.interactions import CrossAttention


def create(name='msinet_x0_25', **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.running_mean, 0, 0.1)
        elif isinstance(part, CrossAttention):
            nn.init.constant_(part.gamma, 0.3)
    return model


def shift(actual, expected):
    assert actual.shape == expected.shape and actual.dtype == torch.float32
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('form', [form for form in FORMS if form != 'compiled'])
@pytest.mark.parametrize(('name', 'num_classes'), [('msinet_x0_25', 0), ('msinet_x0_25', 5), ('resnet10t', 5)])
def test_forms(name, num_classes, form, precision):
    model = create(name, num_classes=num_classes)
    before = copy.deepcopy(model.state_dict())
    made = create_form(model, form, precision, torch.randn(1, 3, 64, 32))
    assert isinstance(made, Form) and (made.name, made.precision, made.device.type) == (form, precision, 'cpu')
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()
    # at 64x32, torch's bf16 convolution of 4x2 pixels with stride 2 reads memory that nobody has written
    for shape in ((2, 3, 128, 64), (3, 3, 96, 48)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = model(x)
        found = made(x)
        assert not found.requires_grad
        if precision == 'float32':
            assert shift(found, expected) < 5e-6
        else:
            assert 1e-5 < shift(found, expected) < 0.04


def test_what_forms_are():
    model = create(num_classes=0)
    weights = {form: create_form(model, form)._run.state_dict() for form in ('eager', 'channels_last', 'fused')}
    assert 'stem.bn.weight' in weights['eager'] and 'stem.bn.weight' in weights['channels_last']
    assert 'stem.0.bias' in weights['fused']
    last = {'memory_format': torch.channels_last}
    assert weights['eager']['stem.conv.weight'].is_contiguous()
    assert weights['channels_last']['stem.conv.weight'].is_contiguous(**last)
    assert weights['fused']['stem.0.weight'].is_contiguous(**last)
    assert isinstance(create_form(model, 'torchscript')._run, torch.jit.ScriptModule)


def test_head_and_norms_stay_in_float32():
    model = create(num_classes=4)
    types = {name: t.dtype for name, t in create_form(model, 'fused', 'bf16')._run.model.state_dict().items()}
    assert types['stem.0.weight'] == types['lateral.weight'] == torch.bfloat16
    assert types['global_neck.weight'] == types['local_classifier.weight'] == torch.float32
    types = {name: t.dtype for name, t in create_form(model, 'eager', 'bf16')._run.model.state_dict().items()}
    assert types['stem.conv.weight'] == torch.bfloat16 and types['stem.bn.running_var'] == torch.float32


@pytest.mark.skipif(not shutil.which('g++'), reason='needs a C++ compiler')
def test_compiled():
    torch.manual_seed(0)
    model = SmallNetwork(8, 16, kernel=3).eval()
    nn.init.constant_(model.cell.interaction2.gamma, 0.5)
    x = torch.randn(2, 3, 32, 16)
    with torch.no_grad():
        expected = model(x)
    assert 1e-5 < shift(create_form(model, 'compiled', 'bf16', example=x)(x), expected) < 0.04


def test_every_shape_is_compiled(monkeypatch):
    shapes, compile_ = [], torch.compile

    def backend(graph, inputs):
        shapes.extend(i.shape for i in inputs if i.ndim == 4 and i.shape[1] == 3 and not isinstance(i, nn.Parameter))
        return graph.forward

    def compile_quickly(model, dynamic, options):
        assert options == {'freezing': True}
        return compile_(model, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(torch, 'compile', compile_quickly)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    form = create_form(model, 'compiled', example=torch.zeros(1, 3, 16, 8))
    assert shapes == [(1, 3, 16, 8)]
    for n in [*range(1, 13), 5, 2]:
        assert len(form(torch.zeros(n, 3, 16, 8))) == n
    assert shapes == [(n, 3, 16, 8) for n in range(1, 13)]


def test_refusals(monkeypatch):
    model = create()
    with pytest.raises(ValueError, match="unknown form 'fast'.*eager, channels_last"):
        create_form(model, 'fast')
    with pytest.raises(ValueError, match="unknown precision 'int4'.*float32, bf16"):
        create_form(model, 'fused', 'int4')
    monkeypatch.setenv('PATH', '')
    monkeypatch.setattr('torch._inductor.config.cpp.cxx', ('no-compiler',))
    with pytest.raises(ValueError, match="'compiled' needs a C\\+\\+ compiler"):
        create_form(model, 'compiled')
