"""Person search: fixtures worked out on paper, and plain loops over random detections."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from msinet_eval.metrics.person_search import evaluate_person_search
from msinet_timm.datasets.scenes import UNNAMED, Scene, SceneQuery, SceneSet
from msinet_timm.errors import InputError

# Somebody 40 by 80, and who covers the upper half, or 30 of 80 rows of the box.
WHOLE, HALF, LESS = (0, 0, 40, 80), (0, 0, 40, 40), (0, 0, 40, 30)
OTHER = (200, 0, 240, 80)


def at(degrees):
    """An embedding whose similarity to `at(0)` is the cosine of the angle; its length says nothing."""
    return [3 * math.cos(math.radians(degrees)), 3 * math.sin(math.radians(degrees))]


def seen(*detections):
    """Boxes, scores and embeddings of (box, angle) or (box, angle, score)."""
    boxes, angles, scores = zip(*((*d, 0.9)[:3] for d in detections), strict=True) if detections else ((), (), ())
    return np.array(boxes).reshape(-1, 4), np.array(scores), np.array([at(a) for a in angles]).reshape(-1, 2)


def scene_set(test, *queries):
    """`test` has boxes and identities by path; a query is a path, an identity and perhaps a gallery."""
    scenes = {path: Scene(path, *rows) for path, rows in test.items()}
    asked = [SceneQuery(scenes[path], scenes[path].named[i][0], i, *more) for path, i, *more in queries]
    return SceneSet('x', 'x', (), tuple(scenes.values()), tuple(asked))


def people(*identities):
    return (WHOLE, OTHER)[: len(identities)], identities


def test_galleries_missed_people_and_unnamed_ones():
    """Person 1 is in a (the query), b, c and d; in b an unnamed person is nearer; in d nobody is found."""
    test = {
        'a': people(1),
        'b': people(1, UNNAMED),
        'c': people(1),
        'd': people(1),
        'e': people(2),
    }
    found = {
        'a': seen((WHOLE, 0)),
        'b': seen((WHOLE, 20), (OTHER, 10)),
        'c': seen((WHOLE, 30)),
        'd': seen(),
        'e': seen((WHOLE, 25)),
    }
    # ranking: b's other, b's own (right, 1/2), e, c (right, 2/4), and one that is never found
    result = evaluate_person_search(scene_set(test, ('a', 1)), found, [at(0)])
    assert result.search.mAP == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert result.search.cmc[:3].tolist() == [0, 1, 1] and result.search.first_match_rank.tolist() == [2]
    assert result.search.recall == pytest.approx(2 / 3)
    # 5 of the 6 true boxes are found, and there is nothing else: precision 1 at each
    assert result.detection.recall == result.detection.AP == pytest.approx(5 / 6)
    assert (result.detection.boxes, result.detection.detections) == (6, 5)
    assert result.metrics['top-1'] == 0 and result.metrics['top-5'] == 1 and '33.33' in str(result)
    # in a gallery of its own: e (wrong), c (right, 1/2)
    small = evaluate_person_search(scene_set(test, ('a', 1, ('c', 'e'))), found, [at(0)])
    assert small.search.mAP == pytest.approx(1 / 2)
    # the more others, the worse: b, c without and with e between them
    for gallery, expected in ((('b', 'c'), (1 / 2 + 2 / 3) / 2), (('b', 'c', 'e'), (1 / 2 + 2 / 4) / 2)):
        result = evaluate_person_search(scene_set(test, ('a', 1, gallery)), found, [at(0)])
        assert result.search.mAP == pytest.approx(expected)


def test_overlap():
    """Half of a box is just enough of somebody large; of somebody small, 10 by 20, a third is: 200 / (20 * 30)."""
    test = {'a': people(1), 'b': people(1)}
    for box, right in ((HALF, 1), (LESS, 0)):
        found = {'a': seen((WHOLE, 0)), 'b': seen((box, 0))}
        result = evaluate_person_search(scene_set(test, ('a', 1)), found, [at(0)])
        assert result.search.mAP == right and result.detection.recall == (1 + right) / 2
    small = {'a': people(1), 'b': (((0, 0, 10, 20),), (1,))}
    for bottom, right in ((7, 1), (6.5, 0)):
        found = {'a': seen((WHOLE, 0)), 'b': seen(((0, 0, 10, bottom), 0))}
        result = evaluate_person_search(scene_set(small, ('a', 1)), found, [at(0)])
        assert result.search.mAP == right and result.detection.recall == 1 / 2  # which asks for a half of everybody


def test_a_true_box_is_matched_once():
    """The more similar of two detections of the same person is right, though the other has the higher score."""
    test = {'a': people(1), 'b': people(1)}
    found = {'a': seen((WHOLE, 0)), 'b': seen((HALF, 40, 0.95), (WHOLE, 10, 0.6), (OTHER, 20, 0.6))}
    result = evaluate_person_search(scene_set(test, ('a', 1)), found, [at(0)])
    assert result.search.mAP == 1
    # by score: HALF (right, 1/1), WHOLE of a (right, 2/2), WHOLE of b (its box is taken), OTHER
    assert result.detection.AP == 1 and result.detection.detections == 4
    found['b'] = seen((HALF, 5, 0.6), (WHOLE, 10, 0.95), (OTHER, 8, 0.99))
    result = evaluate_person_search(scene_set(test, ('a', 1)), found, [at(0)])
    assert result.search.mAP == 1 and result.search.recall == 1
    # by score: OTHER (wrong), WHOLE of b (1/2), WHOLE of a (2/3), HALF
    assert result.detection.AP == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_somebody_who_is_twice_in_an_image():
    test = {'a': people(1), 'b': people(1, 1)}
    found = {'a': seen((WHOLE, 0)), 'b': seen((WHOLE, 10), (OTHER, 20))}
    assert evaluate_person_search(scene_set(test, ('a', 1)), found, [at(0)]).search.mAP == 1
    found['b'] = seen((WHOLE, 10))
    assert evaluate_person_search(scene_set(test, ('a', 1)), found, [at(0)]).search.mAP == 1 / 2


def test_low_scores_are_left_out():
    test = {'a': people(1), 'b': people(1)}
    found = {'a': seen((WHOLE, 0)), 'b': seen((OTHER, 0, 0.4), (WHOLE, 10, 0.5))}
    result = evaluate_person_search(scene_set(test, ('a', 1)), found, [at(0)])
    assert result.search.mAP == 1 and result.detection.detections == 2
    result = evaluate_person_search(scene_set(test, ('a', 1)), found, [at(0)], min_score=0)
    assert result.search.mAP == 1 / 2 and result.detection.detections == 3


def test_queries_of_nobody_in_the_gallery_are_skipped():
    test = {'a': people(1), 'b': people(1), 'c': people(2)}
    found = {path: seen((WHOLE, 0)) for path in test}
    result = evaluate_person_search(scene_set(test, ('a', 1), ('c', 2)), found, [at(0), at(0)])
    assert result.search.skipped == 1 and np.isnan(result.search.average_precision).tolist() == [False, True]
    assert result.search.mAP == 1  # the first of two equally similar ones
    with pytest.raises(InputError, match='no query has its person in its gallery'):
        evaluate_person_search(scene_set(test, ('c', 2)), found, [at(0)])


def test_the_own_box_is_no_true_box():
    test = {'a': people(1), 'b': people(1)}
    found = {'a': seen((WHOLE, 0)), 'b': seen((WHOLE, 10))}
    result = evaluate_person_search(scene_set(test, ('a', 1, ('a', 'b'))), found, [at(0)])
    assert result.search.mAP == 1 / 2


def test_nobody_is_found_anywhere():
    test = {'a': people(1), 'b': people(1)}
    result = evaluate_person_search(scene_set(test, ('a', 1)), {'a': seen(), 'b': seen()}, [at(0)])
    assert set(result.metrics.values()) == {0.0}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(b=None), 'b: give boxes, scores and embeddings'),
        (dict(b=([[0, 0, 1, 1]], [0.9], [[1.0, 0.0, 0.0]])), 'differ in their dimensions: (2, 3|3, 2)'),
        (dict(b=([[0, 0, 1]], [0.9], [[1.0, 0.0]])), r'b: boxes, scores and embeddings must be \[N, 4\]'),
        (dict(b=([[0, 0, 1, 1]], [0.9, 0.8], [[1.0, 0.0]])), r'b: boxes, scores and embeddings must be \[N, 4\]'),
        (dict(b=([[0, 0, 1, 1]], [0.9], [[math.nan, 0.0]])), 'b: boxes, scores and embeddings must be finite'),
        (dict(b=([[5, 0, 1, 1]], [0.9], [[1.0, 0.0]])), 'left > right'),
    ],
)
def test_wrong_detections(change, message):
    test = {'a': people(1), 'b': people(1)}
    with pytest.raises(InputError, match=message):
        evaluate_person_search(scene_set(test, ('a', 1)), {'a': seen((WHOLE, 0))} | change, [at(0)])


def test_wrong_queries():
    test = {'a': people(1), 'b': people(1)}
    found = {path: seen((WHOLE, 0)) for path in test}
    for queries, message in (
        ([at(0), at(0)], r'must be \[1, D\], got \[2, 2\]'),
        ([[1.0, 0, 0]], 'have 3 dimensions, those of test scenes 2'),
        ([[math.inf, 0]], 'query embeddings must be finite'),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_person_search(scene_set(test, ('a', 1)), found, queries)
    with pytest.raises(InputError, match='b: nothing is given for this test scene'):
        evaluate_person_search(scene_set(test, ('a', 1)), {'a': found['a']}, [at(0)])
    with pytest.raises(InputError, match='no test scene has a box'):
        evaluate_person_search(scene_set({'a': ((), ())}), {'a': seen()}, np.zeros((0, 2)))


def overlap(a, b):
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide * high / (area - wide * high)


def plain_search(scenes, found, queries, min_score):
    """Ranked lists of dictionaries, one query at a time: average precision, first right rank, of those not skipped."""
    out = []
    for query, own in zip(scenes.queries, queries, strict=True):
        paths = query.gallery or [scene.path for scene in scenes.test if scene.path != query.scene.path]
        listed, total = [], 0
        for scene in (scene for path in paths for scene in scenes.test if scene.path == path):
            boxes, scores, embeddings = found[scene.path]
            rows = [
                dict(box=b, right=False, similarity=float(e @ own / np.linalg.norm(e) / np.linalg.norm(own)))
                for b, s, e in zip(boxes, scores, embeddings, strict=True)
                if s >= min_score
            ]
            for true, identity in zip(scene.boxes, scene.identities, strict=True):
                if identity != query.identity:
                    continue
                total += 1
                w, h = true[2] - true[0], true[3] - true[1]
                for row in sorted(rows, key=lambda row: -row['similarity']):
                    if overlap(row['box'], true) >= min(0.5, w * h / ((w + 10) * (h + 10))):
                        row['right'] = True
                        break
            listed += rows
        listed.sort(key=lambda row: -row['similarity'])
        if total:
            precisions = [
                sum(r['right'] for r in listed[: k + 1]) / (k + 1) for k, row in enumerate(listed) if row['right']
            ]
            first = next((k + 1 for k, row in enumerate(listed) if row['right']), 0)
            out.append((sum(precisions) / total, first))
            if first:  # as both sets' tools compute it
                right, similar = [row['right'] for row in listed], [row['similarity'] for row in listed]
                assert average_precision_score(right, similar) * sum(right) / total == pytest.approx(out[-1][0])
    return out


@pytest.mark.parametrize('seed', range(6))
def test_plain_loops_give_the_same(seed):
    rng = np.random.default_rng(seed)
    centres, test, found = rng.normal(size=(6, 8)), [], {}
    for k in range(25):
        chosen = rng.permutation(6)[: rng.integers(0, 5)]
        boxes = [tuple((np.array([x, y, x + w, y + h])).tolist()) for x, y, w, h in
                 rng.uniform([0, 0, 8, 15], [150, 80, 60, 120], (len(chosen), 4))]  # fmt: skip
        identities = [int(i) if rng.random() < 0.8 else UNNAMED for i in chosen]
        test.append(Scene(f'{k}.jpg', tuple(boxes), tuple(identities)))
        near = [np.sort((np.array(b) + rng.normal(0, 4, 4)).reshape(2, 2), 0).ravel() for b in boxes for _ in range(2)]
        more = [np.array([*low, *(low + size)]) for low, size in rng.uniform(1, 90, (3, 2, 2))]
        kept = [row for row in near if rng.random() < 0.6] + more
        base = [centres[rng.integers(6)] + rng.normal(0, 1, 8) for _ in kept]
        found[f'{k}.jpg'] = (np.array(kept), rng.random(len(kept)), np.array(base))
    named = [(scene, box, i) for scene in test for box, i in zip(scene.boxes, scene.identities, strict=True) if i >= 0]
    asked = [
        SceneQuery(scene, box, i, None if rng.random() < 0.5 else tuple(
            t.path for t in (test[j] for j in rng.permutation(25)[:8]) if t.path != scene.path
        ))
        for scene, box, i in named
    ]  # fmt: skip
    scenes = SceneSet('x', 'x', (), tuple(test), tuple(asked))
    queries = np.array([centres[query.identity] + rng.normal(0, 1, 8) for query in asked])
    result = evaluate_person_search(scenes, found, queries, min_score=0.2)
    expected = plain_search(scenes, found, queries, 0.2)
    average = result.search.average_precision
    assert average[~np.isnan(average)] == pytest.approx([ap for ap, _ in expected], abs=1e-9)
    firsts = np.array([first for _, first in expected])
    assert result.search.first_match_rank[~np.isnan(average)].tolist() == firsts.tolist()
    for k in (1, 5, 10):
        assert result.metrics[f'top-{k}'] == pytest.approx(np.mean((firsts > 0) & (firsts <= k)))
    assert 0.05 < result.search.mAP < 0.95 and 0.1 < result.search.recall < 1
    # detection: one at a time, by score
    rows = [(s, path, b) for path, (boxes, scores, _) in found.items() for b, s in zip(boxes, scores, strict=True)]
    free = {scene.path: list(scene.boxes) for scene in test}
    total, right, precisions = sum(map(len, free.values())), 0, []
    for k, (_, path, b) in enumerate(sorted((row for row in rows if row[0] >= 0.2), key=lambda row: -row[0])):
        best = max(free[path], key=lambda true: overlap(b, true), default=None)
        if best is not None and overlap(b, best) >= 0.5:
            free[path].remove(best)
            right += 1
            precisions.append(right / (k + 1))
    assert result.detection.recall == pytest.approx(right / total)
    assert result.detection.AP == pytest.approx(sum(precisions) / total)
