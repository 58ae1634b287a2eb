"""A gallery keeps, finds and forgets: compared with numpy, with its own files, and with what processes leave behind."""

import io
import os
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from qdrant_stub import qdrant_stub

from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.gallery import Gallery
from msinet_timm.gallery.store import Where
from msinet_timm.hub.folder import save_folder

PEOPLE, SIZE = 40, 32
START = 1_700_000_000.0


def people(count, rng, size=SIZE):
    """Embeddings of crops, and who they are of."""
    who = rng.integers(0, PEOPLE, count)
    centres = rng.normal(size=(PEOPLE, size))
    return (centres[who] + rng.normal(size=(count, size))).astype(np.float32), who


def crop(seed, size=(24, 48)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def encoded(image):
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=90)
    return file.getvalue()


@pytest.fixture(params=['folder', 'server'])
def place(request, tmp_path):
    """Where a gallery may be: all that is tested with it holds for both."""
    if request.param == 'folder':
        yield tmp_path / 'people.gallery'
    else:
        with qdrant_stub() as (_, port):
            yield f'qdrant://127.0.0.1:{port}/people'


@pytest.fixture(scope='module')
def embedder():
    return Embedder(timm.create_model('test_resnet', num_classes=0))


class Plain:
    """The same by numpy, for comparison."""

    def __init__(self, embeddings, cameras, times, tracklets):
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        self.kept = unit.astype(np.float16).astype(np.float32)
        self.cameras, self.times, self.tracklets = map(np.array, (cameras, times, tracklets))
        self.there = np.ones(len(unit), bool)

    def nearest(self, query, k, chosen):
        query = query / np.linalg.norm(query)
        rows = np.flatnonzero(chosen & self.there)
        return {int(i) for i in rows[np.argsort(-(self.kept[rows] @ query), kind='stable')[:k]]}

    def nearest_tracklets(self, query, k, chosen):
        query = query / np.linalg.norm(query)
        rows = np.flatnonzero(chosen & self.there)
        order = rows[np.argsort(-(self.kept[rows] @ query), kind='stable')]
        return [*dict.fromkeys(self.tracklets[order].tolist())][:k]


@pytest.fixture
def filled(place):
    rng = np.random.default_rng(0)
    embeddings, _ = people(3000, rng)
    cameras = [('door', 'yard', 'hall', None)[i] for i in rng.integers(0, 4, 3000)]
    times = [START + float(s) for s in rng.integers(0, 86400, 3000)]
    tracklets = [f'{camera}/{i // 20}' for i, camera in enumerate(cameras)]
    with Gallery(place) as gallery:
        plain = Plain(embeddings, cameras, times, tracklets)
        plain.ids = gallery.add_embeddings(embeddings, camera=cameras, time=times, tracklet=tracklets)
        assert len({*plain.ids}) == 3000 and plain.ids == sorted(plain.ids)
        yield gallery, embeddings, plain, rng


def check(gallery, plain, queries):
    """recall@10 is 1 with filters and without, by crops and by tracklets."""
    everything, rows = np.ones(len(plain.there), bool), {id: row for row, id in enumerate(plain.ids)}
    door, late = plain.cameras == 'door', plain.times >= START + 50_000
    early = plain.times < START + 60_000
    asked = [
        ({}, everything),
        ({'camera': 'door'}, door),
        ({'camera': ['door', 'yard'], 'since': START + 50_000}, (door | (plain.cameras == 'yard')) & late),
        ({'since': START + 50_000, 'until': START + 60_000}, late & early),
    ]
    for query in queries:
        for filters, chosen in asked:
            found = gallery.search(query, 10, per_tracklet=False, **filters)
            assert {rows[m.crop.id] for m in found} == plain.nearest(query, 10, chosen)
            assert [m.distance for m in found] == sorted(m.distance for m in found)
            found = gallery.search(query, 10, **filters)
            assert [m.crop.tracklet for m in found] == plain.nearest_tracklets(query, 10, chosen)


