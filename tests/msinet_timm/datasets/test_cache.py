import logging
import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time

import filelock
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader

import msinet_timm.datasets.cache
import msinet_timm.datasets.images
from msinet_timm.datasets import Record
from msinet_timm.datasets.cache import ImageCache, open_cache
from msinet_timm.datasets.images import load_image
from msinet_timm.errors import InputError

CONFIG = dict(
    input_size=(3, 16, 8),
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
    interpolation='bilinear',
    crop_pct=1.0,
    crop_mode='squash',
)
CPU = torch.device('cpu')


def write(path, seed, shape=(32, 16, 3)):
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)).save(path)
    return str(path)


@pytest.fixture
def records(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    shapes = [(32, 16, 3), (31, 9, 3), (8, 4, 3), (16, 8, 3), (50, 60), (33, 17, 3)]
    return [Record(write(folder / f'{n}.jpg', n, shape), str(n)) for n, shape in enumerate(shapes)]


@pytest.fixture
def reads(monkeypatch):
    """Paths of the images that were opened by this process."""
    opened = []

    def spy(path, *args):
        opened.append(path)
        return load_image(path, *args)

    monkeypatch.setattr(msinet_timm.datasets.images, 'load_image', spy)
    return opened


def pixels(cache, records, config=CONFIG, **kwargs):
    return cache.images(records, config, **kwargs).file.pixels


def expected(records, config=CONFIG):
    size = config['input_size'][:0:-1]
    method = Image.Resampling[config['interpolation'].upper()]
    return np.stack([np.asarray(load_image(r.path, r.box).resize(size, method)) for r in records])


@pytest.mark.parametrize('place', ['memory', 'folder'])
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('workers', [0, 1])
def test_batches_are_those_of_the_evaluation_transform(records, tmp_path, place, interpolation, workers):
    config = CONFIG | {'interpolation': interpolation}
    records = [*records, records[0]._replace(box=(1, 2, 14, 20))]
    cache = ImageCache(place if place == 'memory' else str(tmp_path / 'new' / 'cache'), workers)
    images = cache.images(records, config)
    loader = DataLoader(images, 4, num_workers=workers, collate_fn=images.collate)
    transform = create_transform(**config)
    seen = []
    for batch, indices in loader:
        plain = torch.stack([transform(load_image(records[i].path, records[i].box)) for i in indices])
        assert torch.equal(images.to_input(batch, CPU), plain)
        seen += indices.tolist()
    assert seen == list(range(len(records))) == list(range(len(images)))


def test_folder_persists_and_memory_does_not(records, tmp_path, reads):
    for _ in range(2):
        np.testing.assert_array_equal(pixels(ImageCache(str(tmp_path / 'cache')), records), expected(records))
    assert len(reads) == len(records)
    cache = ImageCache('memory')
    for _ in range(2):
        pixels(cache, records)
    assert len(reads) == 2 * len(records)
    pixels(ImageCache('memory'), records)
    assert len(reads) == 3 * len(records)
    assert not list((tmp_path / 'cache').glob('*.tmp'))


def test_changed_images_alone_are_read_again(records, tmp_path, reads):
    place = str(tmp_path / 'cache')
    before = ImageCache(place).images(records, CONFIG)
    first = before.file.pixels.copy()
    write(records[1].path, 77, (20, 20, 3))
    status = os.stat(records[3].path)
    os.utime(records[3].path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    reads.clear()
    after = pixels(ImageCache(place), records)
    assert reads == [records[1].path, records[3].path]
    np.testing.assert_array_equal(after, expected(records))
    assert not np.array_equal(after[1], first[1])
    np.testing.assert_array_equal(before.file.pixels, first)  # who reads the older file keeps it


def test_each_resize_and_list_has_its_own_file(records, tmp_path, reads):
    def at(**kwargs):
        return CONFIG | kwargs

    write(records[0].path, 0, (160, 80, 3))
    cache = ImageCache(str(tmp_path))
    plain = pixels(cache, records)
    assert not np.array_equal(plain, pixels(cache, records, at(interpolation='bicubic')))
    assert pixels(cache, records, at(input_size=(3, 8, 8))).shape == (6, 8, 8, 3)
    assert not np.array_equal(plain, pixels(cache, records, draft=True))
    np.testing.assert_array_equal(pixels(cache, records[::-1]), plain[::-1])
    boxed = [records[0]._replace(box=(0, 0, 10, 10)), *records[1:]]
    np.testing.assert_array_equal(pixels(cache, boxed), expected(boxed))
    assert len(list(tmp_path.glob('*.cache'))) == 6
    reads.clear()
    pixels(cache, records, at(mean=(0.0, 0.0, 0.0)))
    assert reads == []


@pytest.mark.parametrize('damage', ['half', 'one byte short', 'zeros at the end', 'longer', 'empty'])
def test_half_written_files_are_built_again(records, tmp_path, damage):
    pixels(ImageCache(str(tmp_path)), records)
    (file,) = tmp_path.glob('*.cache')
    whole = file.read_bytes()
    file.write_bytes(
        {
            'half': whole[: len(whole) // 2],
            'one byte short': whole[:-1],
            'zeros at the end': whole[:-64] + bytes(64),
            'longer': whole + b'\0',
            'empty': b'',
        }[damage]
    )
    np.testing.assert_array_equal(pixels(ImageCache(str(tmp_path)), records), expected(records))
    assert file.read_bytes() == whole


def run(function, *args):
    process = multiprocessing.get_context('fork').Process(target=function, args=args)
    process.start()
    return process


def fill(place, records, queue):
    opened = []
    msinet_timm.datasets.images.load_image = lambda path, *args: (
        (time.sleep(0.02), opened.append(path)) and load_image(path, *args)
    )
    found = pixels(ImageCache(place), records)
    queue.put((len(opened), np.array_equal(found, expected(records))))


def test_several_processes_build_a_file_once(records, tmp_path):
    queue = multiprocessing.get_context('fork').Queue()
    processes = [run(fill, str(tmp_path / 'cache'), records, queue) for _ in range(3)]
    results = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert results == [(0, True), (0, True), (len(records), True)]


def die(place, records):
    def kill(path, *args):
        if path == records[3].path:
            os.kill(os.getpid(), signal.SIGKILL)
        return load_image(path, *args)

    msinet_timm.datasets.images.load_image = kill
    msinet_timm.datasets.cache.DataLoader = lambda images, batch_size, **kwargs: DataLoader(images, 1, **kwargs)
    pixels(ImageCache(place), records)


def test_build_that_was_killed(records, tmp_path):
    process = run(die, str(tmp_path), records)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob('*.tmp')) and not list(tmp_path.glob('*.cache'))
    np.testing.assert_array_equal(pixels(ImageCache(str(tmp_path)), records), expected(records))
    assert not list(tmp_path.glob('*.tmp'))


def test_says_that_it_waits(records, tmp_path, caplog):
    pixels(ImageCache(str(tmp_path)), records)
    (file,) = tmp_path.glob('*.cache')
    file.unlink()
    held = threading.Event()

    def hold():
        with filelock.FileLock(file.with_suffix('.lock')):
            held.set()
            time.sleep(0.3)

    threading.Thread(target=hold).start()
    held.wait()
    with caplog.at_level(logging.INFO):
        start = time.perf_counter()
        pixels(ImageCache(str(tmp_path)), records)
    assert time.perf_counter() - start > 0.2
    assert 'waiting for another process' in caplog.text


@pytest.mark.parametrize('place', ['memory', 'folder'])
def test_workers_that_are_spawned_map_the_same_file(records, tmp_path, place):
    images = ImageCache(place if place == 'memory' else str(tmp_path / 'cache')).images(records, CONFIG)
    sent = pickle.dumps(images)
    assert len(sent) < 4000  # the pixels stay where they are
    np.testing.assert_array_equal(pickle.loads(sent).file.pixels, expected(records))


def test_what_a_reader_writes_stays_its_own(records, tmp_path):
    images = ImageCache(str(tmp_path)).images(records, CONFIG)
    images.file.pixels[:] = 0
    np.testing.assert_array_equal(pixels(ImageCache(str(tmp_path)), records), expected(records))


def test_memory_without_memfd(records, tmp_path, monkeypatch):
    monkeypatch.delattr(os, 'memfd_create')
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    images = ImageCache('memory').images(records, CONFIG)
    np.testing.assert_array_equal(images.file.pixels, expected(records))
    assert list(tmp_path.glob('msinet-cache-*'))
    del images
    assert not list(tmp_path.glob('msinet-cache-*'))


def test_none_is_no_cache():
    assert open_cache('none') is None
    assert open_cache('memory').place == 'memory'


def test_config_that_crops(records):
    for change in ({'crop_pct': 0.875}, {'crop_mode': 'center'}):
        with pytest.raises(InputError, match='a cache holds whole images'):
            ImageCache('memory').images(records, CONFIG | change)


def test_folder_that_is_none(tmp_path):
    (tmp_path / 'file').touch()
    for place in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        with pytest.raises(InputError, match=rf'--cache {place}: cannot be used as a folder .*--cache none'):
            ImageCache(str(place))


def test_folder_that_went_away(records, tmp_path):
    cache = ImageCache(str(tmp_path / 'cache'))
    (tmp_path / 'cache').rmdir()
    (tmp_path / 'cache').touch()
    with pytest.raises(InputError, match=r'--cache .*: cannot be used \(Not a directory\); .*--cache none'):
        cache.images(records, CONFIG)


@pytest.mark.parametrize('workers', [0, 1])
def test_images_that_vanish(records, tmp_path, workers):
    cache = ImageCache(str(tmp_path / 'cache'), workers)
    os.remove(records[2].path)
    with pytest.raises(InputError, match=rf'--cache .*: {records[2].path} has vanished .*--skip-broken'):
        cache.images(records, CONFIG)
    (tmp_path / 'images' / '2.jpg').write_text('no image')
    with pytest.raises(InputError, match=f'^{records[2].path}: cannot read this image [^\n]*$'):
        cache.images(records, CONFIG)
    assert not list((tmp_path / 'cache').glob('*.tmp'))


def test_disk_without_room(records, tmp_path, monkeypatch):
    usage = type('usage', (), {'free': 1000})
    monkeypatch.setattr('shutil.disk_usage', lambda folder: usage)
    with pytest.raises(InputError, match=r'--cache .*: 6 images take 0.000 GB but 0.000 GB are free; .*--cache none'):
        ImageCache(str(tmp_path)).images(records, CONFIG)


def test_memory_without_room(records, monkeypatch, reads):
    monkeypatch.setattr(msinet_timm.datasets.cache, '_available_memory', lambda: 1000)
    with pytest.raises(InputError, match=r'--cache memory: 6 images take .* are free'):
        ImageCache('memory').images(records, CONFIG)
    assert not reads


def test_disk_that_fills_up_meanwhile(records, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    cache = ImageCache(str(tmp_path))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a stand-in for the disk: writes fail from there on
    try:
        with pytest.raises(InputError, match=r'--cache .*: cannot be used \(File too large\); choose another folder'):
            cache.images(records, CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob('*.tmp')) and not list(tmp_path.glob('*.cache'))


def test_available_memory_is_plausible():
    assert 1e6 < msinet_timm.datasets.cache._available_memory() < 1e15
