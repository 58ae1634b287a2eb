"""Moved to `msinet_train.benchmark.search`; `python -m msinet_train.benchmark_search` goes on working."""

from .benchmark.search import main

if __name__ == '__main__':
    raise SystemExit(main())
