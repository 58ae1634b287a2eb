from collections import Counter

import numpy as np
import pytest

from msinet_timm.errors import InputError
from msinet_train.data.sampler import PKSampler

LABELS = np.repeat([3, 5, 7, 9, 11], [8, 5, 2, 1, 12])


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_batches_are_p_by_k():
    for epoch in range(20):
        for batch in epoch_of(PKSampler(LABELS, 3, 2), epoch):
            assert sorted(Counter(LABELS[batch].tolist()).values()) == [2, 2, 2]
            assert all(LABELS[a] == LABELS[b] for a, b in zip(batch[::2], batch[1::2], strict=True))


def test_no_image_twice_unless_its_identity_is_short():
    for epoch in range(20):
        counts = Counter(image for batch in epoch_of(PKSampler(LABELS, 3, 2), epoch) for image in batch)
        repeated = {LABELS[image] for image, count in counts.items() if count > 1}
        assert repeated <= {9}


def test_epoch_ends_when_too_few_identities_are_left():
    for epoch in range(20):
        used = Counter()
        for batch in epoch_of(PKSampler(LABELS, 3, 2), epoch):
            used.update(set(LABELS[batch].tolist()))
        groups = {3: 4, 5: 2, 7: 1, 9: 1, 11: 6}
        assert sum(used[identity] < n for identity, n in groups.items()) < 3
        assert all(used[identity] <= n for identity, n in groups.items())


def test_an_epoch_depends_on_seed_and_epoch_only():
    first = PKSampler(LABELS, 3, 2, seed=1)
    expected = [epoch_of(first, e) for e in range(3)]
    assert len(first) == len(expected[2])
    assert [epoch_of(PKSampler(LABELS, 3, 2, seed=1), e) for e in (2, 1, 0)] == expected[::-1]
    assert expected[0] != expected[1]
    assert epoch_of(PKSampler(LABELS, 3, 2, seed=2), 0) != expected[0]


def test_every_image_and_identity_has_its_turn():
    sampler = PKSampler(LABELS, 3, 2)
    seen = {image for epoch in range(60) for batch in epoch_of(sampler, epoch) for image in batch}
    assert seen == set(range(len(LABELS)))


def test_too_few_identities():
    with pytest.raises(InputError, match='6 identities but the training set has 5: use `batch_size` 10'):
        PKSampler(LABELS, 6, 2)


def groups_of(labels, k):
    return [-(-count // k) for count in Counter(labels.tolist()).values()]


@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.parametrize('p, k', [(3, 2), (2, 4), (5, 3)])
def test_all_images(processes, p, k):
    labels = np.concatenate([LABELS, np.repeat(np.arange(20, 26), [1, 3, 7, 7, 2, 9])])
    for epoch in range(10):
        ranks = [
            epoch_of(PKSampler(labels, p, k, all_images=True, num_replicas=processes, rank=rank), epoch)
            for rank in range(processes)
        ]
        assert {image for batches in ranks for batch in batches for image in batch} == set(range(len(labels)))
        groups = groups_of(labels, k)
        assert all(len(batches) == max(max(groups), -(-sum(groups) // (p * processes))) for batches in ranks)
        for batch in ranks[0]:
            assert sorted(Counter(labels[batch].tolist()).values()) == [k] * p


def test_all_images_repeats_one_only_where_its_identity_is_short():
    sampler = PKSampler(np.repeat(np.arange(8), 6), 4, 4, all_images=True)
    for epoch in range(5):
        for batch in epoch_of(sampler, epoch):
            assert len(set(batch)) == len(batch)


@pytest.mark.parametrize('all_images', [False, True])
def test_processes_share_the_batches_of_one(all_images):
    for epoch in range(10):
        alone = epoch_of(PKSampler(LABELS, 4, 2, seed=3, all_images=all_images), epoch)
        ranks = [
            epoch_of(PKSampler(LABELS, 2, 2, seed=3, all_images=all_images, num_replicas=2, rank=rank), epoch)
            for rank in range(2)
        ]
        assert [first + second for first, second in zip(*ranks, strict=True)] == alone
        for first, second in zip(*ranks, strict=True):
            assert not set(LABELS[first]) & set(LABELS[second])


def test_too_few_identities_for_all_processes():
    with pytest.raises(InputError, match='3 identities in each of 2 processes but .* has 5: use `batch_size` 4 or'):
        PKSampler(LABELS, 3, 2, num_replicas=2)
    with pytest.raises(InputError, match='has 5: start 5 processes or fewer'):
        PKSampler(LABELS, 1, 2, num_replicas=6)
