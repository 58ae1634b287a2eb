import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from msinet_eval.evaluation import evaluate
from msinet_eval.models.load import load_model
from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError
from msinet_train.cli import parse_args
from msinet_train.engine.loop import train
from msinet_train.models import GlobalBranch, backbone_of, create_training_model, freeze, keep_frozen

SMALL = '--recipe small --epochs 1 --batch-size 4 --num-instance 2 --lr 0.01 --workers 0'.split()


def run(market, output, *flags):
    return train(parse_args([*SMALL, '-ds', 'market1501', '--data-dir', str(market), '--output', str(output), *flags]))


@pytest.mark.charts
@pytest.mark.parametrize('name', ['resnet10t', 'vit_tiny_patch16_224'])
def test_any_timm_model_trains_at_256x128(market, tmp_path, name):
    """A CNN and a ViT from a data set to a folder that timm loads, which then is a model to train and to measure."""
    result = run(market, tmp_path / 'a', '--model', name)
    model = timm.create_model(f'local-dir:{tmp_path}/a/best', pretrained=True).eval()
    assert model.num_classes == 0 and not [k for k in model.state_dict() if 'neck' in k]
    assert timm.data.resolve_data_config(model=model)['input_size'] == (3, 256, 128)
    width = timm.create_model(name, num_classes=0, **({'img_size': (256, 128)} if 'vit' in name else {})).num_features
    assert model(torch.zeros(1, 3, 256, 128)).shape == (1, width)
    assert (tmp_path / 'a' / 'curves.png').exists()
    assert result.last.query.embeddings.shape[1] == width

    again = load_model(str(tmp_path / 'a'))[0]
    measured = evaluate(again, create_dataset('market1501', str(market)), workers=0)
    assert torch.allclose(measured.query.embeddings, result.last.query.embeddings, atol=1e-6)


def test_one_branch():
    torch.manual_seed(0)
    model = create_training_model('test_resnet', 5, height=64, width=32)
    assert isinstance(model, GlobalBranch)
    images = torch.randn(4, 3, 64, 32)
    branches = model.forward_branches(images)
    width = model.head_hidden_size
    assert branches.global_feature.shape == (4, width) and branches.global_logits.shape == (4, 5)
    assert branches.local_feature is None and branches.local_logits is None
    assert branches.feature_map.shape[:2] == (4, model.global_width)
    assert torch.equal(model(images).argmax(1), branches.global_logits.argmax(1))
    # the embedding is what comes before the neck: no bias, a batch norm without one, then the classifier
    model.eval()
    branches = model.forward_branches(images)
    assert torch.equal(backbone_of(model)(images), branches.global_feature)
    neck = model.global_neck
    assert neck.fc.bias is None and neck.bn.bias is None
    expected = model.global_classifier(neck.bn(branches.global_feature @ neck.fc.weight.T))
    assert torch.allclose(branches.global_logits, expected, atol=1e-5)


def test_a_vit_has_no_map():
    assert create_training_model('test_vit', 5, height=64, width=32).global_width is None


def test_alignment_needs_a_map(market, tmp_path):
    flags = ['--height', '64', '--width', '32', '--sam-mode', 'pos']
    run(market, tmp_path / 'a', '--model', 'test_resnet', *flags)
    with pytest.raises(InputError, match='^sam_mode pos: test_vit has no feature map'):
        run(market, tmp_path / 'b', '--model', 'test_vit', *flags)


def test_weights_of_places_are_taken(market, tmp_path):
    """A folder's weights are where a training starts; --no-pretrained leaves them out, --checkpoint takes a file's."""
    size = ['--height', '64', '--width', '32']
    run(market, tmp_path / 'a', '--model', 'test_resnet', *size)
    saved = load_file(tmp_path / 'a' / 'best' / 'model.safetensors')

    def same(**kwargs):
        model = backbone_of(create_training_model(num_classes=3, height=64, width=32, **kwargs))
        return all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())

    assert same(name=str(tmp_path / 'a')) and same(name=f'local-dir:{tmp_path}/a/best')
    assert not same(name=str(tmp_path / 'a'), pretrained=False)
    assert not same(name='test_resnet')
    assert same(name='test_resnet', checkpoint=str(tmp_path / 'a' / 'best' / 'model.safetensors'))
    assert same(name='test_resnet', checkpoint=str(tmp_path / 'a' / 'last.pth.tar'))
    assert same(name='test_resnet', pretrained=True, checkpoint=str(tmp_path / 'a' / 'last.pth.tar'))


