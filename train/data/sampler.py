"""Batches of P identities with K images each, as losses on distances within a batch need them."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from msinet_timm.errors import InputError

__all__ = ['PKSampler']


class PKSampler(Sampler[list[int]]):
    """Gives the batches of an epoch, for a DataLoader's `batch_sampler`.

    Each identity's images are shuffled into groups of K; what does not fill a group is left out, and an identity with
    fewer than K images is filled up by repeating some. A batch takes one group from each of P random identities that
    have any left; the epoch ends when fewer than P have, as in the published training.

    With `all_images`, nothing is left out: incomplete groups are filled up by repeating images of their identity, and
    the epoch ends when all groups have been used, with further groups of identities that have had their turn where
    there are too few others. It has as few batches as that allows: no fewer than the groups of the largest identity.

    Several processes share out batches of P identities for each: they have different identities at each step, and
    equally many batches. Two processes with P and one with 2P draw the same images. An epoch depends on (seed, epoch)
    alone.

    Args:
        labels: identity of each image.
        identities_per_batch: P, in each process.
        images_per_identity: K.
        seed: of all epochs.
        all_images: whether every image has its turn in every epoch.
        num_replicas: processes that train together.
        rank: this one among them, from 0.

    Raises:
        InputError: fewer than P identities for each process.
    """

    def __init__(
        self,
        labels: Sequence[int],
        identities_per_batch: int,
        images_per_identity: int,
        seed: int = 0,
        *,
        all_images: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.identities_per_batch = identities_per_batch
        self.images_per_identity = images_per_identity
        self.seed = seed
        self.all_images = all_images
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        labels = np.asarray(labels)
        counts = np.unique(labels, return_counts=True)[1]
        self._images = np.split(np.argsort(labels, kind='stable'), np.cumsum(counts))[:-1]
        self._check_identities()
        self._batches = self._draw()

    @property
    def batch_size(self) -> int:
        """Images in a batch of this process."""
        return self.identities_per_batch * self.images_per_identity

    def set_epoch(self, epoch: int) -> None:
        """Draws the batches of an epoch."""
        self.epoch = epoch
        self._batches = self._draw()

    def _check_identities(self) -> None:
        found, processes = len(self._images), self.num_replicas
        if found < self.identities_per_batch * processes:
            largest = found // processes * self.images_per_identity
            raise InputError(
                f'a batch needs {self.identities_per_batch} identities'
                + (f' in each of {processes} processes' if processes > 1 else '')
                + f' but the training set has {found}: '
                + (
                    f'use `batch_size` {largest} or less, or a larger `num_instance`'
                    if largest
                    else f'start {found} processes or fewer'
                )
            )

    def _draw(self) -> list[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        groups = [self._groups(images, rng) for images in self._images]
        together = self.identities_per_batch * self.num_replicas
        choose = _choose_all if self.all_images else _choose_complete
        batches = []
        for chosen, turns in choose(np.array([len(g) for g in groups]), together, rng):
            # A group that an identity doesn't have any more is drawn anew, in all processes alike.
            images = [
                groups[i][turn] if turn >= 0 else self._groups(self._images[i], rng)[0]
                for i, turn in zip(chosen, turns, strict=True)
            ]
            own = images[self.rank * self.identities_per_batch : (self.rank + 1) * self.identities_per_batch]
            batches.append(np.concatenate(own).tolist())
        return batches

    def _groups(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An identity's images in groups [n, K]."""
        k = self.images_per_identity
        if not self.all_images:
            if len(images) < k:
                return rng.choice(images, (1, k))
            return rng.permutation(images)[: len(images) // k * k].reshape(-1, k)
        images = rng.permutation(images)
        lacking = -len(images) % k
        # Others than those of the last group, as long as there are any.
        return np.concatenate([images, np.resize(images, lacking)]).reshape(-1, k)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def _choose_complete(
    left: np.ndarray, identities: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of random identities for as long as enough of them have groups left.

    Args:
        left: groups of each identity.
        identities: in a batch.

    Yields:
        The identities, and which of its groups each gives.
    """
    while (left > 0).sum() >= identities:
        chosen = rng.choice(np.flatnonzero(left), identities, replace=False)
        left[chosen] -= 1
        yield chosen, left[chosen]


def _choose_all(left: np.ndarray, identities: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `_choose_complete`, until no group is left; negative numbers stand for groups that are drawn anew."""
    batches = max(left.max(), -(-left.sum() // identities))
    for remaining in range(batches, 0, -1):
        # First those that need all remaining batches for their groups, then those with any, then the others. No more
        # than fit into a batch can be of the first kind, as the groups left fit into the batches left.
        urgency = (left >= remaining).astype(int) + (left > 0)
        order = rng.permutation(len(left))
        chosen = rng.permutation(order[np.argsort(-urgency[order], kind='stable')[:identities]])
        turns = left[chosen] - 1
        left[chosen] = turns.clip(min=0)
        yield chosen, turns
