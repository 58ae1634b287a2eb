"""Films, detections and detectors that cannot be used: one line that names them, and exit code 2."""

import shutil

import pytest
from films import cross, write_sequence
from hostile import refused, run

import msinet_eval.commands.track
from msinet_timm.tracking.films import open_film, write_video

MAIN = msinet_eval.commands.track.main


@pytest.fixture(scope='module')
def _made(tmp_path_factory):
    return write_sequence(tmp_path_factory.mktemp('films') / 'door', cross, 6)


@pytest.fixture
def door(_made, tmp_path):
    return shutil.copytree(_made, tmp_path / 'door')


def flags(door, *more):
    return [door, '--model', 'none', '--output', door.parent / 'out', *more]


DETECTIONS = {
    'empty': ('', ['nobody was detected in any frame']),
    'a header': ('frame,id,x,y,w,h,score\n', ['line 1', 'MOTChallenge']),
    'blanks': ('1 -1 0 0 20 60 0.9\n', ['line 1', 'commas']),
    'JSON': ('{"boxes": []}\n', ['line 1', 'MOTChallenge']),
    'shares of the frame': ('1,-1,0.1,0.1,0.2,0.6,0.9\n', ['in pixels']),
    'percent': ('1,-1,0,0,20,60,90\n', ['confidence of 90']),
    'right and bottom': (''.join(f'{f},-1,150,100,230,150,0.9\n' for f in range(1, 7)), ['100% of the boxes', 'width']),
    'inside out': ('1,-1,20,60,-20,-60,0.9\n', ['-20x-60']),
    'not a number': ('1,-1,nan,0,20,60,0.9\n', ['line 1']),
    'frame 0': ('0,-1,0,0,20,60,0.9\n', ['frame 0', 'from 1 on']),
    'beyond the end': ('7,-1,0,0,20,60,0.9\n', ['frame 7, of 6 frames']),
    'all outside': ('1,-1,500,0,20,60,0.9\n', ['100% of the boxes reach beyond the frame of 240x160']),
    'left of it': ('1,-1,-500,0,20,60,0.9\n', ['nobody was detected in any frame']),
}


@pytest.mark.parametrize('kind', DETECTIONS)
def test_detections(door, capsys, kind):
    content, names = DETECTIONS[kind]
    (door / 'det' / 'det.txt').write_text(content)
    refused(capsys, MAIN, *flags(door), names=names)


def test_one_box_outside_is_left_out(door, capsys):
    with open(door / 'det' / 'det.txt', 'a') as file:
        file.write('3,-1,-500,0,20,60,0.9\n')
    assert run(capsys, MAIN, *flags(door))[0] == 0


def test_some_frames_without_detections(door, capsys):
    lines = (door / 'det' / 'det.txt').read_text().splitlines(keepends=True)
    (door / 'det' / 'det.txt').write_text(''.join(line for line in lines if not line.startswith('3,')))
    assert run(capsys, MAIN, *flags(door))[0] == 0


DETECTOR = """
def shape(frame): return [[1, 2, 3]]
def failing(frame): raise RuntimeError("out of luck")
def scores(frame): return [[0, 0, 20, 60]], [7]
def nothing(frame): return []
number = 3
"""


@pytest.mark.parametrize(
    ('name', 'names'),
    [
        ('shape', ['door, frame 1', 'boxes must be [N, 4]']),
        ('failing', ['door, frame 1: the detector failed', 'out of luck']),
        ('scores', ['score 0 must be between 0 and 1']),
        ('nothing', ['nobody was detected in any frame']),
        ('number', ['cannot be called']),
        ('missing', ['cannot be imported', 'missing']),
    ],
)
def test_detectors(door, tmp_path, capsys, name, names):
    (tmp_path / 'mine.py').write_text(DETECTOR)
    refused(capsys, MAIN, *flags(door, '--detector', f'{tmp_path}/mine.py:{name}'), names=names)


