"""Galleries, crops and questions that cannot be used: one line that names them, and exit code 2."""

import os
import re
import shutil
import sqlite3
import subprocess

import numpy as np
import pytest
import timm
from hostile import refused, run
from PIL import Image

import msinet_eval.commands.gallery
from msinet_timm.errors import InputError
from msinet_timm.files import WriteError
from msinet_timm.gallery import Gallery, parse_time
from msinet_timm.gallery.repair import repair
from msinet_timm.hub.folder import save_folder

MAIN = msinet_eval.commands.gallery.main


@pytest.fixture(scope='module')
def _made(tmp_path_factory):
    """Models, images, and a gallery of them."""
    folder = tmp_path_factory.mktemp('made')
    save_folder(timm.create_model('test_resnet', num_classes=0), folder / 'model')
    save_folder(timm.create_model('test_vit', num_classes=0), folder / 'other')
    rng = np.random.default_rng(0)
    (folder / 'crops' / 'door' / '1').mkdir(parents=True)
    for i in range(4):
        pixels = rng.integers(0, 255, (48, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / 'crops' / 'door' / '1' / f'{i}.png')
    argv = ['add', folder / 'g', folder / 'crops', '--model', folder / 'model', '--pattern', 'cameras']
    assert MAIN([str(word) for word in argv]) == 0
    return folder


@pytest.fixture
def site(_made, tmp_path, monkeypatch):
    shutil.copytree(_made, tmp_path, dirs_exist_ok=True)
    with sqlite3.connect(tmp_path / 'g' / 'gallery.sqlite') as database:  # the model has moved with it
        database.execute("UPDATE settings SET value = ? WHERE name = 'model'", (str(tmp_path / 'model'),))
    database.close()
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('text')
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'a.txt').write_text('text')
    (tmp_path / 'empty').mkdir()
    return tmp_path


IMAGE = 'crops/door/1/0.png'
REFUSED = {
    'no gallery': (['stats', 'nothing'], ['nothing: there is no gallery']),
    'an empty folder': (['search', 'empty', IMAGE], ['empty: there is no gallery']),
    'a file': (['stats', 'file'], ['file is a file', 'a gallery is a folder']),
    'another folder': (['add', 'photos', IMAGE, '--model', 'model'], ['photos is no gallery', 'holds other files']),
    'another model': (['add', 'g', IMAGE, '--model', 'other'], ['embeddings of another model', 'reembed']),
    'no model': (['add', 'g', IMAGE, '--model', 'nowhere'], ['nowhere']),
    'no image': (['search', 'g', 'file'], ['file: cannot read this image']),
    'no file': (['search', 'g', 'none.jpg'], ['none.jpg']),
    'nothing to add': (['add', 'g', 'none'], ['none: there is no such file or folder']),
    'no images to add': (['add', 'g', 'photos'], ['photos: there are no images']),
    'a camera': (['search', 'g', IMAGE, '--camera', 'dor'], ["camera 'dor'", 'knows door']),
    'a tracklet': (['delete', 'g', '--tracklet', 'door/9'], ["tracklet 'door/9'", 'none of this name']),
    'an identity': (['delete', 'g', '--identity', 'ben'], ["identity 'ben'", 'does not know']),
    'nothing to delete': (['delete', 'g'], ['--tracklet, --identity, --before or --camera']),
    'a time': (['search', 'g', IMAGE, '--since', 'yesterday'], ["'yesterday' is no time", '2026-05-01']),
    'a month': (['search', 'g', IMAGE, '--since', '2026-13-01'], ["'2026-13-01' is no time"]),
    'a year': (['search', 'g', IMAGE, '--since', '2026'], ["'2026' is no time", 'YYYY-MM-DD']),
    'a query camera': (
        ['search', 'g', IMAGE, '--query-camera', 'door'], ['--query-camera door', 'knows no cameras']
    ),
    'a time too late': (['search', 'g', IMAGE, '--since', '1e12'], ['between 1970 and 9999']),
    'times the wrong way round': (
        ['search', 'g', IMAGE, '--since', '2026-05-02', '--until', '2026-05-01'], ['must be before']
    ),
    'merged with itself': (['merge', 'g', 'door/1', 'door/1'], ['with itself']),
    'merged with nobody': (['merge', 'g', 'door/1', 'x'], ["tracklet 'x'"]),
    'a pattern': (['add', 'g', 'crops', '--pattern', '('], ['--pattern (', 'no regular expression']),
    'a pattern without groups': (['add', 'g', 'crops', '--pattern', 'x'], ['named groups, of camera']),
    'a pattern that does not match': (['add', 'g', 'crops', '--pattern', '(?P<camera>z)'], ['does not match']),
    'a name': (['add', 'g', IMAGE, '--camera', 'a\nb'], ["camera 'a\\nb'", 'can be shown']),
    'a drawing': (['search', 'g', IMAGE, '--picture', 'nowhere/found.png'], ['nowhere/found.png: cannot write']),
    'a drawing of another kind': (['search', 'g', IMAGE, '--picture', 'found.xyz'], ['found.xyz']),
    'an address': (['stats', 'qdrant://host'], ['qdrant://HOST:PORT/NAME']),
    'a server': (['stats', 'qdrant://127.0.0.1:9/people'], ['qdrant://127.0.0.1:9/people: the server does not answer']),
    'an address of others': (['serve', 'g', '--host', '0.0.0.0'], ['--host 0.0.0.0', 'needs a --token']),
    'a short token': (['serve', 'g', '--token', 'file'], ['--token must have 16 characters']),
    'a token that is not there': (['serve', 'g', '--token', 'none'], ['--token none: cannot be read']),
    'an empty token': (['serve', 'g', '--token', os.devnull], [f'--token {os.devnull}: cannot be read', 'no file']),
    'repair of nothing': (['repair', 'empty'], ['is no gallery']),
}  # fmt: skip


