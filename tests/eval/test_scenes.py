import numpy as np
import pytest
import torch
from crowds import write_crowds

from msinet_eval.cli import main
from msinet_eval.scenes import evaluate_scenes, find_people
from msinet_timm.datasets import create_scenes
from msinet_timm.errors import InputError
from msinet_timm.person_search import PersonSearch, create_search_network, save_search


@pytest.fixture(scope='module')
def crowds(tmp_path_factory):
    return write_crowds(tmp_path_factory.mktemp('crowds') / 'scenes')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('network')
    save_search(create_search_network('msinet_x0_25', min_size=96, max_size=160), folder)
    return folder


def test_command_and_python_agree(crowds, folder, capsys):
    search, scenes = PersonSearch(folder, score=0.1), create_scenes('rendered_scenes', crowds)
    found, asked = find_people(search, scenes)
    assert list(found) == [scene.path for scene in scenes.test] and asked.shape == (len(scenes.queries), search.size)
    for query, embedding in zip(scenes.queries, asked, strict=True):
        np.testing.assert_allclose(search.embed(query.scene.path, [query.box])[0], embedding, atol=1e-5)
    argv = f'scenes {folder} -ds rendered_scenes --data-dir {crowds} --min-score 0.1'
    assert main(argv.split()) == 0
    assert str(evaluate_scenes(search, scenes)) in capsys.readouterr().out


def test_wrong_calls(crowds, folder, capsys, tmp_path):
    for argv, told in (
        (f'scenes msinet_x0_5 -ds rendered_scenes --data-dir {crowds}', 'msinet_x0_5'),
        (f'scenes {folder} -ds rendered_scenes --data-dir {tmp_path}', str(tmp_path)),
        (f'{folder} -ds sample', 'PersonSearch'),
    ):
        assert main(argv.split()) == 2
        error = capsys.readouterr().err
        assert told in error and 'Traceback' not in error


def test_nobody_is_asked_for(crowds, folder):
    scenes = create_scenes('rendered_scenes', crowds)
    with pytest.raises(InputError, match='has no queries'):
        evaluate_scenes(PersonSearch(folder), type(scenes)(scenes.name, scenes.root, scenes.train, scenes.test, ()))
