"""The commands' way in: Ctrl-C is answered also while PyTorch and timm are imported, which takes seconds."""

import os
import signal
from collections.abc import Callable
from importlib import import_module

__all__ = ['data', 'evaluate', 'hub', 'search', 'train']


def _interrupted(*_: object) -> None:
    os.write(2, b'interrupted\n')
    os._exit(130)  # half-imported packages would have much to say


def _command(module: str) -> Callable[..., int]:
    def main(argv: list[str] | None = None) -> int:
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and not ignored, as behind nohup
        if usual:
            signal.signal(signal.SIGINT, _interrupted)
        try:
            run = import_module(module).main
        finally:
            if usual:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        return run(argv)

    return main


data = _command('msinet_timm.cli.data')
hub = _command('msinet_eval.commands.hub')
evaluate = _command('msinet_eval.cli')
search = _command('msinet_train.search.cli')
train = _command('msinet_train.cli')
