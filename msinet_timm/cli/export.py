"""`msinet-hub export`: a model's weights in the format of another runtime, and what that gains and costs."""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from timm.data import resolve_data_config

from msinet_timm.benchmark.timing import in_turns
from msinet_timm.commands import make_folder, positive
from msinet_timm.datasets import (
    ReIDDataset,
    add_data_option,
    create_dataset,
    list_datasets,
    parse_options,
    typed_root,
)
from msinet_timm.errors import InputError
from msinet_timm.export.export import FORMATS, check_cameras, check_request, export
from msinet_timm.export.files import SUFFIXES, checked_path, file_size
from msinet_timm.export.formats import Exported, load_exported
from msinet_timm.export.graph import check_stretched, find_images, graph_inputs
from msinet_timm.export.hosts import HOSTS, ROBOFLOW, check_host, checked_folder, write_roboflow
from msinet_timm.export.module import ExportedModule
from msinet_timm.forms import PRECISIONS
from msinet_timm.hub.adapt import find_cameras
from msinet_timm.hub.load import without_classifiers
from msinet_timm.hub.verify import find_weights, load_weights
from msinet_timm.models.camera_norm import FILE_NAME, CameraNorms
from msinet_timm.models.entries import check_file, sha256_of
from msinet_timm.person_search.export import OUTPUTS, export_search
from msinet_timm.person_search.folder import is_search_folder, load_search

__all__ = ['Measure', 'add_arguments', 'run', 'speed_ratio']

#: Mean average precision, 0-1, of a model on a data set, by timm's data config and another transform or None.
Measure = Callable[[nn.Module, ReIDDataset, dict[str, Any], Callable | None], float]

_ROUNDS, _BATCH = 7, 16


def add_arguments(parser: argparse.ArgumentParser, measured: bool) -> None:
    """The command's arguments; those that name a data set only where `run` will have a `measure`."""
    p = parser
    p.add_argument('name', metavar='NAME|FOLDER|hf-hub:OWNER/NAME', help='of a model or run with weights')
    kind = p.add_mutually_exclusive_group(required=True)
    kind.add_argument('--format', choices=FORMATS, help='of the file')
    kind.add_argument(
        '--for', dest='host', choices=(*HOSTS, ROBOFLOW), help='a program that is to read it: as that expects it to be'
    )
    p.add_argument('--output', metavar='FILE', help='to write (default: the name of the model, in this folder)')
    p.add_argument('--force', action='store_true', help='replace a file that is there')
    p.add_argument('--precision', default='float32', choices=PRECISIONS, help='to compute in (default: %(default)s)')
    p.add_argument('--dynamic-size', action='store_true', help='take images of any height and width')
    p.add_argument(
        '--preprocessing', action='store_true', help='take RGB bytes of any size: resize and normalise in the file'
    )
    p.add_argument('--images', metavar='DIR', help="images to compare with PyTorch on (default: the sample's)")
    group = p.add_argument_group('cameras of a folder that msinet-hub adapt has written').add_mutually_exclusive_group()
    group.add_argument('--camera', metavar='NAME', help='embed as images of this one')
    group.add_argument(
        '--cameras', action='store_true', help='tell all of them apart, by a second input: the index of the camera'
    )
    group = p.add_argument_group('int8 (onnx, openvino)')
    group.add_argument('--int8', action='store_true', help='quantise, by the images of --calibration-images')
    group.add_argument('--calibration-images', metavar='DIR', help='images of the kind that the file will see')
    group.add_argument('--calibration-count', type=positive, metavar='N', help='how many of them (default: 100)')
    if not measured:
        p.set_defaults(dataset=None, data_dir=None, data_option=None)
        return
    group = p.add_argument_group('mAP of the file beside that of PyTorch')
    group.add_argument('-ds', '--dataset', help=f'one of: {", ".join(list_datasets())}')
    group.add_argument('--data-dir', type=typed_root, metavar='DIR', help='folder of the data set')
    add_data_option(group)


