"""msinet-data: makes, lists, checks and converts data sets."""

import argparse
import functools
import inspect
from pathlib import Path

from msinet_timm.commands import command, make_folder, positive
from msinet_timm.datasets import (
    ReIDDataset,
    add_data_option,
    create_dataset,
    create_scenes,
    get_reader,
    list_datasets,
    list_scenes,
    parse_options,
    typed_root,
)
from msinet_timm.errors import InputError

__all__ = ['main']


def _add_render(subparsers) -> None:
    p = subparsers.add_parser(
        'render',
        help="render people in the layout of Market-1501, vehicles in VeRi-776's, films in MOTChallenge's, or scenes",
        description='Renders clothed, walking people, or vehicles, under several cameras. Interrupted, it goes on '
        'where it stopped.',
    )
    p.add_argument('--output', required=True, metavar='DIR', help='new, empty or half-finished folder')
    kinds = p.add_mutually_exclusive_group()
    kinds.add_argument('--video', action='store_true', help="people who walk before cameras, in MOTChallenge's layout")
    kinds.add_argument('--scenes', action='store_true', help='whole images of crowds, to search people in')
    add = functools.partial(p.add_argument, default=argparse.SUPPRESS)
    add('--objects', help='people or vehicles (default: people)')
    add('--identities', type=int, metavar='N', help='people or vehicles (default: 100; of films 8)')
    add('--test-identities', type=int, metavar='T', help='of these, how many do not train (default: half of them)')
    add('--places', type=int, metavar='N', help='places, each with others of them and cameras (default: 1)')
    add(
        '--cameras',
        type=int,
        metavar='C',
        help='cameras of each place, 2 to 9 (default: 6; of scenes 4; of films 1 to 9, 1)',
    )
    add(
        '--images',
        '--pictures',
        type=int,
        metavar='P',
        help='images of each training identity; of scenes: by each camera, of each group (default: 12)',
    )
    add('--domain', help='street, mall or mixed: places, lights, camera positions and clothes (default: street)')
    add('--outfits', type=int, metavar='N', help='clothes of each person, by camera (default: 1)')
    add('--seed', type=int, metavar='S', help='of everything random (default: 0)')
    for side, pixels, film in (('width', 128, 640), ('height', 256, 360)):
        add(f'--{side}', type=int, help=f'in pixels (default: {pixels}; of vehicles 256, of films and scenes {film})')
    add('--workers', type=int, metavar='W', help='processes (default: one for each core)')
    p.add_argument('--masks', action='store_true', help='also masks of the people or vehicles, in the folder masks/')
    films = p.add_argument_group('films, with --video')
    add = functools.partial(films.add_argument, default=argparse.SUPPRESS)
    add('--seconds', type=float, metavar='S', help='how long each camera films (default: 20)')
    add('--fps', type=int, metavar='F', help='frames in a second (default: 10)')
    add(
        '--clock-error', type=float, metavar='S', help="seconds by which a camera's clock is wrong at most (default: 0)"
    )
    films.add_argument('--mp4', action='store_true', help='also write an MP4 file of each camera')
    scenes = p.add_argument_group('scenes, with --scenes')
    scenes.add_argument(
        '--crowd', type=int, metavar='N', default=argparse.SUPPRESS,
        help='people who walk together, a quarter of them named nowhere, 4 to 64 (default: 40)',
    )  # fmt: skip
    p.set_defaults(run=_render)


def _render(args: argparse.Namespace) -> None:
    from msinet_timm.render import render_dataset, render_scenes, render_video

    options = {k: v for k, v in vars(args).items() if k not in ('run', 'output', 'video', 'scenes') and v is not False}
    render, kind = render_dataset, None
    if args.video or args.scenes:
        render, kind = (render_video, '--video') if args.video else (render_scenes, '--scenes')
        if (given := options.pop('objects', 'people')) != 'people':
            raise InputError(f'{kind} draws people: leave out --objects {given}')
    for name in [name for name in options if name not in inspect.signature(render).parameters]:
        flag = f'--{name.replace("_", "-")}'
        needed = '--scenes' if name == 'crowd' else '--video'
        raise InputError(f'{flag} is not for {kind}: leave it out' if kind else f'{flag} is for {needed}: add it')
    counts = render(args.output, **options)
    print(f'{args.output}: ' + ', '.join(f'{n} {name}' for name, n in counts.items()))


