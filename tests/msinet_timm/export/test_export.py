"""Exports through their real runtimes: what they compute, what they tell, and what is refused."""

import copy
import importlib
import sys
from functools import cache

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from golden_figures import assert_golden, image, load_json, load_tensors, state_dict
from PIL import Image
from small_network import SmallNetwork
from timm.data import create_transform
from timm.layers import set_exportable
from timm.utils.onnx import onnx_export

from msinet_eval.features.extract import reid_data_config
from msinet_timm.errors import InputError
from msinet_timm.export.export import export, largest_difference, mean_cosine
from msinet_timm.export.files import SUFFIXES
from msinet_timm.export.formats import Exported, load_exported
from msinet_timm.export.module import ExportedModule
from msinet_timm.models.blocks import ConvBlock
from msinet_timm.models.entries import sha256_of

# the package's attribute of this name is the function
export_module = importlib.import_module('msinet_timm.export.export')

INSTALLED = ('onnx', 'openvino', 'torch-export', 'torchscript')
CONFIG = reid_data_config(timm.create_model('msinet_x0_25'), 64, 32)


def randomized(model, seed=0):
    """A model with statistics, affine values and gammas that are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith('running_var'):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith('gamma'):
                tensor.fill_(0.5)
            elif tensor.dim() == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    return model.eval()


@pytest.fixture(scope='module')
def small():
    torch.manual_seed(0)
    return randomized(SmallNetwork(16, 32))


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return randomized(timm.create_model('msinet_x0_25', num_classes=0))


@pytest.fixture(scope='module')
def stem():
    """Where the network plays no part."""
    torch.manual_seed(0)
    return randomized(nn.Sequential(ConvBlock(3, 16, 7, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()))


@pytest.fixture
def photos(tmp_path):
    """A folder of two noisy images of different sizes."""
    folder = tmp_path / 'images'
    folder.mkdir()
    random = np.random.RandomState(0)
    for number, (width, height) in enumerate([(45, 131), (80, 60)]):
        pixels = random.randint(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{number}.png')
    return folder


def path_of(tmp_path, format):
    return tmp_path / f'model{SUFFIXES[format]}'


def assert_takes_one_size(exported):
    assert exported.metadata['input']['shape'] == ['batch', 3, 64, 32]
    with pytest.raises(InputError, match=r"'batch', 3, 64, 32.*got float32 \[2, 3, 77, 49\]"):
        exported(torch.zeros(2, 3, 77, 49))


@pytest.mark.parametrize('format', ('onnx', 'openvino', 'torchscript'))
def test_network(network, tmp_path, format):
    path = export(network, format, path_of(tmp_path, format), data_config=CONFIG, facts={'weights_sha256': 'abc'})
    exported = load_exported(path, threads=1)
    for batch in (1, 3):
        images = image(batch, (batch, 3, 64, 32))
        with torch.no_grad():
            expected = network(images)
        found = exported(images)
        assert found.dtype == torch.float32 and found.shape == expected.shape
        assert largest_difference(found, expected) < 1e-5
        torch.testing.assert_close(exported(images.numpy()), found)
    facts = exported.metadata
    assert facts['architecture'] == 'msinet_x0_25' and facts['genotype'] == list(network.genotype)
    assert facts['weights_sha256'] == 'abc' and facts['precision'] == 'float32' and facts['msinet_timm']
    assert exported.data_config == CONFIG
    assert facts['input']['dtype'] == 'float32' and facts['input']['shape'][:2] == ['batch', 3]
    with pytest.raises(InputError, match='takes float32 images'):
        exported(torch.zeros(1, 3, 64, 32, dtype=torch.uint8))
    with pytest.raises(InputError, match='takes float32 images'):
        exported(torch.zeros(1, 4, 64, 32))
    if format != 'torchscript':  # which takes any size anyway
        assert_takes_one_size(exported)


@pytest.mark.slow
def test_published_figures(tmp_path):
    described = load_json('network.json')['x1_0']
    model = timm.create_model('msinet_x1_0', num_classes=described['num_classes'])
    model.load_state_dict(state_dict(described['state']))
    model.reset_classifier(0)
    images = image(1, tuple(described['input']))
    config = {**CONFIG, 'input_size': tuple(images.shape[1:])}
    exported = load_exported(export(model.eval(), 'torch-export', tmp_path / 'x.pt2', data_config=config))
    assert_golden(exported(images), load_tensors('network_x1_0.safetensors')['embedding'])


@pytest.mark.parametrize('format', INSTALLED)
def test_preprocessing_inside(stem, tmp_path, photos, format):
    path = export(stem, format, path_of(tmp_path, format), data_config=CONFIG, preprocessing=True, images=photos)
    exported = load_exported(path)
    assert exported.metadata['input'] == {'dtype': 'uint8', 'shape': ['batch', 3, 'height', 'width']}
    assert exported.metadata['preprocessing']['inside'] is True
    transform = create_transform(**CONFIG)
    for file in sorted(photos.iterdir()):
        shot = Image.open(file)
        pixels = torch.from_numpy(np.array(shot)).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = stem(transform(shot)[None])
            aliased = stem(transform(shot.resize((32, 64), Image.Resampling.NEAREST))[None])
        # Pillow rounds its pixels, and does so twice
        assert largest_difference(exported(pixels), expected) < 0.01
        assert largest_difference(aliased, expected) > 0.03
        torch.testing.assert_close(exported(pixels.repeat(3, 1, 1, 1))[2:], exported(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('preprocessing', (False, True))
def test_executorch(small, tmp_path, preprocessing):
    pytest.importorskip('executorch')
    path = export(small, 'executorch', tmp_path / 'x.pte', data_config=CONFIG, preprocessing=preprocessing)
    exported = load_exported(path)
    images = image(1, (5, 3, 64, 32))
    if preprocessing:
        pixels = torch.randint(0, 256, (5, 3, 64, 32), dtype=torch.uint8)
        mean, std = (torch.tensor(CONFIG[name]).view(3, 1, 1) for name in ('mean', 'std'))
        images = (pixels / 255 - mean) / std
    with torch.no_grad():
        expected = small(images)
    assert largest_difference(exported(pixels if preprocessing else images), expected) < 1e-5
    assert exported.metadata['input']['shape'] == ['batch', 3, 64, 32]


def test_preprocessing_bicubic(stem, tmp_path, photos):
    config = {**CONFIG, 'interpolation': 'bicubic'}
    path = export(stem, 'onnx', tmp_path / 'x.onnx', data_config=config, preprocessing=True, images=photos)
    shot = Image.open(photos / '0.png')
    pixels = torch.from_numpy(np.array(shot)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = stem(create_transform(**config)(shot)[None])
    assert largest_difference(load_exported(path)(pixels), expected) < 0.01


def test_preprocessing_that_cannot_be_inside(small, tmp_path):
    for change in (
        {'crop_pct': 0.9},
        {'crop_mode': 'center'},
        {'interpolation': 'lanczos'},
        {'input_size': (1, 64, 32)},
    ):
        with pytest.raises(InputError, match='leave it out'):
            export(small, 'onnx', tmp_path / 'x.onnx', data_config={**CONFIG, **change}, preprocessing=True)
    with pytest.raises(InputError, match='leave out --dynamic-size'):
        export(small, 'onnx', tmp_path / 'x.onnx', data_config=CONFIG, preprocessing=True, dynamic_size=True)


@pytest.fixture(scope='module')
def any_size(small, tmp_path_factory):
    """By format, a file for images of any size; written once."""
    options = {'data_config': CONFIG, 'dynamic_size': True}
    return cache(lambda format: export(small, format, path_of(tmp_path_factory.mktemp('any'), format), **options))


@pytest.mark.parametrize('format', INSTALLED)
def test_dynamic_size(small, any_size, format):
    exported = load_exported(any_size(format))
    images = image(2, (2, 3, 77, 49))
    with torch.no_grad():
        assert largest_difference(exported(images), small(images)) < 1e-5
    assert exported.metadata['input']['shape'] == ['batch', 3, 'height', 'width']


@pytest.mark.parametrize('format', ('openvino', 'torch-export', 'torchscript'))
def test_bf16(small, tmp_path, format):
    path = export(small, format, path_of(tmp_path, format), data_config=CONFIG, precision='bf16')
    images = image(3, (4, 3, 64, 32))
    found = load_exported(path)(images)
    with torch.no_grad():
        expected = small(images)
    assert found.dtype == torch.float32 and mean_cosine(found, expected) > 0.999
    assert load_exported(path).metadata['precision'] == 'bf16'
    if format != 'torchscript':
        assert_takes_one_size(load_exported(path))
    if format == 'openvino':  # one file for both; a processor without bf16 computes in float32 all the same
        assert largest_difference(load_exported(path, precision='float32')(images), expected) < 1e-5
    else:
        assert largest_difference(found, expected) > 1e-4
        with pytest.raises(InputError, match='computes in bf16: export it once more for float32'):
            load_exported(path, precision='float32')


def test_head_stays_in_float32(network, tmp_path):
    path = export(network, 'torchscript', tmp_path / 'x.pt', data_config=CONFIG, precision='bf16')
    found = load_exported(path)(image(3, (4, 3, 64, 32)))
    assert not torch.equal(found, found.bfloat16().float())  # more digits than a head in bfloat16 could give


def test_bf16_where_there_is_none(small, tmp_path):
    for format in ('onnx', 'executorch'):
        with pytest.raises(InputError, match='has no bf16'):
            export(small, format, path_of(tmp_path, format), data_config=CONFIG, precision='bf16')


def test_dynamic_size_where_there_is_none(small, tmp_path):
    with pytest.raises(InputError, match='leave out --dynamic-size'):
        export(small, 'executorch', tmp_path / 'x.pte', data_config=CONFIG, dynamic_size=True)


def test_model_stays_as_it_is(small, tmp_path):
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    layouts = [p.is_contiguous() for p in small.parameters()]
    trains = [p.requires_grad for p in small.parameters()]
    export(small, 'torchscript', tmp_path / 'x.pt', data_config=CONFIG, precision='bf16')
    assert before.keys() == small.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in small.state_dict().items())
    assert [p.is_contiguous() for p in small.parameters()] == layouts
    assert [p.requires_grad for p in small.parameters()] == trains


@pytest.mark.parametrize('format', ('torchscript', 'openvino'))
def test_file_that_differs_is_not_kept(stem, tmp_path, monkeypatch, format):
    write = export_module.WRITERS[format]

    def damage(graph, *args, **kwargs):
        with torch.no_grad():
            next(graph.parameters()).mul_(1.001)
        write(graph, *args, **kwargs)

    monkeypatch.setitem(export_module.WRITERS, format, damage)
    path = path_of(tmp_path, format)
    path.write_text('earlier')
    with pytest.raises(InputError, match='is not kept: its embeddings differ from PyTorch'):
        export(stem, format, path, data_config=CONFIG, force=True)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(path.name, 'earlier')]


@pytest.mark.parametrize('offset, factor, right', [(3e3, 1.0, True), (3e3, 1.1, False), (3e6, 1.0, False)])
def test_no_file_must_be_more_exact_than_pytorch(small, tmp_path, monkeypatch, offset, factor, right):
    """Here PyTorch's float32 knows three digits, the file more; or it is wrong; or PyTorch knows none."""

    class Cancels(SmallNetwork):
        def forward(self, x):
            return (super().forward(x) + offset) - offset

    model = Cancels(16, 32).eval()
    model.load_state_dict(small.state_dict())
    exact = copy.deepcopy(small)
    images = image(0, (1, 3, 64, 32))
    with torch.no_grad():
        difference = largest_difference(model(images), exact(images))
        assert difference > 1e-4 and (difference < 1e-2) == (offset == 3e3)
        exact.stem.bn.weight.mul_(factor)
    write = export_module.WRITERS['torchscript']
    monkeypatch.setitem(export_module.WRITERS, 'torchscript', lambda graph, *args, **kw: write(exact, *args, **kw))
    path = tmp_path / 'x.pt'
    if right:
        assert export(model, 'torchscript', path, data_config=CONFIG) == path
    else:
        with pytest.raises(InputError, match='is not kept: its embeddings differ from PyTorch'):
            export(model, 'torchscript', path, data_config=CONFIG)


