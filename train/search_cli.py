"""Moved to `msinet_train.search.cli`; `torchrun -m msinet_train.search_cli` goes on working."""

from .search.cli import main

if __name__ == '__main__':
    raise SystemExit(main())
