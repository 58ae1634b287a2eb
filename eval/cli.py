"""The command `msinet-eval`: measures models on data sets; and the commands that are called by its first word."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from msinet_eval.commands.compare import compare, measure_side
from msinet_eval.commands.measure import measure_models
from msinet_eval.commands.outputs import Outputs, calibration_folder, write_outputs
from msinet_eval.commands.pair import compare_images
from msinet_eval.commands.search import search_gallery
from msinet_eval.evaluation import check_embeddings_settings, evaluate_embeddings
from msinet_eval.models.load import find_norms
from msinet_eval.scenes import evaluate_scenes
from msinet_eval.search.index import BACKENDS, PARAMETERS
from msinet_eval.settings import EvalSettings
from msinet_timm.commands import command, find_device, fraction, make_folder, positive, positive_float, processes, whole
from msinet_timm.datasets import (
    add_data_option,
    create_dataset,
    create_scenes,
    list_datasets,
    list_scenes,
    parse_options,
    read_datasets,
    typed_root,
)
from msinet_timm.errors import InputError
from msinet_timm.files import replace_text
from msinet_timm.memory import keep_memory
from msinet_timm.person_search import PersonSearch
from msinet_timm.processes import is_primary, start_processes
from msinet_timm.settings import add_settings, check_used, flag_of, flags_named, given

__all__ = ['main']


def _add_measure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'models',
        nargs='*',
        metavar='MODEL',
        help='name that timm knows, hf-hub:OWNER/NAME, a run or model folder, color_histogram[_stripes], '
        'a file of msinet-hub export, or a checkpoint file with --model; several are measured one after another',
    )
    data = parser.add_argument_group('data')
    data.add_argument(
        '-ds',
        '--dataset',
        nargs='+',
        metavar='DATASET',
        help=f'one or more of: {", ".join(list_datasets())}',
    )
    data.add_argument(
        '--data-dir', type=typed_root, nargs='+', metavar='DIR', help='folder of all data sets, or one for each'
    )
    add_data_option(data)
    data.add_argument(
        '--embeddings',
        nargs='+',
        metavar='FILE',
        help='measure embeddings instead of a model: of queries and gallery, .safetensors or .npy '
        '(of the gallery alone with --protocol draws=N)',
    )
    data.add_argument(
        '--labels',
        metavar='CSV',
        help='who the embeddings are of: columns part (query, gallery), identity, and perhaps camera, clothes, '
        'tracklet, domain, path, in the order of the embeddings; not needed for files that --features wrote',
    )
    model = parser.add_argument_group('model')
    model.add_argument('--model', metavar='NAME', help='the network of a checkpoint file')
    ranking, results = (parser.add_argument_group(title) for title in ('ranking', 'results'))
    add_settings(parser, EvalSettings, {'data': data, 'model': model, 'ranking': ranking, 'results': results})
    add_settings(parser, Outputs, {'results': results})


def _measure(args: argparse.Namespace) -> None:
    with flags_named(EvalSettings, Outputs):
        settings, outputs = EvalSettings(**given(args, EvalSettings)), Outputs(**given(args, Outputs))
        check_used(settings, given(args, EvalSettings))
        _check(args, settings, outputs)
        with start_processes(settings.device) as processes:
            settings = replace(settings, device=processes.device)
            if processes.device.type == 'cpu':
                keep_memory()
            if is_primary():
                outputs.prepare(settings.ranks)
                if settings.features:
                    make_folder(settings.features, '--features')
            try:
                if args.embeddings:
                    results = [evaluate_embeddings(args.embeddings, args.labels, settings)]
                else:
                    options = parse_options(args.data_option)
                    datasets = read_datasets(args.dataset, args.data_dir, options, expand=True)
                    if outputs.calibrate and len(datasets) > 1:
                        raise InputError(f'--calibrate needs one data set: choose one of {", ".join(datasets)}')
                    if outputs.calibrate and settings.camera_norms and find_norms(args.models[0]):
                        raise InputError(
                            '--calibrate is for plain embeddings, as msinet-eval pair takes them, and '
                            f'{args.models[0]} knows cameras: give --no-camera-norms'
                        )
                    results = list(measure_models(args.models, datasets, settings, args.model))
            except torch.OutOfMemoryError as e:
                raise InputError(
                    f'{settings.device} has not enough memory: give a --batch-size below {settings.batch_size}'
                ) from e
            if is_primary():
                own = Path(sys.argv[0]).name == 'msinet-eval'
                write_outputs(results, outputs, ' '.join(['msinet-eval', *sys.argv[1:]]) if own else None)


def _check(args: argparse.Namespace, settings: EvalSettings, outputs: Outputs) -> None:
    """Refuses flags that would have no effect."""
    if args.embeddings:
        if args.models or args.dataset:
            raise InputError('--embeddings are measured instead of a model on a data set: leave out one of them')
        for name in ('data_dir', 'data_option', 'model'):
            if getattr(args, name):
                raise InputError(
                    f'{flag_of(name)} is for models, and embeddings are measured as they are: leave it out'
                )
        check_embeddings_settings(settings)
    elif args.labels:
        raise InputError('--labels tell who --embeddings are of: give those, too')
    if outputs.calibrate:
        _check_calibrate(args, settings)


def _check_calibrate(args: argparse.Namespace, settings: EvalSettings) -> None:
    """A threshold is kept for a model as `msinet-eval pair` uses it."""
    if args.embeddings or len(args.models) * len(args.dataset) > 1:
        raise InputError('--calibrate needs one model and one data set')
    if settings.changes:
        changed = 'rerank' if settings.rerank else next(iter(settings.changes))
        raise InputError(
            f'--calibrate is for plain embeddings, as msinet-eval pair takes them: leave out {flag_of(changed)}'
        )
    if calibration_folder(args.models[0]) is None:
        raise InputError(
            f"--calibrate writes beside a model's weights, but '{args.models[0]}' is no folder and no file"
        )


def _make_folders(args: argparse.Namespace, *names: str) -> None:
    """Those of files to write, so that a wrong path shows before the work and not after it."""
    for name in filter(vars(args).get, names):
        make_folder(Path(getattr(args, name)).parent, flag_of(name))


def _add_compare(parser: argparse.ArgumentParser) -> None:
    what = 'a model as for msinet-eval, or a folder that msinet-eval --features has written'
    parser.add_argument('a', metavar='A', help=what)
    parser.add_argument('b', metavar='B', help='another')
    parser.add_argument('-ds', '--dataset', help='data set to measure models on; not needed for two folders')
    parser.add_argument('--data-dir', type=typed_root, metavar='DIR', help='folder of the data set')
    add_data_option(parser)
    add_settings(parser, EvalSettings, names=('batch_size', 'workers', 'device', 'camera_norms'))
    parser.add_argument(
        '--top', type=positive, default=10, metavar='N', help='queries to name that changed most (default: 10)'
    )
    parser.add_argument(
        '--samples', type=whole(1, 100_000), default=1000, metavar='N', help='of the bootstrap (default: 1000)'
    )
    parser.add_argument('--json', metavar='FILE', help='write the metrics')
    parser.add_argument('--html', metavar='FILE', help='write a page that shows these queries with both rankings')


def _compare(args: argparse.Namespace) -> None:
    _make_folders(args, 'json', 'html')
    dataset, remarks = None, []
    if args.dataset:
        dataset = create_dataset(args.dataset, args.data_dir, **parse_options(args.data_option))
        remarks = list(dataset.remarks)
        if dataset.protocol.draws:
            remarks.append('the gallery is drawn at random: compared on the first draw')
    settings = EvalSettings(**given(args, EvalSettings))
    sides = []
    for letter, name in (('A', args.a), ('B', args.b)):
        try:
            sides.append(measure_side(name, dataset, settings))
        except InputError as e:
            raise InputError(f'{letter}: {e}') from e
    for letter, side in zip('AB', sides, strict=True):  # of cameras: what else is told is of the data set
        remarks += [f'{letter}: {note}' for note in side.notes if note not in remarks]
    comparison = compare(*sides, count=args.top, samples=args.samples)
    print(comparison)
    for remark in remarks:
        print(f'  {remark}')
    if args.json:
        comparison.save(args.json, args.dataset, remarks)
    if args.html:
        comparison.write_html(args.html, remarks)


def _add_pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('a', metavar='A.jpg', help='an image, cropped to one person or vehicle')
    parser.add_argument('b', metavar='B.jpg', help='another')
    parser.add_argument('--model', metavar='NAME', help='as for msinet-eval (default: msinet_x1_0, if pretrained)')
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for a model given by name')
    parser.add_argument('--threshold', type=positive_float, metavar='DISTANCE', help='instead of the calibrated one')
    add_settings(parser, EvalSettings, names=('height', 'width', 'device'))
    parser.add_argument('--json', metavar='FILE', help='write the answer')


def _pair(args: argparse.Namespace) -> None:
    _make_folders(args, 'json')
    pair = compare_images(**{name: value for name, value in vars(args).items() if name != 'json'})
    print(f'distance {pair.distance:.4f}, cosine {pair.cosine:.4f} ({pair.model})')
    if pair.same is None:
        print(
            f'Whether this is the same one depends on a threshold, and {pair.model} has none: give --threshold, or '
            f'measure one with msinet-eval {args.checkpoint or pair.model} -ds DATASET --data-dir DIR --calibrate'
        )
    else:
        verdict = 'the same one' if pair.same else 'not the same one'
        print(f'{verdict}: the threshold is {pair.threshold:.4f} ({pair.origin})')
    if args.json:
        told = {name: getattr(pair, name) for name in ('a', 'b', 'model', 'distance', 'cosine', 'threshold', 'same')}
        replace_text(args.json, json.dumps(told, indent=2) + '\n', f'--json {args.json}: cannot write')


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'gallery',
        metavar='GALLERY',
        help='features: a file (.safetensors as msinet-eval --features writes, .npy), a folder with '
        'gallery.safetensors, or a folder of shards (msinet_eval.search.store.FeatureStore)',
    )
    parser.add_argument(
        'queries',
        nargs='+',
        metavar='QUERY',
        help='features, as for the gallery (of a folder query.safetensors), or images, with --model',
    )
    parser.add_argument('--model', metavar='NAME', help='what embeds the images: the model of the gallery')
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for a model given by name')
    parser.add_argument(
        '--camera', metavar='NAME', help='that the images are from, for a model that msinet-hub adapt has written'
    )
    add_settings(parser, EvalSettings, names=('height', 'width', 'device', 'camera_norms'))
    parser.add_argument(
        '--workers', type=processes, default=0, metavar='N', help='processes that read images (default: 0)'
    )
    parser.add_argument('-k', type=positive, default=10, metavar='N', help='images to find (default: 10)')
    parser.add_argument(
        '--backend', default='exact', choices=list(BACKENDS), help='all but exact need faiss (default: exact)'
    )
    for name in PARAMETERS:
        default = next(defaults[name] for defaults in BACKENDS.values() if name in defaults)
        shown = f' (default: {default or "by size"})'
        parser.add_argument(
            flag_of(name), type=positive, metavar='N', default=argparse.SUPPRESS, help=MEANINGS[name] + shown
        )
    parser.add_argument('--recall', action='store_true', help='search exactly, too, and tell the share that was found')
    parser.add_argument('--output', metavar='CSV', help='write the table there instead of printing it')


def _search(args: argparse.Namespace) -> None:
    _make_folders(args, 'output')
    search_gallery(**vars(args))


def _add_scenes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'models', nargs='+', metavar='MODEL', help='a run or model folder of msinet-train --task search, or hf-hub:...'
    )
    parser.add_argument('-ds', '--dataset', required=True, choices=list_scenes(), help='one of: %(choices)s')
    parser.add_argument('--data-dir', required=True, metavar='DIR', help='folder of the data set')
    add_data_option(parser)
    add_settings(parser, EvalSettings, names=('device',))
    parser.add_argument(
        '--min-score', type=fraction, default=0.5, metavar='P', help='that boxes count from (default: %(default)s)'
    )


def _scenes(args: argparse.Namespace) -> None:
    scenes = create_scenes(args.dataset, args.data_dir, **parse_options(args.data_option))
    device = find_device(getattr(args, 'device', None))
    networks = [PersonSearch(name, device, args.min_score) for name in args.models]  # a wrong one should show now
    for name, network in zip(args.models, networks, strict=True):
        print(f'{name} on {args.dataset}\n{evaluate_scenes(network, scenes)}')
    for remark in scenes.remarks:
        print(f'  {args.dataset}: {remark}')


#: What the parameters of the backends of `msinet-eval search` do.
MEANINGS = {
    'ef': 'hnsw: length of the list of candidates; more finds more',
    'ef_construction': 'hnsw: the same while the index is built',
    'links': 'hnsw: links of an image; more finds more and takes more memory',
    'm': "ivfpq: bytes to hold an image's features in, a divisor of their dimensions",
    'nlist': 'ivfpq: number of cells',
    'nprobe': 'ivfpq: cells to look into; more finds more',
    'refine': 'ivfpq: candidates to compare in full for each image that is asked for',
}

#: First words that call another command: its arguments, what it does, and a description.
COMMANDS: dict[str, tuple[Callable, Callable, str]] = {
    'compare': (_add_compare, _compare, 'whether one model is better than another, and on which queries'),
    'pair': (_add_pair, _pair, 'whether two images show the same one'),
    'search': (
        _add_search,
        _search,
        'the nearest images of a gallery of any size',
    ),
    'scenes': (_add_scenes, _scenes, 'how well networks of person search find people in whole images'),
}


@command
def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        add, run, about = COMMANDS[argv[0]]
        parser = argparse.ArgumentParser(prog=f'msinet-eval {argv[0]}', description=f'Tells {about}.')
        add(parser)
        run(parser.parse_args(argv[1:]))
        return
    others = '; '.join(f'msinet-eval {word}: {about}' for word, (_, _, about) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog='msinet-eval',
        description='Measures models on ReID data sets: mAP (mean over matches of the precision at their ranks, that '
        'is, rectangular AP, without interpolation), CMC, mINP.',
        epilog=f'other commands: {others}',
    )
    _add_measure(parser)
    args = parser.parse_args(argv)
    if not args.embeddings:
        missing = [name for name, value in (('MODEL', args.models), ('-ds/--dataset', args.dataset)) if not value]
        if missing:
            parser.error(f'the following arguments are required: {", ".join(missing)} (or --embeddings)')
    _measure(args)
