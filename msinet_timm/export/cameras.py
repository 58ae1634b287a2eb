"""Cameras in exported files: the statistics of one put into the weights, or those of all as tables beside them."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from msinet_timm.models.camera_norm import CameraNorms, Statistics, switched_form

__all__ = ['ByCamera', 'OfCamera', 'Switched', 'adapted', 'split_norms']

#: Factors and terms [B, C] of each norm for the images that run through; empty in between.
_Rows = list[tuple[Tensor, Tensor]]


def adapted(norms: CameraNorms, camera: str) -> nn.Module:
    """A copy of a model with the statistics of one camera, norms still apart."""
    network, switch = switched_form(norms, fuse=False)
    switch(norms.statistics(camera))
    return network


class OfCamera(nn.Module):
    """A model that gives embeddings [B, D] without a camera's mean embedding [D]."""

    def __init__(self, model: nn.Module, embedding: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer('embedding', embedding.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to embeddings [B, D]."""
        return self.model(images) - self.embedding


class Switched(nn.Module):
    """What is right for images of several cameras: PyTorch's embeddings, one camera after another.

    Args:
        norms: of the model.
        network: that runs.
        switch: puts statistics into it.
    """

    def __init__(self, norms: CameraNorms, network: nn.Module, switch: Callable[[Statistics], None]) -> None:
        super().__init__()
        self.model, self._switch = network, switch
        self._statistics = _all_statistics(norms)

    def forward(self, images: Tensor, cameras: Tensor) -> Tensor:
        """Images [B, 3, H, W] and indices [B] of their cameras to embeddings [B, D]."""
        found: dict[int, Tensor] = {}
        for camera in cameras.unique().tolist():
            self._switch(self._statistics[camera])
            places = (cameras == camera).nonzero().flatten()
            embeddings = self.model(images[places])
            embeddings = embeddings - self._statistics[camera].embedding.to(embeddings)
            found |= zip(places.tolist(), embeddings, strict=True)
        return torch.stack([found[i] for i in range(len(images))])


def _all_statistics(norms: CameraNorms) -> list[Statistics]:
    """Those of each camera by its index, and then those of unknown ones."""
    return [norms.statistics(camera) for camera in (*norms, None)]


class ByCamera(nn.Module):
    """A network with the statistics of all cameras: one set of weights, and a row of a table for each camera.

    Args:
        model: around the network that `split_norms` gives.
        norms: of the model.
        rows: see `split_norms`.
        table: see `split_norms`.
    """

    def __init__(self, model: nn.Module, norms: CameraNorms, rows: _Rows, table: Tensor) -> None:
        super().__init__()
        self.model = model
        self._rows = rows
        self._channels = [count for _, count in norms.layout]
        self._unknown = len(norms)
        self.register_buffer('table', table)

    def forward(self, images: Tensor, cameras: Tensor) -> Tensor:
        """Images [B, 3, H, W] and indices [B] of their cameras to embeddings [B, D].

        An index that no camera has stands for an unknown one, in every runtime.
        """
        unknown = torch.full_like(cameras, self._unknown)
        cameras = torch.where((cameras >= 0) & (cameras < self._unknown), cameras, unknown)
        rest = self.table.size(1) - 2 * sum(self._channels)
        *parts, mean = self.table.index_select(0, cameras).split([*self._channels, *self._channels, rest], 1)
        count = len(self._channels)
        self._rows[:] = zip(parts[:count], parts[count:], strict=True)
        embeddings = self.model(images) - mean
        self._rows.clear()
        return embeddings


class _Convs(nn.Module):
    """Convolutions of inputs side by side, their outputs scaled, summed up and shifted by camera.

    Args:
        convs: without their norms.
        numbers: of their norms in `rows`.
        rows: see `_Rows`.
    """

    def __init__(self, convs: Sequence[nn.Conv2d], numbers: Sequence[int], rows: _Rows) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self._numbers, self._rows = list(numbers), rows

    def forward(self, x: Tensor) -> Tensor:
        channels = [conv.in_channels for conv in self.convs]
        inputs = x.split(channels, 1) if len(channels) > 1 else (x,)
        factors, terms = zip(*(self._rows[number] for number in self._numbers), strict=True)
        scaled = [
            conv(x) * factor[..., None, None] for conv, x, factor in zip(self.convs, inputs, factors, strict=True)
        ]
        return (_sum(scaled) + _sum(terms)[..., None, None]).to(x.dtype)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


class _Norm(nn.Module):
    """A norm, of whatever class, that takes its input as if the camera's statistics were its own."""

    def __init__(self, norm: nn.Module, number: int, rows: _Rows) -> None:
        super().__init__()
        self.norm = norm
        self._number, self._rows = number, rows

    def forward(self, x: Tensor) -> Tensor:
        at = (..., *[None] * (x.ndim - 2))
        factor, term = self._rows[self._number]
        return self.norm((x * factor[at] + term[at]).to(x.dtype))


def split_norms(norms: CameraNorms) -> tuple[nn.Module, _Rows, Tensor]:
    """A model's inference form whose norms follow the camera of each image.

    Returns:
        The network; the rows that it reads, which `ByCamera` fills; and the table [cameras + 1, 2T + D] that they are
        of: factors and terms of all norms, and the mean embedding. The last row is that of unknown cameras.
    """
    network, switch = switched_form(norms)
    rows: _Rows = []
    names = {module: name for name, module in network.named_modules()}
    folded: dict[nn.Module, list[tuple[int, nn.Module, int]]] = {}
    for number, (norm, fold) in enumerate(switch.steps):
        if norm is None:
            folded.setdefault(fold.folded, []).append((fold.start, copy.deepcopy(fold.conv), number))
        else:
            network.set_submodule(names[norm], _Norm(norm, number, rows))
    for module, parts in folded.items():
        _, convs, numbers = zip(*sorted(parts, key=lambda part: part[0]), strict=True)
        network.set_submodule(names[module], _Convs(convs, numbers, rows))
    kept = [
        torch.full((count,), norm is not None) for (norm, _), (_, count) in zip(switch.steps, norms.layout, strict=True)
    ]
    found = _all_statistics(norms)
    mask = (torch.cat(kept) if kept else torch.zeros(0, dtype=torch.bool)).to(found[0].mean.device)
    table = []
    for statistics in found:
        scale, shift = switch.affine(statistics)
        ratio, term = switch.correction(found[-1], statistics)
        table.append(torch.cat([torch.where(mask, ratio, scale), torch.where(mask, term, shift), statistics.embedding]))
    return network, rows, torch.stack(table).detach()
