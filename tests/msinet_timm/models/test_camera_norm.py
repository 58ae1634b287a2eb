import copy
import json

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_network import SmallNetwork
from torch import nn

from msinet_timm.errors import InputError
from msinet_timm.forms import FORMS, PRECISIONS, create_form
from msinet_timm.models import camera_norm
from msinet_timm.models.camera_norm import (
    FILE_NAME,
    MEMORY,
    OWN_MEAN,
    OWN_NORMS,
    OWN_NORMS_OF_CAMERAS,
    CameraNorms,
    hash_weights,
)

SIZE = (3, 64, 32)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def with_statistics(model):
    """Norms with own statistics and weights that are not those of a new network."""
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in model.modules() if isinstance(m, NORMS)):
        for tensor, low, high in (
            (norm.running_mean, -0.2, 0.2),
            (norm.running_var, 0.5, 1.5),
            (norm.weight, 0.5, 1.5),
        ):
            if tensor is not None:
                tensor.data.uniform_(low, high, generator=generator)
    return model.eval().requires_grad_(False)


def small_network():
    torch.manual_seed(0)
    return with_statistics(SmallNetwork(8, 16, kernel=3, stride=2))


def timm_model(name, **kwargs):
    torch.manual_seed(0)
    return with_statistics(timm.create_model(name, num_classes=0, **kwargs))


def crops(count, shift=0.0, seed=0):
    """Crops of a camera with a light of its own."""
    images = torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(seed))
    return (1 + shift) * images + shift * torch.tensor([1, 0.5, -0.5]).view(3, 1, 1)


def known_norms(model, images=None):
    norms = CameraNorms(model)
    norms.observe('door', crops(6) if images is None else images)
    norms.observe('yard', crops(9, 1.0, seed=1))
    return norms


def mixed(own_mean, own_variance, inputs, weight, own=OWN_NORMS):
    """Mean and variance where the model's own count as `own` crops, and inputs as `weight`, by moments."""
    dims = [0, *range(2, inputs.ndim)]
    first, second = inputs.mean(dims), (inputs**2).mean(dims)
    share = weight / (own + weight)
    mean = (1 - share) * own_mean + share * first
    return mean, (1 - share) * (own_variance + own_mean**2) + share * second - mean**2


def close(found, expected, scale, limit=1e-5):
    assert ((found.double() - expected).abs() <= limit * scale).all()


