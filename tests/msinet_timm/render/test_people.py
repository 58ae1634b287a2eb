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


def test_stripes_run_down_the_outer_side_of_legs():
    from msinet_timm.render.patterns import paint

    angle = np.array([0, 0.5, -0.5, 1]) * np.pi  # front, outer and inner side, back of a leg; then of the hips
    u = np.concatenate([0.11 * angle, 0.17 * angle])
    v = np.repeat([-0.5, 0.02], 4)
    data = {'u': u, 'v': v, 'normal': np.zeros((8, 3)), 'arm': np.zeros(8)}
    colours = paint('side stripe', data, np.array([[0.0] * 3, [1.0] * 3]), 1.0, 0)[:, 0]
    assert colours.tolist() == [0, 1, 0, 0, 0, 1, 1, 0]
