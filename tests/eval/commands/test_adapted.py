"""Cameras in `msinet-eval`: of a folder that knows some, and by `--adapt`."""

import csv
import json
import re

import pytest
import timm
import torch
from timm.models import save_for_hf

from msinet_eval import EvalSettings, evaluate
from msinet_eval.cli import main
from msinet_eval.features.types import Features
from msinet_eval.models.load import load_model
from msinet_timm.cli.hub import main as hub
from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError
from msinet_timm.hub.adapt import adapt

SMALL = ['--workers', '0', '--device', 'cpu', '--no-intervals']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small untrained network."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('model')
    model = timm.create_model('msinet_x0_25', num_classes=0)
    save_for_hf(model, str(folder), safe_serialization=True, model_config={'input_size': (3, 64, 32)})
    config = json.loads((folder / 'config.json').read_text())
    config['pretrained_cfg']['input_size'] = [3, 64, 32]
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


@pytest.fixture
def site(folder, market, tmp_path):
    """The same network, which knows cameras 1 and 2."""
    known = tmp_path / 'site'
    known.mkdir()
    for file in folder.iterdir():
        (known / file.name).write_bytes(file.read_bytes())
    model, config = load_model(str(folder))
    adapt(model, create_dataset('market1501', str(market)).train, config, workers=0).save(known)
    return known


@pytest.fixture
def run(market, capsys):
    def call(*argv):
        code = main([*map(str, argv), '-ds', 'market1501', '--data-dir', str(market), *SMALL])
        return code, *capsys.readouterr()

    return call


def norms_of(folder, records):
    model, config = load_model(str(folder))
    return model, config, adapt(model, records, config, crops=4, workers=0)


def test_folder_that_knows_cameras(site, folder, market, run, tmp_path):
    """Used by name, and told; others are embedded by the model's own statistics, and told as well."""
    code, out, _ = run(
        site, '--json', tmp_path / 'a.json', '--summary', tmp_path / 'a.csv', '--features', tmp_path / 'f'
    )
    assert code == 0
    notes = [line.strip() for line in out.splitlines()[2:]]
    assert notes == [
        'batch norms and means of 2 cameras, from 1 images of each, whose identities were not used',
        "cameras 3 are not known: embedded by the model's own statistics",
    ]
    told = json.loads((tmp_path / 'a.json').read_text())
    assert told['remarks'] == notes and told['adapt'] is None
    expected = {'images': {'1': 1, '2': 1}, 'unknown': ['3'], 'adapted_on': None, 'transductive': False}
    assert told['camera_norms'] == expected
    (row,) = csv.DictReader((tmp_path / 'a.csv').open())
    assert row['options'] == 'camera_norms=True'
    dataset = create_dataset('market1501', str(market))
    model, config, norms = norms_of(folder, dataset.train)
    result = evaluate(model, dataset, norms=norms, data_config=config, workers=0)
    for part in ('query', 'gallery'):
        stored = Features.load(tmp_path / 'f' / f'{part}.safetensors').embeddings
        torch.testing.assert_close(getattr(result, part).embeddings, stored)
    assert result.norms == expected and result.threshold is None

    code, out, _ = run(site, '--no-camera-norms')
    assert code == 0 and out.splitlines()[2:] == [f'  {site / "cameras.safetensors"} is left out']
    assert f'{site}: holds' not in out
    code, _, err = run(site, '--no-camera-norms', '--features', tmp_path / 'f')
    assert code == 2 and 'holds features of other cameras' in err
    assert run(site, '--camera-mean')[0] == 0


def test_cameras_of_another_place(site, market, run):
    for part in ('query', 'bounding_box_test'):
        for path in (market / part).glob('*.jpg'):
            path.rename(path.with_name(re.sub(r'_c(\d)', r'_c7\1', path.name)))
    code, _, err = run(site)
    assert code == 2
    assert "none of the cameras of data set 'market1501' (71, 72, 73) is among those that the model has been " in err
    assert 'adapted to (1, 2): adapt it to these by msinet-hub adapt, or ' in err and '--no-camera-norms' in err


def test_data_set_without_cameras(site, tmp_path, market, capsys):
    root = tmp_path / 'plain'
    for path in (market / 'bounding_box_test').glob('*.jpg'):
        (root / path.name[:4]).mkdir(parents=True, exist_ok=True)
        (root / path.name[:4] / path.name).write_bytes(path.read_bytes())
    argv = [str(site), '-ds', 'folder', '--data-dir', str(root), '--data-option', 'test_share=1', *SMALL]
    assert main(argv) == 0
    assert "its cameras are not known: all is embedded by the model's own statistics" in capsys.readouterr().out
    for flags, message in (
        (['--adapt-on', 'test'], "cameras of data set 'folder' are not known, and a model is adapted to cameras"),
        ([], "data set 'folder' has no training images: adapt to other images by msinet-hub adapt"),
    ):
        assert main([*argv, '--adapt', '4', *flags]) == 2  # before anything is measured
        assert f'error: --adapt: {message}' in capsys.readouterr().err


