"""Films: who walks where, what is written of them, and that it is what the frames show."""

import configparser

import numpy as np
import pytest
from PIL import Image

from msinet_timm.errors import InputError
from msinet_timm.render import render_video
from msinet_timm.render.cameras import draw_film_camera
from msinet_timm.render.crowd import STEP, World, walk

TINY = dict(identities=8, cameras=2, seconds=0.8, fps=5, width=160, height=96, seed=3, workers=1)
FILES = ('seqinfo.ini', 'gt/gt.txt', 'det/det.txt', *(f'img1/{k:06d}.jpg' for k in range(1, 5)))


@pytest.fixture(scope='module')
def worlds():
    return [World.seen(draw_film_camera(4, 'street', k), 16 / 9) for k in (1, 2, 3)]


@pytest.fixture(scope='module')
def visits(worlds):
    return walk(worlds, 12, 60, 4, 'street')


@pytest.fixture(scope='module')
def film(raster, tmp_path_factory):
    folder = tmp_path_factory.mktemp('film')
    return folder, render_video(folder, **TINY)


def rows(path, columns):
    lines = path.read_text().splitlines()
    return np.array([[float(x) for x in line.split(',')] for line in lines]).reshape(len(lines), columns)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*.*') if p.suffix in ('.jpg', '.txt', '.ini')}


def test_nobody_is_before_two_cameras_at_once(visits):
    assert {v.camera for v in visits} == {0, 1, 2} and len({v.person for v in visits}) == 12
    moved = 0
    for person in range(1, 13):
        own = [v for v in visits if v.person == person]
        for before, after in zip(own, own[1:], strict=False):
            assert after.start - before.end > 1
            moved += after.camera != before.camera
    assert moved > 3


def test_people_walk_where_they_face_and_step_aside(visits):
    speeds, faced, apart = [], [], []
    for v in visits:
        steps = np.diff(v.moments[:, :2], axis=0) / STEP
        speed = np.linalg.norm(steps, axis=1)
        heading = v.moments[:-1, 2]
        ahead = np.stack([np.sin(heading), -np.cos(heading)], 1)
        faced += list((steps * ahead).sum(1)[speed > 0.5] / speed[speed > 0.5])
        speeds += list(speed)
        assert np.abs(np.diff(heading)).max(initial=0) < 0.3
    for time in np.arange(0, 60, 0.5):
        for camera in range(3):
            places = [v.at(time).place for v in visits if v.camera == camera and v.start <= time <= v.end]
            apart += [np.linalg.norm(a - b) for k, a in enumerate(places) for b in places[:k]]
    assert max(speeds) < 2.2 and 0.6 < np.median(speeds) < 1.6
    assert np.quantile(faced, 0.02) > 0.8
    assert len(apart) > 100 and np.quantile(apart, 0.01) > 0.4
    assert 0.01 < np.mean(np.array(speeds) < 0.1) < 0.4  # some stand for a while


def test_people_return_and_hide_one_another(worlds):
    """A film of a minute tests who is known again: most come back, and many stand before others."""
    crowd = walk(worlds[:1], 16, 60, 4, 'street')
    visits = [sum(v.person == person for v in crowd) for person in range(1, 17)]
    assert np.mean(visits) > 2.5 and min(visits) >= 1
    hidden = []
    for time in np.arange(0, 60, 0.5):
        there = [v.at(time).place for v in crowd if v.start <= time <= v.end]
        for k, (x, away) in enumerate(there):
            others = [p for p in there[:k] + there[k + 1 :] if p[1] < away]
            hidden.append(any(abs(p[0] * away / p[1] - x) < 0.3 for p in others))
    assert np.mean(hidden) > 0.1


def test_the_same_seed_gives_the_same_walks(worlds, visits):
    again = walk(worlds, 12, 60, 4, 'street')
    assert len(again) == len(visits)
    assert all((a.moments == b.moments).all() and a[:3] == b[:3] for a, b in zip(again, visits, strict=True))
    other = walk(worlds, 12, 60, 5, 'street')
    assert [v.start for v in other] != [v.start for v in visits]