def run(args: argparse.Namespace, measure: Measure | None) -> None:
    """Exports, and tells about the file.

    Args:
        args: of the parser.
        measure: what finds the mAP on a data set, if one is named.

    Raises:
        InputError: flags that have no effect or exclude each other, and as `export` and `quantize`.
    """
    if is_search_folder(args.name):
        _run_search(args)
        return
    if args.host in HOSTS:
        args.format = HOSTS[args.host].format
    _check(args)
    if args.host == ROBOFLOW:
        _write_roboflow(args)
        return
    images = find_images(args.calibration_images, args.calibration_count or 100) if args.int8 else []
    dataset = _read_dataset(args)
    if args.output:
        make_folder(Path(args.output).parent, '--output')
    path = checked_path(args.output or _default_output(args), args.format, args.force, HOSTS.get(args.host))
    model, digest, norms = _load(args.name, args.cameras or args.camera is not None)
    check_cameras(model, norms, args.camera, args.format)
    data_config = resolve_data_config(model=model)
    options = {
        'data_config': data_config,
        'preprocessing': args.preprocessing,
        'precision': args.precision,
        'dynamic_size': args.dynamic_size,
        'images': args.images,
        'facts': {'source': args.name, 'weights_sha256': digest},
        'force': args.force,
        'norms': norms,
        'camera': args.camera,
        'host': args.host,
    }
    if args.int8:
        lines = _export_int8(model, args.format, path, images, options)
    else:
        lines = [_size_line(load_exported(export(model, args.format, path, **options)))]
    if dataset:
        lines.append(_accuracy_line(measure, model, load_exported(path), dataset, data_config))
    print('\n'.join(lines))


def _write_roboflow(args: argparse.Namespace) -> None:
    folder = checked_folder(args.output or _default_output(args), args.force)
    model, _, _ = _load(args.name, cameras=False)
    data_config = resolve_data_config(model=model)
    check_stretched(data_config, '--for')
    write_roboflow(model.eval(), folder, data_config=data_config, force=args.force)
    print(f"{folder}: after import msinet_timm, ReIDModel.from_pretrained('{folder}') reads it")


def _check(args: argparse.Namespace) -> None:
    if args.host:
        check_host(args.host, args.format, args.preprocessing, args.precision, args.dynamic_size)
        if args.int8:
            raise InputError(f'{args.host} reads float32 files: leave out --int8')
        if args.cameras:
            raise InputError(f'{args.host} feeds images alone: give --camera NAME, and write a file for each')
        if args.dataset and args.host in HOSTS and HOSTS[args.host].grow:
            raise InputError(
                f'--dataset: the file for {args.host} cuts away what that adds to boxes, so it measures no whole '
                'images; measure one without --for'
            )
    if args.host == ROBOFLOW:
        for flag in ('camera', 'images', 'dataset'):
            if getattr(args, flag) is not None:
                raise InputError(f'--{flag}: {ROBOFLOW} reads weights, no exported file; leave it out')
    else:
        check_request(args.format, args.preprocessing, args.precision, args.dynamic_size)
    if not args.int8:
        for flag in ('calibration_images', 'calibration_count'):
            if getattr(args, flag):
                raise InputError(f'--{flag.replace("_", "-")} is for --int8: give that, too')
    elif args.calibration_images is None:
        raise InputError('--int8 needs --calibration-images DIR: about a hundred images of the kind it will see')
    elif args.format not in ('onnx', 'openvino') or args.precision != 'float32':
        raise InputError('--int8 is for the formats onnx and openvino, and instead of another --precision')
    if args.int8 and args.cameras:
        raise InputError(
            '--int8 is for one camera a file, as maps of each have a range of their own: give --camera NAME'
        )
    if args.dataset and (args.cameras or args.camera is not None):
        raise InputError('--dataset measures a file of no camera: leave out --camera and --cameras')
    if not args.dataset and (args.data_dir or args.data_option):
        raise InputError('--data-dir and --data-option are of a data set: name it by --dataset')


def _read_dataset(args: argparse.Namespace) -> ReIDDataset | None:
    """Read before the export, so that it doesn't run for nothing."""
    if not args.dataset:
        return None
    return create_dataset(args.dataset, args.data_dir, **parse_options(args.data_option))


def _run_search(args: argparse.Namespace) -> None:
    """Exports a network of person search."""
    if args.format != 'onnx':
        raise InputError(f'{args.name}: a network of person search is exported as onnx only: give --format onnx')
    for flag in ('preprocessing', 'camera', 'cameras', 'int8', 'calibration_images', 'calibration_count', 'dataset'):
        if getattr(args, flag) not in (None, False):
            raise InputError(f'--{flag.replace("_", "-")} is not for a network of person search: leave it out')
    if args.precision != 'float32':
        raise InputError(f'--precision {args.precision}: a network of person search is exported in float32')
    if args.output:
        make_folder(Path(args.output).parent, '--output')
    path = export_search(
        load_search(args.name), args.output or _default_output(args), images=args.images, force=args.force
    )
    print(f'{path}: {file_size(path) / 1e6:.1f} MB, takes uint8 frames [3, height, width], gives {", ".join(OUTPUTS)}')


