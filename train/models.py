"""Models to train: any timm model, as branches with a neck and a classifier each."""

import timm
import torch
import torch.distributed as dist
import torch.nn as nn
from timm.models import group_parameters, is_model_pretrained

from msinet_eval.features.forward import evaluation_mode
from msinet_timm.errors import InputError, explained
from msinet_timm.hub.load import load_model, resolve_name
from msinet_timm.models.blocks import Neck
from msinet_timm.models.checkpoints import fill
from msinet_timm.models.interactions import ChannelGate, wake_gates
from msinet_timm.models.msinet import Embedding, MSINet
from msinet_train.distributed import is_distributed

__all__ = ['GlobalBranch', 'backbone_of', 'create_training_model', 'freeze', 'keep_frozen', 'lacks_weights', 'wake']


class GlobalBranch(nn.Module):
    """A timm model with the one branch that it has: its pooled feature, MSINet's neck behind it, and a classifier.

    Args:
        backbone: a timm model without classifier, which gives [B, D].
        num_classes: identities to tell apart.
        input_size: channels, height and width of the images, by which D is found out.

    Raises:
        ValueError: the backbone doesn't give one vector for an image.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, input_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        training = backbone.training
        with torch.inference_mode():
            image = torch.zeros(1, *input_size)
            feature_map = backbone.eval().forward_features(image)
            feature = backbone(image)
        backbone.train(training)
        if not isinstance(feature, torch.Tensor) or feature.ndim != 2:
            raise ValueError('it does not give one vector for each image')
        #: Channels of the feature map, which spatial alignment needs; None where there is no map [B, C, h, w].
        self.global_width = feature_map.shape[1] if _is_map(feature_map, backbone) else None
        self.head_hidden_size = feature.shape[1]
        self.global_neck = Neck(self.head_hidden_size)
        self.global_classifier = nn.Linear(self.head_hidden_size, num_classes)
        for module in (self.global_neck, self.global_classifier):
            module.apply(MSINet._init_weights)

    def forward_branches(self, x: torch.Tensor) -> Embedding:
        """Images [B, C, H, W] to feature map, feature and logits; nothing is local."""
        feature_map = self.backbone.forward_features(x)
        feature = self.backbone.forward_head(feature_map)
        return Embedding(feature_map, feature, None, self.global_classifier(self.global_neck(feature)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] to logits [B, num_classes]."""
        return self.forward_branches(x).global_logits

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.backbone.set_grad_checkpointing(enable)


def _is_map(features: torch.Tensor, backbone: nn.Module) -> bool:
    return features.ndim == 4 and features.shape[1] == backbone.num_features


def backbone_of(model: nn.Module) -> nn.Module:
    """What embeds, is saved and is measured: the timm model itself, without what only training needs."""
    return getattr(model, 'backbone', model)


def lacks_weights(name: str) -> bool:
    """Whether a name is one of timm's models that has no pretrained weights."""
    return timm.is_model(name) and not is_model_pretrained(name)


def create_training_model(
    name: str,
    num_classes: int,
    *,
    genotype: str | None = None,
    pretrained: bool | None = None,
    checkpoint: str | None = None,
    height: int | None = None,
    width: int | None = None,
) -> nn.Module:
    """A model with `forward_branches` and classifiers.

    Args:
        name: any timm model, also `hf-hub:...` and `local-dir:...`, a model folder, or a run for its `best` one.
        num_classes: identities to tell apart.
        genotype: other interactions, for MSINet only.
        pretrained: whether to start from the weights that belong to the name; None does so for places
            (`hf-hub:`, folders), but not for plain names, which then start at random.
        checkpoint: file of weights to start from instead.
        height: of the input in pixels, instead of the model's own.
        width: of the input in pixels, instead of the model's own.

    Raises:
        InputError: no model of that name, one that cannot be built so, or weights that are missing or don't fit.
    """
    if pretrained and not checkpoint and lacks_weights(name):
        raise InputError(
            f'pretrained: {name} has no pretrained weights; give a file of initial weights by `checkpoint`, or '
            'turn it off (--no-pretrained) to start at random'
        )
    try:
        wanted = not checkpoint and (':' in resolve_name(name) if pretrained is None else pretrained)
        options = {'num_classes': num_classes, 'height': height, 'width': width, 'genotype': genotype}
        model = load_model(name, pretrained=wanted, **options)
    except InputError as e:
        raise InputError(f'model {name}: {e}') from e
    if checkpoint:
        try:
            fill(model, checkpoint, part='backbone.')  # of a `GlobalBranch`
        except InputError as e:
            raise InputError(f'checkpoint {e}') from e
    if not hasattr(model, 'forward_branches'):
        model.reset_classifier(0)
        _, own_height, own_width = model.pretrained_cfg['input_size']
        with explained(f'model {name}: cannot be trained'):
            model = GlobalBranch(model, num_classes, (3, height or own_height, width or own_width))
    return model.train()


def freeze(model: nn.Module, stages: int) -> None:
    """Takes the first stages of a model out of training, as its `group_matcher(coarse=True)` counts them.

    Args:
        model: as `create_training_model` gives it.
        stages: how many; the stem is the first. 0 freezes nothing.

    Raises:
        InputError: the model has no more than so many, or doesn't say what its stages are.
    """
    if not stages:
        return
    backbone = backbone_of(model)
    if not hasattr(backbone, 'group_matcher'):
        raise InputError(f'freeze {stages}: {type(backbone).__name__} does not tell its stages apart')
    stage_of = group_parameters(backbone, backbone.group_matcher(coarse=True), reverse=True)
    count = max(stage_of.values())  # the last group is the head
    if stages > count:
        raise InputError(f'freeze {stages}: {type(backbone).__name__} has {count} stages')
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(stage_of[name] >= stages)


def keep_frozen(model: nn.Module) -> None:
    """Keeps frozen modules in evaluation mode, so that their batch norms and dropouts stand still as well."""
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def wake(model: nn.Module, images: torch.Tensor) -> None:
    """Wakes units of channel gates that answer none of the images, alike in all processes, see `wake_gates`."""
    with evaluation_mode(model):
        wake_gates(model, images)
    if is_distributed():  # each has seen and drawn its own
        for module in model.modules():
            if isinstance(module, ChannelGate):
                for parameter in module.parameters():
                    dist.broadcast(parameter.detach(), 0)
