"""Where a model looks: energy of its feature maps, and the places that make two images alike."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

from msinet_eval.features.forward import device_of, evaluation_mode

__all__ = ['PairAttention', 'attend', 'has_places', 'overlay']


class PairAttention(NamedTuple):
    """Maps of a query and its match, each [2, h, w] in the order query, match.

    Attributes:
        energy: length of the feature vector of each place, 0 or larger.
        agreement: what each place adds to the cosine similarity of the two images; where the network pools by
            averaging alone, a map sums to that similarity.
        similarity: cosine of the two embeddings.
    """

    energy: Tensor
    agreement: Tensor
    similarity: float


def attend(model: nn.Module, query: Image.Image, match: Image.Image, data_config: dict) -> PairAttention | None:
    """Maps of what a model sees in two images, and of what it finds alike in them.

    The similarity of two embeddings that are means over places is a sum over places (Stylianou, Souvenir and Pless,
    Visualizing Deep Similarity Networks, WACV 2019, equation 3). Other heads are linearised: gradient times features.
    Where a head reads one token alone, as in many transformers, no other place adds anything to the embedding; the
    agreement of a place is then the product of its own vector, taken for an embedding, with that of the other image.

    Args:
        model: any timm model that `has_places`; classifiers are left out.
        query: an image.
        match: the image nearest to it, or any other.
        data_config: for `timm.data.create_transform`.

    Returns:
        The maps on the CPU, or None if the model has no spatial map.
    """
    if not has_places(model):
        return None
    transform = create_transform(**data_config)
    images = torch.stack([transform(query), transform(match)]).to(device_of(model))
    with evaluation_mode(model):
        with torch.no_grad():
            features = model.forward_features(images)
        to_places = _find_places(model, features, images.shape[-2:])
        return None if to_places is None else _compare(model, features, to_places)


def _compare(model: nn.Module, features: Tensor, to_places: Callable[[Tensor], Tensor]) -> PairAttention | None:
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        embeddings = model.forward_head(features, pre_logits=True).float()
        if embeddings.ndim != 2:
            return None
        lengths = embeddings.detach().norm(dim=1).clamp(min=1e-12)
        unit = embeddings.detach() / lengths[:, None]
        # each image's embedding against the other's, which is held fixed
        similarity = ((embeddings * unit.flip(0)).sum(1) / lengths).sum()
        (slope,) = torch.autograd.grad(similarity, features)
    vectors, slope = to_places(features.detach()).float(), to_places(slope).float()
    agreement = (vectors * slope).sum(-1)
    if not agreement.any() and vectors.shape[-1] == unit.shape[-1]:
        agreement = torch.einsum('bhwc,bc->bhw', nn.functional.normalize(vectors, dim=-1), unit.flip(0))
    return PairAttention(vectors.norm(dim=-1).cpu(), agreement.cpu(), float(unit[0] @ unit[1]))


def has_places(model: nn.Module) -> bool:
    """Whether a model is made of features and a head, as timm's are, so that its places can be told apart."""
    return callable(getattr(model, 'forward_features', None)) and callable(getattr(model, 'forward_head', None))


def _find_places(model: nn.Module, features, size: tuple[int, int]) -> Callable[[Tensor], Tensor] | None:
    """A function that lays features out as [B, h, w, C]; None for features that have no places.

    Networks give [B, C, h, w], [B, h, w, C] or tokens [B, N, C] that start with those that are no places.
    """
    channels = getattr(model, 'num_features', None)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        return None
    if features.ndim == 4:
        if features.shape[1] == channels:
            return lambda x: x.permute(0, 2, 3, 1)
        return (lambda x: x) if features.shape[-1] == channels else None
    prefix = getattr(model, 'num_prefix_tokens', 0)
    places = features.shape[1] - prefix
    # the grid has the shape of the input
    height = round(math.sqrt(places * size[0] / size[1]))
    if height < 1 or places % height:
        return None
    return lambda x: x[:, prefix:].unflatten(1, (height, -1))


def overlay(image: Image.Image, values: Tensor, strength: float = 0.72) -> Image.Image:
    """Lays a map over a faded image: dark blue is the map's lowest value, yellow its highest.

    Args:
        image: of any size, which the result has.
        values: [h, w].
        strength: opacity of the map's colours, 0-1.
    """
    low, high = values.min(), values.max()
    scaled = ((values - low) / (high - low).clamp(min=1e-12)).numpy().astype(np.float32)
    smooth = Image.fromarray(scaled).resize(image.size, Image.Resampling.BICUBIC)
    level = np.asarray(smooth).clip(0, 1)
    color = np.stack([np.interp(level, _STOPS, shade) for shade in zip(*_SHADES, strict=True)], axis=-1)
    grey = np.asarray(image.convert('L'), dtype=np.float32)[..., None]
    alpha = strength * (0.35 + 0.65 * level[..., None])
    return Image.fromarray((grey * (1 - alpha) + color * alpha).round().astype(np.uint8))


# violet, blue-green, yellow: rises in lightness, so that it reads without colours
_STOPS = (0.0, 0.35, 0.7, 1.0)
_SHADES = ((43, 24, 88), (38, 106, 142), (72, 190, 120), (253, 231, 55))
