"""One view: people who cross, hide each other, leave and return, with embeddings that are given."""

import sys
import tracemalloc

import numpy as np
import pytest
from films import RATE, Thumbnail, cross, walk

from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.tracking import Tracker, weigh
from msinet_timm.tracking.tracklets import SAMPLES, Lately, Tracklet, unit

D = 16


def look(*people):
    """Embeddings [N, D] of people, all at right angles."""
    return np.eye(D)[list(people)]


def place(left, top=20):
    return left, top, left + 30, top + 100


class TestWeigh:
    def test_alone_and_tall(self):
        assert weigh(np.array([place(0)]), np.array([0.8])) == pytest.approx([0.8])

    def test_who_is_behind_is_covered(self):
        """Half of the first is behind the second, which stands lower and is seen whole."""
        boxes = np.array([(0, 0, 40, 100), (20, 0, 60, 120)])
        assert weigh(boxes, np.ones(2)) == pytest.approx([0.25, 1])

    def test_small(self):
        assert weigh(np.array([(0, 0, 20, 48)]), np.ones(1)) == pytest.approx([0.5])

    def test_half_outside(self):
        assert weigh(np.array([(-20, 0, 20, 100)]), np.ones(1), (200, 200)) == pytest.approx([0.25])

    @pytest.mark.parametrize('box', [(0, 10, 20, 110), (181, 10, 200, 105), (20, 160, 60, 200), (20, 0, 60, 50)])
    def test_what_ends_at_the_edge_is_half_a_person(self, box):
        alone, whole = (weigh(np.array([b]), np.ones(1), (200, 200))[0] for b in (box, (20, 10, 60, 110)))
        assert whole == 1 and alone <= 0.27

    def test_nobody(self):
        assert weigh(np.empty((0, 4)), np.empty(0)).shape == (0,)


class TestTracklet:
    def test_mean_by_weight(self):
        tracklet = Tracklet(1, None, 0, 0)
        tracklet.learn(3 * look(0)[0], 3)
        tracklet.learn(look(1)[0], 1)
        np.testing.assert_allclose(tracklet.feature, unit(3 * look(0)[0] + look(1)[0]))

    def test_the_latest_crops_are_taken_away_again(self):
        kept, mixed, lately = Tracklet(1, None, 0, 0), Tracklet(2, None, 0, 0), Lately()
        rng = np.random.default_rng(0)
        for number in range(40):
            crop, weight = look(number % 3)[0] * (w := rng.uniform(0.2, 1)), w
            mixed.learn(crop, weight)
            if number < 31:
                kept.learn(crop, weight)
            lately.add(number, crop, weight, 9)
        expected = np.linalg.norm(unit(lately.sum) - kept.feature)
        assert [time for time, *_ in lately.crops] == [*range(31, 40)]
        assert lately.distance(mixed) == pytest.approx(expected)
        mixed.unlearn(lately.sum, lately.weights)
        np.testing.assert_allclose(mixed.feature, kept.feature)
        assert mixed.crops == 31
        # every other one had gone when the crop came that is taken away
        np.testing.assert_allclose([e for _, e in mixed.samples], [e for _, e in kept.samples[::2]], atol=1e-12)
        assert mixed.weight == pytest.approx(kept.weight)

    def test_samples_are_of_the_whole_time_and_few(self):
        tracklet = Tracklet(1, None, 0, 0)
        for number in range(1000):
            tracklet.learn(np.array([number, 1.0]), 1)
        numbers = [embedding[0] for _, embedding in tracklet.samples]
        assert SAMPLES // 2 <= len(numbers) <= SAMPLES
        assert numbers[0] == 0 and np.ptp(np.diff(numbers)) == 0 and numbers[-1] >= 500


def follow(tracker, frames):
    """Identities by frame and person, as they were at the end. A frame is a dict of boxes by person."""
    seen = []
    for number, boxes in enumerate(frames):
        people = sorted(boxes)
        rows = np.array([boxes[p] for p in people], float).reshape(-1, 4)
        embeddings = look(*people) if tracker.given else None
        for track in tracker.update(None, rows, np.full(len(people), 0.9), number / RATE, embeddings):
            seen.append((number, people[track.index], track.tracklet))
    parents = {}
    for event in tracker.take_events():
        if event.parent:
            parents.setdefault(event.parent, []).append((event.since, event.tracklet))
    found = {}
    for number, who, tracklet in seen:
        for since, fresh in parents.get(tracklet, ()):
            if number / RATE >= since - 1e-9:
                tracklet = fresh
        found.setdefault(who, []).append(tracker.identities.of(tracklet))
    return found


