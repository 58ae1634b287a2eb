import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import labelled, labels_of
from safetensors.numpy import load_file

from msinet_eval.metrics import ranking as metrics
from msinet_eval.metrics.checks import Labels
from msinet_eval.metrics.counting import match_ranks
from msinet_eval.metrics.nearest import NearestLists, nearest
from msinet_eval.metrics.ranking import RankingResult, evaluate_distances, evaluate_ranking
from msinet_timm.errors import InputError

GOLDEN = Path(__file__).parents[2] / 'golden' / 'evaluation.safetensors'


def oracle_order(query, gallery, removed):
    """Gallery indices of one query's ranking, from the full distances."""
    distances = ((gallery.astype(np.float64) - query.astype(np.float64)) ** 2).sum(1)
    order = np.argsort(distances, kind='stable')
    return order[~removed[order]]


def oracle_removed(case, i):
    """Which gallery images no rule lets query i see."""
    removed = np.zeros(len(case['gallery']), dtype=bool)
    for kind in ('cameras', 'clothes'):
        if f'query_{kind}' in case:
            removed |= case[f'gallery_{kind}'] == case[f'query_{kind}'][i]
    return removed & (case['gallery_ids'] == case['query_ids'][i])


def oracle(max_rank=50, **case):
    query, gallery, query_ids, gallery_ids = (case[n] for n in ('query', 'gallery', 'query_ids', 'gallery_ids'))
    cmc, precisions, penalties = np.zeros(min(max_rank, len(gallery))), [], []
    for i in range(len(query)):
        hits = gallery_ids[oracle_order(query[i], gallery, oracle_removed(case, i))] == query_ids[i]
        ranks = np.flatnonzero(hits) + 1
        if len(ranks) == 0:
            precisions.append(np.nan)
            continue
        precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]))
        penalties.append(len(ranks) / ranks[-1])
        cmc[ranks[0] - 1 :] += 1
    return np.nanmean(precisions), cmc / len(penalties), np.mean(penalties), np.array(precisions)


def random_case(seed, queries=23, gallery=71, dimensions=3, identities=6, cameras=3):
    """Small integers, which float32 handles exactly: many images are equally far, or the very same."""
    rng = np.random.default_rng(seed)
    return {
        'query': rng.integers(-2, 3, (queries, dimensions)).astype(np.float32),
        'gallery': rng.integers(-2, 3, (gallery, dimensions)).astype(np.float32),
        'query_ids': rng.integers(0, identities + 2, queries),  # some have no match
        'gallery_ids': rng.integers(-1, identities, gallery),
        'query_cameras': rng.integers(0, cameras, queries),
        'gallery_cameras': rng.integers(0, cameras, gallery),
    }


def without_cameras(case):
    return {name: value for name, value in case.items() if 'cameras' not in name}


def assert_like_oracle(result, case, **kwargs):
    mAP, cmc, mINP, precisions = oracle(**case, **kwargs)
    np.testing.assert_allclose(result.average_precision, precisions, rtol=1e-12)
    np.testing.assert_allclose(result.cmc, cmc, rtol=1e-12)
    assert result.mAP == pytest.approx(mAP, rel=1e-12)
    assert result.mINP == pytest.approx(mINP, rel=1e-12)
    valid = np.isfinite(precisions)
    assert result.num_skipped == (~valid).sum()
    assert result.num_valid == valid.sum()

    assert (np.isfinite(result.inverse_negative_penalty) == valid).all()
    assert np.nanmean(result.inverse_negative_penalty) == pytest.approx(mINP, rel=1e-12)
    assert ((result.first_match_rank > 0) == valid).all()
    firsts = [(result.first_match_rank[valid] <= k).mean() for k in range(1, len(cmc) + 1)]
    np.testing.assert_allclose(firsts, cmc, rtol=1e-12)
    rules = [name for name in ('cameras', 'clothes') if f'query_{name}' in case]
    missing = sum(i not in case['gallery_ids'] for i in case['query_ids'])
    reasons = {
        'identity not in gallery': missing,
        f'only under the same {" or ".join(rules)}': (~valid).sum() - missing,
    }
    assert result.skipped == {reason: number for reason, number in reasons.items() if number}


