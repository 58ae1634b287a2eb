import math
import sys

import pytest
import torch
import torch.nn.functional as F
from golden_figures import assert_golden, load_tensors
from timm.loss import LabelSmoothingCrossEntropy

from msinet_timm.errors import InputError
from msinet_train.losses.metric import AngularClassifier, CircleLoss, TripletLoss, batch_hard_triplet_loss


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
        soft = margin is None
        losses.append(math.log1p(math.exp(positive - negative)) if soft else max(0.0, positive - negative + margin))
    return sum(losses) / len(losses)


@pytest.mark.parametrize('labels', [[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 2]])
@pytest.mark.parametrize('margin', [0.0, 0.3, 5.0, None])
def test_brute_force(labels, margin):
    torch.manual_seed(0)
    features = torch.randn(6, 4, dtype=torch.float64)
    actual = batch_hard_triplet_loss(features, torch.tensor(labels), margin)
    assert actual.item() == pytest.approx(brute_force(features, labels, margin), abs=2e-6)


@pytest.mark.parametrize('margin', [0.3, None])
def test_gradient(margin):
    torch.manual_seed(0)
    features = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x: batch_hard_triplet_loss(F.normalize(x), labels, margin), features)


@pytest.mark.parametrize('normalize', [True, False])
def test_the_whole_is_the_mean_of_its_parts(normalize):
    torch.manual_seed(0)
    features, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 2])
    loss = TripletLoss(0.3, normalize)
    parts = [loss(features.roll(-k, 0), labels.roll(-k), 2) for k in (0, 2, 4)]
    assert sum(parts).item() / 3 == pytest.approx(loss(features, labels).item())


def test_the_host_waits_for_nothing():
    """The meta device has no values that could be waited for."""
    with torch.device('meta'):
        features, labels = torch.empty(4, 3, requires_grad=True), torch.empty(4, dtype=torch.long)
        for margin in (0.3, None):
            (TripletLoss(margin)(features, labels) + LabelSmoothingCrossEntropy()(features, labels)).backward()


@pytest.mark.parametrize('margin', [0.3, None])
def test_one_identity_costs_nothing(margin):
    features = torch.randn(4, 3, requires_grad=True)
    loss = batch_hard_triplet_loss(features, torch.zeros(4, dtype=torch.long), margin)
    loss.backward()
    assert loss == 0 and features.grad.isfinite().all()


def test_equal_features_have_a_gradient():
    features = torch.ones(4, 3, requires_grad=True)
    loss = TripletLoss(0.3)(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(0.3) and features.grad.isfinite().all()


def test_circle_loss():
    """Against equation 4 and 7 of the paper, for each anchor."""
    torch.manual_seed(0)
    features, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 2])
    m, gamma = 0.25, 16
    cosines = F.normalize(features) @ F.normalize(features).T
    losses = []
    for i in range(5):  # the last image has no positive
        positive, negative = [
            [cosines[i, j].item() for j in range(6) if j != i and (labels[j] == labels[i]) == same]
            for same in (True, False)
        ]
        near = sum(math.exp(-gamma * max(0, 1 + m - s) * (s - (1 - m))) for s in positive)
        far = sum(math.exp(gamma * max(0, s + m) * (s - m)) for s in negative)
        losses.append(math.log1p(near * far))
    assert CircleLoss(m, gamma)(features, labels).item() == pytest.approx(sum(losses) / 5)


@pytest.mark.parametrize('kind', ['arcface', 'cosface'])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_angular_classifiers(kind, smoothing):
    torch.manual_seed(0)
    classifier = AngularClassifier(kind, 8, 5, smoothing).double()
    features, labels = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 4, 2, 2])
    cosines = classifier.logits(features) / 64
    weight = next(classifier.parameters())
    torch.testing.assert_close(cosines, F.normalize(features) @ F.normalize(weight, dim=0))
    own = F.one_hot(labels, 5).bool()
    harder = (cosines.acos() + math.radians(28.6)).cos() if kind == 'arcface' else cosines - 0.35
    expected = LabelSmoothingCrossEntropy(smoothing)(64 * torch.where(own, harder, cosines), labels)
    torch.testing.assert_close(classifier(features, labels), expected)


@pytest.mark.parametrize('create', [CircleLoss, lambda: AngularClassifier('arcface', 8, 5)])
def test_missing_package(create, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pytorch_metric_learning', None)
    with pytest.raises(InputError, match=r'pip install "msinet-timm\[losses\]"'):
        create()
