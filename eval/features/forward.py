"""Images -> embeddings, by whatever model there is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

from msinet_timm import MSINet
from msinet_timm.errors import InputError
from msinet_timm.models.camera_norm import device_of

__all__ = ['PARTS', 'device_of', 'embed', 'evaluation_mode', 'inference_form']

#: Parts of an embedding that has two branches.
PARTS = ('all', 'global', 'local')


def embed(model: nn.Module, images: Tensor, *, flip: bool = False, part: str = 'all', neck: bool = False) -> Tensor:
    """Embeddings before any classifier: [B, 3, H, W] -> [B, D], not normalised.

    A model without classes (`num_classes` 0, or no such attribute) is called as it is, another one through timm's
    `forward_features` and `forward_head(pre_logits=True)`, so that a model in training needs no change.

    Args:
        model: what embeds.
        images: normalised, on the model's device.
        flip: take the mean of the embeddings of each image and its mirror image.
        part: `'all'`, or one branch of a model that has `forward_branches`, as MSINet: `'global'` or `'local'`.
        neck: take the features behind the necks, which such a model has, too.

    Raises:
        InputError: what comes out is no tensor of that shape, or a part is asked for that the model does not have.
    """
    if flip:
        one, other = (embed(model, view, part=part, neck=neck) for view in (images, images.flip(-1)))
        return (one + other) / 2
    if part != 'all' or neck:
        return _embed_branches(model, images, part, neck)
    if getattr(model, 'num_classes', 0):
        embeddings = model.forward_head(model.forward_features(images), pre_logits=True)
    else:
        embeddings = model(images)
    if not isinstance(embeddings, Tensor) or embeddings.shape[:-1] != images.shape[:1]:
        shape = list(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise InputError(f'{type(model).__name__} gives {shape} instead of one vector for each of {len(images)} images')
    return embeddings


def _embed_branches(model: nn.Module, images: Tensor, part: str, neck: bool) -> Tensor:
    if part not in PARTS:
        raise InputError(f"part '{part}' of the embedding must be one of {', '.join(PARTS)}")
    if not hasattr(model, 'forward_branches'):
        raise InputError(
            f'{type(model).__name__} has no branches and necks to choose from (forward_branches, as MSINet has it): '
            'leave out --part and --neck'
        )
    branches = model.forward_branches(images, neck_features=neck)
    width = branches.global_feature.shape[1]
    if neck:
        features = branches.neck_features
    else:
        features = torch.cat([branches.global_feature, branches.local_feature], dim=1)
    return {'all': features, 'global': features[:, :width], 'local': features[:, width:]}[part]


def inference_form(model: nn.Module) -> nn.Module:
    """An MSINet without its norms, which embeds alike but faster; any other model as it is."""
    if not isinstance(model, MSINet):
        return model
    return reparameterize_model(model).to(memory_format=torch.channels_last)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Modules keep their modes one by one: a training may have frozen some of them."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
