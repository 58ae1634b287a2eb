"""Camera norms: each camera's own statistics of a model's batch norms, from crops that nobody has labelled.

Most of what stands between a model and cameras that it has not seen is in their light, colour and blur, and that lies
in the statistics of the batch norms. After Zhuang et al., "Rethinking the Distribution Gap of Person Re-identification
with Camera-based Batch Normalization" (ECCV 2020).
"""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from msinet_timm.errors import InputError, explained
from msinet_timm.files import replace_file

from .fused import Fold, recorded_folds

__all__ = [
    'CAMERA_NORM',
    'ENOUGH',
    'FILE_NAME',
    'CameraNorms',
    'NormSwitch',
    'Statistics',
    'device_of',
    'hash_weights',
    'switched_form',
]

FILE_NAME = 'cameras.safetensors'
#: An attribute of a model, and a field of its configuration: whether it was trained with each camera's statistics.
CAMERA_NORM = 'camera_norm'
#: Crops of a camera below which its statistics are mostly the model's own.
ENOUGH = 16
#: What the model's own mean embedding and statistics of norms count, in crops. What a few dozen people have in common
#: is not all their camera's, so norms follow it by a little only (measured, see docs/fine-tuning.md). Those of a model
#: that was trained with each camera's statistics have to follow.
OWN_MEAN, OWN_NORMS, OWN_NORMS_OF_CAMERAS = 16, 256, 16
#: Crops that a camera's statistics remember: what came before fades out.
MEMORY = 1024


class Statistics(NamedTuple):
    """What is put in the place of a model's own statistics.

    Attributes:
        mean: [T] of the inputs of all batch norms that embeddings depend on, one after another.
        variance: [T] of the same.
        embedding: [D], to be taken from embeddings before they are normalised.
    """

    mean: Tensor
    variance: Tensor
    embedding: Tensor


@dataclass
class _Camera:
    """What has been seen of a camera: a number of crops, and plain statistics over them."""

    count: int
    seen: Statistics

    @property
    def offset(self) -> Tensor:
        """What is to be taken from its embeddings."""
        return self.seen.embedding * (self.count / (self.count + OWN_MEAN))


