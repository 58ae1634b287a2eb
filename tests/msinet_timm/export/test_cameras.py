"""Exports that know cameras, through their real runtimes, against PyTorch with the camera's statistics."""

import copy
from functools import cache

import numpy as np
import pytest
import timm
import torch
from golden_figures import image
from small_network import SmallNetwork
from timm.layers import BatchNormAct2d
from torch import nn

from msinet_eval.evaluation import evaluate
from msinet_eval.features.extract import reid_data_config
from msinet_timm.errors import InputError
from msinet_timm.export.export import export, largest_difference, mean_cosine
from msinet_timm.export.files import SUFFIXES
from msinet_timm.export.formats import load_exported
from msinet_timm.export.module import ExportedModule
from msinet_timm.export.quantize import quantize
from msinet_timm.models.camera_norm import CameraNorms

CONFIG = reid_data_config(timm.create_model('msinet_x0_25'), 64, 32)
FORMATS = ('onnx', 'openvino', 'torch-export', 'torchscript')
CAMERAS = ['yard', None, 'door', 'yard', 'gate', 'attic', 'door']


def seen(model):
    """Norms of three cameras, of different light."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    norms = CameraNorms(model.eval())
    for number, name in enumerate(('door', 'yard', 'gate'), 1):
        norms.observe(name, number * image(number, (20, 3, 64, 32)) - number)
    return norms


@torch.inference_mode()
def by_hand(norms, images, cameras):
    """Each image alone, in a copy of the model with statistics of its camera."""
    found = []
    for one, camera in zip(images, cameras, strict=True):
        model, statistics = copy.deepcopy(norms.model), norms.statistics(camera)
        start = 0
        for name, count in norms.layout:
            norm = model.get_submodule(name)
            norm.running_mean.copy_(statistics.mean[start : start + count])
            norm.running_var.copy_(statistics.variance[start : start + count])
            start += count
        found.append(model(one[None])[0] - statistics.embedding)
    return torch.stack(found)


@pytest.fixture(scope='module')
def norms():
    torch.manual_seed(0)
    model = SmallNetwork(16, 32)
    nn.init.constant_(model.cell.interaction2.gamma, 0.5)
    return seen(model)


@pytest.fixture(scope='module')
def few():
    """Norms with activations inside, and norms of vectors; nothing is folded."""
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 8, 3), BatchNormAct2d(8), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()
    norms = seen(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6)))
    assert len(norms.layout) == 3
    return norms


def write(norms, format, folder, **options):
    if format == 'executorch':
        pytest.importorskip('executorch')
    path = folder / f'x{SUFFIXES[format]}'
    return load_exported(export(norms.model, format, path, data_config=CONFIG, norms=norms, **options), threads=1)


@pytest.fixture(scope='module')
def any_size(norms, tmp_path_factory):
    """By format, a file of all cameras and for images of any size; written once."""
    return cache(lambda format: write(norms, format, tmp_path_factory.mktemp('any'), dynamic_size=True).path)


@pytest.fixture(scope='module')
def gate(norms, tmp_path_factory):
    """By format, a file of one camera; written once."""
    return cache(lambda format: write(norms, format, tmp_path_factory.mktemp('gate'), camera='gate').path)


@pytest.mark.parametrize('format', FORMATS)
def test_all_cameras_in_one_file(norms, any_size, format):
    exported = load_exported(any_size(format), threads=1)
    assert exported.cameras == ('door', 'yard', 'gate') and exported.metadata['cameras'] == ['door', 'yard', 'gate']
    images = image(7, (7, 3, 64, 32))
    expected = by_hand(norms, images, CAMERAS)
    found = exported(images, CAMERAS)
    assert largest_difference(found, expected) < 1e-5
    assert largest_difference(by_hand(norms, images, ['door'] * 7), expected) > 0.05
    for indices in ([1, 3, 0, 1, 2, 3, 0], torch.tensor([1, 3, 0, 1, 2, 3, 0])):
        assert torch.equal(exported(images, indices), found)
    # what no camera has, in the runtime itself
    raw = exported._run(images[:3], torch.tensor([-1, 4, 1 << 20]))
    assert largest_difference(raw, by_hand(norms, images[:3], [None] * 3)) < 1e-5


@pytest.mark.parametrize('format', (*FORMATS, 'executorch'))
def test_one_camera(norms, gate, format):
    exported = load_exported(gate(format), threads=1)
    assert exported.cameras == () and exported.metadata['camera'] == 'gate'
    images = image(7, (2, 3, 64, 32))
    assert largest_difference(exported(images), by_hand(norms, images, ['gate'] * 2)) < 1e-5
    with pytest.raises(InputError, match='tells no cameras apart'):
        exported(images, 'yard')


def test_network(tmp_path):
    torch.manual_seed(0)
    norms = seen(timm.create_model('msinet_x0_25', num_classes=0, genotype='msmt'))
    exported = write(norms, 'torchscript', tmp_path)
    images = image(7, (4, 3, 64, 32))
    assert largest_difference(exported(images, CAMERAS[:4]), by_hand(norms, images, CAMERAS[:4])) < 1e-4


@pytest.mark.parametrize('format', FORMATS)
def test_other_networks(few, tmp_path, format):
    exported = write(few, format, tmp_path)
    images = image(7, (7, 3, 64, 32))
    assert largest_difference(exported(images, CAMERAS), by_hand(few, images, CAMERAS)) < 1e-5


def test_without_norms_the_mean_alone(tmp_path):
    torch.manual_seed(0)
    norms = seen(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    images = image(7, (7, 3, 64, 32))
    for options, cameras in ({}, CAMERAS), ({'camera': 'door'}, None):
        exported = write(norms, 'torchscript', tmp_path, force=True, **options)
        expected = by_hand(norms, images, cameras or ['door'] * 7)
        assert largest_difference(exported(images, cameras), expected) < 1e-5


@pytest.mark.parametrize('format', ('openvino', 'torch-export', 'torchscript'))
def test_bf16(norms, tmp_path, format):
    exported = write(norms, format, tmp_path, precision='bf16')
    images = image(7, (7, 3, 64, 32))
    expected = by_hand(norms, images, CAMERAS)
    found = exported(images, CAMERAS)
    assert found.dtype == torch.float32 and mean_cosine(found, expected) > 0.999
    if format != 'openvino':  # which computes so where the processor does
        assert largest_difference(found, expected) > 1e-4


@pytest.mark.parametrize('format', FORMATS)
def test_dynamic_size(norms, any_size, format):
    images = image(2, (3, 3, 77, 49))
    exported = load_exported(any_size(format), threads=1)
    assert largest_difference(exported(images, CAMERAS[:3]), by_hand(norms, images, CAMERAS[:3])) < 1e-5


@pytest.mark.parametrize('format', FORMATS)
def test_preprocessing_inside(few, tmp_path, format):
    exported = write(few, format, tmp_path, preprocessing=True)
    pixels = (image(7, (7, 3, 64, 32)).sigmoid() * 255).byte()
    mean, std = (torch.tensor(CONFIG[name]).view(3, 1, 1) for name in ('mean', 'std'))
    expected = by_hand(few, (pixels / 255 - mean) / std, CAMERAS)
    assert largest_difference(exported(pixels, CAMERAS), expected) < 1e-4


@pytest.mark.parametrize('format', ('onnx', 'openvino'))
def test_int8(norms, any_size, gate, tmp_path, format):
    inputs = [3 * image(i, (1, 3, 64, 32)) - 3 for i in range(8)]
    with pytest.raises(InputError, match='one camera a file for int8'):
        quantize(any_size(format), tmp_path / f'y{SUFFIXES[format]}', inputs)
    quantized = load_exported(quantize(gate(format), tmp_path / f'z{SUFFIXES[format]}', inputs))
    images = torch.cat(inputs)
    assert quantized.metadata['camera'] == 'gate'
    assert mean_cosine(quantized(images), by_hand(norms, images, ['gate'] * 8)) > 0.98


def test_the_model_stays_as_it_is(norms, tmp_path):
    before = copy.deepcopy(norms.model.state_dict())
    for options in {}, {'camera': 'gate'}:
        write(norms, 'torchscript', tmp_path, force=True, **options)
    assert all(torch.equal(before[name], tensor) for name, tensor in norms.model.state_dict().items())
    with torch.inference_mode():
        assert torch.isfinite(norms.model(image(7, (1, 3, 64, 32)))).all()


def test_unknown_cameras_are_told_once(norms, tmp_path, caplog):
    exported = write(norms, 'torchscript', tmp_path)
    images = image(7, (3, 3, 64, 32))
    unknown = exported(images, [3, 3, 3])
    assert not caplog.records
    for cameras in None, 'attic', ['attic', None, 'attic']:
        assert torch.equal(exported(images, cameras), unknown)
    assert [record.getMessage() for record in caplog.records] == [
        "images without a camera are embedded by the model's own statistics; known are door, yard, gate",
        "camera 'attic' is not known: its images are embedded by the model's own statistics; "
        'known are door, yard, gate',
    ]
    module = ExportedModule(exported)
    assert module.cameras == exported.cameras
    assert torch.equal(module(images, 'yard'), exported(images, 'yard'))


def test_refused(norms, any_size, tmp_path):
    exported = write(norms, 'torchscript', tmp_path)
    images = image(7, (2, 3, 64, 32))
    for cameras, message in (
        ([0, 4], 'camera 4: .* from 0 to 2, and 3 for unknown'),
        (torch.tensor([0, -1]), 'camera -1: '),
        (['door'], '1 cameras for 2 images'),
        (torch.zeros(2, 2, dtype=torch.int64), r'a name, an index or None, got \[0, 0\]'),
        (np.float64(1), 'a name, an index or None, got 1.0'),
        ([0.0, 1.0], 'a name, an index or None, got 0.0'),
    ):
        with pytest.raises(InputError, match=message):
            exported(images, cameras)
    for one in np.int64(1), torch.tensor(1):
        assert torch.equal(exported(images, one), exported(images, 'yard'))
    with pytest.raises(InputError, match='tells cameras apart'):
        evaluate(any_size('torch-export'), 'sample')
    options = {'data_config': CONFIG}
    for more, message in (
        ({'norms': norms, 'camera': 'attic'}, "camera 'attic' is not known, choose from: door, yard, gate"),
        ({'camera': 'door'}, 'without `norms`'),
        ({'norms': CameraNorms(norms.model)}, 'no camera has been seen'),
        ({'norms': CameraNorms(copy.deepcopy(norms.model))}, 'of another model'),
    ):
        with pytest.raises(InputError, match=message):
            export(norms.model, 'torchscript', tmp_path / 'y.pt', **options, **more)
    with pytest.raises(InputError, match='executorch takes no file of several cameras'):
        export(norms.model, 'executorch', tmp_path / 'y.pte', norms=norms, **options)
    assert not (tmp_path / 'y.pt').exists()
