import importlib.util

import numpy as np
import pytest
import torch

from msinet_eval.metrics import counting
from msinet_eval.metrics.counting import choose_kernel, match_ranks
from msinet_timm.errors import InputError

BOTH = pytest.mark.parametrize('kernel', ['tensor', 'numba'])


def brute_force(distances, matches, removed):
    """Ranks by a stable sort of each row."""
    ranks = []
    for row, hit, gone in zip(distances.numpy(), matches.numpy(), removed.numpy(), strict=True):
        order = np.argsort(row, kind='stable')
        ranks += (np.flatnonzero(hit[order[~gone[order]]]) + 1).tolist()
    return ranks


def random_block(seed, rows=11, columns=53):
    """Distances with ties; who is of the query's identity, and who of these is removed; some rows have no match."""
    rng = np.random.default_rng(seed)
    same = rng.random((rows, columns)) < 0.2
    same[rng.random(rows) < 0.2] = False
    removed = same & (rng.random((rows, columns)) < 0.4)
    distances = rng.integers(-3, 4, (rows, columns)).astype(np.float32)
    return torch.tensor(distances), torch.tensor(same), torch.tensor(removed)


@BOTH
@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('chunk', [1, 2**20])
def test_equals_a_stable_sort(kernel, seed, chunk, monkeypatch):
    monkeypatch.setattr(counting, '_CHUNK', {'cpu': chunk})
    distances, same, removed = random_block(seed)
    ranks = match_ranks(distances, *same.nonzero(as_tuple=True), removed[same], kernel=kernel)
    assert ranks.tolist() == brute_force(distances, same & ~removed, removed)
    ranks = match_ranks(distances, *same.nonzero(as_tuple=True), kernel=kernel)
    assert ranks.tolist() == brute_force(distances, same, torch.zeros_like(same))


@BOTH
def test_negative_zero_ties_with_zero(kernel):
    distances = torch.tensor([[0.0, -0.0, -1.0, 0.0, 2.0]])
    rows, columns = torch.tensor([0, 0, 0]), torch.tensor([1, 3, 4])
    assert match_ranks(distances, rows, columns, kernel=kernel).tolist() == [3, 4, 5]
    rows, columns, removed = torch.tensor([0] * 5), torch.arange(5), torch.tensor([True, False, True, False, False])
    assert match_ranks(distances, rows, columns, removed, kernel=kernel).tolist() == [1, 2, 3]


@BOTH
def test_distances_are_not_changed(kernel):
    distances, same, removed = random_block(0)
    before = distances.clone()
    match_ranks(distances, *same.nonzero(as_tuple=True), removed[same], kernel=kernel)
    assert torch.equal(distances, before)


@BOTH
def test_takes_any_memory_layout_and_double_precision(kernel):
    distances, same, removed = random_block(1)
    expected = brute_force(distances, same & ~removed, removed)
    for given in (distances.T.contiguous().T, distances.double() + 1e9):
        assert match_ranks(given, *same.nonzero(as_tuple=True), removed[same], kernel=kernel).tolist() == expected


@BOTH
@pytest.mark.parametrize('threads', [1, 3])
def test_number_of_threads_changes_nothing(kernel, threads):
    distances, same, removed = random_block(2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        ranks = match_ranks(distances, *same.nonzero(as_tuple=True), removed[same], kernel=kernel)
    finally:
        torch.set_num_threads(before)
    assert ranks.tolist() == brute_force(distances, same & ~removed, removed)


def test_the_loop_says_the_same_uncompiled(monkeypatch):
    monkeypatch.setattr(counting, '_compiled_loop', lambda: counting._loop)
    distances, same, removed = random_block(3)
    ranks = match_ranks(distances, *same.nonzero(as_tuple=True), removed[same], kernel='numba')
    assert ranks.tolist() == brute_force(distances, same & ~removed, removed)


def test_compiles_where_nothing_can_be_cached(monkeypatch):
    import numba

    calls = []

    def njit(**options):
        calls.append(options)
        if options.get('cache'):
            return lambda function: (_ for _ in ()).throw(RuntimeError('no locator available'))
        return lambda function: function

    monkeypatch.setattr(numba, 'njit', njit)
    assert counting._compiled_loop.__wrapped__() is counting._loop
    assert calls == [{'nogil': True, 'cache': True}, {'nogil': True}]


def test_choice_of_kernel(monkeypatch):
    cpu, gpu = torch.device('cpu'), torch.device('cuda')
    assert choose_kernel('auto', cpu, 10**3) == 'tensor'
    assert choose_kernel('auto', cpu, 10**9) == 'numba'
    assert choose_kernel('auto', gpu, 10**9) == 'tensor'
    assert choose_kernel('tensor', cpu, 10**9) == 'tensor'
    assert choose_kernel('numba', cpu, 1) == 'numba'
    with pytest.raises(InputError, match="kernel must be one of auto, tensor, numba; got 'cython'"):
        choose_kernel('cython', cpu, 1)
    with pytest.raises(InputError, match="'numba' runs on the CPU, the distances are on cuda"):
        choose_kernel('numba', gpu, 1)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert choose_kernel('auto', cpu, 10**9) == 'tensor'
    with pytest.raises(InputError, match=r'pip install "msinet-timm\[fast\]"'):
        choose_kernel('numba', cpu, 1)
