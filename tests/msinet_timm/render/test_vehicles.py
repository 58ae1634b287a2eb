"""Vehicles: what is drawn for a number, the meshes, how they stand before cameras, and whole data sets of them."""

import dataclasses
import io
import json
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError
from msinet_timm.render.bodywork import Shell, above, below, between, disc, octagon
from msinet_timm.render.cameras import draw_camera
from msinet_timm.render.dataset import plan, render_dataset
from msinet_timm.render.fittings import build_vehicle
from msinet_timm.render.meshes import Mesh, clip, ellipsoid, loft, split
from msinet_timm.render.paintwork import HEADLAMP, TAILLAMP, letters
from msinet_timm.render.traffic import boxed, cast
from msinet_timm.render.vehicles import BODIES, draw_vehicle

TINY = dict(objects='vehicles', identities=2, cameras=2, images=2, width=32, height=32, seed=3, workers=1)
PARTS = ('image_train', 'image_query', 'image_test')


@pytest.fixture(scope='module')
def street():
    return [draw_vehicle(5, 'street', number) for number in range(1, 1201)]


@pytest.fixture(scope='module')
def one_of_each(street):
    """A vehicle of each body, and its mesh."""
    first = {v.model.body: v for v in reversed(street)}
    return {body: (vehicle, build_vehicle(vehicle)) for body, vehicle in first.items()}


@pytest.fixture(scope='module')
def raster(opengl):
    return opengl


def flat(value) -> tuple:
    """Everything in a vehicle, to compare."""
    if dataclasses.is_dataclass(value):
        return tuple(flat(getattr(value, f.name)) for f in dataclasses.fields(value))
    return tuple(np.ravel(value)) if isinstance(value, np.ndarray) else repr(value)


def area(mesh: Mesh) -> np.ndarray:
    a, b, c = mesh.position[mesh.faces].swapaxes(0, 1)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def test_the_same_numbers_give_the_same_vehicle(street):
    assert all(flat(draw_vehicle(5, 'street', k)) == flat(street[k - 1]) for k in (1, 7, 500))
    assert flat(draw_vehicle(6, 'street', 7)) != flat(street[6]) != flat(draw_vehicle(5, 'mall', 7))
    for mesh in (build_vehicle(street[6]), build_vehicle(draw_vehicle(5, 'street', 7))):
        again = build_vehicle(street[6])
        assert all((mesh.data[k] == v).all() for k, v in again.data.items()) and (mesh.faces == again.faces).all()


def test_bodies_and_colours_are_those_of_a_street(street):
    bodies = Counter(v.model.body for v in street)
    assert set(bodies) == set(BODIES)
    assert 0.25 < bodies['sedan'] / len(street) < 0.4 and bodies['bus'] / len(street) < 0.05
    roots = np.sqrt([v.paint for v in street])
    assert 0.6 < (np.ptp(roots, axis=1) < 0.1).mean() < 0.9  # white, black, grey, silver
    assert 0.02 < (np.ptp(roots, axis=1) > 0.35).mean() < 0.2
    indoors = {draw_vehicle(5, 'mall', number).model.body for number in range(300)}
    assert 'sedan' in indoors and not indoors & {'bus', 'box truck', 'flatbed'}


def test_many_look_alike_and_none_is_the_same(street):
    assert len({flat(v) for v in street}) == len(street)
    models = Counter(v.model.seed for v in street)
    assert sum(n for n in models.values() if n > 1) > 0.5 * len(street)
    alike = Counter((v.model.seed, *np.round(6 * np.sqrt(v.paint))) for v in street)
    assert sum(n for n in alike.values() if n > 1) > 0.3 * len(street)
    fleets = Counter((v.model.body, *v.paint, *v.second) for v in street)
    assert sum(n for n in fleets.values() if n > 1) > 0.05 * len(street)


