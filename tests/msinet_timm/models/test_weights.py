import logging

import pytest
import timm
import torch
from golden_figures import load_json, state_dict
from safetensors.torch import save_file

from msinet_timm.models.entries import load_entries
from msinet_timm.models.weights import CheckpointError, checkpoint_filter_fn

TINY = load_json('network.json')['tiny']
LOCAL = ('f_conv.', 'f_fc.', 'f_head.', 'f_classifier.')


def create(**kwargs):
    return timm.create_model('msinet_x0_5', widths=TINY['channels'], **{'num_classes': 16, **kwargs})


def published(drop=(), **changes):
    state = state_dict(TINY['state'])
    return {name: tensor for name, tensor in {**state, **changes}.items() if not name.startswith(tuple(drop))}


def output(model):
    with torch.no_grad():
        return model.eval()(torch.ones(1, model.in_chans, 64, 32))


@pytest.fixture
def checkpoint(tmp_path):
    def save(state, name='published.pth'):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


def wrappings():
    state = published()
    prefixed = {f'module.{name}': tensor for name, tensor in state.items()}
    return [state, prefixed, {'state_dict': state}, {'state_dict': prefixed, 'epoch': 3}]


@pytest.mark.parametrize('wrapping', range(4))
def test_every_way_in(checkpoint, wrapping):
    reference = create()
    reference.load_state_dict(published())
    expected = output(reference)
    path = checkpoint(wrappings()[wrapping])

    by_path = create(checkpoint_path=path)
    by_overlay = create(pretrained=True, pretrained_cfg_overlay=dict(file=str(path), num_classes=16))
    by_function = create()
    timm.models.load_checkpoint(by_function, str(path))
    for model in (by_path, by_overlay, by_function):
        torch.testing.assert_close(output(model), expected, rtol=0, atol=0)


def test_embedder_from_classifier(checkpoint):
    path = checkpoint(published())
    reference = create()
    reference.load_state_dict(published())
    expected = output(reference.reset_classifier(0) or reference)
    for kwargs in (
        dict(checkpoint_path=path),
        dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path))),
        dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path), num_classes=16)),
    ):
        torch.testing.assert_close(output(create(num_classes=0, **kwargs)), expected, rtol=0, atol=0)


def test_other_number_of_classes(checkpoint):
    path = checkpoint(published())
    model = create(num_classes=5, checkpoint_path=path)
    assert output(model).shape == (1, 5)
    torch.testing.assert_close(model.global_neck.fc.weight, published()['fc.weight'])


def test_other_channels(checkpoint):
    path = checkpoint(published())
    model = create(pretrained=True, in_chans=1, pretrained_cfg_overlay=dict(file=str(path), num_classes=16))
    expected = published()['conv1.conv.weight'].sum(1, keepdim=True)
    torch.testing.assert_close(model.stem.conv.weight, expected)


def test_features_only(checkpoint):
    path = checkpoint(published())
    model = create(features_only=True, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    torch.testing.assert_close(model['stem'].conv.weight, published()['conv1.conv.weight'])


def test_imagenet_weights_without_local_branch(checkpoint, caplog):
    path = checkpoint(published(drop=LOCAL))
    with caplog.at_level(logging.WARNING):
        model = create(checkpoint_path=path)
    (record,) = caplog.records
    for name in ('lateral', 'local_neck.fc', 'local_neck.bn', 'local_classifier is zero'):
        assert name in record.getMessage()
    assert not model.local_classifier.weight.any() and not model.local_classifier.bias.any()
    assert model.lateral.weight.std() > 0.01
    branches = model.eval().forward_branches(torch.randn(8, 3, 64, 32))
    torch.testing.assert_close(model.forward_head(branches.feature_map), branches.global_logits / 2)

    caplog.clear()
    assert create(num_classes=0, checkpoint_path=path).num_classes == 0
    assert 'classifier' not in caplog.text


def test_alignment_module_is_dropped(checkpoint):
    extra = {'align_module.pos_pam.query_conv.weight': torch.ones(16, 128, 1, 1)}
    create(checkpoint_path=checkpoint(published(**extra)))


@pytest.mark.parametrize('num_classes', [16, 5, 0])
@pytest.mark.parametrize(
    'drop, extra, message',
    [
        ((), {'head.bias': torch.ones(128)}, 'head.bias is not zero'),
        (('cells.3.conv2a.bn',), {}, r'5 missing \(stages.2.0.first_a.bn.weight'),
        (('f_conv.bias',), {}, r'1 missing \(lateral.bias\)'),
        (('f_conv', 'f_fc'), {}, r'missing \(lateral'),
        ((), {'cells.9.conv1a.conv.weight': torch.ones(1)}, r'1 surplus \(cells.9'),
    ],
)
def test_misfits_are_errors(checkpoint, num_classes, drop, extra, message):
    path = checkpoint(published(drop, **extra))
    with pytest.raises(CheckpointError, match=message):
        create(num_classes=num_classes, checkpoint_path=path)
    with pytest.raises(RuntimeError, match=message):
        create(num_classes=num_classes, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))


def test_other_genotype(checkpoint):
    with pytest.raises(CheckpointError, match='of another genotype'):
        create(genotype=['none'] * 12, checkpoint_path=checkpoint(published()))


def test_own_checkpoints_pass_unchanged(tmp_path):
    model = create()
    state = model.state_dict()
    filtered = checkpoint_filter_fn(dict(state), create())
    assert filtered.keys() == state.keys() and all(torch.equal(filtered[k], state[k]) for k in state)
    save_file(state, tmp_path / 'model.safetensors')
    torch.testing.assert_close(output(create(checkpoint_path=tmp_path / 'model.safetensors')), output(model))


def test_torch_semantics_of_own_names():
    model = create()
    with pytest.raises(RuntimeError, match='Missing key'):
        model.load_state_dict({'lateral.bias': torch.zeros(128)})
    assert model.load_state_dict({'lateral.bias': torch.ones(128)}, strict=False).missing_keys
    assert model.lateral.bias.eq(1).all()


def test_entries_without_weights():
    entries = load_entries()
    assert sorted(timm.list_pretrained('msinet*')) == [name for name, entry in entries.items() if entry.sha256]
    empty = next(name for name, entry in entries.items() if not entry.sha256)
    with pytest.raises(RuntimeError, match='No pretrained weights'):
        timm.create_model(empty, pretrained=True)


def test_entries():
    person = timm.get_pretrained_cfg('msinet_x1_0')
    assert person.input_size == (3, 256, 128) and person.pool_size == (16, 8) and person.num_classes == 0
    assert (person.interpolation, person.crop_pct, person.crop_mode) == ('bilinear', 1.0, 'squash')
    vehicle = timm.get_pretrained_cfg('msinet_x1_0.veri776')
    assert vehicle.input_size == (3, 256, 256) and vehicle.pool_size == (16, 16)
    assert timm.get_pretrained_cfg('msinet_x1_0.in1k').num_classes == 1000
