"""The command `msinet-hub`: adapts, converts, checks, exports and publishes weights."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msinet_timm.commands import command, find_device, format_table, make_folder, not_negative, pixels, positive
from msinet_timm.datasets import add_data_option, create_dataset, list_datasets, parse_options
from msinet_timm.datasets.readers.folder import check_camera_folders
from msinet_timm.errors import InputError
from msinet_timm.memory import keep_memory

__all__ = ['create_main', 'main']


def create_parser(measure=None) -> argparse.ArgumentParser:
    """The command's arguments; `measure` as for `create_main`."""
    parser = argparse.ArgumentParser(
        prog='msinet-hub', description='Weights: lists, adapts, converts, checks, exports, publishes.'
    )
    subparsers = parser.add_subparsers(required=True, metavar='COMMAND')
    for add in (
        _add_list,
        _add_adapt,
        _add_convert,
        _add_verify,
        partial(_add_export, measure),
        _add_card,
        _add_publish,
        _add_ship,
    ):
        add(subparsers)
    return parser


def _add_list(subparsers) -> None:
    p = subparsers.add_parser('list', help='list the entries, their results, and whether there are weights')
    p.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> None:
    from msinet_timm.models.entries import load_entries

    rows = [('name', 'weights', 'size', 'on', 'mAP %', 'Rank-1 %')]
    for entry in load_entries().values():
        place = 'package' if entry.weights else 'Hub'
        size = f'{entry.size / 1e6:.1f} MB' if entry.size else ''
        head = (entry.name + ' *' * entry.default, place if entry.available else 'none yet', size)
        results = [(r['dataset'], f'{100 * r["mAP"]:.1f}', f'{100 * r["rank1"]:.1f}') for r in entry.results]
        rows += [(*(head if number == 0 else ('',) * 3), *r) for number, r in enumerate(results or [('', '', '')])]
    print(f'{format_table(rows, "<")}\n* stands for the bare name of the architecture')


def _add_adapt(subparsers) -> None:
    p = subparsers.add_parser(
        'adapt',
        help='let a model learn your cameras, from images that nobody has labelled',
        description="Writes a model folder with cameras.safetensors: each camera's statistics of the batch norms and "
        'mean embedding. Nobody needs to know who is on the images. Cameras that the model knows already stay known.',
    )
    p.add_argument('model', metavar='MODEL', help='name that timm knows, hf-hub:OWNER/NAME, a run or model folder')
    data = p.add_argument_group('images, by camera')
    data.add_argument('--images', metavar='DIR', help='with a folder for each camera: DIR/<camera>/[<tracklet>/]*.jpg')
    data.add_argument(
        '-ds',
        '--dataset',
        metavar='DATASET',
        help=f'or the images to learn from of one of: {", ".join(list_datasets())}; identities are not used',
    )
    data.add_argument('--data-dir', metavar='DIR', help='folder of the data set')
    add_data_option(data)
    p.add_argument(
        '--output', required=True, metavar='DIR', help='new or empty folder, or that of the same weights (MODEL itself)'
    )
    p.add_argument(
        '--crops', type=positive, default=64, metavar='N', help='images of each camera, spread evenly (default: 64)'
    )
    p.add_argument('--batch-size', type=positive, default=64, metavar='B', help='images at once (default: 64)')
    p.add_argument('--workers', type=not_negative, default=2, metavar='W', help='processes that read images')
    p.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: the first GPU, or the CPU)')
    for side in ('height', 'width'):
        p.add_argument(
            f'--{side}', type=pixels, metavar='PIXELS',
            help="of the input (default: the model's own, or half of it for small crops)",
        )  # fmt: skip
    p.set_defaults(run=_adapt)


def _adapt(args: argparse.Namespace) -> None:
    from msinet_timm.hub.adapt import adapt_folder

    if bool(args.images) == bool(args.dataset):
        raise InputError('give the images of your cameras, either by --images DIR or by -ds DATASET')
    if args.images:
        if args.data_dir or args.data_option:
            raise InputError('--data-dir and --data-option are for -ds: leave them out with --images')
        dataset = create_dataset('folder', args.images, layout='cameras')
        check_camera_folders(dataset)
    else:
        dataset = create_dataset(args.dataset, args.data_dir, **parse_options(args.data_option))
    device = find_device(args.device)
    if device.type == 'cpu':
        keep_memory()
    norms = adapt_folder(
        args.model,
        dataset.train,
        args.output,
        crops=args.crops,
        batch_size=args.batch_size,
        device=device,
        workers=args.workers,
        height=args.height,
        width=args.width,
    )
    rows = [('camera', 'crops'), *norms.counts.items()]
    print(format_table(rows))
    print(f"Embedder('{args.output}')(images, cameras='{next(iter(norms))}')")


