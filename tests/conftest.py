"""Parallel workers (`make test` starts two) compute with one thread each, and so do the processes that they start."""

import os

if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # read by PyTorch when it is imported

import msinet_timm  # noqa: E402, F401  registers the models with timm
