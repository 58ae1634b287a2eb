import copy
import json

import pytest
import timm
import torch
from golden_figures import assert_golden, image, load_json, load_tensors, state_dict
from timm.layers import set_scriptable
from timm.models import group_parameters
from timm.models._features import FeatureGetterNet
from timm.utils.model import reparameterize_model
from torch.fx import symbolic_trace

MODELS = ['msinet_x0_25', 'msinet_x1_0']
FEATURE_WRAPPERS = ['list', 'dict', 'hook', 'fx', 'getter']


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def create(name='msinet_x0_25', **kwargs):
    return timm.create_model(name, **kwargs)


# The published network


@pytest.fixture(params=['x1_0', 'x1_0_vehicle', 'tiny'])
def published(request):
    facts = load_json('network.json')
    config = facts[request.param]
    model = create(
        'msinet_x1_0',
        genotype=facts['genotype_msmt'],
        widths=config['channels'],
        num_classes=config['num_classes'],
    )
    model.load_state_dict(state_dict(config['state']))
    return model, image(1, config['input']), load_tensors(f'network_{request.param}.safetensors'), config


def test_published_embedding(published):
    model, x, golden, config = published
    with torch.no_grad():
        branches = model.eval().forward_branches(x, neck_features=True)
        embedding = model.reset_classifier(0) or model(x)
        taps = model.forward_intermediates(x, intermediates_only=True)
    assert_golden(embedding, golden['embedding'])
    assert_golden(torch.cat([branches.global_feature, branches.local_feature], 1), golden['embedding'])
    assert_golden(branches.neck_features, golden['embedding_neck'])
    stage3 = config['channels'][-1]
    assert_golden(branches.feature_map[:, :stage3].mean((2, 3)), golden['featuremap_mean_hw'])
    before_last = model.stages[:4](model.maxpool(taps[0]))
    assert_golden(before_last.mean((2, 3)), golden['local_map_mean_hw'])


def test_published_training_forward(published):
    model, x, golden, _ = published
    branches = model.double().train().forward_branches(x.double())
    for name in ('global_feature', 'local_feature', 'global_logits', 'local_logits'):
        assert_golden(getattr(branches, name), golden[f'train_{name}'], rtol=1e-5, atol=1e-7)


def test_size(published):
    model, _, _, config = published
    parameters = sum(p.numel() for name, p in model.named_parameters() if 'classifier' not in name)
    frozen_biases = model.global_neck.fc.in_features + model.local_neck.fc.in_features
    assert parameters == config['params_without_classifiers'] - frozen_biases


def test_initial_values():
    model = create('msinet_x1_0', num_classes=1000)
    depthwise = model.stages[4][0].first_a.depthwise.weight
    assert depthwise.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.1)
    assert model.stem.conv.weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    for linear in (model.global_neck.fc, model.local_classifier):
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.lateral.bias.any() and not model.global_classifier.bias.any()
    model.reset_classifier(50)
    assert model.global_classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)


# timm's contract


@pytest.mark.parametrize('name', MODELS)
def test_forward(name):
    model = create(name, num_classes=7).eval()
    x = torch.randn(2, 3, 256, 128)
    with torch.no_grad():
        branches = model.forward_branches(x)
        features = model.forward_features(x)
        logits = model(x)
        torch.testing.assert_close(logits, (branches.global_logits + branches.local_logits) / 2)
        torch.testing.assert_close(features, branches.feature_map)
        assert features.shape == (2, model.num_features, 16, 8)
        embedding = model.forward_head(features, pre_logits=True)
        assert embedding.shape == (2, model.head_hidden_size)
        model.set_grad_checkpointing()
        torch.testing.assert_close(model(x), logits)
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), embedding)
    assert model.forward_branches(x).global_logits is None
    assert model.num_features == {'msinet_x0_25': 256, 'msinet_x1_0': 640}[name]
    assert model.head_hidden_size == {'msinet_x0_25': 384, 'msinet_x1_0': 768}[name]


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('checkpointing', [False, True])
def test_every_parameter_trains(name, checkpointing):
    model = create(name, num_classes=7, drop_rate=0.2).train()
    model.set_grad_checkpointing(checkpointing)
    model(torch.randn(2, 3, 64, 32)).mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_dropout_is_for_training_only():
    model = create(num_classes=7, drop_rate=0.5).eval()
    x = torch.randn(4, 3, 64, 32)
    assert torch.equal(model(x), model(x))
    for part in ('global_neck', 'local_neck'):
        getattr(model, part).train()
    model.training = True
    features = model.forward_features(x)
    assert not torch.equal(model.forward_head(features), model.forward_head(features))


