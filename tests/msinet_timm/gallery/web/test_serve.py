"""What the server of a gallery answers, and to whom: by a real one, through HTTP."""

import base64
import io
import logging
import os
import re
import shutil
import socket
import sqlite3
import struct
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from serving import serving

from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.gallery import Gallery
from msinet_timm.gallery.web import app as app_module
from msinet_timm.gallery.web import serve
from msinet_timm.hub.calibration import Calibration
from msinet_timm.hub.folder import save_folder

START = 1_777_640_400.0  # 2026-05-01T13:00:00Z
TOKEN = 'a token of many characters'


def person(seed, size=(24, 48)):
    """Noise of one colour for each person."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, 3) + rng.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image, kind='PNG'):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture(scope='module')
def embedder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    save_folder(timm.create_model('test_resnet', num_classes=0), folder)
    Calibration(0.2, 1e-3, 0.5, 'some', 'test_resnet').save(folder)
    return Embedder(folder)


@pytest.fixture(scope='module')
def made(tmp_path_factory, embedder):
    """Three crops each of 12 people, by two cameras; the last of them is of unknown time."""
    folder = tmp_path_factory.mktemp('made') / 'people.gallery'
    seeds = [seed for seed in range(12) for _ in range(3)]
    images = [person(100 * seed + i % 3) for i, seed in enumerate(seeds)]
    cameras = [('door', 'yard')[seed % 2] for seed in seeds]
    with Gallery(folder, embedder) as gallery:
        gallery.add_embeddings(
            embedder(images),
            images,
            camera=cameras,
            time=[None if seed == 11 else START + 60 * seed + i % 3 for i, seed in enumerate(seeds)],
            tracklet=[f'{camera}/{seed}' for camera, seed in zip(cameras, seeds, strict=True)],
            identity=['anna' if seed < 2 else None for seed in seeds],
        )
    return folder


@pytest.fixture
def gallery(tmp_path, made, embedder):
    with Gallery(shutil.copytree(made, tmp_path / made.name), embedder) as gallery:
        yield gallery


@pytest.fixture
def client(gallery):
    with serving(gallery) as client:
        yield client


@pytest.fixture(scope='module')
def reader(made, embedder):
    """A client for tests that change nothing but the log."""
    folder = shutil.copytree(made, made.parent / 'read' / made.name)
    with Gallery(folder, embedder) as gallery, serving(gallery) as client:
        client.gallery = gallery
        yield client


def refused(answer, status, *words):
    """An error is one line of JSON, without a traceback."""
    assert answer.status_code == status, answer.text
    (message,) = answer.json().values()
    assert all(word in message for word in words), message
    assert '\n' not in message and 'Traceback' not in message
    return message


# --- what is found


def test_finds_tracklets(reader):
    image = person(300)
    found = reader.post('/api/search', content=encoded(image), params={'k': 4}).json()
    matches = reader.gallery.search(image, 4)
    assert [t['tracklet'] for t in found] == [m.crop.tracklet for m in matches]
    assert [t['nearest'][0]['id'] for t in found] == [m.crop.id for m in matches]
    assert np.allclose([t['nearest'][0]['distance'] for t in found], [m.distance for m in matches], atol=1e-6)
    assert [t['nearest'][0]['verdict'] for t in found] == [m.verdict for m in matches]
    first = found[0]
    assert (first['tracklet'], first['camera'], first['identity'], first['crops']) == ('yard/3', 'yard', None, 3)
    assert (first['start'], first['end']) == ('2026-05-01T13:03:00Z', '2026-05-01T13:03:02Z')
    assert first['nearest'][0]['verdict'] == 'same' and first['nearest'][0]['distance'] < 0.01
    distances = [crop['distance'] for crop in first['nearest']]
    assert len(distances) == 3 and distances == sorted(distances)
    every = reader.gallery.search(image, 36, per_tracklet=False)
    assert np.allclose(distances, [m.distance for m in every if m.crop.tracklet == 'yard/3'], atol=1e-6)


def test_finds_by_a_part_of_the_image(reader):
    image = person(300)
    frame = Image.new('RGB', (200, 100))
    frame.paste(image, (130, 20))
    box = {'box': '130,20,154,68', 'k': 12}
    by_part = reader.post('/api/search', content=encoded(frame), params=box).json()
    assert by_part == reader.post('/api/search', content=encoded(image), params={'k': 12}).json()
    frame = frame.transpose(Image.Transpose.ROTATE_90)  # as a phone does it, which says so
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    frame.save(turned, 'PNG', exif=exif)
    assert reader.post('/api/search', content=turned.getvalue(), params=box).json() == by_part


def test_filters(reader):
    def names(**parameters):
        answer = reader.post('/api/search', content=encoded(person(300)), params={'k': 12, **parameters})
        return {t['tracklet'] for t in answer.json()}

    assert names() == {f'{("door", "yard")[i % 2]}/{i}' for i in range(12)}
    assert names(camera='door') == {f'door/{i}' for i in range(0, 12, 2)}
    assert names(camera=['door', 'yard']) == names()
    assert names(since='2026-05-01T13:08:00Z') == {'door/8', 'yard/9', 'door/10'}
    assert names(since='2026-05-01T15:08:00+02:00', until='2026-05-01T13:09:00Z') == {'door/8'}
    part = reader.post('/api/search', content=encoded(person(300)), params={'since': '2026-05-01T13:08:02Z'}).json()
    eighth = next(t for t in part if t['tracklet'] == 'door/8')
    assert eighth['crops'] == 1 and eighth['start'] == eighth['end'] == '2026-05-01T13:08:02Z'
    sightings = reader.get('/api/tracklets', params={'identity': 'anna'}).json()
    assert [(s['tracklet'], s['crops']) for s in sightings] == [('door/0', 3), ('yard/1', 3)]
    assert len(reader.get('/api/tracklets', params={'camera': 'yard', 'until': '2026-05-01T13:04:00Z'}).json()) == 2


def test_summary_and_images(reader):
    told = reader.get('/api/gallery').json()
    assert told['name'] == 'people.gallery' and told['cameras'] == {'door': 18, 'yard': 18}
    assert (told['crops'], told['tracklets'], told['identities'], told['readonly']) == (36, 12, 1, False)
    assert (told['since'], told['until']) == ('2026-05-01T13:00:00Z', '2026-05-01T13:10:02Z')
    assert told['threshold'] == 0.2 and told['unsure'] == pytest.approx(0.23)
    image = reader.get('/api/crops/1/image')
    assert image.headers['content-type'] == 'image/jpeg' and image.content == reader.gallery.jpeg(1)
    assert image.headers['cache-control'] == 'no-store'
    refused(reader.get('/api/crops/99/image'), 404, 'crop 99')


# --- what is changed, and noted


def test_merges(client, gallery):
    merged = client.post('/api/merge', params={'tracklet': ['door/2', 'yard/3', 'yard/5']}).json()
    assert sorted(merged['tracklets']) == ['door/2', 'yard/3', 'yard/5']
    assert {s.tracklet for s in gallery.tracklets(identity=merged['identity'])} == set(merged['tracklets'])
    joined = client.post('/api/merge', params={'tracklet': ['door/0', 'yard/5']}).json()
    assert joined['identity'] == 'anna' and len(joined['tracklets']) == 5
    refused(client.post('/api/merge', params={'tracklet': ['door/4', 'door/6', 'gone']}), 404, "'gone'")
    assert gallery.crops('door/6')[0].identity is None  # nothing of it is done
    refused(client.post('/api/merge', params={'tracklet': 'door/4'}), 422, 'tracklet')
    refused(client.post('/api/merge', params={'tracklet': ['door/4', 'door/4']}), 400, 'itself')


def test_erases(client, gallery):
    image = encoded(person(300))
    assert client.post('/api/search', content=image).json()[0]['tracklet'] == 'yard/3'
    (number, *_) = [crop.id for crop in gallery.crops('yard/3')]
    assert client.delete('/api/crops', params={'tracklet': 'yard/3'}).json() == {'crops': 3, 'settled': True}
    found = client.post('/api/search', content=image, params={'k': 100}).json()
    assert len(found) == 11 and 'yard/3' not in {t['tracklet'] for t in found}
    refused(client.get(f'/api/crops/{number}/image'), 404)
    refused(client.delete('/api/crops', params={'tracklet': 'yard/3'}), 400, "'yard/3'")
    assert client.delete('/api/crops', params={'identity': 'anna'}).json()['crops'] == 6
    assert client.delete('/api/crops', params={'camera': 'door', 'before': '2026-05-01T13:05Z'}).json()['crops'] == 6
    refused(client.delete('/api/crops'), 400, 'nothing is erased without saying what')
    assert len(gallery) == 36 - 15
    entries = [(e['action'], e['crops'], e['settled']) for e in client.get('/api/log').json()]
    assert entries == [
        ('erase', 6, True), ('erase', 6, True), ('search', 33, True), ('erase', 3, True), ('search', 30, True)
    ]  # fmt: skip


def test_searches_are_noted_without_names(client):
    parameters = {'camera': ['door', 'yard'], 'since': '2026-05-01', 'until': '2026-05-02', 'k': 1}
    client.post('/api/search', content=encoded(person(300)), params=parameters)
    (entry,) = client.get('/api/log', params={'limit': 1}).json()
    assert entry['action'] == 'search' and entry['crops'] == 3
    assert entry['detail'] == (
        'from 127.0.0.1, 2 of the cameras, since 2026-05-01T00:00:00Z, until 2026-05-02T00:00:00Z'
    )


def test_a_gallery_that_cannot_be_written_is_searched(gallery, monkeypatch):
    monkeypatch.setattr(gallery.store, 'readonly', True)
    with serving(gallery) as client:
        assert client.post('/api/search', content=encoded(person(300))).json()[0]['tracklet'] == 'yard/3'
        assert client.get('/api/gallery').json()['readonly'] and client.get('/api/log').json() == []
        refused(client.delete('/api/crops', params={'tracklet': 'yard/3'}), 503, 'only to be read')


def test_old_crops_go_while_it_runs(tmp_path, embedder, monkeypatch):
    monkeypatch.setattr(app_module, 'EXPIRY', 0.05)
    with Gallery(tmp_path / 'g', embedder, keep_days=1) as gallery:
        image = person(0)
        gallery.add_embeddings(embedder([image]), [image], time=time.time() - 86400 + 1.5)
        with serving(gallery) as client:
            assert client.get('/api/gallery').json()['crops'] == 1
            end = time.monotonic() + 20
            while client.get('/api/gallery').json()['crops'] and time.monotonic() < end:
                time.sleep(0.05)
            assert client.get('/api/gallery').json()['crops'] == 0
            assert client.get('/api/log').json()[0]['detail'] == 'days'


def test_it_looks_on_for_what_is_old(gallery, monkeypatch, caplog):
    """Another process may set `keep_days` while it runs, and what goes wrong once does not end it."""
    monkeypatch.setattr(app_module, 'EXPIRY', 0.02)
    errors = [InputError('the disk is full'), RuntimeError('a surprise')]
    looked = threading.Event()

    def expire():
        if errors:
            raise errors.pop(0)
        looked.set()

    assert gallery.keep_days is None
    monkeypatch.setattr(gallery, 'expire', expire)
    with serving(gallery):
        assert looked.wait(20)
    assert 'the disk is full' in caplog.text and 'a surprise' in caplog.text


# --- what is refused


def bomb(side=30_000):
    """A PNG of 900 million pixels in a few hundred kB."""

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    lines = zlib.compress(bytes((side // 8 + 1) * side), 9)
    head = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', lines) + chunk(b'IEND', b'')


def test_uploads_that_are_refused(client, gallery):
    def send(content, **options):
        return client.post('/api/search', content=content, headers={'Content-Type': 'image/jpeg'}, **options)

    large = bytes(100 * 2**20)
    refused(send(large), 413, '100 MB', '20 MB')
    refused(send(iter([large])), 413, '20 MB')  # without its size
    with open(sys.executable, 'rb') as file:
        refused(send(file.read(2**20)), 400, 'none of JPEG')
    jpeg = encoded(person(0, (200, 400)), 'JPEG')
    refused(send(jpeg[: len(jpeg) // 2]), 400, 'cannot read this image')
    refused(send(bomb()), 400, 'cannot read this image', 'exceeds limit')
    refused(send(b'<svg xmlns="http://www.w3.org/2000/svg"/>'), 400, 'none of JPEG')
    refused(send(b''), 400, 'no image')
    refused(send(jpeg, params={'box': '300,500,400,600'}), 400, 'box', '200x400')
    assert gallery.log() == []
    assert send(jpeg).status_code == 200


def test_a_large_upload_is_refused_before_it_is_sent(reader):
    """As curl asks it: may I send this? It reads the answer first."""
    with socket.create_connection((reader.base_url.host, reader.base_url.port), 10) as connection:
        connection.sendall(
            b'POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\nExpect: 100-continue\r\n\r\n'
        )
        assert connection.recv(100).startswith(b'HTTP/1.1 413 ')


def test_values_that_are_refused(reader):
    def send(**parameters):
        return reader.post('/api/search', content=encoded(person(0)), params=parameters)

    refused(send(k=0), 422, 'k: ')
    refused(send(k='many'), 422, 'k: ')
    refused(send(box='1,2,3'), 422, 'box: ')
    message = refused(send(camera='cellar'), 400, "camera 'cellar'", 'door, yard')
    assert reader.gallery.path not in message
    refused(send(since='yesterday'), 400, 'yesterday')
    refused(send(since='2026-05-02', until='2026-05-01'), 400, 'must be before')
    refused(reader.get('/api/crops/x/image'), 422, 'id: ')
    refused(reader.get(f'/api/crops/{2**70}/image'), 422, 'id: ')
    refused(reader.get('/api/log', params={'limit': -1}), 422, 'limit: ')
    refused(reader.get('/api/tracklets', params={'identity': 'bert'}), 400, "'bert'")
    refused(reader.get('/nothing'), 404)
    refused(reader.get('/../page.py'), 404)
    refused(reader.put('/api/gallery'), 405)


def test_names_that_are_not_known_are_refused(client, gallery):
    """A filter that is passed over would erase, or show, more than was asked for."""
    image = encoded(person(0))
    message = refused(client.delete('/api/crops', params={'camera': 'door', 'until': '2025-06-16'}), 422, 'until: ')
    assert message.endswith('tracklet, identity, camera, before')
    refused(client.delete('/api/crops', params={'tracklet': ['door/2', 'yard/3']}), 422, 'tracklet: ', 'once')
    refused(client.post('/api/search', content=image, params={'cameras': 'door'}), 422, 'cameras: ')
    refused(client.post('/api/search', content=bytes(20 * 2**20), params={'cameras': 'door'}), 422, 'cameras: ')
    refused(client.post('/api/search', content=image, params={'k': [1, 2]}), 422, 'k: ', 'once')
    refused(client.post('/api/merge', params={'tracklet': ['door/2', 'yard/3'], 'identity': 'anna'}), 422, 'identity: ')
    refused(client.get('/api/tracklets?limit'), 422, 'limit: ')
    refused(client.get('/api/gallery', params={'camera': 'door'}), 422, 'camera: ', 'takes none')
    assert len(gallery) == 36 and gallery.log() == []
    assert client.delete('/api/crops', params={'camera': ['door', 'yard']}).json()['crops'] == 36


@pytest.mark.parametrize(
    'given, told',
    [
        ('.', 'people.gallery'), ('g', 'g'), ('{folder}/', 'people.gallery'),
        ('{parent}/other/../people.gallery', 'people.gallery'), ('qdrant://10.1.2.3:6333/people', 'people'),
    ],
)  # fmt: skip
def test_where_it_lies_is_told_to_nobody(gallery, monkeypatch, given, told):
    folder = Path(gallery.path)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(gallery, 'path', given.format(folder=folder, parent=folder.parent))
    whole = os.path.abspath(gallery.path)
    words = [f'{gallery.path}: 1. it is damaged', f'{whole}/gallery.sqlite: going. Give it up', f'{whole}-2: another']
    model = gallery.model
    words += [f'{model}/model.safetensors: cannot be read', f'{model}: gone']
    told_of = iter(words)

    def fail(*_, **__):
        raise InputError(next(told_of))

    with serving(gallery) as client:
        summary = client.get('/api/gallery').json()
        monkeypatch.setattr(gallery, 'tracklets', fail)
        answers = [client.get('/api/tracklets').json()['error'] for _ in words]
    assert (summary['name'], summary['model']) == (told, Path(model).name)
    hidden = given if given in ('.', 'g') else 'the gallery'
    assert answers == [
        f'{hidden}: 1. it is damaged', 'the gallery/gallery.sqlite: going. Give it up', f'{whole}-2: another',
        'the model/model.safetensors: cannot be read', 'the model: gone',
    ]  # fmt: skip


def test_a_fault_of_the_server_stays_its_own(client, gallery, monkeypatch, caplog):
    def break_down():
        raise RuntimeError('a secret of the server')

    monkeypatch.setattr(gallery, 'stats', break_down)
    message = refused(client.get('/api/gallery'), 500)
    assert 'secret' not in message
    end = time.monotonic() + 20
    while 'a secret of the server' not in caplog.text and time.monotonic() < end:  # there it is told
        time.sleep(0.05)
    assert 'a secret of the server' in caplog.text


def test_token(gallery):
    with serving(gallery, TOKEN) as client:
        paths = ('/', '/page.js', '/api', '/api/openapi.json', '/api/gallery', '/api/crops/1/image', '/nothing')
        basic = base64.b64encode(f'anyone:{TOKEN}'.encode()).decode()
        wrong = (
            None, 'Bearer', f'Bearer {TOKEN[:-1]}', f'Bearer {TOKEN}x', f'Basic {TOKEN}', 'Basic %%%', 'Basic 4pyT',
            f'Digest {basic}', f'Basic {base64.b64encode(TOKEN.encode()).decode()}',
        )  # fmt: skip
        for path in paths:
            for value in wrong:
                answer = client.get(path, headers={} if value is None else {'Authorization': value})
                refused(answer, 401, 'token')
                assert answer.headers['www-authenticate'].startswith('Basic ')
        refused(client.post('/api/search', content=encoded(person(0))), 401)
        refused(client.delete('/api/crops', params={'camera': 'door'}), 401)
        assert len(gallery) == 36
        for value in (f'Bearer {TOKEN}', f'bearer {TOKEN}', f'Basic {basic}'):
            for path in paths[:-1]:
                assert client.get(path, headers={'Authorization': value}).status_code == 200
        # with the token, any name of this machine will do
        named = {'Authorization': f'Bearer {TOKEN}', 'Host': 'cameras.example:8443'}
        assert client.get('/api/gallery', headers=named).status_code == 200


@pytest.mark.parametrize('host', ['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', '10.0.0.1', ''])
def test_other_names_of_this_machine_are_refused(reader, host):
    """DNS rebinding: another page's name leads here."""
    for path in ('/', '/api/gallery'):
        refused(reader.get(path, headers={'Host': host}), 421, 'localhost')


