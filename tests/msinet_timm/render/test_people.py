"""Who is drawn: clothes as a city wears them, groups dressed alike, what people do."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from msinet_timm.render.identity import BAGS, FACES, HAIR, HATS, draw_identity
from msinet_timm.render.wardrobe import BOTTOMS, SHOES, TOPS


@pytest.fixture(scope='module', params=['street', 'mall'])
def people(request):
    return request.param, [draw_identity(5, request.param, number) for number in range(1, 1001)]


def flat(value) -> tuple:
    """Everything in a person or garment, to compare."""
    if dataclasses.is_dataclass(value):
        return tuple(flat(getattr(value, f.name)) for f in dataclasses.fields(value))
    return tuple(np.ravel(value)) if isinstance(value, np.ndarray) else repr(value)


def test_the_same_numbers_give_the_same_person(people):
    domain, all_ = people
    assert all(flat(draw_identity(5, domain, k)) == flat(all_[k - 1]) for k in (1, 7, 500))
    assert flat(draw_identity(6, domain, 7)) != flat(all_[6])


def test_most_people_wear_dark_or_grey(people):
    domain, all_ = people
    for garments in ([p.outer or p.top for p in all_], [p.bottom for p in all_]):
        colours = np.array([g.colours[0] for g in garments])
        dark = colours @ [0.3, 0.59, 0.11] < 0.07
        roots = np.sqrt(colours)
        chroma = np.ptp(roots, axis=1)
        assert 0.35 < dark.mean() < 0.75
        assert (dark | (chroma < 0.1)).mean() > 0.55
        assert (chroma > 0.35).mean() < 0.12
        plain = np.mean([g.pattern in ('plain', 'heather') for g in garments])
        assert 0.65 < plain < 0.95
    assert np.mean([np.ptp(np.sqrt(p.top.colours[0])) > 0.35 for p in all_]) > 0.02  # but not nobody


def test_some_are_dressed_alike_and_nobody_wholly(people):
    _, all_ = people
    whole = {tuple(flat(g) for g in (p.top, p.outer, p.bottom, p.shoes)) for p in all_}
    assert len(whole) == len(all_)
    tops = Counter((p.outer or p.top).seed for p in all_)
    assert 100 < sum(n for n in tops.values() if n > 1) < 400
    colleagues = Counter((p.top.seed, p.bottom.seed) for p in all_)
    assert 20 < sum(n for n in colleagues.values() if n > 1) < 120


def test_every_kind_is_worn():
    all_ = [draw_identity(5, 'street', number) for number in range(1, 2001)]
    assert {p.top.kind for p in all_} | {p.outer.kind for p in all_ if p.outer} == set(TOPS)
    assert {p.bottom.kind for p in all_} == set(BOTTOMS) and {p.shoes.kind for p in all_} == set(SHOES)
    for what, names in (('hair', HAIR), ('hat', HATS), ('bag', BAGS), ('face', FACES)):
        assert {getattr(p, what) for p in all_} == set(names)
    assert 0.3 < np.mean([p.outer is not None and p.outer.open > 0 for p in all_ if p.outer]) < 0.8
    assert 0.02 < np.mean([p.phenotype['age'] < 0.43 for p in all_]) < 0.12


def rest():
    """A body's joints in anny's rest pose, arms spread."""
    from msinet_timm.render.body import Body

    heads = {}
    for side, sign in (('L', 1), ('R', -1)):
        joints = (('upperarm01', (0.198, -0.02, 0.687)), ('lowerarm01', (0.391, -0.025, 0.467)))
        joints += (('wrist', (0.531, -0.22, 0.329)),)
        heads |= {f'{name}.{side}': np.array(place) * [sign, 1, 1] for name, place in joints}
    return Body(None, heads, [], np.zeros(3))


def hand(body, turns, side: str) -> np.ndarray:
    """Where a wrist is, seen from its shoulder, after the turns of the upper and the lower arm."""
    shoulder, elbow, wrist = (body.heads[f'{name}.{side}'] for name in ('upperarm01', 'lowerarm01', 'wrist'))
    return turns[0] @ (elbow - shoulder + turns[1] @ (wrist - elbow))


@pytest.mark.parametrize('side, sign', [('L', 1), ('R', -1)])
def test_arms_go_where_they_are_told(side, sign):
    from msinet_timm.render.poses import arm

    body = rest()
    length = np.linalg.norm(hand(body, arm(body, side, 0, 0, 0), side))
    assert np.allclose(hand(body, arm(body, side, 0, 0, 0), side), [0, 0, -length], atol=1e-9)
    assert np.allclose(hand(body, arm(body, side, 90, 0, 0), side), [0, -length, 0], atol=1e-9)
    assert np.allclose(hand(body, arm(body, side, 0, 90, 0), side), [sign * length, 0, 0], atol=1e-9)
    x, y, z = hand(body, arm(body, side, 0, 0, 90), side)
    assert y < -0.2 and -0.35 < z < -0.2 and abs(x) < 1e-9  # the lower arm points forwards
    x, y, _ = hand(body, arm(body, side, 0, 0, 90, 90), side)
    assert sign * x < -0.2 and abs(y) < 1e-9  # across the body
    for turn in arm(body, side, 20, 10, 130, 30):
        assert np.allclose(turn @ turn.T, np.eye(3)) and np.linalg.det(turn) > 0.99


def test_people_stand_walk_run_and_hold_things():
    from msinet_timm.render.poses import pose

    body, rng = rest(), np.random.default_rng(0)
    poses = [pose(rng, body) for _ in range(600)]
    steps = np.array([np.linalg.norm(p['upperleg01.L'] - p['upperleg01.R']) for p in poses])
    assert 0.1 < (steps < 0.25).mean() < 0.4 and (steps > 1).mean() > 0.05  # standing and striding
    hands = np.array([[hand(body, (p[f'upperarm01.{s}'], p[f'lowerarm01.{s}']), s) for s in 'LR'] for p in poses])
    assert (np.abs(hands[..., 0]) < 0.35).all()  # nobody stretches arms aside
    hanging = (hands[..., 2] < -0.4).all(1).mean()
    assert 0.4 < hanging < 0.8
    assert (hands[..., 2] > -0.15).any(1).mean() > 0.05  # at a face or a strap
    body.carries = 'tote'
    poses = [pose(rng, body) for _ in range(200)]
    right = [hand(body, (p['upperarm01.R'], p['lowerarm01.R']), 'R')[2] for p in poses]
    assert np.mean(np.array(right) < -0.45) > 0.95


@pytest.fixture(scope='module')
def somebody():
    pytest.importorskip('anny')
    from msinet_timm.render.people import make_person

    return make_person(5, 'street', 4)


def posed(body, turns) -> dict[str, np.ndarray]:
    """Where the joints are in a pose."""
    from msinet_timm.render.body import BONES, pose_transforms

    moved = pose_transforms(body, turns)
    return {name: moved[k] @ np.append(body.heads[name], 1) for k, name in enumerate(BONES)}


@pytest.mark.slow
def test_hands_hold_and_feet_tread_what_is_ridden_and_pushed(somebody):
    from msinet_timm.render.poses import ground_of, pose
    from msinet_timm.render.wheels import BICYCLE

    body = dataclasses.replace(somebody[0])
    for seed in range(8):
        for thing in ('cycling', 'bicycle', 'stroller', 'skating'):
            body.carries = thing
            joints = posed(body, pose(np.random.default_rng(seed), body))
            place, scale = ground_of(body, thing)
            if thing == 'skating':
                low = [joints[f'foot.{side}'][2] - body.heads[f'foot.{side}'][2] for side in 'LR']
                assert np.allclose(low, 0.1, atol=0.01)  # on the deck
                assert joints['foot.L'][0] > 0.1 and joints['foot.R'][0] < -0.1
                continue
            grips = {side: place + scale * BICYCLE.grips * [sign, 1, 1] for side, sign in (('L', 1), ('R', -1))}
            if thing == 'stroller':
                grips = {side: place + scale * np.array([0.2 * sign, 0, 1]) for side, sign in (('L', 1), ('R', -1))}
            if thing == 'bicycle':
                grips = {'L': grips['R']}  # it stands to the left
            if thing == 'cycling':
                grips.pop('R')  # some wave
                crank = place + scale * BICYCLE.crank
                feet = [joints[f'foot.{side}'] - crank for side in 'LR']
                assert all(abs(np.hypot(*(f[1:] / scale - [0.09, 0.1])) - BICYCLE.pedal) < 0.05 for f in feet)
            for side, grip in grips.items():
                assert np.linalg.norm(joints[f'wrist.{side}'] - grip) < 0.13, (thing, side)


@pytest.mark.slow
def test_who_sits_has_a_seat_below(somebody):
    from msinet_timm.render.people import _sit

    body, mesh = somebody
    for seed in range(6):
        place = np.array([0.5, 7.0, 0])
        person, seat = _sit(body, mesh, place, 0.7 * seed, np.random.default_rng(seed))
        assert abs(person.position[:, 2].min()) < 1e-5 and 1.0 < person.position[:, 2].max() < 1.55
        low, high = seat.position.min(0), seat.position.max(0)
        assert abs(low[2]) < 1e-6 and high[2] < 1.2
        hip = person.position[np.abs(person.position[:, 2] - 0.5) < 0.03][:, :2].mean(0)
        assert (low[:2] - 0.1 < hip).all() and (hip < high[:2] + 0.1).all()
        again = _sit(body, mesh, place, 0.7 * seed, np.random.default_rng(seed))[0]
        assert (again.position == person.position).all()


@pytest.mark.slow
def test_boxes_of_detectors_leave_out_what_stands_beside(somebody, monkeypatch):
    from msinet_timm.render import people
    from msinet_timm.render.cameras import draw_camera

    pytest.importorskip('anny')
    identity = dataclasses.replace(draw_identity(5, 'street', 4), bag='cycling')
    monkeypatch.setattr(people, 'draw_identity', lambda *_: identity)
    body, mesh = people.make_person(5, 'street', 4)
    beside = mesh.data['part'] >= body.beside
    assert 0 < beside.sum() < len(beside) / 2
    view, counts = draw_camera(5, 'street', 2), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        points, target, _ = people.cast(lambda: (body, mesh), lambda: somebody, view, 'partial', 6.0, rng)
        assert len(target.position) == len(beside)
        counts.append(len(points))
    assert set(counts) == {len(beside), int((~beside).sum())}
    assert 0.4 < np.mean(np.array(counts) < len(beside)) < 0.9


@pytest.mark.slow
def test_nobody_rides_in_a_film(monkeypatch):
    from msinet_timm.render import people

    pytest.importorskip('anny')
    for bag, walking in (('cycling', 'bicycle'), ('skating', 'skateboard'), ('tote', 'tote')):
        identity = dataclasses.replace(draw_identity(5, 'street', 4), bag=bag)
        monkeypatch.setattr(people, 'draw_identity', lambda *_, identity=identity: identity)
        assert people.make_person(5, 'street', 4)[0].carries == bag
        assert people.make_person(5, 'street', 4, afoot=True)[0].carries == walking


@pytest.mark.slow
def test_clothes_are_no_finer_than_is_asked_for():
    from msinet_timm.render.people import make_person

    pytest.importorskip('anny')
    sizes = [len(make_person(5, 'street', 4, fine=fine)[1].position) for fine in (0.0, 0.012, 0.05)]
    assert sizes[0] >= sizes[1] > 1.2 * sizes[2]


@pytest.mark.slow
@pytest.mark.parametrize('what, deep', [('backpack', 0.25), ('hood', 0.04)])
def test_what_is_worn_on_the_back_lies_on_it(what, deep, monkeypatch):
    from msinet_timm.render import people

    pytest.importorskip('anny')
    for number in range(1, 13):
        identity = draw_identity(7, 'street', number)
        top = dataclasses.replace(identity.top, hood=what == 'hood')
        bag = 'backpack' if what == 'backpack' else None
        identity = dataclasses.replace(identity, top=top, outer=None, hat=None, bag=bag)
        monkeypatch.setattr(people, 'draw_identity', lambda *_, identity=identity: identity)
        mesh = people.make_person(7, 'street', number)[1]
        parts = mesh.data['part']
        worn = mesh.position[parts == parts.max() - (what == 'backpack')]  # a pocket is the last part of a backpack
        low, high = worn[:, 2].min(), worn[:, 2].max()
        x, y, z = mesh.position[parts == 1].T  # the top
        back = y[(np.abs(x) < 0.1) & (z > low) & (z < high)].max()
        assert back - 0.1 < worn[:, 1].min() < back < worn[:, 1].max() < back + deep, number


def test_stripes_run_down_the_outer_side_of_legs():
    from msinet_timm.render.patterns import paint

    angle = np.array([0, 0.5, -0.5, 1]) * np.pi  # front, outer and inner side, back of a leg; then of the hips
    u = np.concatenate([0.11 * angle, 0.17 * angle])
    v = np.repeat([-0.5, 0.02], 4)
    data = {'u': u, 'v': v, 'normal': np.zeros((8, 3)), 'arm': np.zeros(8)}
    colours = paint('side stripe', data, np.array([[0.0] * 3, [1.0] * 3]), 1.0, 0)[:, 0]
    assert colours.tolist() == [0, 1, 0, 0, 0, 1, 1, 0]
