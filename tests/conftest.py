"""Parallel workers (`make test` starts two) compute with one thread each, and so do the processes that they start."""

import os
import tempfile

if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # read by PyTorch when it is imported

# what the user's searches have found is read when the models are imported, and no test's business
os.environ['MSINET_GENOTYPES'] = os.path.join(tempfile.gettempdir(), f'genotypes-of-tests-{os.getpid()}')

import pytest
import torch

import msinet_timm  # noqa: F401  registers the models with timm


@pytest.fixture(autouse=True)
def _threads():
    """What a command sets for itself ends with its test: threads that wait for each other cost ten times the time."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