@pytest.mark.parametrize('global_pool', ['avg', 'max', 'avgmax', 'catavgmax'])
def test_pooling_governs_all_three(global_pool):
    model = create(num_classes=0, global_pool=global_pool).eval()
    x = torch.randn(1, 3, 80, 32)  # a map of 5 rows: the upper half has 2
    pools = {'avg': [torch.mean], 'max': [torch.amax], 'catavgmax': [torch.mean, torch.amax]}
    with torch.no_grad():
        features = model.forward_features(x)
        parts = features[:, :128], features[:, 128:, :2], features[:, 128:, 2:]
        embedding = model(x)
    if global_pool == 'avgmax':
        expected = [(p.mean((2, 3)) + p.amax((2, 3))) / 2 for p in parts]
    else:
        expected = [pool(p, (2, 3)) for p in parts for pool in pools[global_pool]]
    torch.testing.assert_close(embedding, torch.cat(expected, 1))
    assert model.head_hidden_size == embedding.shape[1]
    model.reset_classifier(7)
    assert model(x).shape == (1, 7) and model.forward_head(features, pre_logits=True).equal(embedding)


def test_reset_pooling():
    model = create(num_classes=7).eval()
    x = torch.randn(1, 3, 64, 32)
    neck = model.global_neck
    model.reset_classifier(5, 'max')
    assert model.global_neck is neck and model(x).shape == (1, 5)
    model.reset_classifier(5, 'catavgmax')
    assert model.head_hidden_size == 768 == model.forward_head(model.forward_features(x), pre_logits=True).shape[1]
    assert model(x).shape == (1, 5) and not any(m.training for m in model.modules())
    model.reset_classifier(0, '')
    assert model(x).shape == (1, 256, 4, 2)
    model.reset_classifier(5)
    with pytest.raises(ValueError, match='cannot be classified'):
        model(x)
    model.reset_classifier(5, 'avg')
    assert model(x).shape == (1, 5)


def test_two_rows_are_the_smallest_map():
    model = create(num_classes=0).eval()
    assert model(torch.randn(1, 3, 32, 16)).isfinite().all()


@pytest.mark.parametrize('name', MODELS)
def test_meta_device(name):
    model = create(name, num_classes=5, device='meta', dtype=torch.float64)
    assert all(t.device.type == 'meta' for t in model.state_dict().values())
    assert all(p.dtype == torch.float64 for p in model.parameters())
    model.reset_classifier(3, 'catavgmax')
    assert all(p.device.type == 'meta' and p.dtype == torch.float64 for p in model.parameters())


def test_unknown_argument():
    with pytest.raises(TypeError, match='not_an_argument'):
        create(not_an_argument=1)


@pytest.mark.parametrize('widths', [(64, 256, 384), (64, 256, 384, 510), (0, 8, 8, 8)])
def test_wrong_widths(widths):
    with pytest.raises(ValueError, match='widths'):
        create(widths=widths)


def test_layer_groups():
    model = create()
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    order = ['stem.conv', 'stages.0.0.', 'stages.0.1.', 'stages.1.0.', 'stages.2.0.', 'stages.2.1.', 'stages.3.0.']
    depths = [{layer for n, layer in groups.items() if n.startswith(prefix)} for prefix in order]
    assert all(len(d) == 1 for d in depths) and [d.pop() for d in depths] == list(range(7))
    assert groups['lateral.weight'] == groups['global_neck.fc.weight'] == max(groups.values())
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert len(set(coarse.values())) < len(set(groups.values()))
    assert model.no_weight_decay() == set()


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('wrapper', FEATURE_WRAPPERS)
def test_features_only(name, wrapper):
    model = create(name, features_only=True, feature_cls=wrapper).eval()
    widths = {'msinet_x0_25': [16, 64, 96, 128, 128], 'msinet_x1_0': [64, 256, 384, 512, 512]}[name]
    assert model.feature_info.channels() == widths and model.feature_info.reduction() == [2, 4, 8, 16, 32]
    torch.manual_seed(0)  # the same initial values as the wrapped one
    plain = create(name).eval()
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        maps = model(x)
        expected = plain.forward_intermediates(x, intermediates_only=True)
    for actual, tap in zip(maps.values() if isinstance(maps, dict) else maps, expected, strict=True):
        torch.testing.assert_close(actual, tap)


