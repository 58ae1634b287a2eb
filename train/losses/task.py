"""A model and its ReID losses as one of timm's training tasks."""

from typing import Any

import torch
import torch.nn as nn
from timm.loss import LabelSmoothingCrossEntropy
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch.nn.parallel import DistributedDataParallel

from msinet_timm.errors import InputError
from msinet_timm.models.msinet import Embedding
from msinet_train.distributed import gather

from .alignment import SpatialAlignment
from .distillation import Teacher, similarity_distillation
from .metric import AngularClassifier, CircleLoss, TripletLoss

__all__ = ['ReIDTask']


class ReIDModule(nn.Module):
    """All that trains, with the losses: the model, angular classifiers, and the alignment's projections.

    Everything with parameters runs within `forward`, as DistributedDataParallel needs it.

    Args:
        model: see `ReIDTask`.
        classification: loss of each branch's logits, by the branch's name.
        metric: loss of the features.
        metric_name: of its terms.
        alignment: loss of the feature map, or None.
        alignment_weight: of that loss in the sum.
        gather: whether `metric` and `alignment` compare with the images of all processes.
        teacher_weight: of the distillation in the sum.
    """

    def __init__(
        self,
        model: nn.Module,
        classification: nn.ModuleDict,
        metric: nn.Module,
        metric_name: str,
        alignment: SpatialAlignment | None,
        alignment_weight: float,
        gather: bool,
        teacher_weight: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.classification = classification
        self.metric = metric
        self.metric_name = metric_name
        self.alignment = alignment
        self.alignment_weight = alignment_weight
        self.gather = gather
        self.teacher_weight = teacher_weight

    def forward(
        self, input: torch.Tensor, target: torch.Tensor, taught: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As `ReIDTask.forward`, with a teacher's embeddings [B, E]."""
        return self.losses(self.model.forward_branches(input), target, taught)

    @torch.compiler.disable  # loops and other packages' losses would only break the graph
    def losses(
        self, branches: Embedding, target: torch.Tensor, taught: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """All terms, in float32 at least: differences of close distances are lost in less."""
        with torch.autocast(target.device.type, enabled=False):
            labels, terms = self._from_all(target), {}
            for name, classification in self.classification.items():
                logits = _at_least_float32(getattr(branches, f'{name}_logits'))
                features = self._from_all(_at_least_float32(getattr(branches, f'{name}_feature')))
                terms[f'id_{name}'] = classification(logits, target)
                terms[f'{self.metric_name}_{name}'] = self.metric(features, labels, len(target))
            loss = sum(terms.values())
            if self.alignment is not None:
                maps = _at_least_float32(branches.feature_map[:, : self.alignment.channels])
                terms['alignment'] = self.alignment(self._from_all(maps), labels, len(target))
                loss = loss + self.alignment_weight * terms['alignment']
            if taught is not None:
                features = [f for f in (branches.global_feature, branches.local_feature) if f is not None]
                student, teacher = map(_at_least_float32, (torch.cat(features, dim=1), taught))
                terms['distillation'] = similarity_distillation(student, teacher)
                loss = loss + self.teacher_weight * terms['distillation']
            output, classification = branches.global_logits, self.classification['global']
            if isinstance(classification, AngularClassifier):
                output = classification.logits(_at_least_float32(output))
        return {'loss': loss, 'output': output, **terms}

    def _from_all(self, x: torch.Tensor) -> torch.Tensor:
        return gather(x) if self.gather else x


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class ReIDTask(TrainingTask):
    """Identity classification behind the neck and a metric loss before it, for the global and the local branch.

    The loss is a plain sum, as in the published training: classification and metric loss of the global branch, the
    same of the local branch where the model has one; if asked for, 2 * spatial alignment, and what a teacher teaches.

    Args:
        model: has `forward_branches`, a classifier `global_classifier` for `num_classes` identities, and maybe
            `local_classifier`; for alignment also `global_width`, the channels of its map.
        margin: of the triplet or circle loss.
        smoothing: share of the target that is spread over all identities.
        soft_margin: whether the triplet loss is log(1 + exp(difference of the distances)), in place of a `margin`.
        normalize: whether the triplet loss compares features at length 1, or raw.
        metric_loss: `'triplet'` or `'circle'`.
        classifier_loss: `'softmax'`, or `'arcface'` or `'cosface'`, which take the place of the model's classifiers.
        alignment: None for none.
        alignment_weight: of the alignment in the sum.
        gather: under several processes, whether the metric loss and the alignment of each process's images look for
            positives and negatives among all processes' images.
        teacher: whose embeddings the model learns from, too; None for none.
        teacher_weight: of that loss in the sum.
        device: to which model and losses move; None leaves them where they are.
        dtype: as for `TrainingTask`.
        verbose: as for `TrainingTask`.

    Raises:
        InputError: a model without branches, classifiers or map, or settings that exclude each other.
    """

    def __init__(
        self,
        model: nn.Module,
        margin: float = 0.3,
        smoothing: float = 0.1,
        *,
        soft_margin: bool = False,
        normalize: bool = True,
        metric_loss: str = 'triplet',
        classifier_loss: str = 'softmax',
        alignment: SpatialAlignment | None = None,
        alignment_weight: float = 2.0,
        gather: bool = False,
        teacher: Teacher | None = None,
        teacher_weight: float = 1.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        _check_model(model, alignment)
        metric = _metric(metric_loss, margin, soft_margin, normalize)
        classification = _classification(model, classifier_loss, smoothing)
        self.trainable_module = ReIDModule(
            model, classification, metric, metric_loss, alignment, alignment_weight, gather, teacher_weight
        )
        self.teacher = teacher
        if device is not None:
            self.trainable_module.to(device)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images [B, C, H, W] and labels [B] to the losses.

        Returns:
            `loss`, the global branch's logits as `output`, and each term under its own name: `id_global`,
            `triplet_global` (or `circle_global`), the same with `local`, `alignment` and `distillation`, not weighted.
        """
        if self.teacher is None:
            return self.trainable_module(input, target)
        return self.trainable_module(input, target, self.teacher(input))

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs: Any) -> 'ReIDTask':
        """Wraps all that trains, the losses' parameters included, in DistributedDataParallel."""
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str = 'inductor', mode: str | None = None, **compile_kwargs: Any) -> nn.Module:
        """Compiles the model's part of the training step; evaluation stays eager."""
        self.trainable_module = torch.compile(self.trainable_module, backend=backend, mode=mode, **compile_kwargs)
        return self.get_eval_model()

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The bare model."""
        resolved = super().get_eval_model(module=module, ema=ema)
        if resolved is None:
            return None
        trained = unwrap_model(resolved)
        return trained.model if isinstance(trained, ReIDModule) else resolved

    def get_clip_parameters(self, exclude_head: bool = False) -> list[nn.Parameter]:
        """All parameters, or all but those of classifiers."""
        return [
            parameter
            for name, parameter in unwrap_model(self.trainable_module).named_parameters()
            if not (exclude_head and 'classifi' in name)
        ]

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, dict[str, torch.Tensor]]:
        """The parameters of losses: state dicts of `classification` and `alignment`, where they have any."""
        return {name: part.state_dict() for name, part in self._parts(module, ema).items()}

    def load_task_state(
        self,
        state: dict[str, dict[str, torch.Tensor]] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """Takes what `get_task_state` gave.

        Raises:
            InputError: the state is of other losses.
        """
        state = state or {}
        parts = self._parts(module, ema)
        if strict and parts.keys() != state.keys():
            raise InputError(
                f'the checkpoint has parameters of {", ".join(state) or "no losses"}, but these settings need '
                f'{", ".join(parts) or "none"}: continue with the losses and the alignment that it was written with'
            )
        for name in parts.keys() & state.keys():
            parts[name].load_state_dict(state[name], strict=strict)

    def load_checkpoint_state(
        self,
        state_dict: dict[str, Any],
        task_state: dict[str, Any] | None = None,
        ema: bool = False,
        strict: bool = True,
    ) -> None:
        """As timm's; the published implementation keeps its alignment's parameters among the model's."""
        if task_state is None and any('align_module.' in name for name in state_dict):
            task_state = {'alignment': state_dict} if 'alignment' in self._parts(None, ema) else None
        super().load_checkpoint_state(state_dict, task_state, ema, strict)

    def _parts(self, module: nn.Module | None, ema: bool) -> dict[str, nn.Module]:
        trained = unwrap_model(self.get_trainable_module(ema=ema) if module is None else module)
        parts = {'classification': trained.classification, 'alignment': trained.alignment}
        return {name: part for name, part in parts.items() if part is not None and part.state_dict()}


def _check_model(model: nn.Module, alignment: SpatialAlignment | None) -> None:
    name = type(model).__name__
    if not hasattr(model, 'forward_branches'):
        raise InputError(f'{name} has no branches to train: choose one of timm.list_models("msinet*")')
    if model.num_classes <= 0:
        raise InputError(f'{name} has no classifiers: create it with num_classes')
    width = getattr(model, 'global_width', None)
    if alignment is not None and width != alignment.channels:
        raise InputError(
            f'spatial alignment of {alignment.channels} channels does not fit {name}, whose map has '
            f'{width or "no"} channels: choose SpatialAlignment(model.global_width), and a model with a map'
        )


def _metric(kind: str, margin: float, soft_margin: bool, normalize: bool) -> nn.Module:
    if kind not in ('triplet', 'circle'):
        raise InputError(f'unknown metric loss {kind!r}: choose triplet or circle')
    if kind == 'triplet':
        return TripletLoss(None if soft_margin else margin, normalize)
    if soft_margin or not normalize:
        raise InputError("circle loss compares cosines with a margin: soft margin and raw features are the triplet's")
    return CircleLoss(margin)


def _classification(model: nn.Module, kind: str, smoothing: float) -> nn.ModuleDict:
    """Losses of the branches' logits; angular ones have their own classifiers, and take away the model's."""
    if kind not in ('softmax', 'arcface', 'cosface'):
        raise InputError(f'unknown classifier loss {kind!r}: choose softmax, arcface or cosface')
    losses = nn.ModuleDict()
    for branch in ('global', 'local'):
        classifier = getattr(model, f'{branch}_classifier', None)
        if classifier is None:
            continue
        if kind == 'softmax':
            losses[branch] = LabelSmoothingCrossEntropy(smoothing)
        else:
            losses[branch] = AngularClassifier(kind, classifier.in_features, model.num_classes, smoothing)
            setattr(model, f'{branch}_classifier', nn.Identity())  # its logits are now the neck's features
    return losses
