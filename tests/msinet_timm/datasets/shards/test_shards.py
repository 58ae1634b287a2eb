"""Data sets in shards: the index, with and without, single images, and everything that can be wrong."""

import csv
import io
import json
import shutil
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msinet_timm.cli.data import main
from msinet_timm.datasets import Protocol, Record, ReIDDataset, Remote, create_dataset
from msinet_timm.datasets.archive import image_file, read_image, split_path
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import UnreadableImageError, load_image
from msinet_timm.datasets.tools.check import check_dataset
from msinet_timm.datasets.tools.convert import convert
from msinet_timm.datasets.tools.verify import drop_broken
from msinet_timm.errors import InputError


@pytest.fixture
def dataset(paint):
    """Six images of two identities to train on, one query, two in the gallery, with all that can be known."""

    def record(number, identity, camera, **fields):
        return Record(
            str(paint(f'images/{number}.jpg', (25 * number, 90, 160))), identity, camera, clothes='1', **fields
        )

    train = tuple(record(n, 'ab'[n % 2], str(n)) for n in range(5))
    train += (record(5, 'b', '09', view='left', time=-7, tracklet='3', domain='hall, "A"', box=(1, 2, 20, 40)),)
    return ReIDDataset('set', '/', train, (record(6, 'c', '1'),), (record(7, 'c', '2'), record(8, '08', '1')))


@pytest.fixture
def shards(dataset, tmp_path):
    convert(dataset, 'shards', tmp_path / 'shards', shard_size=3)
    return tmp_path / 'shards'


