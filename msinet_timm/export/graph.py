"""What is exported: a model's inference form, with its preprocessing inside if asked for, and images to feed it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import create_transform
from timm.utils import reparameterize_model
from torchvision.transforms.functional import pil_to_tensor

from msinet_timm.datasets import Record, create_dataset
from msinet_timm.datasets.images import IMAGE_SUFFIXES, load_image
from msinet_timm.datasets.records import spread
from msinet_timm.datasets.tools.verify import map_images, problem_of
from msinet_timm.errors import InputError
from msinet_timm.forms import in_bf16
from msinet_timm.models.camera_norm import CameraNorms, switched_form

from .cameras import ByCamera, OfCamera, Switched, adapted, split_norms
from .hosts import Host

__all__ = ['Preprocessed', 'check_stretched', 'create_graph', 'create_reference', 'find_images', 'graph_inputs']

# Images of a folder that are decoded before some of them are used.
_LOOKED_AT = 1000


class Preprocessed(nn.Module):
    """A model behind its preprocessing: an antialiased resize of the whole image, then mean and deviation.

    Args:
        model: takes normalised images [B, 3, H, W].
        data_config: timm's: `input_size`, `interpolation`, `mean`, `std`.
        resize: leave it out for a graph that takes images of the model's size only.
        host: the program that has resized and normalised the images already; None for bytes. Where it leaves margins
            around boxes, they are cut away, and the rest is resized to the model's size again.
    """

    def __init__(
        self,
        model: nn.Module,
        data_config: Mapping[str, Any],
        resize: bool = True,
        host: Host | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.resize = resize
        self.height, self.width = data_config['input_size'][1:]
        self.interpolation: str = data_config['interpolation']
        mean, std = (torch.tensor(data_config[name]).view(1, -1, 1, 1) for name in ('mean', 'std'))
        self.margins = (0, 0) if host is None else host.margins(data_config)
        if host is None:
            mean, std = 255 * mean, 255 * std
        else:
            before, scale = (torch.tensor(values).view(1, -1, 1, 1) for values in (host.mean, host.std))
            mean, std = (mean - before) / scale, std / scale
        self.register_buffer('mean', mean)
        self.register_buffer('std', std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """RGB images [B, 3, any, any] of 0 to 255, uint8, or as they are fed, to what the model gives."""
        x = images.float()
        if self.resize:
            x = F.interpolate(x, size=(self.height, self.width), mode=self.interpolation, antialias=True)
            x = x.clamp(0, 255)  # bicubic goes beyond, where Pillow's bytes end
        elif any(self.margins):
            top, left = self.margins
            x = x[..., top : self.height - top, left : self.width - left]
            x = F.interpolate(x, size=(self.height, self.width), mode=self.interpolation)
        return self.model((x - self.mean) / self.std)


def create_graph(
    model: nn.Module,
    data_config: Mapping[str, Any],
    *,
    preprocessing: bool = False,
    resize: bool = True,
    bf16: bool = False,
    norms: CameraNorms | None = None,
    camera: str | None = None,
    host: Host | None = None,
) -> nn.Module:
    """A model as it is exported: on the CPU, fused (`timm.utils.reparameterize_model`), in channels_last layout.

    Args:
        model: in evaluation mode; stays as it is.
        data_config: timm's.
        preprocessing: put a `Preprocessed` around it.
        resize: let that resize, too.
        bf16: let the model, and not its preprocessing, compute in bf16.
        norms: of the model's cameras, see `msinet_timm.export.export`.
        camera: the only one that it is for; None for all, by a second input.
        host: the program that prepares the images that it takes, if they are not prepared as the model has them.

    Raises:
        InputError: the model is in training mode, or its preprocessing is more than a resize of the whole image.
    """
    if model.training:
        raise InputError('a model in training mode cannot be exported: call model.eval() first')
    if preprocessing or host is not None:
        check_stretched(data_config, '--preprocessing' if host is None else '--for')
    if norms is not None and camera is None:
        graph, rows, table = split_norms(norms)
    else:
        graph = reparameterize_model(model if norms is None else adapted(norms, camera))
    graph = in_bf16(graph.cpu()) if bf16 else graph.cpu()
    graph = _prepared(graph, data_config, preprocessing, resize, host)
    if norms is not None:
        mean = norms.statistics(camera).embedding.cpu()
        graph = OfCamera(graph, mean) if camera is not None else ByCamera(graph, norms, rows, table.cpu())
    return graph.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def create_reference(
    model: nn.Module,
    data_config: Mapping[str, Any],
    *,
    preprocessing: bool = False,
    resize: bool = True,
    norms: CameraNorms | None = None,
    camera: str | None = None,
    host: Host | None = None,
) -> nn.Module:
    """What `create_graph` must compute: the model as it is, not fused, statistics of cameras put in place."""
    switch = None
    if norms is not None:
        model, switch = (adapted(norms, camera), None) if camera is not None else switched_form(norms, fuse=False)
    right = _prepared(model, data_config, preprocessing, resize, host)
    if switch:
        right = Switched(norms, right, switch)
    elif norms is not None:
        right = OfCamera(right, norms.statistics(camera).embedding)
    return right.eval()


def _prepared(
    model: nn.Module,
    data_config: Mapping[str, Any],
    preprocessing: bool,
    resize: bool,
    host: Host | None,
) -> nn.Module:
    if host is not None:  # also where nothing is to be scaled: a program may feed float16
        return Preprocessed(model, data_config, resize=False, host=host)
    return Preprocessed(model, data_config, resize) if preprocessing else model


def check_stretched(data_config: Mapping[str, Any], flag: str) -> None:
    """Raises an InputError, for a flag, where whole images are not resized to the model's size."""
    if data_config['input_size'][0] != 3 or data_config['interpolation'] not in ('bilinear', 'bicubic'):
        raise InputError(f'{flag} is for images of three channels, resized bilinear or bicubic: leave it out')
    if data_config.get('crop_pct', 1) != 1 or data_config.get('crop_mode') != 'squash':
        raise InputError(
            f'{flag} resizes whole images (crop_mode squash, crop_pct 1), but this model crops them '
            f'(crop_mode {data_config.get("crop_mode")}, crop_pct {data_config.get("crop_pct")}): leave it out'
        )


