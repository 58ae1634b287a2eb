"""Inputs and weights that the published network's figures in this folder were computed from.

All come from numpy's frozen RandomState stream, seeded by a number or by the CRC-32 of a tensor's name.
"""

import json
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parent


@cache
def load_json(name: str) -> dict:
    return json.loads((FOLDER / name).read_text())


def load_tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / name)


def image(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    values = np.random.RandomState(seed).standard_normal(int(np.prod(shape)))
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def _tensor(name: str, shape: list[int]) -> torch.Tensor:
    n = int(np.prod(shape))
    w = np.random.RandomState(crc32(name.encode())).standard_normal(n)
    if name.endswith('num_batches_tracked'):
        return torch.zeros(shape, dtype=torch.long)
    if name in ('head.bias', 'f_head.bias'):
        w = np.zeros(n)
    elif name.endswith('running_var'):
        w = 1 + 0.25 * np.tanh(w)
    elif name.endswith('running_mean'):
        w = 0.05 * w
    elif name.endswith('gamma'):
        w = 0.5 + 0.1 * np.tanh(w)
    elif len(shape) == 1 and name.endswith('weight'):
        w = 1 + 0.1 * np.tanh(w)
    elif len(shape) == 1:
        w = 0.02 * w
    else:
        w = w / np.sqrt(n / shape[0])
    return torch.from_numpy(w.reshape(shape).astype(np.float32))


def state_dict(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The weights of a network whose tensors have the given names (published ones) and shapes."""
    return {name: _tensor(name, shape) for name, shape in shapes.items()}


def assert_golden(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Compares with the tolerance of the figures; `atol` is a share of the largest figure."""
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=rtol, atol=atol * scale)
