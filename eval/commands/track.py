"""msinet-track: films to tracks whose identities hold across cameras."""

import argparse
import hashlib
import importlib
import importlib.util
import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from msinet_eval.metrics.rerank import k_reciprocal
from msinet_eval.report.tracks import write_tracks_page
from msinet_timm.commands import (
    command,
    format_table,
    make_folder,
    not_negative,
    not_negative_float,
    positive,
    positive_float,
)
from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError, explained
from msinet_timm.files import holds_nothing, locked, read_json, replace_text
from msinet_timm.forms import FORMS
from msinet_timm.gallery import Gallery, format_time, parse_time
from msinet_timm.tracking import CameraNetwork
from msinet_timm.tracking.films import open_film
from msinet_timm.tracking.metrics import measure_tracks
from msinet_timm.tracking.mot import Boxes, read_boxes
from msinet_timm.tracking.network import check_pairs
from msinet_timm.tracking.run import Tracked, View, embed_views, pick_crops, track_views, write_outputs

__all__ = ['main']

#: What a folder was made from, and the embeddings and cameras in it.
RUN, FOUND, MODEL = 'run.json', 'found', 'model'
#: Re-ranked distance, 0 to 1, up to which tracklets are of one person where all is known.
ALIKE = 0.8
_logger = logging.getLogger(__name__)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        'msinet-track',
        description='Follows people through films, and from camera to camera. Interrupted, it goes on where it was; '
        'with other settings of joining, it reads what it has embedded before.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        'videos', nargs='+', metavar='VIDEO', help='film, folder of frames, or folder in the layout of MOTChallenge'
    )
    parser.add_argument('--output', required=True, metavar='DIR', help='new or empty folder, or one to go on with')
    add = parser.add_argument_group('what is there').add_argument
    add(
        '--detections', nargs='+', metavar='FILE',
        help="of each video, boxes as in MOTChallenge (default: a sequence's det/det.txt)",
    )  # fmt: skip
    add(
        '--detector', metavar='PY:CALLABLE',
        help='function of a module or .py file: a frame [H, W, 3] to boxes [N, 4] (left, top, right, bottom) and '
        'scores [N]',
    )  # fmt: skip
    add('--cameras', nargs='+', metavar='NAME', help="of each video (default: the video's)")
    add('--offsets', nargs='+', type=not_negative_float, metavar='S', help='seconds at which each video begins')
    add('--frame-rate', type=positive_float, metavar='R', help='of folders (default: what they say, or 30)')
    add = parser.add_argument_group('what people look like').add_argument
    add('--model', default='msinet_x1_0.rendered_128x64', help='name, folder, or none to go by motion alone')
    add('--device', help='default: the first GPU, or the CPU')
    add('--form', choices=FORMS, default='fused', help='how the model runs')
    add('--precision', choices=('float32', 'bf16'), default='float32', help='in which it computes')
    add('--batch-size', type=positive, default=32, metavar='N', help='crops that the model is given at once')
    add(
        '--adapt',
        type=not_negative,
        default=0,
        metavar='N',
        help='learn each camera from so many crops, see msinet-hub',
    )
    add = parser.add_argument_group('who is who').add_argument
    add(
        '--threshold', type=positive_float, metavar='D',
        help="largest distance of one person's tracklets (default: the model's calibration; of learnt cameras, by "
        'people who are seen at once)',
    )  # fmt: skip
    add('--window', type=positive_float, default=60.0, metavar='S', help='seconds after which a person is somebody new')
    add(
        '--transitions', nargs='+', default=[], metavar='A:B=MIN-MAX',
        help='seconds that a passage from a camera to another takes',
    )  # fmt: skip
    add('--overlapping', nargs='+', default=[], metavar='A:B', help='cameras that may see one person at once')
    add('--online', action='store_true', help='leave identities as they were found at the time')
    add('--rerank', action='store_true', help='at the end, join by neighbours that crops have in common')
    add = parser.add_argument_group('what is written').add_argument
    add('--crops', type=not_negative, default=16, metavar='N', help='of each tracklet, at most')
    add('--video', action='store_true', help='films with boxes')
    add('--gallery', metavar='DIR', help='to which these crops are added, see msinet-gallery; needs --start')
    add('--start', metavar='T', help='when time begins: 2026-05-01T14:30:00+02:00, without a zone UTC')
    add('--measure', action='store_true', help="compare with the gt/gt.txt of each sequence, by TrackEval's metrics")
    return parser.parse_args(argv)


def _views(args: argparse.Namespace) -> list[View]:
    films = [open_film(path, args.frame_rate) for path in args.videos]
    for flag in ('detections', 'cameras', 'offsets'):
        given = getattr(args, flag)
        if given and len(given) != len(films):
            raise InputError(f'--{flag}: {len(given)} for {len(films)} videos: give one for each')
    names = args.cameras or [film.name for film in films]
    for name in names:
        if not re.fullmatch(r'[^/\\:=\0]+', name) or name in ('.', '..') or names.count(name) > 1:
            raise InputError(f"camera '{name}': each needs a name of its own, without / \\ : = (--cameras)")
    if args.detections and args.detector:
        raise InputError('--detections and --detector: give one of them')
    detector = _load_detector(args.detector) if args.detector else None
    views = []
    for number, (film, name) in enumerate(zip(films, names, strict=True)):
        file = args.detections[number] if args.detections else film.detections
        if detector is None and file is None:
            raise InputError(f'{film.path}: who is in it? give --detections FILE or --detector PY:CALLABLE')
        offset = args.offsets[number] if args.offsets else 0.0
        views.append(View(film, name, detector or read_boxes(file), offset))
    _check_clocks(views, args.window)
    return views