def test_all_that_is_nearest_is_found_with_filters_and_after_deletions(filled):
    gallery, embeddings, plain, rng = filled
    queries = [*embeddings[:5], *rng.normal(size=(10, SIZE)).astype(np.float32)]
    check(gallery, plain, queries)
    gone = plain.tracklets[7]
    assert gallery.delete(tracklet=gone) == int((plain.tracklets == gone).sum())
    plain.there &= plain.tracklets != gone
    check(gallery, plain, queries)
    assert gallery.delete(before=START + 30_000, camera='yard') > 0
    plain.there &= ~((plain.times < START + 30_000) & (plain.cameras == 'yard'))
    check(gallery, plain, queries)
    more, _ = people(500, rng)
    plain.ids += gallery.add_embeddings(more, camera='door', time=START + 70_000, tracklet='more')
    new = Plain(more, ['door'] * 500, [START + 70_000] * 500, ['more'] * 500)
    for name in ('kept', 'cameras', 'times', 'tracklets', 'there'):
        setattr(plain, name, np.concatenate([getattr(plain, name), getattr(new, name)]))
    check(gallery, plain, queries)
    with Gallery(gallery.path) as again:
        check(again, plain, queries)
        assert len(again) == int(plain.there.sum())


def test_crops_of_a_frame_are_found_by_an_image(place, embedder):
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 255, (120, 200, 3), dtype=np.uint8)
    boxes = [[0, 0, 40, 100], [50, 10, 100, 110], [150, 0, 230, 90]]
    with Gallery(place, embedder) as gallery:
        seen = {'camera': 'door', 'time': '2026-05-01T14:30:00Z', 'tracklet': ['a', 'b', 'c']}
        ids = gallery.add(frame, boxes, **seen)
        assert ids == sorted({*ids})
        assert gallery.add(frame, boxes, **seen) == [None] * 3
        match = gallery.search(frame[10:110, 50:100], 3)[0]
        assert match.crop.tracklet == 'b' and match.distance < 1e-3 and match.crop.camera == 'door'
        assert match.crop.box == (50, 10, 100, 110) and match.crop.time == 1777645800
        assert Image.open(io.BytesIO(gallery.jpeg(ids[2]))).size == (50, 90)
        assert 0 < gallery.crop(ids[2]).quality < gallery.crop(ids[1]).quality
        assert match.verdict is None  # a module has no calibration
        blue = gallery.add(frame[..., ::-1], boxes, camera='yard', bgr=True)
        np.testing.assert_array_equal(gallery.store.vectors(blue), gallery.store.vectors(ids))


def test_merging_goes_through_all_tracklets_of_both(place):
    rng = np.random.default_rng(2)
    with Gallery(place) as gallery:
        gallery.add_embeddings(people(5, rng)[0], tracklet=['a', 'b', 'c', 'd', 'e'])
        assert gallery.merge('a', 'b') == gallery.merge('b', 'a') == 'person-1'
        assert gallery.merge('c', 'd') == 'person-2'
        assert gallery.merge('d', 'b') == 'person-2'
        assert {s.tracklet for s in gallery.tracklets(identity='person-2')} == {'a', 'b', 'c', 'd'}
        with pytest.raises(InputError, match="identity 'person-1'"):
            gallery.tracklets(identity='person-1')
        assert gallery.delete(identity='person-2') == 4 and len(gallery) == 1
        with pytest.raises(InputError, match="tracklet 'a'.* none of this name"):
            gallery.merge('a', 'e')


def test_strangers_who_are_merged_at_once_stay_apart(place):
    with Gallery(place) as gallery:
        gallery.add_embeddings(people(40, np.random.default_rng(2))[0], tracklet=[*range(40)])
        with ThreadPoolExecutor(4) as pool:
            found = [*pool.map(lambda i: gallery.merge(i, i + 1), range(0, 40, 2))]
        assert len({*found}) == 20 and {len(gallery.tracklets(identity=name)) for name in found} == {2}
        assert gallery.delete(identity=found[-1]) == 2
        assert gallery.merge(0, 2) in found and gallery.delete(tracklet=4) == 1
        gallery.add_embeddings(people(2, np.random.default_rng(3))[0], tracklet=['x', 'y'])
        assert gallery.merge('x', 'y') not in found  # of somebody who is gone


def test_a_gallery_that_is_not_opened_stays_as_it_is(place, embedder):
    with Gallery(place) as gallery:
        gallery.add_embeddings(people(3, np.random.default_rng(2))[0], time=START)
    with pytest.raises(InputError, match='embeddings of another model'):
        Gallery(place, embedder, keep_days=1)
    with Gallery(place) as gallery:
        assert gallery.keep_days is None and len(gallery) == 3


