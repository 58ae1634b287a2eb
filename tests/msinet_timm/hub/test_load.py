import logging
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from msinet_timm.errors import InputError
from msinet_timm.hub.load import load_model


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
        model = load_model(name)
        assert same_weights(model, trained)
        assert not model.training
        assert model.num_classes == 0


def test_folder_that_holds_no_model(tmp_path):
    with pytest.raises(InputError, match=r'neither a model folder \(no config.json\) nor a run'):
        load_model(str(tmp_path))
    with pytest.raises(InputError, match=r'neither a model folder \(no config.json\) nor a run'):
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
    model = load_model('test_resnet', checkpoint=path)
    assert same_weights(model, trained)


def test_other_names_are_converted_by_the_models_own_filter(tmp_path):
    source = timm.create_model('test_vit', num_classes=0)
    # as DINOv2 publishes vision transformers
    save_file({**source.state_dict(), 'mask_token': torch.zeros(1, 1, 96)}, tmp_path / 'vit.safetensors')
    model = load_model('test_vit', checkpoint=tmp_path / 'vit.safetensors')
    assert same_weights(model, source)


def test_unsafe_weights_are_refused_and_not_run(folder, tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / 'sprung'), 'w')

    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    torch.save({'state_dict': {}, 'trap': Trap()}, tmp_path / 'zip.pth')
    (tmp_path / 'plain.pth').write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ('zip.pth', 'plain.pth'):
        with pytest.raises(InputError, match=f'{name}: cannot be read as tensors alone: '):
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
    with pytest.raises(InputError, match=r'of another shape \(centre \[256\] instead of \[128\], stem.conv') as e:
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


def test_unknown_name_gives_close_ones():
    with pytest.raises(InputError, match=r"unknown model 'tset_resnet': .* did you mean .*test_resnet"):
        load_model('tset_resnet')
    with pytest.raises(InputError, match=r'did you mean .*color_histogram_stripes'):
        load_model('color_histogram_stripe', also=['color_histogram_stripes'])
    with pytest.raises(InputError, match=r'nor a folder; .* A model on the Hub is hf-hub:owner/name'):
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

    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(InputError, match="'test_resnet': no route to the hub; offline, give a checkpoint file of it"):
        load_model('test_resnet')
    assert asked == [True]


def test_checkpoint_is_no_reason_to_warn(trained, tmp_path, caplog):
    save_file(trained.state_dict(), tmp_path / 'weights.safetensors')
    load_model('test_resnet', checkpoint=tmp_path / 'weights.safetensors')
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize('network', ['test_resnet', 'msinet_x0_25'])
def test_own_number_of_classes_takes_the_classifiers_of_a_checkpoint(tmp_path, network):
    source = timm.create_model(network, num_classes=None)
    classes = timm.get_pretrained_cfg(network).num_classes
    save_file(source.state_dict(), tmp_path / 'x.safetensors')
    model = load_model(network, tmp_path / 'x.safetensors', num_classes=None)
    assert model.num_classes == classes
    tensors = model.state_dict()
    assert tensors.keys() == source.state_dict().keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in source.state_dict().items())
