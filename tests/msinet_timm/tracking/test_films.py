"""Frames out of whatever holds them."""

import logging
import sys

import numpy as np
import pytest
from films import RATE, SIZE, cross, walk, write_sequence
from PIL import Image

from msinet_timm.errors import InputError
from msinet_timm.tracking.films import open_film, write_video


@pytest.fixture(scope='module')
def frames():
    return [frame for frame, _ in walk(cross, 30)]


@pytest.fixture(scope='module')
def film(tmp_path_factory, frames):
    path = tmp_path_factory.mktemp('film') / 'door.mp4'
    write_video(path, iter(frames), RATE)
    return path


def test_a_video_is_read_as_written(film, frames):
    opened = open_film(film)
    assert (opened.name, opened.frame_rate, opened.length) == ('door', RATE, 30)
    read = list(opened.frames())
    assert [f.number for f in read] == [*range(1, 31)]
    np.testing.assert_allclose([f.time for f in read], np.arange(30) / RATE)
    for one, frame in zip(read[::7], frames[::7], strict=True):
        assert one.pixels.shape == (SIZE[1], SIZE[0], 3)
        assert np.abs(one.pixels.mean((0, 1)) - frame.mean((0, 1))).max() < 3  # red is red
    later = list(opened.frames(11))
    assert later[0].number == 11 and len(later) == 20
    np.testing.assert_array_equal(later[0].pixels, read[10].pixels)


def test_odd_sizes(tmp_path, frames):
    write_video(tmp_path / 'a.mp4', (frame[:-1, :-1] for frame in frames[:3]), RATE)
    assert next(open_film(tmp_path / 'a.mp4').frames()).pixels.shape == (SIZE[1] - 2, SIZE[0] - 2, 3)


def test_folders(tmp_path):
    sequence = open_film(write_sequence(tmp_path / 'door', frames=12))
    assert (sequence.name, sequence.frame_rate, sequence.length) == ('door', RATE, 12)
    assert sequence.truth.name == 'gt.txt' and sequence.detections.name == 'det.txt'
    plain = open_film(tmp_path / 'door' / 'img1', frame_rate=5)
    assert (plain.frame_rate, plain.length, plain.truth) == (5, 12, None)
    assert [f.time for f in plain.frames(11)] == [2.0, 2.2]
    np.testing.assert_array_equal(next(plain.frames()).pixels, next(sequence.frames()).pixels)


def test_frames_in_the_order_of_numbers(tmp_path):
    for number in (10, 9, 100):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f'{number}.png')
    assert [int(f.pixels[0, 0, 0]) for f in open_film(tmp_path).frames()] == [9, 10, 100]


def test_frames_of_other_sizes(tmp_path):
    for number, size in enumerate(((8, 8), (8, 9))):
        Image.new('RGB', size).save(tmp_path / f'{number}.png')
    with pytest.raises(InputError, match='1.png: 8x9 pixels, where the frames before have 8x8'):
        list(open_film(tmp_path).frames())


def test_too_few_frames(tmp_path):
    folder = write_sequence(tmp_path / 'door', frames=5)
    (folder / 'img1' / '000003.jpg').unlink()
    with pytest.raises(InputError, match='4 frames, where seqinfo.ini says 5'):
        open_film(folder)


def test_no_film(tmp_path):
    (tmp_path / 'a.mp4').write_bytes(b'this is no film' * 100)
    with pytest.raises(InputError, match='a.mp4: cannot read this film'):
        open_film(tmp_path / 'a.mp4')
    with pytest.raises(InputError, match='cannot read this film'):
        open_film(tmp_path / 'missing.mp4')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='there are no images in it, and no seqinfo.ini'):
        open_film(tmp_path / 'empty')
    with pytest.raises(InputError, match='frame_rate must be greater than 0'):
        open_film(tmp_path / 'empty', -1)


def test_a_film_that_ends_within_a_frame(tmp_path, frames, caplog):
    """In a format that can be read up to there; of an MP4, nothing can be read without its end."""
    import av

    path = tmp_path / 'cut.ts'
    with av.open(str(path), 'w', format='mpegts') as container:
        stream = container.add_stream('libx264', rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
    whole = len(list(open_film(path).frames()))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    with caplog.at_level(logging.WARNING):
        cut = len(list(open_film(path).frames()))
    assert whole == 30 and 5 < cut < 25
    assert f'cut.ts: ends within frame {cut + 1} (it is damaged)' in caplog.text


def test_an_mp4_without_its_end(tmp_path, film):
    (tmp_path / 'cut.mp4').write_bytes(film.read_bytes()[:-2000])
    with pytest.raises(InputError, match='cut.mp4: cannot read this film'):
        list(open_film(tmp_path / 'cut.mp4').frames())


def test_without_pyav(tmp_path, film, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(InputError, match=r'reading video files needs av: pip install "msinet-timm\[video\]"'):
        open_film(film)
    assert open_film(write_sequence(tmp_path / 'door', frames=2)).length == 2