@pytest.mark.parametrize('kind', REFUSED)
def test_refused(site, capsys, kind):
    argv, names = REFUSED[kind]
    before = (site / 'g' / 'gallery.sqlite').read_bytes()
    refused(capsys, MAIN, *argv, names=names)
    with Gallery(site / 'g') as gallery:
        assert len(gallery) == 4
    assert 'drawing' in kind or (site / 'g' / 'gallery.sqlite').read_bytes() == before
    assert not list((site / 'empty').iterdir())


DATES = ['2026', '202605', '20260501', ' 2026 ']


@pytest.mark.parametrize('moment', [*DATES, '', 'nan', 'inf', '2026-05-01T25:00', [], '١', None, 1e12])
def test_moments_that_are_none(moment):
    if moment == '١':
        assert parse_time(moment) == 1
        return
    with pytest.raises(InputError, match='is no time'):
        parse_time(moment)


def test_moments():
    assert parse_time('2026-05-01T14:30:00+02:00') == parse_time('2026-05-01T12:30Z') == 1777638600
    assert parse_time('2026-05-01') == parse_time(1777593600) == parse_time('1777593600')
    assert (parse_time(2026), parse_time(20260501.0)) == (2026, 20260501)


def big(folder, count=2000):
    """A gallery of several hundred pages."""
    rng = np.random.default_rng(0)
    with Gallery(folder) as gallery:
        images = [b'\xff\xd8' + rng.bytes(3000) + b'\xff\xd9' for _ in range(count)]
        gallery.add_embeddings(
            rng.normal(size=(count, 256)), images, camera='door', tracklet=[f't{i // 4}' for i in range(count)]
        )
    return images


