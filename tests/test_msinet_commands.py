"""What is done before PyTorch is imported."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import msinet_commands
from msinet_timm.commands import command


@pytest.fixture
def bare(monkeypatch):
    """An environment in which nobody has said how threads wait."""
    for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def _handler():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('bare', '_handler')
@pytest.mark.parametrize(
    'name, value', [('OMP_WAIT_POLICY', 'active'), ('GOMP_SPINCOUNT', '7'), ('OMP_WAIT_POLICY', '')]
)
def test_how_threads_wait_is_the_users_to_say(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    msinet_commands.begin()
    assert dict(os.environ) == before


@pytest.mark.usefixtures('bare', '_handler')
def test_ctrl_c_is_answered_until_all_is_ready(monkeypatch):
    before = dict(os.environ)
    msinet_commands.begin()
    assert dict(os.environ) == before | msinet_commands.WAITING
    for name in msinet_commands.WAITING:
        monkeypatch.delenv(name)
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    handlers = []
    command(lambda argv: handlers.append(signal.getsignal(signal.SIGINT)))([])
    assert handlers == [signal.default_int_handler]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as behind nohup
    msinet_commands.begin()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    command(lambda argv: None)([])
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def told(*words, **environment):
    """What GNU's OpenMP has read when it was loaded, as far as it is about waiting."""
    variables = {n: v for n, v in os.environ.items() if n not in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')}
    variables |= {'OMP_DISPLAY_ENV': 'verbose', **environment}
    result = subprocess.run([sys.executable, *words], env=variables, capture_output=True, text=True)
    lines = [line.strip() for line in result.stderr.splitlines() if 'GOMP_SPINCOUNT' in line]
    if not lines:
        pytest.skip('PyTorch has another OpenMP here')
    return lines[0].rpartition('= ')[2].strip("'")


def test_it_is_said_before_openmp_is_loaded():
    assert told('-m', 'msinet_eval', '--help') == '10000'
    assert told('-m', 'msinet_train.benchmark', '--help', GOMP_SPINCOUNT='77') == '77'
    assert told('-c', 'import msinet_commands; msinet_commands.data(["list"])') == '10000'
    # a program that only imports us decides for itself
    assert told('-c', 'import msinet_eval') not in ('10000', '77')


def test_threads_may_run_commands():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(command(lambda argv: 3)([])))
    thread.start()
    thread.join()
    assert codes == [3]