@pytest.mark.parametrize('on', ['train', 'test'])
def test_adapts_and_reports_both(folder, market, run, tmp_path, on):
    pytest.importorskip('matplotlib')
    flags = ['--adapt', '4', *(['--adapt-on', 'test'] if on == 'test' else [])]
    files = [
        f'--{kind}={tmp_path / "out"}.{end}' for kind, end in (('json', 'json'), ('summary', 'csv'), ('html', 'html'))
    ]
    code, out, _ = run(folder, *flags, *files, f'--ranked-lists={tmp_path / "out.png"}', f'--features={tmp_path / "f"}')
    assert code == 0
    plain = f'{folder} on market1501'
    adapted = f'{plain}, adapted (4 {on} images a camera{", transductive" if on == "test" else ""})'
    lines = out.splitlines()
    assert lines[1].startswith(f'{plain}  ') and lines[2].startswith(f'{adapted}  ')
    assert out.count('transductive: batch norms and means of 3 cameras') == (on == 'test')

    dataset = create_dataset('market1501', str(market))
    records = dataset.train if on == 'train' else dataset.query + dataset.gallery
    model, config, norms = norms_of(folder, records)
    as_is, told = json.loads((tmp_path / 'out.json').read_text())
    one, two = (evaluate(model, dataset, norms=n, data_config=config, workers=0) for n in (None, norms))
    assert as_is['mAP'] == one.ranking.mAP and told['mAP'] == pytest.approx(two.ranking.mAP)
    assert (as_is['adapt'], as_is['camera_norms'], told['adapt']) == (None, None, 4)
    assert told['camera_norms']['transductive'] is (on == 'test') and told['camera_norms']['adapted_on'] == on
    assert any('transductive' in remark for remark in told['remarks']) is (on == 'test')
    rows = [row['options'] for row in csv.DictReader((tmp_path / 'out.csv').open())]
    assert rows == ['', f'adapt=4 adapt_on={on} transductive={on == "test"}']
    page = (tmp_path / 'out.html').read_text(encoding='utf-8')
    assert page.count(adapted) > 2 and 'each camera has its own norms' in page
    assert ('ransductive' in page) is (on == 'test')
    assert len(list(tmp_path.glob('out-*.png'))) == 2
    stored = [Features.load(file / 'gallery.safetensors').embeddings for file in sorted((tmp_path / 'f').iterdir())]
    for found, expected in zip(stored, (one, two), strict=True):
        torch.testing.assert_close(found, expected.gallery.embeddings)
    code, again, _ = run(folder, *flags, f'--features={tmp_path / "f"}')  # reads what is there
    assert code == 0 and again == out


def test_training_images_are_all_that_is_looked_at(folder, market, monkeypatch):
    from msinet_eval import evaluation

    seen = []
    real = evaluation.adapt
    monkeypatch.setattr(
        evaluation, 'adapt', lambda model, records, *a, **k: seen.append(records) or real(model, records, *a, **k)
    )
    dataset = create_dataset('market1501', str(market))
    for on, expected in ((None, dataset.train), ('test', dataset.query + dataset.gallery)):
        result = evaluate(str(folder), dataset, adapt=2, adapt_on=on, workers=0)
        assert seen.pop() == expected
        assert result.name.endswith('transductive)') is (on == 'test')


def test_adapting_replaces_the_cameras_of_a_folder(site, folder, run):
    code, out, _ = run(site, '--adapt', '4', '--adapt-on', 'test')
    assert code == 0
    assert out.count(f'  {site / "cameras.safetensors"} is left out') == 2
    assert [line.split()[-5:] for line in out.splitlines()[1:3]] == [
        line.split()[-5:] for line in run(folder, '--adapt', '4', '--adapt-on', 'test')[1].splitlines()[1:3]
    ]


