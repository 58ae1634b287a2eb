"""Identities across cameras: where time and place allow it, online and knowing how all went on."""

import numpy as np
import pytest

from msinet_timm.errors import InputError
from msinet_timm.tracking import CameraNetwork, Tracker
from msinet_timm.tracking.identities import ENOUGH_PASSAGES, ENOUGH_SEEN, Identities
from msinet_timm.tracking.tracklets import unit

D = 32
RATE = 10


def look(person, noise=0.0, seed=0):
    """[D] embedding of a person, all at right angles but for noise."""
    return unit(np.eye(D)[person] + noise * np.random.default_rng(seed).normal(size=D) / D**0.5)


def network(*cameras, **settings):
    return CameraNetwork(
        [Tracker(None, camera, frame_rate=RATE) for camera in cameras], **{'threshold': 0.8} | settings
    )


def show(net, visits):
    """Shows people who each walk through a camera: (camera, person, start, end); gives identities by visit."""
    times = sorted({round(t, 3) for *_, start, end in visits for t in np.arange(start, end, 1 / RATE)})
    tracklets = {}
    for time in times:
        for camera, tracker in net.trackers.items():
            here = [v for v in visits if v[0] == camera and v[2] <= time + 1e-9 < v[3]]
            lefts = [100 * visits.index(v) % 700 + 5 * (time - v[2]) for v in here]
            boxes = np.array([(left, 0, left + 40, 120) for left in lefts], float).reshape(-1, 4)
            rows = np.array([look(v[1], 0.2, int(10 * time)) for v in here]).reshape(-1, D)
            for track in tracker.update(None, boxes, None, time, rows):
                tracklets[here[track.index]] = track.tracklet
    return lambda: [net.identities.of(tracklets[visit]) for visit in visits]


def test_somebody_walks_through_three_cameras():
    net = network('a', 'b', 'c')
    found = show(net, [('a', 1, 0, 2), ('b', 1, 4, 6), ('c', 1, 8, 10), ('b', 2, 4, 6)])
    one, two, three, other = found()
    assert one == two == three != other
    assert [e.kind for e in net.take_events()] == ['merge', 'merge']


def test_nobody_is_in_two_places_at_once():
    visits = [('a', 1, 0, 4), ('b', 1, 2, 6)]
    assert len({*show(network('a', 'b'), visits)()}) == 2
    assert len({*show(network('a', 'b', overlapping=[('b', 'a')]), visits)()}) == 1
    assert len({*show(network('a', 'b', 'c', overlapping=[('a', 'c')]), visits)()}) == 2


def test_who_was_seen_elsewhere_meanwhile():
    """The identity was in two cameras; whoever is in a third at one of these times is somebody else."""
    net = network('a', 'b', 'c', overlapping=[('a', 'c')])
    found = show(net, [('a', 1, 0, 2), ('b', 1, 3, 6), ('c', 1, 4, 7)])
    a, b, c = found()
    assert a == b != c


def test_the_window():
    visits = [('a', 1, 0, 2), ('a', 2, 2, 9), ('b', 1, 9, 11)]
    assert show(network('a', 'b', window=10), visits)()[::2] == [1, 1]
    assert len({*show(network('a', 'b', window=5), visits)()}) == 3


def test_transitions_that_are_given():
    visits = [('a', 1, 0, 2), ('b', 1, 4, 6)]
    for low, high, people in ((1, 3, 1), (0, 1, 2), (3, 9, 2)):
        assert len({*show(network('a', 'b', transitions={('a', 'b'): (low, high)}), visits)()}) == people
    assert len({*show(network('a', 'b', transitions={('b', 'a'): (9, 10)}), visits)()}) == 1  # the other way


def test_transitions_that_are_learnt():
    """After ten passages of about five seconds, one of twenty takes more than half of a threshold."""
    known = Identities(threshold=0.8)
    rng = np.random.default_rng(0)

    def visit(camera, person, time, noise=0.0):
        tracklet = known.begin(camera, time)
        tracklet.end = time + 1
        for seed in range(3):
            tracklet.learn(look(person, noise, seed + 10 * tracklet.number), 1.0)
        known.check(tracklet, time + 1)
        return known.of(tracklet)

    for person in range(ENOUGH_PASSAGES):
        start = 100.0 * person
        assert visit('a', person, start) == visit('b', person, start + 6 + rng.uniform(-1, 1))
    assert visit('a', 20, 5000) != visit('b', 20, 5021, 0.6)  # alike, but too late
    assert visit('a', 21, 6000) == visit('b', 21, 6006, 0.6)  # as alike, in time
    assert visit('a', 22, 7000) == visit('b', 22, 7021)  # too late, but beyond doubt


