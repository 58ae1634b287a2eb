import pytest
import torch
import torch.nn.functional as F
from golden_figures import assert_golden, image, load_json, load_tensors, state_dict
from safetensors.torch import save_model

from msinet_timm.errors import InputError
from msinet_timm.hub.load import load_model
from msinet_timm.models.genotype import Genotype
from msinet_timm.models.interactions import INTERACTIONS
from msinet_timm.models.msinet import WIDTHS
from msinet_timm.models.supernet import MixedInteraction, MSISuperNet


@pytest.fixture(scope='module')
def golden():
    return load_tensors('search.safetensors')


@pytest.fixture
def supernet(golden):
    net = MSISuperNet(12, load_json('search.json')['channels'])
    net.load_state_dict(state_dict(load_json('search.json')['state']))
    net.arch_weights.data.copy_(golden['arch_weights'])
    return net.double().train()


def test_published_figures(supernet, golden):
    branches = supernet.forward_branches(image(7, (8, 3, 128, 64)).double())
    assert_golden(branches.global_feature, golden['features'], 1e-5, 1e-7)
    assert_golden(branches.global_logits, golden['logits'], 1e-5, 1e-7)
    assert list(supernet.genotype()) == load_json('search.json')['genotype']


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_mixture_is_the_weighted_sum_of_the_interactions(memory_format):
    mixed = MixedInteraction(8, dtype=torch.float64)
    torch.nn.init.constant_(mixed.ops[2].gamma, 0.7)
    maps = torch.randn(2, 3, 8, 5, 4, dtype=torch.float64)
    inputs = [x.contiguous(memory_format=memory_format).requires_grad_() for x in maps]
    weights = torch.randn(4, dtype=torch.float64, requires_grad=True)
    learned = [*inputs, weights, *mixed.parameters()]

    merged = mixed(*inputs, weights)
    pairs = [op(*inputs) for op in mixed.ops]
    plain = [sum(w * pair[branch] for w, pair in zip(weights, pairs, strict=True)) for branch in range(2)]
    assert len(pairs) == len(INTERACTIONS)
    probes = torch.randn(2, 3, 8, 5, 4, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(sum((probe * out).sum() for probe, out in zip(probes, outs, strict=True)), learned)
        for outs in (merged, plain)
    ]
    for ours, theirs in zip((*merged, *gradients[0]), (*plain, *gradients[1]), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_one_hot_supernet_computes_as_msinet_does():
    """With the final network's branches and a hard choice of interactions, the supernet is that network's trunk."""
    from msinet_timm.models.msinet import MSINet

    names = list(INTERACTIONS)
    genotype = [names[k % 4] for k in range(5, 17)]
    net = MSISuperNet(3, (8, 16, 24, 32), mid_from='output').eval()
    net.arch_weights.data.fill_(-1e4)
    net.arch_weights.data[range(12), [names.index(name) for name in genotype]] = 0
    final = MSINet(genotype, (8, 16, 24, 32), num_classes=0).eval()
    own = net.state_dict()
    for name in final.state_dict():
        for place in ('interaction1', 'interaction2'):
            if f'.{place}.' in name:
                stage, cell = name.split('.')[1:3]
                op = names.index(genotype[2 * (int(stage) + int(cell)) + int(place[-1]) - 1])
                own[name] = own[name.replace(place, f'{place}.ops.{op}')]
    final.load_state_dict({name: own.get(name, tensor) for name, tensor in final.state_dict().items()})
    assert net.genotype() == Genotype(genotype)
    images = torch.randn(2, 3, 64, 32)
    expected = final.forward_features(images)[:, :32]
    torch.testing.assert_close(net.forward_features(images), expected)
    net.arch_weights.data.zero_()
    net.path = Genotype(genotype)
    torch.testing.assert_close(net.forward_features(images), expected)
    assert 'path' not in net.state_dict()


def test_a_path_trains_what_it_takes_alone():
    net = MSISuperNet(3, (8, 16, 24, 32))
    net.path = Genotype(['ag', *['none'] * 11])
    net(torch.randn(2, 3, 64, 32)).sum().backward()
    gates = {name for name, p in net.named_parameters() if '.ops.' in name and p.grad is not None}
    assert {name.split('.ops.')[0] for name in gates} == {'stages.0.0.interaction1'} and net.arch_weights.grad is None


def test_widths_of_branches():
    published, final = MSISuperNet(2), MSISuperNet(2, mid_from='output')
    assert [published.stages[i][j].reduce_a.conv.out_channels for i in (0, 2, 4) for j in (0, 1)] == [
        16, 64, 64, 96, 96, 128
    ]  # fmt: skip
    assert [final.stages[i][j].reduce_a.conv.out_channels for i in (0, 2, 4) for j in (0, 1)] == [
        64, 64, 96, 96, 128, 128
    ]  # fmt: skip


def test_architecture_weights_are_parameters_of_their_own():
    net = MSISuperNet(2, (4, 8, 12, 16))
    assert net.state_dict()['arch_weights'].shape == (12, 4)
    assert sum(p.numel() for p in net.weight_parameters()) == sum(p.numel() for p in net.parameters()) - 48
    torch.testing.assert_close(net.mixture().sum(1), torch.ones(12))
    other = MSISuperNet(2, (4, 8, 12, 16))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.arch_weights, net.arch_weights)


