"""What is wrong with scenes is found, each in one line."""

import dataclasses

import pytest
from scene_files import paint, write_cuhk, write_prw

from msinet_timm.cli.data import main
from msinet_timm.datasets import create_scenes
from msinet_timm.datasets.scenes import Scene, SceneQuery, SceneSet
from msinet_timm.datasets.tools.check_scenes import check_scenes, summarize_scenes

BOX = (10.0, 10.0, 50.0, 90.0)


@pytest.fixture
def sound(tmp_path):
    paths = [str(tmp_path / f'{name}.jpg') for name in 'abcd']
    for name in 'abcd':
        paint(tmp_path / f'{name}.jpg')
    train, test = (
        tuple(Scene(path, (BOX,), (k,), 'x') for path in some) for k, some in enumerate((paths[:2], paths[2:]))
    )
    return SceneSet('x', str(tmp_path), train, test, (SceneQuery(test[0], BOX, 1),))


def kinds(scenes):
    return [(finding.kind, len(finding.examples)) for finding in check_scenes(scenes)]


def test_sound_scenes(sound):
    assert not check_scenes(sound) and not sound.remarks
    assert [row.split() for row in summarize_scenes(sound).splitlines()] == [
        ['identities', 'images', 'boxes', 'unnamed', 'cameras'],
        ['train', '1', '2', '2', '0', '1'],
        ['test', '1', '2', '2', '0', '1'],
        ['queries', '1', '1', '1'],
    ]


def test_what_is_wrong_with_scenes(sound, tmp_path):
    def changed(part, **change):
        scenes = getattr(sound, part)
        return dataclasses.replace(sound, **{part: (dataclasses.replace(scenes[0], **change), *scenes[1:])})

    assert kinds(changed('train', identities=(-1,))) == [('single', 1)]
    assert kinds(changed('train', boxes=(), identities=())) == [('single', 1), ('empty', 1)]
    assert kinds(changed('test', boxes=((330.0, 10.0, 350.0, 90.0),))) == [('outside', 1)]
    assert kinds(changed('train', identities=(1,))) == [('single', 2), ('mixed', 1)]
    assert 'SHARE IDENTITIES' in changed('train', identities=(1,)).remarks[0]
    (tmp_path / 'a.jpg').write_bytes(b'\xff\xd8 no more')
    (tmp_path / 'd.jpg').unlink()
    assert kinds(sound) == [('unreadable', 2)]
    assert kinds(dataclasses.replace(sound, test=sound.test[:1]))[0] == ('single', 1)


def test_the_command(tmp_path, capsys):
    pytest.importorskip('scipy')
    root = write_prw(tmp_path / 'prw')
    assert main(['check', 'prw', str(root), '--data-option', 'multi_view=true']) == 1
    text = capsys.readouterr().out
    assert 'looked for under other cameras alone' in text
    assert 'train: 2 images of 1 identities, but 5,704 images of 482 identities are known' in text
    assert 'queries: 2 queries of 2 identities, but 2,057 queries of 450 identities are known' in text
    assert 'images without a box: 1' in text
    assert main(['check', 'cuhk_sysu', str(write_cuhk(tmp_path / 'cuhk'))]) == 1
    assert 'train: identities with one image: 1' in capsys.readouterr().out
    assert create_scenes('prw', root).queries
    main(['list'])
    text = capsys.readouterr().out
    assert 'option   gallery=50|100|500|1000|2000|4000|all  images' in text and 'multi_view=true|false' in text
