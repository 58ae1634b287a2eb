"""CUHK-SYSU, PRW and rendered scenes: what is read of files laid out as theirs."""

import json
import os
import sys

import numpy as np
import pytest
from scene_files import paint, write_cuhk, write_prw

from msinet_timm.datasets import create_dataset, create_scenes, list_datasets, list_scenes
from msinet_timm.datasets.scenes import UNNAMED, Scene
from msinet_timm.errors import InputError, MissingPackageError

pytest.importorskip('scipy')


def names(scenes):
    return [os.path.basename(scene.path) for scene in scenes]


def write_rows(root, part, *rows):
    (root / f'{part}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def write_rendered(root):
    paint(root / 'train' / 'a.jpg')
    for name in 'bcd':
        paint(root / 'test' / f'{name}.jpg')
    write_rows(root, 'train', dict(image='train/a.jpg', camera='1', boxes=[[1, 2, 30.5, 40]], identities=[0]))
    write_rows(
        root,
        'test',
        dict(image='test/b.jpg', camera='1', boxes=[[1, 2, 30, 40], [50, 2, 80, 40]], identities=[1, -1]),
        dict(image='test/c.jpg', camera='1', boxes=[[2, 2, 30, 40]], identities=[1]),
        dict(image='test/d.jpg', camera='2', boxes=[[3, 2, 30, 40]], identities=[1]),
    )
    write_rows(root, 'queries', dict(image='test/b.jpg', box=[1, 2, 30, 40], identity=1))
    return root


def test_cuhk_sysu(tmp_path, caplog):
    scenes = create_scenes('cuhk_sysu', write_cuhk(tmp_path), gallery='50')
    assert names(scenes.train) == ['s1.jpg', 's2.jpg', 's3.jpg']
    assert [scene.identities for scene in scenes.train] == [(0,), (0, 1), (UNNAMED,)]
    assert scenes.train[0].boxes == ((10, 20, 210, 230),) and '1 boxes without area' in caplog.text
    assert names(scenes.test) == ['s4.jpg', 's5.jpg', 's6.jpg', 's7.jpg']
    assert [scene.identities for scene in scenes.test] == [(2, 3), (2,), (2, 3), (UNNAMED,)]
    first, second = scenes.queries
    assert (first.box, first.identity, os.path.basename(first.scene.path)) == ((13, 20, 53, 100), 2, 's4.jpg')
    assert [os.path.basename(path) for path in first.gallery] == ['s5.jpg', 's6.jpg']
    assert [os.path.basename(path) for path in second.gallery] == ['s4.jpg', 's5.jpg']
    assert scenes.notes == ('galleries of 50 images',) and not scenes.shared


def test_galleries_of_cuhk_sysu(tmp_path):
    write_cuhk(tmp_path / 'CUHK-SYSU')
    by_default = create_scenes('cuhk_sysu', tmp_path)
    assert [len(query.gallery) for query in by_default.queries] == [3, 3]
    everything = create_scenes('cuhk_sysu', tmp_path, gallery='all')
    assert [query.gallery for query in everything.queries] == [None, None]
    assert everything.test == by_default.test
    with pytest.raises(InputError, match='gallery=70 must be one of: 50, 100, 500, 1000, 2000, 4000, all'):
        create_scenes('cuhk_sysu', tmp_path, gallery=70)
    with pytest.raises(InputError, match=r'TestG4000\.mat is missing'):
        create_scenes('cuhk_sysu', tmp_path, gallery=4000)


def test_images_without_boxes_and_boxes_that_images_mat_lacks(tmp_path):
    boxes = {f's{k}.jpg': [(10 + k, 20, 40, 80)] for k in range(1, 7)} | {'s7.jpg': []}
    scenes = create_scenes('cuhk_sysu', write_cuhk(tmp_path, boxes), gallery=50)
    assert scenes.test[-1].boxes == ()
    assert scenes.test[0].boxes == ((14, 20, 54, 100), (13, 20, 53, 100), (90, 20, 120, 80))
    assert scenes.test[0].identities == (UNNAMED, 2, 3)


@pytest.mark.parametrize(
    'gone', ['annotation/Images.mat', 'annotation/pool.mat', 'annotation/test/train_test/Train.mat', 'Image/SSM/s6.jpg']
)
def test_a_missing_file_of_cuhk_sysu(tmp_path, gone):
    (write_cuhk(tmp_path) / gone).unlink()
    with pytest.raises(InputError, match=f'{os.path.basename(gone)} is missing'):
        create_scenes('cuhk_sysu', tmp_path)


def test_prw(tmp_path):
    scenes = create_scenes('prw', write_prw(tmp_path / 'PRW-v16.04.20').parent)
    assert [(scene.camera, scene.identities) for scene in scenes.train] == [('1', (1, UNNAMED)), ('2', (1,))]
    assert scenes.train[1].boxes == ((-4, 21, 26, 81),)
    assert scenes.train[1].within(320, 240).boxes == ((0, 21, 26, 81),)
    assert [(scene.camera, scene.identities) for scene in scenes.test] == [
        ('1', (2, UNNAMED)), ('1', (2, 3)), ('3', (2,)), ('6', (3,)), ('6', ()),
    ]  # fmt: skip
    assert [(query.identity, query.box, query.gallery) for query in scenes.queries] == [
        (2, (12, 22, 42, 82), None), (3, (80, 20, 110, 80), None),
    ]  # fmt: skip
    others = create_scenes('prw', tmp_path, multi_view='true')
    assert [os.path.basename(path) for path in others.queries[0].gallery] == [
        'c3s2_000251.jpg', 'c6s2_000276.jpg', 'c6s2_000301.jpg',
    ]  # fmt: skip
    assert others.queries[0].gallery is others.queries[1].gallery


@pytest.mark.parametrize(
    ('gone', 'message'),
    [
        ('frame_test.mat', r'frame_test\.mat is missing'),
        ('query_info.txt', r'query_info\.txt is missing'),
        ('annotations/c3s2_000251.jpg.mat', r'c3s2_000251\.jpg\.mat is missing'),
        ('frames/c3s2_000251.jpg', r'c3s2_000251\.jpg is missing, but the lists'),
    ],
)
def test_a_missing_file_of_prw(tmp_path, gone, message):
    (write_prw(tmp_path) / gone).unlink()
    with pytest.raises(InputError, match=message):
        create_scenes('prw', tmp_path)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('2 12 22 30 c1s2_000201', "line 1: expected a line like '479"),
        ('2 12 22 30 60 c1s1_000151', "'c1s1_000151' is not in frame_test"),
        ('2 12 22 0 60 c1s2_000201', 'has no area'),
        ('anna 12 22 30 60 c1s2_000201', 'expected a line like'),
        ('2 12 nan 30 60 c1s2_000201', 'must be left, top, right and bottom'),
    ],
)
def test_wrong_queries_of_prw(tmp_path, line, message):
    (write_prw(tmp_path) / 'query_info.txt').write_text(f'{line}\n')
    with pytest.raises(InputError, match=message):
        create_scenes('prw', tmp_path)


