import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from labelled import labelled

from msinet_eval.metrics import verification
from msinet_eval.metrics.checks import Labels
from msinet_eval.metrics.verification import evaluate_verification
from msinet_timm.errors import InputError

RATES = (0.5, 0.2, 0.05, 1e-4)


def oracle_pairs(case):
    """Distances of all same and of all different pairs, from two plain loops."""
    same, different = [], []
    for i in range(len(case['query'])):
        for j in range(len(case['gallery'])):
            distance = np.sqrt(((case['query'][i].astype(np.float64) - case['gallery'][j]) ** 2).sum())
            if case['query_ids'][i] != case['gallery_ids'][j]:
                different.append(distance)
            elif not any(
                case[f'query_{kind}'][i] == case[f'gallery_{kind}'][j]
                for kind in ('cameras', 'clothes')
                if f'query_{kind}' in case
            ):
                same.append(distance)
    return np.array(same), np.array(different)


def oracle_points(same, different):
    """[T, 2] numbers of false and true positives at every threshold."""
    thresholds = np.unique(np.concatenate([same, different]))
    return np.array([[0, 0], *[[(different <= t).sum(), (same <= t).sum()] for t in thresholds]])


def oracle_eer(same, different):
    """Walks along the ROC curve until false positives outweigh false negatives."""
    before = (0.0, 1.0)
    for false, true in oracle_points(same, different):
        x, y = false / len(different), 1 - true / len(same)
        if x >= y:
            # on the line from `before`, with the false positive rate as much as the false negative one
            part = (before[1] - before[0]) / ((x - before[0]) - (y - before[1]))
            return before[0] + part * (x - before[0])
        before = x, y


def assert_like_oracle(case, rates=RATES, **kwargs):
    same, different = oracle_pairs(case)
    result = evaluate_verification(**labelled(case), false_positive_rates=rates, **kwargs)
    assert (result.same_pairs, result.different_pairs) == (len(same), len(different))
    signs = np.sign(different[None] - same[:, None])
    assert result.auc == pytest.approx((signs + 1).mean() / 2, abs=1e-12)
    assert result.eer == pytest.approx(oracle_eer(same, different), abs=1e-12)
    assert (different <= result.eer_threshold).mean() <= result.eer + 1e-12
    assert (same <= result.eer_threshold).mean() >= 1 - result.eer - 1e-12 or result.eer_threshold < different.max()
    points = oracle_points(same, different)
    for point in result.points:
        allowed = points[points[:, 0] <= point.target * len(different) + 1e-9]
        if point.target * len(different) < 1:
            assert np.isnan(point[1:]).all()
            continue
        assert point.true_positive_rate == pytest.approx(allowed[-1, 1] / len(same), abs=1e-12)
        assert point.false_positive_rate == pytest.approx((different <= point.threshold).mean(), abs=1e-12)
        assert point.true_positive_rate == pytest.approx((same <= point.threshold).mean(), abs=1e-12)
        # the largest threshold: a little more, and there is one false positive too many
        further = point.threshold if point.threshold > 0 else 0
        assert (different <= np.sqrt(further**2 + 1e-4)).sum() > point.target * len(different) - 1e-9
    assert len(result.notes) == sum(np.isnan(point.threshold) for point in result.points)
    assert_curves(result, same, different)
    return result


def assert_curves(result, same, different):
    points = oracle_points(same, different)
    for rate, best in result.roc:
        assert best == pytest.approx(points[points[:, 0] <= rate * len(different) + 1e-9][-1, 1] / len(same))
    np.testing.assert_array_equal(result.roc[-1], [1, 1])
    assert (np.diff(result.roc, axis=0) >= 0).all()
    known = {(t, f) for f, t in points[1:]}
    for recall, precision in result.precision_recall:
        true = round(recall * len(same))
        assert (true, round(true / precision) - true) in known
    assert result.precision_recall[-1, 0] == 1
    for distances, histogram in ((same, result.same_histogram), (different, result.different_histogram)):
        bins = np.searchsorted(result.bin_edges, distances, side='right') - 1
        expected = np.bincount(bins.clip(max=127), minlength=128)
        np.testing.assert_array_equal(histogram, expected)