@pytest.mark.parametrize('host', ['localhost', 'LOCALHOST:8000', '127.0.0.1:1', '127.9.9.9', '[::1]:8000'])
def test_names_of_this_machine(reader, host):
    assert reader.get('/api/gallery', headers={'Host': host}).status_code == 200


def test_other_web_pages_are_refused(client, gallery):
    own = str(client.base_url).rstrip('/')
    image = encoded(person(0))
    others = (
        {'Origin': 'http://evil.example'}, {'Origin': 'null'}, {'Origin': 'http://localhost:9999'}, {'Origin': ''},
        {'Origin': 'http://['},
        {'Sec-Fetch-Site': 'cross-site'}, {'Sec-Fetch-Site': 'same-site', 'Sec-Fetch-Mode': 'no-cors'},
    )  # fmt: skip
    for headers in others:
        refused(client.delete('/api/crops', params={'camera': 'door'}, headers=headers), 403, 'another web page')
        refused(client.post('/api/merge', params={'tracklet': ['door/2', 'yard/3']}, headers=headers), 403)
        refused(client.post('/api/search', content=image, headers=headers), 403)
        refused(client.get('/api/crops/1/image', headers=headers), 403)
    form = {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate'}
    refused(client.post('/api/merge', params={'tracklet': ['door/2', 'yard/3']}, headers=form), 403)
    assert len(gallery) == 36 and gallery.log() == []
    # its own page, a link elsewhere, an address that was typed, a program
    assert client.post(
        '/api/search', content=image, headers={'Origin': own, 'Sec-Fetch-Site': 'same-origin'}
    ).is_success
    assert client.get('/', headers=form).is_success
    assert client.get('/', headers={'Sec-Fetch-Site': 'none', 'Sec-Fetch-Mode': 'navigate'}).is_success
    assert client.delete('/api/crops', params={'tracklet': 'door/2'}).is_success


def test_nothing_comes_from_elsewhere(reader):
    for path in ('/', '/page.js', '/page.css', '/icon.svg', '/api', '/api/openapi.json', '/api/gallery', '/nothing'):
        answer = reader.get(path)
        policy = answer.headers['content-security-policy']
        assert (
            policy.startswith("default-src 'self';") and 'unsafe' not in policy and "frame-ancestors 'none'" in policy
        )
        assert answer.headers['x-content-type-options'] == 'nosniff'
        assert answer.headers['cache-control'] == 'no-store'
        assert 'server' not in answer.headers and 'access-control-allow-origin' not in answer.headers
    folder = files('msinet_timm.gallery.web') / 'page'
    texts = {file.name: file.read_text(encoding='utf-8') for file in folder.iterdir()}
    assert len(texts) == 5
    for name, text in texts.items():
        assert not re.search(r'(?<!xmlns=")https?:|["\'(=]//|@import|\beval\(', text), name
    for name in ('index.html', 'api.html.jinja'):
        assert not re.search(r'<script(?! src=)|\bon\w+=|\bstyle=|javascript:', texts[name]), name
    assert not re.search('innerHTML|outerHTML|insertAdjacentHTML|document.write', texts['page.js'])


def test_what_programs_are_told(reader):
    api = reader.get('/api/openapi.json').json()
    assert set(api['paths']) == {
        '/api/gallery', '/api/search', '/api/tracklets', '/api/crops/{id}/image', '/api/log', '/api/merge',
        '/api/crops',
    }  # fmt: skip
    page = reader.get('/api').text
    for path, methods in api['paths'].items():
        for method, what in methods.items():
            assert f'<b>{method.upper()}</b> {path}</code>' in page and what['description'] in page
            for parameter in what.get('parameters', []):
                assert f'<code>{parameter["name"]}</code>' in page and parameter['description']
    assert '<script' not in page and 'None' not in page
    for schema in api['components']['schemas'].values():
        assert all(field['description'] for field in schema['properties'].values())


# --- many at once


def test_many_requests_at_once(client, gallery):
    image = encoded(person(1100))

    def act(number):
        if number % 5 == 4 and number // 5 < 8:  # eight of the tracklets go meanwhile
            name = f'{("door", "yard")[number // 5 % 2]}/{number // 5}'
            return client.delete('/api/crops', params={'tracklet': name})
        if number % 5 == 3:
            return client.post('/api/merge', params={'tracklet': ['door/8', 'yard/9', 'door/10']})
        if number % 5 == 2:
            return client.get('/api/log')
        return client.post('/api/search', content=image, params={'k': 12})

    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(act, range(60))]
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        if 'search' in answer.request.url.path:
            assert answer.json()[0]['tracklet'] == 'yard/11'
    assert [s.tracklet for s in gallery.tracklets()] == ['yard/11', 'door/8', 'yard/9', 'door/10']
    assert len({s.identity for s in gallery.tracklets()} - {None}) == 1
    assert sum(entry.action == 'search' for entry in gallery.log(1000)) == 24 + 4
    with sqlite3.connect(f'{gallery.path}/gallery.sqlite') as database:
        assert database.execute('PRAGMA integrity_check').fetchall() == [('ok',)]


