"""How a network of person search does in training."""

from dataclasses import dataclass

from msinet_eval.metrics.person_search import PersonSearchResult

__all__ = ['COLUMNS', 'SceneMeasurement']

#: Metrics in `summary.csv`, by their names in a result.
COLUMNS = {'mAP': 'mAP', 'top1': 'top-1', 'detection_recall': 'detection recall', 'detection_AP': 'detection AP'}


@dataclass(frozen=True)
class SceneMeasurement:
    """A network on its set of scenes.

    Attributes:
        result: detection and search.
    """

    result: PersonSearchResult

    def metrics(self) -> dict[str, float]:
        """Metrics, each 0 to 1, by the names of `COLUMNS`."""
        return {column: self.result.metrics[name] for column, name in COLUMNS.items()}

    def __str__(self) -> str:
        """For the end of a line of the log."""
        metrics = self.result.metrics
        return ''.join(f'  {name} {100 * metrics[name]:.1f} %' for name in ('mAP', 'top-1', 'detection AP'))
