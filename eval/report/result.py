"""A measured model: what tables, charts and reports are made of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from msinet_eval.breakdown import Breakdown, by_camera_pair, by_domain
from msinet_eval.features.types import Features
from msinet_eval.metrics.bootstrap import bootstrap
from msinet_eval.metrics.ranking import RankingResult
from msinet_eval.metrics.verification import VerificationResult
from msinet_eval.protocol import verify
from msinet_eval.settings import EvalSettings
from msinet_timm.datasets import Protocol
from msinet_timm.datasets.records import sort_names
from msinet_timm.hub.calibration import find_calibration

from .html import write_report
from .ranked_lists import Found, list_found
from .text import list_names, metrics, table

__all__ = ['EvaluationResult']


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """A measured model. What is not a field is computed when it is first asked for, and kept.

    Attributes:
        ranking: CMC, mAP and mINP, and what they are of each query; where the gallery is drawn several times, means
            over the draws.
        query: features of the queries as they were ranked, of the first draw; without cameras where the protocol does
            not ask for them.
        gallery: features of the gallery as it was ranked, of the first draw.
        protocol: what was left out of the rankings.
        settings: how embeddings were made and ranked.
        name: as tables and reports call it.
        dataset: name of the data set.
        notes: what a reader of the metrics must know of the data set.
        plain: `ranking` before re-ranking; None without re-ranking.
        source: what was measured, as it was given: `model`, `checkpoint`, `embeddings`, `data_options`, where they are.
        model: the module, for attention maps in a report, which show its weights at that time; None for embeddings.
        data_config: how images were fed to the model; None for embeddings.
        images_per_second: rate of reading and embedding both; None if nothing was embedded.
        norms: what the model knew of the cameras, None where it was not adapted: `images`, by camera, that its norms
            are of; `unknown` cameras; `adapted_on` `'train'` or `'test'`, None for norms that were given; and whether
            that was `transductive`, that is, on the images that are measured.
    """

    ranking: RankingResult
    query: Features
    gallery: Features
    protocol: Protocol = Protocol()
    settings: EvalSettings = EvalSettings()
    name: str = ''
    dataset: str = ''
    notes: tuple[str, ...] = ()
    plain: RankingResult | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    model: nn.Module | None = None
    data_config: dict[str, Any] | None = None
    images_per_second: float | None = None
    norms: Mapping[str, Any] | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """`mAP`, `Rank-1`, ... for the ranks of the settings, and `mINP`, 0-1."""
        return {name: metric(self.ranking) for name, metric in metrics(self.settings.ranks).items()}

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]] | None:
        """95 % intervals of the metrics, see `msinet_eval.metrics.bootstrap.bootstrap`; None for drawn galleries."""
        if self.ranking.draws:
            return None
        return bootstrap(self.ranking, self.query.identities, ranks=self.settings.ranks)

    @cached_property
    def verification(self) -> VerificationResult:
        """How well distances tell same from different.

        Raises:
            InputError: all pairs are of one kind.
        """
        return verify(self.query, self.gallery, **self._rules)

    @cached_property
    def cameras(self) -> Breakdown | None:
        """Metrics by camera of query and gallery, before re-ranking; None where cameras are not known."""
        return None if self.query.cameras is None else by_camera_pair(self.query, self.gallery, **self._rules)

    @cached_property
    def domains(self) -> Breakdown | None:
        """Metrics by domain of query and gallery, before re-ranking; None where domains are not known."""
        return None if self.query.domains is None else by_domain(self.query, self.gallery, **self._rules)

    @property
    def threshold(self) -> float | None:
        """The model's calibrated distance; None where it has none, or was not measured as that was."""
        given = self.source.get('checkpoint') or self.source.get('model')
        plain = not self.settings.changes and self.norms is None
        calibration = find_calibration(given) if given and plain else None
        return calibration and calibration.threshold

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the metrics must know: the notes, and how many queries have no match, and why."""
        return (*self.notes, *_skipped(self.ranking, self.query, self.gallery))

    @property
    def _rules(self) -> dict[str, Any]:
        return {'same_clothes_removed': self.protocol.same_clothes_removed, 'device': self.settings.device}

    def found(self, queries: Sequence[int], top: int = 10, removed: int = 0) -> list[list[Found]]:
        """What is nearest to some queries by distance, that is, before re-ranking; no more than that is held.

        Args:
            queries: their indices.
            top: ranks of each, fewer where the ranking is shorter.
            removed: most images of each to list, too, that a rule has taken out of the ranking.

        Returns:
            Of each query, gallery images nearest first, each with `index`, `distance`, `kind` and `rank`.
        """
        clothes = self.protocol.same_clothes_removed
        return list_found(self.query, self.gallery, queries, top=top, removed=removed, same_clothes_removed=clothes)

    def before_reranking(self) -> 'EvaluationResult':
        """The same without re-ranking, named so."""
        if self.plain is None:
            return self
        settings = replace(self.settings, rerank=False, k1=None, k2=None, lambda_value=None)
        name = f'{self.name} before re-ranking'
        before = replace(self, name=name, ranking=self.plain, plain=None, settings=settings)
        # re-ranking changes nothing of these, and they take long
        kept = ('verification', 'cameras', 'domains')
        before.__dict__.update({name: value for name, value in self.__dict__.items() if name in kept})
        return before

    def report(self, path: str | Path, **options: Any) -> None:
        """Writes a report that is one HTML file, with charts and images; before re-ranking, if there is any.

        Args:
            path: of the file.
            options: of `msinet_eval.report.html.write_report`.

        Raises:
            InputError: see there.
        """
        write_report(path, [self], **options)

    def __str__(self) -> str:
        return table([(self.name, self.ranking)], self.settings.ranks, [self.intervals])


def _skipped(ranking: RankingResult, query: Features, gallery: Features) -> Iterator[str]:
    """Remarks on queries without a match, and why."""
    asked = set(query.identities)
    missing = sort_names(asked - set(gallery.identities))
    skipped = ranking.skipped.get('identity not in gallery', 0)
    if missing:
        yield (
            f'{len(missing)} of {len(asked)} query identities are not in the gallery ({list_names(missing)}): '
            f'{skipped} queries skipped'
        )
    if rest := ranking.num_skipped - skipped:
        yield f'{rest} queries skipped: all their matches are removed by the protocol'
