import pytest
import torch
from golden_figures import assert_golden, load_tensors, state_dict

from msinet_timm.models.interactions import INTERACTIONS, create_interaction


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
