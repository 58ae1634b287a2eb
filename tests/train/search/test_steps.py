import copy

import pytest
import torch
from golden_figures import assert_golden, image, load_json, load_tensors, state_dict

from msinet_timm.datasets import Record
from msinet_timm.errors import InputError
from msinet_timm.models.interactions import INTERACTIONS
from msinet_timm.models.supernet import MixedInteraction, MSISuperNet
from msinet_train.data.sources import TrainingData, class_labels
from msinet_train.losses.task import ReIDTask
from msinet_train.search.steps import SearchTask, architecture_step, twins_split, weight_step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def small_task(train_classes=4, valid_classes=4, seed=0):
    torch.manual_seed(seed)
    task = SearchTask(MSISuperNet(train_classes, (8, 16, 24, 32)), train_classes, valid_classes).double().train()
    for memory in (task.train_memory, task.valid_memory):
        memory.initialize(torch.randn(40, 32), torch.arange(40) % len(memory.features))
    return task


def batch(seed, shape=(8, 3, 64, 32)):
    return image(seed, shape).double(), LABELS


def optimizers(task, lr=0.1, momentum=0.9, weight_decay=0.01):
    net = task.supernet
    weights = torch.optim.SGD(net.weight_parameters(), lr, momentum, weight_decay=weight_decay)
    return weights, torch.optim.Adam([net.arch_weights], 0.01)


def split(records):
    return twins_split(TrainingData(tuple(records), class_labels(records)))


def test_published_split():
    golden = load_json('search_split.json')
    records = [
        Record(f'{i}_{k}.jpg', str(i), str(k % 3))
        for i in range(golden['identities'])
        for k in range(golden['images_per_identity'])
    ]
    for half, found in split(records)._asdict().items():
        labelled = zip(found.train, found.labels.tolist(), strict=True)
        assert [[r.path, label, int(r.camera)] for r, label in labelled] == golden[half]


def test_split_of_any_labels_and_order():
    records = [Record(f'{i}_{k}.jpg', str(10 * i + 7)) for k in range(3) for i in (4, 0, 3, 1, 2)]
    train, valid = split(records)
    assert [(r.path, label) for r, label in zip(train.train, train.labels.tolist(), strict=True)] == [
        ('0_0.jpg', 0), ('0_1.jpg', 0), ('0_2.jpg', 0), ('1_0.jpg', 1), ('2_0.jpg', 2)
    ]  # fmt: skip
    assert valid.labels.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3]


def test_split_of_images_shares_all_identities():
    records = [Record(f'{i}_{k}.jpg', str(i)) for i in range(5) for k in range(3)]
    train, valid = twins_split(TrainingData(tuple(records), class_labels(records)), shared=True)
    assert [r.path for r in train.train] == [f'{i}_0.jpg' for i in range(5)] and train.labels.tolist() == [*range(5)]
    assert [r.path for r in valid.train] == [f'{i}_{k}.jpg' for i in range(5) for k in (1, 2)]
    assert valid.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_split_needs_identities_and_images():
    with pytest.raises(InputError, match='at least 5 of them, the training set has 4'):
        split([Record('a.jpg', i) for i in 'abcd'])
    with pytest.raises(InputError, match='2.jpg: the only image of identity 2'):
        split([Record(f'{i}.jpg', str(i)) for i in range(5) for _ in range(1 + (i != 2))])


def test_published_values():
    golden, facts = load_tensors('search.safetensors'), load_json('search.json')
    net = MSISuperNet(12, facts['channels'])
    net.load_state_dict(state_dict(facts['state']))
    net.arch_weights.data.copy_(golden['arch_weights'])
    task = SearchTask(net, facts['num_train_classes'], facts['num_valid_classes']).double()
    for half in ('train', 'valid'):
        task.memory(half).features.copy_(golden[f'memory_{half}_before'])
    for half, seed in (('train', 7), ('valid', 8)):
        output = task(image(seed, (8, 3, 128, 64)).double(), LABELS, half=half)
        (gradient,) = torch.autograd.grad(output['loss'], [net.arch_weights])
        assert_golden(output['loss'], golden[f'{half}_loss'][0], 1e-5, 1e-7)
        assert_golden(gradient, golden[f'arch_grad_of_{half}_loss'], 1e-5, 1e-7)
        assert_golden(task.memory(half).features, golden[f'memory_{half}_after'], 1e-5, 1e-7)


def test_validation_gradients_do_not_leak_into_the_weights():
    task, alone = small_task(), small_task()
    weights, arch = optimizers(task)
    before = copy.deepcopy(task.supernet.state_dict())
    architecture_step(task, batch(1), arch)
    after = task.supernet.state_dict()
    assert not torch.equal(after['arch_weights'], before['arch_weights'])
    learned = dict(task.supernet.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in learned if name != 'arch_weights')
    assert all(p.grad is None for p in learned.values())

    # the weight step after it is that of a search which has seen no validation batch
    weight_step(task, batch(2), weights)
    alone.load_state_dict({**task.state_dict(), **alone.state_dict()})
    alone.supernet.arch_weights.data.copy_(after['arch_weights'])
    weight_step(alone, batch(2), optimizers(alone)[0])
    for name, parameter in alone.supernet.named_parameters():
        torch.testing.assert_close(task.supernet.get_parameter(name), parameter)


def test_weight_step_is_sgd_and_leaves_the_architecture():
    task, plain = small_task(), small_task()
    images, labels = batch(3)
    weights, _ = optimizers(task)
    weight_step(task, (images, labels), weights)
    plain(images, labels)['loss'].backward()
    reference, _ = optimizers(plain)
    reference.step()
    for name, parameter in plain.supernet.named_parameters():
        ours = task.supernet.get_parameter(name)
        torch.testing.assert_close(ours, parameter)
    assert torch.equal(task.supernet.arch_weights, small_task().supernet.arch_weights)


