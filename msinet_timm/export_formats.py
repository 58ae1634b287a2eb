"""One writer for each format that a model can be exported to."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from .export_files import METADATA, needs, quiet

__all__ = ['WRITERS']

# that an ExecuTorch file takes at once
_MOST_IMAGES = 64


def _axes(dynamic_size: bool) -> dict[int, str]:
    """The dimensions of the input that may change."""
    return {0: 'batch', 2: 'height', 3: 'width'} if dynamic_size else {0: 'batch'}


def _onnx(
    graph: nn.Module, example: torch.Tensor, path: Path, *, dynamic_size: bool, metadata: Mapping[str, Any]
) -> None:
    with needs('onnx'):
        import onnx  # noqa: F401 - torch needs both here
        import onnxscript  # noqa: F401
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        dynamic_shapes=(_axes(dynamic_size),),
        input_names=['images'],
        output_names=['embeddings'],
        verbose=False,
    )
    program.model.metadata_props[METADATA] = json.dumps(metadata)
    program.save(path, external_data=False)


def _openvino(
    graph: nn.Module, example: torch.Tensor, path: Path, *, dynamic_size: bool, metadata: Mapping[str, Any]
) -> None:
    with needs('openvino'):
        import openvino
        from openvino import opset13 as ops
        from openvino.frontend.pytorch import ConversionExtension

    def threshold(context: Any) -> list:
        x, limit, value = (context.get_input(i) for i in range(3))
        return ops.select(ops.greater(x, limit), x, value).outputs()

    shape = [-1 if axis in _axes(dynamic_size) else size for axis, size in enumerate(example.shape)]
    model = openvino.convert_model(
        graph,
        example_input=example,
        input=[openvino.PartialShape(shape)],
        extension=[ConversionExtension('aten::threshold', threshold)],  # of the cross attention: OpenVINO has none
    )
    model.inputs[0].set_names({'images'})
    model.outputs[0].set_names({'embeddings'})
    model.set_rt_info(json.dumps(metadata), METADATA)
    openvino.save_model(model, path, compress_to_fp16=False)


def _torch_export(
    graph: nn.Module, example: torch.Tensor, path: Path, *, dynamic_size: bool, metadata: Mapping[str, Any]
) -> None:
    dims = dict.fromkeys(_axes(dynamic_size), torch.export.Dim.DYNAMIC)
    program = torch.export.export(graph, (example,), dynamic_shapes=(dims,))
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


def _torchscript(
    graph: nn.Module, example: torch.Tensor, path: Path, *, dynamic_size: bool, metadata: Mapping[str, Any]
) -> None:
    # a script takes any size, whatever is asked for
    script = torch.jit.freeze(torch.jit.script(graph))
    torch.jit.save(script, path, _extra_files={METADATA: json.dumps(metadata)})


def _executorch(
    graph: nn.Module, example: torch.Tensor, path: Path, *, dynamic_size: bool, metadata: Mapping[str, Any]
) -> None:
    with needs('executorch'):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    # memory is planned ahead, so that a batch needs a limit
    dims = {0: torch.export.Dim('batch', min=1, max=_MOST_IMAGES)}
    program = torch.export.export(graph.to(memory_format=torch.contiguous_format), (example,), dynamic_shapes=(dims,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)
    path.with_suffix('.pte.json').write_text(json.dumps(metadata), encoding='utf-8')


def _quietly(write: Callable[..., None]) -> Callable[..., None]:
    def writer(*args: Any, **kwargs: Any) -> None:
        with quiet(), torch.no_grad():
            write(*args, **kwargs)

    return writer


#: By format: takes the graph, an example [2, 3, H, W] of its input, the path, whether height and width may change,
#: and the metadata to put inside.
WRITERS: dict[str, Callable[..., None]] = {
    'onnx': _quietly(_onnx),
    'openvino': _quietly(_openvino),
    'torch-export': _quietly(_torch_export),
    'torchscript': _quietly(_torchscript),
    'executorch': _quietly(_executorch),
}
