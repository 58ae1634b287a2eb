import math

import numpy as np
import pytest
import torch
from golden_figures import load_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import labels_of

from msinet_eval.metrics.ranking import evaluate_distances
from msinet_eval.metrics.rerank import ReRanking, k_reciprocal
from msinet_timm.errors import InputError


def mutual(order, i, count):
    """Those among i's nearest that hold i among theirs."""
    return {int(j) for j in order[i, :count] if i in order[j, :count]}


def dense(query, gallery, k1, k2, lambda_value):
    """The plain form in float64: every image by every image."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    distances = ((features[:, None] - features[None]) ** 2).sum(2)
    distances /= np.maximum(distances.max(1, keepdims=True), 1e-30)
    order = np.argsort(distances - np.eye(len(features)), axis=1, kind='stable')
    half = round(k1 / 2) + 1
    weights = np.zeros_like(distances)
    for i in range(len(features)):
        members = mutual(order, i, k1 + 1)
        expanded = set(members)
        for j in members:
            theirs = mutual(order, j, half)
            if 3 * len(theirs & members) > 2 * len(theirs):
                expanded |= theirs
        columns = sorted(expanded)
        weights[i, columns] = np.exp(-distances[i, columns])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[order[i, :k2]].mean(0) for i in range(len(features))])
    shared = np.stack([np.minimum(weights[i], weights[len(query) :]).sum(1) for i in range(len(query))])
    jaccard = 1 - shared / (2 - shared)
    return (1 - lambda_value) * jaccard + lambda_value * distances[: len(query), len(query) :]


def clusters(seed, queries, gallery, dimensions=4, identities=5, spread=3):
    """Multiples of 1/4, whose distances float32 holds exactly: so ties are ties in both forms, and many are."""
    rng = np.random.default_rng(seed)
    centers = rng.integers(-12, 13, (identities, dimensions))
    chosen = centers[rng.integers(0, identities, queries + gallery)]
    features = ((chosen + rng.integers(-spread, spread + 1, chosen.shape)) / 4).astype(np.float32)
    return features[:queries], features[queries:]


@st.composite
def cases(draw):
    gallery = draw(st.integers(1, 45))
    k1 = draw(st.integers(1, min(gallery, 30)))
    features = clusters(
        seed=draw(st.integers(0, 2**16)),
        queries=draw(st.integers(1, 12)),
        gallery=gallery,
        dimensions=draw(st.integers(1, 6)),
        identities=draw(st.integers(1, 6)),
        spread=draw(st.integers(0, 6)),  # 0: all images of an identity are the same
    )
    numbers = k1, draw(st.integers(1, k1 + 1)), draw(st.sampled_from([0.0, 0.3, 0.75, 1.0]))
    return features, numbers, draw(st.sampled_from([1, 37, 300, 2**21]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cases())
def test_equals_the_plain_form(case):
    (query, gallery), numbers, tile = case
    ranking = ReRanking(query, gallery, *numbers, tile=tile)
    np.testing.assert_allclose(ranking[:], dense(query, gallery, *numbers), atol=1e-6, rtol=0)


@pytest.mark.parametrize('numbers', [(20, 6, 0.3), (30, 10, 0.2)])
def test_golden_figures(numbers):
    golden = load_tensors('evaluation.safetensors')
    name = 'k1_{}_k2_{}_l{}'.format(*numbers)
    distances = k_reciprocal(golden['query'], golden['gallery'], *numbers)
    torch.testing.assert_close(distances, golden[f'rerank.{name}'], atol=1e-6, rtol=0)
    for rows in (distances, ReRanking(golden['query'], golden['gallery'], *numbers)):
        assert evaluate_distances(rows, *labels_of(golden)).mAP == pytest.approx(
            float(golden[f'rerank_map.{name}']), abs=1e-6
        )


def test_slices_are_rows_of_the_whole():
    query, gallery = clusters(0, 9, 60)
    whole = k_reciprocal(query, gallery, 8, 3, 0.3)
    ranking = ReRanking(query, gallery, 8, 3, 0.3, tile=100)
    assert ranking.shape == whole.shape == (9, 60)
    assert len(ranking) == 9
    for part in (slice(0, 4), slice(4, None), slice(-2, None), slice(2, 100), slice(5, 5)):
        torch.testing.assert_close(ranking[part], torch.from_numpy(whole[part]), atol=1e-6, rtol=0)
    with pytest.raises(IndexError, match='step 1'):
        ranking[::2]


def test_finds_what_distances_alone_do_not():
    """Chains of images: the far end of a query's own is nearer than the others only by way of its neighbours."""
    steps = np.arange(12, dtype=np.float32)
    near = np.stack([steps * 0.5, np.zeros(12, np.float32)], 1)
    other = np.stack([steps * 0.5, np.full(12, 2.0, np.float32)], 1)
    query, gallery = near[:1], np.concatenate([near[1:], other])
    mine = np.arange(len(gallery)) < 11
    plain = ((gallery - query) ** 2).sum(1)
    again = k_reciprocal(query, gallery, 4, 2, 0.0)[0]
    assert plain[mine][:6].max() > plain[~mine].min()
    assert again[mine][:4].max() < again[~mine].min()