def test_the_threshold_that_is_learnt():
    """Of people who are seen at once, and so are not the same."""
    known = Identities()
    crowd = [known.begin('a', 0) for _ in range(6)]
    for number, tracklet in enumerate(crowd):
        tracklet.learn(look(number), 1.0)
    assert known.threshold is None
    known.observe_apart(crowd[:2])
    assert known.threshold is None and len(known._seen) < ENOUGH_SEEN
    known.observe_apart(crowd)
    assert known.threshold == pytest.approx(2**0.5)


def test_without_a_threshold_nobody_is_joined():
    net = network('a', 'b', threshold=None)
    assert len({*show(net, [('a', 1, 0, 2), ('b', 1, 4, 6)])()}) == 2
    with pytest.raises(InputError, match='no threshold is known: give one'):
        net.resolve()


def test_resolve_finds_what_came_too_early_to_be_known():
    """The nearest at the time was somebody else; who it was came later."""
    net = network('a', threshold=2.0)
    known = net.identities
    first, second, third = (known.begin('a', t) for t in (0.0, 10.0, 20.0))
    for tracklet, embedding in zip((first, second, third), (look(1), unit(look(1) + look(2)), look(2)), strict=True):
        tracklet.end = tracklet.start + 1
        tracklet.boxes = 10
        for _ in range(3):
            tracklet.learn(embedding, 1.0)
    known.check(second, 11)
    known.check(third, 21)
    assert {known.of(t) for t in (first, second, third)} == {1}
    net.take_events()
    assert len({*net.resolve(threshold=0.5).values()}) == 3
    assert [event.kind for event in net.take_events()] == ['split', 'split']
    assert len({*net.resolve(threshold=2.0).values()}) == 1
    assert [event.kind for event in net.take_events()] == ['merge', 'merge']


def test_resolve_keeps_apart_who_cannot_be_one():
    net = network('a', 'b', threshold=0.8)
    found = show(net, [('a', 1, 0, 4), ('b', 1, 2, 6), ('a', 1, 8, 9)])
    net.resolve(threshold=2.0)
    a, b, _ = found()
    assert a != b


def test_resolve_with_distances_of_ones_own():
    net = network('a', 'b')
    found = show(net, [('a', 1, 0, 2), ('b', 1, 4, 6)])
    calls = []

    def distances(crops):
        calls.append(crops.shape)
        return np.ones((len(crops), len(crops)))

    net.resolve(distances, threshold=0.5)
    assert len({*found()}) == 2 and calls[0][1] == D
    net.resolve(lambda crops: np.zeros((len(crops), len(crops))), threshold=0.5)
    assert len({*found()}) == 1


def test_without_keeping_memory_is_of_the_window():
    visits = [('a', person, 10 * person, 10 * person + 2) for person in range(20)]
    kept, brief = network('a', window=5), network('a', window=5, keep=False)
    for net in (kept, brief):
        show(net, visits)
        net.trackers['a'].update(None, [], None, 500)
    assert len(kept.tracklets()) == 20 and len(brief.tracklets()) < 3


def test_wrong_networks():
    with pytest.raises(InputError, match='a network needs trackers'):
        CameraNetwork([])
    with pytest.raises(InputError, match='a camera of its own name, got: a, a'):
        network('a', 'a')
    with pytest.raises(InputError, match='a:x: a pair is of two of the cameras a, b'):
        network('a', 'b', overlapping=[('a', 'x')])
    with pytest.raises(InputError, match='a:a: a pair is of two'):
        network('a', 'b', transitions={('a', 'a'): (1, 2)})
    with pytest.raises(InputError, match=r"transitions: \('a', 'b'\) must take from 0 seconds on, got 3 to 2"):
        network('a', 'b', transitions={('a', 'b'): (3, 2)})
    started = Tracker(None, 'a')
    started.update(None, [])
    with pytest.raises(InputError, match='must not have seen frames before'):
        CameraNetwork([started])
