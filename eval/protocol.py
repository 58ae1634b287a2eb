"""The published protocol: how a model is measured on a data set, by the command and after a training's epochs."""

import functools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from msinet_eval.features.extract import extract
from msinet_eval.features.forward import device_of, inference_form
from msinet_eval.features.types import Embedded, Features
from msinet_eval.metrics.ranking import RankingResult, evaluate_distances, evaluate_ranking
from msinet_eval.metrics.rerank import ReRanking
from msinet_eval.metrics.verification import VerificationResult, evaluate_verification
from msinet_timm.datasets import Protocol, ReIDDataset
from msinet_timm.errors import InputError

__all__ = [
    'Evaluation',
    'draw_gallery',
    'embed_dataset',
    'evaluate',
    'measure',
    'parse_protocol',
    'rank',
    'verify',
]

#: Takes and gives query and gallery.
Refine = Callable[[Features, Features], tuple[Features, Features]]


class Evaluation(NamedTuple):
    """A measured model.

    Attributes:
        ranking: CMC, mAP and mINP; where the gallery is drawn several times, means over the draws.
        query: features of the queries as they were ranked, of the first draw; without cameras where the protocol does
            not ask for them.
        gallery: features of the gallery, likewise.
        images_per_second: rate of reading and embedding both; None if nothing was embedded.
    """

    ranking: RankingResult
    query: Features
    gallery: Features
    images_per_second: float | None


def evaluate(
    model: nn.Module,
    dataset: ReIDDataset,
    *,
    refine: Refine | None = None,
    rerank: dict | None = None,
    max_rank: int = 50,
    device: str | torch.device | None = None,
    **options,
) -> Evaluation:
    """Embeds query and gallery, and ranks one for the other by the data set's protocol.

    Args:
        model: in training or not, with classifiers or without, see `msinet_eval.features.embed`.
        dataset: its train part is not used.
        refine: see `measure`, and so `rerank` and `max_rank`.
        device: None for the one that the model is on.
        options: of `extract`: `data_config`, `batch_size`, `workers`, `cache`, `flip`, ...

    Raises:
        InputError: the data set is for training only; and see `extract` and `evaluate_ranking`.
    """
    device = device or device_of(model)
    embedded = embed_dataset(model, dataset, device=device, **options)
    return measure(embedded, dataset.protocol, refine=refine, rerank=rerank, max_rank=max_rank, device=device)


def embed_dataset(model: nn.Module, dataset: ReIDDataset, *, folder: str | Path | None = None, **options) -> Embedded:
    """Embeds query and gallery.

    Args:
        model: see `evaluate`.
        dataset: its train part is not used.
        folder: where `query.safetensors` and `gallery.safetensors` are kept, see the argument `file` of `extract`.
        options: of `extract`.

    Raises:
        InputError: the data set is for training only; and see `extract`.
    """
    if not dataset.gallery:
        raise InputError(f"data set '{dataset.name}' has no query and gallery: it is for training only")
    start = time.perf_counter()
    options['network_of'] = functools.cache(lambda: inference_form(model))  # fused once, and only if it has to run
    parts = []
    for part, records in (('query', dataset.query), ('gallery', dataset.gallery)):
        file = folder and Path(folder) / f'{part}.safetensors'
        parts.append(extract(model, records, description=part, file=file, **options) if records else None)
    rate = (len(dataset.query) + len(dataset.gallery)) / (time.perf_counter() - start)
    return Embedded(*parts, rate)