def tracker(appearance=True, **settings):
    made = Tracker(threshold=0.8, frame_rate=RATE, **settings)
    made.given = appearance
    return made


AWAY = [{1: place(20 + 2 * n), 2: place(200)} for n in range(20)] + [{2: place(200)}] * 40
BACK = AWAY + [{1: place(120 - 2 * n), 2: place(200)} for n in range(20)]


def test_who_returns_is_known_again():
    found = follow(tracker(), BACK)
    assert len({*found[1]}) == 1 and len({*found[2]}) == 1 and found[1][0] != found[2][0]
    assert len({*follow(tracker(appearance=False), BACK)[1]}) == 2


def test_after_the_window_somebody_is_new():
    brief, found = tracker(window=2.0), []
    for number, boxes in enumerate(BACK):
        rows = np.array([*boxes.values()], float)
        found += [t.identity for t in brief.update(None, rows, None, number / RATE, look(*boxes)) if len(boxes) == 2]
    assert len({*found}) == 3  # the one who stands, and two


def test_somebody_else_is_not_taken_for_who_left():
    frames = [{(3 if who == 1 and n > 30 else who): box for who, box in boxes.items()} for n, boxes in enumerate(BACK)]
    found = follow(tracker(), frames)
    assert len({found[1][0], found[2][0], found[3][-1]}) == 3


def test_two_who_are_seen_at_once_are_two():
    """However alike they are."""
    alike = tracker()
    for number in range(40):
        boxes = np.array([place(20 + number), place(150 + number)], float)
        tracks = alike.update(None, boxes, None, number / RATE, look(1, 1))
    assert len({track.identity for track in tracks}) == 2
    assert not alike.take_events()


def swap(number):
    """Two who stand, and at frame 30 are each where the other was: motion alone cannot tell."""
    left, right = place(50), place(150)
    return {1: right, 2: left} if number >= 30 else {1: left, 2: right}


def test_a_swap_within_tracks_is_mended():
    frames = [swap(number) for number in range(60)]
    found = follow(tracker(), frames)
    assert [len({*found[who]}) for who in (1, 2)] == [1, 1] and found[1][0] != found[2][0]
    assert len({*follow(tracker(appearance=False), frames)[1]}) == 2


@pytest.mark.parametrize('strange', [range(5), range(55, 60)], ids=['comes', 'goes'])
def test_who_looks_strange_for_a_moment_is_not_split(strange):
    """As many do who come into view, and leave it."""
    calm = tracker()
    for number in range(60):
        calm.update(
            None, np.array([place(20 + number)], float), None, number / RATE, look(3 if number in strange else 1)
        )
    assert not calm.take_events()


def test_events_tell_of_splits_and_merges():
    mended = tracker()
    for number in range(60):
        boxes = swap(number)
        mended.update(None, np.array([boxes[1], boxes[2]], float), None, number / RATE, look(1, 2))
    events = mended.take_events()
    assert sorted(event.kind for event in events) == ['merge', 'merge', 'split', 'split']
    splits, merges = ([e for e in events if e.kind == kind] for kind in ('split', 'merge'))
    for event in splits:
        assert event.since == pytest.approx(3.0) and 3.0 < event.time < 4.0
        assert event.parent in (1, 2) and event.distance > 0.92  # 1.15 times the threshold
    assert {e.identity for e in merges} == {1, 2}
    assert not mended.take_events()


def test_crops_that_show_little_tell_nothing():
    """Somebody hidden has an embedding of whom hides him; motion goes on, and nobody is split."""
    hidden = tracker()
    for number in range(60):
        behind, before = (100, 10, 130, 110), (102, 12, 134, 130) if 20 <= number < 40 else place(10)
        rows = look(1, 2)
        rows[0] = look(2)[0] if 20 <= number < 40 else rows[0]
        hidden.update(None, np.array([behind, before], float), None, number / RATE, rows)
    assert not [event for event in hidden.take_events() if event.kind == 'split' and event.parent == 1]


