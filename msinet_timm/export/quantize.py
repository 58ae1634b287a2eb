"""int8 by static quantisation after training: an exported file, and images to measure the range of each map on.

Weights become int8, channel by channel, maps uint8. What is small and sensitive stays in floating point: channel gates
(maps of one pixel), cross attention (its energies differ by orders of magnitude), and the pooled embedding.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from msinet_timm.errors import InputError, explained, needs
from msinet_timm.files import drafts, refusing

from .export import mean_cosine
from .files import METADATA, checked_path, format_of, quiet
from .formats import Exported, load_exported, openvino_core

__all__ = ['QUANTIZED_FORMATS', 'quantize']

_logger = logging.getLogger(__name__)

#: What pays in ONNX Runtime: convolutions alone would be slower than in float32, for all the changes of type between.
_ONNX_TYPES = ['Conv', 'Relu', 'Add', 'Mul', 'Concat', 'MaxPool', 'AveragePool']
#: Embeddings that are less like those in float32 are broken.
_LEAST_COSINE = 0.9


def quantize(source: str | Path, path: str | Path, inputs: Sequence[torch.Tensor], *, force: bool = False) -> Path:
    """Writes an int8 form of a float32 export.

    Args:
        source: an ONNX or OpenVINO file, as `msinet_timm.export.export` writes it.
        path: of the new file, of the same format.
        inputs: images as the file takes them, [1, 3, H, W] each: about a hundred of the kind it will see.
        force: replace a file that is there.

    Returns:
        The path.

    Raises:
        InputError: a file of another format or precision, no images, a package that is missing, or embeddings that
            have little to do with those in float32: a mean cosine below 0.9.
    """
    source = Path(source)
    format = format_of(source)
    if format not in QUANTIZED_FORMATS:
        raise InputError(f'{source}: int8 is for {" and ".join(QUANTIZED_FORMATS)}')
    path = checked_path(path, format, force)
    if not inputs:
        raise InputError('int8 needs images to calibrate on')
    exported = load_exported(source)
    if exported.cameras:
        raise InputError(f'{source}: maps of each camera have a range of their own: export one camera a file for int8')
    if exported.metadata.get('precision') != 'float32':
        raise InputError(f'{source}: int8 is made of a float32 export')
    metadata = {**exported.metadata, 'precision': 'int8', 'calibration_images': len(inputs)}
    folder, words = path.absolute().parent, f'{path}: cannot write this file'
    with drafts(folder, words, last=path.name) as place:
        draft = place / path.name
        # the runtimes' tools raise their own types, and assert
        with explained(f'{path} is not kept: {source} cannot be quantised by these images'):
            with quiet(), refusing(words, folder):
                QUANTIZED_FORMATS[format](source, draft, inputs, json.dumps(metadata))
            cosine = _cosine(exported, load_exported(draft), inputs)
        _logger.info('%s: mean cosine to the float32 embeddings %.5f', path.name, cosine)
        if not cosine >= _LEAST_COSINE:
            raise InputError(
                f'{path} is not kept: the mean cosine to its float32 embeddings is {cosine:.3f}, and must be '
                f'{_LEAST_COSINE:g}: calibrate on more images, of the kind that it will see'
            )
    return path


def _cosine(floating: Exported, quantized: Exported, inputs: Sequence[torch.Tensor]) -> float:
    pairs = [torch.cat([model(one) for one in inputs]) for model in (quantized, floating)]
    return mean_cosine(*pairs)


def _quantize_onnx(source: Path, path: Path, inputs: Sequence[torch.Tensor], metadata: str) -> None:
    with needs('onnx'):
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.remaining = iter(inputs)

        def get_next(self) -> dict | None:
            image = next(self.remaining, None)
            return None if image is None else {'images': image.numpy()}

    prepared = path.with_name('prepared.onnx')
    quant_pre_process(source, prepared)
    quantize_static(
        prepared,
        path,
        Reader(),
        op_types_to_quantize=_ONNX_TYPES,
        nodes_to_exclude=_sensitive(onnx.load(prepared).graph),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: metadata})
    onnx.save(model, path)


def _sensitive(graph) -> list[str]:
    """Names of an ONNX graph's nodes that give no map of several pixels."""
    ranks = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}

    def is_map(name: str) -> bool:
        dims = ranks.get(name, ())
        return len(dims) == 4 and [d.dim_value for d in dims[2:]] != [1, 1]

    return [node.name for node in graph.node if node.op_type in _ONNX_TYPES and not is_map(node.output[0])]


def _quantize_openvino(source: Path, path: Path, inputs: Sequence[torch.Tensor], metadata: str) -> None:
    with needs('openvino'):
        import nncf
        import openvino
    model = openvino_core().read_model(source)
    gates = [
        op.get_friendly_name()
        for op in model.get_ops()
        if op.get_type_name() == 'Convolution' and [str(d) for d in op.get_output_partial_shape(0)][2:] == ['1', '1']
    ]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(inputs, lambda image: image.numpy()),
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(names=gates, types=['MatMul'], validate=False),
    )
    quantized.set_rt_info(metadata, METADATA)
    openvino.save_model(quantized, path, compress_to_fp16=False)


#: What int8 can be made of, and how.
QUANTIZED_FORMATS = {'onnx': _quantize_onnx, 'openvino': _quantize_openvino}
