"""A gallery keeps, finds and forgets: compared with numpy, with its own files, and with what processes leave behind."""

import io
import re

import numpy as np
import pytest
import timm
from PIL import Image

from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.gallery import Gallery

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
        return {int(i) + 1 for i in rows[np.argsort(-(self.kept[rows] @ query), kind='stable')[:k]]}

    def nearest_tracklets(self, query, k, chosen):
        query = query / np.linalg.norm(query)
        rows = np.flatnonzero(chosen & self.there)
        order = rows[np.argsort(-(self.kept[rows] @ query), kind='stable')]
        return [*dict.fromkeys(self.tracklets[order].tolist())][:k]


@pytest.fixture
def filled(tmp_path):
    rng = np.random.default_rng(0)
    embeddings, _ = people(3000, rng)
    cameras = [('door', 'yard', 'hall', None)[i] for i in rng.integers(0, 4, 3000)]
    times = [START + float(s) for s in rng.integers(0, 86400, 3000)]
    tracklets = [f'{camera}/{i // 20}' for i, camera in enumerate(cameras)]
    gallery = Gallery(tmp_path / 'people.gallery')
    ids = gallery.add_embeddings(embeddings, camera=cameras, time=times, tracklet=tracklets)
    assert ids == [*range(1, 3001)]
    with gallery:
        yield gallery, embeddings, Plain(embeddings, cameras, times, tracklets), rng


def check(gallery, plain, queries):
    """recall@10 is 1 with filters and without, by crops and by tracklets."""
    everything = np.ones(len(plain.there), bool)
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
            assert {m.crop.id for m in found} == plain.nearest(query, 10, chosen)
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
    gallery.add_embeddings(more, camera='door', time=START + 70_000, tracklet='more')
    new = Plain(more, ['door'] * 500, [START + 70_000] * 500, ['more'] * 500)
    for name in ('kept', 'cameras', 'times', 'tracklets', 'there'):
        setattr(plain, name, np.concatenate([getattr(plain, name), getattr(new, name)]))
    check(gallery, plain, queries)
    with Gallery(gallery.path) as again:
        check(again, plain, queries)
        assert len(again) == int(plain.there.sum())


def test_crops_of_a_frame_are_found_by_an_image(tmp_path, embedder):
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 255, (120, 200, 3), dtype=np.uint8)
    boxes = [[0, 0, 40, 100], [50, 10, 100, 110], [150, 0, 230, 90]]
    with Gallery(tmp_path / 'g', embedder) as gallery:
        seen = {'camera': 'door', 'time': '2026-05-01T14:30:00Z', 'tracklet': ['a', 'b', 'c']}
        ids = gallery.add(frame, boxes, **seen)
        assert ids == [1, 2, 3]
        assert gallery.add(frame, boxes, **seen) == [None] * 3
        match = gallery.search(frame[10:110, 50:100], 3)[0]
        assert match.crop.tracklet == 'b' and match.distance < 1e-3 and match.crop.camera == 'door'
        assert match.crop.box == (50, 10, 100, 110) and match.crop.time == 1777645800
        assert Image.open(io.BytesIO(gallery.jpeg(3))).size == (50, 90)
        assert 0 < gallery.crop(3).quality < gallery.crop(2).quality
        assert match.verdict is None  # a module has no calibration
        blue = gallery.add(frame[..., ::-1], boxes, camera='yard', bgr=True)
        np.testing.assert_array_equal(gallery.store.vectors(blue), gallery.store.vectors(ids))


def test_merging_goes_through_all_tracklets_of_both(tmp_path):
    rng = np.random.default_rng(2)
    with Gallery(tmp_path / 'g') as gallery:
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