def _default_output(args: argparse.Namespace) -> str:
    name = args.name.removeprefix('local-dir:').removeprefix('hf-hub:').partition('@')[0]
    precision = 'int8' if args.int8 else args.precision
    camera = '-cameras' * args.cameras + (f'-{args.camera}'.replace('/', '_') if args.camera is not None else '')
    suffix = SUFFIXES.get(args.format, '')
    if args.host:
        suffix = f'-{args.host.removesuffix("-onnx")}' + (HOSTS[args.host].suffix if args.host in HOSTS else '')
    return Path(name).absolute().name + camera + f'-{precision}' * (precision != 'float32') + suffix


def _load(name: str, cameras: bool) -> tuple[nn.Module, str, CameraNorms | None]:
    """A model that embeds, the SHA-256 of its weights (the recorded one if there is one), and its cameras if asked."""
    entry, weights, _ = find_weights(name)
    if not weights.is_file():
        raise InputError(f'{weights} is missing')
    if entry:
        check_file(weights, entry, name)
    model = without_classifiers(load_weights(weights, entry))
    known = find_cameras(name) if cameras else None
    if cameras and known is None:
        raise InputError(f'{name} knows no cameras ({FILE_NAME}): make it by msinet-hub adapt')
    norms = CameraNorms.load(known.parent, model.eval()) if known else None
    return model, sha256_of(weights), norms


def _export_int8(model: nn.Module, format: str, path: Path, images: list[str], options: dict[str, Any]) -> list[str]:
    from msinet_timm.export.quantize import quantize

    with tempfile.TemporaryDirectory() as folder:
        source = export(model, format, Path(folder, path.name), **options)
        floating = load_exported(source)
        inputs = list(graph_inputs(images, options['data_config'], preprocessing=options['preprocessing']))
        quantize(source, path, inputs, force=options['force'])
        quantized = load_exported(path)
        ratio = speed_ratio(floating, quantized, _speed_batch(floating, options['data_config']))
        return [
            _size_line(quantized),
            f'against float32 in this format: {file_size(path) / file_size(source):.2f} of the size, '
            f'{ratio:.2f} times as fast (batch {_BATCH})',
            f'calibrated on {len(inputs)} images',
        ]


def _size_line(exported: Exported) -> str:
    kind = exported.metadata['input']
    cameras = [f'{number} {name}' for number, name in enumerate(exported.cameras)]
    of = f', cameras {", ".join(cameras)}, {len(cameras)} any other' if cameras else ''
    if 'camera' in exported.metadata:
        of = f', of camera {exported.metadata["camera"]}'
    return (
        f'{exported.path}: {file_size(exported.path) / 1e6:.1f} MB, {exported.metadata["precision"]}, takes '
        f'{kind["dtype"]} images {kind["shape"]}{of}'
    )


def _speed_batch(exported: Exported, data_config: dict[str, Any]) -> torch.Tensor:
    images = torch.rand(_BATCH, *data_config['input_size'])
    return (255 * images).byte() if exported.metadata['input']['dtype'] == 'uint8' else images


def speed_ratio(slow: Callable, fast: Callable, images: torch.Tensor) -> float:
    """How many times as fast a model is as another, called in turns: a ratio of medians."""
    seconds = in_turns({'slow': lambda: slow(images), 'fast': lambda: fast(images)}, _ROUNDS)
    return statistics.median(seconds['slow']) / statistics.median(seconds['fast'])


def _accuracy_line(
    measure: Measure, model: nn.Module, exported: Exported, dataset: ReIDDataset, data_config: dict[str, Any]
) -> str:
    module = ExportedModule(exported)
    right = measure(model, dataset, data_config, None)
    found = measure(module, dataset, data_config, module.transform)
    return (
        f'mAP on {dataset.name}: {100 * found:.2f} %, PyTorch {100 * right:.2f} % ({100 * (found - right):+.2f} points)'
    )