@st.composite
def cases(draw):
    """Up to 9 queries and 40 images at whole numbers: ties, duplicates, zeros, one camera, no matches, any rules."""
    case = random_case(
        draw(st.integers(0, 2**32 - 1)),
        queries=draw(st.integers(1, 9)),
        gallery=draw(st.integers(1, 40)),
        dimensions=draw(st.integers(1, 3)),
        identities=draw(st.integers(1, 9)),
        cameras=draw(st.integers(1, 4)),
    )
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        case |= {f'{part}_clothes': rng.integers(0, 3, len(case[part])) for part in ('query', 'gallery')}
    return case if draw(st.booleans()) else without_cameras(case)


@settings(max_examples=150, deadline=None)
@given(
    case=cases(),
    tile=st.sampled_from([1, 50, 2**24]),
    max_rank=st.integers(1, 60),
    form=st.sampled_from(['features', 'array', 'tensor', 'on demand']),
)
def test_equals_brute_force(case, tile, max_rank, form):
    distances = ((case['query'][:, None] - case['gallery']) ** 2).sum(2)
    given_as = {'array': distances, 'tensor': torch.tensor(distances), 'on demand': OnDemand(distances)}

    def measure():
        if form == 'features':
            return evaluate_ranking(**labelled(case), tile=tile, max_rank=max_rank)
        return evaluate_distances(given_as[form], *labels_of(case), tile=tile, max_rank=max_rank)

    removed = [oracle_removed(case, i) for i in range(len(case['query']))]
    matches = case['query_ids'][:, None] == case['gallery_ids']
    if (matches & ~np.array(removed)).any():
        assert_like_oracle(measure(), case, max_rank=max_rank)
    else:
        with pytest.raises(InputError, match='no query has a match in the gallery'):
            measure()


class OnDemand:
    """Distances that only ever exist a few rows at a time."""

    def __init__(self, distances):
        self.distances, self.shape, self.largest = distances, distances.shape, 0

    def __getitem__(self, rows):
        block = torch.tensor(self.distances[rows])
        self.largest = max(self.largest, len(block))
        return block


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('tile', [1, 200, 2**21])
def test_equals_brute_force_with_ties(seed, tile):
    case = random_case(seed)
    assert_like_oracle(evaluate_ranking(**labelled(case), tile=tile), case)
    assert_like_oracle(evaluate_ranking(**labelled(without_cameras(case)), tile=tile), without_cameras(case))


@pytest.mark.parametrize('seed', range(4))
def test_equals_brute_force_on_real_numbers(seed):
    case = random_case(seed, queries=40, gallery=300)
    rng = np.random.default_rng(seed)
    case['query'], case['gallery'] = (rng.normal(size=(n, 16)).astype(np.float32) for n in (40, 300))
    assert_like_oracle(evaluate_ranking(**labelled(case)), case)


def with_clothes(seed, clothes=3):
    case, rng = random_case(seed), np.random.default_rng(100 + seed)
    sizes = {part: len(case[part]) for part in ('query', 'gallery')}
    return {**case, **{f'{part}_clothes': rng.integers(0, clothes, size) for part, size in sizes.items()}}


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('tile', [200, 2**21])
def test_clothes_equal_brute_force_with_and_without_cameras(seed, tile):
    case = with_clothes(seed)
    assert_like_oracle(evaluate_ranking(**labelled(case), tile=tile), case)
    assert_like_oracle(evaluate_ranking(**labelled(without_cameras(case)), tile=tile), without_cameras(case))
    assert evaluate_ranking(**labelled(case)).mAP != evaluate_ranking(**labelled(random_case(seed))).mAP


