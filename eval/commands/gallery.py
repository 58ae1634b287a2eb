"""msinet-gallery: people found again by an image, by camera and time, and erased where that is asked for."""

import argparse
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import make_dataclass
from pathlib import Path

from msinet_eval.metrics.rerank import k_reciprocal
from msinet_eval.report.found import write_found
from msinet_timm.commands import command, format_table, positive, positive_float, whole
from msinet_timm.datasets.images import load_image
from msinet_timm.datasets.readers.layout import pick_images, telling_skipped, walk
from msinet_timm.errors import InputError, explained
from msinet_timm.files import check_regular
from msinet_timm.gallery import Gallery, Match, format_time, parse_time
from msinet_timm.gallery.repair import repair
from msinet_timm.gallery.web import serve
from msinet_timm.settings import flags_named

__all__ = ['main']

_MODEL = 'msinet_x1_0.rendered_128x64'
#: Of the environment: what requests to `serve` must bring.
TOKEN_VARIABLE = 'MSINET_GALLERY_TOKEN'
#: What `--pattern` may be called.
PATTERNS = {
    'cameras': r'(?P<camera>[^/]+)/(?P<tracklet>[^/]+)/[^/]+$',
    'identities': r'(?P<identity>[^/]+)/(?P<camera>[^/]+)/[^/]+$',
}
_GROUPS = ('camera', 'tracklet', 'identity', 'time')
_logger = logging.getLogger(__name__)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        'msinet-gallery', description='Finds people by an image, by camera and time; and erases them.'
    )
    words = parser.add_subparsers(dest='word', required=True, metavar='WORD')

    def word(name: str, does: str):
        part = words.add_parser(name, help=does, description=f'{does[0].upper()}{does[1:]}.')
        part.add_argument('gallery', help='folder, or qdrant://HOST:PORT/NAME')
        return part.add_argument

    add = word('add', 'adds crops; what is there already is passed over')
    add('crops', nargs='+', help='images, or folders of them')
    add('--model', help=f"what embeds (default: the gallery's; of a new one {_MODEL})")
    add('--device', help='default: the first GPU, or the CPU')
    add('--camera', metavar='NAME', help='that has seen them')
    add('--time', metavar='T',
        help='when: 2026-05-01T14:30:00+02:00, without a zone UTC; names of tracklets begin with it')  # fmt: skip
    add('--pattern', metavar='REGEX',
        help='what paths below the folder tell, by named groups camera, tracklet, identity and time; or "cameras" for '
        'CAMERA/TRACKLET/*.jpg, "identities" for IDENTITY/CAMERA/*.jpg')  # fmt: skip
    add('--keep-days', type=positive_float, metavar='N', help='erase by itself what is older; noted in the gallery')
    add('--no-crops', action='store_true', help='keep no images, only embeddings; noted in the gallery')

    search = word('search', 'prints who looks most like an image')
    search('image')
    search('--k', type=positive, default=10, metavar='N', help='tracklets (default: 10)')
    search('--crops', action='store_true', help='several crops of a tracklet count')
    search('--camera', nargs='+', metavar='NAME', help='that may have seen them')
    search('--since', metavar='T', help='from this moment on: 2026-05-01, 2026-05-01T14:30:00+02:00')
    search('--until', metavar='T', help='before this moment')
    search('--query-camera', metavar='NAME', help='that the image is of, if the model knows it')
    search('--rerank', action='store_true', help='order by neighbours that crops have in common')
    search('--picture', metavar='FILE', help='image to write with all that was found')
    search('--device', help='default: the first GPU, or the CPU')

    delete = word('delete', 'erases crops that all of this holds for, and proves it')
    delete('--tracklet', metavar='NAME', help='that they belong to')
    delete('--identity', metavar='NAME', help='who it is')
    delete('--before', metavar='T', help='from before this moment; of unknown time: added before it')
    delete('--camera', nargs='+', metavar='NAME', help='that has seen them')

    merge = word('merge', 'says that two tracklets are of the same one')
    merge('tracklets', nargs=2, metavar='TRACKLET')

    word('stats', 'tells what is there, and what was erased')

    reembed = word('reembed', 'embeds all crops anew, by another model')
    reembed('--model', required=True, help='name or folder')
    reembed('--device', help='default: the first GPU, or the CPU')

    page = word('serve', 'shows it to browsers, and answers programs, until it is stopped')
    page('--host', default='127.0.0.1', metavar='ADDRESS',
        help='to listen at (default: 127.0.0.1, which only this machine reaches); others need a token')  # fmt: skip
    page('--port', type=whole(0, 65535), default=8000, metavar='N', help='default: 8000; 0 for a free one')
    page('--token', metavar='FILE',
        help=f'file that holds what requests must bring (default: {TOKEN_VARIABLE} of the environment)')  # fmt: skip
    page('--device', help='default: the first GPU, or the CPU')

    word('repair', 'keeps a copy of a damaged gallery, and saves what can be read')
    return parser.parse_args(argv)