def test_meshes_stand_on_the_ground_and_look_outwards(one_of_each):
    for body, (vehicle, mesh) in one_of_each.items():
        low, high = mesh.position.min(0), mesh.position.max(0)
        shape = vehicle.model.shape
        assert abs(low[2]) < 0.02, body
        assert abs(high[1] - low[1] - shape.length) < 0.5 and abs(low[1] + high[1]) < 0.5, body
        assert shape.width - 0.05 < high[0] - low[0] < shape.width + 0.6, body
        assert shape.height - 0.1 < high[2] < shape.height + 1.3, body
        assert len(mesh.faces) < 60_000 and mesh.faces.max() < len(mesh.position)
        normal = mesh.data['normal']
        assert np.allclose(np.linalg.norm(normal, axis=1), 1, atol=0.2)
        a, b, c = mesh.position[mesh.faces].swapaxes(0, 1)
        face = np.cross(b - a, c - a)
        outwards = (face * normal[mesh.faces].mean(1)).sum(1) > 0
        assert area(mesh)[outwards].sum() > 0.995 * area(mesh).sum(), body
        assert 0 <= mesh.data['colour'].min() and mesh.data['colour'].max() <= 1.3
        assert 0 <= mesh.data['gloss'].min() and mesh.data['gloss'].max() <= 1
        ahead = [mesh.position[mesh.data['lamp'] == lamp, 1].mean() for lamp in (HEADLAMP, TAILLAMP)]
        assert ahead[0] < -0.3 * shape.length and ahead[1] > 0.3 * shape.length, body


@pytest.mark.parametrize(
    'change',
    [dict(rack='rails'), dict(rack='ladder'), dict(roof='sunroof'), dict(spoiler=True), dict(sign=True), dict(dirt=0.9)]
    + [dict(hub='many'), dict(hub='steel'), dict(decal='letters'), dict(decal='stripe'), dict(split='roof')]
    + [dict(split='wave'), dict(split='below'), dict(odd=('door', np.zeros(3))), dict(bumper=np.full(3, 0.02))]
    + [
        dict(stickers=[('front', 0.5, 0.8, 0.1, np.full(3, 0.6))]),
        dict(stickers=[('boot', 0.5, 0.0, 0.2, np.ones(3))]),
    ],
    ids=str,
)
def test_small_things_change_a_vehicle(street, change):
    plain = dict(
        rack=None, roof=None, spoiler=False, sign=False, dirt=0.0, hub='spokes', decal=None, split=None, odd=None
    )
    car = next(v for v in street if v.model.body == 'sedan')
    car = dataclasses.replace(car, bumper=None, stickers=[], **plain)
    one, other = build_vehicle(car), build_vehicle(dataclasses.replace(car, **change))
    share = [m.data['colour'][m.faces].mean((0, 1)) @ [1, 10, 100] + area(m).sum() for m in (one, other)]
    assert share[0] != share[1]


def test_a_shell_is_cut_without_gaps():
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rings = [np.stack([np.cos(turn), np.full(24, along), 1 + np.sin(turn)], 1) for along in np.linspace(0, 3, 9)]
    shell = Shell(loft(np.stack(rings)), 0)
    whole = area(shell.mesh).sum()
    shell.paint(1, *between('l', 1.0, 1.013), above('h', 1))  # far thinner than the faces
    thin = area(shell.mesh)[shell.material == 1].sum()
    assert thin == pytest.approx(whole / 3 * 0.013 / 2, rel=1e-6)
    shell.paint(2, *between('l', 0.5, 2.5), below('h', 1), over=(1,))  # there is none
    shell.paint(3, *disc(2.0, 1.0, 0.3, 40), above('x', 0))
    painted = area(shell.mesh)[shell.material == 3].sum()
    assert painted == pytest.approx(np.pi * 0.09, rel=0.05) and set(shell.material) == {0, 1, 3}
    assert area(shell.mesh).sum() == pytest.approx(whole, rel=1e-9)
    faces = len(shell.mesh.faces)
    shell.paint(4, *disc(2.0, 1.0, 0.3, 40), above('x', 0))  # along edges that are there
    assert len(shell.mesh.faces) == faces and set(shell.material) == {0, 1, 4}


def test_octagons_are_where_they_should_be():
    flat_ = np.array([[x, 0.0, z] for x in (-1.0, 0, 1) for z in (0.0, 1)])
    faces = np.array([[0, 2, 1], [1, 2, 3], [2, 4, 3], [3, 4, 5]])
    for name, count in (('w', 2), ('x', 1)):
        shell = Shell(Mesh(faces, {'position': flat_}), 0)
        shell.paint(1, *octagon(0.5, 0.5, 0.2, 0.1, 2.0, name=name))
        assert area(shell.mesh)[shell.material == 1].sum() == pytest.approx(0.08 * count)
        shell.paint(2, *octagon(0.5, 0.5, 0.2, 0.1, 1.5, name=name))
        assert area(shell.mesh)[shell.material == 2].sum() == pytest.approx(0.08 * count * (1 - 0.5**2 / 2))