def test_clothes_of_other_identities_stay():
    result = evaluate_ranking(
        [[0.0]], [[0.1], [0.2], [0.3]], Labels([1], clothes=[5]), Labels([1, 2, 1], clothes=[5, 5, 6])
    )
    assert result.average_precision.tolist() == [0.5]


def test_same_clothes_and_cameras_leave_nothing():
    with pytest.raises(InputError, match='have identities in common, under different cameras and clothes'):
        evaluate_ranking(**labelled(with_clothes(0, clothes=1)))


def test_names_rank_as_numbers_do():
    case = with_clothes(0)
    names = {name: [f'{v} of {name.partition("_")[2]}' for v in case[name]] for name in case if '_' in name}
    for convert in (list, tuple, np.array, lambda values: np.array(values, object)):
        found = evaluate_ranking(**labelled({**case, **{name: convert(values) for name, values in names.items()}}))
        np.testing.assert_array_equal(found.average_precision, evaluate_ranking(**labelled(case)).average_precision)


def test_names_mean_the_same_in_query_and_gallery():
    """Though each side has names that the other lacks, and names of equal numbers are two."""
    query, gallery = (
        Labels(['01', 'zoe'], ['b', 'c']),
        Labels(['1', 'anna', '01', 'zoe', 'zoe'], ['a', 'a', 'a', 'c', 'd']),
    )
    result = evaluate_distances(np.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]), query, gallery)
    assert result.average_precision.tolist() == [1 / 3, 1]


def test_mean_and_spread_of_draws():
    draws = [evaluate_ranking(**labelled(random_case(seed))) for seed in range(3)]
    mean = RankingResult.mean(draws)
    assert mean.mAP == pytest.approx(sum(d.mAP for d in draws) / 3)
    assert mean.mINP == pytest.approx(sum(d.mINP for d in draws) / 3)
    np.testing.assert_allclose(mean.cmc, np.stack([d.cmc for d in draws]).mean(0))
    assert mean.average_precision is draws[0].average_precision
    deviations = [(d.mAP - mean.mAP) ** 2 for d in draws]
    assert mean.spread(lambda r: r.mAP) == pytest.approx((sum(deviations) / 2) ** 0.5)
    assert mean.draws == tuple(draws)
    assert draws[0].draws == ()


def test_all_the_same_image():
    case = random_case(0)
    case['query'][:], case['gallery'][:] = 1, 1
    assert_like_oracle(evaluate_ranking(**labelled(case)), case)


def test_single_camera_leaves_nothing():
    case = random_case(0, cameras=1)
    with pytest.raises(InputError, match='no query has a match in the gallery'):
        evaluate_ranking(**labelled(case))
    assert evaluate_ranking(**labelled(without_cameras(case))).num_skipped < len(case['query'])


def test_cameras_of_other_identities_stay():
    result = evaluate_ranking([[0.0]], [[0.1], [0.2], [0.3]], Labels([1], [5]), Labels([1, 2, 1], [5, 5, 6]))
    assert result.average_precision.tolist() == [0.5]
    assert result.cmc.tolist() == [0, 1, 1]
    assert result.mINP == 0.5


@pytest.mark.parametrize('max_rank', [1, 4, 71, 500])
def test_length_of_cmc(max_rank):
    case = random_case(1)
    result = evaluate_ranking(**labelled(case), max_rank=max_rank)
    assert len(result.cmc) == min(max_rank, 71)
    assert_like_oracle(result, case, max_rank=max_rank)


@pytest.mark.parametrize('removal', ['all_kept', 'same_camera_removed'])
def test_published_figures(removal):
    golden = load_file(GOLDEN)
    case = {name: golden[name] for name in random_case(0)}
    if removal == 'all_kept':
        case = without_cameras(case)
    result = evaluate_ranking(**labelled(case))
    assert result.mAP == pytest.approx(golden[f'map.{removal}'].item(), abs=1e-6)
    np.testing.assert_allclose(result.cmc, golden[f'cmc.{removal}'], atol=1e-6)


