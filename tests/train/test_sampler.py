from collections import Counter

import numpy as np
import pytest

from msinet_timm.commands import InputError
from msinet_train.sampler import PKSampler

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
    with pytest.raises(InputError, match='6 identities but the training set has 5: use --batch-size 10'):
        PKSampler(LABELS, 6, 2)