def test_both_sides_of_a_cut_are_the_whole():
    ball = ellipsoid([0, 0, 0], [1, 1, 1])
    field = ball.position @ [0.3, 0.5, 0.8] - 0.2
    whole, count, source = split(ball, field)
    sizes = area(whole)
    assert sizes.sum() == pytest.approx(area(ball).sum()) and set(source) == set(range(len(ball.faces)))
    assert sizes[:count].sum() == pytest.approx(area(clip(ball, field)).sum())
    assert np.bincount(source, sizes) == pytest.approx(area(ball))


def test_letters_begin_at_the_left_of_who_reads_them(street):
    from msinet_timm.render.paintwork import Job

    van = next(v for v in street if v.model.body == 'van')
    van = dataclasses.replace(van, decal='disc', decals=np.array([[0.111, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    job = Job(van)
    letters(job, job.shell, 2.0, 4.0, 0.7, 1.2, job.painted)
    marks = job.shell.mesh.position[job.shell.mesh.faces[job.shell.material >= len(job.materials) - 2]].mean(1)
    right, left = marks[marks[:, 0] > 0, 1], marks[marks[:, 0] < 0, 1]
    assert len(right) and right.max() < 2.7 and left.min() > 3.3


def test_cameras_of_roads_hang_high_and_keep_their_colours():
    for number in range(1, 40):
        walk, road = draw_camera(2, 'street', number), draw_camera(2, 'street', number, road=True)
        assert 3 <= road.height <= 7.1 and road.near >= 6 and road.far >= road.near + 6 and road.road
        for name in ('exposure', 'saturation', 'noise', 'quality', 'seed'):
            assert getattr(walk, name) == getattr(road, name)
        assert (walk.light == road.light).all() and (walk.balance == road.balance).all()


def test_vehicles_are_seen_from_all_sides(one_of_each):
    rng, turns, hidden = np.random.default_rng(0), [], 0
    vehicle, mesh = one_of_each['sedan']
    lamps = mesh.data['lamp']
    for number in range(240):
        camera = draw_camera(number, 'street', 1 + number % 6, road=True)
        _, seen, others = cast(lambda: (vehicle, mesh), lambda: one_of_each['van'], camera, 'vehicle', 12.0, rng)
        ahead = seen.position[lamps == HEADLAMP].mean(0) - seen.position[lamps == TAILLAMP].mean(0)
        turns.append(np.arctan2(ahead[0], -ahead[1]) % (2 * np.pi))  # 0: towards the camera
        assert abs(seen.position[:, 2].min()) < 0.02 and seen.position[:, 1].min() > 2
        hidden += len(others) > 0
        for other in others:
            assert other.position[:, 1].min() > 2
            nearer = other.position[:, 1].mean() < seen.position[:, 1].mean() - 1
            if 'gloss' in other.data and nearer:  # a vehicle hides a part of another one only
                own, its = (p[:, 0] / p[:, 1] for p in (seen.position, other.position))
                assert np.mean((own > its.min()) & (own < its.max())) < 0.8
    assert (np.histogram(turns, 8, (0, 2 * np.pi))[0] > 10).all()
    assert 0.3 < hidden / 240 < 0.75


def test_boxes_of_vehicles_are_those_of_a_detector():
    rng, cut, wide, shapes = np.random.default_rng(0), 0, 0, set()
    for _ in range(600):
        true = np.array([-0.2, 0.2 * rng.uniform(0.6, 2.0), 0.0, 0.25])
        sides, tall, stretch = boxed(true.copy(), 'vehicle', rng)
        beyond = (sides - true) * [-1, 1, -1, 1] / np.repeat(true[1::2] - true[::2], 2)
        cut, wide = cut + (beyond.min() < -0.06), wide + (beyond.max() > 0.09)
        shapes.add(stretch)
        assert tall * stretch >= 0.85 * (sides[1] - sides[0]) and tall >= sides[3] - sides[2] - 1e-9
    assert 0.12 < cut / 600 < 0.4 and 0.05 < wide / 600 < 0.35 and len(shapes) > 3


def test_the_plan_has_names_of_veri776():
    images = plan(identities=20, cameras=6, images=10, seed=1, domain='mixed', places=4, test=5, objects='vehicles')
    people = plan(identities=20, cameras=6, images=10, seed=1, domain='mixed', places=4, test=5)
    assert len(images) == len(people) == len({p.path for p in images})
    known = [Counter(p.identity for p in plan_ if p.kind in ('vehicle', 'person')) for plan_ in (images, people)]
    assert known[0] == known[1]
    assert {p.path.split('/')[0] for p in images} == set(PARTS)
    assert {p.kind for p in images} == {'vehicle', 'place', 'partial', 'small'}


@pytest.fixture(scope='module')
def tiny(raster, tmp_path_factory):
    """A rendered data set, with masks, made without what people need. Tests must leave it as it is."""
    root = tmp_path_factory.mktemp('vehicles')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'anny', None)
        return root, render_dataset(root, **TINY, masks=True)


@pytest.mark.slow
def test_the_readers_read_it(tiny):
    root, counts = tiny
    wanted = (counts['train'], counts['query'], counts['gallery'] - counts['junk'])
    for name in ('veri776', 'rendered'):
        dataset = create_dataset(name, root)
        assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == wanted
    assert {r.identity for r in dataset.train} == {'1'} and {r.identity for r in dataset.query} == {'2'}
    record = json.loads((root / 'render.json').read_text())
    assert record['settings']['objects'] == 'vehicles'
    assert record['counts'] == counts and 'anny' not in record['versions'] and 'moderngl' in record['versions']
    for path in root.glob('image_*/*.jpg'):
        with (
            Image.open(path) as image,
            Image.open((root / 'masks' / path.relative_to(root)).with_suffix('.png')) as mask,
        ):
            assert image.size == mask.size == (32, 32) and mask.mode == 'L'
            if not path.name.startswith('0000'):
                assert np.asarray(mask).max() > 200


@pytest.mark.slow
def test_two_workers_go_on_where_one_stopped(tiny, tmp_path):
    root, counts = tiny
    assert render_dataset(tmp_path, **TINY) == counts
    for path in sorted(tmp_path.rglob('*.jpg'))[::2]:
        path.unlink()
    render_dataset(tmp_path, **TINY | dict(workers=2), masks=True)
    for path in (p for p in root.rglob('*') if p.is_file()):
        assert (tmp_path / path.relative_to(root)).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_folders_of_people_and_of_vehicles_do_not_mix(tiny):
    with pytest.raises(InputError, match='rendered with another .*objects'):
        render_dataset(tiny[0], **TINY | dict(objects='people'))


@pytest.mark.slow
def test_gloss_shows_the_sky_and_changes_nothing_else(raster):
    from msinet_timm.render.image import render_image
    from msinet_timm.render.scene import compose

    view, place = raster.place(0, 'street', 2, True)
    scene = compose(lambda k: raster.vehicle(0, 'street', 64, k), view, 0, 'street', 4, 2, 0, 'vehicle', 'vehicles')
    scene = scene._replace(others=[])
    matte = dataclasses.replace(scene.target, data=scene.target.data | {'gloss': 0 * scene.target.data['gloss']})
    bare = dataclasses.replace(matte, data={k: v for k, v in matte.data.items() if k != 'gloss'})
    draw = lambda mesh: raster.render(scene._replace(target=mesh), view, place, 64, 64)  # noqa: E731
    (shine, alpha), (dull, _), (plain, same) = (draw(mesh) for mesh in (scene.target, matte, bare))
    assert np.allclose(dull, plain, atol=1e-5) and (alpha == same).all() and 0.15 < alpha.mean() < 0.95
    inside = alpha == 1
    assert (shine - dull)[inside].mean() > 0.01 and np.allclose(shine[alpha == 0], dull[alpha == 0], atol=1e-5)
    image = render_image(0, 'street', 4, 2, 0, 'vehicle', 41, 37, True, 'vehicles')
    assert Image.open(io.BytesIO(image.image)).size == (41, 37)