@pytest.mark.parametrize('size', [(101, 67), (72, 40), (16, 16)])
def test_maps_are_as_large_as_those_of_resnets(size):
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        shapes = [
            [f.shape[2:] for f in timm.create_model(name, features_only=True).eval()(x)]
            for name in ('msinet_x0_25', 'test_resnet')
        ]
        published = create().eval().forward_features(x)
    assert shapes[0] == shapes[1]
    assert published.shape[2:] == tuple(-(-n // 4) // 4 for n in size)  # rounds down after the stem


@pytest.mark.parametrize('output_stride', [16, 8])
@pytest.mark.parametrize('form', ['plain', 'fused', 'trained'])
def test_dilated_maps_hold_the_strided_ones(output_stride, form):
    """With interactions that look at one place at a time, every second value of a dilated map is of the strided one."""
    options = dict(genotype=['none'] * 12, dense=True, stage5=form == 'trained')
    strided = create(**options).eval()
    dilated = create(**options, output_stride=output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    if form == 'fused':
        strided, dilated = (reparameterize_model(model) for model in (strided, dilated))
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected, maps = (model.forward_intermediates(x, intermediates_only=True) for model in (strided, dilated))
    assert [info['reduction'] for info in dilated.feature_info] == [min(2**k, output_stride) for k in range(1, 6)]
    for k, (a, b) in enumerate(zip(maps, expected, strict=True)):
        assert a.shape[2:] == tuple(max(n // 2 ** (k + 1), n // output_stride) for n in (96, 64))
        step = a.shape[2] // b.shape[2]
        if step < 4:  # a mean over 2x2 is of neighbours, which lie twice as far apart the second time
            torch.testing.assert_close(a[:, :, ::step, ::step], b)


@pytest.mark.parametrize('stage5', [False, True])
def test_nothing_is_made_and_thrown_away(stage5):
    """Cells that are not kept would cost time, and draw random numbers that other initial values come from."""
    made = []
    hook = torch.nn.modules.module.register_module_module_registration_hook(
        lambda module, name, child: made.append(child)
    )
    try:
        model = create(stage5=stage5)
    finally:
        hook.remove()
    kept = set(model.modules())
    assert made and not [child for child in made if any(True for _ in child.parameters()) and child not in kept]


def test_fifth_map():
    x = torch.randn(2, 3, 96, 64)
    plain = create().eval()
    with torch.no_grad():
        maps = plain.forward_intermediates(x, intermediates_only=True)
        torch.testing.assert_close(maps[4], torch.nn.functional.avg_pool2d(maps[3], 2))
    trained = create(stage5=True).eval()
    assert not [n for n in plain.state_dict() if n.startswith('stages.5')]
    trained.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(trained(x), plain(x))
        assert trained.forward_intermediates(x, intermediates_only=True)[4].shape == maps[4].shape
    model = create(features_only=True, stage5=True).train()
    sum(f.pow(2).mean() for f in model(x)).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(out_indices=(1, 5)), r'out_indices \[5\] do not exist: MSINet has 5 maps, 0 to 4'),
        (dict(out_indices=(-6,)), r'out_indices \[-6\] do not exist'),
        (dict(out_indices=6), 'out_indices 6: MSINet has 5 maps'),
        (dict(out_indices=0), 'out_indices 0: MSINet has 5 maps'),
        (dict(output_stride=4), 'output_stride 4: give 32, 16, 8'),
        (dict(output_stride=12), 'output_stride 12: give 32, 16, 8'),
        (dict(output_stride='8'), "output_stride '8': give 32, 16, 8"),
        (dict(out_indices='2'), r"out_indices \['2'\] do not exist: MSINet has 5 maps, 0 to 4"),
    ],
    ids=str,
)
@pytest.mark.parametrize('wrapper', FEATURE_WRAPPERS)
def test_maps_that_do_not_exist(options, message, wrapper):
    with pytest.raises(ValueError, match=message):
        create(features_only=True, feature_cls=wrapper, **options)


@pytest.mark.parametrize('checkpointing', [False, True])
def test_features_only_trains(checkpointing):
    model = create(features_only=True).train()
    model.set_grad_checkpointing(checkpointing)
    sum(f.pow(2).mean() for f in model(torch.randn(2, 3, 64, 64))).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize('index', range(5))
def test_intermediates_and_pruning(index):
    model = create(num_classes=5).eval()
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        features, taps = model.forward_intermediates(x)
        torch.testing.assert_close(features, model.forward_features(x))
        final, (tap,) = model.forward_intermediates(x, indices=[index], stop_early=True)
        torch.testing.assert_close(tap, taps[index])
        torch.testing.assert_close(final, features if index >= 3 else taps[index])

        whole = copy.deepcopy(model)
        assert whole.prune_intermediate_layers([max(3, index)], prune_head=False) == [max(3, index)]
        torch.testing.assert_close(whole(x), model(x))

        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([index]) == [index]
        torch.testing.assert_close(pruned.forward_features(x), taps[index])
        torch.testing.assert_close(pruned(x), taps[index])
        assert pruned.num_features == taps[index].shape[1] and not hasattr(pruned.lateral, 'weight')
        pruned.reset_classifier(0, 'avg')
        torch.testing.assert_close(pruned(x), taps[index].mean((2, 3)))
        assert pruned.head_hidden_size == taps[index].shape[1]
        pruned.reset_classifier(7)
        assert pruned(x).shape == (2, 7)
    pruned.train()(x).sum().backward()
    assert not [n for n, p in pruned.named_parameters() if p.grad is None]
    with pytest.raises(ValueError, match='pruned'):
        pruned.forward_branches(x)


def test_intermediates_are_nchw():
    with pytest.raises(ValueError, match='NCHW'):
        create().forward_intermediates(torch.randn(1, 3, 32, 32), output_fmt='NHWC')


@pytest.mark.parametrize('num_classes', [0, 7])
@pytest.mark.parametrize('name', ['msinet_x0_25', pytest.param('msinet_x1_0', marks=pytest.mark.slow)])
def test_torchscript_and_fx(name, num_classes):
    with set_scriptable(True):
        model = create(name, num_classes=num_classes).eval()
    x = torch.randn(2, 3, 80, 48)
    traced = symbolic_trace(model)
    with torch.no_grad():
        expected = model(x)
        for form in (torch.jit.script(model), traced, torch.jit.script(traced), torch.jit.trace(model, x)):
            torch.testing.assert_close(form(x), expected)


@pytest.mark.parametrize('indices', [(0, 1, 2), (2, 3, 4), (4,)])
@pytest.mark.parametrize('options', [{}, dict(output_stride=8, stage5=True, dense=True)], ids=str)
def test_torchscript_of_maps(indices, options):
    getter = FeatureGetterNet(create(**options).eval(), out_indices=indices).eval()
    x = torch.randn(1, 3, 70, 35)
    with torch.no_grad():
        for scripted, expected in zip(torch.jit.script(getter)(x), getter(x), strict=True):
            torch.testing.assert_close(scripted, expected)


@pytest.mark.parametrize('num_classes', [0, 7])
def test_export_with_any_batch_and_size(num_classes):
    model = create(num_classes=num_classes).eval()
    dims = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (torch.randn(2, 3, 256, 128),), dynamic_shapes=(dims,))
    shapes = [(1, 3, 256, 128), (5, 3, 128, 64), (2, 3, 256, 256)]
    if torch.__version__ >= '2.14':  # 2.9 to 2.12 guard that average pooling divides evenly
        shapes.append((3, 3, 200, 88))
    for shape in shapes:
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), model(x))