class CameraNorms:
    """What a model knows of cameras.

    ```
    norms = CameraNorms(model)
    norms.observe('door', images)  # [N, 3, H, W], normalised as the model takes them
    model, switch = switched_form(norms)
    switch(norms.statistics('door'))
    ```

    The statistics of a norm are those of its input in the model whose norms before it have the camera's statistics
    already, as they will when it embeds. Of few crops they are uncertain: they are mixed with the model's own, which
    count as `OWN_NORMS` crops, or `OWN_NORMS_OF_CAMERAS` where `model.camera_norm` is true. Norms that embeddings don't
    depend on, such as those before classifiers, stay as they are.

    Attributes:
        model: embeds images [B, 3, H, W] as [B, D]. In evaluation mode; it stays as it is.
        layout: names of the norms and their channels, of T in all; empty for a model without batch norms.

    Args:
        model: see above.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layout: list[tuple[str, int]] = []
        self._weight = OWN_NORMS_OF_CAMERAS if getattr(model, CAMERA_NORM, False) else OWN_NORMS
        self._cameras: dict[str, _Camera] = {}
        self._own: tuple[Tensor, Tensor] | None = None

    def __contains__(self, camera: object) -> bool:
        return camera in self._cameras

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)

    @property
    def counts(self) -> dict[str, int]:
        """Crops that have been seen, by camera; no more than `MEMORY` are remembered."""
        return {name: camera.count for name, camera in self._cameras.items()}

    @torch.inference_mode()
    def observe(self, camera: str, images: Tensor | Iterable[Tensor], total: int = 0) -> None:
        """Adds crops to what is known of a camera: all of them, or none where something is wrong.

        Args:
            camera: its name.
            images: [N, 3, H, W] crops of it, normalised, on the model's device: as many as fit into memory. Or several
                such batches, which the norms follow one after another.
            total: crops in all batches, where that is known: the first are then embedded as if all had been seen.

        Raises:
            InputError: no name, no images, images of one colour, or the model gives something else than finite vectors
                for them.
        """
        if not isinstance(camera, str) or not camera:
            raise InputError(f'a camera is named by a text, got {camera!r}')
        known, layout = self._cameras.get(camera), self.layout
        total += known.count if known else 0
        lowest = highest = None
        for batch in [images] if isinstance(images, Tensor) else images:
            if not len(batch):
                continue
            known, layout = self._follow(camera, batch, known, layout, total)
            least, most = batch.amin((0, 2, 3)), batch.amax((0, 2, 3))
            lowest = least if lowest is None else lowest.minimum(least)
            highest = most if highest is None else highest.maximum(most)
        if lowest is None:
            raise InputError(f"camera '{camera}': no images")
        if (lowest == highest).all():
            raise InputError(f"camera '{camera}': its images are all of one colour, and tell nothing about it")
        self._cameras[camera], self.layout = known, layout

    def _follow(
        self, camera: str, images: Tensor, known: _Camera | None, layout: list[tuple[str, int]], total: int
    ) -> tuple[_Camera, list[tuple[str, int]]]:
        """What is known of a camera after one more batch, and the layout."""
        count = known.count if known else 0
        found, passed = self._pass(images, count, dict(_split(known.seen, layout)) if known else {}, total)
        if not isinstance(found, Tensor) or found.ndim != 2 or not found.isfinite().all():
            raise InputError(f"camera '{camera}': {type(self.model).__name__} gives no finite vectors for its images")
        layout = layout or [(name, len(mean)) for name, (mean, _) in passed.items()]
        mean, variance = _side_by_side(passed, found.device)
        embedding = found.float().mean(0)
        if known:
            embedding = known.seen.embedding.lerp(embedding, len(found) / (count + len(found)))
        return _Camera(min(count + len(found), MEMORY), Statistics(mean, variance, embedding)), layout

    def _pass(
        self, images: Tensor, before: int, past: dict[str, tuple[Tensor, Tensor]], total: int
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Embeds images while the norms follow them.

        Args:
            images: see `observe`.
            before: crops that the camera's statistics are of.
            past: these statistics, by the name of the norm.
            total: see `observe`, with those before.

        Returns:
            Embeddings, and the statistics with these images, of the norms that have run.
        """
        norms = _norms_of(self.model)
        own = {name: (norm.running_mean, norm.running_var) for name, norm in norms.items()}
        fresh: dict[str, tuple[Tensor, Tensor]] = {}
        passed: dict[str, tuple[Tensor, Tensor]] = {}
        runs = Counter()  # a norm may run several times in one pass

        def follow(name: str, norm: nn.Module, x: Tensor) -> None:
            x, places = x.float(), [0, *range(2, x.ndim)]
            mean = x.mean(places)
            # torch.var_mean takes several times as long on the CPU
            variance = (x - mean.view(-1, *[1] * (x.ndim - 2))).square_().mean(places)
            fresh[name] = _merge(runs[name], *fresh[name], 1, mean, variance) if runs[name] else (mean, variance)
            runs[name] += 1
            passed[name] = _merge(before, *past[name], len(x), *fresh[name]) if name in past else fresh[name]
            seen = min(max(total, before + len(x)), MEMORY)
            norm.running_mean, norm.running_var = _merge(self._weight, *own[name], seen, *passed[name])

        hooks = [
            norm.register_forward_pre_hook(lambda norm, inputs, name=name: follow(name, norm, inputs[0]))
            for name, norm in norms.items()
        ]
        try:
            found = self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
            for name, norm in norms.items():
                norm.running_mean, norm.running_var = own[name]
        return found, {name: passed[name] for name in norms if name in passed}

    def update(self, other: 'CameraNorms') -> None:
        """Takes over what others of the same model know of cameras, in the place of what is known of these."""
        self.layout = other.layout or self.layout
        self._cameras.update(other._cameras)

    def own(self) -> tuple[Tensor, Tensor]:
        """The model's own statistics of the norms, mean and variance [T]."""
        device = device_of(self.model)
        if self._own is None or self._own[0].device != device:
            norms = _norms_of(self.model)
            found = {name: (norms[name].running_mean, norms[name].running_var) for name, _ in self.layout}
            self._own = _side_by_side(found, device)
        return self._own

    def statistics(self, camera: str | None) -> Statistics:
        """What to embed the crops of a camera with.

        Args:
            camera: its name. None, or one that has not been seen, gives the model's own statistics, and the mean of
                the embeddings of all cameras.

        Raises:
            InputError: no camera has been seen.
        """
        if not self._cameras:
            raise InputError('no camera has been seen: give crops of each')
        own = self.own()
        if camera not in self._cameras:
            offsets = [known.offset for known in self._cameras.values()]
            return Statistics(*own, torch.stack(offsets).mean(0).to(own[0].device))
        known = self._cameras[camera]
        # the model may have moved since
        mean, variance, offset = (tensor.to(own[0].device) for tensor in (*known.seen[:2], known.offset))
        return Statistics(*_merge(self._weight, *own, known.count, mean, variance), offset)

    def save(self, folder: str | Path) -> Path:
        """Writes `cameras.safetensors`; nothing of the model is in it but its digest.

        Args:
            folder: of the model.
        """
        names = list(self)
        stacked = [
            torch.stack(parts).cpu() for parts in zip(*(self._cameras[name].seen for name in names), strict=True)
        ]
        tensors = dict(zip(Statistics._fields, stacked, strict=True))
        tensors['count'] = torch.tensor([self._cameras[name].count for name in names])
        told = {'cameras': names, 'norms': self.layout, 'weights': hash_weights(self.model)}
        metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in told.items()}
        path = Path(folder) / FILE_NAME
        replace_file(path, lambda partial: save_file(tensors, partial, metadata))
        return path

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> 'CameraNorms | None':
        """What a folder knows of cameras; None where it has no `cameras.safetensors`.

        Args:
            folder: of the model.
            model: with the weights that it was adapted with, and without classifiers.

        Raises:
            InputError: the file cannot be read, or is of another model or other weights.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return None
        with explained(f'{path}: cannot be read'), safe_open(path, 'pt') as file:
            tensors = {name: file.get_tensor(name) for name in (*Statistics._fields, 'count')}
            told = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
            names, layout = list(told['cameras']), [(str(name), int(count)) for name, count in told['norms']]
            weights = told['weights']
        if weights != hash_weights(model):
            raise InputError(
                f'{path}: of another model or other weights than those beside it; make it anew by msinet-hub adapt'
            )
        norms = cls(model)
        norms.layout = layout
        total, own = sum(count for _, count in layout), _norms_of(model)
        fits = all(name in own and len(own[name].running_mean) == count for name, count in layout)
        shapes = [(len(names), total)] * 2 + [(len(names), tensors['embedding'].shape[-1]), (len(names),)]
        fits = fits and [tuple(tensor.shape) for tensor in tensors.values()] == shapes
        whole = all(tensor.isfinite().all() for tensor in tensors.values()) and (tensors['variance'] >= 0).all()
        if not fits or not whole or not (tensors['count'] > 0).all() or not _are_names(names):
            raise InputError(f'{path}: damaged; make it anew by msinet-hub adapt')
        device = device_of(model)
        rows = zip(*(tensors[name].float().to(device) for name in Statistics._fields), strict=True)
        for name, count, row in zip(names, tensors['count'].tolist(), rows, strict=True):
            norms._cameras[name] = _Camera(count, Statistics(*row))
        return norms


def _are_names(names: Sequence) -> bool:
    return all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)


def _split(statistics: Statistics, layout: Sequence[tuple[str, int]]) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Mean and variance of each norm."""
    channels = [count for _, count in layout]
    parts = statistics.mean.split(channels), statistics.variance.split(channels)
    for (name, _), mean, variance in zip(layout, *parts, strict=True):
        yield name, (mean, variance)