@pytest.mark.parametrize('sizes', [[7], [3, 4], [1, 5, 1]])
@pytest.mark.parametrize('told', [False, True])
@pytest.mark.parametrize('own', [OWN_NORMS, OWN_NORMS_OF_CAMERAS])
def test_a_pass_in_float64(sizes, told, own):
    """Layer by layer through a chain, all crops of the past at hand; whether batches know how many crops will come."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 5, 3, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    model = with_statistics(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4)))
    images = crops(sum(sizes), 0.7).double()
    model.camera_norm = own == OWN_NORMS_OF_CAMERAS
    norms = CameraNorms(model)
    batches = images.float().split(sizes)
    if told:
        norms.observe('door', batches, sum(sizes))
    else:
        for batch in batches:
            norms.observe('door', batch)

    exact, past, found, outputs = copy.deepcopy(model).double(), {}, {}, []
    for batch, seen in zip(images.split(sizes), torch.tensor(sizes).cumsum(0).tolist(), strict=True):
        x = batch
        for i, layer in enumerate(exact):
            if isinstance(layer, NORMS):
                past[i] = torch.cat([past[i], x]) if i in past else x
                mean, variance = mixed(
                    layer.running_mean, layer.running_var, past[i], sum(sizes) if told else seen, own
                )  # fmt: skip
                shape = [1, -1, *[1] * (x.ndim - 2)]
                x = (x - mean.view(shape)) / (variance.view(shape) + layer.eps).sqrt()
                x = x * layer.weight.view(shape) + layer.bias.view(shape)
            else:
                x = layer(x)
        outputs.append(x)
    for i, inputs in past.items():
        found[str(i)] = mixed(exact[i].running_mean, exact[i].running_var, inputs, len(images), own)
    statistics = norms.statistics('door')
    assert norms.layout == [('1', 5), ('4', 4), ('8', 4)] and norms.counts == {'door': len(images)}
    mean, variance = (torch.cat([found[name][k] for name, _ in norms.layout]) for k in (0, 1))
    close(statistics.mean, mean, variance.sqrt())
    close(statistics.variance, variance, variance)
    embedding = torch.cat(outputs).mean(0) * len(images) / (len(images) + OWN_MEAN)
    close(statistics.embedding, embedding, embedding.abs().max())


@pytest.mark.parametrize(
    'create',
    [
        lambda: timm_model('msinet_x0_25'),
        lambda: timm_model('resnet18'),
        lambda: timm_model('repvit_m0_9'),
    ],
    ids=['msinet', 'resnet18', 'repvit'],
)
def test_every_norm_of_real_networks(create):
    """In the network with the camera's statistics, each norm's are those of its input there, mixed with its own."""
    model, images = create(), crops(5, 0.5)
    norms = CameraNorms(model)
    norms.observe('door', images)
    statistics = norms.statistics('door')
    adapted, seen = copy.deepcopy(model), {}
    parts = zip(statistics.mean.split([c for _, c in norms.layout]), statistics.variance.split(
        [c for _, c in norms.layout]), strict=True)  # fmt: skip
    for (name, _), (mean, variance) in zip(norms.layout, parts, strict=True):
        norm = adapted.get_submodule(name)
        norm.running_mean, norm.running_var = mean.clone(), variance.clone()
        norm.register_forward_pre_hook(lambda norm, inputs, name=name: seen.update({name: inputs[0]}))
    found = adapted.double()(images.double())
    assert len(norms.layout) > 15 and sorted(seen) == sorted(name for name, _ in norms.layout)
    for name, _ in norms.layout:
        own, norm = model.get_submodule(name), adapted.get_submodule(name)
        mean, variance = mixed(own.running_mean.double(), own.running_var.double(), seen[name], len(images))
        close(norm.running_mean, mean, variance.sqrt(), 2e-5)
        close(norm.running_var, variance, variance, 2e-5)
    expected = found.mean(0) * 5 / (5 + OWN_MEAN)
    close(statistics.embedding, expected, expected.abs().max())


def test_a_norm_that_runs_several_times():
    """Counts all of its runs alike, and what was before."""
    norm = with_statistics(nn.BatchNorm2d(3))

    class Thrice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            for shift in (0, 1, 5):
                self.norm(x + shift)
            return x.mean((2, 3))

    norms = CameraNorms(Thrice())
    batches = crops(2), crops(4, 1.0)
    for batch in batches:
        norms.observe('door', batch)
    inputs = torch.cat([batch.double() + shift for batch in batches for shift in (0, 1, 5)])
    mean, variance = mixed(norm.running_mean.double(), norm.running_var.double(), inputs, 6)
    found = norms.statistics('door')
    close(found.mean, mean, variance.sqrt())
    close(found.variance, variance, variance)


def expected_embeddings(norms, camera, images):
    """By the model with a camera's statistics written into its norms."""
    model, statistics, start = copy.deepcopy(norms.model), norms.statistics(camera), 0
    for name, count in norms.layout:
        norm = model.get_submodule(name)
        norm.running_mean = statistics.mean[start : start + count].clone()
        norm.running_var = statistics.variance[start : start + count].clone()
        start += count
    with torch.no_grad():
        return model(images) - statistics.embedding


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('form', [pytest.param(f, marks=pytest.mark.slow) if f == 'compiled' else f for f in FORMS])
def test_forms(form, precision):
    norms = known_norms(small_network())
    images = crops(3, 0.5, seed=3)
    run = create_form(norms.model, form, precision, images, norms)
    limit = 1e-5 if precision == 'float32' else 0.05
    for camera in ('door', 'yard', None, 'door'):
        run.use(norms.statistics(camera))
        expected = expected_embeddings(norms, camera, images)
        assert run(images).dtype == torch.float32
        torch.testing.assert_close(run(images), expected, rtol=0, atol=limit * expected.abs().max().item())
    with torch.no_grad():
        torch.testing.assert_close(norms.model(images), small_network()(images))  # which stays as it was