def test_what_is_refused(site, folder, market, run, tmp_path):
    for argv, message in (
        ([folder, '--adapt-on', 'test'], '--adapt-on is a setting of --adapt: give that, too'),
        ([folder, '--adapt', '4', '--no-camera-norms'], '--adapt asks for the norms of cameras'),
        ([folder, '--adapt', '4', '--neck'], 'leave it out, or --adapt'),
        ([site, '--neck'], 'leave out --neck, or the norms of cameras'),
        (
            [folder, '--adapt', '4', '--calibrate'],
            '--calibrate is for plain embeddings, as msinet-eval pair takes them',
        ),
        ([site, '--calibrate'], 'knows cameras: give --no-camera-norms'),
    ):
        code, _, err = run(*argv)
        errors = [line for line in err.splitlines() if line.startswith('error: ')]
        assert code == 2 and len(errors) == 1 and message in errors[0], err
    assert main(['--embeddings', 'a.npy', 'b.npy', '--adapt', '4']) == 2
    with pytest.raises(InputError, match='adapt makes norms of cameras, and `norms` are given'):
        model, config, norms = norms_of(folder, create_dataset('market1501', str(market)).train)
        evaluate(model, 'market1501', data_dir=market, norms=norms, adapt=4)
    with pytest.raises(InputError, match='adapt goes by the data config of a model: leave out the transform'):
        evaluate(model, 'market1501', data_dir=market, adapt=4, transform=lambda image: image)
    with pytest.raises(InputError, match="adapt_on: 'gallery' is not one of train, test"):
        EvalSettings(adapt=4, adapt_on='gallery')
    (tmp_path / 'm.onnx').write_bytes(b'')
    code, _, err = run(tmp_path / 'm.onnx', '--calibrate')
    assert code == 2 and 'm.onnx' in err and 'unknown model' not in err
    code, _, err = run(tmp_path / 'm.onnx', '--adapt', '4')
    assert code == 2 and '--adapt: ' in err and 'is an exported model, whose statistics are fixed' in err
    for path in (market / 'bounding_box_train').iterdir():
        path.write_bytes(path.read_bytes()[:300])
    code, _, err = run(folder, '--adapt', '4')
    assert code == 2 and 'cannot read this image' in err
    code, _, err = run(folder, '--adapt', '4', '--skip-broken')
    assert code == 2 and 'of the train part of' in err


def test_other_commands(site, folder, market, capsys, caplog, tmp_path):
    data = ['-ds', 'market1501', '--data-dir', str(market), '--workers', '0', '--device', 'cpu']
    assert main(['compare', str(folder), str(site), *data, '--json', str(tmp_path / 'c.json')]) == 0
    assert '  B: batch norms and means of 2 cameras' in capsys.readouterr().out
    assert any(remark.startswith('B: cameras 3') for remark in json.loads((tmp_path / 'c.json').read_text())['remarks'])

    images = sorted(map(str, (market / 'query').glob('*.jpg')))
    assert main(['pair', *images[:2], '--model', str(site)]) == 0
    assert 'knows cameras, but a pair has none' in caplog.text
    distance = capsys.readouterr().out.split(',')[0]
    assert main(['pair', *images[:2], '--model', str(folder)]) == 0
    assert capsys.readouterr().out.split(',')[0] == distance

    assert main([str(site), *data, '--no-intervals', '--features', str(tmp_path / 'f')]) == 0
    capsys.readouterr()
    search = ['search', str(tmp_path / 'f'), *images, '--model', str(site), '-k', '2', '--device', 'cpu']
    assert main([*search, '--camera', '1']) == 0
    found = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert main(['search', str(tmp_path / 'f'), str(tmp_path / 'f'), '-k', '2', '--device', 'cpu']) == 0
    stored = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    for row, expected in zip(found, stored, strict=True):  # all queries are of camera 1
        assert row['index'] == expected['index']
        assert float(row['distance']) == pytest.approx(float(expected['distance']), abs=1e-3)
    caplog.clear()
    assert main(search) == 0
    assert 'they are embedded by its own statistics. Give --camera NAME' in caplog.text
    caplog.clear()
    assert main([*search, '--no-camera-norms']) == 0 and 'own statistics' not in caplog.text
    capsys.readouterr()
    for argv, message in (
        (
            [*search, '--camera', '9'],
            '--camera 9: ' + str(site) + ' does not know this camera: those that it knows are 1, 2',
        ),
        ([*search[:-4], '--camera', '1', '--no-camera-norms'], 'it has not been adapted to any'),
        (['search', str(tmp_path / 'f'), str(tmp_path / 'f'), '--camera', '1'], '--camera is for images'),
    ):
        assert main(argv) == 2
        assert message in capsys.readouterr().err


def test_a_file_of_one_camera_says_so(site, run, tmp_path):
    file = tmp_path / 'one.xml'
    assert hub(['export', str(site), '--format', 'openvino', '--camera', '2', '--output', str(file)]) == 0
    code, out, err = run(file)
    assert code == 0 and "the file is of camera '2': all images are embedded as its own" in out + err
