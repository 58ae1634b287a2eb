"""Rounds of joining crops and of training, on a few rendered people whose names are not told."""

import csv
import logging
import shutil
import subprocess
import sys

import pytest
import torch

from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.trained import TRAINED_ON, TrainedOn
from msinet_timm.errors import InputError
from msinet_timm.hub.load import load_model
from msinet_timm.models.camera_norm import CameraNorms
from msinet_train.cli import main
from msinet_train.engine import unlabelled
from msinet_train.engine.loop import train
from msinet_train.engine.unlabelled import UnlabelledTraining
from msinet_train.settings import TrainSettings

SETTINGS = {
    'model': 'msinet_x0_25.rendered_128x64', 'height': 64, 'width': 32, 'batch_size': 8, 'num_instance': 2,
    'workers': 0, 'epochs': 4, 'round_epochs': 1, 'warmup_step': 0, 'camera_crops': 20, 'device': 'cpu', 'opt': 'adamw',
    'lr': 1e-3,
}  # fmt: skip


@pytest.fixture(scope='module')
def crops(tmp_path_factory):
    """Ten people: `tracklets/<camera>/<tracklet>/*.jpg`, and `crops/<camera>/*.jpg` without tracklets."""
    root = tmp_path_factory.mktemp('crops')
    records = create_dataset('sample').train
    people = sorted({r.identity for r in records})[:10]
    for number, record in enumerate(r for r in records if r.identity in people and r.camera in '1234'):
        # tracklets are numbered by camera, so that their names tell nothing across cameras
        tracklet = (people.index(record.identity) * 3 + int(record.camera)) % 10
        for folder in (f'tracklets/{record.camera}/{tracklet}', f'crops/{record.camera}'):
            (root / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(record.path, root / folder / f'{number}.jpg')
    return root


def settings(folder, output, **changes):
    given = {**SETTINGS, 'data_dir': [str(folder)], 'output': str(output), **changes}
    return TrainSettings.from_recipe('unlabelled', **given)


def rows(path):
    with open(path, encoding='utf-8') as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope='module', autouse=True)