def test_never_holds_more_distances_than_a_tile(monkeypatch):
    held = []

    def spy(distances, *args, **kwargs):
        held.append(distances.numel())
        return match_ranks(distances, *args, **kwargs)

    monkeypatch.setattr(metrics, 'match_ranks', spy)
    case = random_case(0)
    evaluate_ranking(**labelled(case), tile=300)
    assert max(held) <= 300
    assert sum(held) == 23 * 71


def test_distances_on_demand_are_asked_for_a_tile_at_a_time():
    case = random_case(0)
    distances = OnDemand(((case['query'][:, None] - case['gallery']) ** 2).sum(2))
    evaluate_distances(distances, *labels_of(case), tile=300)
    assert distances.largest == 300 // 71


@pytest.mark.parametrize('dtype', [np.float64, np.float16, np.int64])
def test_distances_keep_their_precision(dtype):
    """Farther by less than float32 can tell, the match is the second."""
    far = np.nextafter(1, 2) if dtype == np.float64 else 2
    assert evaluate_distances(np.array([[far, 1]], dtype), Labels([1]), Labels([1, 2])).mAP == 0.5


def test_infinite_distances_come_last_in_order():
    distances = np.array([[np.inf, 1, np.inf, -np.inf, np.inf]], dtype=np.float32)
    result = evaluate_distances(distances, Labels([1]), Labels([0, 0, 1, 0, 1]))
    assert result.average_precision.tolist() == [(1 / 4 + 2 / 5) / 2]


@pytest.mark.parametrize(
    ('distances', 'message'),
    [
        (np.zeros(3), r'distances must be \[queries, gallery images\], not empty; got \[3\]'),
        (np.zeros((0, 3)), r'got \[0, 3\]'),
        ([['a']], 'distances must be an array or tensor of numbers'),
        (np.array([[0, 1], [0, np.nan]]), '1 distances are NaN, the first is that of query 1 to gallery image 1'),
        (np.zeros((3, 2)), r'query identities must be one for each of 3 images, got \[2\]'),
    ],
)
def test_wrong_distances(distances, message):
    with pytest.raises(InputError, match=message):
        evaluate_distances(distances, Labels([1, 2]), Labels([1, 2]), tile=1)