@pytest.mark.slow
def test_boxes_and_visibility_are_those_of_the_drawn_pixels(raster):
    from msinet_timm.render.film import Film
    from msinet_timm.render.identity import generator
    from msinet_timm.render.people import stride

    size, world = (320, 192), World.seen(draw_film_camera(4, 'street', 1), 320 / 192)
    visits = walk([world], 9, 20, 4, 'street')
    film, hidden, checked = Film(world, 1, size, 4, 'street', {}), 0, 0
    for time in np.arange(0, 20, 2.5):
        seen, _ = film.frame(time, 0, visits, image=False)
        there = [v for v in visits if v.start <= time <= v.end]
        meshes = {
            v.person: stride(*film.person(v.person), v.at(time), generator(4, 'street', 12, v.person, 1)) for v in there
        }
        for somebody in seen:
            own = meshes[somebody.person]
            others = [mesh for person, mesh in meshes.items() if person != somebody.person]
            scene = film.scene._replace(target=own, others=others)
            alpha = raster.render(scene, world.camera, film.place, *size)[1]
            alone = raster.render(scene._replace(others=[]), world.camera, film.place, *size)[1]
            y, x = np.nonzero(alone)
            drawn = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
            box = np.clip(somebody.box, 0, [*size, *size])
            assert (np.floor(box[:2]) <= drawn[:2]).all() and (drawn[2:] <= np.ceil(box[2:])).all()
            if (box == somebody.box).all():  # wholly in the frame
                assert np.abs(box - drawn).max() < 2.5
            if alone.sum() > 50:
                share = somebody.pixels / somebody.alone
                assert share == pytest.approx(alpha.sum() / alone.sum(), abs=0.08)
                hidden += share < 0.8
                checked += 1
    assert checked > 15 and hidden


@pytest.mark.slow
def test_frames_show_what_the_plain_renderer_shows(raster, monkeypatch):
    from msinet_timm.render import film as module

    world, light = World.seen(draw_film_camera(4, 'street', 1), 5 / 3), {}
    monkeypatch.setattr(module, 'develop_frame', lambda radiance, *_: light.update(now=radiance.copy()) or b'x')
    film, crowds = module.Film(world, 1, (160, 96), 4, 'street', {}), []

    def plain(gl, passes, targets, crowd, *others):
        surfaces = gl.surfaces(160, 96)
        raster.draw_still(gl, surfaces, film.place, film.matrix)
        raster.draw_moving(gl, surfaces, crowd, film.matrix)
        whole = raster.Pass((gl.ambient, gl.light), surfaces)
        return raster.shine(gl, [whole], gl.targets(160, 96)[1:], crowd, *others)

    visits = walk([world], 6, 10, 4, 'street')
    for time in (1.0, 4.0, 7.0):
        seen, _ = film.frame(time, 0, visits)
        drawn = light['now']
        monkeypatch.setattr(module, 'shine', lambda *a: crowds.append(plain(*a)) or crowds[-1])
        film.frame(time, 0, visits)
        monkeypatch.setattr(module, 'shine', raster.shine)
        assert seen
        whole = crowds[-1][..., :3]
        off = np.abs(drawn - whole).max(2) / (whole.max(2) + 0.05)
        assert np.quantile(off, 0.98) < 0.12 and off.mean() < 0.02
        assert (np.abs(drawn - film.empty).max(2) > 1e-4).mean() > 0.02


@pytest.mark.slow
def test_a_frame_is_the_same_whatever_was_drawn_before(raster):
    from msinet_timm.render.film import Film

    world = World.seen(draw_film_camera(3, 'street', 1), 5 / 3)
    visits = walk([world], 6, 40, 3, 'street')
    film = Film(world, 1, (160, 96), 3, 'street', {})
    times = [4.0 * k for k in range(11)]
    first = [film.frame(time, 0, visits)[1] for time in times]
    assert [film.frame(time, 0, visits)[1] for time in times[::-1]][::-1] == first


@pytest.mark.slow
def test_the_layout_is_that_of_motchallenge(film):
    folder, counts = film
    assert sorted(p.name for p in folder.iterdir()) == ['render.json', 'street-3-c1', 'street-3-c2']
    boxes = 0
    for camera in (1, 2):
        sequence = folder / f'street-3-c{camera}'
        assert {str(p.relative_to(sequence)) for p in sequence.rglob('*.*')} == set(FILES)
        info = configparser.ConfigParser()
        info.read(sequence / 'seqinfo.ini')
        info = info['Sequence']
        assert (info['name'], info['imDir'], info['imExt']) == (sequence.name, 'img1', '.jpg')
        assert [int(info[k]) for k in ('frameRate', 'seqLength', 'imWidth', 'imHeight')] == [5, 4, 160, 96]
        assert info['startTime'] == '2026-01-01T12:00:00.000' and float(info['clockError']) == 0
        for k in range(1, 5):
            with Image.open(sequence / f'img1/{k:06d}.jpg') as image:
                assert image.size == (160, 96)
        gt = rows(sequence / 'gt/gt.txt', 9)
        boxes += len(gt)
        assert set(gt[:, 0]) <= {1, 2, 3, 4} and set(gt[:, 1]) <= set(range(1, 9))
        assert (gt[:, 2:4] >= 0).all() and (gt[:, 2:4] + gt[:, 4:6] <= [160.01, 96.01]).all() and (gt[:, 4:6] > 0).all()
        assert (gt[:, 6:8] == 1).all() and ((gt[:, 8] >= 0) & (gt[:, 8] <= 1)).all()
        det = rows(sequence / 'det/det.txt', 10)
        assert (det[:, 1] == -1).all() and ((det[:, 6] > 0) & (det[:, 6] < 1)).all()
    assert counts == {'cameras': 2, 'frames': 8, 'boxes': boxes, 'people': counts['people']} and boxes > 0


