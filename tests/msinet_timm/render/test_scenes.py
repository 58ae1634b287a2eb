"""Rendered scenes: who is in which image, and that the reader, the checks and the images agree."""

import json

import numpy as np
import pytest
from PIL import Image

from msinet_timm.cli.data import main
from msinet_timm.datasets import create_scenes
from msinet_timm.datasets.scenes import UNNAMED
from msinet_timm.errors import InputError
from msinet_timm.render import render_scenes
from msinet_timm.render.scenes import _groups

TINY = dict(identities=8, test_identities=4, cameras=2, images=3, width=160, height=96, seed=3, workers=1)


@pytest.fixture(scope='module')
def rendered(raster, tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    return folder, render_scenes(folder, **TINY)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*.*') if p.suffix in ('.jpg', '.jsonl')}


@pytest.mark.parametrize(('identities', 'tests', 'places'), [(8, 4, 1), (100, 50, 1), (181, 40, 3), (37, 1, 1)])
def test_everybody_walks_in_one_group(identities, tests, places):
    groups = _groups(dict(identities=identities, test_identities=tests, places=places, crowd=24))
    named = {part: [i for g in groups if g.part == part for i in g.named] for part in ('train', 'test')}
    assert sorted(named['train'] + named['test']) == list(range(identities)) and len(named['test']) == tests
    assert max(named['train']) < min(named['test'])
    for place in range(places):
        own = [group for group in groups if group.place == place]
        assert sorted(group.number for group in own) == list(range(len(own)))
        walking = [group.first + k for group in own for k in range(group.people)]
        assert sorted(walking) == list(range(1, len(walking) + 1))  # nobody is two people
    for group in groups:
        assert 1 <= len(group.named) <= 18 and len(group.named) / group.people == pytest.approx(0.75, abs=0.26)
        assert [group.identity(k + 1) for k in range(len(group.named))] == list(group.named)
        assert group.identity(group.people) == UNNAMED


def test_crowds_are_as_large_as_is_asked_for():
    for crowd in range(4, 65):
        groups = _groups(dict(identities=400, test_identities=200, places=1, crowd=crowd))
        assert 0.75 * crowd <= max(group.people for group in groups) <= crowd


@pytest.mark.slow
def test_the_reader_reads_what_was_rendered(rendered):
    folder, counts = rendered
    scenes = create_scenes('rendered_scenes', folder)
    assert counts == {
        'train': len(scenes.train),
        'test': len(scenes.test),
        'queries': len(scenes.queries),
        'named': sum(i != UNNAMED for s in scenes.train + scenes.test for i in s.identities),
        'unnamed': sum(i == UNNAMED for s in scenes.train + scenes.test for i in s.identities),
    }
    assert min(counts.values()) > 0 and not scenes.shared and counts['train'] <= 6
    assert {i for s in scenes.train for i in s.named} <= set(range(4))
    assert {i for s in scenes.test for i in s.named} <= set(range(4, 8))
    for scene in scenes.train + scenes.test:
        assert scene.boxes and scene.camera in ('1-1', '1-2') and f'c{scene.camera[2]}_' in scene.path
        with Image.open(scene.path) as image:
            assert image.size == (160, 96)
        assert scene.within(160, 96).boxes == scene.boxes
    seen = [query.identity for query in scenes.queries]
    for query in scenes.queries:
        assert 0 < min(query.box) and query.box[2] < 160 and query.box[3] < 96
        assert sum(query.identity in scene.named for scene in scenes.test) > 1
        assert len({q.scene.camera for q in scenes.queries if q.identity == query.identity}) == seen.count(
            query.identity
        )
    assert len(contents(folder)) == counts['train'] + counts['test'] + 3


@pytest.mark.slow
def test_boxes_are_around_what_the_images_show(rendered):
    """Against the camera's empty place, nearly all that differs much is in boxes, and each box has some of it."""
    folder, _ = rendered
    scenes = create_scenes('rendered_scenes', folder)
    for camera in ('1-1', '1-2'):
        own = [scene for scene in scenes.train + scenes.test if scene.camera == camera]
        images = np.stack([np.asarray(Image.open(scene.path).convert('L'), float) for scene in own])
        if len(own) < 4:
            continue
        differs = np.abs(images - np.median(images, 0)) > 40
        for scene, part in zip(own, differs, strict=True):
            for left, top, right, low in np.round(scene.boxes).astype(int):
                assert part[top:low, left:right].mean() > part.mean()


@pytest.mark.slow
def test_rendering_goes_on_where_it_stopped(rendered, tmp_path):
    folder, counts = rendered
    for name in ('train', 'test'):
        (tmp_path / name).mkdir()
    (tmp_path / 'render.json').write_bytes((folder / 'render.json').read_bytes())
    paths = sorted(folder.glob('*/*.jpg'))
    for path in paths[::2]:
        (tmp_path / path.relative_to(folder)).write_bytes(path.read_bytes())
    kept = tmp_path / paths[0].relative_to(folder)
    before = kept.stat().st_mtime_ns
    assert render_scenes(tmp_path, **TINY | {'workers': 2}) == counts
    assert contents(tmp_path) == contents(folder) and kept.stat().st_mtime_ns == before
    with pytest.raises(InputError, match='was rendered with another images'):
        render_scenes(tmp_path, **TINY | {'images': 4})


@pytest.mark.slow
def test_the_command(raster, tmp_path, capsys):
    options = ['--identities', '2', '--cameras', '2', '--images', '4', '--width', '96', '--height', '64']
    assert not main(['render', '--scenes', '--output', str(tmp_path), *options, '--domain', 'mixed', '--workers', '1'])
    assert ' train, ' in capsys.readouterr().out
    assert json.loads((tmp_path / 'render.json').read_text())['settings']['domain'] == 'mixed'
    assert (tmp_path / 'train.jsonl').read_text()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(domain='moon'), '--domain moon is unknown: choose one of street, mall, mixed'),
        (dict(identities=1), '--identities 1 is out of range: give 2 to 10000'),
        (dict(test_identities=8), '--test-identities 8 is out of range: give 1 to 7'),
        (dict(cameras=1), '--cameras 1 is out of range'),
        (dict(places=5), '--places 5 is out of range: give 1 to 4'),
        (dict(crowd=3), '--crowd 3 is out of range: give 4 to 64'),
        (dict(width=8), '--width 8 is out of range'),
        (dict(images=1), '--images 1 is out of range'),
    ],
)
def test_wrong_values(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        render_scenes(tmp_path, **TINY | change)
    assert not list(tmp_path.iterdir())