def _find(paths: Sequence[str], pattern: str | None) -> list[tuple[str, dict[str, str]]]:
    """Images, and what their paths tell of them."""
    regex = None
    if pattern is not None:
        try:
            regex = re.compile(PATTERNS.get(pattern, pattern))
        except re.error as e:
            raise InputError(f'--pattern {pattern}: no regular expression ({e})') from e
        if not regex.groupindex or not set(regex.groupindex) <= set(_GROUPS):
            raise InputError(f'--pattern {pattern}: give named groups, of {", ".join(_GROUPS)}')
    found: list[tuple[str, dict[str, str]]] = []
    for path in paths:
        if not os.path.isdir(path):
            if not os.path.lexists(path):
                raise InputError(f'{path}: there is no such file or folder')
            found.append((path, _told(path, os.path.basename(path), regex, pattern)))
            continue
        with telling_skipped(path):
            for folder, _, names in walk(Path(path)):
                for name in sorted(pick_images(names)):
                    image = os.path.join(folder, name)
                    told = os.path.relpath(image, path).replace(os.sep, '/')
                    found.append((image, _told(image, told, regex, pattern)))
    if not found:
        raise InputError(f'{", ".join(paths)}: there are no images')
    return sorted(found, key=lambda item: item[0])


def _told(path: str, below: str, regex: re.Pattern | None, pattern: str | None) -> dict[str, str]:
    if regex is None:
        return {}
    match = regex.search(below)
    if match is None:
        raise InputError(f'--pattern {pattern}: it does not match {path}')
    return {name: value for name, value in match.groupdict().items() if value is not None}


def _add(args: argparse.Namespace) -> None:
    found = _find(args.crops, args.pattern)
    moment = [] if args.time is None else [format_time(parse_time(args.time))]
    with _open(args, create=True, keep_days=args.keep_days, keep_crops=False if args.no_crops else None) as gallery:
        if gallery.size is None:
            raise InputError('--model: a new gallery needs one')
        ids = gallery.add_crops(
            [path for path, _ in found],
            camera=[told.get('camera', args.camera) for _, told in found],
            time=[told.get('time', args.time) for _, told in found],
            tracklet=[_tracklet(told, moment) for _, told in found],
            identity=[told.get('identity') for _, told in found],
        )
        count = len(gallery)
    print(f'{args.gallery}: {sum(id is not None for id in ids):,} crops added, {count:,} in all')


def _tracklet(told: dict[str, str], moment: list[str]) -> str | None:
    """A name that no other camera, identity or run has for its own."""
    if 'tracklet' not in told and not ('identity' in told and 'camera' in told):
        return None
    return '/'.join([*moment, *(told[name] for name in ('identity', 'camera', 'tracklet') if name in told)])


def _open(args: argparse.Namespace, create: bool = False, **options) -> Gallery:
    model = getattr(args, 'model', None)
    if create and model is None and '://' not in args.gallery and not os.path.isdir(args.gallery):
        model = _MODEL
    return Gallery(args.gallery, model, device=getattr(args, 'device', None), create=create, **options)


def _search(args: argparse.Namespace) -> None:
    with _open(args) as gallery, flags_named(make_dataclass('Query', ('query_camera',))):
        image = load_image(args.image)
        matches = gallery.search(
            image,
            args.k,
            camera=args.camera,
            since=args.since,
            until=args.until,
            per_tracklet=not args.crops,
            rerank=k_reciprocal if args.rerank else None,
            query_camera=args.query_camera,
        )
        if not gallery.store.readonly:
            gallery.note('search', len(matches))
        if args.picture:
            kept = gallery.keep_crops
            write_found(args.picture, image, [(m, gallery.store.jpeg(m.crop.id) if kept else None) for m in matches])
    print(format_table([_HEADING, *(_row(place, match) for place, match in enumerate(matches, 1))], '>>>'))


