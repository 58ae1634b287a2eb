"""How good a genotype looks within a trained supernet."""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from msinet_eval.features.forward import embed, evaluation_mode
from msinet_eval.features.types import Features
from msinet_eval.protocol import rank, require_matches
from msinet_timm.datasets import Record, ReIDDataset
from msinet_timm.datasets.cached_images import CachedImages
from msinet_timm.errors import InputError
from msinet_timm.models.genotype import Genotype
from msinet_timm.models.supernet import MSISuperNet
from msinet_train.distributed import is_distributed

__all__ = ['Judge', 'held_out']


def held_out(records: Sequence[Record], identities: int = 200) -> ReIDDataset:
    """Images to rank: of each identity, by turns one that asks and one that is found.

    Args:
        records: of people or vehicles that the weights have not learnt from.
        identities: of the first so many.

    Raises:
        InputError: no image has a match.
    """
    images: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        images[record.identity].append(record)
    kept = [found for found in images.values() if len(found) > 1][:identities]
    query, gallery = (tuple(r for found in kept for r in found[turn::2]) for turn in (0, 1))
    dataset = ReIDDataset('validation half', '', (), query, gallery)
    if not gallery:
        raise InputError('`method` paths ranks images of the validation half: no identity there has two of them')
    require_matches(dataset)
    return dataset


class Judge:
    """Measures genotypes with the weights that a supernet shares among all: mAP among images held out.

    The norms' statistics are those of whatever was computed last, so each genotype's are estimated anew.

    Args:
        supernet: trained; its norms are left with the statistics of the genotype that was judged last.
        norms: batches of images [B, 3, H, W] of the training half, to estimate the statistics from.
        dataset: see `held_out`.
        images: of its query, then of its gallery.
        batch_size: images at once.
    """

    def __init__(
        self,
        supernet: MSISuperNet,
        norms: Sequence[torch.Tensor],
        dataset: ReIDDataset,
        images: CachedImages,
        batch_size: int,
    ) -> None:
        self.supernet, self.norms, self.dataset, self.images = supernet, norms, dataset, images
        self.loader = DataLoader(images, batch_size, collate_fn=images.collate)

    def embed(self, genotype: Genotype | None) -> tuple[Features, Features] | None:
        """Query and gallery, embedded by a genotype; None for the mixture of all interactions.

        Returns:
            None where the embeddings are no numbers any more.
        """
        before, self.supernet.path = self.supernet.path, genotype
        device = self.supernet.arch_weights.device
        try:
            update_bn(self.norms, self.supernet, device)
            with evaluation_mode(self.supernet), torch.inference_mode():
                batches = (self.images.to_input(raw, device) for raw, _ in self.loader)
                found = [embed(self.supernet, batch).float().cpu() for batch in batches]
        finally:
            self.supernet.path = before
        embeddings = torch.nn.functional.normalize(torch.cat(found))
        if not embeddings.isfinite().all():
            return None
        asking = len(self.dataset.query)
        parts = (self.dataset.query, embeddings[:asking]), (self.dataset.gallery, embeddings[asking:])
        return tuple(Features.of(records, found) for records, found in parts)

    def __call__(self, genotype: Genotype | None) -> float:
        """mAP, 0 to 1, see `embed`."""
        features = self.embed(genotype)
        mAP = 0.0 if features is None else rank(*features).mAP
        result = torch.tensor(mAP, device=self.supernet.arch_weights.device)
        if is_distributed():  # all must go on with the same
            dist.broadcast(result, 0)
        return result.item()