def measure(
    embedded: Embedded,
    protocol: Protocol,
    *,
    refine: Refine | None = None,
    rerank: dict | None = None,
    max_rank: int = 50,
    device: str | torch.device | None = None,
) -> Evaluation:
    """Ranks features by a protocol.

    Args:
        embedded: query and gallery, as a model gives them.
        protocol: what is left out of the rankings, and whether the gallery is drawn.
        refine: what is done to query and gallery, in each draw anew, before they are ranked; None for nothing.
        rerank: `k1`, `k2` and `lambda_value` of a re-ranking by k-reciprocal neighbours; None for none.
        max_rank: length of the CMC curve, unless the gallery is smaller.
        device: where to compute; None for the CPU.

    Raises:
        InputError: there are no queries though the protocol draws none; and see `evaluate_ranking` and `ReRanking`.
    """
    rules = {'same_clothes_removed': protocol.same_clothes_removed, 'rerank': rerank, 'max_rank': max_rank}
    if embedded.query is None and not protocol.draws:
        raise InputError('there are no queries: give some, or have them drawn from the gallery (--protocol draws=10)')
    results, first = [], None
    for seed in range(protocol.draws or 1):
        pair = embedded[:2] if not protocol.draws else draw_gallery(*embedded[:2], seed)
        pair = refine(*pair) if refine else pair
        if not protocol.same_camera_removed:
            pair = tuple(replace(features, cameras=None) for features in pair)
        first = first or pair
        results.append(rank(*pair, **rules, device=device))
    ranking = RankingResult.mean(results) if len(results) > 1 else results[0]
    return Evaluation(ranking, *first, embedded.images_per_second)


def draw_gallery(query: Features | None, gallery: Features, seed: int) -> tuple[Features, Features]:
    """Query and gallery of one draw: a random image of each identity is the gallery.

    Args:
        query: who asks; None for all images that are not drawn.
        gallery: what is drawn from.
        seed: two draws of one seed are the same.

    Raises:
        InputError: no identity has a second image, which could ask.
    """
    drawn = torch.ones(len(gallery), dtype=torch.bool)
    seen = set()
    for index in np.random.default_rng(seed).permutation(len(gallery)).tolist():
        drawn[index] = gallery.identities[index] not in seen
        seen.add(gallery.identities[index])
    if query is None:
        if drawn.all():
            raise InputError('no identity has a second image, so that none is left to ask when galleries are drawn')
        query = gallery.subset((~drawn).nonzero()[:, 0])
    return query, gallery.subset(drawn.nonzero()[:, 0])


def rank(
    query: Features,
    gallery: Features,
    *,
    device: str | torch.device | None = None,
    same_clothes_removed: bool = False,
    rerank: dict | None = None,
    max_rank: int = 50,
) -> RankingResult:
    """Measures features; images of a query's identity and camera are removed wherever cameras are known.

    Args:
        query: who asks.
        gallery: what is ranked.
        device: where to compute; None for the CPU.
        same_clothes_removed: take out images of a query's identity and clothes, too.
        rerank: see `measure`, and so `max_rank`.
    """
    labels = [features.labels(same_clothes_removed) for features in (query, gallery)]
    embeddings = query.embeddings.to(device or 'cpu'), gallery.embeddings
    if rerank is None:
        return evaluate_ranking(*embeddings, *labels, max_rank=max_rank)
    return evaluate_distances(ReRanking(*embeddings, **rerank), *labels, max_rank=max_rank)


def verify(
    query: Features,
    gallery: Features,
    *,
    device: str | torch.device | None = None,
    same_clothes_removed: bool = False,
    **options,
) -> VerificationResult:
    """How well distances tell same from different, over the pairs that `rank` ranks.

    Args:
        query: one image of each pair.
        gallery: the other.
        device: see `rank`, and so `same_clothes_removed`.
        **options: of `evaluate_verification`.
    """
    labels = [features.labels(same_clothes_removed) for features in (query, gallery)]
    return evaluate_verification(query.embeddings.to(device or 'cpu'), gallery.embeddings, *labels, **options)


_DRAWS = re.compile(r'draws=(\d+)')


def parse_protocol(rules: Sequence[str]) -> Protocol:
    """The protocol that `--protocol` forces.

    Args:
        rules: `standard` alone, or some of `clothes-changing`, `all-cameras` (keep images of a query's own camera)
            and `draws=N`.

    Raises:
        InputError: another rule, or one that excludes another.
    """
    protocol = Protocol()
    for rule in rules:
        draws = _DRAWS.fullmatch(rule)
        if draws and int(draws[1]):
            protocol = replace(protocol, draws=int(draws[1]))
        elif rule == 'clothes-changing':
            protocol = replace(protocol, same_clothes_removed=True)
        elif rule == 'all-cameras':
            protocol = replace(protocol, same_camera_removed=False)
        elif rule != 'standard' or len(rules) > 1:
            known = 'standard alone, or some of clothes-changing, all-cameras and draws=N'
            raise InputError(f'--protocol {" ".join(rules)}: give {known}')
    return protocol