def test_files_that_exist(small, tmp_path):
    path = tmp_path / 'x.pt'
    path.write_text('mine')
    with pytest.raises(InputError, match='exists: give another path, or --force'):
        export(small, 'torchscript', path, data_config=CONFIG)
    assert path.read_text() == 'mine'
    assert load_exported(export(small, 'torchscript', path, data_config=CONFIG, force=True)).metadata
    (tmp_path / 'y.bin').touch()
    with pytest.raises(InputError, match='y.bin exists'):
        export(small, 'openvino', tmp_path / 'y.xml', data_config=CONFIG)


def test_bad_requests(small, tmp_path):
    cases = [
        ('tensorrt', 'x.pt', {}, "unknown format 'tensorrt', choose from: onnx"),
        ('torchscript', 'x.pt', {'precision': 'int4'}, "unknown precision 'int4'"),
        ('torchscript', 'x.onnx', {}, 'must end in .pt'),
        ('torchscript', 'missing/x.pt', {}, 'folder does not exist'),
        ('torchscript', 'x.pt', {'images': tmp_path / 'none'}, 'no such folder of images'),
        ('torchscript', 'x.pt', {'images': tmp_path}, 'no images in it'),
    ]
    for format, name, options, message in cases:
        with pytest.raises(InputError, match=message):
            export(small, format, tmp_path / name, data_config=CONFIG, **options)
    small.train()
    with pytest.raises(InputError, match='training mode'):
        export(small, 'torchscript', tmp_path / 'x.pt', data_config=CONFIG)
    small.eval()
    assert list(tmp_path.iterdir()) == []