FLAGS = {
    'no colon': (['--detector', 'mine.py'], ['--detector mine.py', 'a colon']),
    'no module': (['--detector', 'no_such_module:f'], ['cannot be imported']),
    'both': (['--detector', 'os:getcwd', '--detections', 'a.txt'], ['--detections and --detector']),
    'too many detections': (['--detections', 'a.txt', 'b.txt'], ['--detections: 2 for 1 videos']),
    'too many names': (['--cameras', 'a', 'b'], ['--cameras: 2 for 1']),
    'a name with a slash': (['--cameras', 'a/b'], ["camera 'a/b'"]),
    'a folder of detections': (['--detections', '.'], ['. is a folder', 'give a file']),
    'a pair of one': (['--overlapping', 'door'], ['--overlapping door']),
    'a pair of strangers': (['--overlapping', 'door:yard'], ['door:yard']),
    'no seconds': (['--transitions', 'door:yard=x'], ['--transitions door:yard=x']),
    'at once and at the end': (['--online', '--rerank'], ['--online and --rerank']),
    'a threshold of 3': (['--threshold', '3', '--model', 'msinet_x0_25'], ['threshold must be a distance']),
    'nothing to learn with': (['--adapt', '8'], ['--adapt', 'without a --model']),
    'nothing to join by': (['--rerank'], ['--rerank', 'without a --model']),
    'nothing to compare': (['--threshold', '0.5'], ['--threshold', 'without a --model']),
    'a billion frames a second': (['--frame-rate', '1e9'], ['frame_rate', '10000', '1e+09']),
}


@pytest.mark.parametrize('kind', FLAGS)
def test_flags(door, capsys, kind):
    more, names = FLAGS[kind]
    refused(capsys, MAIN, *flags(door, *more), names=names)


def test_films_that_are_none(door, tmp_path, capsys):
    (tmp_path / 'a.mp4').write_bytes(b'no film' * 99)
    (tmp_path / 'nothing').mkdir()
    for film, names in (
        ('a.mp4', 'cannot read this film'),
        ('b.mp4', 'cannot read this film'),
        ('nothing', 'there are no images in it'),
    ):
        words = [tmp_path / film, '--detections', door / 'det' / 'det.txt', '--output', tmp_path / 'out']
        refused(capsys, MAIN, *words, names=[film, names])


def test_a_film_that_ends_within_a_frame(door, tmp_path, capsys):
    """What an MP4 holds is written at its end: without it, nothing can be read."""
    write_video(tmp_path / 'cut.mp4', (frame.pixels for frame in open_film(door).frames()), 10)
    (tmp_path / 'cut.mp4').write_bytes((tmp_path / 'cut.mp4').read_bytes()[:-1500])
    words = [tmp_path / 'cut.mp4', '--detections', door / 'det' / 'det.txt', '--output', tmp_path / 'out']
    refused(capsys, MAIN, *words, names=['cut.mp4: cannot read this film'])


def test_clocks_that_are_apart(door, tmp_path, capsys):
    shutil.copytree(door, tmp_path / 'yard')
    words = [door, tmp_path / 'yard', '--model', 'none', '--output', tmp_path / 'out', '--offsets', '0', '3600']
    refused(capsys, MAIN, *words, names=['door: its clock is apart', '--offsets', '--window', '3600-3600.6'])


def test_the_same_film_twice(door, capsys):
    refused(capsys, MAIN, door, *flags(door), names=["camera 'door': each needs a name of its own", '--cameras'])


def test_folders_of_others(door, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.txt').write_text('all of it')
    refused(capsys, MAIN, *flags(door), names=['neither empty nor a folder of msinet-track'])
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['thesis.txt']


def test_a_folder_of_another_run(door, capsys):
    assert run(capsys, MAIN, *flags(door))[0] == 0
    refused(capsys, MAIN, *flags(door, '--cameras', 'yard'), names=['holds tracks of other videos', 'another folder'])
    (door.parent / 'out' / 'run.json').write_text('{')
    refused(capsys, MAIN, *flags(door), names=['run.json: cannot be read'])


def test_damaged_finds(door, capsys):
    assert run(capsys, MAIN, *flags(door))[0] == 0
    file = door.parent / 'out' / 'found' / 'door' / '000001.npz'
    file.write_bytes(file.read_bytes()[:200])
    refused(capsys, MAIN, *flags(door), names=['000001.npz: cannot be read; remove it'])


def test_no_truth(door, capsys):
    shutil.rmtree(door / 'gt')
    refused(capsys, MAIN, *flags(door, '--measure'), names=['--measure: door: only a sequence with gt/gt.txt'])
