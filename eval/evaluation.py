"""A model and a data set -> an `EvaluationResult`: what `msinet-eval` does, for programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from msinet_eval.features.embeddings import load_embeddings
from msinet_eval.features.extract import reid_data_config
from msinet_eval.features.forward import device_of
from msinet_eval.features.refine import augment_database, average_tracklets, expand_queries, subtract_camera_means
from msinet_eval.features.types import Embedded, Features
from msinet_eval.metrics.ranking import RankingResult
from msinet_eval.models.load import find_model, find_norms, load_model
from msinet_eval.protocol import draw_gallery, embed_dataset, parse_protocol, rank
from msinet_eval.report.result import EvaluationResult
from msinet_eval.report.text import list_names
from msinet_eval.settings import EvalSettings
from msinet_timm.commands import find_device
from msinet_timm.datasets import Protocol, Record, ReIDDataset, create_dataset
from msinet_timm.datasets.cache import ImageCache, open_cache
from msinet_timm.datasets.records import NO_CAMERAS, PARTS, sort_names
from msinet_timm.datasets.tools.verify import drop_broken
from msinet_timm.datasets.trained import find_trained
from msinet_timm.errors import InputError
from msinet_timm.export.module import ExportedModule, is_exported
from msinet_timm.hub.adapt import adapt
from msinet_timm.models.camera_norm import FILE_NAME, CameraNorms
from msinet_timm.processes import is_primary

__all__ = [
    'check_embeddings_settings', 'evaluate', 'evaluate_embeddings', 'images_to_adapt', 'measure', 'name_adapted',
    'open_model', 'open_norms', 'prepare_dataset',
]  # fmt: skip


def evaluate(
    model: nn.Module | str | Path,
    dataset: ReIDDataset | str,
    settings: EvalSettings | None = None,
    *,
    architecture: str | None = None,
    data_dir: str | Path | None = None,
    data_options: Mapping[str, Any] | None = None,
    data_config: dict[str, Any] | None = None,
    transform: Callable | None = None,
    cache: ImageCache | str | Path | None = None,
    name: str | None = None,
    rerank: bool | Mapping[str, float] | None = None,
    source: Mapping[str, Any] | None = None,
    distributed: bool = False,
    norms: CameraNorms | None = None,
    **changes: Any,
) -> EvaluationResult | None:
    """Embeds query and gallery, ranks one for the other by the data set's protocol, and measures the rankings.

    `evaluate('runs/market/best', 'market1501', data_dir='datasets', rerank=True).report('market.html')`

    Args:
        model: in training or not, with classifiers or without, see `msinet_eval.features.embed`; or what
            `msinet-eval` takes by name: a timm model, a folder, `hf-hub:OWNER/NAME`, a checkpoint, or a file
            that `msinet-hub export` has written (except TorchScript's).
        dataset: its train part is not used; or a name of `msinet_timm.datasets.list_datasets()`.
        settings: how to embed and rank; None for the defaults.
        architecture: timm model that a checkpoint is of.
        data_dir: folder of a data set given by name.
        data_options: options of a data set given by name.
        data_config: how images are fed to a module, for `timm.data.create_transform`; None for its own config, without
            a crop.
        transform: PIL image -> [3, H, W], in the place of that of `data_config`.
        cache: one that is open, or `'memory'` or a folder, in the place of the one that the settings name.
        name: of the result in tables and reports; None for those of the model and the data set.
        rerank: whether to re-rank by k-reciprocal neighbours, or a mapping with some of `k1`, `k2` and `lambda_value`.
        source: how the module or the data set was given, see `EvaluationResult`.
        distributed: share the images out among torch's processes; only the first of them gets the result, others None.
        norms: of cameras that the model has been adapted to, see `msinet_timm.hub.adapt.adapt`; None for those in the
            folder of a model given by name, if there are any. Cameras that they do not know are named in the notes.
        changes: fields of `EvalSettings`, such as `flip=True`, in the place of those of `settings`.

    Raises:
        InputError: a model or data set that cannot be used, a data set for training only, a setting out of its range,
            no query with a match, or norms of none of the cameras.
    """
    if isinstance(cache, str | Path):
        changes, cache = changes | {'cache': cache}, None
    if rerank is not None:
        changes |= {**rerank, 'rerank': True} if isinstance(rerank, Mapping) else {'rerank': rerank}
    settings = replace(settings or EvalSettings(), **changes)
    if norms is not None and settings.adapt:
        raise InputError('adapt makes norms of cameras, and `norms` are given: leave out one of them')
    given, own, notes = type(model).__name__, {}, ()
    if isinstance(model, nn.Module):
        if data_config is None and transform is None:
            data_config = reid_data_config(model, settings.height, settings.width)
    else:
        given, own = str(model), {'model': architecture or str(model), 'checkpoint': architecture and str(model)}
        model, data_config, transform = open_model(given, architecture, settings)
        if norms is None:
            norms, notes = open_norms(given, model, settings)
        settings = replace(settings, device=find_device(settings.device))
    if not isinstance(dataset, ReIDDataset):
        dataset = create_dataset(dataset, data_dir, **(data_options or {}))
    settings = replace(settings, device=settings.device or device_of(model))
    source = {**own, 'data_options': dict(dataset.options), **(source or {})}
    dataset = prepare_dataset(dataset, settings)
    dataset = find_trained(source.get('checkpoint') or source.get('model')).tell(dataset)
    if settings.adapt:
        if transform is not None:
            raise InputError('adapt goes by the data config of a model: leave out the transform')
        options = {name: getattr(settings, name) for name in ('batch_size', 'device', 'workers')}
        images = images_to_adapt(dataset, settings)
        norms = adapt(model, images, data_config, crops=settings.adapt, **options)
    if norms is not None and isinstance(model, ExportedModule):
        raise InputError(f'norms are for a module, and {given} is an exported file')
    cameras = None if norms is None else _describe_norms(norms, dataset, settings)
    embedded = embed_dataset(
        model,
        dataset,
        folder=settings.features,
        data_config=data_config,
        transform=transform,
        cache=cache or open_cache(settings.cache, settings.workers),
        device=torch.device(settings.device),
        amp=settings.amp_dtype if settings.amp else None,
        distributed=distributed,
        norms=norms,
        **{name: getattr(settings, name) for name in ('batch_size', 'workers', 'flip', 'part', 'neck')},
    )
    if distributed and not is_primary():
        return None
    return measure(
        embedded,
        dataset.protocol,
        settings,
        name=name_adapted(name or f'{given} on {dataset.name}', settings),
        dataset=dataset.name,
        notes=(*dataset.remarks, *notes, *(_tell_norms(cameras) if cameras else ())),
        norms=cameras,
        source=source,
        model=model,
        data_config=data_config,
    )


def open_model(
    name: str, architecture: str | None, settings: EvalSettings
) -> tuple[nn.Module, dict[str, Any], Callable | None]:
    """A model by name, how images are fed to it, and the transform that it needs in the place of that, if any.

    Args:
        name: see `evaluate`.
        architecture: timm model that a checkpoint is of.
        settings: of which `height` and `width` are used, and what an exported file cannot do is refused.

    Raises:
        InputError: a model that cannot be used.
    """
    if not is_exported(name):
        found = find_model(name, architecture)
        return *load_model(**found, height=settings.height, width=settings.width), None
    if architecture or settings.height or settings.width or settings.amp:
        raise InputError(
            f'{name} is an exported model, of one network and input size, and of one precision: give no other, '
            'and leave out `amp`'
        )
    if settings.adapt:
        raise InputError(
            f'adapt: {name} is an exported model, whose statistics are fixed: adapt the model that it was made of '
            '(msinet-hub adapt), and measure or export that'
        )
    module = ExportedModule(name)
    if module.cameras:
        raise InputError(f'{name} tells cameras apart, which evaluations do of model folders only: give the folder')
    if module.transform and (settings.features or settings.cache != 'none'):
        raise InputError(f'{name} prepares images itself: leave out `features` and `cache`')
    return module, module.data_config, module.transform


def open_norms(name: str, model: nn.Module, settings: EvalSettings) -> tuple[CameraNorms | None, tuple[str, ...]]:
    """What the folder of a model knows of cameras, and what is to be said of what is not seen.

    Args:
        name: see `evaluate`.
        model: as `open_model` gives it.
        settings: of which `camera_norms` and `adapt` are used.

    Raises:
        InputError: norms that cannot be read, or of other weights.
    """
    if isinstance(model, ExportedModule) and (camera := model.exported.metadata.get('camera')) is not None:
        return None, (f"the file is of camera '{camera}': all images are embedded as its own",)
    folder = find_norms(name)
    if folder is None:
        return None, ()
    if settings.camera_norms and not settings.adapt:
        if settings.height or settings.width:
            raise InputError(
                f'height and width: {folder / FILE_NAME} is of the size that the folder tells; leave them out, or the '
                'cameras (--no-camera-norms), or learn these anew (--adapt 64)'
            )
        return CameraNorms.load(folder, model), ()
    return None, (f'{folder / FILE_NAME} is left out',)


def name_adapted(name: str, settings: EvalSettings) -> str:
    """What a result is called: of a model that is adapted before, it says so."""
    if not settings.adapt:
        return name
    marked = ', transductive' if settings.transductive else ''
    return f'{name}, adapted ({settings.adapt} {settings.adapt_on or "train"} images a camera{marked})'


def images_to_adapt(dataset: ReIDDataset, settings: EvalSettings) -> tuple[Record, ...]:
    """The images of a data set that a model is adapted to.

    Raises:
        InputError: there are none, or their cameras are not known.
    """
    records = dataset.query + dataset.gallery if settings.transductive else dataset.train
    if not records:
        raise InputError(
            f"adapt: data set '{dataset.name}' has no training images: adapt to other images by msinet-hub adapt MODEL "
            '--images DIR, or to query and gallery themselves by `adapt_on` test (transductive)'
        )
    if any(record.camera is None for record in records):
        raise InputError(
            f"adapt: cameras of data set '{dataset.name}' are not known, and a model is adapted to cameras: read it "
            'with cameras (folders <identity>/<camera>/, or a column camera), or leave out `adapt`'
        )
    return records


def _describe_norms(norms: CameraNorms, dataset: ReIDDataset, settings: EvalSettings) -> dict[str, Any]:
    """What cameras of a data set are known, as `EvaluationResult.norms`."""
    tested = dataset.query + dataset.gallery
    cameras = sort_names({record.camera for record in tested} - {None})
    known = {camera: norms.counts[camera] for camera in cameras if camera in norms}
    if cameras and not known:
        asked, known = (list_names(names) for names in (cameras, sort_names(norms)))
        raise InputError(
            f"none of the cameras of data set '{dataset.name}' ({asked}) is among those that the model has been "
            f'adapted to ({known}): adapt it to these by msinet-hub adapt, or measure it with its own statistics by '
            '--no-camera-norms'
        )
    return {
        'images': known,
        'unknown': [camera for camera in cameras if camera not in norms],
        'adapted_on': (settings.adapt_on or 'train') if settings.adapt else None,
        'transductive': bool(settings.adapt and settings.transductive),
    }


def _tell_norms(cameras: Mapping[str, Any]) -> list[str]:
    """Notes on the norms of cameras that were used."""
    known, unknown = cameras['images'], cameras['unknown']
    if not known:
        return ["its cameras are not known: all is embedded by the model's own statistics, not by those of cameras"]
    of = {None: '', 'train': 'training ', 'test': 'test '}[cameras['adapted_on']]
    counts = sorted(set(known.values()))
    many = f'{counts[0]}' if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'
    told = (
        f'batch norms and means of {len(known)} cameras, from {many} {of}images of each, whose identities were not used'
    )
    notes = [f'transductive: {told}: they are among the images that are measured' if cameras['transductive'] else told]
    if unknown:
        notes.append(f"cameras {list_names(unknown)} are not known: embedded by the model's own statistics")
    return notes


def check_embeddings_settings(settings: EvalSettings) -> None:
    """Refuses settings that would have no effect on embeddings from elsewhere.

    Raises:
        InputError: one that is for models.
    """
    of_models = 'skip_broken cache height width flip part neck amp amp_dtype batch_size workers features'
    for name in [*of_models.split(), 'adapt', 'camera_norms']:
        if getattr(settings, name) != getattr(EvalSettings(), name):
            raise InputError(f'{name} is for models, and embeddings are measured as they are: leave it out')


def evaluate_embeddings(
    files: Sequence[str | Path],
    labels: str | Path | None = None,
    settings: EvalSettings | None = None,
    **changes: Any,
) -> EvaluationResult:
    """Ranks and measures embeddings from elsewhere.

    Args:
        files: see `msinet_eval.features.embeddings.load_embeddings`.
        labels: see there.
        settings: of the ranking; None for the defaults.
        changes: fields of `EvalSettings` in the place of those of `settings`.

    Raises:
        InputError: files or labels that cannot be used, a setting that is for models, or no query with a match.
    """
    settings = replace(settings or EvalSettings(), **changes)
    check_embeddings_settings(settings)
    embedded = load_embeddings(files, labels)
    notes = () if embedded.gallery.cameras is not None else (NO_CAMERAS,)
    dataset = prepare_dataset(ReIDDataset('embeddings', '', (), (), (), notes=notes), settings)
    return measure(
        embedded,
        dataset.protocol,
        settings,
        name=' and '.join(Path(file).name for file in files),
        dataset=dataset.name,
        notes=dataset.notes,
        source={'embeddings': list(map(str, files))},
    )


def prepare_dataset(dataset: ReIDDataset, settings: EvalSettings) -> ReIDDataset:
    """A data set as settings want it measured: without broken images, by another protocol."""
    if settings.skip_broken:
        dataset = drop_broken(dataset, PARTS if settings.adapt and not settings.transductive else PARTS[1:])
    if not settings.protocol:
        return dataset
    protocol = parse_protocol(settings.protocol)
    notes = [f'forced protocol: {", ".join(settings.protocol)}']
    if not protocol.same_camera_removed:
        notes.append("images of a query's own camera count as matches")
    return replace(dataset, protocol=protocol, notes=(*dataset.notes, *notes))


def measure(
    embedded: Embedded, protocol: Protocol | None = None, settings: EvalSettings | None = None, **about: Any
) -> EvaluationResult:
    """Ranks features by a protocol.

    Args:
        embedded: query and gallery, as a model gives them.
        protocol: what is left out of the rankings, and whether the gallery is drawn.
        settings: what is done to features before they are ranked, and how they are ranked; None for the defaults.
        about: further fields of `EvaluationResult`.

    Raises:
        InputError: there are no queries though the protocol draws none, a refinement that needs labels which are not
            known, ranks beyond the gallery, and see `evaluate_ranking` and `ReRanking`.
    """
    protocol, settings = protocol or Protocol(), settings or EvalSettings()
    if embedded.query is None and not protocol.draws:
        raise InputError('there are no queries: give some, or have them drawn from the gallery (`protocol` draws=10)')
    options = {
        'device': settings.device,
        'same_clothes_removed': protocol.same_clothes_removed,
        'max_rank': max(50, *settings.ranks),
    }
    first, plain, reranked = None, [], []
    for seed in range(protocol.draws or 1):
        pair = embedded[:2] if not protocol.draws else draw_gallery(*embedded[:2], seed)
        pair = _refine(*pair, settings)
        if not protocol.same_camera_removed:
            pair = tuple(replace(features, cameras=None) for features in pair)
        first = first or pair
        plain.append(rank(*pair, **options))
        if settings.reranking:
            reranked.append(rank(*pair, rerank=settings.reranking, **options))
    query, gallery = first
    if max(settings.ranks) > len(gallery) and settings.ranks != EvalSettings().ranks:
        of = f'the gallery of {about["name"]}' if about.get('name') else 'the gallery'
        raise InputError(f'ranks {max(settings.ranks)}: {of} has only {len(gallery)} images')
    return EvaluationResult(
        _mean(reranked or plain),
        query,
        gallery,
        protocol=protocol,
        settings=settings,
        plain=_mean(plain) if reranked else None,
        images_per_second=embedded.images_per_second,
        **about,
    )


def _mean(draws: list[RankingResult]) -> RankingResult:
    return RankingResult.mean(draws) if len(draws) > 1 else draws[0]


def _refine(query: Features, gallery: Features, settings: EvalSettings) -> tuple[Features, Features]:
    """What is done to features before they are ranked."""
    if settings.camera_mean:
        query, gallery = subtract_camera_means(query, gallery)
    if settings.multi_shot:
        query, gallery = average_tracklets(query), average_tracklets(gallery)
    if k := settings.database_augmentation:
        gallery = augment_database(gallery, k, device=settings.device)
    if k := settings.query_expansion:
        query = expand_queries(query, gallery, k, device=settings.device)
    return query, gallery