def _norms_of(model: nn.Module) -> dict[str, nn.Module]:
    """Batch norms that have statistics, also frozen ones, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, 'running_mean', None), Tensor) and not isinstance(module, _InstanceNorm)
    }


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer is; the CPU if it has none."""
    return next((t.device for tensors in (model.parameters(), model.buffers()) for t in tensors), torch.device('cpu'))


def _side_by_side(found: Mapping[str, tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Means and variances [T] of norms."""
    if not found:
        return torch.zeros(0, device=device), torch.zeros(0, device=device)
    mean, variance = zip(*found.values(), strict=True)
    return torch.cat(mean).float(), torch.cat(variance).float()


def _merge(
    count: int, mean: Tensor, variance: Tensor, more: int, mean2: Tensor, variance2: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of two sets together, from those of `count` and of `more` members."""
    share = more / (count + more)
    spread = share * (1 - share) * (mean2 - mean) ** 2
    return mean.lerp(mean2, share), variance.lerp(variance2, share) + spread


def hash_weights(model: nn.Module, prefix: str = '') -> str:
    """SHA-256 of the names, types, shapes and values of a model's tensors, after a text."""
    digest = hashlib.sha256(prefix.encode())
    for name, tensor in model.state_dict().items():
        digest.update(f'{name} {tensor.dtype} {list(tensor.shape)}'.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class NormSwitch:
    """Puts statistics into a network that runs, in place: from then on it embeds the crops of that camera.

    Args:
        norms: of the model that the network was made of.
        network: whose norms have the names that they have in the model, unless they are folded.
        folds: by the names of the norms, where in the network each is folded.

    Attributes:
        steps: by the norms of `norms.layout`: the norm in the network, or None and where it is folded.
    """

    def __init__(self, norms: CameraNorms, network: nn.Module, folds: Mapping[str, Fold]) -> None:
        own, left = _norms_of(norms.model), _norms_of(network)
        self._channels = [count for _, count in norms.layout]
        modules = [own[name] for name, _ in norms.layout]
        dd = {'device': modules[0].running_mean.device} if modules else {}
        ones = [torch.ones(count, **dd) for count in self._channels]
        gain = [one if m.weight is None else m.weight.detach() for m, one in zip(modules, ones, strict=True)]
        bias = [0 * one if m.bias is None else m.bias.detach() for m, one in zip(modules, ones, strict=True)]
        epsilon = [m.eps * one for m, one in zip(modules, ones, strict=True)]
        self._gain, self._bias, self._epsilon = (
            torch.cat(parts).float() if parts else torch.zeros(0, device=device_of(norms.model))
            for parts in (gain, bias, epsilon)
        )
        self.steps = [(left.get(name), folds.get(name)) for name, _ in norms.layout]

    def affine(self, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Factor and term [T] that norms with these statistics are."""
        scale = self._gain * (statistics.variance + self._epsilon).rsqrt()
        return scale, self._bias - statistics.mean * scale

    def correction(self, own: Statistics, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Factor and term [T] of inputs that make norms with `own` statistics give what they would with others."""
        ratio = ((own.variance + self._epsilon) / (statistics.variance + self._epsilon)).sqrt()
        return ratio, own.mean - statistics.mean * ratio

    @torch.inference_mode()
    def __call__(self, statistics: Statistics) -> None:
        """Puts statistics in place, see `CameraNorms.statistics`."""
        scale, shift = self.affine(statistics)
        parts = (tensor.split(self._channels) for tensor in (statistics.mean, statistics.variance, scale, shift))
        cleared: set[nn.Module] = set()
        for (norm, fold), mean, variance, factor, term in zip(self.steps, *parts, strict=True):
            if norm is not None:
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
                continue
            target = fold.folded.weight.narrow(1, fold.start, fold.conv.weight.size(1))
            torch.mul(fold.conv.weight, factor.view(-1, 1, 1, 1), out=target)
            if fold.conv.bias is not None:
                term = term + fold.conv.bias * factor
            if fold.folded in cleared:
                fold.folded.bias.add_(term)
            else:  # of convolutions side by side, biases add up
                fold.folded.bias.copy_(term)
                cleared.add(fold.folded)


def switched_form(norms: CameraNorms, fuse: bool = True) -> tuple[nn.Module, NormSwitch]:
    """A copy of a model that runs with the statistics of one camera or another, without memory for each.

    Args:
        norms: of the model; at least one camera has been seen.
        fuse: fold norms, see `timm.utils.reparameterize_model`, where statistics can be put in place then, too: in an
            MSINet. Other models with folds of their own stay as they are.

    Returns:
        The network, with the model's own statistics, and what changes them.
    """
    model, names = norms.model, {name for name, _ in norms.layout}
    network = copy.deepcopy(model)
    if not fuse:
        return network, NormSwitch(norms, network, {})
    sources, twins = dict(model.named_modules()), {module: name for name, module in network.named_modules()}
    with recorded_folds() as record:
        network = reparameterize_model(network, inplace=True)
    folds = {twins[norm]: fold._replace(conv=sources[twins[fold.conv]]) for norm, fold in record.items()}
    if not names <= {*folds, *_norms_of(network)}:
        network, folds = copy.deepcopy(model), {}
    return network, NormSwitch(norms, network, folds)
