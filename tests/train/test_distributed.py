"""Run as a program, by torchrun: the same training steps by several processes, whose parameters go to a folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn as nn
from safetensors.torch import load_file, save_file
from timm.utils import unwrap_model

import msinet_timm  # noqa: F401
from msinet_train.distributed import convert_sync_batchnorm, gather
from msinet_train.losses.alignment import SpatialAlignment
from msinet_train.losses.task import ReIDTask

KINDS = {
    'published': dict(alignment='pos_neg'),
    'negative': dict(alignment='neg', soft_margin=True, normalize=False),
    'angular': dict(metric_loss='circle', margin=0.25, classifier_loss='cosface'),
}
# Rounding errors grow by the step: the angular losses' gradients are a hundred times larger.
RATES = {'published': 3e-4, 'negative': 3e-4, 'angular': 1e-5}
BATCHES, IDENTITIES, IMAGES = 3, 4, 3


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of all processes: images and labels, identity by identity."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(IDENTITIES).repeat_interleave(IMAGES)
    shape = (len(labels), 3, 64, 32)
    return [(torch.randn(shape, generator=generator, dtype=torch.float64), labels) for _ in range(BATCHES)]


def create_task(*, alignment: str | None = None, **kwargs) -> ReIDTask:
    torch.manual_seed(0)
    model = timm.create_model('msinet_x0_25', widths=(8, 16, 16, 32), num_classes=IDENTITIES)
    model.stem.bn.momentum = None  # a mean of all batches
    alignment = SpatialAlignment(model.global_width, alignment) if alignment else None
    return ReIDTask(convert_sync_batchnorm(model), gather=True, alignment=alignment, **kwargs).double()


def train(kind: str, rank: int = 0, processes: int = 1) -> dict[str, torch.Tensor]:
    """The task's parameters and buffers after a step on this process's part of each batch."""
    task = create_task(**KINDS[kind])
    if processes > 1:
        task.prepare_distributed()
    optimizer = torch.optim.SGD(task.parameters(), lr=RATES[kind], momentum=0.9, weight_decay=5e-4)
    for images, labels in batches():
        optimizer.zero_grad()
        task(images.chunk(processes)[rank], labels.chunk(processes)[rank])['loss'].backward()
        optimizer.step()
    return unwrap_model(task.trainable_module).state_dict()


def main(folder: str) -> None:
    dist.init_process_group('gloo')
    rank, processes = dist.get_rank(), dist.get_world_size()
    for kind in KINDS:
        state = train(kind, rank, processes)
        if rank == 0:
            save_file({k: v.contiguous() for k, v in state.items()}, Path(folder) / f'{kind}.safetensors')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    """Parameters after three steps of two processes that torchrun has started."""
    folder = tmp_path_factory.mktemp('two_processes')
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', __file__, str(folder)]
    run = subprocess.run(
        [sys.executable, *launch],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_two_processes_train_as_one(two_processes, kind):
    expected = train(kind)
    torch.testing.assert_close(load_file(two_processes / f'{kind}.safetensors'), dict(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('kind', KINDS)
def test_the_steps_change_the_parameters(kind):
    after = train(kind)
    moved = {
        n: (p - after[n]).abs().max().item() for n, p in create_task(**KINDS[kind]).trainable_module.named_parameters()
    }
    assert sum(change > 1e-5 for change in moved.values()) > 0.9 * len(moved)


def test_a_single_process_gathers_nothing():
    x = torch.randn(3, 2)
    assert gather(x) is x


@pytest.mark.parametrize('name', ['msinet_x0_25', 'test_resnet', 'test_efficientnet'])
def test_converted_norms_compute_the_same_in_one_process(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).double()
    x = torch.randn(4, 3, 64, 32, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    state = {k: v.clone() for k, v in model.state_dict().items()}
    expected = model.train()(x), model.eval()(x)
    expected_state = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(state)

    converted = convert_sync_batchnorm(model)
    assert not any(type(m) in (nn.BatchNorm1d, nn.BatchNorm2d) for m in converted.modules())
    assert all(converted.get_parameter(n) is p for n, p in parameters.items())
    torch.testing.assert_close((converted.train()(x), converted.eval()(x)), expected, rtol=0, atol=0)
    torch.testing.assert_close(dict(converted.state_dict()), expected_state, rtol=0, atol=0)


if __name__ == '__main__':
    main(sys.argv[1])