def test_zeros_are_points_like_any_other():
    """Of a query without direction, all normalised images are equally near: the order is that of the gallery."""
    gallery = np.array([[0, 1], [0, 0], [1, 0], [-1, 0]], dtype=np.float32)
    result = evaluate_ranking(np.zeros((1, 2)), gallery, Labels([1]), Labels([0, 0, 1, 1]))
    assert result.average_precision.tolist() == [(1 / 3 + 2 / 4) / 2]
    assert nearest(np.zeros((1, 2)), gallery)[0][0].tolist() == [1, 0, 2, 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_equals_brute_force_on_a_gpu():
    case = random_case(5)
    given = {**case, 'query': torch.as_tensor(case['query']).cuda()}
    assert_like_oracle(evaluate_ranking(**labelled(given), tile=500), case)


def test_lower_precision_around_it_changes_nothing():
    case = random_case(3, queries=40, gallery=300, dimensions=64)
    rng = np.random.default_rng(3)
    case['query'], case['gallery'] = (rng.normal(size=(n, 64)).astype(np.float32) for n in (40, 300))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision('medium')
        with torch.autocast('cpu', dtype=torch.bfloat16):
            result = evaluate_ranking(**labelled(case))
        assert torch.get_float32_matmul_precision() == 'medium'
    finally:
        torch.set_float32_matmul_precision(before)
    assert_like_oracle(result, case)


def test_takes_tensors_lists_and_half_precision():
    case = random_case(2)
    tensors = {name: torch.as_tensor(value) for name, value in case.items()}
    tensors['query'] = tensors['query'].half().requires_grad_()
    lists = {name: value.tolist() for name, value in case.items()}
    for inputs in (tensors, lists):
        assert_like_oracle(evaluate_ranking(**labelled(inputs)), case)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('removal', [True, False])
def test_nearest_follows_the_ranking(seed, removal):
    case = random_case(seed)
    found = nearest(**labelled(case if removal else without_cameras(case)), k=15)
    for i, (indices, distances) in enumerate(found):
        removed = (case['gallery_ids'] == case['query_ids'][i]) & (case['gallery_cameras'] == case['query_cameras'][i])
        expected = oracle_order(case['query'][i], case['gallery'], removed & removal)[:15]
        assert indices.tolist() == expected.tolist()
        exact = np.linalg.norm(case['gallery'][expected] - case['query'][i], axis=1)
        np.testing.assert_allclose(distances, exact, rtol=1e-6)


@settings(max_examples=80, deadline=None)
@given(case=cases(), k=st.integers(1, 45), tile=st.sampled_from([1, 50, 2**22]))
def test_nearest_equals_brute_force(case, k, tile):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[NearestLists.__module__], '_TILE', tile)  # the package has a function of that name
        found = nearest(**labelled(case), k=k)
    assert len(found) == len(case['query'])
    for i, (indices, distances) in enumerate(found):
        expected = oracle_order(case['query'][i], case['gallery'], oracle_removed(case, i))[:k]
        assert indices.tolist() == expected.tolist()
        exact = np.linalg.norm(case['gallery'][expected] - case['query'][i], axis=1)
        np.testing.assert_allclose(distances, exact, rtol=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_nearest_leaves_out_clothes(seed):
    case = with_clothes(seed)
    for inputs in (case, without_cameras(case)):
        for i, (indices, _) in enumerate(nearest(**labelled(inputs), k=15)):
            expected = oracle_order(case['query'][i], case['gallery'], oracle_removed(inputs, i))[:15]
            assert indices.tolist() == expected.tolist()


def test_nearest_gives_no_more_than_is_left():
    labels = Labels([1], [5]), Labels([1, 2, 1], [5, 5, 6])
    ((indices, distances),) = nearest([[0.0]], [[3.0], [1.0], [2.0]], *labels, k=10)
    assert indices.tolist() == [1, 2]
    assert distances.tolist() == [1, 2]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'query': np.zeros((23, 4))}, 'query features have 4 dimensions, gallery features 3'),
        ({'gallery': np.zeros(71)}, r'gallery features must be \[images, dimensions\], not empty; got \[71\]'),
        ({'gallery': np.zeros((0, 3)), 'gallery_ids': []}, r'gallery features must be .* got \[0, 3\]'),
        ({'query': [['a']]}, 'query features must be an array or tensor of numbers'),
        ({'query_ids': np.zeros(22, dtype=int)}, r'query identities must be one for each of 23 images, got \[22\]'),
        ({'gallery_ids': np.zeros(71)}, 'gallery identities must be names or integers, got torch.float64'),
        ({'gallery_cameras': [None] * 71}, 'gallery cameras must be names or integers'),
        ({'gallery_cameras': None}, 'cameras are known for only one of query and gallery'),
        ({'gallery_clothes': [1] * 71}, 'clothes are known for only one of query and gallery'),
        (
            {'gallery_ids': ['a'] * 71},
            'identities of the gallery are names, but others are not',
        ),
        ({'query_cameras': ['a'] * 22 + [1]}, 'query cameras must be names or integers'),
        ({'query_ids': np.full(23, 99)}, 'no query has a match in the gallery'),
        ({'max_rank': 0}, 'max_rank and tile must be at least 1, got 0'),
    ],
)
def test_wrong_input(change, message):
    with pytest.raises(InputError, match=message):
        evaluate_ranking(**labelled({**random_case(0), **change}))


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e30])
@pytest.mark.parametrize('part', ['query', 'gallery'])
def test_features_that_are_not_finite(part, value):
    case = random_case(0)
    case[part][[4, 9], 1] = value
    with pytest.raises(InputError, match=f'{part} features of 2 images are not finite .* the first is number 4'):
        evaluate_ranking(**labelled(case))