def test_learnt_cameras_make_another_model(place, tmp_path):
    folder = str(tmp_path / 'model')
    save_folder(timm.create_model('test_resnet', num_classes=0), folder)
    plain, adapted = Embedder(folder), Embedder(folder)
    images = [crop(i, (4, 8)).resize((64, 128)) for i in range(4)]
    adapted.adapt({'door': images})
    with Gallery(place, plain) as gallery:
        gallery.add_embeddings(plain(images), images, camera='door')
        with pytest.raises(InputError, match='^query_camera door: the model knows no cameras'):
            gallery.search(images[0], query_camera='door')
    with pytest.raises(InputError, match='embeddings of another model'):
        Gallery(place, adapted)
    adapted.save(folder)
    with pytest.raises(InputError, match='another model'), Gallery(place) as gallery:
        gallery.search(images[0])
    with Gallery(place) as gallery:
        assert gallery.reembed(adapted) == 4
        assert gallery.search(images[0], 1, query_camera='door')[0].distance < 0.3


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(quality=[1.0]), 'quality: 1 for 3'),
        (dict(images=[None]), 'images: 1 for 3'),
        (dict(boxes=np.zeros((2, 4))), r'boxes must be \[3, 4\], got \[2, 4\]'),
        (dict(boxes=np.zeros((3, 5))), r'boxes must be \[3, 4\], got \[3, 5\]'),
    ],
)
def test_what_does_not_fit_the_embeddings_is_refused(tmp_path, given, message):
    with Gallery(tmp_path / 'g') as gallery:
        with pytest.raises(InputError, match=message):
            gallery.add_embeddings(people(3, np.random.default_rng(2))[0], **given)
        gallery.add_embeddings(people(3, np.random.default_rng(2))[0], camera=5)
        assert len(gallery.search(people(1, np.random.default_rng(2))[0][0], 5, camera=5)) == 3


def test_a_pipe_is_no_crop(tmp_path, embedder, caplog):
    os.mkfifo(tmp_path / 'a.jpg')
    with Gallery(tmp_path / 'g', embedder) as gallery:
        assert gallery.add_crops([tmp_path / 'a.jpg']) == [None] and 'a.jpg: cannot be read' in caplog.text


def test_keys_of_what_is_erased_are_in_no_file(tmp_path):
    """Of these keys, one would stay in a page of the index that they have moved from."""
    rng = np.random.default_rng(0)
    with Gallery(tmp_path / 'g') as gallery:
        gallery.store.configure(secret='00' * 16)
    with Gallery(tmp_path / 'g') as gallery:
        for _ in range(6):
            gallery.add_embeddings(
                rng.normal(size=(500, 8)),
                time=1.7e9,
                boxes=rng.uniform(0, 900, (500, 4)),
                tracklet=[f'{t}' for t in rng.integers(0, 1 << 30, 500)],
                camera=[('a', 'b')[int(x < 0.1)] for x in rng.random(500)],
            )
        with sqlite3.connect(tmp_path / 'g' / 'gallery.sqlite') as database:
            keys = dict(database.execute('SELECT id, key FROM crops'))
        erased = {*gallery.store.ids(Where(cameras=('b',)))}
        assert gallery.delete(camera='b') == len(erased) == 349
    data = everything_in(tmp_path / 'g')
    assert [id for id in keys if keys[id] in data] == [id for id in keys if id not in erased]


def everything_in(folder):
    return b''.join(p.read_bytes() for p in folder.rglob('*') if p.is_file())


@pytest.mark.parametrize('open_elsewhere', [False, True])
def test_what_is_erased_is_in_no_file(tmp_path, open_elsewhere):
    rng = np.random.default_rng(3)
    embeddings = people(600, rng, 256)[0]
    images = [encoded(crop(i)) for i in range(600)]
    folder = tmp_path / 'g'
    gallery = Gallery(folder)
    other = Gallery(folder) if open_elsewhere else None
    gallery.add_embeddings(embeddings, images, tracklet=[f'secret name {i // 3}' for i in range(600)], camera='door')
    half = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float16)
    left = {*range(200)}
    order = rng.permutation(200).tolist()
    for gone in order[:60]:  # so many that the file is written anew on the way
        assert gallery.delete(tracklet=f'secret name {gone}') == 3
        left -= {gone}
        gallery.add_embeddings(people(2, rng, 256)[0], [encoded(crop(9000 + gone))] * 2, tracklet=f'new {gone}')
        assert other is None or len(other) == len(gallery)
    content = everything_in(folder)
    assert all(entry.settled for entry in gallery.erase_report()) and len(gallery.erase_report()) == 60
    for i in range(600):
        whole = half[i].tobytes(), images[i][700:]  # after what all JPEGs begin with
        found = [[piece[a : a + 16] in content for a in range(0, len(piece) - 16, 64)] for piece in whole]
        if i // 3 in left:
            assert all(found[0]) and any(found[1])
        else:
            assert not any(found[0]) and not any(found[1])
    names = {int(name) for name in re.findall(rb'secret name (\d+)', content)}
    assert names >= left and not names & {*order[:60]}
    gallery.close()