def test_files_that_are_no_matlab_files(tmp_path):
    from scipy.io import savemat

    path = write_prw(tmp_path) / 'annotations' / 'c3s2_000251.jpg.mat'
    path.write_bytes(b'MATLAB 5.0 and then nothing')
    with pytest.raises(InputError, match='cannot read this MATLAB file'):
        create_scenes('prw', tmp_path)
    savemat(path, {'boxes': np.zeros((1, 5))})
    with pytest.raises(InputError, match='expected box_new or anno_file or anno_previous in it, found boxes'):
        create_scenes('prw', tmp_path)
    savemat(path, {'box_new': np.array([[1.5, 2, 3, 4, 5]])})
    with pytest.raises(InputError, match=r'identity 1\.5 is no whole number'):
        create_scenes('prw', tmp_path)
    savemat(path, {'box_new': np.zeros((2, 3))})
    with pytest.raises(InputError, match='not as expected of this data set'):
        create_scenes('prw', tmp_path)
    savemat(write_cuhk(tmp_path / 'c') / 'annotation' / 'Images.mat', {'Img': np.zeros(3)})
    with pytest.raises(InputError, match=r'Images\.mat: not as expected'):
        create_scenes('cuhk_sysu', tmp_path / 'c')


def test_without_scipy(tmp_path, monkeypatch):
    write_prw(tmp_path)
    monkeypatch.setitem(sys.modules, 'scipy.io', None)
    with pytest.raises(MissingPackageError, match=r'needs scipy: pip install "msinet-timm\[scenes\]"'):
        create_scenes('prw', tmp_path)


