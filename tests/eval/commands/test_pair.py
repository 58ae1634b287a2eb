import json
import re

import pytest
import timm
import torch

from msinet_eval.cli import main
from msinet_eval.features.extract import extract, reid_data_config
from msinet_timm.datasets import Record, create_dataset
from msinet_timm.hub.calibration import Calibration


@pytest.fixture(scope='module')
def images():
    return [record.path for record in create_dataset('sample').query[:2]]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small untrained network's folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('model')
    model = timm.create_model('msinet_x0_25', num_classes=0)
    config = dict(model.pretrained_cfg, architecture='msinet_x0_25', input_size=(3, 64, 32))
    entry = {'architecture': 'msinet_x0_25', 'num_classes': 0, 'pretrained_cfg': config}
    (folder / 'config.json').write_text(json.dumps(entry))
    torch.save(model.state_dict(), folder / 'pytorch_model.bin')
    records = [Record(path, 'a') for path in [r.path for r in create_dataset('sample').query[:2]]]
    a, b = extract(model, records, data_config=reid_data_config(model, 64, 32), workers=0).embeddings
    return folder, float(torch.dist(a, b))


def test_distance_alone(folder, images, tmp_path, capsys):
    folder, distance = folder
    assert main(['pair', *images, '--model', str(folder), '--json', str(tmp_path / 'a.json')]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f'distance {distance:.4f}, cosine {1 - distance**2 / 2:.4f} ({folder})'
    assert '--calibrate' in second and 'the same one depends' in second
    answer = json.loads((tmp_path / 'a.json').read_text())
    assert answer['distance'] == pytest.approx(distance, abs=1e-6) and answer['same'] is answer['threshold'] is None
    assert main(['pair', images[0], images[0], '--model', str(folder), '--threshold', '0.001']) == 0
    assert 'the same one: the threshold is 0.0010 (given)' in capsys.readouterr().out
    # another size, another distance
    assert main(['pair', *images, '--model', str(folder), '--height', '96', '--width', '48']) == 0
    assert capsys.readouterr().out.splitlines()[0] != first


def test_threshold(folder, images, tmp_path, capsys):
    folder, distance = folder
    Calibration(distance + 0.01, 0.001, 0.9, 'a set', 'a model').save(folder)
    try:
        options = ['pair', *images, '--model', str(folder), '--json', str(tmp_path / 'a.json')]
        assert main(options) == 0
        expected = f'the same one: the threshold is {distance + 0.01:.4f} (calibrated on a set: 0.1 % false alarms)'
        assert capsys.readouterr().out.splitlines()[1] == expected
        assert json.loads((tmp_path / 'a.json').read_text())['same'] is True
        assert main([*options, '--threshold', str(distance - 0.001)]) == 0
        assert re.match('not the same one: .+ [(]given[)]', capsys.readouterr().out.splitlines()[1])
        # a checkpoint has its calibration beside it
        checkpoint = ['--model', 'msinet_x0_25', '--checkpoint', str(folder / 'pytorch_model.bin')]
        assert main(['pair', *images, *checkpoint, '--height', '64', '--width', '32']) == 0
        assert f'distance {distance:.4f}' in (out := capsys.readouterr().out) and 'a set' in out
    finally:
        (folder / 'calibration.json').unlink()


def test_default_model_is_the_pretrained_one(folder, images, capsys, monkeypatch):
    monkeypatch.setattr('msinet_eval.commands.pair.is_model_pretrained', lambda name: False)
    assert main(['pair', *images]) == 2
    assert 'msinet_x1_0 has no pretrained weights yet: give --model' in capsys.readouterr().err
    monkeypatch.setattr('msinet_eval.commands.pair.is_model_pretrained', lambda name: True)
    monkeypatch.setattr('msinet_eval.commands.pair._DEFAULT_MODEL', str(folder[0]))
    assert main(['pair', *images]) == 0 and f'distance {folder[1]:.4f}' in capsys.readouterr().out


def test_bad_input(folder, images, capsys):
    model = ['--model', str(folder[0])]
    assert main(['pair', images[0], 'gone.jpg', *model]) == 2 and 'gone.jpg' in capsys.readouterr().err
    assert main(['pair', *images, '--model', 'msinet_x9']) == 2 and 'unknown model' in capsys.readouterr().err
    assert main(['pair', *images, *model, '--json', '/proc/no/a.json']) == 2
    assert '--json: cannot create the folder /proc/no' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['pair', *images, *model, '--threshold', '0'])