def test_defaults_are_the_published_ones():
    query, gallery = clusters(1, 5, 60)
    np.testing.assert_array_equal(k_reciprocal(query, gallery), k_reciprocal(query, gallery, 20, 6, 0.3))


def test_gives_back_what_it_was_given():
    query, gallery = clusters(2, 5, 30)
    array = k_reciprocal(query, gallery, 5, 2)
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    tensor = k_reciprocal(torch.from_numpy(query), gallery, 5, 2)
    np.testing.assert_array_equal(tensor.numpy(), array)
    np.testing.assert_array_equal(k_reciprocal(query.astype(np.float64), gallery.tolist(), 5, 2), array)


def test_images_all_alike():
    ones = np.ones((30, 3), np.float32)
    np.testing.assert_allclose(k_reciprocal(ones[:4], ones, 5, 1), dense(ones[:4], ones, 5, 1, 0.3), atol=1e-6)


def test_holds_no_matrix_of_all_by_all(monkeypatch):
    """No tensor that any operation gives comes near the size of the queries by the gallery."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **kwargs or {})
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return result

    query, gallery = (torch.from_numpy(f) for f in clusters(3, 600, 2400, dimensions=8, identities=150))
    with Watch():
        ranking = ReRanking(query, gallery, tile=2**14)
        for start in range(0, 600, 30):
            ranking[start : start + 30]
    assert largest <= 3000 * math.ceil(21 * 11)  # neighbours of neighbours at most
    assert largest < 600 * 2400 / 2


@pytest.mark.parametrize(
    ('numbers', 'message'),
    [
        ((0, 1, 0.3), 'k1 and tile must be at least 1, got 0'),
        ((31, 6, 0.3), 'k1 is 31, but the gallery has only 30 images'),
        ((100, 6, 0.3), 'k1 is 100, but'),  # more than there are in all
        ((5, 0, 0.3), 'k2 must be from 1 to k1'),
        ((5, 7, 0.3), 'k2 must be from 1 to k1 . 1 = 6, got 7'),
        ((5, 2, -0.1), 'lambda_value must be between 0 and 1, got -0.1'),
        ((5, 2, 1.1), 'lambda_value'),
        ((5, 2, math.nan), 'lambda_value'),
    ],
)
def test_numbers_out_of_range(numbers, message):
    query, gallery = clusters(4, 5, 30)
    with pytest.raises(InputError, match=message):
        k_reciprocal(query, gallery, *numbers)


def test_features_that_do_not_fit():
    query, gallery = clusters(5, 5, 30)
    with pytest.raises(InputError, match='4 dimensions, gallery features 3'):
        k_reciprocal(query, gallery[:, :3])
    gallery[7] = np.nan
    with pytest.raises(InputError, match='gallery features of 1 images are not finite.*number 7'):
        k_reciprocal(query, gallery)
    with pytest.raises(InputError, match='not empty'):
        k_reciprocal(query[:0], gallery)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu():
    query, gallery = clusters(6, 9, 60)
    distances = k_reciprocal(torch.from_numpy(query).cuda(), gallery, 8, 3, 0.3)
    assert distances.is_cuda
    np.testing.assert_allclose(distances.cpu(), k_reciprocal(query, gallery, 8, 3, 0.3), atol=1e-6)