def test_compile_in_one_graph():
    model = create(num_classes=7).eval()
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    branches = torch.compile(model.forward_branches, backend='eager', fullgraph=True)
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        for actual, expected in zip(branches(x, True), model.forward_branches(x, True), strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_channels_last_and_dtype(dtype):
    model = create(num_classes=0).eval()
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = model(x)
        model.to(dtype=dtype, memory_format=torch.channels_last)
        actual = model(x.to(dtype=dtype, memory_format=torch.channels_last))
    assert actual.dtype == dtype
    tolerance = dict(rtol=1e-4, atol=1e-4) if dtype == torch.float32 else dict(rtol=0.1, atol=0.1)
    torch.testing.assert_close(actual.float(), expected, **tolerance)


def test_hub_folder(tmp_path):
    model = create(num_classes=6, in_chans=1, global_pool='max', genotype=['exc'] * 12, drop_rate=0.1).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['architecture'] == 'msinet_x0_25'
    assert config['model_args'] == dict(genotype=['exc'] * 12, in_chans=1, num_classes=6, global_pool='max')
    loaded = create(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.randn(1, 1, 64, 32)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    embedder = create(f'local-dir:{tmp_path}', pretrained=True, num_classes=0).eval()
    model.reset_classifier(0)
    torch.testing.assert_close(embedder(x), model(x), rtol=0, atol=0)


def test_copies_and_pickles():
    model = create(num_classes=3, genotype=['ag'] * 12).eval()
    x = torch.randn(1, 3, 64, 32)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert copy.deepcopy(model)._model_args['genotype'] == ['ag'] * 12


def test_preprocessing():
    config = timm.data.resolve_data_config(model=create('msinet_x1_0'))
    assert config == dict(
        input_size=(3, 256, 128),
        interpolation='bilinear',
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_pct=1.0,
        crop_mode='squash',
    )
