"""Speed of the training step: `python -m msinet_train.benchmark`."""
