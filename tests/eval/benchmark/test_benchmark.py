import json
import subprocess

import numpy as np
import pytest
from labelled import labelled

from msinet_eval.benchmark import __main__ as benchmark
from msinet_eval.benchmark.__main__ import KINDS, SIZES, compare, made_up, main, table
from msinet_eval.benchmark.plain import plain_k_reciprocal, plain_ranking
from msinet_eval.metrics.ranking import evaluate_ranking
from msinet_eval.metrics.rerank import k_reciprocal

SMALL = SIZES['small']


def test_plain_form_measures_the_same():
    case = made_up(SMALL)
    mAP, cmc, mINP = plain_ranking(**case)
    result = evaluate_ranking(**labelled(case))
    assert result.mAP == pytest.approx(mAP, abs=1e-9)
    np.testing.assert_allclose(result.cmc, cmc, atol=1e-9)
    assert result.mINP == pytest.approx(mINP, abs=1e-9)


def test_plain_re_ranking_measures_the_same():
    case = made_up(SMALL)
    distances = plain_k_reciprocal(case['query'], case['gallery'])
    np.testing.assert_allclose(k_reciprocal(case['query'], case['gallery']), distances, atol=1e-5)


def test_made_up_features():
    case = made_up(SMALL)
    assert case['query'].shape == (SMALL.queries, 768)
    assert case['gallery'].shape == (SMALL.gallery, 768)
    assert case['gallery'].dtype == np.float32
    assert (case['gallery_ids'] == -1).sum() == SMALL.distractors
    assert len(np.unique(case['query_ids'])) == SMALL.identities
    assert len(np.unique(case['gallery_cameras'])) == SMALL.cameras
    np.testing.assert_allclose(np.linalg.norm(case['query'], axis=1), 1, rtol=1e-5)
    assert all((value == made_up(SMALL)[name]).all() for name, value in case.items())
    assert 0.4 < evaluate_ranking(**labelled(case)).mAP < 0.95


def test_hard_features_are_hard_and_tied_ones_tie():
    size = SMALL._replace(gallery=2000, identities=200)
    easy, hard, tied = (made_up(size, kind) for kind in KINDS)
    assert evaluate_ranking(**labelled(easy)).mAP > 0.5
    assert evaluate_ranking(**labelled(hard)).mAP < 0.1 and evaluate_ranking(**labelled(tied)).mAP < 0.1
    assert len(np.unique(tied['query'] @ tied['gallery'].T)) == 17
    assert len(np.unique(hard['query'] @ hard['gallery'].T)) > 10_000


@pytest.mark.slow
def test_each_form_is_measured_in_its_own_process():
    figures = compare('small', 'hard', ['plain', 'ranking'], repeats=1, threads=1)
    assert list(figures) == ['plain', 'ranking']
    assert [run['scale'] for run in figures.values()] == [2, 1]
    assert all(run['seconds'] > 0 and run['range'] == [run['seconds']] * 2 for run in figures.values())
    mAP = evaluate_ranking(**labelled(made_up(SMALL, 'hard'))).mAP
    assert figures['ranking']['mAP'] == mAP
    assert figures['ranking']['megabytes'] < 50  # without torch itself
    printed = table('small', 'hard', figures)
    hardness = f'hard features (mAP {mAP:.4f})'
    assert printed.startswith(f'small: 60 queries, 400 gallery images, 768 dimensions, {hardness}\n')
    assert 'scaled from 30 queries' in printed
    assert printed.count('x faster than the plain form') == 1


def test_re_ranking_and_repeats(monkeypatch, capsys, tmp_path):
    """Forms take turns; the plain form of re-ranking only where it fits and a baseline is asked for."""
    measured = []

    def run(command, **kwargs):
        form = command[command.index('--measure') + 1]
        measured.append(form)
        figures = {'seconds': len(measured), 'megabytes': 10 * len(measured), 'mAP': 0.5, 'scale': 1}
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(figures))

    monkeypatch.setattr(subprocess, 'run', run)
    monkeypatch.setitem(SIZES, 'msmt17', SMALL._replace(plain_rerank=False))
    main(['--size', 'small', '--rerank', '--baseline', '--repeats', '2', '--json', str(tmp_path / 'a.json')])
    turn = ['plain', 'ranking', 'plain re-ranking', 're-ranking']
    assert measured == turn * 2 * len(KINDS)
    figures = json.loads((tmp_path / 'a.json').read_text())['small']
    assert list(figures) == list(KINDS)
    assert figures['easy']['ranking'] == {'seconds': 4, 'range': [2, 6], 'megabytes': 60, 'mAP': 0.5, 'scale': 1}
    assert '0.8 x faster than the plain form, 0.8 x less memory' in capsys.readouterr().out  # ranking: 4 s for 3 s
    measured.clear()
    main(['--size', 'small', 'msmt17', '--kind', 'hard', '--rerank', '--repeats', '1'])
    assert measured == ['ranking', 're-ranking'] * 2


def test_memory_is_the_peak_beyond_the_features(monkeypatch, tmp_path):
    calls = []

    def greedy(case, size):
        calls.append(size)
        if len(calls) == 2:  # the first is the warm-up
            np.ones((size.gallery, 100_000), dtype=np.float32)  # 160 MB for a moment
        return 1.0, 2

    for part, values in made_up(SMALL).items():
        np.save(tmp_path / f'{part}.npy', values)
    monkeypatch.setitem(benchmark.FORMS, 'greedy', greedy)
    assert benchmark.measure('greedy', SMALL, tmp_path)['megabytes'] > 2 * 150


def test_a_form_that_does_not_run(monkeypatch, capsys):
    def killed(command, **kwargs):
        return subprocess.CompletedProcess(command, -9, stdout='')

    monkeypatch.setattr(subprocess, 'run', killed)
    assert main(['--size', 'small', '--repeats', '1']) == 2
    assert "error: form 'ranking' ended with exit code -9" in capsys.readouterr().err


def test_needs_linux(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, '_STATUS', benchmark.Path('/nowhere'))
    assert main(['--size', 'small']) == 2
    assert 'only Linux has' in capsys.readouterr().err
