"""Time and memory of rankings: `python -m msinet_eval.benchmark`."""
