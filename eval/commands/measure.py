"""What `msinet-eval` does: every model on every data set, a result for each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from msinet_eval.evaluation import evaluate, images_to_adapt, name_adapted, open_model, open_norms, prepare_dataset
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
    """Measures each model on each data set; where it is to be adapted, as it is and adapted.

    Of several processes that share the work the first gets the results.

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
    ways = [settings]
    if settings.adapt:
        for dataset in datasets.values():
            images_to_adapt(dataset, settings)
        ways = [replace(settings, adapt=None, adapt_on=None, camera_norms=False), settings]
    several = len(models) * len(datasets) * len(ways) > 1
    for given in models:
        module, data_config, transform = open_model(given, architecture, settings)
        norms, notes = open_norms(given, module, settings)
        for label, dataset in datasets.items():
            for own in ways:
                name = f'{given} on {label}'
                if settings.features and several:
                    folder = Path(settings.features) / file_name(name_adapted(name, own))
                    own = replace(own, features=str(folder))
                result = evaluate(
                    module,
                    replace(dataset, notes=(*dataset.notes, *notes)),
                    own,
                    data_config=data_config,
                    transform=transform,
                    cache=cache,
                    name=name,
                    source={'model': architecture or given, 'checkpoint': given if architecture else None},
                    distributed=torch.distributed.is_initialized(),
                    norms=norms,
                )
                if result is not None:
                    yield result