def random_case(seed, queries=17, gallery=41, dimensions=3, identities=6, cameras=3):
    """Small integers, which float32 handles exactly: many pairs are equally far."""
    rng = np.random.default_rng(seed)
    return {
        'query': rng.integers(-2, 3, (queries, dimensions)).astype(np.float32),
        'gallery': rng.integers(-2, 3, (gallery, dimensions)).astype(np.float32),
        'query_ids': rng.integers(0, identities + 2, queries),
        'gallery_ids': rng.integers(-1, identities, gallery),
        'query_cameras': rng.integers(0, cameras, queries),
        'gallery_cameras': rng.integers(0, cameras, gallery),
    }


def real_case(seed, noise, queries=23, identities=8):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(identities, 16))
    labels = [rng.integers(0, identities, n) for n in (queries, 3 * queries)]
    features = [centres[i] + noise * rng.normal(size=(len(i), 16)) for i in labels]
    query, gallery = ((f / np.linalg.norm(f, axis=1, keepdims=True)).astype(np.float32) for f in features)
    return {'query': query, 'gallery': gallery, 'query_ids': labels[0], 'gallery_ids': labels[1]}


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('tile', [1, 100, 2**21])
def test_equals_brute_force_with_ties(seed, tile):
    assert_like_oracle(random_case(seed), tile=tile)


def test_equals_brute_force_with_clothes_and_without_cameras():
    case, rng = random_case(5), np.random.default_rng(6)
    without = {name: value for name, value in case.items() if 'cameras' not in name}
    assert_like_oracle(without)
    case['query_clothes'], case['gallery_clothes'] = rng.integers(0, 2, 17), rng.integers(0, 2, 41)
    pairs = assert_like_oracle(case).same_pairs
    assert pairs < evaluate_verification(**labelled(random_case(5))).same_pairs


@pytest.mark.parametrize('noise', [0.05, 0.4, 1.0, 3.0])
def test_equals_brute_force_on_real_numbers(noise):
    assert_like_oracle(real_case(int(100 * noise), noise))


def test_equals_brute_force_with_a_far_outlier():
    case = real_case(7, 0.4)
    case['gallery'][3] *= 1000  # all other distances fall into few of the fine bins
    same, different = oracle_pairs(case)
    result = evaluate_verification(**labelled(case), false_positive_rates=(0.3, 0.1, 0.01))
    assert result.auc == pytest.approx((different[None] > same[:, None]).mean(), abs=1e-12)
    assert result.eer == pytest.approx(oracle_eer(same, different), abs=1e-12)
    points = oracle_points(same, different)
    for point in result.points:
        assert point.true_positive_rate == (same <= point.threshold).mean()
        assert point.false_positive_rate == (different <= point.threshold).mean()
        best = points[points[:, 0] <= point.target * len(different)][-1, 1] / len(same)
        assert point.true_positive_rate == pytest.approx(best)


@st.composite
def small_cases(draw):
    queries, gallery, top = draw(st.integers(1, 5)), draw(st.integers(1, 7)), draw(st.integers(0, 3))

    def numbers(count, high):
        return np.array(draw(st.lists(st.integers(0, high), min_size=count, max_size=count)))

    return {
        'query': numbers(queries * 2, top).reshape(queries, 2).astype(np.float32),
        'gallery': numbers(gallery * 2, top).reshape(gallery, 2).astype(np.float32),
        'query_ids': numbers(queries, 2),
        'gallery_ids': numbers(gallery, 2),
        'query_cameras': numbers(queries, 1),
        'gallery_cameras': numbers(gallery, 1),
    }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(small_cases(), st.integers(1, 20), st.lists(st.floats(1e-3, 0.999), max_size=3))
def test_any_small_case_equals_brute_force(case, tile, rates):
    same, different = oracle_pairs(case)
    if len(same) and len(different):
        assert_like_oracle(case, rates=tuple(rates), tile=tile)
    else:
        with pytest.raises(InputError, match='different identities' if len(same) else 'the same identity'):
            evaluate_verification(**labelled(case))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(small_cases(), st.integers(0, 2**32 - 1))
