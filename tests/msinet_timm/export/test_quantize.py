"""int8 by both runtimes, on a cell with all that must stay in floating point."""

import sys
from collections import Counter

import pytest
import timm
import torch
import torch.nn as nn
from golden_figures import image
from small_network import SmallNetwork

from msinet_eval.features.extract import reid_data_config
from msinet_timm.errors import InputError
from msinet_timm.export.export import export, largest_difference, mean_cosine
from msinet_timm.export.files import file_size
from msinet_timm.export.formats import load_exported
from msinet_timm.export.quantize import quantize

CONFIG = reid_data_config(timm.create_model('msinet_x0_25'), 64, 32)


@pytest.fixture(scope='module', params=['onnx', 'openvino'])
def source(request, tmp_path_factory):
    """A float32 export, and the inputs to calibrate on."""
    torch.manual_seed(0)
    model = SmallNetwork(32, 256, stride=4)
    nn.init.constant_(model.cell.interaction2.gamma, 0.5)
    path = tmp_path_factory.mktemp('float') / {'onnx': 'x.onnx', 'openvino': 'x.xml'}[request.param]
    return export(model.eval(), request.param, path, data_config=CONFIG), [image(i, (1, 3, 64, 32)) for i in range(8)]


@pytest.fixture(scope='module')
def once(source, tmp_path_factory):
    """Its int8 form."""
    source, inputs = source
    return quantize(source, tmp_path_factory.mktemp('int8') / source.name, inputs)


def test_close_to_float32_and_smaller(source, once):
    source, path = source[0], once
    images = torch.cat([image(i, (1, 3, 64, 32)) for i in range(20, 25)])
    floating, quantized = load_exported(source), load_exported(path)
    expected, found = floating(images), quantized(images)
    assert mean_cosine(found, expected) > 0.99
    assert largest_difference(found, expected) > 1e-4  # it really computes in int8
    assert file_size(path) < 0.7 * file_size(source)
    facts = quantized.metadata
    assert facts['precision'] == 'int8' and facts['calibration_images'] == 8
    assert {k: v for k, v in facts.items() if k not in ('precision', 'calibration_images')} == {
        k: v for k, v in floating.metadata.items() if k != 'precision'
    }


def test_calibration_decides(source, tmp_path):
    """Ranges come from the images: those of dark ones cut off what bright ones have."""
    source, inputs = source
    dark = quantize(source, tmp_path / source.name, [0.01 * one for one in inputs])
    images = torch.cat(inputs)
    assert largest_difference(load_exported(dark)(images), load_exported(source)(images)) > 0.5


def test_gates_and_attention_stay_in_floating_point(once):
    path = once
    if path.suffix == '.onnx':
        import onnx

        graph = onnx.load(path).graph
        given = {output: node for node in graph.node for output in node.output}
        quantized = Counter(
            (node.op_type, getattr(given.get(node.input[0]), 'op_type', '') == 'DequantizeLinear')
            for node in graph.node
        )
        assert quantized['Conv', True] >= 20 and quantized['Conv', False] == 4  # two gates of two convolutions
        assert quantized['MatMul', True] == 0 and quantized['MatMul', False] == 3
        assert quantized['Softmax', True] == 0
        return
    import openvino

    ops = openvino.Core().read_model(path).get_ops()
    kinds = ('Convolution', 'GroupConvolution', 'MatMul')
    # an int8 weight is scaled before it is used
    quantized = Counter(
        (op.get_type_name(), op.input_value(1).get_node().get_type_name() == 'Multiply')
        for op in ops
        if op.get_type_name() in kinds
    )
    assert quantized['Convolution', True] >= 10 and quantized['Convolution', False] == 4
    assert quantized['MatMul', True] == 0 and quantized['MatMul', False] == 3


@pytest.mark.filterwarnings('ignore:All-NaN axis')
def test_refused(source, once, tmp_path, monkeypatch):
    source, inputs = source
    with pytest.raises(InputError, match='needs images'):
        quantize(source, tmp_path / source.name, [])
    with pytest.raises(InputError, match='exists'):
        quantize(source, source, inputs)
    with pytest.raises(InputError, match='must end in'):
        quantize(source, tmp_path / 'x.pt', inputs)
    with pytest.raises(InputError, match='int8 is for onnx and openvino'):
        quantize(tmp_path / 'x.pt2', tmp_path / 'y.pt2', inputs)
    with pytest.raises(InputError, match='made of a float32 export'):
        quantize(once, tmp_path / f'again{source.suffix}', inputs)
    with pytest.raises(InputError, match='is not kept'):
        quantize(source, tmp_path / f'nan{source.suffix}', [torch.full((1, 3, 64, 32), float('nan'))])
    assert not list(tmp_path.glob('nan*'))
    monkeypatch.setitem(sys.modules, 'nncf' if source.suffix == '.xml' else 'onnxruntime.quantization', None)
    with pytest.raises(InputError, match=r'pip install "msinet-timm\[o'):
        quantize(source, tmp_path / f'z{source.suffix}', inputs)
