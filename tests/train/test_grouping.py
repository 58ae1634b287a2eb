"""Crops joined to groups without labels, against brute force and on crops whose people are known."""

import numpy as np
import pytest
import torch

from msinet_eval.metrics.rerank import k_reciprocal
from msinet_timm.datasets import Record
from msinet_timm.errors import InputError
from msinet_train import grouping
from msinet_train.grouping import Groups, agreement, group_crops, is_worse, mutual_share, number_tracklets


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


def test_share_of_tracklets_that_find_each_other():
    embeddings, records = make_crops()
    chosen = np.array([r.identity in '012' for r in records])
    share, asked = mutual_share(embeddings, records, chosen)
    assert share == 1 and 0 < asked <= chosen.sum() * 3
    blind = torch.nn.functional.normalize(torch.randn(len(records), 32, generator=torch.manual_seed(0)), dim=1)
    assert mutual_share(blind, records, chosen)[0] < 0.8
    share, asked = mutual_share(embeddings, records, np.zeros(len(records), bool))
    assert np.isnan(share) and not asked


def test_worse_is_more_than_chance():
    """One of twelve may be chance, a hundred of twelve hundred are not."""
    assert not is_worse(11 / 12, 1, 12) and is_worse(11 / 12, 1, 1200)
    assert not is_worse(1, 0.5, 12) and not is_worse(float('nan'), 1, 0) and is_worse(0.2, 0.9, 12)


def test_one_camera_is_refused():
    embeddings, records = make_crops(cameras=1)
    with pytest.raises(InputError, match='60 crops of 1 camera: .*give crops of two or more'):
        group_crops(embeddings, records)
