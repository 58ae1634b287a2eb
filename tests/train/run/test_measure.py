import pytest
import torch
import torch.nn.functional as F
from labelled import named

from msinet_eval.features.types import Features
from msinet_eval.protocol import rank
from msinet_eval.report import EvaluationResult
from msinet_timm.datasets import Protocol
from msinet_train.run.measure import calibrate


@pytest.mark.parametrize(('rule', 'share'), [(False, 0.5), (True, 0)])
def test_calibration_follows_the_rule_on_clothes(rule, share):
    """People are known by their clothes alone: that makes half of the same pairs easy, unless those are left out."""
    torch.manual_seed(0)
    people = named(range(60))
    own, other = (tuple(f'{name} in {color}' for name in people) for color in ('red', 'blue'))
    looks = F.normalize(torch.randn(2, 60, 256), dim=2)
    query = Features(looks[0], people, ('door',) * 60, ('',) * 60, clothes=own)
    gallery = Features(looks.flatten(0, 1), 2 * people, ('hall',) * 120, ('',) * 120, clothes=own + other)
    result = EvaluationResult(rank(query, gallery), query, gallery, Protocol(same_clothes_removed=rule))
    found = calibrate(result, 'net')
    assert found.true_positive_rate == pytest.approx(share, abs=0.05)
