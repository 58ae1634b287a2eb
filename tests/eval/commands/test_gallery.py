"""msinet-gallery: crops in, people out, by the small network of the tests."""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import timm
from PIL import Image
from qdrant_stub import qdrant_stub

from msinet_eval.commands.gallery import main
from msinet_timm.datasets import create_dataset
from msinet_timm.gallery import Gallery
from msinet_timm.hub.calibration import Calibration
from msinet_timm.hub.folder import save_folder


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A model, and crops of people as msinet-track leaves them: CAMERA/TRACKLET/*.jpg."""
    folder = tmp_path_factory.mktemp('made')
    save_folder(timm.create_model('test_resnet', num_classes=0), folder / 'model')
    Calibration(0.2, 1e-3, 0.5, 'some', 'test_resnet').save(folder / 'model')
    for record in create_dataset('sample').train[:60]:
        place = folder / 'crops' / f'cam{record.camera}' / record.identity
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.path, place)
    return folder


@pytest.fixture
def site(made, tmp_path, monkeypatch, capsys):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    add = ['add', 'g', 'crops', '--model', 'model', '--pattern', 'cameras', '--time', '2026-05-01T12:00+02:00']
    assert main(add) == 0
    assert '60 crops added, 60 in all' in capsys.readouterr().out
    return add


def test_what_is_added_is_found(site, tmp_path, capsys):
    image = sorted((tmp_path / 'crops').rglob('*.jpg'))[7]
    camera, tracklet = image.parts[-3:-1]
    assert main(['search', 'g', str(image), '--k', '3', '--picture', 'found.png']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    place, distance, _, verdict, name, identity, of, when = lines[1].split()
    assert (place, verdict, identity, of) == ('1', 'same', '-', camera)
    assert name == f'2026-05-01T10:00:00Z/{camera}/{tracklet}'
    assert float(distance) < 0.1 and when == '2026-05-01T10:00:00Z'
    assert Image.open('found.png').width > 300
    other = next(p.name for p in (tmp_path / 'crops').iterdir() if p.name != camera)
    assert main(['search', 'g', str(image), '--camera', other, '--since', '2026-05-01']) == 0
    assert {line.split()[6] for line in capsys.readouterr().out.splitlines()[1:]} == {other}
    assert main(['search', 'g', str(image), '--until', '2026-05-01T10:00']) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(['search', 'g', str(image), '--rerank', '--crops', '--k', '5']) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    with Gallery('g') as gallery:
        assert [entry.action for entry in gallery.log()] == ['search'] * 4


def test_adding_again_adds_what_is_new_and_leaves_out_what_is_broken(site, tmp_path, capsys, caplog):
    new = next((tmp_path / 'crops').iterdir()) / '9999'
    new.mkdir()
    Image.new('RGB', (32, 64), 'red').save(new / 'new.jpg')
    (new / 'broken.jpg').write_bytes(b'no image')
    assert main(site) == 0
    assert '1 crops added, 61 in all' in capsys.readouterr().out
    assert 'broken.jpg' in caplog.text and '1 of 62 files are left out' in caplog.text


def test_runs_of_two_days_are_not_of_one_tracklet(site, tmp_path, capsys):
    assert main([*site[:-1], '2026-05-02T12:00+02:00']) == 0
    assert '60 crops added, 120 in all' in capsys.readouterr().out
    with Gallery('g') as gallery:
        days = {'2026-05-01T10:00:00Z', '2026-05-02T10:00:00Z'}
        assert {s.tracklet.split('/')[0] for s in gallery.tracklets()} == days
        assert all(s.start == s.end for s in gallery.tracklets())


def test_what_others_add_meanwhile_is_not_counted(site, tmp_path, monkeypatch, capsys):
    Image.new('RGB', (32, 64), 'red').save(tmp_path / 'new.png')
    rows, add = np.eye(3, Gallery('g').size), Gallery.add_crops

    def beside(gallery, *args, **more):
        gallery.add_embeddings(rows)
        return add(gallery, *args, **more)

    monkeypatch.setattr(Gallery, 'add_crops', beside)
    assert main(['add', 'g', 'new.png']) == 0
    assert '1 crops added, 64 in all' in capsys.readouterr().out


def test_bytes_that_are_not_gone_are_told(site, monkeypatch, capsys):
    monkeypatch.setattr('msinet_timm.gallery.sqlite.WAIT', 0.2)
    with Gallery('g') as gallery:
        a, b = (s.tracklet for s in gallery.tracklets()[:2])
    reader = sqlite3.connect('g/gallery.sqlite', isolation_level=None)
    reader.execute('BEGIN')
    reader.execute('SELECT count(*) FROM crops').fetchall()
    assert main(['delete', 'g', '--tracklet', a]) == 0
    assert 'crops erased, not yet gone from all files: run stats later' in capsys.readouterr().out
    assert main(['stats', 'g']) == 0
    assert 'crops by tracklet, not yet gone from all files' in capsys.readouterr().out
    reader.execute('COMMIT')
    reader.close()
    assert main(['stats', 'g']) == 0
    assert 'not yet' not in capsys.readouterr().out


def test_a_server_proves_no_erasure(site, capsys):
    image = next(Path('crops').rglob('*.jpg'))
    with qdrant_stub() as (_, port):
        place = f'qdrant://127.0.0.1:{port}/people'
        assert main(['add', place, str(image), '--model', 'model', '--camera', 'door']) == 0
        assert main(['delete', place, '--camera', 'door']) == 0
        assert '1 crops erased, which a server cannot prove to be gone from its disks' in capsys.readouterr().out
        assert main(['stats', place]) == 0
        assert 'by camera, which a server cannot prove to be gone from its disks' in capsys.readouterr().out


def test_merged_told_and_erased(site, capsys):
    with Gallery('g') as gallery:
        a, b = (s.tracklet for s in gallery.tracklets()[:2])
    assert main(['merge', 'g', a, b]) == 0
    assert 'both are person-1' in capsys.readouterr().out
    assert main(['stats', 'g']) == 0
    text = capsys.readouterr().out
    assert (
        re.search(r'crops +60', text)
        and re.search(r'identities +1', text)
        and 'cam' in text
        and '2026-05-01T10' in text
    )
    assert main(['delete', 'g', '--identity', 'person-1']) == 0
    assert re.search(r'[1-9]\d* crops erased, gone from all files', capsys.readouterr().out)
    assert main(['stats', 'g']) == 0
    assert re.search(r'erased 20.*crops by identity', capsys.readouterr().out)
    assert main(['delete', 'g', '--before', '2026-06-01']) == 0
    capsys.readouterr()
    assert main(['stats', 'g']) == 0
    assert re.search(r'crops +0', capsys.readouterr().out)


def test_another_model_embeds_all_anew(site, tmp_path, capsys):
    save_folder(timm.create_model('test_vit', num_classes=0), tmp_path / 'other')
    image = str(sorted((tmp_path / 'crops').rglob('*.jpg'))[7])
    assert main(['add', 'g', image, '--model', 'other']) == 2
    assert 'holds embeddings of another model (' in capsys.readouterr().err
    assert main(['reembed', 'g', '--model', 'other']) == 0
    assert '60 crops embedded by other' in capsys.readouterr().out
    assert main(['search', 'g', image, '--k', '1']) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[4] == '/'.join(
        ['2026-05-01T10:00:00Z', *image.split('/')[-3:-1]]
    )
    assert main(['reembed', 'g', '--model', 'other']) == 0
    assert ': 0 crops embedded' in capsys.readouterr().out


def test_identities_of_folders_and_names_of_files(site, tmp_path, capsys):
    for who in ('anna', 'ben'):
        (tmp_path / 'known' / who / 'door').mkdir(parents=True)
        Image.new('RGB', (32, 64), 'red' if who == 'anna' else 'blue').save(tmp_path / 'known' / who / 'door' / 'a.jpg')
    assert main(['add', 'k', 'known', '--model', 'model', '--pattern', 'identities']) == 0
    with Gallery('k') as gallery:
        assert [(s.identity, s.tracklet, s.camera) for s in gallery.tracklets()] == [
            ('anna', 'anna/door', 'door'), ('ben', 'ben/door', 'door'),
        ]  # fmt: skip
    Image.new('RGB', (32, 64), 'green').save(tmp_path / 'yard_1777645800.png')
    pattern = r'(?P<camera>[a-z]+)_(?P<time>\d+)'
    assert main(['add', 'k', 'yard_1777645800.png', '--pattern', pattern]) == 0
    with Gallery('k') as gallery:
        assert [s.start for s in gallery.tracklets(camera='yard')] == [1777645800]


@pytest.mark.slow
def test_a_gallery_is_served_until_it_is_stopped(site, tmp_path):
    (tmp_path / 'token').write_text('a token of many characters\n')
    words = ['serve', 'g', '--port', '0', '--token', 'token']
    process = subprocess.Popen(
        [sys.executable, '-m', 'msinet_eval.commands.gallery', *words], stderr=subprocess.PIPE, text=True
    )
    try:
        address = next(found[0] for line in process.stderr if (found := re.search(r'http://127\.0\.0\.1:\d+/', line)))
        assert httpx.get(f'{address}api/gallery', timeout=60).status_code == 401
        headers = {'Authorization': 'Bearer a token of many characters'}
        assert httpx.get(f'{address}api/gallery', headers=headers, timeout=60).json()['crops'] == 60
        image = next((tmp_path / 'crops').rglob('*.jpg'))
        found = httpx.post(f'{address}api/search', content=image.read_bytes(), headers=headers, timeout=60).json()
        assert found[0]['tracklet'] == '/'.join(['2026-05-01T10:00:00Z', *image.parts[-3:-1]])
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130 and rest == 'interrupted\n'
    with Gallery('g') as gallery:
        assert [entry.action for entry in gallery.log()] == ['search']
