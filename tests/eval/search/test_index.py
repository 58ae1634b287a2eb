import builtins
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import named
from safetensors.torch import save_file

from msinet_eval.features.types import Features
from msinet_eval.search.index import BACKENDS, recall, search
from msinet_eval.search.store import FeatureStore
from msinet_timm.errors import InputError


def brute_force(query, gallery, k):
    distances = ((query[:, None].astype(np.float64) - gallery[None]) ** 2).sum(2)
    order = np.argsort(distances, axis=1, kind='stable')[:, :k]
    return order, np.sqrt(np.take_along_axis(distances, order, 1))


def integers(seed, count, dimensions=3):
    """Features whose distances float32 holds exactly, many of them equal."""
    return np.random.default_rng(seed).integers(-2, 3, (count, dimensions)).astype(np.float32)


def clustered(count, dimensions=32, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((40, dimensions))
    return (centers[rng.integers(0, 40, count)] + 0.3 * rng.standard_normal((count, dimensions))).astype(np.float32)


def fill(folder, features, size, paths=None, **labels):
    """A folder of shards. Labels are numbers without names, as older files have them."""
    folder.mkdir(exist_ok=True)
    shards = []
    for number, start in enumerate(range(0, len(features), size)):
        part, file = slice(start, start + size), folder / f'{number:06d}.safetensors'
        tensors = {name: torch.from_numpy(values[part]) for name, values in labels.items()}
        metadata = paths and {'paths': json.dumps(paths[part])}
        save_file({'embeddings': torch.from_numpy(features[part]), **tensors}, file, metadata)
        shards.append([file.name, len(features[part]), file.stat().st_size])
    (folder / 'store.json').write_text(json.dumps({'dim': features.shape[1], 'shards': shards}))
    return FeatureStore.open(folder)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 80), st.data())
def test_exact_equals_brute_force_with_ties(seed, queries, size, data):
    query, gallery = integers(seed, queries), integers(seed + 1000, size)
    k = data.draw(st.integers(1, size))
    indices, distances = search(query, gallery, k, tile=data.draw(st.sampled_from([1, 30, 200, 2**21])))
    expected, far = brute_force(query, gallery, k)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(distances, far, rtol=1e-6)


