"""The published protocol: what is embedded, what is drawn, and what is left out of rankings."""

import functools
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from msinet_eval.features.cameras import CameraNetwork
from msinet_eval.features.extract import extract
from msinet_eval.features.forward import inference_form
from msinet_eval.features.types import Embedded, Features
from msinet_eval.metrics.ranking import RankingResult, evaluate_distances, evaluate_ranking
from msinet_eval.metrics.rerank import ReRanking
from msinet_eval.metrics.verification import VerificationResult, evaluate_verification
from msinet_timm.datasets import Protocol, ReIDDataset
from msinet_timm.errors import InputError

__all__ = ['draw_gallery', 'embed_dataset', 'parse_protocol', 'rank', 'require_matches', 'verify']


def embed_dataset(model: nn.Module, dataset: ReIDDataset, *, folder: str | Path | None = None, **options) -> Embedded:
    """Embeds query and gallery.

    Args:
        model: in training or not, with classifiers or without, see `msinet_eval.features.embed`.
        dataset: its train part is not used.
        folder: where `query.safetensors` and `gallery.safetensors` are kept, see the argument `file` of `extract`.
        options: of `extract`.

    Raises:
        InputError: the data set is for training only; and see `extract`.
    """
    if not dataset.gallery:
        raise InputError(f"data set '{dataset.name}' has no query and gallery: it is for training only")
    start = time.perf_counter()
    norms = options.get('norms')
    # fused once, and only if it has to run
    options['network_of'] = functools.cache(lambda: inference_form(model) if norms is None else CameraNetwork(norms))
    parts = []
    for part, records in (('query', dataset.query), ('gallery', dataset.gallery)):
        file = folder and Path(folder) / f'{part}.safetensors'
        parts.append(extract(model, records, description=part, file=file, **options) if records else None)
    rate = (len(dataset.query) + len(dataset.gallery)) / (time.perf_counter() - start)
    return Embedded(*parts, rate)


def require_matches(dataset: ReIDDataset) -> None:
    """Looks whether there is anything to measure, before anything is embedded.

    Raises:
        InputError: the data set is for training only, no query has a match that the protocol leaves in the gallery, or
            clothes are needed and not known.
    """
    if not dataset.gallery:
        raise InputError(f"data set '{dataset.name}' has no query and gallery: it is for training only")
    rules, images = dataset.protocol, (*dataset.query, *dataset.gallery)
    counts = Counter(r.identity for r in dataset.gallery)
    if rules.draws:  # of galleries with one image of each identity
        asking = {r.identity for r in dataset.query} or {name for name, count in counts.items() if count > 1}
        found, different = not asking.isdisjoint(counts), ()
    else:
        if rules.same_clothes_removed and any(r.clothes is None for r in images):
            raise InputError('the clothes-changing protocol needs the clothes of all images, which are not known')
        by_camera = rules.same_camera_removed and all(r.camera is not None for r in images)
        different = [name for name, rule in (('camera', by_camera), ('clothes', rules.same_clothes_removed)) if rule]
        seen = defaultdict(set)
        for r in dataset.gallery:
            seen[r.identity].add(tuple(getattr(r, name) for name in different))
        found = any(
            all(theirs != getattr(r, name) for name, theirs in zip(different, other, strict=True))
            for r in dataset.query
            for other in seen.get(r.identity, ())
        )
    if not found:
        raise InputError(
            f'no query has a match in the gallery of {dataset.name}: check that both have identities in common'
            + (f', under different {" and ".join(different)}' if different else '')
        )


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
        rerank: `k1`, `k2` and `lambda_value` of a re-ranking by k-reciprocal neighbours; None for none.
        max_rank: length of the CMC curve, unless the gallery is smaller.
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
        device: where to compute; None for the CPU.
        same_clothes_removed: leave out pairs of one identity in the same clothes, too.
        **options: of `evaluate_verification`.
    """
    labels = [features.labels(same_clothes_removed) for features in (query, gallery)]
    return evaluate_verification(query.embeddings.to(device or 'cpu'), gallery.embeddings, *labels, **options)


_DRAWS = re.compile(r'draws=(\d+)')
_MOST_DRAWS = 1000


def parse_protocol(rules: Sequence[str]) -> Protocol:
    """A protocol in words.

    Args:
        rules: `standard` alone, or some of `clothes-changing`, `all-cameras` (keep images of a query's own camera)
            and `draws=N`, up to 1,000 of them.

    Raises:
        InputError: another rule, or one that excludes another.
    """
    protocol = Protocol()
    for rule in rules:
        draws = _DRAWS.fullmatch(rule)
        if draws and len(draws[1]) < 20 and 0 < int(draws[1]) <= _MOST_DRAWS:
            protocol = replace(protocol, draws=int(draws[1]))
        elif rule == 'clothes-changing':
            protocol = replace(protocol, same_clothes_removed=True)
        elif rule == 'all-cameras':
            protocol = replace(protocol, same_camera_removed=False)
        elif rule != 'standard' or len(rules) > 1:
            known = f'standard alone, or some of clothes-changing, all-cameras and draws=N, up to draws={_MOST_DRAWS}'
            raise InputError(f'protocol {" ".join(rules)}: give {known}')
    return protocol
