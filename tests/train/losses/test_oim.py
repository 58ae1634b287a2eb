import pytest
import torch
import torch.nn.functional as F

from msinet_train.losses.oim import OIMLoss


def one_by_one(rows, queue, features, labels, temperature):
    """The loss by its formula, person by person, with lists."""
    terms = []
    for feature, label in zip(F.normalize(features, dim=1), labels.tolist(), strict=True):
        if label < 0:
            continue
        others = [row for number, row in enumerate(rows) if row.any() and number != label]
        others += [row for row in queue if row.any()]
        powers = [torch.exp(feature @ row / temperature) for row in others]
        own = torch.exp(feature @ rows[label] / temperature)
        terms.append(-torch.log(own / (own + sum(powers))))
    return sum(terms) / len(terms)


def filled(length=5):
    torch.manual_seed(0)
    loss = OIMLoss(6, 8, length, momentum=0.3, temperature=0.1, dtype=torch.float64)
    loss.features[:4] = F.normalize(torch.randn(4, 8, dtype=torch.float64))
    if length:
        loss.queue[:2] = F.normalize(torch.randn(2, 8, dtype=torch.float64))
        loss.tail.fill_(2)
    return loss


LABELS = torch.tensor([2, -1, 5, 0, -1, 2])


@pytest.mark.parametrize('length', [5, 0])
def test_loss_is_the_formula(length):
    loss, features = filled(length), torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    expected = one_by_one(loss.features.clone(), loss.queue.clone(), features, LABELS, 0.1)
    found = loss(features, LABELS)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, features, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, features)[0])
    assert not gradient[LABELS < 0].any()


def test_strangers_go_round_in_the_queue():
    loss = filled()
    rows, expected, tail = loss.features.clone(), loss.queue.clone(), 2
    for _ in range(4):
        features = torch.randn(6, 8, dtype=torch.float64)
        loss(features, LABELS)
        for feature, label in zip(F.normalize(features, dim=1), LABELS.tolist(), strict=True):
            if label < 0:
                expected[tail] = feature
                tail = (tail + 1) % 5
            else:
                rows[label] = F.normalize(0.3 * rows[label] + 0.7 * feature, dim=0)
        torch.testing.assert_close(loss.queue, expected)
        torch.testing.assert_close(loss.features, rows)
        assert loss.tail == tail


def test_more_strangers_than_places():
    loss, features = filled(3), torch.randn(7, 8, dtype=torch.float64)
    assert loss(features, torch.full((7,), -1)) == 0
    assert {tuple(row) for row in loss.queue.tolist()} == {
        tuple(row) for row in F.normalize(features, dim=1)[-3:].tolist()
    }


def test_evaluation_remembers_nothing():
    loss = filled().eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(torch.randn(6, 8, dtype=torch.float64), LABELS)
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name])


def test_nobody_at_all():
    loss = filled()
    found = loss(torch.zeros(0, 8, dtype=torch.float64, requires_grad=True), torch.zeros(0, dtype=torch.long))
    found.backward()
    assert found == 0