def smooth(module):
    """Replaces the ReLUs, whose kinks are too many for differences of this untrained network's loss."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.ReLU):
            setattr(module, name, torch.nn.Softplus())
        else:
            smooth(child)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_second_order_is_the_gradient_through_a_weight_step(momentum):
    task = small_task()
    smooth(task.supernet)
    weights, arch = optimizers(task, 0.003, momentum)
    if momentum:
        weight_step(task, batch(5), weights)  # fills the momentum
    frozen = copy.deepcopy(task.state_dict())
    buffers = {p: copy.deepcopy(weights.state[p]) for p in weights.state}

    def loss_after_step(change):
        task.load_state_dict(frozen)
        task.supernet.arch_weights.data += change
        optimizer, _ = optimizers(task, 0.003, momentum)
        optimizer.state.update({p: copy.deepcopy(state) for p, state in buffers.items()})
        task.train_memory.eval()
        weight_step(task, batch(6), optimizer)
        task.train_memory.train()
        return task(*batch(7), half='valid')['loss'].item()

    probe = torch.zeros(12, 4, dtype=torch.float64)
    expected = []
    places = [(0, 1), (5, 3), (11, 2)]
    for place in places:
        probe.zero_()[place] = 1e-5
        expected.append((loss_after_step(probe) - loss_after_step(-probe)) / 2e-5)

    task.load_state_dict(frozen)
    arch = torch.optim.SGD([task.supernet.arch_weights], 1.0)
    architecture_step(task, batch(7), arch, train=batch(6), weight_optimizer=weights)
    gradient = frozen['trainable_module.arch_weights'] - task.supernet.arch_weights.detach()
    torch.testing.assert_close(
        gradient[tuple(zip(*places, strict=True))], torch.tensor(expected, dtype=torch.float64), rtol=1e-2, atol=1e-5
    )
    first_order = SearchTask(MSISuperNet(4, (8, 16, 24, 32)), 4, 4).double()
    smooth(first_order.supernet)
    first_order.load_state_dict(frozen)
    arch = torch.optim.SGD([first_order.supernet.arch_weights], 1.0)
    architecture_step(first_order, batch(7), arch)
    direct = frozen['trainable_module.arch_weights'] - first_order.supernet.arch_weights.detach()
    assert (direct - gradient).norm() > 3e-2 * gradient.norm()
    for name, parameter in task.supernet.named_parameters():
        if name != 'arch_weights':
            assert torch.equal(parameter, frozen[f'trainable_module.{name}'])
    assert torch.equal(task.train_memory.features, frozen['train_memory.features'])


def test_penalty_joins_the_gradient():
    cost = torch.zeros(12, 4, dtype=torch.float64)
    cost[:, 2] = 100.0
    changes = []
    for weight in (0, 1):
        task = small_task()
        mixture = task.supernet.mixture()
        optimizer = torch.optim.SGD([task.supernet.arch_weights], 1.0)
        architecture_step(task, batch(1), optimizer, penalty=weight * (mixture * cost).sum())
        changes.append(task.supernet.arch_weights.detach() - small_task().supernet.arch_weights.detach())
    expected = -mixture * (cost - (mixture * cost).sum(1, keepdim=True))
    torch.testing.assert_close(changes[1] - changes[0], expected.detach())


def test_search_turns_away_from_a_useless_interaction(monkeypatch):
    """Exchange gives noise here. What comes last in the network suffers most from it."""
    mix, exchange = MixedInteraction.forward, list(INTERACTIONS).index('exc')

    def forward(self, a, b, weights):
        kept = weights * (torch.arange(4) != exchange)
        return tuple(out + weights[exchange] * torch.randn_like(out) for out in mix(self, a, b, kept))

    monkeypatch.setattr(MixedInteraction, 'forward', forward)
    task = small_task(seed=1)
    people = torch.randn(4, 3, 4, 2, dtype=torch.float64).repeat_interleave(16, 2).repeat_interleave(16, 3)
    weights, _ = optimizers(task, 0.005)
    arch = torch.optim.Adam([task.supernet.arch_weights], 0.1, betas=(0.5, 0.999))
    for _ in range(120):  # so far that rounding, which differs with threads, does not decide: see the limit below
        train, valid = (people[LABELS] + 0.3 * torch.randn(8, 3, 64, 32, dtype=torch.float64) for _ in range(2))
        architecture_step(task, (valid, LABELS), arch)
        weight_step(task, (train, LABELS), weights)
    mixture = task.supernet.mixture()
    assert mixture.mean(0).argmin() == exchange
    # with one thread, seeds 4 and 6, which end at 0.23 and 0.27 at a rate of 0.03, end at 0.12 and 0.07
    assert (mixture[8:, exchange] < 0.2).all()


def test_single_paths_learn_with_the_losses_of_trainings():
    """The training half's are those of `ReIDTask`; the validation half keeps its memory."""
    torch.manual_seed(0)
    net = MSISuperNet(4, (8, 16, 24, 32))
    task, published = (SearchTask(net, 4, 4, reid=reid).double().eval() for reid in (True, False))
    published.load_state_dict(task.state_dict())
    images, labels = batch(2)
    expected = ReIDTask(net)(images, labels)
    found = task(images, labels)
    torch.testing.assert_close(found['loss'], expected['loss'])
    assert torch.equal(found['output'], expected['output'])
    memory = published(images, labels, half='valid')['loss']
    assert torch.equal(task(images, labels, half='valid')['loss'], memory) and memory != found['loss']