@pytest.mark.parametrize('name', ['msinet_x0_25', 'resnet18', 'repvit_m0_9', 'convnext_atto'])
def test_models(name):
    """Fused networks of this package and of timm, also without batch norms: of those the mean is taken."""
    norms = known_norms(timm_model(name))
    assert bool(norms.layout) == (name != 'convnext_atto')
    images = crops(2, 0.5, seed=3)
    run = create_form(norms.model, 'fused', norms=norms)
    for camera in ('yard', None):
        run.use(norms.statistics(camera))
        expected = expected_embeddings(norms, camera, images)
        torch.testing.assert_close(run(images), expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_classifiers_and_what_follows_them_are_left_alone():
    norms = known_norms(timm_model('msinet_x0_25'))
    names = [name for name, _ in norms.layout]
    assert 'stem.bn' in names and not any('neck' in name for name in names)


def test_unknown_cameras():
    norms = known_norms(small_network())
    own, unknown = norms.own(), norms.statistics(None)
    assert torch.equal(unknown.mean, own[0]) and torch.equal(unknown.variance, own[1])
    mean = (norms.statistics('door').embedding + norms.statistics('yard').embedding) / 2
    torch.testing.assert_close(unknown.embedding, mean)
    torch.testing.assert_close(norms.statistics('elsewhere').embedding, mean)


def test_memory_fades():
    """A camera whose light changes is followed, however long it has run before."""
    norms = CameraNorms(small_network())
    for _ in range(3):
        norms.observe('door', crops(2))
    before = norms.statistics('door').mean
    norms._cameras['door'].count = MEMORY
    for seed in range(20):
        norms.observe('door', crops(64, 1.0, seed))
    assert norms.counts == {'door': MEMORY}
    target = CameraNorms(small_network())
    target.observe('door', crops(256, 1.0, 99))
    new = target.statistics('door').mean
    assert (norms.statistics('door').mean - new).norm() < 0.5 * (before - new).norm()


def test_update():
    model = small_network()
    one, two = known_norms(model), known_norms(model, crops(4, 2.0))
    kept = one.statistics('yard')
    two._cameras.pop('yard')
    one.update(two)
    assert one.counts == {'door': 4, 'yard': 9}
    assert torch.equal(one.statistics('door').mean, two.statistics('door').mean)
    assert torch.equal(one.statistics('yard').mean, kept.mean)


def test_file(tmp_path):
    model = small_network()
    norms = known_norms(model)
    assert CameraNorms.load(tmp_path, model) is None
    assert norms.save(tmp_path) == tmp_path / FILE_NAME
    loaded = CameraNorms.load(tmp_path, small_network())
    assert loaded.counts == norms.counts and loaded.layout == norms.layout
    for camera in (*norms, None):
        for found, expected in zip(loaded.statistics(camera), norms.statistics(camera), strict=True):
            assert torch.equal(found, expected)
    loaded.observe('door', crops(3))
    norms.observe('door', crops(3))
    torch.testing.assert_close(loaded.statistics('door').variance, norms.statistics('door').variance)
    state = load_file(tmp_path / FILE_NAME)
    assert set(state) == {'mean', 'variance', 'embedding', 'count'}  # of the model nothing but its digest


def test_a_file_of_other_weights(tmp_path):
    model = small_network()
    known_norms(model).save(tmp_path)
    for change in (lambda m: m.stem.bn.running_mean.add_(0.1), lambda m: m.stem.conv.weight.mul_(1.001)):
        other = small_network()
        change(other)
        with pytest.raises(InputError, match='cameras.safetensors: of another model or other weights'):
            CameraNorms.load(tmp_path, other)
    with pytest.raises(InputError, match='of another model'):
        CameraNorms.load(tmp_path, timm_model('resnet18'))
    assert hash_weights(model) == hash_weights(small_network().to(memory_format=torch.channels_last))


def damage(path, change, told=None):
    """Writes the file anew with other tensors or metadata."""
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
    state = load_file(path)
    change(state)
    save_file(state, path, metadata | {key: json.dumps(value) for key, value in (told or {}).items()})


@pytest.mark.parametrize(
    ('change', 'told', 'message'),
    [
        (lambda s: s['mean'].fill_(float('nan')), None, 'damaged'),
        (lambda s: s['variance'].mul_(-1), None, 'damaged'),
        (lambda s: s['count'].zero_(), None, 'damaged'),
        (lambda s: s.update(mean=s['mean'][:, 1:].clone()), None, 'damaged'),
        (lambda s: s.update(count=s['count'][:1].clone()), None, 'damaged'),
        (lambda s: s.pop('embedding'), None, 'cannot be read'),
        (lambda s: None, {'cameras': ['door', 3]}, 'damaged'),
        (lambda s: None, {'norms': [['stem.bn', 7]]}, 'damaged'),
        (lambda s: None, {'norms': [['elsewhere', 8]]}, 'damaged'),
        (lambda s: None, {'cameras': None}, 'cannot be read'),
        (lambda s: None, {'cameras': ['door', 'door']}, 'damaged'),
        (lambda s: s.update(embedding=s['embedding'][:, 0].clone()), None, 'damaged'),
    ],
)
def test_a_damaged_file(tmp_path, change, told, message):
    model = small_network()
    damage(known_norms(model).save(tmp_path), change, told)
    with pytest.raises(InputError, match=f'cameras.safetensors: {message}'):
        CameraNorms.load(tmp_path, model)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b'nothing of that kind')
    with pytest.raises(InputError, match='cannot be read'):
        CameraNorms.load(tmp_path, small_network())


