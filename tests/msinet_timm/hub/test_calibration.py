import json
import os
from dataclasses import replace

import numpy as np
import pytest

from msinet_eval.metrics.checks import Labels
from msinet_eval.metrics.verification import OperatingPoint, evaluate_verification
from msinet_timm.errors import InputError
from msinet_timm.hub.calibration import Calibration, find_calibration
from msinet_timm.models import entries
from msinet_timm.models.entries import load_entries

SAVED = Calibration(0.8, 0.001, 0.9, 'market1501', 'msinet_x1_0')


@pytest.fixture(scope='module')
def verification():
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 8, n) for n in (40, 120)]
    centres = rng.normal(size=(8, 5))
    query, gallery = (centres[i] + rng.normal(size=(len(i), 5)) for i in labels)
    return evaluate_verification(query, gallery, *map(Labels, labels), false_positive_rates=(0.1, 1e-3, 1e-5))


def test_from_verification(verification):
    made = Calibration.from_verification(verification, dataset='people', model='net')
    point = verification.at(1e-3)
    assert made == Calibration(point.threshold, point.false_positive_rate, point.true_positive_rate, 'people', 'net')
    assert 0 < made.false_positive_rate <= 1e-3
    assert made.same(made.threshold) and not made.same(made.threshold * 1.0001)
    wider = Calibration.from_verification(verification, dataset='people', model='net', false_positive_rate=0.1)
    assert wider.threshold > made.threshold


def test_from_verification_without_a_threshold(verification):
    with pytest.raises(InputError, match='1e-05: people has only [0-9],[0-9]+ different pairs'):
        Calibration.from_verification(verification, dataset='people', model='net', false_positive_rate=1e-5)
    with pytest.raises(InputError, match='no operating point'):
        Calibration.from_verification(verification, dataset='people', model='net', false_positive_rate=0.2)
    collapsed = replace(verification, points=(OperatingPoint(1e-3, 0, 0, -1),))
    with pytest.raises(InputError, match='net embeds images alike'):
        Calibration.from_verification(collapsed, dataset='people', model='net')


@pytest.mark.parametrize('place', ['.', 'best'])
def test_save_and_find(tmp_path, place):
    assert find_calibration(tmp_path) is None
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    assert SAVED.save(folder) == folder / 'calibration.json'
    SAVED.save(folder)  # over the one before
    (folder / 'model.safetensors').touch()
    for name in (tmp_path, str(tmp_path), f'local-dir:{tmp_path}', folder, folder / 'model.safetensors'):
        assert find_calibration(name) == SAVED
    assert sorted(p.name for p in folder.iterdir()) == ['calibration.json', 'model.safetensors']


def test_a_broken_save_leaves_the_old_file(tmp_path, monkeypatch):
    SAVED.save(tmp_path)

    def fail(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(InputError, match='calibration.json: cannot write the calibration .No space left'):
        replace(SAVED, threshold=0.1).save(tmp_path)
    assert find_calibration(tmp_path) == SAVED
    assert [p.name for p in tmp_path.iterdir()] == ['calibration.json']


def test_save_into_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match='No such file'):
        SAVED.save(tmp_path / 'nowhere')


def test_names_without_a_calibration(tmp_path):
    for name in ('msinet_x0_75', 'msinet_x1_0.market1501', 'resnet50', 'hf-hub:someone/something', tmp_path / 'no'):
        assert find_calibration(name) is None


def test_finds_the_hub_entry_of_a_model(tmp_path, monkeypatch):
    values = {'threshold': 0.7, 'false_positive_rate': 0.001, 'true_positive_rate': 0.5, 'dataset': 'veri776'}
    for tag, more in (('people', {'default': True}), ('veri776', {'threshold': values, 'hf_hub_id': 'us/vehicles'})):
        template = dict(load_entries()['msinet_x1_0.market1501'].as_fields(), hf_hub_id='us/people')
        entry = {**template, 'tag': tag, **more}
        (tmp_path / f'msinet_x1_0.{tag}.json').write_text(json.dumps(entry))
    monkeypatch.setattr(entries, 'entries_folder', lambda: tmp_path)
    expected = Calibration(**values, model='msinet_x1_0.veri776')
    assert find_calibration('msinet_x1_0.veri776') == find_calibration('hf-hub:us/vehicles') == expected
    assert find_calibration('msinet_x1_0') is find_calibration('us/vehicles') is None  # the bare name is of people
    entry['threshold'] = 0.7
    (tmp_path / 'msinet_x1_0.veri776.json').write_text(json.dumps(entry))
    with pytest.raises(InputError, match='hub_configs/msinet_x1_0.veri776.json: .*threshold.*0.7'):
        find_calibration('msinet_x1_0.veri776')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'threshold': 0}, 'threshold must be a number greater than 0, got 0'),
        ({'threshold': 'far'}, "got 'far'"),
        ({'threshold': float('nan')}, 'got nan'),
        ({'threshold': True}, 'got True'),
        ({'true_positive_rate': 1.5}, 'true_positive_rate must be a number from 0 to 1, got 1.5'),
        ({'false_positive_rate': -0.1}, 'false_positive_rate must be'),
        ({'dataset': None}, 'dataset must be a name, got None'),
        ({'unit': 'cosine'}, 'missing or unknown fields of a calibration: unit'),
    ],
)
def test_damaged_files_are_named(tmp_path, change, message):
    path = SAVED.save(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message) as error:
        find_calibration(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize('text', ['', '[1]', '{"threshold": 1}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / 'calibration.json').write_text(text)
    with pytest.raises(InputError, match='calibration'):
        find_calibration(tmp_path)