def damage(path, kind):
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    if kind == 'pages':
        for page in rng.choice(np.arange(20, len(content) // 8192), 12, replace=False):
            content[page * 8192 : page * 8192 + 4000] = rng.bytes(4000)
    elif kind == 'cut off':
        del content[len(content) * 2 // 3 :]
    elif kind == 'the beginning':
        content[:4096] = rng.bytes(4096)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize('kind', ['pages', 'cut off'])
def test_a_damaged_gallery_is_told_and_what_can_be_read_is_saved(tmp_path, capsys, kind):
    folder = tmp_path / 'g'
    images = big(folder)
    damage(folder / 'gallery.sqlite', kind)
    damaged = (folder / 'gallery.sqlite').read_bytes()
    try:
        with Gallery(folder) as gallery:
            gallery.search(np.ones(256))
            [gallery.jpeg(id) for id in range(1, 2001)]
        pytest.fail('the damage was not seen')
    except InputError as e:
        assert 'damaged' in str(e) and f'msinet-gallery repair {folder}' in str(e)
    code, text = run(capsys, MAIN, 'repair', folder)
    assert code == 0, text
    assert 'crops saved' in text and f'{folder}.damaged' in text
    assert (tmp_path / 'g.damaged' / 'gallery.sqlite').read_bytes() == damaged
    rows = np.random.default_rng(0)
    [rows.bytes(3000) for _ in range(2000)]
    rows = rows.normal(size=(2000, 256)).astype(np.float32)
    with Gallery(folder) as gallery:
        saved = gallery.store.ids(gallery._where())
        assert 500 < len(saved) < 2000
        lost = int(re.search(rf'{len(saved):,} crops saved, (\d+) known to be lost', text)[1])
        assert lost == 2000 - len(saved) if kind == 'pages' else 0 < lost < 2000 - len(saved)
        kept = [id for id in saved if gallery.store.jpeg(id) is not None]
        assert len(kept) > 400 and all(gallery.jpeg(id) == images[id - 1] for id in kept)
        for id in saved[:: len(saved) // 20]:
            match = gallery.search(rows[id - 1], 1, per_tracklet=False)[0]
            assert match.crop.id == id and match.distance < 1e-2
            if match.crop.camera:
                assert match.crop.camera == 'door' and match.crop.tracklet == f't{(id - 1) // 4}'
        assert gallery.delete(tracklet=match.crop.tracklet) > 0
    refused(capsys, MAIN, 'repair', folder, names=['g.damaged is there already'])


def test_nothing_can_be_saved_of_what_is_no_database(tmp_path, capsys):
    big(tmp_path / 'g', 100)
    damage(tmp_path / 'g' / 'gallery.sqlite', 'the beginning')
    before = (tmp_path / 'g' / 'gallery.sqlite').read_bytes()
    refused(capsys, MAIN, 'stats', tmp_path / 'g', names=['damaged', 'msinet-gallery repair'])
    refused(capsys, MAIN, 'repair', tmp_path / 'g', names=['nothing can be read of it', 'backup'])
    assert (tmp_path / 'g' / 'gallery.sqlite').read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if 'damaged' in p.name] == []


def test_a_full_disk_leaves_nothing_half(small_disk):
    folder, rng = small_disk(2048) / 'g', np.random.default_rng(0)
    gallery = Gallery(folder)
    added = 0
    with pytest.raises(WriteError, match='cannot be written .*full'):
        while True:
            rows, images = rng.normal(size=(10, 256)), [rng.bytes(5000) for _ in range(10)]
            gallery.add_embeddings(rows, images, tracklet=[f't{added + i}' for i in range(10)])
            added += 10
    assert 50 < added < 400 and len(gallery) == added
    assert gallery.search(np.ones(256), added + 5, per_tracklet=False)[added - 1]
    gone = gallery.store.vectors([4]).astype('<f2').tobytes()
    assert gallery.delete(tracklet='t3') == 1 and len(gallery) == added - 1
    told = gallery.erase_report()[0].settled
    content = b''.join(path.read_bytes() for path in folder.iterdir())
    assert told == (gone[:16] not in content)
    subprocess.run(['mount', '-o', 'remount,size=8192k', str(folder.parent)], check=True)
    assert gallery.erase_report()[0].settled
    assert gone[:16] not in b''.join(path.read_bytes() for path in folder.iterdir())
    gallery.close()
    with Gallery(folder) as again:
        assert len(again) == added - 1
    database = sqlite3.connect(folder / 'gallery.sqlite')
    assert database.execute('PRAGMA integrity_check').fetchall() == [('ok',)]
    database.close()


def test_a_folder_that_is_read_only_can_be_searched(site, small_disk, capsys):
    disk = small_disk(1024)
    shutil.copytree(site / 'g', disk / 'g')
    (disk / 'more').mkdir()
    subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    code, text = run(capsys, MAIN, 'search', disk / 'g', IMAGE, '--k', '1')
    assert code == 0 and 'door/1' in text
    assert run(capsys, MAIN, 'stats', disk / 'g')[0] == 0
    refused(capsys, MAIN, 'delete', disk / 'g', '--camera', 'door', names=[f'{disk}/g: cannot be written', 'read'])
    Image.new('RGB', (8, 16)).save(site / 'new.png')
    refused(capsys, MAIN, 'add', disk / 'g', 'new.png', names=['cannot be written'])
    argv = ['add', disk / 'more' / 'g', 'new.png', '--model', 'model']
    refused(capsys, MAIN, *argv, names=['cannot be written (Read-only file system)'])


def test_what_was_broken_off_in_repair_can_be_run_again(tmp_path, monkeypatch):
    big(tmp_path / 'g', 300)
    monkeypatch.setattr('msinet_timm.gallery.repair._mend', lambda _: os._exit(9))
    child = os.fork()
    if not child:
        repair(tmp_path / 'g')
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    done = repair(tmp_path / 'g')
    assert (done.saved, done.lost) == (300, 0) and not (tmp_path / 'g.repaired').exists()
