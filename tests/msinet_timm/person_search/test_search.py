import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.hub.folder import save_folder
from msinet_timm.hub.load import load_model
from msinet_timm.person_search import PersonSearch, create_search_network, load_search, save_search

NAME = 'msinet_x0_25.rendered_128x64'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('search') / 'best'
    save_search(create_search_network(NAME, min_size=96, max_size=160), folder)
    return folder


@pytest.fixture(scope='module')
def search(folder):
    return PersonSearch(folder.parent, device='cpu', score=0)  # a run stands for its best one


@pytest.fixture(scope='module')
def frame():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_frames_of_all_kinds(search, frame, tmp_path):
    found = search(frame)
    assert found.boxes.shape == (len(found.scores), 4) and found.embeddings.shape == (len(found.scores), search.size)
    assert len(found.scores) and (np.diff(found.scores) <= 0).all()
    Image.fromarray(frame).save(tmp_path / 'frame.png')
    same(search(frame[..., ::-1], bgr=True), found)
    for other in (tmp_path / 'frame.png', str(tmp_path / 'frame.png'), Image.fromarray(frame)):
        same(search(other), found)
        same(search(other, bgr=True), found)  # whose order of channels is known
    same(search(torch.from_numpy(frame).permute(2, 0, 1)), found)
    same(search(frame.astype(np.uint16) << 8), found)


def test_folder_keeps_the_network(folder, search, frame, tmp_path):
    again = load_search(folder)
    assert again.config == search.network.config
    save_search(again, tmp_path / 'again')
    assert load_file(tmp_path / 'again' / 'model.safetensors').keys() == again.state_dict().keys()
    other = PersonSearch(tmp_path / 'again', device='cpu', score=0)
    same(other(frame), search(frame))
    assert other.digest == search.digest


def test_score(folder, search, frame):
    scores = search(frame).scores
    limit = float(np.median(scores))
    np.testing.assert_array_equal(
        PersonSearch(folder, device='cpu', score=limit)(frame).scores, scores[scores >= limit]
    )
    for wrong in (-0.1, 1.1, float('nan')):
        with pytest.raises(InputError, match='score must be 0 to 1'):
            PersonSearch(folder, score=wrong)


def test_embed(search, frame):
    found = search(frame)
    np.testing.assert_allclose(search.embed(frame, found.boxes), found.embeddings, atol=2e-3)
    assert search.embed(frame, []).shape == (0, search.size)
    inside = search.embed(frame, [[0, 0, 120, 50]])
    np.testing.assert_allclose(search.embed(frame, [[-20, -7, 140, 50]]), inside, atol=1e-5)


@pytest.mark.parametrize(
    'boxes, told',
    [
        ([[1, 2, 3]], r'must be \[N, 4\]'),
        ('abc', 'must be numbers'),
        ([[0, 0, 9, 9], [5, 5, 5, 9]], r'box 1 \(5, 5, 5, 9'),
        ([[0, 0, float('nan'), 9]], 'box 0 .* is not finite'),
        ([[200, 0, 300, 9]], r'box 0 \(200, .* in a frame of 120x90 pixels'),
    ],
)
def test_wrong_boxes(search, frame, boxes, told):
    with pytest.raises(InputError, match=told):
        search.embed(frame, boxes)


@pytest.mark.parametrize('wrong', [None, 7, np.zeros((4, 4)), np.zeros((4, 4), np.uint8), [1], 'nowhere.jpg'])
def test_wrong_frames(search, wrong):
    with pytest.raises(InputError, match='frame|nowhere'):
        search(wrong)


def test_networks_of_the_other_kind(folder, tmp_path):
    save_folder(load_model(NAME), tmp_path / 'reid')
    with pytest.raises(InputError, match='holds msinet_x0_25, which embeds images of one person'):
        PersonSearch(tmp_path / 'reid')
    with pytest.raises(InputError, match='finds people in whole frames'):
        Embedder(folder)
    with pytest.raises(InputError, match='neither a model folder'):
        PersonSearch(tmp_path)


@pytest.mark.parametrize(
    'name, value, told',
    [
        ('backbone', 'resnet18', 'is no MSINet'),
        ('backbone', '/etc/passwd', 'is no MSINet'),
        ('backbone', None, 'expected a str'),
        ('genotype', ['nothing'] * 12, 'genotype|interaction|nothing'),
        ('input_size', [3, 0, 64], 'input_size'),
        ('mean', [0.5], 'mean'),
        ('min_size', 10**9, 'min_size'),
        ('max_size', 2.5, 'max_size'),
        ('frozen_norm', 1, 'frozen_norm'),
    ],
)
def test_wrong_configurations(folder, tmp_path, name, value, told):
    network = load_search(folder)
    network.config[name] = value
    save_search(network, tmp_path / 'wrong')
    with pytest.raises(InputError, match=told) as caught:
        load_search(tmp_path / 'wrong')
    assert 'config.json' in str(caught.value)


def test_wrong_weights(folder, tmp_path):
    save_search(load_search(folder), tmp_path)
    state = load_file(tmp_path / 'model.safetensors')
    save_file({**state, 'rpn.head.cls_logits.bias': torch.full((3,), float('nan'))}, tmp_path / 'model.safetensors')
    with pytest.raises(InputError, match='rpn.head.cls_logits.bias holds values that are not finite'):
        load_search(tmp_path)
    state.pop('rpn.head.cls_logits.bias')
    save_file(state, tmp_path / 'model.safetensors')
    with pytest.raises(InputError, match='does not fit .*rpn.head.cls_logits.bias'):
        load_search(tmp_path)
    (tmp_path / 'model.safetensors').write_bytes(b'\x80\x04nothing')
    with pytest.raises(InputError, match='model.safetensors'):
        load_search(tmp_path)
    (tmp_path / 'config.json').write_text(json.dumps({'architecture': 'person_search'}))
    with pytest.raises(InputError, match='person_search: expected named values'):
        load_search(tmp_path)
