import copy
import io

import pytest
import timm
import torch
import torch.nn as nn
from golden_figures import image, load_json, state_dict
from timm.optim import create_optimizer_v2

from msinet_timm.errors import InputError
from msinet_timm.models.weights import _published_name
from msinet_train.losses.alignment import SpatialAlignment, max_correlation
from msinet_train.losses.task import ReIDTask
from msinet_train.models import create_training_model

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def our_name(published):
    for theirs, part in (('query_conv', 'query'), ('key_conv', 'key')):
        if published.startswith(f'align_module.pos_pam.{theirs}.'):
            return published.replace(f'align_module.pos_pam.{theirs}', f'alignment.{part}')
    return f'model.{_published_name(published)}'


@pytest.fixture(scope='module', params=['none', 'pos', 'neg', 'pos_neg'])
def step(request):
    """One published training step, in float64."""
    golden = load_json('training.json')[request.param]
    model = timm.create_model('msinet_x1_0', widths=(32, 64, 96, 128), num_classes=4)
    alignment = SpatialAlignment(128, request.param) if request.param != 'none' else None
    task = ReIDTask(model, alignment=alignment).double().train()
    task.load_checkpoint_state(state_dict(golden['state']))
    parameters = dict(task.trainable_module.named_parameters())
    optimizer = create_optimizer_v2(
        list(task.parameters()), opt='momentum', lr=0.065, momentum=0.9, weight_decay=5e-4, filter_bias_and_bn=False
    )
    output = task(image(4, (8, 3, 256, 128)).double(), LABELS)
    output['loss'].backward()
    gradients = {name: p.grad.norm().item() for name, p in parameters.items()}
    optimizer.step()
    return golden, output, gradients, {name: p.norm().item() for name, p in parameters.items()}


def test_published_losses(step):
    golden, output, _, _ = step
    expected = {
        'loss': golden['total'],
        'id_global': golden['softmax_global'],
        'triplet_global': golden['triplet_global'],
    }
    if 'spatial' in golden:
        expected['alignment'] = golden['spatial']
    assert {name: output[name].item() for name in expected} == pytest.approx(expected, rel=1e-5)
    local = output['id_local'] + output['triplet_local']
    assert local.item() == pytest.approx(golden['local'], rel=1e-5)
    assert output['output'].shape == (8, 4)


@pytest.mark.parametrize('what, index', [('grad_norm', 2), ('param_norm_after_step', 3)])
def test_published_step(step, what, index):
    golden = step[0]
    trained = {name: value for name, value in golden[what].items() if name not in golden['frozen']}
    expected = {our_name(name): value for name, value in trained.items()}
    assert golden['frozen'] == ['head.bias', 'f_head.bias']
    assert step[index] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_published_correlations():
    golden = load_json('training.json')['pos']
    model = timm.create_model('msinet_x1_0', widths=(32, 64, 96, 128), num_classes=4)
    task = ReIDTask(model, alignment=SpatialAlignment(128, 'pos')).double().train()
    task.load_checkpoint_state(state_dict(golden['state']))
    with torch.no_grad():
        maps = model.forward_branches(image(4, (8, 3, 256, 128)).double()).feature_map[:, :128]
        u = max_correlation(maps.flatten(2).transpose(1, 2).contiguous())
        scores = torch.cat([u, task.trainable_module.alignment.attention(maps)[None]])
    assert list(scores.shape) == golden['sam_scores_shape']
    assert scores.mean().item() == pytest.approx(golden['sam_scores_mean'], rel=1e-5)
    assert scores.std().item() == pytest.approx(golden['sam_scores_std'], rel=1e-5)


def small_model(num_classes=4):
    torch.manual_seed(0)
    return timm.create_model('msinet_x0_25', num_classes=num_classes)


def create_task(alignment=None, **kwargs):
    model = small_model()
    return ReIDTask(model, alignment=SpatialAlignment(model.global_width, alignment) if alignment else None, **kwargs)


def outputs_of(task, **kwargs):
    torch.manual_seed(1)
    return task(torch.randn(8, 3, 64, 32, **kwargs), LABELS)


@pytest.mark.parametrize(
    'setting',
    [
        dict(margin=0.5),
        dict(smoothing=0.2),
        dict(soft_margin=True),
        dict(normalize=False),
        dict(metric_loss='circle', margin=0.25),
        dict(metric_loss='circle', margin=0.4),
        dict(classifier_loss='arcface'),
        dict(classifier_loss='arcface', smoothing=0.0),
        dict(classifier_loss='cosface'),
        dict(alignment='pos'),
        dict(alignment='pos_neg'),
        dict(alignment='pos_neg', alignment_weight=1.0),
    ],
    ids=str,
)
def test_each_setting_changes_the_loss_and_trains_every_parameter(setting):
    losses = {}
    for name, kwargs in {'default': {}, 'setting': setting}.items():
        task = create_task(**kwargs)
        losses[name] = outputs_of(task)['loss']
    losses['setting'].backward()
    assert abs(losses['setting'] - losses['default']) > 1e-4
    assert all(p.grad is not None for p in task.parameters())