def find_images(folder: str | Path | None, count: int) -> list[str]:
    """Images in a folder and those in it, evenly spread over their names.

    Args:
        folder: None for the sample's queries, which come with the package.
        count: how many at most.

    Raises:
        InputError: no such folder, no image in it, or one that cannot be read, of the 1,000 that are looked at at most.
    """
    if folder is None:
        found = [record.path for record in create_dataset('sample').query]
    else:
        if not Path(folder).is_dir():
            raise InputError(f'{folder}: no such folder of images')
        found = sorted(str(p) for p in Path(folder).rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(f'{folder}: no images in it ({", ".join(IMAGE_SUFFIXES)})')
    if folder is not None:
        looked_at = [Record(path, '') for path in spread(found, max(count, _LOOKED_AT))]
        problems = [problem for problem in map_images(problem_of, looked_at, 'check images') if problem]
        if problems:
            raise InputError(f'{folder}: {len(problems)} of {len(looked_at)} images cannot be read: {problems[0]}')
    return spread(found, count)


def graph_inputs(
    images: Sequence[str], data_config: Mapping[str, Any], *, preprocessing: bool, resize: bool = True
) -> Iterator[torch.Tensor]:
    """Images as an exported graph takes them, one by one: [1, 3, H, W].

    Args:
        images: files.
        data_config: timm's.
        preprocessing: the graph normalises: it takes bytes instead of normalised numbers.
        resize: the graph resizes as well: images keep their own size.
    """
    transform = create_transform(**data_config)
    height, width = data_config['input_size'][1:]
    for path in images:
        image = load_image(path)
        if not preprocessing:
            yield transform(image)[None]
            continue
        pixels = pil_to_tensor(image)[None]
        yield pixels if resize else F.interpolate(pixels, size=(height, width), mode='bilinear', antialias=True)
