"""Scenes of person search as people really have them, from the command that checks them."""

import json
import os

import pytest
from hostile import refused, run
from scene_files import paint, write_cuhk, write_prw

from msinet_eval.cli import main as evaluate
from msinet_timm.cli.data import main as data

pytest.importorskip('scipy')
TEST = [
    dict(image='test/b.jpg', camera='1', boxes=[[10, 10, 50, 90]], identities=[1]),
    dict(image='test/c.jpg', camera='2', boxes=[[10, 10, 50, 90]], identities=[1]),
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(part, *rows):
    with open(f's/{part}.jsonl', 'w') as file:
        file.writelines(json.dumps(row) + '\n' for row in rows)


@pytest.fixture
def scenes(tmp_path):
    """Sound ones; two training images of one person."""
    for name in ('train/a', 'train/z', 'test/b', 'test/c'):
        paint(tmp_path / 's' / f'{name}.jpg')
    rows = [dict(image=f'train/{k}.jpg', camera='1', boxes=[[10, 10, 50, 90]], identities=[0]) for k in 'az']
    write('train', *rows)
    write('test', *TEST)
    write('queries', dict(image='test/b.jpg', box=[10, 10, 50, 90], identity=1))
    return rows


def check(capsys, name, *words):
    return run(capsys, data, 'check', name, *words)


def test_sound_scenes(capsys, scenes):
    code, text = check(capsys, 'rendered_scenes', 's')
    assert code == 0 and text.endswith('sound\n'), text


@pytest.mark.parametrize(
    ('row', 'told'),
    [
        (dict(boxes=[], identities=[]), 'images without a box: 1'),
        (dict(identities=[5]), 'train: identities with one image: 2'),
        (dict(boxes=[[400, 10, 500, 90]]), 'lies outside of its image of 320x240 pixels'),
        (dict(identities=[1]), 'identities in both train and test: 1'),
    ],
)
def test_what_the_check_finds(capsys, scenes, row, told):
    write('train', scenes[0] | row, scenes[1])
    code, text = check(capsys, 'rendered_scenes', 's')
    assert code == 1 and told in text, text


def test_a_broken_image_is_found(capsys, scenes):
    with open('s/train/a.jpg', 'wb') as file:
        file.write(b'\xff\xd8 no more')
    code, text = check(capsys, 'rendered_scenes', 's')
    assert code == 1 and 'unreadable images: 1' in text, text


@pytest.mark.parametrize(
    ('row', 'names'),
    [
        (dict(image='train/gone.jpg'), ['train.jsonl, line 1', 'gone.jpg is missing']),
        (dict(boxes=[[50, 10, 10, 90]]), ['train.jsonl, line 1', 'must be left, top, right and bottom, not empty']),
        (dict(boxes=[[float('nan'), 10, 50, 90]]), ['train.jsonl, line 1', 'not empty']),
        (dict(boxes=[[10**400, 10, 50, 90]]), ['train.jsonl, line 1', 'a box must be']),
        (dict(boxes=7), ["expected 'boxes', a list of boxes, got 7"]),
        (dict(identities=[0, 1]), ['1 boxes, but 2 identities']),
        (dict(identities=['anna']), ['identities must be whole numbers']),
    ],
)
def test_wrong_rows(capsys, scenes, row, names):
    write('train', scenes[0] | row)
    refused(capsys, data, 'check', 'rendered_scenes', 's', names=names)


def test_files_that_are_missing_or_empty(capsys, scenes):
    os.remove('s/queries.jsonl')
    refused(capsys, data, 'check', 'rendered_scenes', 's', names='queries.jsonl is missing')
    write('queries')
    refused(capsys, data, 'check', 'rendered_scenes', 's', names='queries.jsonl is empty')
    refused(capsys, data, 'check', 'rendered_scenes', 'nowhere', names='nowhere is no folder')
    refused(capsys, data, 'check', 'prw', 's', names='expected a folder with frame_train.mat')
    refused(capsys, data, 'check', 'prw', names='ROOT')


def test_wrong_options(capsys, scenes, tmp_path):
    write_cuhk(tmp_path / 'cuhk')
    for value, told in (('70', 'must be one of: 50, 100, 500'), ('500', 'TestG500.mat is missing'), ('', 'one of')):
        refused(capsys, data, 'check', 'cuhk_sysu', 'cuhk', '--data-option', f'gallery={value}', names=told)
    refused(
        capsys, data, 'check', 'prw', write_prw(tmp_path / 'prw'), '--data-option', 'gallery=50', names='multi_view'
    )
    refused(capsys, data, 'check', 'rendered_scenes', 's', '--contact-sheet', 'x.png', names='--contact-sheet')


def test_a_folder_without_frames(capsys, tmp_path):
    write_prw(tmp_path / 'prw')
    os.rename('prw/frames', 'prw/pictures')
    refused(capsys, data, 'check', 'prw', 'prw', names='frames')


def test_a_pointer_in_place_of_a_file(capsys, tmp_path):
    (write_prw(tmp_path / 'prw') / 'frame_test.mat').write_text('version https://git-lfs.github.com/spec/v1\noid 7\n')
    refused(capsys, data, 'check', 'prw', 'prw', names=['frame_test.mat', 'pointer of Git LFS'])


def test_whole_images_are_no_crops(capsys, scenes):
    told = "data set 'rendered_scenes' has whole images"
    refused(capsys, evaluate, 'color_histogram', '-ds', 'rendered_scenes', '--data-dir', 's', names=told)
    refused(capsys, data, 'convert', 'rendered_scenes', 's', '--to', 'folder', '--output', 'o', names=told)