def test_exact_where_every_next_image_is_nearer():
    gallery = np.arange(3000, 0, -1, dtype=np.float32)[:, None]
    indices, distances = search(np.zeros((2, 1), np.float32), gallery, 5, tile=2000)
    assert indices.tolist() == [[2999, 2998, 2997, 2996, 2995]] * 2
    assert distances.tolist() == [[1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize('backend', list(BACKENDS))
def test_store_and_tensor_give_the_same(tmp_path, backend):
    query, gallery = clustered(40, seed=1), clustered(4000)
    store = fill(tmp_path / 'store', gallery, 1500)
    options = {'ivfpq': {'nlist': 16, 'nprobe': 4, 'm': 8}}.get(backend, {})
    exact, far = brute_force(query, gallery, 10)
    for source in (store, FeatureStore.open(tmp_path / 'store'), torch.from_numpy(gallery)):
        indices, distances = search(query, source, 10, backend, **options)
        assert recall(indices, exact) > (0.8 if backend == 'ivfpq' else 0.97)
        true = np.linalg.norm(query[:, None] - gallery[indices.numpy()], axis=2)
        np.testing.assert_allclose(distances, true, rtol=1e-4, atol=1e-4)
        assert (distances.diff(dim=1) >= 0).all()
        if backend in ('exact', 'flat'):
            np.testing.assert_array_equal(indices, exact)
    kept = [path.name for path in (tmp_path / 'store').glob('*.faiss')]
    assert len(kept) == (backend != 'exact')


@pytest.mark.parametrize(
    ('backend', 'less', 'more'),
    [
        ('hnsw', {'ef': 1}, {'ef': 400}),
        ('hnsw', {'links': 2, 'ef': 1}, {'links': 32, 'ef': 1}),
        ('hnsw', {'ef_construction': 1, 'ef': 1}, {'ef_construction': 200, 'ef': 1}),
        ('ivfpq', {'nprobe': 1}, {'nprobe': 16}),
        ('ivfpq', {'refine': 1}, {'refine': 40}),
        ('ivfpq', {'m': 1, 'refine': 1}, {'m': 32, 'refine': 1}),
        ('ivfpq', {'nlist': 200, 'nprobe': 1}, {'nlist': 2, 'nprobe': 1}),
    ],
)
def test_parameters_trade_recall(backend, less, more):
    rng = np.random.default_rng(0)
    query, gallery = (rng.standard_normal((n, 32)).astype(np.float32) for n in (100, 3000))
    exact, _ = search(query, gallery, 5)
    base = {'nlist': 16, 'nprobe': 16, 'm': 8} if backend == 'ivfpq' else {}
    shares = [recall(search(query, gallery, 5, backend, **(base | change))[0], exact) for change in (less, more)]
    assert shares[0] + 0.02 < shares[1]


def test_cells_with_too_few_images_leave_gaps():
    near = clustered(200, 4) / 100
    indices, distances = search(near[:1], np.concatenate([near, near + 100]), 250, 'ivfpq', nlist=2, nprobe=1)
    assert sorted(indices[0, :200].tolist()) == list(range(200))
    assert (indices[0, 200:] == -1).all()
    assert distances[0, 200:].isinf().all()


def test_kept_index_is_used_and_renewed(tmp_path, monkeypatch):
    import faiss

    gallery = clustered(600)
    store = fill(tmp_path, gallery, 300)
    built, build = [], faiss.IndexHNSWFlat
    monkeypatch.setattr(faiss, 'IndexHNSWFlat', lambda *args: built.append(args) or build(*args))
    search(gallery[:2], store, 3, 'hnsw')
    search(gallery[:2], FeatureStore.open(tmp_path), 3, 'hnsw', ef=7)  # only searched otherwise
    assert len(built) == 1
    search(gallery[:2], store, 3, 'hnsw', links=5)
    assert built[1:] == [(32, 5)]
    store = fill(tmp_path, np.concatenate([gallery, gallery[:1] + 100]), 300)
    indices, _ = search(gallery[:1] + 100, store, 1, 'hnsw')
    assert indices.tolist() == [[600]]
    kept = list(tmp_path.glob('*.faiss'))
    assert len(kept) == 1
    kept[0].write_bytes(b'broken')
    assert search(gallery[:1] + 100, store, 1, 'hnsw')[0].tolist() == [[600]]


def test_recall():
    assert recall([[1, 2], [3, 4]], [[2, 1], [9, 4]]) == 0.75
    assert recall([[-1, 2]], [[0, 2]]) == 0.5
    with pytest.raises(InputError, match=r'\[1, 2\] and \[1, 1\]'):
        recall([[1, 2]], [[1]])


def test_store_tells_what_it_was_given(tmp_path):
    features, identities = integers(0, 25), np.arange(25)
    paths = [f'{i}.jpg' for i in range(25)]
    fill(tmp_path, features, 10, identities=identities, cameras=identities % 3, paths=paths)
    store = FeatureStore.open(tmp_path)
    assert len(store) == 25
    assert store.dim == 3
    asked = torch.tensor([24, 0, 10, 10, 9])
    np.testing.assert_array_equal(store.take(asked), features[asked])
    assert store.describe(asked) == [
        {'identity': str(i), 'camera': str(i % 3), 'path': f'{i}.jpg'} for i in asked.tolist()
    ]
    chunks = list(store.chunks(4))
    assert [start for start, _ in chunks] == [0, 4, 8, 10, 14, 18, 20, 24]
    np.testing.assert_array_equal(torch.cat([chunk for _, chunk in chunks]), features)
    assert Features.load(tmp_path / '000001.safetensors').identities == named(range(10, 20))


def test_store_maps_and_does_not_read(tmp_path):
    """Pages of the file that nobody has asked for are not in memory."""
    fill(tmp_path, np.ones((40000, 256), np.float32), 40000)  # 41 MB
    store = FeatureStore.open(tmp_path)
    _, features = next(store.chunks(10))
    assert features.sum() == 2560
    address = features.data_ptr()
    resident, inside = 0, False
    with open('/proc/self/smaps', encoding='utf-8') as lines:
        for line in lines:
            bounds = line.split()[0].split('-')
            if len(bounds) == 2:
                inside = int(bounds[0], 16) <= address < int(bounds[1], 16)
            elif inside and line.startswith('Rss:'):
                resident = int(line.split()[1])
    assert 0 < resident < 10_000  # kB


def test_shards_that_are_not_listed(tmp_path, caplog):
    features = integers(0, 30)
    fill(tmp_path, features, 10)
    fill(tmp_path, features[:20], 10)
    (tmp_path / '000002.safetensors.1234.tmp').write_bytes(b'half')
    again = FeatureStore.open(tmp_path)
    assert len(again) == 20
    left = '000002.safetensors, 000002.safetensors.1234.tmp'
    assert f'passing over {left}, which are not in its list' in caplog.text


def test_damaged_store(tmp_path):
    fill(tmp_path, integers(0, 20), 10)
    shard = tmp_path / '000001.safetensors'
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    with pytest.raises(InputError, match=rf'000001.safetensors has {len(whole) - 5} bytes instead of {len(whole)}'):
        FeatureStore.open(tmp_path)
    shard.unlink()
    with pytest.raises(InputError, match='000001.safetensors is missing'):
        FeatureStore.open(tmp_path)
    content = json.loads((tmp_path / 'store.json').read_text())
    save_file({'embeddings': torch.ones(7, 3)}, shard)
    content['shards'][1][2] = shard.stat().st_size
    (tmp_path / 'store.json').write_text(json.dumps(content))
    with pytest.raises(InputError, match=r'holds \[7, 3\], but .*store.json says \[10, 3\]'):
        FeatureStore.open(tmp_path).take(torch.tensor([15]))
    (tmp_path / 'store.json').write_text('{}')
    with pytest.raises(InputError, match='not the list of a store'):
        FeatureStore.open(tmp_path)


def test_single_files_are_stores(tmp_path):
    features = integers(0, 12)
    np.save(tmp_path / 'a.npy', features)
    names = tuple(f'person {i}' for i in range(12))
    known = Features(torch.from_numpy(features), names, None, tuple(f'{i}.jpg' for i in range(12)))
    known.save(tmp_path / 'b.safetensors')
    for name in ('a.npy', 'b.safetensors'):
        store = FeatureStore.open(tmp_path / name)
        assert search(features[:2], store, 12)[0].tolist() == brute_force(features[:2], features, 12)[0].tolist()
    assert store.describe(torch.tensor([3])) == [{'identity': 'person 3', 'path': '3.jpg'}]


def test_places_that_are_no_store(tmp_path):
    with pytest.raises(InputError, match='has no store.json'):
        FeatureStore.open(tmp_path)
    with pytest.raises(InputError, match='cannot read features'):
        FeatureStore.open(tmp_path / 'none.npy')
    np.save(tmp_path / 'flat.npy', np.ones(3))
    with pytest.raises(InputError, match='must be floats'):
        FeatureStore.open(tmp_path / 'flat.npy')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'k': 31}, 'k must be from 1 to the number of gallery images, 30; got 31'),
        ({'k': 0}, 'got 0'),
        ({'tile': 0}, 'tile must be at least 1'),
        ({'backend': 'tree'}, "'tree' is no backend: it must be one of exact, flat, hnsw, ivfpq"),
        ({'backend': 'hnsw', 'nprobe': 3}, 'hnsw has no parameter nprobe: it has links, ef_construction, ef'),
        ({'backend': 'hnsw', 'ef': 0}, 'ef must be at least 1'),
        ({'backend': 'ivfpq', 'm': 2}, 'm must divide the 3 dimensions'),
        ({'backend': 'ivfpq', 'nlist': 31}, 'nlist is 31, but there are 30'),
    ],
)
def test_search_refuses(options, message):
    with pytest.raises(InputError, match=message):
        search(integers(0, 2), integers(1, 30), **{'k': 3, **options})


def test_search_refuses_features_that_do_not_fit(tmp_path):
    gallery = integers(0, 30)
    store = fill(tmp_path, gallery[:0], 1)
    with pytest.raises(InputError, match='the store of features is empty'):
        search(gallery[:1], store, 1)
    store = fill(tmp_path, gallery, 30)
    for source in (store, gallery):
        with pytest.raises(InputError, match='query features have 2 dimensions, gallery features 3'):
            search(gallery[:1, :2], source, 1)
        with pytest.raises(InputError, match='query features of 1 images are not finite'):
            search(np.full((1, 3), np.inf, np.float32), source, 1)
    gallery[7] = np.nan
    for backend in BACKENDS:
        with pytest.raises(InputError, match='gallery.*are not finite'):
            search(gallery[:1], gallery, 1, backend)


def test_without_faiss(monkeypatch):
    importing = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == 'faiss':
            raise ImportError
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', refuse)
    with pytest.raises(InputError, match=r'pip install "msinet-timm\[index\]"'):
        search(integers(0, 2), integers(1, 30), 3, 'flat')
