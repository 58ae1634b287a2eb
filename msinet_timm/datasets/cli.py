"""msinet-data: makes data sets."""

import argparse

from ..commands import command

__all__ = ['main']


def _add_render(subparsers) -> None:
    p = subparsers.add_parser(
        'render',
        help='render a person data set in the layout of Market-1501',
        description='Renders clothed, walking people under several cameras. Interrupted, it goes on where it stopped.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument('--output', required=True, metavar='DIR', help='new, empty or half-finished folder')
    p.add_argument('--identities', type=int, default=100, metavar='N', help='people; every other one trains')
    p.add_argument('--cameras', type=int, default=6, metavar='C', help='cameras, 2 to 9')
    p.add_argument('--pictures', type=int, default=12, metavar='P', help='pictures of each training identity')
    p.add_argument('--domain', default='street', help='street or mall: places, lights, camera positions and clothes')
    p.add_argument('--seed', type=int, default=0, metavar='S', help='of everything random')
    p.add_argument('--samples', type=int, default=4, metavar='SPP', help='rays for each pixel')
    p.add_argument('--width', type=int, default=128, help='of the pictures, in pixels')
    p.add_argument('--height', type=int, default=256, help='of the pictures, in pixels')
    p.add_argument('--workers', type=int, metavar='W', help='processes (default: one for each core)')
    p.set_defaults(run=_render)


def _render(args: argparse.Namespace) -> None:
    from .render import render_dataset

    options = {k: v for k, v in vars(args).items() if k not in ('run', 'output')}
    counts = render_dataset(args.output, **options)
    print(f'{args.output}: ' + ', '.join(f'{n} {name}' for name, n in counts.items()))


@command
def main(argv: list[str] | None = None) -> None:
    """Runs `msinet-data` with a list of arguments (None: those of the process)."""
    parser = argparse.ArgumentParser('msinet-data', description='Makes data sets for object re-identification.')
    subparsers = parser.add_subparsers(required=True, metavar='COMMAND')
    _add_render(subparsers)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == '__main__':
    raise SystemExit(main())