def write_shard(path, members):
    """Members by name: bytes as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, content in members.items():
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def jpeg(color):
    file = io.BytesIO()
    Image.new('RGB', (16, 32), color).save(file, 'JPEG')
    return file.getvalue()


def parts(dataset):
    return dataset.train, dataset.query, dataset.gallery


def content(dataset):
    """All that is known of each image but its path, with its bytes."""
    return [sorted((repr(r[1:]), read_image(r.path)) for r in part) for part in parts(dataset)]


def test_records_and_bytes_come_back(dataset, shards):
    back = create_dataset('shards', str(shards))
    assert content(back) == content(dataset)
    assert [r[1:] for r in back.query + back.gallery] == [r[1:] for r in dataset.query + dataset.gallery]
    assert back.gallery[1].path == f'{shards}/gallery-000000.tar/000001.jpg'
    names = [f'{part}-00000{n}.tar' for part, n in (('gallery', 0), ('query', 0), ('train', 0), ('train', 1))]
    assert sorted(p.name for p in shards.iterdir()) == sorted([*names, 'index.csv'])
    assert back.protocol == Protocol()
    assert create_dataset('shards', str(shards), protocol='clothes-changing').protocol.same_clothes_removed


def test_missing_index_is_built_once(shards):
    index = (shards / 'index.csv').read_bytes()
    before = parts(create_dataset('shards', str(shards)))
    (shards / 'index.csv').unlink()
    assert parts(create_dataset('shards', str(shards))) == before
    assert (shards / 'index.csv').read_bytes() == index
    assert len(list(shards.glob('index*'))) == 1


def test_index_is_read_instead_of_the_shards(shards, monkeypatch):
    before = parts(create_dataset('shards', str(shards)))
    monkeypatch.setattr(tarfile, 'open', None)
    assert parts(create_dataset('shards', str(shards))) == before


def test_a_folder_that_cannot_be_written(shards, monkeypatch, caplog):
    def refuse(*args):
        raise PermissionError(13, 'Permission denied')

    before = parts(create_dataset('shards', str(shards)))
    (shards / 'index.csv').unlink()
    monkeypatch.setattr('msinet_timm.datasets.shards.index.write_index', refuse)
    assert parts(create_dataset('shards', str(shards))) == before
    assert 'cannot keep index.csv (Permission denied)' in caplog.text


def test_shards_of_others(tmp_path):
    """Names as labels, folders in keys, further members and fields, upper case, the label first."""
    members = {
        'day1/a.front.JPEG': jpeg((1, 2, 3)),
        'day1/a.json': {'identity': 'anna', 'camera': 'door', 'caption': 'a coat'},
        'day1/a.txt': b'a coat',
        'day1/.b.jpg': b'',
        'b.json': {'identity': 'bob', 'camera': 4, 'box': [0, 0, 5, 6], 'view': None},
        'b.png': jpeg((200, 2, 3)),
    }
    write_shard(tmp_path / 'train-a_1.tar', members)
    dataset = create_dataset('shards', str(tmp_path))
    assert dataset.train == (
        Record(f'{tmp_path}/train-a_1.tar/day1/a.front.JPEG', 'anna', 'door'),
        Record(f'{tmp_path}/train-a_1.tar/b.png', 'bob', '4', box=(0, 0, 5, 6)),
    )
    assert dataset.query == dataset.gallery == ()
    assert np.abs(np.asarray(load_image(dataset.train[0].path)).mean((0, 1)) - (1, 2, 3)).max() < 3
    assert create_dataset('shards', str(tmp_path)).train == dataset.train


def test_single_images(dataset, shards, tmp_path):
    (boxed,) = [r for r in create_dataset('shards', str(shards)).train if r.box]
    image = load_image(boxed.path, boxed.box)
    np.testing.assert_array_equal(image, load_image(dataset.train[5].path, boxed.box))
    assert split_path(boxed.path) == (image_file(boxed.path), boxed.path.rpartition('/')[2])
    folder = tmp_path / 'people.tar'
    folder.mkdir()
    shutil.copy(dataset.train[0].path, folder / 'a.jpg')
    assert split_path(f'{folder}/a.jpg') is None
    assert load_image(f'{folder}/a.jpg').size == (24, 48)
    with pytest.raises(
        UnreadableImageError, match=r'train-000000.tar/9.jpg: cannot read .*the shard has no such member'
    ):
        load_image(f'{shards}/train-000000.tar/9.jpg')
    with pytest.raises(
        UnreadableImageError, match=r'https://x/train-0.tar/9.jpg: .*not local is only read as a stream'
    ):
        load_image(Remote('https://x/train-0.tar/9.jpg'))
    shutil.copy(shards / 'query-000000.tar', shards / 'train-000000.tar')
    with pytest.raises(UnreadableImageError, match='no such member'):
        load_image(f'{shards}/train-000000.tar/000002.jpg')  # not where it was before


def test_check_and_contact_sheet(shards, tmp_path, capsys):
    sheet = tmp_path / 'sheet.png'
    assert main(['check', 'shards', str(shards), '--contact-sheet', str(sheet)]) == 0
    assert capsys.readouterr().out.endswith('sound\n')
    assert (np.abs(np.asarray(Image.open(sheet), int) - (150, 90, 160)) < 3).all(-1).sum() > 1000  # the query
    members = {'000000.jpg': b'no image', '000001.jpg': read_image(f'{shards}/query-000000.tar/000000.jpg')}
    write_shard(shards / 'gallery-000000.tar', members)
    found = check_dataset(create_dataset('shards', str(shards)))
    assert [f.kind for f in found] == ['unreadable', 'duplicate']


def test_cache_notices_another_shard(shards, tmp_path):
    config = dict(input_size=(3, 16, 8), mean=(0, 0, 0), std=(1, 1, 1), interpolation='bilinear')
    gallery = create_dataset('shards', str(shards)).gallery
    first = ImageCache(str(tmp_path / 'cache')).images(gallery, config).file.pixels.copy()
    expected = [np.asarray(load_image(r.path).resize((8, 16), Image.Resampling.BILINEAR)) for r in gallery]
    np.testing.assert_array_equal(first, expected)
    members = {f'00000{n}.jpg': jpeg((n, 77, 0)) for n in range(2)}
    write_shard(shards / 'gallery-000000.tar', members)
    assert not np.array_equal(ImageCache(str(tmp_path / 'cache')).images(gallery, config).file.pixels, first)


def test_skips_broken_members(shards, caplog):
    members = {'000000.jpg': b'no image', '000000.json': {}, '000001.jpg': jpeg((1, 1, 1)), '000001.json': {}}
    write_shard(shards / 'gallery-000000.tar', members)
    left = drop_broken(create_dataset('shards', str(shards)))
    assert [r.path for r in left.gallery] == [f'{shards}/gallery-000000.tar/000001.jpg']
    assert 'skipped: ' in caplog.text


def remote_is_same(root, shards):
    local, remote = create_dataset('shards', str(shards)), create_dataset('shards', Remote(root))
    assert [r._replace(path='') for r in remote.train] == [r._replace(path='') for r in local.train]
    assert remote.train[0].path == local.train[0].path.replace(str(shards), root.rstrip('/'))


@pytest.mark.skipif(sys.platform == 'win32', reason='no cat')
def test_by_command(shards):
    remote_is_same(f'pipe:cat {shards}/{{}}', shards)
    (shards / 'index.csv').unlink()
    with pytest.raises(
        InputError,
        match=r'index.csv: cannot read the index \(exit code 1 of the command .*; it belongs beside the shards',
    ):
        create_dataset('shards', Remote(f'pipe:cat 2>/dev/null {shards}/{{}}'))


@pytest.mark.skipif(not shutil.which('curl'), reason='no curl')
def test_by_http(shards):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(shards))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f'http://127.0.0.1:{server.server_port}'
        remote_is_same(f'{root}/', shards)
        with pytest.raises(InputError, match=r'nowhere/index.csv: cannot read the index'):
            create_dataset('shards', Remote(f'{root}/nowhere'))
        server.shutdown()


def test_webdataset_is_missing(dataset, tmp_path, monkeypatch):
    for name in ('webdataset', 'webdataset.gopen'):
        monkeypatch.setitem(sys.modules, name, None)
    for act in (
        lambda: create_dataset('shards', Remote('https://example.org/people')),
        lambda: convert(dataset, 'shards', tmp_path / 'out'),
    ):
        with pytest.raises(InputError, match=r'needs webdataset: pip install "msinet-timm\[shards\]"'):
            act()


GOOD = {'a.jpg': jpeg((9, 9, 9)), 'a.json': {'identity': 1}}


@pytest.mark.parametrize(
    'members, message',
    [
        ({}, r'train-0.tar has no samples: expected members such as 000000.jpg and 000000.json'),
        ({'a.json': {'identity': 1}}, r'train-0.tar has no samples'),
        (GOOD | {'b.jpg': b''}, r'train-0.tar/b.jpg: its labels are missing, expected the member b.json'),
        (GOOD | {'a.png': b''}, r'train-0.tar: a.jpg and a.png are one sample'),
        (GOOD | {'a.json': b'{'}, r'train-0.tar/a.json: no JSON \('),
        (GOOD | {'a.json': [1]}, r"train-0.tar/a.json: expected an object with the field 'identity', got \[1\]"),
        (GOOD | {'a.json': {'camera': 1}}, r"a.json: expected an object with the field 'identity', got {'camera': 1}"),
        (GOOD | {'a.json': {'identity': -1}}, r'a.json: identity -1 is below 0'),
        (GOOD | {'a.json': {'identity': 1.5}}, r'a.json: identity 1.5 must be an integer or a name'),
        (GOOD | {'a.json': {'identity': True}}, r'a.json: identity True must be'),
        (GOOD | {'a.json': {'identity': 1, 'time': 'noon'}}, r"a.json: time 'noon' must be an integer"),
        (GOOD | {'a.json': {'identity': 1, 'domain': 3}}, r'a.json: domain 3 must be a text'),
        (GOOD | {'a.json': {'identity': 1, 'box': [1, 2, 3]}}, r"a.json: box '1 2 3' must be left, top, right"),
        (GOOD | {'a.json': {'identity': 1, 'box': [5, 0, 5, 9]}}, r"a.json: box '5 0 5 9' must be"),
        (GOOD | {'a.json': {'identity': 1, 'box': 7}}, r"a.json: box '7' must be"),
        (
            GOOD | {'b.jpg': b'', 'b.json': {'identity': 1, 'camera': 1}},
            r'train-0.tar/a.jpg has no camera but other images have',
        ),
    ],
)
def test_wrong_shards(tmp_path, members, message):
    write_shard(tmp_path / 'train-0.tar', members)
    with pytest.raises(InputError, match=message):
        create_dataset('shards', str(tmp_path))


def test_no_shards(tmp_path):
    with pytest.raises(InputError, match=r'holds no shards: expected train-000000.tar'):
        create_dataset('shards', str(tmp_path))
    write_shard(tmp_path / 'query-0.tar', GOOD)
    with pytest.raises(InputError, match=r'has only one of the parts query and gallery'):
        create_dataset('shards', str(tmp_path))


@pytest.mark.parametrize('keep', [1 / 3, 0.99])
@pytest.mark.parametrize('indexed', [True, False])
def test_shard_cut_short(shards, keep, indexed):
    if not indexed:
        (shards / 'index.csv').unlink()
    path = shards / 'train-000001.tar'
    path.write_bytes(path.read_bytes().rstrip(b'\0')[: int(keep * path.stat().st_size)])
    with pytest.raises(InputError, match=r'train-000001.tar is cut short: copy or write it again'):
        create_dataset('shards', str(shards))


def test_broken_inside(tmp_path):
    write_shard(tmp_path / 'train-0.tar', GOOD | {f'b{n}.jpg': jpeg((n, n, n)) for n in range(3)})
    whole = bytearray((tmp_path / 'train-0.tar').read_bytes())
    with tarfile.open(tmp_path / 'train-0.tar') as tar:
        start = tar.getmember('b1.jpg').offset
    whole[start + 100 : start + 200] = b'x' * 100
    (tmp_path / 'train-0.tar').write_bytes(whole)
    with pytest.raises(InputError, match=r'train-0.tar: broken after b0.jpg \(.*\): copy or write it again'):
        create_dataset('shards', str(tmp_path))


def test_shards_and_index_disagree(shards):
    shutil.copy(shards / 'train-000000.tar', shards / 'train-000007.tar')
    with pytest.raises(InputError, match=r'train-000007.tar is not in index.csv: remove it, or delete the index'):
        create_dataset('shards', str(shards))
    (shards / 'train-000007.tar').unlink()
    (shards / 'train-000001.tar').unlink()
    with pytest.raises(InputError, match=r'train-000001.tar is missing, but index.csv names it: bring it back'):
        create_dataset('shards', str(shards))


@pytest.mark.parametrize(
    'column, value, message',
    [
        (
            'identity',
            '-1',
            r'line 2, train-000000.tar/000000.jpg: identity -1 is below 0; leave out images of',
        ),
        ('identity', '', r'identity empty; delete the index to have it built anew'),
        ('time', 'noon', r"time 'noon' must be an integer; delete"),
        ('box', '1 2 3', r"box '1 2 3' must be left, top, right and bottom in pixels"),
        ('box', '3 0 3 9', r"box '3 0 3 9' must be"),
        ('member', '', r'line 2: expected 10 fields and a member, got train-000000.tar,,'),
        ('shard', 'train-0; rm x.tar', r"line 2: 'train-0; rm x.tar' is no shard such as train-000000.tar"),
    ],
)
def test_wrong_rows(shards, column, value, message):
    with open(shards / 'index.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    rows[0][column] = value
    with open(shards / 'index.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match=rf'index.csv, {message}' if message.startswith('line') else message):
        create_dataset('shards', str(shards))


@pytest.mark.parametrize(
    'text, message',
    [
        ('', r'index.csv: expected the columns shard,member,identity,camera,.*,box, got ; delete the index'),
        ('path,identity\n', r'expected the columns .*, got path,identity'),
        (
            'shard,member,identity,camera,view,time,tracklet,domain,clothes,box\n',
            r'index.csv has no rows|is not in index',
        ),
        ('\ufffe', r'expected the columns'),
    ],
)
def test_wrong_index(shards, text, message):
    Path(shards / 'index.csv').write_text(text, encoding='utf-8')
    with pytest.raises(InputError, match=message):
        create_dataset('shards', str(shards))
