"""`msinet-track` from films to tracks, crops, films and a page; interrupted, it goes on where it was."""

import csv
import re
import shutil

import numpy as np
import pytest
from films import RATE, cross, cross_later, walk, write_sequence
from hostile import refused, run

import msinet_eval.commands.track as command
from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError
from msinet_timm.gallery import Gallery
from msinet_timm.tracking import Tracker
from msinet_timm.tracking import run as passes
from msinet_timm.tracking.films import open_film, write_video
from msinet_timm.tracking.mot import read_boxes

FAST = ['--device', 'cpu', '--model', 'msinet_x1_0.rendered_128x64']


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp('site')
    write_sequence(root / 'door', cross, 30)
    write_sequence(root / 'yard', cross_later, 46)
    return root


@pytest.fixture(scope='module')
def tracked(site):
    folder = site / 'out'
    words = [site / 'door', site / 'yard', '--output', folder, '--video', '--measure', '--crops', '4', *FAST]
    assert command.main([str(word) for word in words]) == 0
    return folder


def test_tracks_of_each_camera(tracked, site):
    for camera in ('door', 'yard'):
        found, detected = read_boxes(tracked / f'{camera}.txt'), read_boxes(site / camera / 'det' / 'det.txt')
        assert 0.85 < len(found.frame) / len(detected.frame) <= 1
        assert (found.identity > 0).all()


def test_a_camera_that_nobody_passed(site, tmp_path, capsys, caplog):
    shutil.copytree(site / 'door', tmp_path / 'cellar')
    for name in ('det/det.txt', 'gt/gt.txt'):
        (tmp_path / 'cellar' / name).write_text('')
    both = [site / 'door', tmp_path / 'cellar', '--video', '--crops', '4', '--measure']
    code, text = run(capsys, command.main, *both, '--output', tmp_path / 'out', *FAST)
    assert code == 0 and 'cellar: nobody was detected in any frame' in caplog.text, text
    assert not (tmp_path / 'out' / 'cellar.txt').read_text() and (tmp_path / 'out' / 'cellar.mp4').is_file()
    code, text = run(capsys, command.main, *both[:2], '--output', tmp_path / 'adapted', '--adapt', '8', *FAST)
    assert code == 0 and not (tmp_path / 'adapted' / 'cellar.txt').read_text(), text
    (tmp_path / 'cellar').rename(tmp_path / 'attic')
    code, text = run(capsys, command.main, tmp_path / 'attic', '--output', tmp_path / 'alone', *FAST)
    assert code == 2 and 'attic' in text and 'nobody was detected' in text, text


def test_crops_are_what_unlabelled_training_reads(tracked):
    dataset = create_dataset('folder', str(tracked / 'crops'), layout='cameras')
    assert {r.camera for r in dataset.train} == {'door', 'yard'}
    by_tracklet = {}
    for record in dataset.train:
        assert record.tracklet
        by_tracklet.setdefault((record.camera, record.tracklet), []).append(record)
    assert 4 <= len(by_tracklet) < 20 and max(map(len, by_tracklet.values())) <= 4


def test_films_with_boxes(tracked, site):
    plain = next(open_film(site / 'door').frames(12)).pixels.astype(int)
    drawn = next(open_film(tracked / 'door.mp4').frames(12)).pixels.astype(int)
    assert plain.shape == drawn.shape and (np.abs(plain - drawn).max(2) > 80).mean() > 0.01


