"""The published protocol: how a model is measured on a data set, by the command and after a training's epochs."""

import time
from typing import NamedTuple

import torch
from timm.data import create_transform
from torch import nn

from msinet_timm.datasets import ReIDDataset

from .features import Features, device_of, extract, reid_data_config
from .metrics import RankingResult, evaluate_ranking

__all__ = ['Evaluation', 'evaluate', 'rank']


class Evaluation(NamedTuple):
    """A measured model.

    Attributes:
        ranking: CMC, mAP and mINP.
        query: features of the queries.
        gallery: features of the gallery.
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
) -> Evaluation:
    """Embeds query and gallery, and ranks one for the other.

    Args:
        model: in training or not, with classifiers or without, see `msinet_eval.features.embed`.
        dataset: its train part is not used.
        data_config: for `timm.data.create_transform`; None for `reid_data_config(model)`.
        batch_size: images at once.
        workers: processes that read images.
        device: None for the one that the model is on.

    Raises:
        InputError: see `extract` and `evaluate_ranking`.
    """
    device = device or device_of(model)
    transform = create_transform(**(data_config or reid_data_config(model)))
    options = {'transform': transform, 'batch_size': batch_size, 'workers': workers, 'device': device}
    start = time.perf_counter()
    query = extract(model, dataset.query, description='query', **options)
    gallery = extract(model, dataset.gallery, description='gallery', **options)
    rate = (len(query) + len(gallery)) / (time.perf_counter() - start)
    return Evaluation(rank(query, gallery, device=device), query, gallery, rate)


def rank(query: Features, gallery: Features, *, device: str | torch.device | None = None) -> RankingResult:
    """Measures features; pictures of a query's identity and camera are removed wherever cameras are known."""
    return evaluate_ranking(
        query.embeddings.to(device or 'cpu'),
        gallery.embeddings,
        query.identities,
        gallery.identities,
        query.cameras,
        gallery.cameras,
    )