def _add_list(subparsers) -> None:
    p = subparsers.add_parser('list', help='list the data sets that can be read, their folders and options')
    p.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> None:
    for name in sorted(list_datasets() + list_scenes()):
        reader = get_reader(name)
        print(f'{name:16} {reader.about}\n    expects  {reader.layout}')
        for option in reader.options:
            print(f'    option   {option}')
        for choice, known in reader.known.items():
            parts = (f'{part} {images:,} of {identities:,} identities' for part, (identities, images) in known.items())
            print(f'    images {", ".join(parts)}' + (f' ({choice})' if choice else ''))


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', metavar='NAME', help='of the data set, see msinet-data list')
    parser.add_argument('root', type=typed_root, metavar='ROOT', nargs='?', help='its folder, or the file of a table')
    add_data_option(parser)


def _open(args: argparse.Namespace) -> ReIDDataset:
    if args.root is None and get_reader(args.name).needs_root:
        raise InputError(f"ROOT: data set '{args.name}' needs its folder: give it after the name")
    return create_dataset(args.name, args.root, **parse_options(args.data_option))


def _add_check(subparsers) -> None:
    p = subparsers.add_parser(
        'check',
        help='look for what is wrong with a data set',
        description='Compares counts with the published ones, and looks for identities with one image or camera, or '
        'in both train and test, and for unreadable, tiny and identical images. '
        'Exit code 0: sound, 1: findings, 2: cannot be read.',
    )
    _add_dataset(p)
    p.add_argument('--contact-sheet', metavar='FILE', help='write a PNG of some identities')
    p.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from msinet_timm.datasets.tools.check import check_dataset, summarize
    from msinet_timm.datasets.tools.contact_sheet import write_contact_sheet

    if args.name in list_scenes():
        return _check_scenes(args)
    dataset = _open(args)
    if args.contact_sheet:
        make_folder(Path(args.contact_sheet).parent, '--contact-sheet')
    print(f'{dataset.name}: {dataset.root}\n{summarize(dataset)}')
    for remark in dataset.remarks:
        print(f'  {remark}')
    if args.contact_sheet:
        write_contact_sheet(args.contact_sheet, dataset)
    return _tell(check_dataset(dataset))


def _check_scenes(args: argparse.Namespace) -> int:
    from msinet_timm.datasets.tools.check_scenes import check_scenes, summarize_scenes

    if args.contact_sheet:
        raise InputError(f'--contact-sheet shows crops, and {args.name} has whole images: leave it out')
    if args.root is None:
        raise InputError(f"ROOT: data set '{args.name}' needs its folder: give it after the name")
    scenes = create_scenes(args.name, args.root, **parse_options(args.data_option))
    print(f'{scenes.name}: {scenes.root}\n{summarize_scenes(scenes)}')
    for remark in scenes.remarks:
        print(f'  {remark}')
    return _tell(check_scenes(scenes))


def _tell(findings: list) -> int:
    for finding in findings:
        print(finding)
    if not findings:
        print('sound')
    return int(bool(findings))


def _add_convert(subparsers) -> None:
    p = subparsers.add_parser(
        'convert',
        help='write a data set in another layout',
        description='Images become hard links where possible, else copies; a table names them where they are. '
        'Shards hold them in tar archives with an index, to be trained on as a stream.',
    )
    _add_dataset(p)
    p.add_argument('--to', required=True, metavar='LAYOUT', help='folder, csv, market1501 or shards')
    p.add_argument('--output', required=True, metavar='PATH', help='new or empty folder; for csv, a new file')
    p.add_argument('--shard-size', type=positive, metavar='N', help='images in a shard (default: 1,000)')
    p.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from msinet_timm.datasets.tools.convert import convert

    counts = convert(_open(args), args.to, args.output, args.shard_size)
    print(f'{args.output}: ' + ', '.join(f'{n} {part}' for part, n in counts.items()))


@command
def main(argv: list[str] | None = None) -> int | None:
    """Runs `msinet-data` with a list of arguments (None: those of the process)."""
    parser = argparse.ArgumentParser('msinet-data', description='Data sets for object re-identification.')
    subparsers = parser.add_subparsers(required=True, metavar='COMMAND')
    for add in (_add_render, _add_list, _add_check, _add_convert):
        add(subparsers)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == '__main__':
    raise SystemExit(main())
