"""The evaluation as programs call it."""

import dataclasses

import numpy as np
import pytest
import torch

import msinet_eval
from msinet_eval import EvalSettings, evaluate
from msinet_eval.commands.outputs import Outputs
from msinet_eval.metrics.bootstrap import bootstrap
from msinet_eval.models.baselines import BASELINES
from msinet_eval.protocol import rank
from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError, MissingPackageError, needs
from msinet_timm.settings import flags_named


@pytest.fixture
def result(market):
    return evaluate('color_histogram', 'market1501', data_dir=market, workers=0)


def test_names_and_objects_give_the_same(result, market):
    dataset = create_dataset('market1501', str(market))
    again = evaluate(BASELINES['color_histogram'](), dataset, EvalSettings(workers=1), workers=0)
    assert torch.equal(again.gallery.embeddings, result.gallery.embeddings) and again.metrics == result.metrics
    assert result.name == 'color_histogram on market1501' and again.name == 'ColorHistogram on market1501'
    assert result.data_config == again.data_config


def test_cache_may_be_a_path(result, market, tmp_path):
    again = evaluate('color_histogram', 'market1501', data_dir=market, workers=0, cache=tmp_path / 'cache')
    assert again.settings.cache == str(tmp_path / 'cache') and list((tmp_path / 'cache').glob('*.cache'))
    assert again.metrics == result.metrics


def test_result_tells_all(result):
    ranking = rank(result.query, result.gallery)
    assert result.metrics == {
        'mAP': ranking.mAP,
        **{f'Rank-{k}': float(ranking.cmc[k - 1]) for k in (1, 5, 10)},
        'mINP': ranking.mINP,
    }
    assert result.intervals == bootstrap(ranking, result.query.identities)
    assert str(result).splitlines()[1].split()[3:] == [f'{100 * value:.1f}' for value in result.metrics.values()]
    assert result.verification.auc > 0.9 and result.cameras.mAP.shape == (1, 3) and result.domains is None
    nearest = torch.cdist(result.query.embeddings[1:2], result.gallery.embeddings)[0]
    (found,) = result.found([1], top=2)
    left = [f.index for f in found]
    assert len(left) == 2 and nearest[left[0]] <= nearest[left[1]] and [f.rank for f in found] == [1, 2]


def test_reranking_keeps_what_was_before(result, market, tmp_path):
    options = dict(data_dir=market, workers=0)
    with pytest.raises(InputError, match='k1 is 20, but the gallery has only 10 images'):
        evaluate('color_histogram', 'market1501', rerank=True, **options)
    reranked = evaluate('color_histogram', 'market1501', rerank={'k1': 5, 'k2': 2}, **options)
    assert reranked.settings.reranking == {'k1': 5, 'k2': 2, 'lambda_value': 0.3}
    expected = rank(result.query, result.gallery, rerank=reranked.settings.reranking)
    np.testing.assert_array_equal(reranked.ranking.average_precision, expected.average_precision)
    verification, cameras = reranked.verification, reranked.cameras
    before = reranked.before_reranking()
    assert before.verification is verification and before.cameras is cameras
    assert before.ranking is reranked.plain and before.metrics == result.metrics and before.settings == result.settings
    pytest.importorskip('matplotlib')
    reranked.report(tmp_path / 'r.html', queries=1)
    assert 'color_histogram on market1501 before re-ranking' in (tmp_path / 'r.html').read_text(encoding='utf-8')


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'batch_size': 0}, 'batch_size: 0 is not allowed .*at least 1'),
        ({'part': 'upper'}, "part: 'upper' is not one of all, global, local"),
        ({'flip': 'yes'}, "flip: 'yes' must be true or false"),
        ({'ranks': [1, 0]}, 'ranks: 0 is not allowed'),
        ({'ranks': []}, 'ranks: give at least one'),
        ({'protocol': ['draws=0']}, 'protocol draws=0: give standard alone'),
        ({'k1': 5}, 'k1 is a setting of `rerank`: give that, too'),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(InputError, match=message):
        EvalSettings(**values)


def test_flags_stand_for_settings_in_messages():
    for make, message in (
        (lambda: EvalSettings(k2=5), '--k2 is a setting of --rerank: give that, too'),
        (lambda: Outputs(png=True), '--png writes the curves of a report: give --html FILE, too'),
        (lambda: Outputs(ranked_lists='a.jpg'), '--ranked-lists a.jpg: the file name must end in .png'),
    ):
        with pytest.raises(InputError) as error, flags_named(EvalSettings, Outputs):
            make()
        assert str(error.value) == message
    with pytest.raises(InputError, match='^cache.png: gone$'), flags_named(EvalSettings):
        raise InputError('cache.png: gone')
    with pytest.raises(InputError, match='^cache is no folder$'), flags_named(EvalSettings):
        raise InputError('cache is no folder')
    with pytest.raises(MissingPackageError), flags_named(EvalSettings), needs('plot', 'html'):
        raise ImportError(name='matplotlib')


def test_every_setting_is_explained():
    for cls in (EvalSettings, Outputs):
        assert all(f'        {f.name}: ' in cls.__doc__ for f in dataclasses.fields(cls))
    assert {'EvalSettings', 'EvaluationResult', 'evaluate'} <= set(msinet_eval.__all__)