def test_model_that_a_format_cannot_express(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.tensor(np.asarray(x.mean((2, 3)))) if len(x) else x

    with pytest.raises(InputError, match='Odd cannot be exported as torchscript'):
        export(Odd().eval(), 'torchscript', tmp_path / 'x.pt', data_config=CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'format,package', [('onnx', 'onnxscript'), ('openvino', 'openvino'), ('executorch', 'executorch.exir')]
)
def test_missing_packages(small, tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf'pip install "msinet-timm\[{format}\]"'):
        export(small, format, path_of(tmp_path, format), data_config=CONFIG)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        load_exported(tmp_path / 'x.onnx')
    with pytest.raises(InputError, match='its ending must be one of'):
        load_exported(tmp_path / 'x.tflite')
    for format in INSTALLED:
        path_of(tmp_path, format).write_bytes(b'no model')
        with pytest.raises(InputError, match='cannot open this file'):
            load_exported(path_of(tmp_path, format))


def test_threads(any_size, monkeypatch):
    before = torch.get_num_threads()
    exported = load_exported(any_size('torchscript'), threads=before + 1)
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, 'set_num_threads', seen.append)
        exported(image(0, (1, 3, 64, 32)))
    assert seen == [before + 1, before]  # put back

    import onnxruntime

    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        'InferenceSession',
        lambda path, options, **kwargs: seen.append(options.intra_op_num_threads) or session(path, options, **kwargs),
    )
    load_exported(any_size('onnx'), threads=3)
    assert seen[-1] == 3