@pytest.mark.parametrize(
    ('camera', 'images', 'message'),
    [
        ('door', torch.zeros(0, *SIZE), "camera 'door': no images"),
        ('door', [], "camera 'door': no images"),
        ('door', torch.full((4, *SIZE), 0.25), "camera 'door': its images are all of one colour"),
        ('door', [torch.zeros(1, *SIZE)] * 3, 'all of one colour'),
        ('door', torch.full((2, *SIZE), float('nan')), 'gives no finite vectors'),
        ('', crops(2), 'named by a text'),
        (3, crops(2), 'named by a text, got 3'),
    ],
)
def test_wrong_images(camera, images, message):
    norms = CameraNorms(small_network())
    with pytest.raises(InputError, match=message):
        norms.observe(camera, images)
    assert not norms and not norms.layout
    with pytest.raises(InputError, match='no camera has been seen'):
        norms.statistics('door')


def test_all_batches_or_none():
    """A batch that cannot be used takes back those before it; batches of one colour among others are fine."""
    norms = known_norms(small_network())
    before = norms.statistics('door')
    with pytest.raises(InputError, match='no finite vectors'):
        norms.observe('door', [crops(2), crops(2) * float('inf')])
    assert norms.counts['door'] == 6 and torch.equal(norms.statistics('door').mean, before.mean)
    norms.observe('door', [torch.zeros(2, *SIZE), torch.ones(2, *SIZE)])
    assert norms.counts['door'] == 10
    own = norms.own()
    assert torch.equal(own[0], CameraNorms.own(known_norms(small_network()))[0])  # hooks and own statistics are back


def test_a_hundred_cameras_are_small():
    """Less than 10 MiB beside MSINet."""
    norms = CameraNorms(timm_model('msinet_x1_0'))
    norms.observe('0', crops(1))
    seen = norms._cameras['0'].seen
    assert 100 * sum(tensor.numel() * tensor.element_size() for tensor in seen) < 10 * 2**20
    assert all(
        tensor.untyped_storage().nbytes() == tensor.numel() * 4 for tensor in seen
    )  # no views of something larger
    assert camera_norm.ENOUGH == 16