def _check_clocks(views: Sequence[View], window: float) -> None:
    """Refuses films of which none can have anybody of another."""
    known = [v for v in views if v.film.length]
    for view in known:
        start, end = view.offset, view.offset + view.film.length / view.film.frame_rate
        others = [(v.offset, v.offset + v.film.length / v.film.frame_rate) for v in known if v is not view]
        if others and all(start - e > window or s - end > window for s, e in others):
            raise InputError(
                f"{view.camera}: its clock is apart from the others': it runs from {start:g} to {end:g} seconds, more "
                f'than the window of {window:g} seconds from {", ".join(f"{s:g}-{e:g}" for s, e in others)}: look at '
                '--offsets, or give a longer --window'
            )


def _load_detector(name: str) -> Callable:
    """The user's own function; nothing else is run."""
    place, _, attribute = name.rpartition(':')
    if not place:
        raise InputError(f'--detector {name}: give a module or .py file, a colon, and the name of a function')
    with explained(f'--detector {name}: cannot be imported'):
        if place.endswith('.py'):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        found = getattr(module, attribute)
    if not callable(found):
        raise InputError(f'--detector {name}: {attribute} cannot be called')
    return found


def _pairs(args: argparse.Namespace) -> dict:
    transitions, overlapping = {}, []
    for text in args.transitions:
        match = re.fullmatch(r'([^:=]+):([^:=]+)=([\d.]+)-([\d.]+)', text)
        try:
            transitions[match[1], match[2]] = float(match[3]), float(match[4])
        except (TypeError, ValueError):
            raise InputError(f'--transitions {text}: as in door:yard=2-10, seconds at least and at most') from None
    for text in args.overlapping:
        pair = tuple(text.split(':'))
        if len(pair) != 2:
            raise InputError(f'--overlapping {text}: as in door:yard')
        overlapping.append(pair)
    return {'transitions': transitions, 'overlapping': overlapping}


def _begin(args: argparse.Namespace, views: Sequence[View], output: Path) -> None:
    """Notes what the embeddings are of; refuses a folder of others."""
    made_of = {
        'model': args.model,
        'precision': args.precision,
        'adapt': args.adapt,
        'detector': args.detector,
        'videos': [
            [v.camera, str(v.film.path.resolve()), *_state(v.film.path), *_state(file)]
            for v, file in zip(views, args.detections or [v.film.detections for v in views], strict=True)
        ],
    }
    if (output / RUN).is_file():
        with explained(f'{output / RUN}: cannot be read'):
            before = read_json(output / RUN)
        other = [
            k for k in made_of if not isinstance(before, dict) or before.get(k) != json.loads(json.dumps(made_of[k]))
        ]
        if other:
            raise InputError(
                f'--output {output} holds tracks of other {", ".join(other)}: give another folder, or the same ones'
            )
    elif not holds_nothing(output):
        raise InputError(f'--output {output} is neither empty nor a folder of msinet-track')
    else:
        replace_text(output / RUN, json.dumps(made_of, indent=1) + '\n')


def _state(path: Path | str | None) -> list:
    """What changes when a file does."""
    if path is None:
        return []
    status = Path(path).stat()
    return [str(Path(path).resolve()), status.st_size, status.st_mtime_ns]


def _embedder(args: argparse.Namespace, views: Sequence[View], output: Path) -> Embedder | None:
    if args.model == 'none':
        for flag in ('adapt', 'rerank', 'threshold'):
            if getattr(args, flag):
                raise InputError(f'--{flag}: without a --model, nothing is compared: leave it out')
        return None
    learnt = output / MODEL
    known = args.adapt and learnt.is_dir()
    embedder = Embedder(
        learnt if known else args.model,
        device=args.device,
        form=args.form,
        precision=args.precision,
        batch_size=args.batch_size,
    )
    if args.adapt and not known:
        passed = [view for view in views if not isinstance(view.source, Boxes) or len(view.source.frame)]
        embedder.adapt({view.camera: pick_crops(view, args.adapt) for view in passed})
        embedder.save(learnt)
    return embedder


def _threshold(args: argparse.Namespace, embedder: Embedder | None) -> float | None:
    """The one that is given, or the model's; None where it is to be learnt."""
    if args.threshold or embedder is None:
        return args.threshold
    reason = 'cameras are learnt'
    if not args.adapt:
        try:
            return embedder.thresholds('msinet_timm')['threshold']
        except InputError as e:
            reason = str(e)
    _logger.info('the threshold is learnt of people who are seen at once (%s)', reason)
    return None


