import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from msinet_timm.errors import InputError
from msinet_train.losses.alignment import SpatialAlignment, max_correlation

# An identity with three images, one with two, and one with a single one.
LABELS = torch.tensor([0, 1, 0, 1, 2, 0])


def random_maps(images=6, channels=9, height=3, width=2):
    """Without zeros, among which the best match would be a matter of taste."""
    torch.manual_seed(0)
    return torch.rand(images, channels, height, width, dtype=torch.float64, requires_grad=True)


def correlations(x):
    """The plain form: all of [B, B, N, N] at once."""
    return torch.einsum('pic,bjc->bpij', x, x).amax(3)


def distance(u, v):
    return 1 - F.cosine_similarity(u, v, dim=0)


def brute_force(alignment, maps, labels):
    x = maps[:, : alignment.channels].flatten(2).transpose(1, 2)
    u = correlations(x)
    query, key = [x @ conv.weight.flatten(1).T + conv.bias for conv in (alignment.query, alignment.key)]
    p = torch.einsum('bic,bjc->bij', query, key).amax(2)
    loss, images = 0, range(len(maps))
    for b in images:
        own = [i for i in images if labels[i] == labels[b]]
        others = [i for i in images if labels[i] != labels[b]]
        if 'pos' in alignment.mode:
            loss += sum(distance(p[b], u[b, i]) for i in own) / len(own)
        if 'neg' in alignment.mode and others:
            loss += sum(distance(u[b, i], u[b, j]) for i in others for j in others) / len(others) ** 2
    return loss / len(maps)


@pytest.mark.parametrize('mode', SpatialAlignment.MODES)
@pytest.mark.parametrize('shape', [(3, 2), (1, 1), (2, 7)])
def test_brute_force_and_its_gradient(mode, shape):
    torch.manual_seed(1)
    alignment = SpatialAlignment(8, mode).double()
    maps = random_maps(6, 9, *shape)
    inputs = maps, *alignment.parameters()
    actual, expected = alignment(maps, LABELS), brute_force(alignment, maps, LABELS)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    gradients, expected_gradients = [
        torch.autograd.grad(loss, inputs, materialize_grads=True) for loss in (actual, expected)
    ]
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('anchors', [None, 1, 4])
def test_max_correlation(anchors):
    x = random_maps().detach().flatten(2).transpose(1, 2).contiguous()
    torch.testing.assert_close(max_correlation(x, anchors), correlations(x)[:anchors])
    x = torch.randn(x.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: max_correlation(x, anchors), x)


@pytest.mark.parametrize('mode', SpatialAlignment.MODES)
def test_the_whole_is_the_mean_of_its_parts(mode):
    """As several processes compute it, each with its own images first."""
    alignment = SpatialAlignment(8, mode).double()
    maps = random_maps()
    parts = sum(alignment(maps.roll(-k, 0), LABELS.roll(-k), 2) for k in (0, 2, 4)) / 3
    whole = alignment(maps, LABELS)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, maps), torch.autograd.grad(whole, maps))


def test_one_identity_has_nothing_to_tell_apart():
    maps = random_maps()
    loss = SpatialAlignment(9, 'neg').double()(maps, torch.zeros(6, dtype=torch.long))
    loss.backward()
    assert loss == 0 and not maps.grad.any()


def test_dead_maps_have_finite_gradients():
    maps = torch.zeros(6, 9, 3, 2, requires_grad=True)
    loss = SpatialAlignment(9)(maps, LABELS)
    loss.backward()
    assert loss.isfinite() and maps.grad.isfinite().all()


def test_negative_alignment_lets_weight_decay_reach_the_projections():
    alignment = SpatialAlignment(9, 'neg').double()
    alignment(random_maps(), LABELS).backward()
    assert all(p.grad is not None and not p.grad.any() for p in alignment.parameters())


def test_published_names():
    ours = SpatialAlignment(16)
    names = {'query': 'query_conv', 'key': 'key_conv'}
    published = {
        f'align_module.pos_pam.{names[part]}.{kind}': torch.randn_like(ours.get_parameter(f'{part}.{kind}'))
        for part in names
        for kind in ('weight', 'bias')
    }
    ours.load_state_dict({'conv1.conv.weight': torch.zeros(1), **published})
    for part in names:
        for kind in ('weight', 'bias'):
            assert torch.equal(
                ours.get_parameter(f'{part}.{kind}'), published[f'align_module.pos_pam.{names[part]}.{kind}']
            )
    SpatialAlignment(16).load_state_dict(ours.state_dict())


def test_unknown_mode():
    with pytest.raises(InputError, match="'both': choose one of pos, neg, pos_neg"):
        SpatialAlignment(8, 'both')


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest result of any operation has."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_memory():
    images, positions = 12, 16 * 8
    maps = random_maps(images, 8, 16, 8)
    with LargestTensor() as largest:
        SpatialAlignment(8).double()(maps, torch.arange(images) // 4).backward()
    assert largest.numel == images * positions**2


@pytest.mark.parametrize('mode', SpatialAlignment.MODES)
def test_the_host_waits_for_nothing(mode):
    """The meta device has no values that could be waited for."""
    with torch.device('meta'):
        maps = torch.empty(4, 9, 3, 2, requires_grad=True)
        loss = SpatialAlignment(9, mode)(maps, torch.empty(4, dtype=torch.long))
        loss.backward()
    assert maps.grad.shape == maps.shape
