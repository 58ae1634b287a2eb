"""What `msinet-eval` does: every model on every data set, a result for each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from msinet_eval.evaluation import evaluate, open_model, prepare_dataset
from msinet_eval.models.load import find_model
from msinet_eval.report.result import EvaluationResult
from msinet_eval.settings import EvalSettings
from msinet_timm.datasets import ReIDDataset
from msinet_timm.datasets.cache import open_cache
from msinet_timm.export.module import is_exported

from .outputs import file_name

__all__ = ['measure_models']


def measure_models(
    models: Sequence[str],
    datasets: Mapping[str, ReIDDataset],
    settings: EvalSettings,
    architecture: str | None = None,
) -> Iterator[EvaluationResult]:
    """Measures each model on each data set; of several processes that share the work the first gets the results.

    Args:
        models: names, folders or checkpoints, as `msinet_eval.evaluate` takes them.
        datasets: by the names of results, see `msinet_timm.datasets.read_datasets`.
        settings: for all of them. Features are kept in a folder for each, where there are several.
        architecture: timm model that checkpoints are of.

    Raises:
        InputError: see `msinet_eval.evaluate`.
    """
    for name in models:  # a wrong one should show now, not after hours
        if not is_exported(name):
            find_model(name, architecture)
    cache = open_cache(settings.cache, settings.workers)
    datasets = {label: prepare_dataset(dataset, settings) for label, dataset in datasets.items()}
    settings = replace(settings, skip_broken=False, protocol=None)
    for given in models:
        module, data_config, transform = open_model(given, architecture, settings)
        for label, dataset in datasets.items():
            name = f'{given} on {label}'
            own = settings
            if settings.features and len(models) * len(datasets) > 1:
                own = replace(settings, features=str(Path(settings.features) / file_name(name)))
            result = evaluate(
                module,
                dataset,
                own,
                data_config=data_config,
                transform=transform,
                cache=cache,
                name=name,
                source={'model': architecture or given, 'checkpoint': given if architecture else None},
                distributed=torch.distributed.is_initialized(),
            )
            if result is not None:
                yield result
