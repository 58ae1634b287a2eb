"""Files for other programs: what they take, what lies beside them, what is refused. The programs: `tests/hosts`."""

import json

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from msinet_timm.errors import InputError
from msinet_timm.export.export import export
from msinet_timm.export.formats import load_exported
from msinet_timm.export.hosts import HOSTS, write_roboflow
from msinet_timm.export.module import ExportedModule, is_exported

#: Other statistics than any program's.
CONFIG = dict(
    input_size=(3, 16, 8), interpolation='bilinear', mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3),
    crop_pct=1.0, crop_mode='squash',
)  # fmt: skip
#: What the programs make of bytes, from their code or manuals.
FED = {
    'boxmot': lambda x: (x / 255 - torch.tensor(IMAGENET_DEFAULT_MEAN)) / torch.tensor(IMAGENET_DEFAULT_STD),
    'ultralytics': lambda x: x / 255,
    'opencv': lambda x: x,
    'deepstream-onnx': lambda x: x,
}
#: Operators of TensorRT's ONNX parser since 8.4 (onnx-tensorrt, docs/operators.md) that networks here are made of.
TENSORRT = {
    'Add', 'AveragePool', 'Concat', 'Conv', 'Div', 'Gather', 'LessOrEqual', 'MatMul', 'MaxPool', 'Mul', 'Neg', 'Range',
    'ReduceMax', 'ReduceMean', 'Relu', 'Reshape', 'Resize', 'Shape', 'Sigmoid', 'Slice', 'Softmax', 'Squeeze', 'Sub',
    'Transpose', 'Unsqueeze', 'Where',
}  # fmt: skip


