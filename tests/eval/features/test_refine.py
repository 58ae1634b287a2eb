from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import named

from msinet_eval.features import refine as test_time
from msinet_eval.features.refine import augment_database, average_tracklets, expand_queries, subtract_camera_means
from msinet_eval.features.types import Features
from msinet_eval.protocol import rank
from msinet_timm.errors import InputError


def features(seed, count, dimensions=5, **labels):
    rng = np.random.default_rng(seed)
    embeddings = torch.from_numpy(rng.normal(size=(count, dimensions))).float()
    values = {
        'identities': named(rng.integers(0, 4, count)),
        'cameras': named(rng.integers(1, 4, count)),
        **labels,
    }
    paths = tuple(f'{seed}_{i}.jpg' for i in range(count))
    return Features(embeddings=torch.nn.functional.normalize(embeddings, dim=1), paths=paths, **values)


def unit(vectors):
    vectors = np.asarray(vectors)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def oracle_expand(rows, columns, k, alpha, itself):
    """Sorts all distances of each row, and takes the weighted mean with plain loops."""
    rows, columns = rows.embeddings.double().numpy(), columns.embeddings.double().numpy()
    means = []
    for i, row in enumerate(rows):
        order = np.argsort(((columns - row) ** 2).sum(1), kind='stable')
        neighbours = [j for j in order if not (itself and i == j)][:k]
        means.append(row + sum(max(0, row @ columns[j]) ** alpha * columns[j] for j in neighbours))
    return unit(means)


@pytest.fixture(params=['several tiles', 'one tile'])
def tiles(request, monkeypatch):
    if request.param == 'several tiles':
        monkeypatch.setattr(test_time, '_ROWS', 4)
        monkeypatch.setattr(test_time, '_COLUMNS', 7)
        monkeypatch.setattr(test_time, '_CHUNK', 30)


@pytest.mark.parametrize('alpha', [0.0, 1.0, 3.0])
@pytest.mark.parametrize('k', [1, 3, 25])
def test_expand_queries_equals_brute_force(tiles, k, alpha):
    query, gallery = features(0, 11), features(1, 25)
    expanded = expand_queries(query, gallery, k, alpha=alpha)
    expected = oracle_expand(query, gallery, k, alpha, itself=False)
    np.testing.assert_allclose(expanded.embeddings, expected, atol=2e-6)
    assert_only_embeddings_changed(query, expanded)


@pytest.mark.parametrize('alpha', [0.0, 2.0])
@pytest.mark.parametrize('k', [1, 4, 24])
def test_augment_database_equals_brute_force(tiles, k, alpha):
    gallery = features(1, 25)
    augmented = augment_database(gallery, k, alpha=alpha)
    expected = oracle_expand(gallery, gallery, k, alpha, itself=True)
    np.testing.assert_allclose(augmented.embeddings, expected, atol=2e-6)
    assert_only_embeddings_changed(gallery, augmented)


def test_a_image_is_not_its_own_neighbour_but_its_copy_is():
    gallery = features(1, 6)
    embeddings = gallery.embeddings.clone()
    embeddings[4] = embeddings[1]
    augmented = augment_database(replace(gallery, embeddings=embeddings), 1).embeddings
    for i in (1, 4):
        torch.testing.assert_close(augmented[i], embeddings[1])
    assert not torch.allclose(augmented[0], embeddings[0])


def assert_only_embeddings_changed(before, after):
    old = before.embeddings.clone()
    assert not torch.equal(after.embeddings, old)
    assert (after.identities, after.cameras, after.paths) == (before.identities, before.cameras, before.paths)
    torch.testing.assert_close(after.embeddings.norm(dim=1), torch.ones(len(after)))


def test_expansion_finds_what_a_query_alone_does_not():
    """A match that looks like another match, but not like the query."""
    angles = {'query': [0.0], 'gallery': [0.5, 1.1, -0.9]}
    query, gallery = (
        Features(
            embeddings=torch.tensor([[np.cos(a), np.sin(a)] for a in angles[part]], dtype=torch.float32),
            identities=named(ids),
            cameras=None,
            paths=tuple(map(str, angles[part])),
        )
        for part, ids in (('query', [1]), ('gallery', [1, 1, 2]))
    )
    assert rank(query, gallery).mAP < 1
    assert rank(expand_queries(query, gallery, 1), gallery).mAP == 1