def _all_rounds():
    """Groups of these few people do not change any more after one round; here rounds go on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unlabelled, 'UNCHANGED', 2)
        yield


@pytest.fixture(scope='module')
def run(crops, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'run'
    train(settings(crops / 'tracklets', folder))
    return folder


def test_a_run_leaves_rounds_groups_and_a_model_with_its_cameras(run):
    """Two rounds of an epoch, and a last one of two."""
    rounds = rows(run / 'rounds.csv')
    assert [row['epochs'] for row in rounds] == ['0', '1', '2', '3', '4']
    assert all(0 <= float(row['held_out_mAP']) <= 1 for row in rounds[:3])
    assert [row['held_out_mAP'] for row in rounds[3:]] == ['nan', 'nan']
    for name, row in (('round-1', rounds[1]), ('round-2', rounds[2]), ('round-3-last', rounds[4])):
        groups = rows(run / 'groups' / f'{name}.csv')
        named = {row['group'] for row in groups} - {''}
        assert len(named) == int(row['groups']) > 1
        for group in named:
            assert len({row['camera'] for row in groups if row['group'] == group}) > 1
    for name in ('last', 'best'):
        model = load_model(run / name)
        assert sorted(CameraNorms.load(run / name, model)) == ['1', '2', '3', '4']
        card = (run / name / 'README.md').read_text(encoding='utf-8')
        assert 'No label was used' in card
        assert 'mAP among held-out crops' in card
        assert 'before the last round' in card


def test_a_run_remembers_no_tracklets_as_people(run):
    assert TrainedOn.load(run / TRAINED_ON) == TrainedOn()
    assert 'SHA-256' not in (run / 'last' / 'README.md').read_text()


def test_held_out_groups_are_trained_on_in_the_last_round_only(run, crops):
    records = create_dataset('folder', str(crops / 'tracklets'), layout='cameras').train
    held_out = rows(run / 'groups' / 'held-out.csv')
    assert len(held_out) == len(records)
    paths = {row['path'] for row in held_out if row['group']}
    assert len({row['group'] for row in held_out} - {''}) >= 2
    for name in ('round-1', 'round-2'):
        assert {row['path'] for row in rows(run / 'groups' / f'{name}.csv')} == {r.path for r in records} - paths
    assert len(rows(run / 'groups' / 'round-3-last.csv')) == len(records)


def test_names_of_folders_do_not_tell_who_is_who(run, crops, tmp_path):
    """Other names of tracklets, the same groups."""
    other = tmp_path / 'other'
    shutil.copytree(crops / 'tracklets', other)
    for camera in other.iterdir():
        for tracklet in camera.iterdir():
            tracklet.rename(camera / f'x{tracklet.name}')
    train(settings(other, tmp_path / 'run', epochs=1, held_out=0))
    train(settings(crops / 'tracklets', tmp_path / 'again', epochs=1, held_out=0))
    groups = [
        sorted(
            sorted(row['path'].rpartition('/')[2] for row in table if row['group'] == group)
            for group in {row['group'] for row in table}
        )
        for table in (rows(tmp_path / name / 'groups' / 'round-1.csv') for name in ('run', 'again'))
    ]
    assert groups[0] == groups[1]


@pytest.mark.parametrize('epoch', [2, 3])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(run, crops, tmp_path, monkeypatch, epoch):
    original = UnlabelledTraining.run_epoch

    def run_epoch(self, number):
        if number == epoch:
            raise KeyboardInterrupt
        return original(self, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UnlabelledTraining, 'run_epoch', run_epoch)
        train(settings(crops / 'tracklets', tmp_path / 'run'))
    train(TrainSettings.from_run(tmp_path / 'run'))
    found, expected = (
        torch.load(folder / 'last.pth.tar', weights_only=True)['state_dict'] for folder in (tmp_path / 'run', run)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert (tmp_path / 'run' / 'rounds.csv').read_text() == (run / 'rounds.csv').read_text()


def test_the_last_round_comes_where_groups_no_longer_change(crops, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(unlabelled, 'UNCHANGED', 0.98)
    caplog.set_level(logging.INFO)
    train(settings(crops / 'tracklets', tmp_path / 'run', lr=1e-9, held_out=0, freeze=6))
    assert 'groups no longer change: the last round, of 2 epochs' in caplog.text
    assert len(rows(tmp_path / 'run' / 'summary.csv')) == 3
    assert (tmp_path / 'run' / 'last' / 'cameras.safetensors').is_file()


def test_crops_without_tracklets_averaged_weights(crops, tmp_path):
    train(settings(crops / 'crops', tmp_path / 'run', epochs=1, model_ema=True, model_ema_decay=0.5))
    assert int(rows(tmp_path / 'run' / 'rounds.csv')[-1]['groups']) > 1


def test_a_worse_model_is_told_and_is_not_the_best(crops, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(settings(crops / 'tracklets', tmp_path / 'run', lr=1.0, epochs=4, round_epochs=2, held_out=1 / 3))
    assert 'rounds make the model worse: that was the last one' in caplog.text
    first, last = (float(row['held_out_mAP']) for row in rows(tmp_path / 'run' / 'rounds.csv'))
    assert last < first
    assert 'WORSE' in caplog.text
    assert 'WORSE' in (tmp_path / 'run' / 'last' / 'README.md').read_text()
    assert 'WORSE' not in (tmp_path / 'run' / 'best' / 'README.md').read_text()


@pytest.mark.parametrize('after, worse', [(0.9724, False), (0.94, True)])
def test_a_difference_by_chance_is_no_reason_to_stop(crops, tmp_path, caplog, monkeypatch, after, worse):
    found = iter([0.9733, 0.9733])  # of the first model: before groups are held out, and of those
    monkeypatch.setattr(unlabelled, 'retrieval', lambda *_: next(found, after))
    caplog.set_level(logging.INFO)
    train(settings(crops / 'tracklets', tmp_path / 'run', held_out=1 / 3))
    assert ('WORSE' in caplog.text) == ('rounds make the model worse' in caplog.text) == worse
    models = [(tmp_path / 'run' / name / 'model.safetensors').read_bytes() for name in ('best', 'last')]
    assert (models[0] != models[1]) == worse


def test_images_that_are_found_are_measured_with_the_cameras(crops, tmp_path):
    sample = create_dataset('sample')
    asked = {record.identity for record in sample.query[:12]}
    for part in ('query', 'gallery'):
        for record in (r for r in getattr(sample, part) if r.identity in asked):
            folder = tmp_path / 'test' / part / record.identity / record.camera
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(record.path, folder)
    roots = [str(crops / 'tracklets'), str(tmp_path / 'test')]
    result = train(settings(crops, tmp_path / 'run', epochs=1, target=['folder'], data_dir=roots))
    assert 0 < result.last.ranking.mAP <= 1


@pytest.mark.slow
def test_two_processes_agree_on_rounds(crops, tmp_path):
    flags = [f'--{name.replace("_", "-")}={value}' for name, value in {**SETTINGS, 'epochs': 3}.items()]
    command = '-m torch.distributed.run --standalone --nproc-per-node 2 -m msinet_train.cli --recipe unlabelled'.split()
    command += ['-ds', 'folder', '--data-dir', crops / 'tracklets', '--output', tmp_path / 'run', *flags]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row['epochs'] for row in rows(tmp_path / 'run' / 'rounds.csv')] == ['0', '1', '2', '3']
    assert (tmp_path / 'run' / 'groups' / 'round-2-last.csv').is_file()


def wrong(crops, tmp_path, capsys, *flags, folder='tracklets'):
    code = main(
        ['--recipe', 'unlabelled', '-ds', 'folder', '--data-dir', str(crops / folder), '--device', 'cpu', '--workers',
         '0', '--height', '64', '--width', '32', '--output', str(tmp_path / 'run'), *flags]
    )  # fmt: skip
    assert code == 2
    assert not (tmp_path / 'run' / 'last.pth.tar').exists()
    return capsys.readouterr().err


def test_wrong_inputs(crops, tmp_path, capsys):
    one = tmp_path / 'one'
    shutil.copytree(crops / 'crops' / '1', one / 'door')
    assert 'all are of camera door' in wrong(tmp_path, tmp_path, capsys, folder='one')
    assert '--round-epochs 4' in wrong(crops, tmp_path, capsys, '--epochs', '6', '--round-epochs', '4')
    people = tmp_path / 'people'
    for identity in 'abcd':
        for camera in ('door', 'yard'):
            shutil.copytree(crops / 'crops' / '1', people / identity / camera)
    error = wrong(tmp_path, tmp_path, capsys, folder='people')
    assert 'look like <identity>/<camera>/' in error and 'layout=' in error
    flat = tmp_path / 'flat'
    shutil.copytree(crops / 'crops' / '1', flat)
    assert '<camera>/<tracklet>/' in wrong(tmp_path, tmp_path, capsys, folder='flat')


def test_too_few_groups_are_told(crops, tmp_path):
    few = tmp_path / 'few'
    for camera in ('1', '2'):
        (few / camera).mkdir(parents=True)
        for file in sorted((crops / 'crops' / camera).iterdir())[:2]:
            shutil.copy(file, few / camera)
    with pytest.raises(InputError, match='unlabelled: only . groups'):
        train(settings(few, tmp_path / 'run'))
