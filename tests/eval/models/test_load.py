import logging
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from msinet_eval.models import load as models
from msinet_eval.models.baselines import ColorHistogram
from msinet_eval.models.load import find_model, load_model
from msinet_timm.errors import InputError


@pytest.fixture(scope='module')
def trained():
    """A small network with classifiers, as a training leaves it."""
    torch.manual_seed(1)
    return timm.create_model('test_resnet', num_classes=7)


@pytest.fixture
def folder(trained, tmp_path):
    save_for_hf(trained, tmp_path / 'run' / 'best', safe_serialization=True)
    return tmp_path / 'run'


def same_weights(model, trained):
    tensors = model.state_dict()
    assert not any(name.startswith('fc.') for name in tensors)
    return all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in tensors.items())


def test_folders(folder, trained):
    for name in (folder, folder / 'best', f'local-dir:{folder / "best"}'):
        model, config = load_model(str(name))
        assert same_weights(model, trained)
        assert not model.training
        assert model.num_classes == 0
        assert (config['crop_pct'], config['crop_mode']) == (1.0, 'squash')


def test_folder_that_holds_no_model(tmp_path):
    with pytest.raises(InputError, match=r'neither a model folder \(no config.json\) nor a run'):
        load_model(str(tmp_path))
    with pytest.raises(InputError, match='no model folder, config.json is missing'):
        load_model(f'local-dir:{tmp_path}')


def test_folder_without_weights(folder):
    (folder / 'best' / 'model.safetensors').unlink()
    with pytest.raises(InputError, match='cannot create model .*best'):
        load_model(str(folder))


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.pth.tar'])
def test_checkpoint_fills_a_name(trained, tmp_path, suffix):
    path = tmp_path / f'weights{suffix}'
    if suffix == '.safetensors':
        save_file(trained.state_dict(), path)
    else:
        torch.save({'state_dict': {f'module.{name}': tensor for name, tensor in trained.state_dict().items()}}, path)
    model, _ = load_model('test_resnet', checkpoint=path)
    assert same_weights(model, trained)


def test_other_names_are_converted_by_the_models_own_filter(tmp_path):
    source = timm.create_model('test_vit', num_classes=0)
    # as DINOv2 publishes vision transformers
    save_file({**source.state_dict(), 'mask_token': torch.zeros(1, 1, 96)}, tmp_path / 'vit.safetensors')
    model, _ = load_model('test_vit', checkpoint=tmp_path / 'vit.safetensors')
    assert same_weights(model, source)


def test_unsafe_weights_are_refused_and_not_run(folder, tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / 'sprung'), 'w')

    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    torch.save({'state_dict': {}, 'trap': Trap()}, tmp_path / 'zip.pth')
    (tmp_path / 'plain.pth').write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ('zip.pth', 'plain.pth'):
        with pytest.raises(InputError, match=f'{name}: cannot load this checkpoint into ResNet: '):
            load_model('test_resnet', checkpoint=tmp_path / name)
    (folder / 'best' / 'model.safetensors').unlink()
    (tmp_path / 'zip.pth').rename(folder / 'best' / 'pytorch_model.bin')
    with pytest.raises(InputError, match=f"cannot create model 'local-dir:{folder}/best': weights_only=True blocked"):
        load_model(str(folder))
    assert not (tmp_path / 'sprung').exists()
    pickle.loads((tmp_path / 'plain.pth').read_bytes()).close()
    assert (tmp_path / 'sprung').exists()  # the trap does work