def test_checkpoint_of_msinet(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model('msinet_x0_25', num_classes=9)
    torch.save({'state_dict': source.state_dict()}, tmp_path / 'a.pth.tar')
    model = create_training_model('msinet_x0_25', 4, checkpoint=str(tmp_path / 'a.pth.tar'))
    assert model.num_classes == 4
    own = model.state_dict()
    for name, tensor in source.state_dict().items():
        assert ('classifier' in name) or torch.equal(tensor, own[name]), name


@pytest.mark.parametrize(
    'name, options, message',
    [
        ('msinet_x0_75', {'pretrained': True}, '^pretrained: msinet_x0_75 has no pretrained weights; .*`checkpoint`'),
        ('msinet_x9', {}, '^model msinet_x9: unknown model .* did you mean msinet_x1_0.*hf-hub'),
        ('local-dir:/nowhere', {}, '^model local-dir:/nowhere: /nowhere: neither a model folder'),
        ('test_resnet', {'genotype': 'msmt'}, '^model test_resnet: cannot create model .*genotype'),
        ('test_resnet', {'checkpoint': '/nowhere.pth'}, '^checkpoint /nowhere.pth: no such checkpoint'),
        ('test_resnet', {'checkpoint': 'BAD'}, '^checkpoint .*bad.pth: cannot be read'),
        (
            'test_resnet',
            {'checkpoint': 'OTHER'},
            '^checkpoint .*other.pth: .* does not fit ResNet: .* 1 surplus .a.weight',
        ),
        ('msinet_x0_25', {'checkpoint': 'OTHER'}, '^checkpoint .*other.pth: the checkpoint does not fit'),
    ],
)
def test_wrong_models(tmp_path, name, options, message):
    (tmp_path / 'bad.pth').write_text('nothing')
    torch.save({'a.weight': torch.zeros(2)}, tmp_path / 'other.pth')
    files = {'BAD': str(tmp_path / 'bad.pth'), 'OTHER': str(tmp_path / 'other.pth')}
    options = {k: files.get(v, v) for k, v in options.items()}
    with pytest.raises(InputError, match=message):
        create_training_model(name, 3, **options)


@pytest.mark.parametrize('name, stages', [('msinet_x0_25', 3), ('test_resnet', 2), ('test_vit', 1)])
def test_freeze(market, tmp_path, name, stages):
    """What is frozen keeps its parameters and statistics; what isn't doesn't."""
    flags = ['--model', name, '--height', '64', '--width', '32', '--freeze', str(stages), '--weight-decay', '0.1']
    torch.manual_seed(0)
    model = create_training_model(name, 6, height=64, width=32)
    before = {k: v.clone() for k, v in backbone_of(model).state_dict().items()}
    freeze(model, stages)
    frozen = {k for k, p in backbone_of(model).named_parameters() if not p.requires_grad}
    assert 0 < len(frozen) < len(list(backbone_of(model).parameters()))
    model.train()
    keep_frozen(model)
    assert any(not m.training for m in model.modules()) and any(m.training for m in model.modules())

    torch.save(before, tmp_path / 'initial.pth')
    run(market, tmp_path / 'run', *flags, '--checkpoint', str(tmp_path / 'initial.pth'))
    after = load_file(tmp_path / 'run' / 'last' / 'model.safetensors')
    for key in frozen:
        assert torch.equal(before[key], after[key]), key
        mean = key.rpartition('.')[0] + '.running_mean'
        assert mean not in before or torch.equal(before[mean], after[mean])
    moved = [k for k in after if k in before and 'num_batches' not in k and not torch.equal(before[k], after[k])]
    assert moved and not set(moved) & frozen


def test_too_much_is_frozen():
    model = create_training_model('msinet_x0_25', 3)
    with pytest.raises(InputError, match='^freeze 99: MSINet has 6 stages'):
        freeze(model, 99)


def test_layer_decay(market, tmp_path):
    """Layers near the input move less, those of the head as much as without."""

    def moved(output, *flags):
        torch.manual_seed(0)
        initial = backbone_of(create_training_model('test_resnet', 6, height=64, width=32)).state_dict()
        torch.save(initial, tmp_path / 'initial.pth')
        size = ['--model', 'test_resnet', '--height', '64', '--width', '32', '--opt', 'momentum', '--weight-decay', '0']
        run(market, output, *size, '--checkpoint', str(tmp_path / 'initial.pth'), *flags)
        after = load_file(output / 'last' / 'model.safetensors')
        return {k: (after[k] - initial[k]).abs().mean() for k in after if k.endswith('weight')}

    plain, decayed = moved(tmp_path / 'a'), moved(tmp_path / 'b', '--layer-decay', '0.1')
    first, last = next(iter(plain)), list(plain)[-1]
    assert decayed[first] < 0.01 * plain[first] and decayed[last] > 0.1 * plain[last]


def test_trainings_wake_gates(market, tmp_path):
    """A unit that answers no image has no gradient, and would stay as it is for good."""
    model = timm.create_model('msinet_x0_25', genotype='all_ag')
    name = 'stages.0.0.interaction1.fc1.weight'
    model.get_parameter(name).data.fill_(-1)  # what it sees is never negative
    save_file(model.state_dict(), tmp_path / 'asleep.safetensors')
    flags = ['--model', 'msinet_x0_25', '--genotype', 'all_ag', '--checkpoint', str(tmp_path / 'asleep.safetensors')]
    flags += ['--height', '64', '--width', '32', '--weight-decay', '0']

    def fc1(folder, *more):
        run(market, tmp_path / folder, *flags, *more)
        return load_file(tmp_path / folder / 'last' / 'model.safetensors')[name]

    assert fc1('asleep').eq(-1).all()
    assert fc1('awake', '--wake-gates').ne(-1).all()