def test_average_tracklets_equals_plain_loops():
    rng = np.random.default_rng(3)
    tracklets, cameras = named(rng.integers(0, 6, 40)), named(rng.integers(1, 3, 40))
    identities = tuple(map(str.__add__, tracklets, cameras))
    given = features(2, 40, tracklets=tracklets, cameras=cameras, identities=identities)
    averaged = average_tracklets(given)
    seen = {}
    for i in range(40):
        seen.setdefault((cameras[i], tracklets[i]), []).append(i)
    expected = unit([given.embeddings[members].double().mean(0).numpy() for members in seen.values()])
    np.testing.assert_allclose(averaged.embeddings, expected, atol=1e-6)
    first = [members[0] for members in seen.values()]
    assert averaged.paths == tuple(given.paths[i] for i in first)
    assert averaged.identities == tuple(identities[i] for i in first)
    assert averaged.cameras == tuple(cameras[i] for i in first)
    assert averaged.tracklets == tuple(tracklets[i] for i in first)
    assert len(average_tracklets(averaged)) == len(averaged)
    torch.testing.assert_close(average_tracklets(averaged).embeddings, averaged.embeddings)


def test_average_tracklets_without_cameras():
    labels = {'tracklets': named([5, 5, 9]), 'cameras': None, 'identities': named([1, 1, 2])}
    given = features(0, 3, **labels)
    averaged = average_tracklets(given)
    assert averaged.paths == ('0_0.jpg', '0_2.jpg') and averaged.cameras is None
    torch.testing.assert_close(averaged.embeddings[1], given.embeddings[2])


def test_tracklets_that_cannot_be_averaged():
    labels = {'tracklets': named([7, 8, 7]), 'cameras': named([1, 1, 1])}
    with pytest.raises(InputError, match='tracklet 7 mixes identities: 0_2.jpg has 4, 0_0.jpg has 3'):
        average_tracklets(features(0, 3, identities=named([3, 3, 4]), **labels))
    clothes = {'identities': named([3, 3, 3]), 'clothes': named([0, 1, 2])}
    with pytest.raises(InputError, match='tracklet 7 mixes clothes: 0_2.jpg has 2'):
        average_tracklets(features(0, 3, **clothes, **labels))
    with pytest.raises(InputError, match='tracklets of these images are not known'):
        average_tracklets(features(0, 3))


def test_subtract_camera_means_equals_plain_loops(tiles):
    query, gallery = features(4, 9), features(5, 20)
    embeddings = [f.embeddings.double().numpy() for f in (query, gallery)]
    both, cameras = np.concatenate(embeddings), np.array(query.cameras + gallery.cameras)
    means = np.array([both[cameras == camera].mean(0) for camera in cameras])
    expected = unit(both - means)
    changed = subtract_camera_means(query, gallery)
    np.testing.assert_allclose(torch.cat([f.embeddings for f in changed]), expected, atol=1e-6)
    for before, after in zip((query, gallery), changed, strict=True):
        assert_only_embeddings_changed(before, after)


def test_camera_means_take_out_what_a_camera_adds():
    query, gallery = (features(seed, 60, cameras=(str(seed),) * 60) for seed in (6, 7))
    gallery = replace(gallery, embeddings=query.embeddings.clone(), identities=named(range(60)))
    query = replace(query, identities=named(range(60)))
    light = torch.full((5,), 0.6)
    dazzled = replace(query, embeddings=torch.nn.functional.normalize(query.embeddings + light, dim=1))
    before, after = rank(dazzled, gallery).mAP, rank(*subtract_camera_means(dazzled, gallery)).mAP
    assert after > before + 0.1


def test_clear_errors():
    query, gallery = features(0, 4), features(1, 6)
    for call, message in (
        (lambda: expand_queries(query, gallery, 7), 'expand queries by 7 neighbours: the gallery has 6 images'),
        (lambda: augment_database(gallery, 6), 'by 6 neighbours: the gallery has 6 images, and an image is not its'),
        (lambda: expand_queries(query, gallery, 0), 'k must be at least 1'),
        (lambda: augment_database(gallery, 1, alpha=-1), 'alpha at least 0, got 1 and -1'),
        (lambda: expand_queries(query, features(1, 6, dimensions=3), 1), '5 dimensions, gallery embeddings 3'),
        (lambda: subtract_camera_means(query, features(1, 6, dimensions=3)), '5 dimensions, gallery embeddings 3'),
        (lambda: subtract_camera_means(query, features(1, 6, cameras=None)), 'need the cameras'),
        (
            lambda: subtract_camera_means(query, features(1, 6, cameras=named([1, 2, 3, 1, 2, 99]))),
            '1_5.jpg is the only image of camera 99',
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