@pytest.mark.slow
def test_a_film_goes_on_where_it_stopped(film, tmp_path, caplog):
    folder, counts = film
    wanted = contents(folder)
    assert render_video(tmp_path, **TINY) == counts and contents(tmp_path) == wanted
    for lost in ('c1/img1/000002.jpg', 'c1/gt/gt.txt', 'c1/det/det.txt', 'c2/img1/000004.jpg'):
        (tmp_path / f'street-3-{lost}').unlink()
    kept = (tmp_path / 'street-3-c1/img1/000001.jpg').stat().st_mtime_ns
    assert render_video(tmp_path, **TINY | {'workers': 2}) == counts
    assert contents(tmp_path) == wanted
    assert (tmp_path / 'street-3-c1/img1/000001.jpg').stat().st_mtime_ns == kept
    with pytest.raises(InputError, match='was rendered with another seed'):
        render_video(tmp_path, **TINY | {'seed': 4})


def test_a_detector_misses_whom_others_hide(tmp_path):
    from msinet_timm.render.video import _detect, _Row, _Sequence

    settings, sequence = dict(seed=0, domain='mall', width=640, height=360), _Sequence(tmp_path, 1, 0.0)
    for visible, tall, low, high in ((1, 100, 0.93, 0.99), (0.35, 100, 0.4, 0.8), (0, 100, 0, 0.06), (1, 10, 0.3, 0.6)):
        people = [_Row(frame, 1, 300, 100, 40, tall, visible) for frame in range(1, 501)]
        text = _detect(people, 500, sequence, settings)
        assert text == _detect(people, 500, sequence, settings)
        found = np.array([[float(x) for x in line.split(',')] for line in text.splitlines()])
        near = np.abs(found[:, 2:6] - [300, 100, 40, tall]).max(1) < 25
        assert low <= near.mean() * len(near) / 500 <= high, (visible, tall)
        assert 0 < (~near).sum() < 150  # of nothing
        if visible == 1 and tall == 100:
            assert found[near, 6].mean() > found[~near, 6].mean() + 0.2
            assert 0.5 < np.abs(found[near, 2] - 300).mean() < 3


@pytest.mark.slow
def test_clocks_are_wrong_where_that_is_asked_for(raster, tmp_path):
    options = TINY | dict(seconds=0.2, identities=1)
    render_video(tmp_path / 'b', **options, clock_error=2)
    errors = []
    for camera in (1, 2):
        info = configparser.ConfigParser()
        info.read(tmp_path / f'b/street-3-c{camera}/seqinfo.ini')
        errors.append(float(info['Sequence']['clockError']))
        begins = 0.0 + 60 * int(info['Sequence']['startTime'][14:16]) + float(info['Sequence']['startTime'][17:])
        assert (begins - errors[-1]) % 3600 == pytest.approx(0, abs=2e-3) or (begins - errors[-1]) == 3600
    assert errors[0] != errors[1] and max(map(abs, errors)) <= 2


@pytest.mark.slow
def test_films_are_written_where_that_is_asked_for(film, tmp_path):
    av = pytest.importorskip('av')
    folder, _ = film
    render_video(folder, **TINY, mp4=True)
    for camera in (1, 2):
        with av.open(str(folder / f'street-3-c{camera}.mp4')) as written:
            frames = [frame.to_ndarray(format='rgb24') for frame in written.decode(video=0)]
        assert len(frames) == 4 and frames[0].shape == (96, 160, 3)
        with Image.open(folder / f'street-3-c{camera}/img1/000003.jpg') as image:
            assert np.abs(frames[2].astype(float) - np.asarray(image.convert('RGB'))).mean() < 8
        (folder / f'street-3-c{camera}.mp4').unlink()


def test_alike_are_dressed_alike():
    from msinet_timm.render.identity import draw_identity

    one, other, plain = (draw_identity(0, 'street', *number) for number in ((3,), (4, 3), (4,)))
    assert str(one.top) == str(other.top) and one.bag == other.bag and str(one.top) != str(plain.top)
    assert one.phenotype != other.phenotype
    assert (one.phenotype['gender'] > 0.5) == (other.phenotype['gender'] > 0.5)