# --- how it is started


def test_addresses_of_other_machines_need_a_token(gallery):
    for host in ('0.0.0.0', '::', '192.168.1.7', 'cameras.example', ''):
        with pytest.raises(InputError, match='`host` .* needs a `token`'):
            serve(gallery, host, 0)
    with pytest.raises(InputError, match='`token` must have 16 characters'):
        serve(gallery, '0.0.0.0', 0, 'short')
    with serving(gallery, TOKEN, '0.0.0.0') as client:
        assert client.get('/api/gallery').status_code == 401


def test_an_address_that_is_taken(gallery):
    with socket.create_server(('127.0.0.1', 0)) as taken, pytest.raises(InputError, match='`port` .* cannot listen'):
        serve(gallery, '127.0.0.1', taken.getsockname()[1])
    with pytest.raises(InputError, match='between 0 and 65535'):
        serve(gallery, '127.0.0.1', 70_000)
    with pytest.raises(InputError, match='`host` 192.0.2.1, .* cannot listen'):
        serve(gallery, '192.0.2.1', 0, TOKEN)
    with pytest.raises(InputError, match='`host` a..b, `port` 0: cannot listen'):
        serve(gallery, 'a..b', 0, TOKEN)


def test_a_gallery_without_a_model(tmp_path):
    with Gallery(tmp_path / 'g') as gallery, pytest.raises(InputError, match='give it a model'):
        serve(gallery)


def test_a_missing_package(gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    with pytest.raises(InputError, match=r'msinet-gallery serve needs uvicorn: pip install "msinet-timm\[web\]"'):
        serve(gallery)


def test_names_are_in_no_log(gallery, caplog):
    with caplog.at_level(logging.INFO), serving(gallery) as client:
        client.delete('/api/crops', params={'tracklet': 'door/2'})
    assert 'http://127.0.0.1:' in caplog.text and 'door/2' not in caplog.text
