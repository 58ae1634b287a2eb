"""A network for tests that compile, trace or quantise one, in a second."""

import torch
import torch.nn as nn

from msinet_timm.models.blocks import Cell, ConvBlock


class SmallNetwork(nn.Module):
    """A stem, a cell with both interactions that compute something, and pooling: all kinds of operations of MSINet.

    Args:
        stem: channels after the first convolution.
        width: of the embedding.
        kernel: of the first convolution, and so for `stride`.
    """

    def __init__(self, stem: int, width: int, kernel: int = 7, stride: int = 2):
        super().__init__()
        self.stem = ConvBlock(3, stem, kernel, stride)
        self.cell = Cell(stem, width, ('ag', 'cross_att'))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(self.stem(x)).mean((2, 3))
