"""What a network of person search finds, in galleries, trackers, other runtimes and on the Hub."""

import json
import re

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from msinet_timm.cli.hub import main
from msinet_timm.errors import InputError
from msinet_timm.gallery import Gallery
from msinet_timm.person_search import Found, PersonSearch, create_search_network, load_search, save_search
from msinet_timm.person_search.export import OUTPUTS
from msinet_timm.tracking import Tracker

FRAME = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('search') / 'found'
    save_search(create_search_network('msinet_x0_25', min_size=96, max_size=160), folder)
    return folder


@pytest.fixture(scope='module')
def found(folder):
    found = PersonSearch(folder, device='cpu', score=0)(FRAME)
    wide = (found.boxes[:, 2:] - found.boxes[:, :2]).min(1) > 8
    return Found(*(values[wide][:5] for values in found))


def test_gallery_takes_what_is_found(found, tmp_path):
    with Gallery(tmp_path / 'gallery') as gallery:
        numbers = gallery.add(FRAME, found, camera='door', time=0.0)
        assert len(numbers) == len(found.boxes) > 1 and None not in numbers
        best = gallery.search(found.embeddings[1])
        assert best[0].distance == pytest.approx(0, abs=0.05)
        with pytest.raises(InputError, match='has embeddings of its own'):
            gallery.add(FRAME, found, embeddings=found.embeddings)


def test_tracker_takes_what_is_found(found):
    one, other = Tracker(), Tracker()
    for _ in range(3):
        tracks = one.update(FRAME, found)
        assert tracks == other.update(FRAME, found.boxes, found.scores, embeddings=found.embeddings)
    assert tracks or (found.scores < 0.6).all()
    with pytest.raises(InputError, match='has scores and embeddings of its own'):
        one.update(FRAME, found, found.scores)


def test_export(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['export', str(folder), '--format', 'onnx']) == 0
    assert 'found.onnx' in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / 'found.onnx')
    search = PersonSearch(folder, device='cpu', score=0)
    for size in ((160, 120), (90, 200), (91, 163), (200, 90)):
        frame = np.asarray(Image.fromarray(FRAME).resize(size))
        boxes, scores, embeddings = session.run(OUTPUTS, {'frame': frame.transpose(2, 0, 1)})
        expected = search(frame)
        assert len(boxes) == len(expected.boxes) > 0
        np.testing.assert_allclose(boxes, expected.boxes, atol=0.02)
        np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(embeddings, expected.embeddings, atol=1e-4)
    metadata = json.loads(session.get_modelmeta().custom_metadata_map['msinet_timm'])
    assert metadata['architecture'] == 'person_search' and metadata['min_size'] == 96
    assert main(['export', str(folder), '--format', 'onnx']) == 2
    assert '--force' in capsys.readouterr().err


def test_export_of_a_network_that_finds_nobody(tmp_path):
    network = create_search_network('msinet_x0_25', min_size=96, max_size=160)
    network.roi_heads.box_predictor.cls_score.bias.data[1] = -20
    save_search(network, tmp_path / 'nobody')
    assert main(['export', str(tmp_path / 'nobody'), '--format', 'onnx', '--output', str(tmp_path / 'x.onnx')]) == 0
    session = onnxruntime.InferenceSession(tmp_path / 'x.onnx')
    boxes, scores, embeddings = session.run(OUTPUTS, {'frame': FRAME.transpose(2, 0, 1)})
    assert boxes.shape == (0, 4) and scores.shape == (0,) and embeddings.shape == (0, network.embedding_size)


@pytest.mark.parametrize(
    'flags, told',
    [
        ('--format openvino', 'as onnx only'),
        ('--for deepstream-onnx', 'as onnx only'),
        ('--format onnx --preprocessing', '--preprocessing is not for'),
        ('--format onnx --precision bf16', '--precision bf16'),
        ('--format onnx --int8', '--int8 is not for'),
        ('--format onnx --camera a', '--camera is not for'),
        ('--format onnx --output x.pt', 'must end in .onnx'),
    ],
)
def test_wrong_exports(folder, tmp_path, capsys, monkeypatch, flags, told):
    monkeypatch.chdir(tmp_path)
    assert main(['export', str(folder), *flags.split()]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_publish(folder, hub, capsys):
    assert main(['publish', str(folder), '--repo', 'me/finder', '--license', 'mit']) == 0
    assert "PersonSearch('hf-hub:me/finder')" in capsys.readouterr().out
    files = hub.files('me/finder')
    assert {'config.json', 'model.safetensors', 'README.md'} <= set(files)
    card = ModelCard(files['README.md'].decode())
    assert card.data.license == 'mit' and "PersonSearch('hf-hub:me/finder')" in card.text
    ours, theirs = load_search(folder), load_search('hf-hub:me/finder')
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    with pytest.raises(InputError, match='nowhere'):
        PersonSearch('hf-hub:me/nowhere')


@pytest.mark.parametrize('flags, told', [('--cameras', '--cameras is not for'), ('--entry x.json', '--entry is not')])
def test_wrong_publishing(folder, capsys, flags, told):
    assert main(['publish', str(folder), '--repo', 'me/finder', *flags.split()]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize('command', ['verify', 'card', 'ship', 'adapt --images nowhere --output nowhere'])
def test_other_commands_refuse_in_one_line(folder, capsys, command):
    name, *flags = command.split()
    assert main([name, str(folder), *flags]) in (1, 2)
    told = capsys.readouterr()
    assert 'Traceback' not in told.err and re.search('PersonSearch|person_search|nowhere', told.err + told.out)