def test_checkpoints_that_do_not_fit(trained, tmp_path):
    state = trained.state_dict()
    del state['conv1.0.weight']
    save_file(state, tmp_path / 'missing.safetensors')
    with pytest.raises(InputError, match=r'missing.safetensors: .* does not fit ResNet: 1 missing \(conv1.0.weight\)'):
        load_model('test_resnet', checkpoint=tmp_path / 'missing.safetensors')
    with pytest.raises(InputError, match='looks like a ResNet: it has layer1.0.conv1.weight'):
        load_model('test_vit4', checkpoint=tmp_path / 'missing.safetensors')
    with pytest.raises(InputError, match='nowhere.pth: no such checkpoint'):
        load_model('test_resnet', checkpoint=tmp_path / 'nowhere.pth')
    (tmp_path / 'weights.npz').touch()
    with pytest.raises(InputError, match=r'weights.npz: checkpoints end in one of .safetensors'):
        load_model('test_resnet', checkpoint=tmp_path / 'weights.npz')


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.'])
def test_checkpoint_of_another_network_says_whose(tmp_path, prefix, caplog):
    networks = {'test_resnet': 'ResNet', 'test_vit': 'vision transformer', 'test_convnext': 'ConvNeXt'}
    for name, family in networks.items():
        state = timm.create_model(name, num_classes=3).state_dict()
        save_file({f'{prefix}{key}': value.clone() for key, value in state.items()}, tmp_path / 'x.safetensors')
        with pytest.raises(
            InputError, match=rf'x.safetensors: .* does not fit MSINet: .* looks like a {family}: it has'
        ):
            load_model('msinet_x0_25', checkpoint=tmp_path / 'x.safetensors')
    assert caplog.text == ''  # no advice on what MSINets may lack


def test_checkpoint_of_another_width_says_which(tmp_path):
    save_file(timm.create_model('msinet_x0_5', num_classes=0).state_dict(), tmp_path / 'x.safetensors')
    with pytest.raises(InputError, match=r'of another shape \(stem.conv.weight \[32, 3, 7, 7\] instead of \[16, ') as e:
        load_model('msinet_x0_25', checkpoint=tmp_path / 'x.safetensors')
    assert str(e.value).endswith('--model msinet_x0_5 has tensors of these names and shapes')
    plain = timm.create_model('msinet_x0_5', num_classes=0, genotype=['none'] * 12)
    save_file(plain.state_dict(), tmp_path / 'x.safetensors')
    with pytest.raises(
        InputError, match=r'does not fit MSINet: 27 missing \(stages.0.0.interaction1.* another genotype'
    ):
        load_model('msinet_x0_5', checkpoint=tmp_path / 'x.safetensors')


@pytest.mark.parametrize('network', ['test_resnet', 'msinet_x0_25'])
def test_classifier_is_dropped_and_said_once(tmp_path, caplog, network):
    source = timm.create_model(network, num_classes=751)
    torch.save({'state_dict': {f'module.{k}': v for k, v in source.state_dict().items()}}, tmp_path / 'x.pth')
    with caplog.at_level(logging.INFO):
        load_model(network, checkpoint=tmp_path / 'x.pth')
    said = [r.message for r in caplog.records if r.name.startswith('msinet')]
    assert said == [f'{tmp_path / "x.pth"}: its classifier of 751 classes is left out']


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


def test_unknown_name_gives_close_ones():
    with pytest.raises(InputError, match=r"unknown model 'tset_resnet': .* did you mean .*test_resnet"):
        load_model('tset_resnet')
    with pytest.raises(InputError, match=r'did you mean .*color_histogram_stripes'):
        load_model('color_histogram_stripe')
    with pytest.raises(InputError, match=r'nor a folder; a model on the Hub is hf-hub:owner/name'):
        load_model('owner/name')
    with pytest.raises(InputError, match=r"cannot create model 'test_vit4.nothing'"):
        load_model('test_vit4.nothing')
    with pytest.raises(InputError, match=r"cannot create model 'nowhere:model': Unknown model source"):
        load_model('nowhere:model')


def test_name_without_weights_stays_untrained_with_a_warning(caplog):
    load_model('test_vit4')
    assert "'test_vit4' has no pretrained weights and stays UNTRAINED" in caplog.text


def test_name_with_weights_gets_them(monkeypatch, caplog):
    asked = []

    def offline(pretrained, **kwargs):
        asked.append(pretrained)
        raise OSError('no route\nto the hub')

    monkeypatch.setattr(models.timm, 'create_model', offline)
    with pytest.raises(
        InputError, match='no route to the hub; offline, give a checkpoint file, and --model test_resnet'
    ):
        load_model('test_resnet')
    assert asked == [True]


def test_checkpoint_is_no_reason_to_warn(trained, tmp_path, caplog):
    save_file(trained.state_dict(), tmp_path / 'weights.safetensors')
    load_model('test_resnet', checkpoint=tmp_path / 'weights.safetensors')
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


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
