"""Crops joined to groups without labels, against brute force and on crops whose people are known."""

import numpy as np
import pytest
import torch

from msinet_eval.metrics.rerank import k_reciprocal
from msinet_timm.datasets import Record
from msinet_timm.errors import InputError
from msinet_train import grouping
from msinet_train.grouping import Groups, agreement, choose_held_out, group_crops, number_tracklets, retrieval


def make_crops(people=12, cameras=3, crops=5, spread=0.2, seed=0, seen=1.0, tracklets=True):
    """Embeddings around a direction of each person, and their records in a random order."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(people, 32))
    rows, records = [], []
    for person in range(people):
        for camera in range(cameras):
            if rng.random() > seen:
                continue
            for crop in range(crops):
                rows.append(directions[person] + spread * rng.normal(size=32))
                path = f'{camera}/{person}-{crop}.jpg'
                records.append(Record(path, str(person), str(camera), tracklet=str(person) if tracklets else None))
    order = rng.permutation(len(rows))
    embeddings = torch.nn.functional.normalize(torch.tensor(np.array(rows))[order].float(), dim=1)
    return embeddings, [records[i] for i in order]


def pairs(labels, records):
    """Precision and recall of pairs of crops in one group."""
    labels, people = np.asarray(labels), np.array([r.identity for r in records])
    joined = (labels[:, None] == labels) & (labels >= 0)
    right = people[:, None] == people
    return (joined & right).sum() / joined.sum(), (joined & right).sum() / right.sum()


@pytest.mark.parametrize('tracklets', [True, False])
def test_people_are_found_across_cameras(tracklets):
    embeddings, records = make_crops(tracklets=tracklets)
    groups = group_crops(embeddings, records)
    assert groups.count == 12
    assert pairs(groups.labels, records) == (1, 1)
    assert (groups.links > 0) == tracklets
    assert str(groups).startswith('12 groups of 180 of 180 crops')


def test_nearest_tracklets_are_those_of_all_distances():
    embeddings, records = make_crops(people=7, crops=3, spread=1.0)
    camera = np.array([int(r.camera) for r in records])
    unit = number_tracklets(records)
    near = grouping._find_nearest(embeddings, unit, camera)
    jaccard = k_reciprocal(embeddings, embeddings, 10, 3, 0.0).numpy()  # of 63 crops
    members = [np.flatnonzero(unit == u) for u in range(unit.max() + 1)]
    between = np.array([[jaccard[np.ix_(a, b)].mean() for b in members] for a in members])
    np.fill_diagonal(between, np.inf)
    cameras = np.array([camera[m[0]] for m in members])
    assert near.camera.tolist() == cameras.tolist()
    for number in range(3):
        under = np.where(cameras == number, between, np.inf)
        np.testing.assert_allclose(near.distance[:, number], under.min(1), rtol=1e-5)
        assert (np.take_along_axis(under, near.index[:, number, None], 1)[:, 0] <= under.min(1) + 1e-5).all()


def test_blocks_change_nothing(monkeypatch):
    embeddings, records = make_crops(spread=0.6)
    for tracklets in (True, False):
        records = [r._replace(tracklet=r.tracklet if tracklets else None) for r in records]
        whole = group_crops(embeddings, records)
        monkeypatch.setattr(grouping, '_BLOCK', 7)
        assert group_crops(embeddings, records).labels.equal(whole.labels)
        monkeypatch.undo()


def test_fragments_of_a_tracklet_are_joined():
    embeddings, records = make_crops(crops=6)
    split = [r._replace(tracklet=f'{r.tracklet}-{int(r.path[-5]) // 2}') for r in records]
    fragments = number_tracklets(split)
    near = grouping._find_nearest(embeddings, fragments, np.array([int(r.camera) for r in records]))
    assert grouping._join_fragments(near).max() + 1 < fragments.max() + 1
    precision, recall = pairs(group_crops(embeddings, split).labels, records)
    assert precision == 1 and recall > 0.75


def test_no_group_has_two_tracklets_of_a_camera_that_differ():
    embeddings, records = make_crops(spread=1.2, seed=3)
    labels = group_crops(embeddings, records).labels.tolist()
    units = {(label, r.camera): set() for label, r in zip(labels, records, strict=True) if label >= 0}
    for label, record in zip(labels, records, strict=True):
        if label >= 0:
            units[label, record.camera].add(record.tracklet)
    joined = [unit for unit in units.values() if len(unit) > 1]
    near = grouping._find_nearest(embeddings, number_tracklets(records), np.array([int(r.camera) for r in records]))
    own = near.distance[np.arange(len(near.camera)), near.camera]
    assert len(joined) <= (own <= grouping.RADIUS).sum()  # only fragments


def test_people_under_one_camera_are_left_out():
    embeddings, records = make_crops(people=10, cameras=2, seen=0.5, seed=1)
    groups = group_crops(embeddings, records)
    seen = {}
    for record in records:
        seen.setdefault(record.identity, set()).add(record.camera)
    for label in range(groups.count):
        assert len({r.camera for r, other in zip(records, groups.labels, strict=True) if other == label}) > 1
    assert groups.count <= len(seen)


def test_tracklets_of_the_same_name_under_two_cameras_are_two():
    records = [Record('a', 'x', 'door', tracklet='1'), Record('b', 'x', 'yard', tracklet='1'), Record('c', 'x', 'yard')]
    assert number_tracklets(records).tolist() == [0, 1, 2]


def test_agreement():
    groups = Groups(torch.tensor([0, 0, 1, 1, -1, -1]))
    assert agreement(groups, Groups(torch.tensor([1, 1, 0, 0, -1, -1]))) == 1
    assert agreement(groups, Groups(torch.tensor([0, 1, 0, 1, -1, -1]))) < 0.5


def test_some_groups_are_held_out():
    labels = torch.arange(10).repeat(4)
    labels[:3] = -1
    chosen = choose_held_out(Groups(labels), 0.3, 0)
    assert len(set(chosen.labels.tolist()) - {-1}) == 3
    assert all(a in (b, -1) for a, b in zip(chosen.labels.tolist(), labels.tolist(), strict=True))
    for group in set(chosen.labels.tolist()) - {-1}:
        assert ((chosen.labels == group) == (labels == group)).all()
    assert (choose_held_out(Groups(labels), 0.3, 1).labels != chosen.labels).any()
    assert len(set(choose_held_out(Groups(labels), 0.01, 0).labels.tolist())) == 3
    for few in (choose_held_out(Groups(labels % 5), 0.3, 0), choose_held_out(Groups(labels), 0, 0)):
        assert (few.labels == -1).all()


def test_how_well_groups_find_each_other():
    """By hand: two groups under two cameras, and a crop of none."""
    records = [
        Record(name, 'x', camera)
        for name, camera in zip('abcde', ('door', 'yard', 'door', 'yard', 'yard'), strict=True)
    ]
    angles = torch.tensor([0.0, 0.3, 0.2, 1.0, 0.0])
    embeddings = torch.stack([angles.cos(), angles.sin()], 1)
    groups = Groups(torch.tensor([0, 0, 1, 1, -1]))
    # a: b after c; b: a after c; c: d after b and a; d: c after b
    assert retrieval(embeddings, records, groups) == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert np.isnan(retrieval(embeddings, records, Groups(torch.full((5,), -1))))


def test_one_camera_is_refused():
    embeddings, records = make_crops(cameras=1)
    with pytest.raises(InputError, match='60 crops of 1 camera: .*give crops of two or more'):
        group_crops(embeddings, records)
