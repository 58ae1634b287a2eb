"""The command `msinet-eval pair`: how far apart two images are, and whether they show the same one."""

import argparse
import json

import torch
from timm.models import is_model_pretrained

from msinet_eval.features.extract import extract
from msinet_eval.metrics.calibration import find_calibration
from msinet_eval.models.load import load_model
from msinet_timm.commands import find_device, positive, positive_float
from msinet_timm.datasets import Record
from msinet_timm.errors import InputError

__all__ = ['add_arguments', 'run']

_DEFAULT_MODEL = 'msinet_x1_0'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument('a', metavar='A.jpg', help='an image, cropped to one person or vehicle')
    parser.add_argument('b', metavar='B.jpg', help='another')
    parser.add_argument(
        '--model', metavar='NAME', help=f'as for msinet-eval (default: {_DEFAULT_MODEL}, if pretrained)'
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for a model given by name')
    parser.add_argument('--threshold', type=positive_float, metavar='DISTANCE', help='instead of the calibrated one')
    parser.add_argument('--height', type=positive, metavar='PIXELS', help="input height (default: the model's own)")
    parser.add_argument('--width', type=positive, metavar='PIXELS', help="input width (default: the model's own)")
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    parser.add_argument('--json', metavar='FILE', help='write the answer')


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    name = args.model or _find_default()
    threshold, origin = args.threshold, 'given'
    if threshold is None:
        calibration = find_calibration(args.checkpoint or name)
        if calibration:
            threshold = calibration.threshold
            origin = f'calibrated on {calibration.dataset}: {100 * calibration.false_positive_rate:.2g} % false alarms'
    distance, cosine = _compare(args, name)
    print(f'distance {distance:.4f}, cosine {cosine:.4f} ({name})')
    if threshold is None:
        print(
            f'Whether this is the same one depends on a threshold, and {name} has none: give --threshold, or measure '
            f'one with msinet-eval {args.checkpoint or name} -ds DATASET --data-dir DIR --calibrate'
        )
    else:
        verdict = 'the same one' if distance <= threshold else 'not the same one'
        print(f'{verdict}: the threshold is {threshold:.4f} ({origin})')
    if args.json:
        same = None if threshold is None else distance <= threshold
        answer = {'a': args.a, 'b': args.b, 'model': name, 'distance': distance, 'cosine': cosine}
        _write_json(args.json, answer | {'threshold': threshold, 'same': same})
    return 0


def _find_default() -> str:
    if not is_model_pretrained(_DEFAULT_MODEL):
        raise InputError(f'{_DEFAULT_MODEL} has no pretrained weights yet: give --model, such as the folder of a run')
    return _DEFAULT_MODEL


def _compare(args: argparse.Namespace, name: str) -> tuple[float, float]:
    """Euclidean distance and cosine of two images' normalised embeddings."""
    model, config = load_model(name, args.checkpoint, args.height, args.width)
    records = [Record(path, path) for path in (args.a, args.b)]
    a, b = extract(model, records, data_config=config, workers=0, device=find_device(args.device)).embeddings
    return float(torch.dist(a, b)), float(a @ b)


def _write_json(path: str, answer: dict) -> None:
    try:
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(answer, file, indent=2)
            file.write('\n')
    except OSError as e:
        raise InputError(f'--json {path}: cannot write ({e.strerror})') from e
