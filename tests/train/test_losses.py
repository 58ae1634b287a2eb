import pytest
import torch
from golden_figures import assert_golden, load_tensors
from timm.loss import LabelSmoothingCrossEntropy

from msinet_train.losses import TripletLoss, batch_hard_triplet_loss


@pytest.mark.parametrize('normalize, name', [(True, 'triplet_normalised'), (False, 'triplet_raw')])
def test_published_triplet(normalize, name):
    golden = load_tensors('losses.safetensors')
    loss = TripletLoss(0.3, normalize)(golden['features'], golden['labels'])
    assert_golden(loss.view(1), golden[name])


def test_published_cross_entropy():
    golden = load_tensors('losses.safetensors')
    loss = LabelSmoothingCrossEntropy(0.1)(golden['logits'], golden['labels'])
    assert_golden(loss.view(1), golden['label_smooth_ce'])


def brute_force(features, labels, margin):
    losses = []
    for i, anchor in enumerate(features):
        distances = [(anchor - other).norm().item() for other in features]
        positive = max(d for d, label in zip(distances, labels, strict=True) if label == labels[i])
        negative = min((d for d, label in zip(distances, labels, strict=True) if label != labels[i]), default=torch.inf)
        losses.append(max(0.0, positive - negative + margin))
    return sum(losses) / len(losses)


@pytest.mark.parametrize('labels', [[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 2]])
@pytest.mark.parametrize('margin', [0.0, 0.3, 5.0])
def test_brute_force(labels, margin):
    torch.manual_seed(0)
    features = torch.randn(6, 4, dtype=torch.float64)
    actual = batch_hard_triplet_loss(features, torch.tensor(labels), margin)
    assert actual.item() == pytest.approx(brute_force(features, labels, margin), abs=2e-6)


def test_one_identity_costs_nothing():
    features = torch.randn(4, 3, requires_grad=True)
    loss = batch_hard_triplet_loss(features, torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss == 0 and features.grad.isfinite().all()


def test_equal_features_have_a_gradient():
    features = torch.ones(4, 3, requires_grad=True)
    loss = TripletLoss(0.3)(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(0.3) and features.grad.isfinite().all()