def test_frames_are_embedded():
    embedder = Embedder(Thumbnail(), 'cpu')
    seeing = Tracker(embedder, 'door', threshold=1.0, frame_rate=RATE)
    people = {}
    for number, (frame, boxes) in enumerate(walk(cross, 60)):
        who = [*boxes]
        for track in seeing.update(frame, [boxes[w] for w in who], time=number / RATE):
            people.setdefault(who[track.index], []).append(track.identity)
    assert seeing.identities.tracklets()[0].feature.shape == (embedder.size,)
    assert all(max(map(ids.count, {*ids})) >= 0.8 * len(ids) for ids in people.values())


def test_blue_first():
    frame, boxes = next(walk(cross, 10))
    embedder, rows = Embedder(Thumbnail(), 'cpu'), np.array([*boxes.values()], float)
    ones = np.ones(len(rows))
    np.testing.assert_allclose(
        Tracker(embedder).embed(frame, rows, ones), Tracker(embedder, bgr=True).embed(frame[..., ::-1], rows, ones)
    )


def test_frames_without_boxes():
    assert tracker().update(None, []) == []


@pytest.mark.parametrize(
    ('boxes', 'scores', 'told'),
    [
        ([[0, 0, 5]], None, r'boxes must be \[N, 4\]: left, top, right, bottom; got \[1, 3\]'),
        ([['a', 0, 5, 5]], None, 'boxes must be numbers'),
        ([[0, 0, 5, float('nan')]], None, r'box 0 \(0, 0, 5, nan\) is not finite'),
        ([[0, 0, 5, 9], [5, 0, 5, 9]], None, r'box 1 \(5, 0, 5, 9\) is empty'),
        ([[0, 0, 5, 9]], [0.5, 0.5], r'scores must be \[1\]'),
        ([[0, 0, 5, 9]], [50], 'score 0 must be between 0 and 1, got 50'),
        ([[500, 0, 505, 9]], None, r'box 0 \(500, 0, 505, 9\) lies outside the frame of 48x64 pixels'),
    ],
)
def test_wrong_boxes(boxes, scores, told):
    with pytest.raises(InputError, match=told):
        Tracker().update(np.zeros((64, 48, 3), np.uint8), boxes, scores)


def test_time_goes_forwards():
    late = tracker()
    late.update(None, [], time=1.0)
    for time in (1.0, 0.5, float('nan')):
        with pytest.raises(InputError, match=f'time {time:g}, after 1: frames must come in the order of their times'):
            late.update(None, [], time=time)
    late.update(None, [])  # by the frame rate
    with pytest.raises(InputError, match='time 1.05, after 1.1'):
        late.update(None, [], time=1.05)
    with pytest.raises(InputError, match='time -1: frames must come'):
        tracker().update(None, [], time=-1)


def test_wrong_settings():
    with pytest.raises(InputError, match='threshold must be a distance above 0, up to 2, got 3'):
        Tracker(threshold=3)
    with pytest.raises(InputError, match='frame_rate must be greater than 0'):
        Tracker(frame_rate=0)
    with pytest.raises(InputError, match='window must be seconds'):
        Tracker(window=-1)
    with pytest.raises(InputError, match='2 embeddings for 1 boxes'):
        tracker().update(None, [place(0)], embeddings=look(1, 2))


@pytest.mark.parametrize('package', ['trackers', 'supervision'])
def test_without_the_package(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf'tracking needs {package}: pip install "msinet-timm\[tracking\]"'):
        Tracker()


def test_memory_is_flat_over_10_000_frames():
    """Of people who come and go all the time: 1,000 in all, five at once."""
    busy, rng = tracker(window=5.0), np.random.default_rng(0)
    looks = unit(rng.normal(size=(1000, D)))

    def step(number):
        people = [number // 10 - k for k in range(5) if number // 10 >= k]
        boxes = np.array([place(100 * (p % 7) + (number - 10 * p) / 10) for p in people], float)
        busy.update(None, boxes, None, number / RATE, looks[people])
        busy.take_events()

    for number in range(1000):
        step(number)
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    for number in range(1000, 10_000):
        step(number)
    grown = sum(stat.size_diff for stat in tracemalloc.take_snapshot().compare_to(before, 'filename'))
    tracemalloc.stop()
    assert grown < 300_000  # nine times as many people as before
    assert len(busy.identities.tracklets()) < 60
