from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import named

from msinet_eval.breakdown import by_camera_pair, by_domain
from msinet_eval.features.types import Features
from msinet_eval.metrics import bootstrap as statistics
from msinet_eval.metrics.bootstrap import bootstrap, most_changed, paired_bootstrap
from msinet_eval.metrics.ranking import RankingResult
from msinet_eval.protocol import rank
from msinet_timm.errors import InputError


def features(seed, count, identities=6, cameras=3, domains=None, clothes=None, noise=0.8):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, identities, count)
    centres = np.random.default_rng(99).normal(size=(identities, 8))
    embeddings = torch.from_numpy(centres[labels] + noise * rng.normal(size=(count, 8))).float()
    return Features(
        embeddings=torch.nn.functional.normalize(embeddings, dim=1),
        identities=named(labels),
        cameras=named(rng.integers(1, cameras + 1, count)) if cameras else None,
        paths=tuple(f'{seed}_{i}.jpg' for i in range(count)),
        clothes=named(rng.integers(0, clothes, count)) if clothes else None,
        domains=tuple(rng.choice(domains, count).tolist()) if domains else None,
    )


def result_of(precision, first, penalty=None):
    precision = np.asarray(precision, dtype=float)
    penalty = precision if penalty is None else np.asarray(penalty, dtype=float)
    first = np.asarray(first)
    valid = np.isfinite(precision)
    cmc = np.array([(first[valid] <= k).mean() for k in range(1, 51)])
    return RankingResult(np.nanmean(precision), cmc, np.nanmean(penalty), precision, penalty, first)


@pytest.fixture
def measured():
    query, gallery = features(0, 60, identities=12), features(1, 150, identities=10)
    return rank(query, gallery), query.identities


def oracle_samples(result, identities, ranks, samples, seed):
    """Draws identities one by one and takes the means of their queries, with plain loops."""
    identities = np.asarray(identities, int)
    valid = np.flatnonzero(np.isfinite(result.average_precision))
    known = np.unique(identities[valid])
    rng, rows = np.random.default_rng(seed), []
    for drawn in rng.integers(0, len(known), (samples, len(known))):
        queries = [q for i in drawn for q in valid if identities[q] == known[i]]
        hits = [np.mean([result.first_match_rank[q] <= k for q in queries]) for k in ranks]
        rows.append([result.average_precision[queries].mean(), *hits, result.inverse_negative_penalty[queries].mean()])
    return np.array(rows)


@pytest.mark.parametrize('chunk', [1, 70, 2**21])
def test_bootstrap_equals_plain_loops(measured, chunk, monkeypatch):
    monkeypatch.setattr(statistics, '_CHUNK', chunk)
    result, identities = measured
    assert result.num_skipped  # they are in no sample
    intervals = bootstrap(result, identities, ranks=(1, 3), samples=50, seed=3, level=0.8)
    expected = np.quantile(oracle_samples(result, identities, (1, 3), 50, 3), [0.1, 0.9], axis=0).T
    assert list(intervals) == ['mAP', 'Rank-1', 'Rank-3', 'mINP']
    np.testing.assert_allclose(list(intervals.values()), expected, rtol=1e-12)


def test_bootstrap_repeats_and_follows_seed_and_level(measured):
    result, identities = measured
    low, high = bootstrap(result, identities)['mAP']
    assert (low, high) == bootstrap(result, identities)['mAP'] != bootstrap(result, identities, seed=1)['mAP']
    assert low < result.mAP < high
    narrow = bootstrap(result, identities, level=0.5)['mAP']
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_covers_the_truth_also_where_queries_of_an_identity_are_alike():
    """Of 120 experiments with a known mean, about 95 % of the intervals must hold it."""
    rng, held = np.random.default_rng(0), 0
    identities = np.repeat(np.arange(40), 5)
    for experiment in range(120):
        precision = np.repeat(rng.beta(4, 2, 40), 5)  # five queries, one difficulty
        low, high = bootstrap(result_of(precision, np.ones(200)), identities, seed=experiment, samples=400)['mAP']
        held += low <= 4 / 6 <= high
    assert 0.87 <= held / 120 <= 0.99  # drawing single queries gives 0.61


def test_bootstrap_of_one_identity_is_unknown():
    result = result_of([0.5, 1, np.nan], [2, 1, 0])
    assert all(np.isnan(interval).all() for interval in bootstrap(result, [7, 7, 8]).values())


def test_paired_bootstrap_equals_plain_loops(measured):
    a, identities = measured
    b = rank(features(0, 60, identities=12, noise=0.7), features(1, 150, identities=10, noise=0.7))
    differences = paired_bootstrap(a, b, identities, ranks=(1, 2), samples=60, seed=5, level=0.9)
    assert list(differences) == ['mAP', 'Rank-1', 'Rank-2']
    drawn = oracle_samples(b, identities, (1, 2), 60, 5) - oracle_samples(a, identities, (1, 2), 60, 5)
    values = (b.mAP - a.mAP, b.cmc[0] - a.cmc[0], b.cmc[1] - a.cmc[1])
    for column, (difference, value) in enumerate(zip(differences.values(), values, strict=True)):
        samples = drawn[:, column].round(12)
        assert difference.value == pytest.approx(value, abs=1e-12)
        assert (difference.low, difference.high) == pytest.approx(np.quantile(samples, [0.05, 0.95]), abs=1e-9)
        assert difference.share_better == (samples > 0).mean()
        assert difference.share_worse == (samples < 0).mean()
        less, more = ((samples <= 0).sum() + 1) / 61, ((samples >= 0).sum() + 1) / 61
        assert difference.p_value == pytest.approx(min(1, 2 * min(less, more)))