def _open_gallery(args: argparse.Namespace, embedder: Embedder | None, first: float | None) -> Gallery | None:
    """The gallery to fill, which must keep what is from the first moment of the films."""
    if not args.gallery:
        return None
    if args.start is None or embedder is None or not args.crops:
        raise InputError('--gallery: it needs --start, a --model, and --crops above 0')
    gallery = Gallery(args.gallery, embedder)
    try:
        gallery.check_times([first])
    except InputError as e:
        gallery.close()
        raise InputError(f'--start {args.start}: {e}') from None
    return gallery


def _fill(gallery: Gallery, tracked: Tracked, start: float, crops: int, folder: Path) -> None:
    """Adds the crops that were written.

    Names begin with the moment and a hash of who was found where: other films have others, and the same films, too,
    where other settings have found other people.
    """
    found = hashlib.sha256()
    for p in tracked.passages:
        found.update(repr((p.camera, p.tracklet, p.identity, p.frame.tolist(), p.box.tolist())).encode())
    run = f'{format_time(start)}/{found.hexdigest()[:8]}'
    rows = [
        (
            folder / p.camera / f'{p.tracklet:06d}' / f'{p.frame[row]:06d}.jpg', p.camera, start + float(p.time[row]),
            f'{run}/{p.camera}/{p.tracklet}', f'{run}/{p.identity}',
        )
        for p in tracked.passages
        for row in p.best(crops)
    ]  # fmt: skip
    if not rows:
        return
    paths, cameras, times, tracklets, identities = map(list, zip(*rows, strict=True))
    others = [
        s for s in gallery.tracklets()
        if s.camera in cameras and s.tracklet.startswith(f'{format_time(start)}/')
        and not s.tracklet.startswith(f'{run}/')
    ]  # fmt: skip
    if others:
        _logger.warning(
            '%s holds %d tracklets of this --start and these cameras, found by other settings: they stay as they are, '
            'and so do their crops; where the new ones are to be whole, fill another gallery',
            gallery.path, len(others),
        )  # fmt: skip
    gallery.add_crops(paths, camera=cameras, time=times, tracklet=tracklets, identity=identities)


def _resolve(network: CameraNetwork) -> None:
    """Knowing how everything went on."""
    if network.identities.threshold is not None:
        network.resolve()


def _resolve_by_neighbours(network: CameraNetwork) -> None:
    """Knowing how everything went on, by neighbours that crops have in common."""

    def distances(crops: np.ndarray) -> np.ndarray:
        k1 = min(20, max(1, len(crops) // 3))
        return k_reciprocal(crops, crops, k1, min(6, k1))

    if sum(tracklet.crops > 0 for tracklet in network.tracklets()) > 1:
        network.resolve(distances, ALIKE)


@command
def main(argv: list[str] | None = None) -> int | None:
    """Runs `msinet-track` with a list of arguments (None: those of the process)."""
    args = _parse(argv)
    views, pairs, output = _views(args), _pairs(args), Path(args.output)
    start = None if args.start is None else parse_time(args.start)
    if args.online and args.rerank:
        raise InputError('--online and --rerank: what is joined at the end is not left as it was: give one of them')
    if args.measure and (without := [v.camera for v in views if v.film.truth is None]):
        raise InputError(f'--measure: {", ".join(without)}: only a sequence with gt/gt.txt can be measured')
    truth = [read_boxes(v.film.truth) for v in views] if args.measure else []
    check_pairs([v.camera for v in views], (*pairs['transitions'], *pairs['overlapping']))
    make_folder(output, '--output')
    with locked(output):
        _begin(args, views, output)
        embedder = _embedder(args, views, output)
        gallery = _open_gallery(args, embedder, start and start + min(view.offset for view in views))
        embed_views(views, embedder, output / FOUND)
        threshold = _threshold(args, embedder)
        resolve = _resolve_by_neighbours if args.rerank else _resolve
        resolve = None if args.online or embedder is None else resolve
        tracked = track_views(
            views, output / FOUND, resolve=resolve, threshold=threshold, window=args.window, **pairs
        )  # fmt: skip
        shown = write_outputs(views, tracked, output, crops=args.crops, video=args.video)
        if gallery is not None:
            with gallery:
                _fill(gallery, tracked, start, args.crops, output / 'crops')
        metrics = None
        if args.measure:
            found = measure_tracks(truth, [tracked.boxes(v.camera) for v in views])
            metrics = {k: f'{v:.3f}' if isinstance(v, float) else str(v) for k, v in found.items()}
        words = shlex.join(['msinet-track', *(sys.argv[1:] if argv is None else argv)])
        write_tracks_page(
            output / 'index.html', [v.camera for v in views], tracked, shown, metrics=metrics, command=words
        )
    people = len({p.identity for p in tracked.passages})
    print(f'{output}: {people} people, {len(tracked.passages)} tracklets, {len(tracked.events)} merges and splits')
    if metrics:
        print(format_table([list(metrics), list(metrics.values())], '>'))


if __name__ == '__main__':
    raise SystemExit(main())
