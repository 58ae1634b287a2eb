import numpy as np
import pytest

from msinet_timm.gallery import Gallery
from msinet_timm.gallery.index import VectorIndex


def clustered(count, rng, size=128):
    people = rng.normal(size=(count // 10, size))
    rows = (np.repeat(people, 10, 0) + rng.normal(size=(count, size))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    rows = clustered(5000, rng)
    ids = np.cumsum(rng.integers(1, 5, 5000))
    index = VectorIndex(128, bits_from=4000)
    index.add(ids[:4500], rows[:4500])
    index.make_bits()
    index.add(ids[4500:], rows[4500:])
    return index, ids, rows, rng


def nearest(query, k, ids, rows):
    kept = rows.astype(np.float16).astype(np.float32)
    return ids[np.argsort(-(kept @ query), kind='stable')[:k]]


@pytest.mark.parametrize('share', [1, 0.5, 0.01])
def test_bits_find_what_comparing_all_in_full_does(made, share):
    index, ids, rows, rng = made
    chosen = np.sort(rng.choice(5000, int(5000 * share), replace=False))
    among = None if share == 1 else ids[chosen]
    shares = []
    for query in rows[chosen[:: len(chosen) // 40]]:
        query = query + 0.05 * rng.normal(size=128).astype(np.float32)
        want = nearest(query, 10, ids[chosen], rows[chosen])
        found, products = index.search(query, 10, among, exact=False)
        whole, highest = index.search(query, 10, among)
        assert {*whole.tolist()} == {*want.tolist()} and found[0] == want[0]
        shares.append(len({*found.tolist()} & {*want.tolist()}) / 10)
        np.testing.assert_allclose(products[0], highest[0], atol=1e-5)
    assert np.mean(shares) > 0.98


def test_what_is_removed_is_in_neither(made):
    index, ids, rows, rng = made
    gone = rng.choice(5000, 1000, replace=False)
    index.remove(ids[gone])
    left = np.setdiff1d(np.arange(5000), gone)
    assert len(index) == 4000
    for query in rows[::500]:
        want = nearest(query, 10, ids[left], rows[left]).tolist()
        assert {*index.search(query, 10)[0].tolist()} == {*want}
        found = {*index.search(query, 10, exact=False)[0].tolist()}
        assert not found & {*ids[gone].tolist()} and len(found & {*want}) >= 8


def test_less_than_is_asked_for():
    index = VectorIndex(8, bits_from=3)
    assert [len(part) for part in index.search(np.ones(8), 5)] == [0, 0]
    index.add(np.array([3, 5, 9, 11]), np.eye(8, dtype=np.float32)[:4])
    index.make_bits()
    for exact in (True, False):
        assert index.search(np.eye(8)[1], 9, exact=exact)[0].tolist()[0] == 5
        assert sorted(index.search(np.eye(8)[1], 9, np.array([3, 11]), exact)[0].tolist()) == [3, 11]
        assert not len(index.search(np.eye(8)[1], 9, np.array([], np.int64), exact)[0])


def test_a_gallery_of_many_searches_by_bits(tmp_path):
    rng = np.random.default_rng(1)
    rows = clustered(3000, rng)
    with Gallery(tmp_path / 'g', bits_from=2000) as gallery:
        gallery.add_embeddings(rows[:2500], tracklet=[i // 10 for i in range(2500)], camera='door')
        assert gallery.search(rows[77], 3)[0].crop.tracklet == '7' and gallery.store._index._bits is not None
        gallery.add_embeddings(rows[2500:], tracklet=[i // 10 for i in range(2500, 3000)], camera='yard')
        gallery.delete(tracklet=7)
        for i in range(0, 3000, 100):
            whole, some = (
                [m.crop.id for m in gallery.search(rows[i], 10, exact=exact, camera=['yard', 'door'][: 1 + (i < 2500)])]
                for exact in (True, False)
            )
            assert whole[0] == some[0] and len({*whole} & {*some}) >= 8 and not {*some} & {*range(71, 81)}
