"""The commands' way in: what has to be done before PyTorch and timm are imported, which takes seconds.

Ctrl-C is answered meanwhile, and OpenMP is told to wait otherwise. All commands start here; what is started by `python
-m` or `torchrun -m` comes by as soon as a package of ours is imported.
"""

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module

__all__ = ['WAITING', 'begin', 'data', 'evaluate', 'gallery', 'hub', 'ready', 'search', 'track', 'train']

#: How long threads of GNU's OpenMP look whether the others have come, before they sleep: see docs/speed.md.
WAITING = {'GOMP_SPINCOUNT': '10000'}
#: Whoever has set one of these has said how threads are to wait.
_SAID = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')


def _interrupted(*_: object) -> None:
    os.write(2, b'interrupted\n')
    os._exit(130)  # half-imported packages would have much to say


def begin() -> None:
    """Prepares this process for a command whose packages are imported next; `ready` ends that."""
    if not any(name in os.environ for name in _SAID):
        os.environ.update(WAITING)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as behind nohup
        signal.signal(signal.SIGINT, _interrupted)


def ready() -> None:
    """Lets Ctrl-C raise `KeyboardInterrupt` again: packages are imported."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_program() -> bool:
    """Whether Python looks for a module of ours to run it, and imports the packages that it is in."""
    words = sys.orig_argv
    module = words[words.index('-m') + 1] if sys.argv[:1] == ['-m'] and '-m' in words[:-1] else ''
    return module.partition('.')[0] in ('msinet_timm', 'msinet_eval', 'msinet_train')


def _command(module: str) -> Callable[..., int]:
    def main(argv: list[str] | None = None) -> int:
        begin()
        try:
            run = import_module(module).main
        finally:
            ready()
        return run(argv)

    return main


data = _command('msinet_timm.cli.data')
hub = _command('msinet_eval.commands.hub')
evaluate = _command('msinet_eval.cli')
gallery = _command('msinet_eval.commands.gallery')
search = _command('msinet_train.search.cli')
track = _command('msinet_eval.commands.track')
train = _command('msinet_train.cli')

if _is_program():
    begin()
