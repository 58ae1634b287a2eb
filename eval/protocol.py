"""The published protocol: how a model is measured on a data set, by the command and after a training's epochs."""

import time
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from msinet_timm.commands import InputError
from msinet_timm.datasets import ReIDDataset
from msinet_timm.datasets.cache import ImageCache

from .features import Features, device_of, extract, reid_data_config
from .metrics import RankingResult, evaluate_ranking

__all__ = ['Evaluation', 'draw_gallery', 'evaluate', 'rank']


class Evaluation(NamedTuple):
    """A measured model.

    Attributes:
        ranking: CMC, mAP and mINP; where the gallery is drawn several times, means over the draws.
        query: features of the queries, of the first draw.
        gallery: features of the gallery, of the first draw.
        images_per_second: rate of reading and embedding both.
    """

    ranking: RankingResult
    query: Features
    gallery: Features
    images_per_second: float


def evaluate(
    model: nn.Module,
    dataset: ReIDDataset,
    *,
    data_config: dict | None = None,
    batch_size: int = 64,
    workers: int = 2,
    device: str | torch.device | None = None,
    cache: ImageCache | None = None,
) -> Evaluation:
    """Embeds query and gallery, and ranks one for the other by the data set's protocol.

    Args:
        model: in training or not, with classifiers or without, see `msinet_eval.features.embed`.
        dataset: its train part is not used.
        data_config: for `timm.data.create_transform`; None for `reid_data_config(model)`.
        batch_size: images at once.
        workers: processes that read images.
        device: None for the one that the model is on.
        cache: where resized pictures are kept; None reads and resizes them each time.

    Raises:
        InputError: the data set is for training only; and see `extract` and `evaluate_ranking`.
    """
    if not dataset.gallery:
        raise InputError(f"data set '{dataset.name}' has no query and gallery: it is for training only")
    device = device or device_of(model)
    config = data_config or reid_data_config(model)
    options = {'data_config': config, 'batch_size': batch_size, 'workers': workers, 'device': device, 'cache': cache}
    start = time.perf_counter()
    query = extract(model, dataset.query, description='query', **options) if dataset.query else None
    gallery = extract(model, dataset.gallery, description='gallery', **options)
    rate = (len(dataset.query) + len(gallery)) / (time.perf_counter() - start)
    rules = {'device': device, 'same_clothes_removed': dataset.protocol.same_clothes_removed}
    if not dataset.protocol.draws:
        return Evaluation(rank(query, gallery, **rules), query, gallery, rate)
    results = [rank(*draw_gallery(query, gallery, seed), **rules) for seed in range(dataset.protocol.draws)]
    return Evaluation(RankingResult.mean(results), *draw_gallery(query, gallery, 0), rate)


def draw_gallery(query: Features | None, gallery: Features, seed: int) -> tuple[Features, Features]:
    """Query and gallery of one draw: a random picture of each identity is the gallery.

    Args:
        query: who asks; None for all pictures that are not drawn.
        gallery: what is drawn from.
        seed: two draws of one seed are the same.
    """
    order = np.random.default_rng(seed).permutation(len(gallery))
    _, first = np.unique(gallery.identities.numpy()[order], return_index=True)
    drawn = torch.zeros(len(gallery), dtype=torch.bool)
    drawn[torch.as_tensor(order[first])] = True
    rest = gallery.subset((~drawn).nonzero()[:, 0]) if query is None else query
    return rest, gallery.subset(drawn.nonzero()[:, 0])


def rank(
    query: Features,
    gallery: Features,
    *,
    device: str | torch.device | None = None,
    same_clothes_removed: bool = False,
) -> RankingResult:
    """Measures features; pictures of a query's identity and camera are removed wherever cameras are known.

    Args:
        query: who asks.
        gallery: what is ranked.
        device: where to compute; None for the CPU.
        same_clothes_removed: take out pictures of a query's identity and clothes, too.
    """
    return evaluate_ranking(
        query.embeddings.to(device or 'cpu'),
        gallery.embeddings,
        query.identities,
        gallery.identities,
        query.cameras,
        gallery.cameras,
        query_clothes=query.clothes if same_clothes_removed else None,
        gallery_clothes=gallery.clothes if same_clothes_removed else None,
    )
