"""Online instance matching: identities by a look-up table, and people whom nobody has named by a queue."""

import torch
import torch.nn.functional as F

from .class_memory import ClassMemory

__all__ = ['OIMLoss']


class OIMLoss(ClassMemory):
    """Cross entropy of a person's similarities to one remembered feature of each identity, and to those of strangers.

    As in `ClassMemory`, a call in training mode updates the rows of identities after the loss. People whom nobody has
    named have no class, and so no loss of their own; their features go into a circular queue, and everybody is told
    apart from those in it. Rows of identities that have not been seen, and places of the queue that are empty, do not
    count.

    Source: `Joint Detection and Identification Feature Learning for Person Search` (section 3.3)
        - https://arxiv.org/abs/1604.01850

    Attributes:
        queue: [length, dim] buffer of the latest strangers' features, of length 1; zeros where it is empty.
        tail: where the queue goes on.

    Args:
        num_classes: identities to remember.
        dim: length of a feature.
        length: of the queue; 0 for none.
        momentum: share of the old row, 0 to 1.
        temperature: by which similarities are divided, larger than 0.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        length: int,
        momentum: float = 0.5,
        temperature: float = 1 / 30,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(num_classes, dim, momentum, temperature, device, dtype)
        self.register_buffer('queue', torch.zeros(length, dim, device=device, dtype=dtype))
        self.register_buffer('tail', torch.zeros((), dtype=torch.long, device=device))

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Features [B, dim] of any scale and classes [B], -1 for strangers, to the mean loss of those of a class.

        Returns:
            A scalar; 0 where nobody has a class.
        """
        features = F.normalize(features.to(self.features.dtype), dim=1)
        named = labels >= 0
        rows = torch.cat([self.features, self.queue])
        own = F.one_hot(labels[named], len(rows)).bool()  # counts, also at its first time
        logits = (features[named] @ rows.T / self.temperature).masked_fill(~(rows.any(1) | own), float('-inf'))
        loss = F.cross_entropy(logits, labels[named], reduction='sum') / named.sum().clamp(min=1)
        if self.training:
            if named.any():
                self.update(features[named].detach(), labels[named])
            self._enqueue(features[~named].detach())
        return loss

    @torch.no_grad()
    def _enqueue(self, features: torch.Tensor) -> None:
        """Puts features [B, dim] in the place of the oldest ones."""
        length = len(self.queue)
        features = features[-length:] if length else features[:0]
        places = (self.tail + torch.arange(len(features), device=features.device)) % max(length, 1)
        self.queue = self.queue.index_copy(0, places, features)  # autograd holds the old ones for the loss
        self.tail = (self.tail + len(features)) % max(length, 1)