def test_events(tracked):
    with open(tracked / 'events.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert all(row['kind'] in ('merge', 'split') for row in rows)


def test_the_page_is_one_file(tracked):
    page = (tracked / 'index.html').read_text()
    assert '<script' not in page and not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count('<rect') == len({p.parent for p in tracked.glob('crops/*/*/*.jpg')})
    assert 'IDF1' in page and 'msinet-track' in page and page.count('data:image/jpeg') > 3


def test_again_reads_what_was_found(tracked, site, capsys, monkeypatch):
    """With other settings of joining, nothing is embedded anew."""
    before = (tracked / 'door.txt').read_bytes()
    monkeypatch.setattr(Tracker, 'embed', None)
    words = [site / 'door', site / 'yard', '--output', tracked, '--crops', '0', '--measure', *FAST]
    code, text = run(capsys, command.main, *words)
    assert code == 0 and 'IDF1' in text, text
    assert (tracked / 'door.txt').read_bytes() == before and not (tracked / 'crops').exists()
    code, text = run(capsys, command.main, *words, '--rerank')
    assert code == 0, text
    code, text = run(capsys, command.main, *words, '--online', '--threshold', '0.01')
    assert code == 0 and (tracked / 'door.txt').read_bytes() != before


def test_an_interrupted_run_goes_on(site, tmp_path, capsys, monkeypatch):
    """After each file of frames the process may end; what comes out is the same."""
    monkeypatch.setattr(passes, 'CHUNK', 8)
    words = [site / 'door', '--crops', '0', *FAST, '--output']
    assert run(capsys, command.main, *words, tmp_path / 'whole')[0] == 0
    embed, calls = Tracker.embed, []

    def interrupted(self, *values):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return embed(self, *values)

    monkeypatch.setattr(Tracker, 'embed', interrupted)
    assert run(capsys, command.main, *words, tmp_path / 'cut')[0] == 130
    files = sorted((tmp_path / 'cut' / 'found' / 'door').glob('*.npz'))
    assert len(files) == 2  # 16 frames
    calls[:] = [1] * 50
    assert run(capsys, command.main, *words, tmp_path / 'cut')[0] == 0
    assert len(calls) == 50 + 30 - 16
    assert (tmp_path / 'cut' / 'door.txt').read_bytes() == (tmp_path / 'whole' / 'door.txt').read_bytes()


DETECTOR = """
def find(frame):
    assert frame.shape == (160, 240, 3) and frame.dtype.name == "uint8"
    return [[100, 10, 132, 106]], [0.9]

def nothing(frame):
    return []

def broken(frame):
    return [[1, 2, 3]]

def failing(frame):
    raise RuntimeError("out of luck")
"""


@pytest.fixture
def detector(tmp_path):
    (tmp_path / 'mine.py').write_text(DETECTOR)
    return tmp_path / 'mine.py'


def test_a_detector_of_ones_own_on_a_video(tmp_path, detector, capsys):
    write_video(tmp_path / 'hall.mp4', (frame for frame, _ in walk(cross, 12)), RATE)
    words = [tmp_path / 'hall.mp4', '--detector', f'{detector}:find', '--model', 'none', '--output', tmp_path / 'out']
    code, text = run(capsys, command.main, *words)
    assert code == 0 and '1 people, 1 tracklets' in text, text
    assert {*read_boxes(tmp_path / 'out' / 'hall.txt').identity.tolist()} == {1}


def test_cameras_are_learnt(site, tmp_path, capsys):
    words = [site / 'door', '--adapt', '8', '--crops', '0', '--output', tmp_path / 'out', *FAST]
    code, text = run(capsys, command.main, *words)
    assert code == 0, text
    assert (tmp_path / 'out' / 'model' / 'cameras.safetensors').is_file()
    before = (tmp_path / 'out' / 'door.txt').read_bytes()
    assert run(capsys, command.main, *words)[0] == 0  # by the cameras that it has learnt
    assert (tmp_path / 'out' / 'door.txt').read_bytes() == before


def test_the_detector_is_all_that_runs(site, tmp_path):
    """Nothing that a folder holds is executed: what was found is read without pickles."""
    folder = tmp_path / 'found' / 'door'
    folder.mkdir(parents=True)
    np.savez(folder / '000001.npz', frame=np.array([print], object))
    with pytest.raises(InputError, match='000001.npz: cannot be read; remove it and what comes after it'):
        passes._load(folder / '000001.npz')


def test_without_appearance(site, tmp_path, capsys):
    code, _ = run(capsys, command.main, site / 'door', '--model', 'none', '--output', tmp_path / 'out')
    assert code == 0
    shutil.rmtree(tmp_path / 'out')


def test_crops_fill_a_gallery_once(tracked, site, tmp_path, capsys):
    words = [site / 'door', site / 'yard', '--output', tracked, '--video', '--crops', '4', *FAST]
    more = ['--gallery', tmp_path / 'people.gallery', '--start', '2026-05-01T14:30:00Z']
    for _ in range(2):
        assert run(capsys, command.main, *words, *more)[0] == 0
    written = {path.relative_to(tracked / 'crops') for path in (tracked / 'crops').rglob('*.jpg')}
    with Gallery(tmp_path / 'people.gallery') as gallery:
        sightings = gallery.tracklets()
        assert len(gallery) == len(written) and gallery.stats()['cameras'].keys() == {'door', 'yard'}
        [run_of] = {s.tracklet.split('/')[1] for s in sightings}
        assert re.fullmatch('[0-9a-f]{8}', run_of)
        assert {s.tracklet for s in sightings} == {
            f'2026-05-01T14:30:00Z/{run_of}/{path.parts[0]}/{int(path.parts[1])}' for path in written
        }
        assert len({s.identity for s in sightings}) < len(sightings)  # who was in both
        assert all(1777645800 <= s.start <= s.end < 1777645800 + 46 / RATE for s in sightings)
        image = tracked / 'crops' / min(written)
        match = gallery.search(image, 1, camera='door')[0]
        assert min(written).parts[0] == match.crop.camera == 'door'
        assert match.distance < 0.1 and match.verdict == 'same'
    text = run(capsys, command.main, *words, *more[:2])[1]
    assert 'error: --gallery: it needs --start' in text


def test_other_settings_mix_nobody_in_a_gallery(tracked, site, tmp_path, capsys, caplog):
    words = [site / 'door', site / 'yard', '--output', tracked, '--crops', '4', *FAST]
    words += ['--gallery', tmp_path / 'people.gallery', '--start', '2026-05-01T14:30:00Z']
    assert run(capsys, command.main, *words)[0] == 0
    with Gallery(tmp_path / 'people.gallery') as gallery:
        before = {s.tracklet: gallery.crops(s.tracklet) for s in gallery.tracklets()}
    assert not caplog.records
    assert run(capsys, command.main, *words, '--threshold', '0.01', '--crops', '8')[0] == 0
    assert re.search(r'holds \d+ tracklets of this --start .* other settings', caplog.text)
    with Gallery(tmp_path / 'people.gallery') as gallery:
        after = {s.tracklet: gallery.crops(s.tracklet) for s in gallery.tracklets()}
    assert len(after) > len(before) and {name: after[name] for name in before} == before
    assert len({name.split('/')[1] for name in after}) == 2


def test_boxes_without_a_track_fill_no_gallery(tmp_path, capsys):
    write_sequence(tmp_path / 'hall', cross, 4)
    (tmp_path / 'hall' / 'det' / 'det.txt').write_text('1,-1,100,20,32,96,0.9,-1,-1,-1\n')
    words = [tmp_path / 'hall', '--output', tmp_path / 'out', *FAST]
    words += ['--gallery', tmp_path / 'people.gallery', '--start', '2026-05-01T14:30:00Z']
    code, text = run(capsys, command.main, *words)
    assert code == 0 and '0 people, 0 tracklets' in text, text
    with Gallery(tmp_path / 'people.gallery') as gallery:
        assert not len(gallery)


def test_a_start_that_the_gallery_does_not_keep_is_refused_before_anything_is_embedded(site, tmp_path, capsys):
    Gallery(tmp_path / 'people.gallery', keep_days=30).close()
    words = [site / 'door', '--output', tmp_path / 'out', *FAST, '--gallery', tmp_path / 'people.gallery']
    refused(capsys, command.main, *words, '--start', '2020-01-01', names=['--start 2020-01-01', '30 days'])
    assert not (tmp_path / 'out' / 'found').exists()
