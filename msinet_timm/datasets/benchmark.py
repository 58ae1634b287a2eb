"""Moved: `python -m msinet_timm.datasets.benchmark` goes on working as `python -m msinet_train.benchmark.loading`."""

import runpy

if __name__ == '__main__':
    runpy.run_module('msinet_train.benchmark.loading', run_name='__main__')