def test_the_loss_is_the_weighted_sum_of_its_terms():
    output = outputs_of(create_task('pos_neg', alignment_weight=3.0, metric_loss='circle', margin=0.25))
    del output['output']
    loss, alignment = output.pop('loss'), output.pop('alignment')
    assert output.keys() == {'id_global', 'circle_global', 'id_local', 'circle_local'}
    torch.testing.assert_close(loss, sum(output.values()) + 3 * alignment)


def test_angular_logits_tell_the_accuracy():
    task = create_task(classifier_loss='cosface', smoothing=0.0)
    optimizer = torch.optim.SGD(task.parameters(), lr=1e-3)
    for _ in range(20):
        output = outputs_of(task)
        optimizer.zero_grad()
        output['loss'].backward()
        optimizer.step()
    assert output['output'].shape == (8, 4) and (output['output'].argmax(1) == LABELS).float().mean() > 0.5


def test_a_model_with_a_global_branch_alone():
    model = create_training_model('test_resnet', 4, height=64, width=32)
    task = ReIDTask(model, alignment=SpatialAlignment(model.global_width))
    output = outputs_of(task)
    assert output.keys() == {'loss', 'output', 'id_global', 'triplet_global', 'alignment'}
    output['loss'].backward()
    assert all(p.grad is not None for p in task.parameters())


def test_losses_are_computed_in_float32():
    task = create_task('pos_neg')
    with torch.autocast('cpu', torch.bfloat16):
        output = outputs_of(task)
    assert output['output'].dtype == torch.bfloat16
    assert all(term.dtype == torch.float32 for name, term in output.items() if name != 'output')


@pytest.mark.parametrize('ema', [False, True])
def test_parameters_of_losses_are_part_of_checkpoints(ema):
    first, second = [create_task('pos', classifier_loss='arcface') for _ in range(2)]
    for task, value in ((first, 1.0), (second, 2.0)):
        nn.init.constant_(task.trainable_module.alignment.query.bias, value)
        nn.init.constant_(next(task.trainable_module.classification.parameters()), value)
        task.setup_ema()
    file = io.BytesIO()
    torch.save(first.get_checkpoint_state(ema=ema), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    suffix = '_ema' if ema else ''
    second.load_checkpoint_state(saved[f'state_dict{suffix}'], saved[f'task_state{suffix}'], ema=ema)
    states = [task.get_trainable_module(ema=ema).state_dict() for task in (first, second)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_checkpoint_of_other_losses():
    state = create_task('pos').get_checkpoint_state()
    with pytest.raises(InputError, match='has parameters of alignment, but these settings need none'):
        create_task().load_checkpoint_state(state['state_dict'], state['task_state'])
    state = create_task().get_checkpoint_state()
    assert state.keys() == {'state_dict'}
    with pytest.raises(InputError, match='has parameters of no losses, but these settings need alignment'):
        create_task('neg').load_checkpoint_state(state['state_dict'])


def test_compiled_task_computes_the_same():
    model = create_training_model('test_resnet', 4, height=64, width=32)
    task = ReIDTask(model, alignment=SpatialAlignment(model.global_width)).double()
    compiled = copy.deepcopy(task)
    assert compiled.compile(backend='aot_eager') is compiled.get_eval_model()
    results = []
    for t in (task, compiled):
        loss = outputs_of(t, dtype=torch.float64)['loss']
        loss.backward()
        results.append((loss, [p.grad for p in t.get_eval_model().parameters()]))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9)


def test_clipping_leaves_out_classifiers():
    task = create_task('pos', classifier_loss='cosface')
    assert len(task.get_clip_parameters()) == len(list(task.parameters()))
    assert len(task.get_clip_parameters(exclude_head=True)) == len(list(task.parameters())) - 2
    classifiers = [p for c in small_model().get_classifier() for p in c.parameters()]
    task = create_task()
    assert len(task.get_clip_parameters(exclude_head=True)) == len(list(task.parameters())) - len(classifiers)


def test_eval_model_is_the_bare_model():
    model = small_model()
    task = ReIDTask(model)
    assert task.get_eval_model() is model
    task.setup_ema()
    assert type(task.get_eval_model(ema=True)) is type(model) and task.get_eval_model(ema=True) is not model


@pytest.mark.parametrize(
    'model, message', [('test_resnet', 'no branches'), (('msinet_x0_25', dict(num_classes=0)), 'no classifiers')]
)
def test_models_that_cannot_train(model, message):
    name, kwargs = (model, {}) if isinstance(model, str) else model
    with pytest.raises(InputError, match=message):
        ReIDTask(timm.create_model(name, **kwargs))


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(metric_loss='pairs'), "'pairs': choose triplet or circle"),
        (dict(classifier_loss='sphere'), "'sphere': choose softmax, arcface or cosface"),
        (dict(metric_loss='circle', soft_margin=True), 'soft margin and raw features'),
        (dict(metric_loss='circle', normalize=False), 'soft margin and raw features'),
        (dict(alignment=SpatialAlignment(64)), '64 channels does not fit MSINet, whose map has 128 channels'),
    ],
)
def test_settings_that_exclude_each_other(settings, message):
    with pytest.raises(InputError, match=message):
        ReIDTask(small_model(), **settings)
