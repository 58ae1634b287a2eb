import numpy as np

from msinet_eval.metrics.ranking import RankingResult
from msinet_eval.report import METRICS, metrics
from msinet_eval.report.text import table


def test_table_of_several_draws():
    def result(mAP):
        return RankingResult(mAP, np.array([mAP, 1.0]), 0.5, np.array([mAP]))

    assert table([('drawn', RankingResult.mean([result(0.5), result(0.7)])), ('fixed', result(0.5))]).splitlines() == [
        '              mAP      Rank-1      Rank-5     Rank-10       mINP',
        'drawn  60.0 ±14.1  60.0 ±14.1  100.0 ±0.0  100.0 ±0.0  50.0 ±0.0',
        'fixed        50.0        50.0       100.0       100.0       50.0',
    ]


def test_table():
    long = RankingResult(0.8123, np.linspace(0.5, 1, 50), 0.25, np.array([0.8123]))
    short = RankingResult(1.0, np.array([0.96, 0.98]), 0.0, np.array([1.0]))
    assert table([('a model', long), ('b', short)]).splitlines() == [
        '           mAP  Rank-1  Rank-5  Rank-10  mINP',
        'a model   81.2    50.0    54.1     59.2  25.0',
        'b        100.0    96.0    98.0     98.0   0.0',
    ]


def test_the_metrics_of_a_table_are_at_hand():
    assert list(METRICS) == list(metrics()) == ['mAP', 'Rank-1', 'Rank-5', 'Rank-10', 'mINP']