class Mean(nn.Module):
    """Normalised images to their pixels in four places."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return F.adaptive_avg_pool2d(self.scale * images, 2).flatten(1)


@pytest.fixture(scope='module')
def model():
    return Mean().eval()


def written(model, folder, host, **options):
    path = folder / f'model{HOSTS[host].suffix}'
    return export(model, HOSTS[host].format, path, data_config=CONFIG, host=host, **options)


@pytest.mark.parametrize('host', [pytest.param(h, marks=[pytest.mark.slow] * (h != 'boxmot')) for h in HOSTS])
def test_a_file_takes_what_its_program_feeds(model, tmp_path, host):
    if HOSTS[host].format == 'onnx':
        pytest.importorskip('onnxscript')
    exported = load_exported(written(model, tmp_path, host))
    pixels = torch.tensor(np.random.default_rng(0).integers(0, 256, (3, 16, 8, 3))).float()
    fed = FED[host](pixels).permute(0, 3, 1, 2)
    if host == 'ultralytics':
        # of a box of 160x80 it cuts out 173x92: of 16 rows, 0.6 are not of the box on each side, of 8 columns 0.5
        assert exported.metadata['margins'] == [1, 1]
        pixels = F.interpolate(pixels.permute(0, 3, 1, 2)[..., 1:-1, 1:-1], (16, 8), mode='bilinear')
        pixels = pixels.permute(0, 2, 3, 1)
    mean, std = (torch.tensor(CONFIG[name]) for name in ('mean', 'std'))
    expected = model(((pixels / 255 - mean) / std).permute(0, 3, 1, 2)).detach()
    for count in (3, 1):  # also where the program feeds one by one
        torch.testing.assert_close(exported(fed[:count]), expected[:count], rtol=1e-4, atol=1e-4)
    assert exported.metadata['host'] == host and exported.metadata['precision'] == 'float32'
    assert exported.metadata['input']['shape'][0] == (HOSTS[host].batch or 'batch')
    with pytest.raises(InputError, match='takes float32 images of the shape'):
        exported(fed.double())


@pytest.mark.slow
def test_a_file_that_cuts_margins_away_measures_no_whole_images(model, tmp_path):
    pytest.importorskip('onnxscript')
    with pytest.raises(InputError, match='cuts away the margins that ultralytics leaves around boxes, so whole images'):
        ExportedModule(written(model, tmp_path, 'ultralytics'))


def test_boxmot_finds_a_file_beside_it(model, tmp_path):
    path = written(model, tmp_path, 'boxmot')
    beside = tmp_path / 'model.torchscript.metadata.json'
    assert sorted(tmp_path.iterdir()) == [path, beside]
    assert json.loads(beside.read_text())['model_kwargs'] == {'img_size': [16, 8]}
    assert is_exported(path) and ExportedModule(path).data_config['mean'] == IMAGENET_DEFAULT_MEAN
    path.unlink()
    with pytest.raises(InputError, match='model.torchscript.metadata.json exists'):
        written(model, tmp_path, 'boxmot')
    written(model, tmp_path, 'boxmot', force=True)


@pytest.mark.slow
def test_deepstream_finds_a_section_beside_it(model, tmp_path):
    pytest.importorskip('onnxscript')
    written(model, tmp_path, 'deepstream-onnx')
    section = yaml.safe_load((tmp_path / 'model.yml').read_text())['ReID']
    assert section['onnxFile'] == 'model.onnx' and section['reidFeatureSize'] == 12
    assert section['inferDims'] == [3, 16, 8]
    assert (section['netScaleFactor'], section['offsets'], section['keepAspc']) == (1, [0, 0, 0], 0)
    (tmp_path / 'model.onnx').unlink()
    with pytest.raises(InputError, match='model.yml exists'):
        written(model, tmp_path, 'deepstream-onnx')


@pytest.mark.slow
@pytest.mark.parametrize(('host', 'batch'), [('deepstream-onnx', 'batch'), ('ultralytics', 'batch'), ('opencv', 1)])
def test_tensorrt_knows_all_operators(tmp_path, host, batch):
    """As far as can be told without TensorRT: operators, opset, batch of any or one size, types, a valid graph."""
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    network = timm.create_model('msinet_x0_25', num_classes=0).eval()
    config = {**timm.data.resolve_data_config(model=network), 'input_size': (3, 64, 32)}
    path = export(network, 'onnx', tmp_path / 'net.onnx', data_config=config, host=host)
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [(opset.domain, opset.version <= 20) for opset in graph.opset_import] == [('', True)]
    assert {node.op_type for node in graph.graph.node} <= TENSORRT and not graph.functions
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes == {'images': [batch, 3, 64, 32], 'embeddings': [batch, 384]}
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert {value.data_type for value in graph.graph.initializer} <= kinds


def test_roboflow_folder(tmp_path):
    model = timm.create_model('msinet_x0_25', num_classes=0).eval()
    (tmp_path / 'config.json').write_text('{}')  # of a model's own folder
    config = {**timm.data.resolve_data_config(model=model), 'mean': (0.5, 0.4, 0.3)}
    assert write_roboflow(model, tmp_path, data_config=config) == tmp_path
    settings = json.loads((tmp_path / 'reid_config.json').read_text())
    assert settings['architecture'] == 'timm:msinet_x0_25'
    assert settings['preprocessing']['mean'] == [0.5, 0.4, 0.3] and settings['preprocessing']['to_rgb']
    twin = timm.create_model('msinet_x0_25', num_classes=0).eval()
    twin.load_state_dict(load_file(tmp_path / 'weights.safetensors'))
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(twin(images), model(images))
    with pytest.raises(InputError, match='reid_config.json exists: give another folder, or --force'):
        write_roboflow(model, tmp_path, data_config=config)
    write_roboflow(model, tmp_path, data_config=config, force=True)
    other = timm.create_model('msinet_x0_25', num_classes=0, genotype=['none'] * 12).eval()
    with pytest.raises(InputError, match='roboflow makes networks by their names, and timm makes another of msinet_x0'):
        write_roboflow(other, tmp_path, data_config=config, force=True)
    assert torch.equal(load_file(tmp_path / 'weights.safetensors')['stem.conv.weight'], model.stem.conv.weight)
    with pytest.raises(InputError, match='resizes bilinear, bicubic or nearest, not lanczos'):
        write_roboflow(model, tmp_path, data_config={**config, 'interpolation': 'lanczos'}, force=True)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'precision': 'bf16'}, 'boxmot feeds float32 and reads no bf16 file: leave out --precision'),
        ({'preprocessing': True}, 'boxmot resizes and scales images itself: leave out --preprocessing'),
        ({'dynamic_size': True}, 'boxmot takes the size of images from the file'),
        ({'format': 'openvino'}, 'boxmot reads torchscript, not openvino'),
        ({'host': 'bytetrack'}, "unknown program 'bytetrack', choose from: boxmot, ultralytics, "),
        ({'host': 'roboflow'}, 'roboflow reads a folder of weights, see msinet_timm.export.hosts.write_roboflow'),
        ({'path': 'model.pt'}, 'a file of the format torchscript must end in .torchscript'),
        ({'data_config': {**CONFIG, 'crop_pct': 0.9}}, '--for resizes whole images .*, but this model crops them'),
    ],
)
def test_what_a_program_cannot_read(model, tmp_path, options, message):
    given = {'format': 'torchscript', 'path': 'model.torchscript', 'data_config': CONFIG, 'host': 'boxmot'} | options
    given['path'] = tmp_path / given['path']
    with pytest.raises(InputError, match=message):
        export(model, **given)
    assert not any(tmp_path.iterdir())