def _add_convert(subparsers) -> None:
    p = subparsers.add_parser('convert', help='make a model folder of a published checkpoint (.pth.tar)')
    p.add_argument('file', metavar='FILE', help='of which nothing but tensors is read')
    p.add_argument('--output', metavar='DIR', help='folder to write (default: FILE without its ending)')
    p.add_argument('--model', metavar='NAME', help='network and preprocessing (default: by the width of the stem)')
    p.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from msinet_timm.hub.convert import convert
    from msinet_timm.models.checkpoints import SUFFIXES

    ending = next((e for e in ('.pth.tar', *SUFFIXES) if args.file.endswith(e)), '')
    output = args.output or args.file.removesuffix(ending) + ('' if ending else '_model')
    folder = convert(args.file, output, args.model)
    print(f"timm.create_model('local-dir:{folder}', pretrained=True)")


def _add_verify(subparsers) -> None:
    p = subparsers.add_parser('verify', help='check hash, shapes, preprocessing and a stored output; 1 if one is wrong')
    p.add_argument('name', metavar='NAME|FOLDER|hf-hub:OWNER/NAME')
    p.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    from msinet_timm.hub.verify import verify

    checks = verify(args.name)
    print('\n'.join(map(str, checks)))
    return int(any(check.passed is False for check in checks))


def _add_export(measure, subparsers) -> None:
    from .export import add_arguments, run

    p = subparsers.add_parser('export', help='write a model for another runtime, checked against PyTorch')
    add_arguments(p, measure is not None)
    p.set_defaults(run=partial(run, measure=measure))


def _add_card(subparsers) -> None:
    p = subparsers.add_parser('card', help="write a folder's card, or add what it lacks")
    p.add_argument('folder', metavar='FOLDER', help='of a model or run')
    p.add_argument('--repo', metavar='OWNER/NAME', help='for the lines that load it')
    p.add_argument('--license', metavar='ID', help='of the weights, such as apache-2.0')
    p.set_defaults(run=_card)


def _card(args: argparse.Namespace) -> None:
    from msinet_timm.hub.card import PREVIEW, update_card
    from msinet_timm.hub.folder import find_folder
    from msinet_timm.hub.load import load_folder
    from msinet_timm.hub.preview import draw_preview
    from msinet_timm.models.entries import find_entry

    folder = find_folder(args.folder)
    if not (folder / PREVIEW).is_file():
        draw_preview(load_folder(folder), folder / PREVIEW)
    entry = find_entry(f'hf-hub:{args.repo}') if args.repo else None
    print(update_card(folder, entry, args.repo, args.license))


def _add_publish(subparsers) -> None:
    p = subparsers.add_parser('publish', help='upload a model folder to the Hub')
    p.add_argument('folder', metavar='FOLDER', help='of a model or run')
    p.add_argument('--repo', required=True, metavar='OWNER/NAME', help='created where it is missing')
    p.add_argument('--private', action='store_true', help='make a new repository private')
    p.add_argument('--license', metavar='ID', help='of the weights, such as apache-2.0, unless the card names one')
    p.add_argument(
        '--cameras', action='store_true', help='upload cameras.safetensors, too, which tells names and light of a site'
    )
    p.add_argument('--entry', metavar='FILE', help='write an entry there, which names the weights, as in hub_configs/')
    p.set_defaults(run=_publish)


def _publish(args: argparse.Namespace) -> None:
    from msinet_timm.hub.publish import publish
    from msinet_timm.person_search.folder import is_search_folder
    from msinet_timm.person_search.publish import publish_search

    if is_search_folder(args.folder):
        for flag in ('entry', 'cameras'):
            if getattr(args, flag):
                raise InputError(f'--{flag} is not for a network of person search: leave it out')
        published = publish_search(args.folder, args.repo, args.private, args.license)
    else:
        if args.entry:
            make_folder(Path(args.entry).parent, '--entry')
        published = publish(args.folder, args.repo, args.private, args.license, args.entry, args.cameras)
    if published.entry:
        print(f'entry: {published.entry}')
    print(f'commit: {published.revision}')
    print(published.line)


def _add_ship(subparsers) -> None:
    p = subparsers.add_parser('ship', help="for maintainers: put a model's weights into the package")
    p.add_argument('folder', metavar='FOLDER', help='of a model or run')
    p.add_argument('--name', default='msinet_x1_0.sample', help='entry to complete (default: %(default)s)')
    p.add_argument('--package', metavar='DIR', help="folder of the entries (default: this installation's)")
    p.set_defaults(run=_ship)


def _ship(args: argparse.Namespace) -> None:
    from msinet_timm.hub.convert import ship

    entry = ship(args.folder, args.name, args.package)
    print(f'{entry.folder / entry.name}.json\n{entry.weights}')


def create_main(measure=None) -> Callable[..., int]:
    """The command's entry point.

    Args:
        measure: finds a model's mAP on a data set for `export --dataset`, see `msinet_timm.cli.export.Measure`. The
            evaluation gives it; without it, `export` has no such flag.
    """

    @command
    def main(argv: list[str] | None = None) -> int | None:
        args = create_parser(measure).parse_args(argv)
        return args.run(args)

    return main


main = create_main()
