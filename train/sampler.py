"""Batches of P identities with K images each, as losses on distances within a batch need them."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from msinet_timm.commands import InputError

__all__ = ['PKSampler']


class PKSampler(Sampler[list[int]]):
    """Gives the batches of an epoch, for a DataLoader's `batch_sampler`.

    Each identity's images are shuffled into groups of K; what does not fill a group is left out, and an identity with
    fewer than K images is filled up by repeating some. A batch takes one group from each of P random identities that
    have any left; the epoch ends when fewer than P have. An epoch depends on (seed, epoch) alone.

    Args:
        labels: identity of each image.
        identities_per_batch: P.
        images_per_identity: K.
        seed: of all epochs.

    Raises:
        InputError: fewer than P identities.
    """

    def __init__(
        self, labels: Sequence[int], identities_per_batch: int, images_per_identity: int, seed: int = 0
    ) -> None:
        self.identities_per_batch = identities_per_batch
        self.images_per_identity = images_per_identity
        self.seed = seed
        self.epoch = 0
        labels = np.asarray(labels)
        self._images = [np.flatnonzero(labels == identity) for identity in np.unique(labels)]
        if len(self._images) < identities_per_batch:
            raise InputError(
                f'a batch needs {identities_per_batch} identities but the training set has {len(self._images)}: '
                f'use --batch-size {len(self._images) * images_per_identity} or less, or a larger --num-instance'
            )
        self._batches = self._draw()

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self.identities_per_batch * self.images_per_identity

    def set_epoch(self, epoch: int) -> None:
        """Draws the batches of an epoch."""
        self.epoch = epoch
        self._batches = self._draw()

    def _draw(self) -> list[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        groups = [self._groups(images, rng) for images in self._images]
        left = np.array([len(g) for g in groups])
        batches = []
        while (left > 0).sum() >= self.identities_per_batch:
            chosen = rng.choice(np.flatnonzero(left), self.identities_per_batch, replace=False)
            left[chosen] -= 1
            batches.append([int(image) for identity in chosen for image in groups[identity][left[identity]]])
        return batches

    def _groups(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        k = self.images_per_identity
        if len(images) < k:
            return rng.choice(images, (1, k))
        return rng.permutation(images)[: len(images) // k * k].reshape(-1, k)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