def test_tracklets_are_told_by_camera_and_time(place):
    rng = np.random.default_rng(4)
    with Gallery(place) as gallery:
        times = [START, START + 10, START + 5, None, START + 20]
        names = ['a', 'a', 'b', 'c', 'b']
        cameras = ['door', 'door', 'yard', None, 'yard']
        quality, who = [0.5, 0.9, 0.3, 1, 0.2], [None] * 4 + ['ben']
        ids = gallery.add_embeddings(
            people(5, rng)[0],
            tracklet=names,
            camera=cameras,
            time=times,
            quality=quality,
            identity=who,
        )
        assert gallery.tracklets() == [
            ('c', None, None, None, None, 1, ids[3]),
            ('a', None, 'door', START, START + 10, 2, ids[1]),
            ('b', 'ben', 'yard', START + 5, START + 20, 2, ids[2]),
        ]
        late = gallery.tracklets(since=START + 6, until='2023-11-15')
        assert [(s.tracklet, s.crops) for s in late] == [('a', 1), ('b', 1)]
        assert [c.id for c in gallery.crops('b')] == [ids[2], ids[4]]
        stats = gallery.stats()
        assert stats['cameras'] == {'door': 2, 'yard': 2} and (stats['crops'], stats['identities']) == (5, 1)
        assert (stats['since'], stats['until']) == (START, START + 20)
        with pytest.raises(InputError, match="tracklet 'a' is of camera 'door', not 'yard'"):
            gallery.add_embeddings(people(2, rng)[0], tracklet=['d', 'a'], camera='yard')
        assert len(gallery) == 5 and 'd' not in {s.tracklet for s in gallery.tracklets()}
        with pytest.raises(InputError, match='no image of it was kept'):
            gallery.jpeg(ids[0])
        assert gallery.delete(camera='door', before=START + 5) == 1
        assert [(e.kind, e.crops) for e in gallery.erase_report()] == [('before+camera', 1)]
        assert gallery.tracklets(camera='door') == [('a', None, 'door', START + 10, START + 10, 1, ids[1])]


def test_what_is_too_old_goes_by_itself(place, monkeypatch):
    rng, now = np.random.default_rng(5), START + 10 * 86400
    for name in ('gallery', 'sqlite', 'qdrant'):
        monkeypatch.setattr(f'msinet_timm.gallery.{name}.clock.time', lambda: now)
    with Gallery(place, keep_days=7) as gallery:
        gallery.add_embeddings(people(3, rng)[0], time=[now - 6 * 86400, now - 86400, None])
        with pytest.raises(InputError, match=r'more than the 7 days ago'):
            gallery.add_embeddings(people(1, rng)[0], time=now - 8 * 86400)
        assert len(gallery) == 3
        now += 2 * 86400
        gallery.add_embeddings(people(1, rng)[0], time=now)
        assert len(gallery) == 3 and gallery.erase_report()[0][1:3] == ('days', 1)
    now += 5.5 * 86400
    with Gallery(place) as gallery:  # it is noted, and holds where nothing is added
        assert gallery.keep_days == 7 and len(gallery) == 1  # of unknown time, but added too long ago, too
        assert [e.crops for e in gallery.erase_report()] == [2, 1]


