import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from msinet_eval.models.baselines import ColorHistogram
from msinet_eval.models.load import find_model, load_model
from msinet_timm.errors import InputError


@pytest.fixture
def folder(tmp_path):
    save_for_hf(timm.create_model('test_resnet', num_classes=7), tmp_path / 'run' / 'best', safe_serialization=True)
    return tmp_path / 'run'


def test_folders_embed_whole_images(folder):
    model, config = load_model(str(folder))
    assert model.num_classes == 0 and not model.training
    assert (config['crop_pct'], config['crop_mode']) == (1.0, 'squash')


def test_baselines_are_among_the_names_that_are_alike():
    with pytest.raises(InputError, match=r'did you mean .*color_histogram_stripes'):
        load_model('color_histogram_stripe')


def test_a_checkpoint_needs_the_name_of_its_network(tmp_path):
    path = str(tmp_path / 'x.safetensors')
    save_file(timm.create_model('test_resnet', num_classes=0).state_dict(), path)
    assert find_model(path, 'test_resnet') == {'name': 'test_resnet', 'checkpoint': path}
    assert find_model('test_resnet', None) == {'name': 'test_resnet'}
    with pytest.raises(
        InputError, match='x.safetensors is a checkpoint: say by --model .* looks like a ResNet: it has '
    ):
        find_model(path, None)
    with pytest.raises(InputError, match="--model a is the network of a checkpoint file, but 'test_resnet' is none"):
        find_model('test_resnet', 'a')


@pytest.mark.parametrize('name', ['test_vit4', 'color_histogram'])
def test_input_size(name):
    model, config = load_model(name, height=128, width=64)
    assert config['input_size'] == (3, 128, 64)
    assert model(torch.zeros(1, *config['input_size'])).shape == (1, model.num_features)
    own = load_model(name)[1]['input_size']
    assert load_model(name, height=96)[1]['input_size'] == (3, 96, own[2])


def test_input_size_of_a_network_for_any_size(folder):
    model, config = load_model(str(folder), width=96)
    assert config['input_size'] == (3, model.pretrained_cfg['input_size'][1], 96)
    assert model(torch.zeros(1, *config['input_size'])).shape == (1, model.num_features)


def test_input_sizes_that_do_not_fit():
    with pytest.raises(InputError, match='input size must be at least 1 x 1, got height 0, width 1'):
        load_model('test_vit4', height=0, width=1)
    for name in ('nest_tiny', 'test_vit4'):  # one says so when it is built, one when it runs
        with pytest.raises(InputError, match=f"cannot create model '{name}' for input 50 x "):
            load_model(name, height=50)


def test_baselines():
    model, config = load_model('color_histogram_stripes')
    assert isinstance(model, ColorHistogram)
    assert model.stripes == 6
    assert config['mean'] == (0, 0, 0)
    assert config['std'] == (1, 1, 1)
    with pytest.raises(InputError, match="'color_histogram' has no weights to load from weights.pth"):
        load_model('color_histogram', checkpoint='weights.pth')