def test_order_of_images_does_not_matter(case, seed):
    same, different = oracle_pairs(case)
    assume(len(same) and len(different))
    order = np.random.default_rng(seed).permutation(len(case['gallery']))
    shuffled = {name: value[order] if name.startswith('gallery') else value for name, value in case.items()}
    first, second = evaluate_verification(**labelled(case)), evaluate_verification(**labelled(shuffled))
    assert (first.auc, first.eer, first.eer_threshold) == (second.auc, second.eer, second.eer_threshold)
    np.testing.assert_array_equal(first.different_histogram, second.different_histogram)


def line(same, different):
    """One query at 0; gallery images of its identity, and of others, at distances along a line."""
    places = np.array([*same, *different], dtype=np.float32)[:, None]
    ids = np.array([0] * len(same) + [1] * len(different))
    return dict(query=np.zeros((1, 1), np.float32), gallery=places, query_ids=np.zeros(1, int), gallery_ids=ids)


def test_separable_data():
    case = line([1, 2, 3], range(5, 15))
    result = evaluate_verification(**labelled(case), false_positive_rates=(0.1,))
    assert (result.auc, result.eer) == (1, 0)
    assert result.eer_threshold == pytest.approx(5, abs=1e-3)
    assert result.eer_threshold < 5
    # one false positive of ten is allowed: up to the second one
    assert result.at(0.1).threshold == pytest.approx(6, abs=1e-3)
    assert result.at(0.1)[1:3] == (0.1, 1)


def test_rates_too_small_to_measure_say_so():
    result = evaluate_verification(**labelled(line([1], range(2, 12))), false_positive_rates=(0.1, 0.09))
    assert np.isnan(result.at(0.09).threshold) and result.at(0.1).threshold > 0
    assert result.notes == (
        'a false positive rate of 0.09 cannot be measured: it needs 12 different pairs, there are 10',
    )


def test_nothing_is_the_same_where_all_images_look_alike():
    result = evaluate_verification(**labelled(line([0, 0], [0] * 20)), false_positive_rates=(0.1,))
    assert result.auc == result.eer == 0.5
    assert result.at(0.1)[1:] == (0, 0, -1)


def test_tensors_give_the_same():
    case = random_case(1)
    tensors = {name: torch.from_numpy(value) for name, value in case.items()}
    assert evaluate_verification(**labelled(tensors)).auc == evaluate_verification(**labelled(case)).auc


def test_same_pairs_in_several_chunks(monkeypatch):
    case = random_case(2)
    whole = evaluate_verification(**labelled(case))
    monkeypatch.setattr(verification, '_CHUNK', 20)
    monkeypatch.setattr(verification, '_QUERIES', 3)
    assert evaluate_verification(**labelled(case)).auc == whole.auc


def test_does_not_hold_the_distances():
    """Memory that numpy and Python use is traced; the tensors' is bounded by the largest one made."""
    rng = np.random.default_rng(0)
    query, gallery = (torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32)) for n in (1000, 4000))
    labels = (Labels(rng.integers(0, 300, n)) for n in (1000, 4000))
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            made = result if isinstance(result, tuple | list) else [result]
            sizes.extend(t.numel() for t in made if isinstance(t, torch.Tensor))
            return result

    tracemalloc.start()
    with Sizes():
        evaluate_verification(query, gallery, *labels, tile=2**16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(sizes) <= verification._BINS + 2 < 1000 * 4000 / 1.5
    assert peak < 60e6


def test_clear_errors():
    case = random_case(0)
    for change, message in (
        ({'gallery_ids': case['gallery_ids'] + 100}, 'is of the same identity under different cameras'),
        ({'query_ids': np.zeros(17, int), 'gallery_ids': np.zeros(41, int)}, 'is of different identities: thresholds'),
        ({'false_positive_rates': (0.1, 1.0)}, 'between 0 and 1'),
        ({'tile': 0}, 'tile at least 1'),
        ({'query': np.full((17, 3), np.nan, np.float32)}, 'not finite'),
        ({'query': np.zeros((17, 4), np.float32)}, '4 dimensions'),
        ({'query_cameras': None}, 'only one of query and gallery'),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_verification(**labelled({**case, **change}))
    with pytest.raises(InputError, match='asked for: 0.01, 0.001, 0.0001'):
        evaluate_verification(**labelled(case)).at(0.5)
