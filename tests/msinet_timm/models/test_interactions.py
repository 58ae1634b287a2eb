import copy

import pytest
import torch
from golden_figures import assert_golden, load_tensors, state_dict

from msinet_timm.models.genotype import Genotype
from msinet_timm.models.interactions import INTERACTIONS, ChannelGate, create_interaction, wake_gates
from msinet_timm.models.msinet import WIDTHS, MSINet
from msinet_timm.models.supernet import MSISuperNet


@pytest.mark.parametrize('name', INTERACTIONS)
def test_published_figures(name):
    golden = load_tensors('interactions.safetensors')
    op = create_interaction(name, 32)
    op.load_state_dict(state_dict({key: list(t.shape) for key, t in op.state_dict().items()}))
    a, b = op(golden['in_a'], golden['in_b'])
    assert_golden(a, golden[f'{name}.a'])
    assert_golden(b, golden[f'{name}.b'])


def test_cross_attention_starts_as_identity():
    a, b = torch.randn(2, 3, 8, 4, 2)
    out_a, out_b = create_interaction('cross_att', 8)(a, b)
    assert torch.equal(out_a, a) and torch.equal(out_b, b)


def test_gate_keeps_a_channel():
    assert create_interaction('ag', 4).fc1.out_channels == 1


@pytest.mark.parametrize('name', INTERACTIONS)
def test_layout_does_not_matter(name):
    op = create_interaction(name, 16)
    torch.nn.init.constant_(op.gamma, 0.5) if name == 'cross_att' else None
    x = torch.randn(2, 2, 16, 6, 4)
    for plain, channels_last in zip(
        op(*x), op(*[t.contiguous(memory_format=torch.channels_last) for t in x]), strict=True
    ):
        torch.testing.assert_close(channels_last, plain)


def test_unknown_name():
    with pytest.raises(ValueError, match="'gate'.*none, ag, cross_att, exc"):
        create_interaction('gate', 8)


@pytest.mark.parametrize('network', ['final', 'supernet'])
def test_gates_are_woken_and_give_what_they_gave(network):
    torch.manual_seed(0)
    net = MSINet(genotype='all_ag', widths=WIDTHS['x0_25']) if network == 'final' else MSISuperNet(2, WIDTHS['x0_25'])
    net.eval().path = Genotype(['ag'] * 12)
    images = torch.randn(8, 3, 64, 32)
    gate = net.stages[0][0].interaction1
    gate = gate if network == 'final' else gate.ops[1]
    torch.nn.init.constant_(gate.fc1.weight, -1.0)  # what it sees is never negative
    torch.nn.init.constant_(gate.fc2.weight, 1.0)

    def slope():
        return torch.autograd.grad(net.forward_features(images).square().mean(), gate.fc2.weight)[0].abs().max()

    before, state = net.forward_features(images), copy.deepcopy(net.state_dict())
    assert slope() == 0
    woken = wake_gates(net, images)
    assert woken >= 1
    assert torch.equal(net.forward_features(images), before) and slope() > 0
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed and all('fc1' in name or 'fc2' in name for name in changed)
    assert wake_gates(net, images) < woken  # of those drawn, a few sleep on


def test_units_that_answer_are_left_alone():
    gate = ChannelGate(64)
    before = copy.deepcopy(gate.state_dict())
    gate.wake(torch.tensor([False, True, False, False]))
    for unit in (0, 2, 3):
        assert torch.equal(gate.fc1.weight[unit], before['fc1.weight'][unit])
        assert torch.equal(gate.fc2.weight[:, unit], before['fc2.weight'][:, unit])
    assert gate.fc1.weight[1].sum() > 0 and not gate.fc2.weight[:, 1].any() and gate.fc1.bias[1] == 0
