"""What `msinet-eval` does: every model on every data set, a row of metrics for each."""

import argparse
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from msinet_eval.breakdown import Breakdown, by_camera_pair, by_domain
from msinet_eval.features.embeddings import load_embeddings
from msinet_eval.features.refine import augment_database, average_tracklets, expand_queries, subtract_camera_means
from msinet_eval.features.types import Embedded, Features
from msinet_eval.metrics.bootstrap import bootstrap
from msinet_eval.models.load import find_model, load_model
from msinet_eval.protocol import Evaluation, Refine, embed_dataset, measure, parse_protocol, verify
from msinet_timm.datasets import ReIDDataset, parse_options, read_datasets
from msinet_timm.datasets.cache import open_cache
from msinet_timm.datasets.records import NO_CAMERAS, PARTS, sort_names
from msinet_timm.datasets.tools.verify import drop_broken
from msinet_timm.errors import InputError
from msinet_timm.memory import keep_memory
from msinet_timm.processes import is_primary, start_processes

from .outputs import CHANGES, Row, calibration_folder, file_name, prepare_outputs, report

__all__ = ['run']


def run(args: argparse.Namespace) -> int:
    """Measures and reports."""
    _check(args)
    args.rerank = _rerank_options(args)
    args.amp = args.amp_dtype if args.amp else None
    with start_processes(args.device) as processes:
        device = processes.device
        if device.type == 'cpu':
            keep_memory()
        if is_primary():
            prepare_outputs(args)
        try:
            rows = list(_measure_embeddings(args, device) if args.embeddings else _measure_models(args, device))
        except torch.OutOfMemoryError as e:
            raise InputError(f'{device} has not enough memory: give a --batch-size below {args.batch_size}') from e
        if is_primary():
            report(args, rows)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses flags that would have no effect."""
    if args.embeddings:
        if args.models or args.dataset:
            raise InputError('--embeddings are measured instead of a model on a data set: leave out one of them')
        if len(args.embeddings) > 2:
            raise InputError('--embeddings: give one file of queries and one of the gallery')
        of_models = ('data_dir', 'data_option', 'skip_broken', 'model', 'height', 'width', 'flip', 'neck', 'amp')
        idle = [name for name in (*of_models, 'features') if getattr(args, name)] + ['part'] * (args.part != 'all')
        if idle:
            raise InputError(f'{_flag(idle[0])} is for models, and --embeddings are measured as they are: leave it out')
    elif args.labels:
        raise InputError('--labels tell who --embeddings are of: give those, too')
    if args.png and not args.html:
        raise InputError('--png writes the curves of a report: give --html FILE, too')
    if args.calibrate:
        _check_calibrate(args)
    if not args.rerank:
        for name in ('k1', 'k2', 'lambda_value'):
            if getattr(args, name) is not None:
                raise InputError(f'{_flag(name)} is a setting of --rerank: give that, too')


def _check_calibrate(args: argparse.Namespace) -> None:
    """A threshold is kept for a model as `msinet-eval pair` uses it."""
    if args.embeddings or len(args.models) * len(args.dataset) > 1:
        raise InputError('--calibrate needs one model and one data set')
    changed = [name for name in (*CHANGES, 'rerank') if getattr(args, name) not in (None, False, 'all')]
    if changed:
        raise InputError(
            f'--calibrate is for plain embeddings, as msinet-eval pair takes them: leave out {_flag(changed[0])}'
        )
    if calibration_folder(args.models[0]) is None:
        raise InputError(
            f"--calibrate writes beside a model's weights, but '{args.models[0]}' is no folder and no file"
        )


def _flag(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def _rerank_options(args: argparse.Namespace) -> dict | None:
    if not args.rerank:
        return None
    given = {name: getattr(args, name) for name in ('k1', 'k2', 'lambda_value')}
    return {'k1': 20, 'k2': 6, 'lambda_value': 0.3} | {name: v for name, v in given.items() if v is not None}


def _measure_embeddings(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    embedded = load_embeddings(args.embeddings, args.labels)
    notes = (NO_CAMERAS,) if embedded.gallery.cameras is None else ()
    dataset = _force_protocol(ReIDDataset('embeddings', '', (), (), (), notes=notes), args.protocol)
    yield _measure(args, device, ' and '.join(Path(file).name for file in args.embeddings), dataset, embedded)


def _measure_models(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    models = [find_model(name, args.model) for name in args.models]
    datasets = _read_datasets(args)
    cache = open_cache(args.cache, args.workers)
    several = len(models) * len(datasets) > 1
    for given, arguments in zip(args.models, models, strict=True):
        module, data_config = load_model(**arguments, height=args.height, width=args.width)
        for label, dataset in datasets.items():
            name = f'{given} on {label}'
            embedded = embed_dataset(
                module,
                dataset,
                folder=args.features and (Path(args.features) / file_name(name) if several else args.features),
                data_config=data_config,
                cache=cache,
                batch_size=args.batch_size,
                workers=args.workers,
                device=device,
                flip=args.flip,
                part=args.part,
                neck=args.neck,
                amp=args.amp,
                distributed=torch.distributed.is_initialized(),
            )
            if is_primary():
                row = _measure(args, device, name, dataset, embedded)
                yield replace(row, model=given, data_config=data_config, module=module)


def _read_datasets(args: argparse.Namespace) -> dict[str, ReIDDataset]:
    datasets = read_datasets(args.dataset, args.data_dir, parse_options(args.data_option), expand=True)
    if args.skip_broken:
        datasets = {name: drop_broken(dataset, PARTS[1:]) for name, dataset in datasets.items()}
    return {name: _force_protocol(dataset, args.protocol) for name, dataset in datasets.items()}


def _force_protocol(dataset: ReIDDataset, rules: Sequence[str] | None) -> ReIDDataset:
    if not rules:
        return dataset
    protocol = parse_protocol(rules)
    notes = [f'forced protocol: {", ".join(rules)}']
    if not protocol.same_camera_removed:
        notes.append("images of a query's own camera count as matches")
    return replace(dataset, protocol=protocol, notes=(*dataset.notes, *notes))


def _measure(
    args: argparse.Namespace, device: torch.device, name: str, dataset: ReIDDataset, embedded: Embedded
) -> Row:
    options = {'refine': _refine(args, device), 'max_rank': max(50, *args.ranks), 'device': device}
    lists = evaluation = measure(embedded, dataset.protocol, **options)
    if args.rerank:
        evaluation = measure(embedded, dataset.protocol, rerank=args.rerank, **options)
    ranking, query, gallery, _ = evaluation
    if max(args.ranks) > len(gallery) and args.ranks != [1, 5, 10]:
        raise InputError(f'--ranks {max(args.ranks)}: the gallery of {name} has only {len(gallery)} images')
    clothes = dataset.protocol.same_clothes_removed
    intervals = verification = None
    if args.intervals and not ranking.draws:
        intervals = bootstrap(ranking, query.identities, ranks=args.ranks)
    if args.thresholds or args.calibrate:
        verification = verify(query, gallery, device=device, same_clothes_removed=clothes)
    breakdowns = _break_down(name, query, gallery, clothes, device) if args.breakdown else {}
    return Row(
        name=name,
        model=None,
        dataset=dataset,
        evaluation=evaluation,
        lists=lists,
        remarks=(*dataset.remarks, *_skipped(evaluation)),
        intervals=intervals,
        verification=verification,
        breakdowns=breakdowns,
        data_config=None,
        module=None,
    )


def _refine(args: argparse.Namespace, device: torch.device) -> Refine | None:
    """What is done to features before they are ranked; None for nothing."""
    steps: list[Refine] = []
    if args.camera_mean:
        steps.append(subtract_camera_means)
    if args.multi_shot:
        steps.append(lambda query, gallery: (average_tracklets(query), average_tracklets(gallery)))
    if k := args.database_augmentation:
        steps.append(lambda query, gallery: (query, augment_database(gallery, k, device=device)))
    if n := args.query_expansion:
        steps.append(lambda query, gallery: (expand_queries(query, gallery, n, device=device), gallery))
    if not steps:
        return None
    return lambda query, gallery: functools.reduce(lambda pair, step: step(*pair), steps, (query, gallery))


def _break_down(
    name: str, query: Features, gallery: Features, same_clothes: bool, device: torch.device
) -> dict[str, Breakdown]:
    options = {'same_clothes_removed': same_clothes, 'device': device}
    found = {}
    if query.cameras is not None:
        found['camera'] = by_camera_pair(query, gallery, **options)
    if query.domains is not None:
        found['domain'] = by_domain(query, gallery, **options)
    if not found:
        raise InputError(f'--breakdown: neither cameras nor domains of {name} are known')
    return found


def _skipped(evaluation: Evaluation) -> Iterator[str]:
    """Remarks on queries without a match, and why."""
    ranking, query, gallery, _ = evaluation
    missing = sort_names(set(query.identities) - set(gallery.identities))
    skipped = ranking.skipped.get('identity not in gallery', 0)
    if missing:
        listed = ', '.join(missing[:8]) + (', ...' if len(missing) > 8 else '')
        yield (
            f'{len(missing)} of {len(set(query.identities))} query identities are not in the gallery ({listed}): '
            f'{skipped} queries skipped'
        )
    if rest := ranking.num_skipped - skipped:
        yield f'{rest} queries skipped: all their matches are removed by the protocol'