_HEADING = ('rank', 'distance', 'crop', 'verdict', 'tracklet', 'identity', 'camera', 'time')


def _row(place: int, match: Match) -> tuple:
    crop = match.crop
    told = match.verdict, crop.tracklet, crop.identity, crop.camera, format_time(crop.time)
    return (place, f'{match.distance:.4f}', crop.id, *(text or '-' for text in told))


def _delete(args: argparse.Namespace) -> None:
    given = {name: getattr(args, name) for name in ('tracklet', 'identity', 'before', 'camera')}
    if all(value is None for value in given.values()):
        raise InputError('give --tracklet, --identity, --before or --camera: nothing is erased without saying what')
    with _open(args) as gallery:
        count = gallery.delete(**given)
        report = gallery.erase_report() if count else []
    state = ''
    if report:  # the last one is this one, or of another process and later
        state = ', gone from all files' if report[0].settled else _unsettled(args.gallery)
        state += '' if report[0].settled or '://' in args.gallery else ': run stats later'
    print(f'{args.gallery}: {count:,} crops erased{state}')


def _merge(args: argparse.Namespace) -> None:
    with _open(args) as gallery:
        print(f'{args.gallery}: both are {gallery.merge(*args.tracklets)}')


def _stats(args: argparse.Namespace) -> None:
    with _open(args) as gallery:
        stats, report = gallery.stats(), gallery.erase_report()
    cameras = ', '.join(f'{name} ({count:,})' for name, count in stats['cameras'].items())
    rows = [
        ('crops', f'{stats["crops"]:,}'),
        ('tracklets', f'{stats["tracklets"]:,}'),
        ('identities', f'{stats["identities"]:,}'),
        ('cameras', cameras or '-'),
        ('from', format_time(stats['since']) or '-'),
        ('to', format_time(stats['until']) or '-'),
        ('on disk', f'{stats["bytes"] / 1e6:,.1f} MB'),
        ('model', stats['model'] or '-'),
        ('kept for', f'{stats["keep_days"]:g} days' if stats['keep_days'] else 'ever'),
        ('images', 'kept' if stats['keep_crops'] else 'not kept'),
        *(
            (
                f'erased {format_time(entry.time)}',
                f'{entry.crops:,} crops by {entry.kind}' + ('' if entry.settled else _unsettled(args.gallery)),
            )
            for entry in report[:20]
        ),
    ]
    print(format_table(rows))


def _unsettled(gallery: str) -> str:
    if '://' in gallery:
        return ', which a server cannot prove to be gone from its disks'
    return ', not yet gone from all files'


def _reembed(args: argparse.Namespace) -> None:
    with Gallery(args.gallery, device=args.device, create=False) as gallery:
        print(f'{args.gallery}: {gallery.reembed(args.model):,} crops embedded by {args.model}')


def _repair(args: argparse.Namespace) -> None:
    done = repair(args.gallery)
    told = f'{done.saved:,} crops saved, {done.lost:,} known to be lost'
    print(f'{args.gallery}: {told}; the damaged gallery is in {done.copy}')


def _serve(args: argparse.Namespace) -> None:
    token = os.environ.get(TOKEN_VARIABLE)
    if args.token is not None:
        with explained(f'--token {args.token}: cannot be read'):
            check_regular(args.token)
            token = Path(args.token).read_text(encoding='utf-8').strip()
    with _open(args) as gallery, flags_named(make_dataclass('Address', ('host', 'port', 'token'))):
        serve(gallery, args.host, args.port, token)


_WORDS = {
    'add': _add,
    'search': _search,
    'delete': _delete,
    'merge': _merge,
    'stats': _stats,
    'reembed': _reembed,
    'serve': _serve,
    'repair': _repair,
}


@command
def main(argv: list[str] | None = None) -> None:
    """Runs `msinet-gallery` with a list of arguments (None: those of the process)."""
    args = _parse(argv)
    _WORDS[args.word](args)


if __name__ == '__main__':
    raise SystemExit(main())