def test_paired_bootstrap_of_equal_results_and_of_a_clear_gain(measured):
    result, identities = measured
    same = paired_bootstrap(result, result, identities)['mAP']
    assert same == (0, 0, 0, 0, 0, 1)
    better = replace(result, average_precision=result.average_precision + 0.1)
    gain = paired_bootstrap(result, better, identities, samples=999)['mAP']
    assert gain.share_better == 1 and gain.low == pytest.approx(0.1)
    assert gain.p_value == pytest.approx(2 / 1000)
    loss = paired_bootstrap(better, result, identities, samples=999)['mAP']
    assert (loss.value, loss.share_worse, loss.p_value) == (-gain.value, 1, gain.p_value)


def test_most_changed():
    a = result_of([0.5, np.nan, 0.2, 0.9, 1.0], [1, 0, 1, 1, 1])
    b = result_of([0.6, np.nan, 0.9, 0.4, 1.0], [1, 0, 1, 1, 1])
    assert most_changed(a, b) == [(2, 0.2, 0.9), (3, 0.9, 0.4), (0, 0.5, 0.6)]
    assert most_changed(a, b, 1) == [(2, 0.2, 0.9)]


def subset(features, keep):
    return features.subset(torch.tensor([i for i in range(len(features)) if keep(i)]))


def assert_broken_down(breakdown, query, gallery, row_of, column_of, same_clothes_removed=False):
    for r, row in enumerate(breakdown.rows):
        for c, column in enumerate(breakdown.columns):
            asking = subset(query, lambda i, row=row: row_of(i) == row)
            part = subset(gallery, lambda i, column=column: column == 'all' or column_of(i) == column)
            figures = breakdown.mAP[r, c], breakdown.rank1[r, c]
            try:
                result = rank(asking, part, same_clothes_removed=same_clothes_removed)
            except InputError:
                assert np.isnan(figures).all() and breakdown.queries[r, c] == 0
            else:
                assert figures == (result.mAP, result.cmc[0]) and breakdown.queries[r, c] == result.num_valid


@pytest.mark.parametrize('same_clothes_removed', [False, True])
def test_by_camera_pair(same_clothes_removed):
    query, gallery = features(3, 30, cameras=4, clothes=2), features(4, 50, cameras=3, clothes=2)
    pairs = by_camera_pair(query, gallery, same_clothes_removed=same_clothes_removed)
    assert (pairs.rows, pairs.columns) == (tuple('1234'), tuple('123'))
    assert np.isnan(np.diag(pairs.mAP)).all() and np.isfinite(pairs.mAP[3]).all()
    row_of, column_of = query.cameras.__getitem__, gallery.cameras.__getitem__
    assert_broken_down(pairs, query, gallery, row_of, column_of, same_clothes_removed)


@pytest.mark.parametrize('cameras', [0, 2])
@pytest.mark.parametrize('same_clothes_removed', [False, True])
def test_by_domain(cameras, same_clothes_removed):
    options = dict(cameras=cameras, clothes=2, identities=9)
    query = features(5, 14, domains=['indoors', 'street', 'yard'], **options)
    gallery = features(6, 20, domains=['street', 'shop'], **options)
    domains = by_domain(query, gallery, same_clothes_removed=same_clothes_removed)
    assert (domains.rows, domains.columns) == (('indoors', 'street', 'yard'), ('shop', 'street', 'all'))
    row_of, column_of = query.domains.__getitem__, gallery.domains.__getitem__
    assert_broken_down(domains, query, gallery, row_of, column_of, same_clothes_removed)


def test_clear_errors(measured):
    result, identities = measured
    with pytest.raises(InputError, match='each of 60 queries, got \\[59\\]'):
        bootstrap(result, identities[1:])
    with pytest.raises(InputError, match='level must be between 0 and 1'):
        bootstrap(result, identities, level=1)
    with pytest.raises(InputError, match='at least 1'):
        bootstrap(result, identities, samples=0)
    with pytest.raises(InputError, match='one fixed gallery'):
        bootstrap(RankingResult.mean([result, result]), identities)
    shorter = result_of([0.5], [1])
    with pytest.raises(InputError, match='60 and of 1 queries'):
        paired_bootstrap(result, shorter, identities)
    other = replace(result, average_precision=np.full(60, 0.5))
    with pytest.raises(InputError, match='skip different queries'):
        most_changed(result, other)
    with pytest.raises(InputError, match='need the cameras'):
        by_camera_pair(features(0, 4, cameras=0), features(1, 4))
    with pytest.raises(InputError, match='need the domains'):
        by_domain(features(0, 4), features(1, 4))
