"""The formats that a model can be exported to: a writer for each, and one call that opens any of their files."""

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from msinet_timm.errors import InputError, explained, needs
from msinet_timm.files import parse_json, pointer, read_json
from msinet_timm.forms import PRECISIONS
from msinet_timm.models.entries import check_preprocessing

from .files import METADATA, format_of

__all__ = ['WRITERS', 'Exported', 'load_exported', 'openvino_core']

# images, and for files with cameras their indices [B]
_Run = Callable[..., Tensor]
Cameras = str | int | Sequence[str | int | None] | Tensor | np.ndarray | None

_logger = logging.getLogger(__name__)


class Exported:
    """An exported model: images to embeddings [B, D], float32, on the CPU.

    One thread at a time may call it.

    Attributes:
        metadata: what the file tells about itself, see `msinet_timm.export.export`; empty for another's file.
    """

    def __init__(self, path: Path, run: _Run, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.metadata = dict(metadata)
        self._run = run
        self._told: set[str | None] = set()

    @property
    def data_config(self) -> dict[str, Any]:
        """How images are prepared, for `timm.data.create_transform`."""
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in self.metadata['preprocessing'].items()}
        del config['inside']
        return config

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras that the file tells apart, by index; none for a file without such an input."""
        return tuple(self.metadata.get('cameras', ()))

    def __call__(self, images: Tensor | np.ndarray, cameras: Cameras = None) -> Tensor:
        """Embeds.

        Args:
            images: [B, 3, H, W] as `metadata['input']` says: float32, normalised; or uint8, RGB.
            cameras: for a file with `cameras`: a name for each image, or one for all; or their indices, where
                `len(self.cameras)` stands for an unknown one. Images of a camera that is not known (None, or another
                name) are embedded by the model's own statistics, with a warning, once for each such name.

        Raises:
            InputError: images of another type or shape; cameras for another number of images, an index that there is
                not, or cameras for a file that tells none apart.
        """
        images = torch.as_tensor(images).cpu()
        expected = self.metadata.get('input')
        if expected:
            fits = images.dim() == 4 and str(images.dtype) == f'torch.{expected["dtype"]}'
            sizes = zip(images.shape[1:], expected['shape'][1:], strict=False)
            if not fits or any(isinstance(known, int) and size != known for size, known in sizes):
                raise InputError(
                    f'{self.path} takes {expected["dtype"]} images of the shape {expected["shape"]}, '
                    f'got {str(images.dtype).removeprefix("torch.")} {list(images.shape)}'
                )
        inputs = [images]
        if self.cameras:
            inputs.append(self._number(cameras, len(images)))
        elif cameras is not None:
            raise InputError(f'{self.path} tells no cameras apart: leave them out, or export it once more, for cameras')
        with torch.inference_mode():
            if expected and expected['shape'][0] == 1:  # for a program that feeds one by one
                return torch.cat([self._run(*one) for one in zip(*(i.split(1) for i in inputs), strict=True)])
            return self._run(*inputs)

    def _number(self, cameras: Cameras, count: int) -> Tensor:
        """Indices [count] of cameras."""
        if isinstance(cameras, (Tensor, np.ndarray, np.generic)):
            cameras = cameras.tolist()
        one = isinstance(cameras, str) or not isinstance(cameras, Iterable)
        listed = [cameras] * count if one else list(cameras)
        if len(listed) != count:
            raise InputError(f'{len(listed)} cameras for {count} images: give one for all, or one for each')
        return torch.tensor([self._index(camera) for camera in listed], dtype=torch.int64)

    def _index(self, camera: str | int | None) -> int:
        if camera is not None and not isinstance(camera, (str, int, np.integer)):
            raise InputError(f'a camera is a name, an index or None, got {camera!r}')
        if isinstance(camera, (int, np.integer)):
            if not 0 <= camera <= len(self.cameras):
                raise InputError(
                    f'camera {camera}: {self.path} knows indices from 0 to {len(self.cameras) - 1}, and '
                    f'{len(self.cameras)} for unknown cameras'
                )
            return int(camera)
        if camera in self.cameras:
            return self.cameras.index(camera)
        if camera not in self._told:
            self._told.add(camera)
            which = 'images without a camera' if camera is None else f"camera '{camera}' is not known: its images"
            _logger.warning(
                "%s are embedded by the model's own statistics; known are %s", which, ', '.join(self.cameras)
            )
        return len(self.cameras)


def load_exported(path: str | Path, *, threads: int | None = None, precision: str | None = None) -> Exported:
    """Opens a file that `msinet-hub export` has written.

    ONNX and OpenVINO files are data: opening one that you do not trust runs no code of its own. TorchScript,
    torch.export and ExecuTorch files are programs: open only those that you would run.

    Args:
        path: `.onnx`, `.xml` (with its `.bin`), `.pt2`, `.pt`, `.torchscript` or `.pte`.
        threads: of the CPU; None for what the runtime takes by itself.
        precision: `'float32'` or `'bf16'`, in which OpenVINO computes what is not int8; None for what the file was
            exported for. Files of other formats have one precision, and must be of this one if it is given.

    Raises:
        InputError: no such file, one that its runtime cannot open, a runtime that is not installed, or another
            precision than the file's.
    """
    path = Path(path)
    open_file = _OPENERS[format_of(path)]
    if not path.is_file():
        raise InputError(f'{path}: no such file')
    if precision not in (None, *PRECISIONS):
        raise InputError(f"precision '{precision}' must be {' or '.join(PRECISIONS)}")
    if reason := pointer(path):
        raise InputError(f'{path}: {reason}')
    with explained(f'{path}: cannot open this file'):  # runtimes raise their own types
        run, metadata = open_file(path, threads, precision)
        _check_metadata(metadata)
    own = metadata.get('precision', precision)
    if precision and precision != own and path.suffix != '.xml':
        raise InputError(f'{path} computes in {own}: export it once more for {precision}')
    return Exported(path, run, metadata)


def _check_metadata(metadata: Any) -> None:
    """Refuses what no export writes into a file."""
    if not isinstance(metadata, dict):
        raise InputError(f'its {METADATA} must be an object')
    if preprocessing := metadata.get('preprocessing'):
        check_preprocessing(preprocessing)
        if missing := {'inside', 'input_size', 'mean', 'std'} - preprocessing.keys():
            raise InputError(f'its preprocessing lacks {", ".join(sorted(missing))}')
    if expected := metadata.get('input'):
        known = isinstance(expected, dict) and isinstance(expected.get('shape'), list)
        if not known or len(expected['shape']) != 4 or expected.get('dtype') not in ('uint8', 'float32'):
            raise InputError('its input must have a shape of four sizes and the dtype uint8 or float32')


def _open_onnx(path: Path, threads: int | None, precision: str | None) -> tuple[_Run, dict]:
    with needs('onnx'):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    metadata = parse_json(session.get_modelmeta().custom_metadata_map.get(METADATA) or '{}')
    names = [i.name for i in session.get_inputs()]
    if len(names) != 1 + ('cameras' in metadata):
        raise ValueError(f'it takes {", ".join(names)} instead of images alone')

    def run(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {n: one.numpy() for n, one in zip(names, inputs, strict=True)})[0])

    return run, metadata


@cache
def openvino_core() -> Any:
    """The only one of the process, for good.

    OpenVINO gives the thread a stack for signals, and gives back the one before when it ends: where several end in
    another order than they began, the next signal (of a child process, say) finds a stack that is gone, and kills.
    """
    with needs('openvino'):
        import openvino
    return openvino.Core()


def _open_openvino(path: Path, threads: int | None, precision: str | None) -> tuple[_Run, dict]:
    core = openvino_core()
    model = core.read_model(path)
    metadata = parse_json(model.get_rt_info(METADATA).astype(str)) if model.has_rt_info(METADATA) else {}
    # where it may choose, it takes bf16 for float32 models, too
    bf16 = (precision or metadata.get('precision')) == 'bf16'
    config = {'INFERENCE_PRECISION_HINT': 'bf16' if bf16 else 'f32', 'PERFORMANCE_HINT': 'LATENCY'}
    if threads:
        config['INFERENCE_NUM_THREADS'] = threads
    compiled = core.compile_model(model, 'CPU', config)
    request = compiled.create_infer_request()

    def run(*inputs: Tensor) -> Tensor:
        arrays = [np.ascontiguousarray(one.numpy()) for one in inputs]
        results = request.infer(arrays, share_inputs=True, share_outputs=False)
        return torch.from_numpy(results[0])

    return run, metadata


def _open_torch_export(path: Path, threads: int | None, precision: str | None) -> tuple[_Run, dict]:
    files = {METADATA: ''}
    module = torch.export.load(path, extra_files=files).module()
    return _with_threads(module, threads), parse_json(files[METADATA] or '{}')


def _open_torchscript(path: Path, threads: int | None, precision: str | None) -> tuple[_Run, dict]:
    files = {METADATA: ''}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # torch would rather have torch.export, which is slower here
        module = torch.jit.load(path, map_location='cpu', _extra_files=files)
    return _with_threads(module, threads), parse_json(files[METADATA] or '{}')


def _open_executorch(path: Path, threads: int | None, precision: str | None) -> tuple[_Run, dict]:
    with needs('executorch'):
        from executorch.runtime import Runtime
    program = Runtime.get().load_program(path.read_bytes())
    method = program.load_method('forward')
    beside = path.with_suffix('.pte.json')
    metadata = read_json(beside) if beside.is_file() else {}

    def run(*inputs: Tensor, program: Any = program) -> Tensor:  # the method needs the program, but doesn't keep it
        return method.execute([one.contiguous() for one in inputs])[0].clone()

    return run, metadata


def _with_threads(module: _Run, threads: int | None) -> _Run:
    def run(images: Tensor, *cameras: Tensor) -> Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            return module(images.contiguous(memory_format=torch.channels_last), *cameras)
        finally:
            torch.set_num_threads(before)

    return run


_OPENERS: dict[str, Callable[[Path, int | None, str | None], tuple[_Run, dict]]] = {
    'onnx': _open_onnx,
    'openvino': _open_openvino,
    'torch-export': _open_torch_export,
    'torchscript': _open_torchscript,
    'executorch': _open_executorch,
}


_Example = Mapping[str, Tensor]
_Axes = Mapping[str, dict[int, str]]

# that an ExecuTorch file takes at once
_MOST_IMAGES = 64


def _onnx(graph: nn.Module, example: _Example, path: Path, axes: _Axes, metadata: str) -> None:
    with needs('onnx'):
        import onnx  # noqa: F401 - torch needs both here
        import onnxscript  # noqa: F401
    program = torch.onnx.export(
        graph,
        tuple(example.values()),
        dynamo=True,
        dynamic_shapes=tuple(axes.values()),
        input_names=list(example),
        output_names=['embeddings'],
        verbose=False,
    )
    program.model.metadata_props[METADATA] = metadata
    program.save(path, external_data=False)


def _openvino(graph: nn.Module, example: _Example, path: Path, axes: _Axes, metadata: str) -> None:
    with needs('openvino'):
        import openvino
        from openvino import opset13 as ops
        from openvino.frontend.pytorch import ConversionExtension

    def threshold(context: Any) -> list:
        x, limit, value = (context.get_input(i) for i in range(3))
        return ops.select(ops.greater(x, limit), x, value).outputs()

    shapes = [[-1 if i in axes[name] else size for i, size in enumerate(one.shape)] for name, one in example.items()]
    model = openvino.convert_model(
        graph,
        example_input=tuple(example.values()),
        input=[openvino.PartialShape(shape) for shape in shapes],
        extension=[ConversionExtension('aten::threshold', threshold)],  # of the cross attention: OpenVINO has none
    )
    for place, name in zip(model.inputs, example, strict=True):
        place.set_names({name})
    model.outputs[0].set_names({'embeddings'})
    model.set_rt_info(metadata, METADATA)
    openvino.save_model(model, path, compress_to_fp16=False)


def _torch_export(graph: nn.Module, example: _Example, path: Path, axes: _Axes, metadata: str) -> None:
    dims = tuple(dict.fromkeys(names, torch.export.Dim.DYNAMIC) for names in axes.values())
    program = torch.export.export(graph, tuple(example.values()), dynamic_shapes=dims)
    content = io.BytesIO()  # where a file cannot be written to its end, torch aborts the process
    torch.export.save(program, content, extra_files={METADATA: metadata})
    path.write_bytes(content.getbuffer())


def _torchscript(graph: nn.Module, example: _Example, path: Path, axes: _Axes, metadata: str) -> None:
    # a script takes any size, whatever is asked for; so does a trace, which knows no lists that modules share
    inputs = tuple(example.values())
    script = torch.jit.script(graph) if len(inputs) == 1 else torch.jit.trace(graph, inputs, check_trace=False)
    content = io.BytesIO()  # as above
    torch.jit.save(torch.jit.freeze(script), content, _extra_files={METADATA: metadata})
    path.write_bytes(content.getbuffer())


def _executorch(graph: nn.Module, example: _Example, path: Path, axes: _Axes, metadata: str) -> None:
    with needs('executorch'):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    # memory is planned ahead, so that a batch needs a limit
    dims = ({0: torch.export.Dim('batch', min=1, max=_MOST_IMAGES)},) * len(example)
    graph = graph.to(memory_format=torch.contiguous_format)
    program = torch.export.export(graph, tuple(example.values()), dynamic_shapes=dims)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)
    path.with_suffix('.pte.json').write_text(metadata, encoding='utf-8')


#: By format: takes the graph, examples of its inputs by name (images [2, 3, H, W], and perhaps cameras [2]), the path,
#: by input the names of dimensions that may change, and the metadata to put inside, as JSON.
WRITERS: dict[str, Callable[[nn.Module, _Example, Path, _Axes, str], None]] = {
    'onnx': _onnx,
    'openvino': _openvino,
    'torch-export': _torch_export,
    'torchscript': _torchscript,
    'executorch': _executorch,
}
