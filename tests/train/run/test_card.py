import re

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from msinet_timm.hub.calibration import find_calibration
from msinet_train.cli import parse_args
from msinet_train.engine.loop import train

SMALL = '--recipe small --model test_resnet --height 32 --width 16 --batch-size 4 --num-instance 2 --workers 0'.split()


def test_card(market, tmp_path):
    """Front matter that the Hub reads, the measured metrics, and settings as the run had them."""
    flags = ['-ds', 'market1501', '--data-dir', str(market), '--output', str(tmp_path / 'mine'), '--epochs', '1']
    result = train(parse_args([*SMALL, *flags, '--lr', '0.003']))
    text = (tmp_path / 'mine' / 'best' / 'README.md').read_text()
    card = ModelCard(text)
    assert card.data.library_name == 'timm' and card.data.pipeline_tag == 'image-feature-extraction'
    metrics = {r.metric_type: r.metric_value for r in card.data.eval_results}
    ranking = result.last.ranking
    assert metrics == {
        'mAP': round(ranking.mAP, 4),
        'Rank-1': round(float(ranking.cmc[0]), 4),
        'mINP': round(ranking.mINP, 4),
    }
    assert (
        f'| market1501 | 3 | 9 | {100 * ranking.mAP:.1f} | {100 * ranking.cmc[0]:.1f} | {100 * ranking.mINP:.1f} |'
        in text
    )
    assert '(30 images, 6 identities)' in text and '32x16 (height x width)' in text
    settings = yaml.safe_load(re.search(r'```yaml\n(.*?)```', text, re.DOTALL)[1])
    assert settings['lr'] == 0.003 and settings['model'] == 'test_resnet' and settings['milestones'] == []
    code = re.search(r'```python\n(.*?)```', text, re.DOTALL)[1].replace('THIS_FOLDER', str(tmp_path / 'mine' / 'best'))
    names = {'image': Image.new('RGB', (20, 40))}
    exec(code, names)
    assert names['embedding'].shape[0] == 1


def test_card_without_metrics(market, tmp_path):
    flags = ['-ds', 'folder', '--data-dir', str(market / 'bounding_box_train'), '--output', str(tmp_path / 'mine')]
    options = ['--data-option', r'pattern=(?P<identity>\d+)_c(?P<camera>\d+)', 'test_share=0', '--epochs', '1']
    train(parse_args([*SMALL, *flags, *options]))
    text = (tmp_path / 'mine' / 'last' / 'README.md').read_text()
    assert ModelCard(text).data.eval_results is None and 'Not measured.' in text
    assert 'nothing to measure' in text


def test_calibration(market, tmp_path):
    """Where there are enough pairs, the model's folder holds the distance that tells same from different."""
    flags = ['--height', '32', '--width', '16', '--epochs', '1', '--output', str(tmp_path / 'run'), '--cache', 'memory']
    result = train(parse_args(['--recipe', 'demo', '--no-pretrained', '--model', 'test_resnet', *flags]))
    calibration = find_calibration(tmp_path / 'run')
    assert calibration.dataset == 'sample' and 0 < calibration.false_positive_rate <= 1e-3
    query, gallery = result.last.query, result.last.gallery
    near = torch.cdist(query.embeddings, gallery.embeddings) <= calibration.threshold
    other = np.array(query.identities)[:, None] != np.array(gallery.identities)
    assert near[other].double().mean().item() == pytest.approx(calibration.false_positive_rate, abs=2e-4)

    # the small data set has too few pairs
    flags = ['-ds', 'market1501', '--data-dir', str(market), '--output', str(tmp_path / 'small'), '--epochs', '1']
    train(parse_args([*SMALL, *flags]))
    assert find_calibration(tmp_path / 'small') is None