def test_another_model_replaces_embeddings_where_it_was_broken_off(place, embedder, monkeypatch):
    other = Embedder(timm.create_model('test_vit', num_classes=0))
    monkeypatch.setattr('msinet_timm.gallery.gallery._BATCH', 4)
    with Gallery(place, embedder) as gallery:
        images = [crop(i, (4, 8)).resize((64, 128)) for i in range(10)]  # which a JPEG keeps
        ids = gallery.add_embeddings(embedder(images), images, camera='door', tracklet=[f't{i}' for i in range(10)])
        batches = []

        def broken(*arguments, work=gallery.store.replace):
            batches.append(len(arguments[1]))
            if len(batches) == 3:
                raise KeyboardInterrupt
            work(*arguments)

        monkeypatch.setattr(gallery.store, 'replace', broken)
        with pytest.raises(KeyboardInterrupt):
            gallery.reembed(other)
        assert gallery.search(images[3], 1)[0].crop.tracklet == 't3'  # the old ones count
        gallery.add_embeddings(embedder(images[:1]), images[:1], tracklet='late')
        assert gallery.delete(tracklet='t1') == 1
        assert gallery.reembed(other) == 3 and batches == [4, 4, 2, 3]
        assert gallery.size == other.size and len(gallery) == 10
        match = gallery.search(images[3], 1)[0]
        assert match.crop.tracklet == 't3' and match.distance < 0.3  # it was kept as a JPEG
        assert {m.crop.tracklet for m in gallery.search(images[0], 2)} == {'t0', 'late'}
        kept = Image.open(io.BytesIO(gallery.jpeg(ids[3])))
        np.testing.assert_allclose(gallery.store.vectors([ids[3]]), other([kept]), atol=2e-3)
    with pytest.raises(InputError, match='embeddings of another model'):
        Gallery(place, embedder)
    Gallery(place, other).close()


def test_another_model_is_read_where_a_gallery_is_open(place, embedder, tmp_path):
    folders = [str(tmp_path / name) for name in ('before', 'after')]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        save_folder(timm.create_model('test_resnet', num_classes=0), folder)
    images = [crop(i, (4, 8)).resize((64, 128)) for i in range(6)]
    with Gallery(place, folders[0]) as reader, Gallery(place) as writer:
        writer.add_embeddings(writer.embedder(images), images, tracklet=[f't{i}' for i in range(6)])
        reader.search(images[3], 1)
        assert writer.reembed(folders[1]) == 6
        [match] = reader.search(images[3], 1)
        assert match == writer.search(images[3], 1)[0] and match.distance < 0.3


def test_embeddings_of_another_model_do_not_come_in(place, embedder):
    rng = np.random.default_rng(6)
    with Gallery(place) as gallery:
        gallery.add_embeddings(people(3, rng)[0])
        for rows in (people(2, rng, 16)[0], np.full((1, SIZE), np.nan), np.zeros((1, SIZE))):
            with pytest.raises(InputError, match='embeddings must be'):
                gallery.add_embeddings(rows)
        assert len(gallery) == 3
        with pytest.raises(InputError, match='it does not know how to embed images'):
            gallery.search(crop(1))
    with pytest.raises(InputError, match='holds embeddings of another model .given by a program.'):
        Gallery(place, embedder)


def test_cameras_that_the_model_has_learnt_are_embedded_by_their_own_statistics(place):
    images = [crop(i, (4, 8)).resize((64, 128)) for i in range(40)]
    embedder = Embedder(timm.create_model('test_resnet', num_classes=0))
    embedder.adapt({'door': images[:20], 'yard': [image.point(lambda v: v // 3) for image in images[20:]]})
    with Gallery(place, embedder) as gallery:
        ids = gallery.add_crops([], camera=[]) + gallery.add(np.asarray(images[0]), [[0, 0, 64, 128]], camera='door')
        ids += gallery.add(np.asarray(images[0]), [[0, 0, 64, 128]], camera='yard')
        want = embedder([images[0]] * 2, ['door', 'yard'])
        np.testing.assert_allclose(gallery.store.vectors(ids), want, atol=1e-3)
        assert np.abs(want[0] - want[1]).max() > 0.01
        for camera in ('door', 'yard'):
            match = gallery.search(images[0], 1, query_camera=camera)[0]
            assert match.crop.camera == camera and match.distance < 5e-3


@pytest.mark.parametrize('erased', [1, 290])
def test_what_is_erased_during_a_search_is_not_found(place, monkeypatch, erased):
    """Also where so much goes that the file is written anew, and the rows are gone."""
    embeddings, _ = people(300, np.random.default_rng(3))
    with Gallery(place) as gallery:
        cameras = ['door' if i < erased else None for i in range(300)]
        gallery.add_embeddings(embeddings, tracklet=[str(i) for i in range(300)], camera=cameras)
        gallery.add_embeddings(embeddings[:1], tracklet='left')
        crops = gallery.store.crops

        def crops_and_erase(ids):
            found = crops(ids)
            with Gallery(place) as other:
                other.delete(camera='door')
            return found

        monkeypatch.setattr(gallery.store, 'crops', crops_and_erase)
        found = gallery.search(embeddings[0], 300)
        assert found[0].crop.tracklet == 'left' and found[0].distance < 1e-3
        assert {match.crop.tracklet for match in found} == {'left', *map(str, range(erased, 300))}
