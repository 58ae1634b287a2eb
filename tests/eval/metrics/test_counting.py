import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msinet_eval.metrics import counting
from msinet_eval.metrics.counting import match_ranks

DEVICES = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]


def brute_force(distances, matches, removed):
    """Ranks by a stable sort of each row."""
    ranks = []
    for row, hit, gone in zip(distances.numpy(), matches.numpy(), removed.numpy(), strict=True):
        order = np.argsort(row, kind='stable')
        ranks += (np.flatnonzero(hit[order[~gone[order]]]) + 1).tolist()
    return ranks


def check(distances, same, removed, device='cpu'):
    """Counts the ranks of all matches, with and without some removed, and compares them with those of the sort."""
    before = distances.clone()
    given = distances.to(device)
    places = [t.to(device) for t in same.nonzero(as_tuple=True)]
    ranks = match_ranks(given, *places, removed[same].to(device))
    assert ranks.dtype == torch.int64 and ranks.device.type == device
    assert ranks.tolist() == brute_force(distances, same & ~removed, removed & same)
    assert match_ranks(given, *places).tolist() == brute_force(distances, same, torch.zeros_like(same))
    assert torch.equal(given.cpu(), before)


def random_block(seed, rows=11, columns=53):
    """Distances with ties; who is of the query's identity, and who of these is removed; some rows have no match."""
    rng = np.random.default_rng(seed)
    same = rng.random((rows, columns)) < 0.2
    same[rng.random(rows) < 0.2] = False
    removed = same & (rng.random((rows, columns)) < 0.4)
    distances = rng.integers(-3, 4, (rows, columns)).astype(np.float32)
    return torch.tensor(distances), torch.tensor(same), torch.tensor(removed)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('chunk', [1, 150, 2**20])
def test_equals_a_stable_sort(device, seed, chunk, monkeypatch):
    monkeypatch.setattr(counting, '_CHUNK', {device: chunk})
    check(*random_block(seed), device)


@st.composite
def blocks(draw):
    """Up to 9 x 40 distances of few or many values, zeros of both signs and infinities, any places and removals."""
    size = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.sampled_from([[0.0, -0.0], [np.inf], [-np.inf, -1, 0, 1e-45, np.inf], range(-4, 5), range(10**6)]))
    distances = rng.choice(np.array(values, dtype=draw(st.sampled_from([np.float32, np.float64]))), size)
    same, removed = (rng.random(size) < draw(st.sampled_from([0, 0.02, 0.3, 1])) for _ in range(2))
    same[rng.random(len(same)) < draw(st.sampled_from([0, 0.5]))] = False
    same[rng.random(len(same)) < draw(st.sampled_from([0, 0.2]))] = True
    return torch.tensor(distances), torch.tensor(same), torch.tensor(removed & same)


@settings(max_examples=300, deadline=None)
@given(block=blocks(), chunk=st.sampled_from([1, 100, 2**20]))
def test_any_block_equals_a_stable_sort(block, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, '_CHUNK', {'cpu': chunk})
        check(*block)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('values', [1, 7, 2**24])
def test_one_query_with_thousands_of_matches_beside_queries_with_one_and_none(values, device):
    rng = np.random.default_rng(values)
    distances = torch.tensor(rng.integers(0, values, (80, 6000)).astype(np.float32))
    same = torch.zeros(80, 6000, dtype=torch.bool)
    same[torch.arange(70), torch.tensor(rng.integers(0, 6000, 70))] = True
    same[17, rng.permutation(6000)[:5000]] = True
    same[75] = True
    check(distances, same, same & torch.tensor(rng.random((80, 6000)) < 0.1), device)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('value', [0.0, 2.0, torch.inf, -torch.inf])
def test_all_equally_far(value, device):
    _, same, removed = random_block(4)
    check(torch.full(same.shape, value), same, removed, device)


def test_no_matches():
    distances, _, _ = random_block(0)
    none = torch.zeros(0, dtype=torch.int64)
    assert match_ranks(distances, none, none).tolist() == []
    rows, columns = torch.tensor([2, 2, 5]), torch.tensor([1, 4, 0])
    assert match_ranks(distances, rows, columns, torch.ones(3, dtype=torch.bool)).tolist() == []


def test_matches_as_far_as_each_other_and_as_others():
    """Matches (columns 1, 2, 5) at 4, 4, 4, others before, between and after them at 4, and one nearer."""
    distances = torch.tensor([[4.0, 4.0, 4.0, 1.0, 4.0, 4.0, 4.0]])
    rows, columns = torch.tensor([0, 0, 0]), torch.tensor([1, 2, 5])
    assert match_ranks(distances, rows, columns).tolist() == [3, 4, 6]
    assert match_ranks(distances, rows, columns, torch.tensor([True, False, False])).tolist() == [3, 5]


def test_infinitely_far_matches_come_before_others_with_higher_columns():
    distances = torch.tensor([[torch.inf, torch.inf, 1.0, torch.inf, torch.inf], [0.0, 1.0, 2.0, 3.0, torch.inf]])
    rows, columns = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 4])
    assert match_ranks(distances, rows, columns).tolist() == [3, 4, 5]


def test_negative_zero_ties_with_zero():
    distances = torch.tensor([[0.0, -0.0, -1.0, 0.0, 2.0]])
    rows, columns = torch.tensor([0, 0, 0]), torch.tensor([1, 3, 4])
    assert match_ranks(distances, rows, columns).tolist() == [3, 4, 5]
    rows, columns, removed = torch.tensor([0] * 5), torch.arange(5), torch.tensor([True, False, True, False, False])
    assert match_ranks(distances, rows, columns, removed).tolist() == [1, 2, 3]


@pytest.mark.filterwarnings('error')
def test_takes_any_memory_layout_and_double_precision():
    distances, same, removed = random_block(1)
    for block in (distances.T.contiguous().T, distances.double() + 1e9, distances.double() * 2**-30 + 1):
        check(block, same, removed)


@pytest.mark.parametrize('threads', [1, 3])
def test_number_of_threads_changes_nothing(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        check(*random_block(2, rows=64, columns=3000))
    finally:
        torch.set_num_threads(before)


def test_runs_where_only_deterministic_operations_may():
    try:
        torch.use_deterministic_algorithms(True)
        check(*random_block(3))
    finally:
        torch.use_deterministic_algorithms(False)