def test_heads_agree_and_checkpointing_changes_nothing():
    net = MSISuperNet(3, (4, 8, 12, 16)).double()
    images = torch.randn(4, 3, 64, 32, dtype=torch.float64)
    gradients = []
    for checkpointing in (False, True):
        net.set_grad_checkpointing(checkpointing)
        net.zero_grad()
        F.cross_entropy(net(images), torch.tensor([0, 1, 2, 0])).backward()
        gradients.append(net.arch_weights.grad.clone())
    torch.testing.assert_close(*gradients)
    net.eval()
    branches = net.forward_branches(images)
    torch.testing.assert_close(net(images), branches.global_logits)
    torch.testing.assert_close(net.forward_head(branches.feature_map, pre_logits=True), branches.global_feature)


@pytest.mark.parametrize('widths', [(8, 16, 24), (6, 16, 24, 32), (2, 16, 24, 32)])
def test_bad_widths(widths):
    with pytest.raises(ValueError, match='multiples of 4'):
        MSISuperNet(2, widths)


def test_bad_mid_from():
    with pytest.raises(ValueError, match="'input' or 'output', not 'both'"):
        MSISuperNet(2, mid_from='both')


def moved(seed=0, **options):
    """A supernet none of whose weights is as it was made."""
    torch.manual_seed(seed)
    net = MSISuperNet(3, WIDTHS['x0_25'], **options).eval()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return net


@pytest.mark.parametrize('second', ['none', 'ag', 'cross_att', 'exc'])
def test_a_model_begins_as_the_path_of_its_genotype(tmp_path, second):
    net, file = moved(mid_from='output'), tmp_path / 'supernet.safetensors'
    save_model(net, str(file))
    genotype = Genotype([*INTERACTIONS] * 2 + ['exc', 'ag', 'ag', second])
    model = load_model('msinet_x0_25', file, genotype=genotype, num_classes=5)
    # an exchange at a second place is none with the last convolutions swapped
    net.path = Genotype('none' if k % 2 and name == 'exc' else name for k, name in enumerate(genotype))
    images = torch.randn(2, 3, 64, 32)
    branches = model.forward_branches(images)
    torch.testing.assert_close(branches.global_feature, net.forward_head(net.forward_features(images), True))
    assert branches.global_logits.shape == (2, 5)


def test_a_supernet_begins_with_the_weights_of_a_network():
    net = moved(mid_from='output')
    model = load_model('msinet_x0_25.market1501', pretrained=False, genotype='all_exc')
    before = {name: t.clone() for name, t in net.state_dict().items() if '.ops.' in name or 'global' in name}
    net.load_trunk(model)
    assert all(torch.equal(net.state_dict()[name], t) for name, t in before.items()) and len(before) > 12
    net.path = Genotype(['exc'] * 12)
    images = torch.randn(2, 3, 64, 32)
    expected = model.forward_branches(images).global_feature
    torch.testing.assert_close(net.forward_head(net.forward_features(images), True), expected)


def test_other_widths_do_not_begin_so(tmp_path):
    model = load_model('msinet_x0_5.market1501', pretrained=False)
    with pytest.raises(InputError, match=r'stem.conv.weight is \[32, 3, 7, 7\] there instead of \[16, 3, 7, 7\]'):
        moved(mid_from='output').load_trunk(model)
    with pytest.raises(InputError, match='mid_from output'):
        moved().load_trunk(load_model('msinet_x0_25.market1501', pretrained=False))
    save_model(moved(), str(tmp_path / 'supernet.safetensors'))
    with pytest.raises(InputError, match='supernet.safetensors: the checkpoint does not fit'):
        load_model('msinet_x0_25', tmp_path / 'supernet.safetensors')
