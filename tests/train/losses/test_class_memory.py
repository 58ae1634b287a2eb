import pytest
import torch
import torch.nn.functional as F
from golden_figures import assert_golden, image, load_json, load_tensors, state_dict

from msinet_timm.models.supernet import MSISuperNet
from msinet_train.losses.class_memory import ClassMemory

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def one_by_one(rows, features, labels, momentum):
    rows = rows.clone()
    for feature, label in zip(F.normalize(features, dim=1), labels, strict=True):
        rows[label] = momentum * rows[label] + (1 - momentum) * feature
        rows[label] /= rows[label].norm()
    return rows


def memory(rows, **kwargs):
    result = ClassMemory(*rows.shape, dtype=rows.dtype, **kwargs)
    result.features.copy_(rows)
    return result


@pytest.mark.parametrize('name, seed', [('train', 7), ('valid', 8)])
def test_published_values(name, seed):
    golden = load_tensors('search.safetensors')
    net = MSISuperNet(12, load_json('search.json')['channels'])
    net.load_state_dict(state_dict(load_json('search.json')['state']))
    net.arch_weights.data.copy_(golden['arch_weights'])
    net.double()
    if name == 'valid':  # the published values come from one network, whose norms A has gone through before
        net.forward_branches(image(7, (8, 3, 128, 64)).double())
    rows = memory(golden[f'memory_{name}_before'])

    loss = rows(net.forward_branches(image(seed, (8, 3, 128, 64)).double()).global_feature, LABELS)
    loss.backward()
    assert_golden(loss, golden[f'{name}_loss'][0], 1e-5, 1e-7)
    assert_golden(net.arch_weights.grad, golden[f'arch_grad_of_{name}_loss'], 1e-5, 1e-7)
    assert_golden(rows.features, golden[f'memory_{name}_after'], 1e-5, 1e-7)
    assert all(p.grad is None for p in (*net.global_neck.parameters(), *net.global_classifier.parameters()))


@pytest.mark.parametrize('labels', [[3, 1, 3, 3, 0, 1, 3], [2] * 5, [0, 1, 2, 3], [1]])
def test_update_is_sample_by_sample(labels):
    rows = F.normalize(torch.randn(5, 6, dtype=torch.float64), dim=1)
    features, labels = torch.randn(len(labels), 6, dtype=torch.float64), torch.tensor(labels)
    ours = memory(rows, momentum=0.3)
    ours(features, labels)
    torch.testing.assert_close(ours.features, one_by_one(rows, features, labels, 0.3))


def test_starts_from_zeros_or_centroids():
    ours = ClassMemory(3, 4)
    assert not ours.features.any()
    features = torch.randn(6, 4)
    ours.initialize(features, torch.tensor([0, 2, 2, 0, 0, 2]))
    expected = F.normalize(features, dim=1)[[0, 3, 4]].mean(0)
    torch.testing.assert_close(ours.features[0], expected / expected.norm())
    assert not ours.features[1].any()


def test_evaluation_leaves_the_memory():
    ours = ClassMemory(3, 4).eval()
    ours(torch.randn(2, 4), torch.tensor([0, 1]))
    assert not ours.features.any()


def test_temperature_and_gradient():
    rows = F.normalize(torch.randn(4, 5, dtype=torch.float64), dim=1)
    labels = torch.tensor([1, 1, 3])

    def loss(features):
        return memory(rows, temperature=0.2)(features, labels)

    features = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    logits = F.normalize(features, dim=1) @ rows.T / 0.2
    torch.testing.assert_close(loss(features), F.cross_entropy(logits, labels))
    assert torch.autograd.gradcheck(loss, features)