def test_rendered_scenes(tmp_path):
    scenes = create_scenes('rendered_scenes', write_rendered(tmp_path))
    assert scenes.train == (Scene(str(tmp_path / 'train' / 'a.jpg'), ((1, 2, 30.5, 40),), (0,), '1'),)
    assert names(scenes.test) == ['b.jpg', 'c.jpg', 'd.jpg']
    assert scenes.test[0].named == {1: ((1, 2, 30, 40),)}
    (query,) = scenes.queries
    assert query.scene == scenes.test[0] and query.gallery is None
    (query,) = create_scenes('rendered_scenes', tmp_path, multi_view=True).queries
    assert query.gallery == (scenes.test[2].path,)


@pytest.mark.parametrize(
    ('part', 'change', 'message'),
    [
        ('train', dict(image='train/z.jpg'), r'train\.jsonl, line 1: .*z\.jpg is missing'),
        ('train', dict(image=None), "expected 'image', the path of an image, got None"),
        ('train', dict(boxes=[[1, 2, 3]]), r'a box must be \[left, top, right, bottom\], got \[1, 2, 3\]'),
        ('train', dict(boxes=[[30, 2, 1, 4]]), r'line 1: .*box \(30, 2, 1, 4\) must be left'),
        ('train', dict(boxes=[]), '0 boxes, but 1 identities'),
        ('train', dict(identities=[True]), 'identities must be whole numbers, -1'),
        ('train', dict(identities=[-3]), 'identity -3 must be 0 to 2147483647, or -1'),
        ('train', dict(identities=[2**31]), 'identity 2147483648 must be 0 to'),
        ('train', dict(camera=3), "expected 'camera', a name, got 3"),
        ('queries', dict(box=[9, 2, 30, 40]), r'has no box \[9\.0, 2\.0, 30\.0, 40\.0\] of identity 1'),
        ('queries', dict(image='train/a.jpg'), r'a\.jpg is not in test\.jsonl'),
        ('queries', dict(gallery=['test/z.jpg']), r'its gallery names .*z\.jpg, which is no test scene'),
    ],
)
def test_wrong_rows_of_rendered_scenes(tmp_path, part, change, message):
    file = write_rendered(tmp_path) / f'{part}.jsonl'
    write_rows(tmp_path, part, json.loads(file.read_text()) | change)
    with pytest.raises(InputError, match=message):
        create_scenes('rendered_scenes', tmp_path)


def test_wrong_lines_of_rendered_scenes(tmp_path):
    write_rendered(tmp_path)
    (tmp_path / 'train.jsonl').write_text('[1]\n')
    with pytest.raises(InputError, match='line 1: expected an object'):
        create_scenes('rendered_scenes', tmp_path)
    (tmp_path / 'train.jsonl').write_text('{\n')
    with pytest.raises(InputError, match='line 1: no JSON'):
        create_scenes('rendered_scenes', tmp_path)
    write_rendered(tmp_path)
    row = json.loads((tmp_path / 'test.jsonl').read_text().splitlines()[0])
    write_rows(tmp_path, 'test', row, row)
    with pytest.raises(InputError, match='1 test scenes are listed twice'):
        create_scenes('rendered_scenes', tmp_path)
    write_rows(tmp_path, 'test', {**row, 'camera': None})
    with pytest.raises(InputError, match='multi_view needs the camera'):
        create_scenes('rendered_scenes', tmp_path, multi_view=True)


def test_scenes_and_datasets_are_told_apart(tmp_path):
    assert not set(list_scenes()) & set(list_datasets())
    with pytest.raises(InputError, match="'prw' has whole images"):
        create_dataset('prw', tmp_path)
    with pytest.raises(InputError, match="unknown scenes 'market1501', choose from: cuhk_sysu, prw, rendered_scenes"):
        create_scenes('market1501', tmp_path)
    with pytest.raises(InputError, match='needs its folder'):
        create_scenes('prw', None)


def test_boxes_outside_of_their_image():
    scene = Scene('a.jpg', ((-5, 3, 20, 30), (50, 3, 70, 30)), (0, 1))
    assert scene.within(60, 20).boxes == ((0, 3, 20, 20), (50, 3, 60, 20))
    with pytest.raises(InputError, match=r'a\.jpg: box \(50, 3, 70, 30\) lies outside of its image of 50x20 pixels'):
        scene.within(50, 20)
