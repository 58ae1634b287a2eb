"""Several processes at one gallery: readers beside a writer, and writers that are killed."""

import os
import random
import signal
import sqlite3
import time
import traceback

import faiss
import numpy as np
import pytest

from msinet_timm.gallery import Gallery

pytestmark = pytest.mark.slow
SIZE = 64


def frame(number):
    """Embeddings [3, D] and images of three crops, by which their number is known."""
    rng = np.random.default_rng(number)
    return rng.normal(size=(3, SIZE)), [rng.bytes(9000) for _ in range(3)]


def write(folder, number, tell, erases=True):
    """Adds frames, and erases now and then; tells what is done."""
    gallery, first = Gallery(folder), number
    while True:
        rows, images = frame(number)
        names = [f't{number}/{i}' for i in range(3)]
        gallery.add_embeddings(rows, images, camera='door', time=1.7e9 + number, tracklet=names)
        tell(f'added {number}')
        if erases and number % 5 == 4 and number - 2 >= first:
            gallery.delete(tracklet=f't{number - 2}/1')
            tell(f'erased {number - 2}')
        number += 1


def read(folder, _, tell):
    """Looks until there are a hundred frames: none is half, and each is found as soon as it is there."""
    gallery, seen = Gallery(folder), 0
    while seen < 300:
        count = len(gallery)
        assert count % 3 == 0 and count >= seen, (count, seen)
        seen = count
        if count:
            found = gallery.search(frame(count // 3 - 1)[0][2], 1)[0]
            assert found.crop.tracklet == f't{count // 3 - 1}/2' and found.distance < 1e-2
    tell('whole')


def start(work, *arguments):
    """A process that does it, and what it tells."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            faiss.omp_set_num_threads(1)  # threads of the parent are not here
            work(*arguments, lambda line: os.write(theirs, f'{line}\n'.encode()))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(theirs)
    return child, os.fdopen(ours)


def kill(child):
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_killed_writer_loses_nothing_and_leaves_nothing_half(tmp_path):
    folder, rng = tmp_path / 'g', random.Random(0)
    added, erased = set(), set()
    for _ in range(20):
        writer, told = start(write, folder, max(added, default=-1) + 2)
        lines = [told.readline()]  # it has begun
        time.sleep(rng.uniform(0, 0.3))
        kill(writer)
        lines += told.readlines()
        for word, number in (line.split() for line in lines):
            (added if word == 'added' else erased).add(int(number))
        with Gallery(folder) as gallery:
            there = {s.tracklet: s for s in gallery.tracklets()}
            for number in added:
                want = {f't{number}/{i}' for i in range(3)}
                missing = want - there.keys()
                # what was being erased when it was killed may be gone or not
                assert missing <= {f't{number}/1'} and (number not in erased or missing)
            frames = {}
            for name in there:
                frames.setdefault(int(name[1:].split('/')[0]), set()).add(name)
            for number, names in frames.items():
                expected, jpegs = frame(number)
                assert len(names) >= 2 and f't{number}/0' in names  # never one of three
                for name in names:
                    place = int(name[-1])
                    (crop,) = gallery.crops(name)
                    row = expected[place] / np.linalg.norm(expected[place])
                    np.testing.assert_allclose(gallery.store.vectors([crop.id])[0], row, atol=1e-3)
                    assert gallery.jpeg(crop.id) == jpegs[place]
            assert gallery.search(frame(max(added))[0][0], 1)[0].distance < 1e-2
            assert all(entry.settled for entry in gallery.erase_report())
        check = sqlite3.connect(folder / 'gallery.sqlite')
        assert check.execute('PRAGMA integrity_check').fetchall() == [('ok',)]
        tables = 'SELECT count(*) FROM crops', 'SELECT count(*) FROM vectors', 'SELECT count(*) FROM images'
        assert len({check.execute(text).fetchone() for text in tables}) == 1
        check.close()
    content = b''.join(p.read_bytes() for p in folder.iterdir())
    for number in erased:
        rows, jpegs = frame(number)
        rows = rows.astype(np.float32)
        gone = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)[1].tobytes()
        assert gone[:16] not in content and jpegs[1][4500:4516] not in content and jpegs[0][4500:4516] in content
    assert len(added) > 20 and erased


def test_two_readers_beside_a_writer_see_what_comes(tmp_path):
    folder = tmp_path / 'g'
    Gallery(folder).close()
    readers = [start(read, folder, 0) for _ in range(2)]
    writer, _ = start(lambda *given: write(*given, erases=False), folder, 0)
    try:
        for reader, told in readers:
            assert told.read() == 'whole\n'
            assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
    finally:
        kill(writer)


def test_two_writers_take_turns(tmp_path):
    folder = tmp_path / 'g'
    writers = [start(write, folder, first) for first in (0, 1000)]
    told = [line.split() for _, output in writers for line in (output.readline() for _ in range(30))]
    for writer, _ in writers:
        kill(writer)
    with Gallery(folder) as gallery:
        names = {s.tracklet for s in gallery.tracklets()}
        assert {f't{number}/0' for word, number in told if word == 'added'} <= names
        assert len(names) == len(gallery)


def test_an_erasure_beside_an_open_reading_is_settled_later(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr('msinet_timm.gallery.sqlite.WAIT', 0.2)
    rng = np.random.default_rng(0)
    gallery = Gallery(tmp_path / 'g')
    rows = rng.normal(size=(50, SIZE)).astype(np.float32)
    gallery.add_embeddings(rows, tracklet=[f't{i}' for i in range(50)])
    reader = sqlite3.connect(tmp_path / 'g' / 'gallery.sqlite', isolation_level=None)
    reader.execute('BEGIN')
    reader.execute('SELECT count(*) FROM crops').fetchall()
    assert gallery.delete(tracklet='t3') == 1 and len(gallery) == 49
    assert 'other processes read' in caplog.text
    assert [e.settled for e in gallery.erase_report()] == [False]
    reader.execute('COMMIT')
    assert [e.settled for e in gallery.erase_report()] == [True]
    row = (rows[3] / np.linalg.norm(rows[3])).astype(np.float16).tobytes()
    assert row[:16] not in (tmp_path / 'g' / 'gallery.sqlite-wal').read_bytes()
    assert row[:16] not in (tmp_path / 'g' / 'gallery.sqlite').read_bytes()
