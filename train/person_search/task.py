"""A network of person search and its losses as one of timm's training tasks."""

from typing import Any

import torch
from timm.task import TrainingTask

from msinet_timm.person_search.network import SearchNetwork
from msinet_train.losses.oim import OIMLoss

__all__ = ['PersonSearchTask', 'jitter']


class PersonSearchTask(TrainingTask):
    """The losses of torchvision's detector, and online instance matching of who is in the boxes.

    Boxes to be embedded are those of the annotation, moved a little, as a detector's boxes are off.

    Args:
        network: to be trained.
        memory: of identities.
        identity_weight: of its loss in the sum.
        box_jitter: see `jitter`.
    """

    def __init__(self, network: SearchNetwork, memory: OIMLoss, identity_weight: float, box_jitter: float) -> None:
        super().__init__(verbose=False)
        self.trainable_module = network
        self.memory = memory
        self.identity_weight = identity_weight
        self.box_jitter = box_jitter

    def forward(
        self,
        images: list[torch.Tensor],
        boxes: list[torch.Tensor],
        labels: list[torch.Tensor],
        alone: bool = False,
    ) -> dict[str, torch.Tensor]:
        """A batch of frames to the losses.

        Args:
            images: of each frame, [3, H, W] of 0 to 1.
            boxes: in each, [N, 4].
            labels: of each box its class [N], -1 for somebody whom nobody has named.
            alone: leave identities out.

        Returns:
            `loss`, and each term under its own name: torchvision's, and `identity`, not weighted.
        """
        targets = [{'boxes': b, 'labels': torch.ones_like(i)} for b, i in zip(boxes, labels, strict=True)]
        places = None if alone else [jitter(b, self.box_jitter) for b in boxes]
        terms, embeddings = self.trainable_module(images, targets, places)
        terms = {name.removeprefix('loss_'): value.float() for name, value in terms.items()}
        loss = sum(terms.values())
        if embeddings is not None:
            with torch.autocast(self.device.type, enabled=False):
                terms['identity'] = self.memory(embeddings.float(), torch.cat(labels))
            loss = loss + self.identity_weight * terms['identity']
        return {'loss': loss, **terms}

    def get_task_state(self, module: Any = None, ema: bool = False) -> dict[str, Any]:
        """The memory of identities."""
        return {'memory': self.memory.state_dict()}

    def load_task_state(self, state: Any, strict: bool = True, module: Any = None, ema: bool = False) -> None:
        """Takes what `get_task_state` gave."""
        self.memory.load_state_dict(state['memory'], strict=strict)


def jitter(boxes: torch.Tensor, share: float) -> torch.Tensor:
    """Boxes [N, 4] with each side moved by up to a share of their width or height, drawn by torch's generator."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + sides * share * (2 * torch.rand(boxes.shape).to(boxes) - 1)