def test_timm_conventions(tmp_path):
    model = randomized(timm.create_model('msinet_x0_25', num_classes=0, exportable=True))
    path = tmp_path / 'timm.onnx'
    with set_exportable(True):
        onnx_export(model, str(path), batch_size=2, input_size=(3, 64, 32), dynamic_size=True, check_forward=True)
    images = image(4, (3, 3, 80, 48))
    exported = load_exported(path)
    with torch.no_grad():
        assert largest_difference(exported(images), model(images)) < 1e-5
    assert exported.metadata == {}  # this is another's file


def test_timmx(tmp_path):
    timmx = pytest.importorskip('timmx')
    weights = tmp_path / 'weights.pth'
    torch.manual_seed(1)
    model = randomized(timm.create_model('msinet_x0_25', num_classes=0))
    torch.save(model.state_dict(), weights)
    path = timmx.export_model(
        'torchscript',
        'msinet_x0_25',
        checkpoint=str(weights),
        num_classes=0,
        input_size=(3, 64, 32),
        output=str(tmp_path / 'timmx.pt'),
    )
    images = image(5, (1, 3, 64, 32))
    with torch.no_grad():
        assert largest_difference(load_exported(path)(images), model(images)) < 1e-5


def test_a_module_tells_its_file_apart(tmp_path):
    """There is nothing else to tell two files by: neither structure nor weights."""
    told = {'preprocessing': {**CONFIG, 'inside': False}}
    module = ExportedModule(Exported(tmp_path / 'm.xml', lambda images: images, told))
    seen = set()
    for graph, weights in (b'a', b'b'), (b'a', b'c'), (b'd', b'b'):
        (tmp_path / 'm.xml').write_bytes(graph)
        (tmp_path / 'm.bin').write_bytes(weights)
        seen.add(repr(module))
    assert len(seen) == 3 and sha256_of(tmp_path / 'm.bin') in repr(module)
