import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d

import msinet_timm  # noqa: F401
from msinet_train.camera_norm import group_norms

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
