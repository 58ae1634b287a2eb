"""The command `msinet-train`: trains a ReID model on a data set."""

import argparse
import dataclasses
from typing import Any, TypeVar

import msinet_timm  # noqa: F401 - registers the models with timm
from msinet_eval.report.text import table
from msinet_timm.commands import command
from msinet_timm.errors import InputError
from msinet_timm.processes import is_primary
from msinet_timm.settings import add_settings, check_used, flag_of, flags_named
from msinet_train.engine.loop import evaluate_only, train
from msinet_train.person_search import engine as person_search
from msinet_train.person_search.settings import PersonSearchSettings

from .recipe import list_recipes, load_recipe
from .settings import NAMED, Settings, TrainSettings

__all__ = ['create_parser', 'from_flags', 'main', 'parse_args']

DEFAULT_RECIPE = 'scratch'
#: What can be trained.
TASKS: dict[str, type[Settings]] = {'reid': TrainSettings, 'search': PersonSearchSettings}
S = TypeVar('S', bound=Settings)


def from_flags(settings: type[S], flags: dict[str, Any], recipe: str | None = None) -> S:
    """Settings of the run to resume, or else of a recipe, or else the defaults; all under flags that were given."""
    source = settings.file_of(flags['resume']) if 'resume' in flags else recipe
    if source is None:
        return _used(settings(**flags), flags)
    extending = [f.name for f in dataclasses.fields(settings) if f.metadata['flag'].get('extends') and f.name in flags]
    found = settings.from_recipe(source, **{name: value for name, value in flags.items() if name not in extending})
    found = dataclasses.replace(found, **{name: [*getattr(found, name), *flags[name]] for name in extending})
    return _used(found, flags)


def _used(settings: S, flags: dict[str, Any]) -> S:
    check_used(settings, flags)
    return settings


def create_parser() -> argparse.ArgumentParser:
    """The command's arguments, of all tasks."""
    parser = argparse.ArgumentParser(
        prog='msinet-train',
        description='Trains a ReID model, or with --task search one that finds people in whole images, too. Settings '
        'come from a recipe; each flag given beats it. '
        'Several processes, on one machine or many, are started by torchrun -m msinet_train.cli.',
    )
    run = parser.add_argument_group('run')
    run.add_argument(
        '--task', choices=TASKS, default=argparse.SUPPRESS,
        help='reid: embed images of one person or vehicle; search: find people in whole images, and embed them '
        '(default: reid, or that of the run to resume)',
    )  # fmt: skip
    run.add_argument(
        '--recipe', metavar='NAME|FILE', help=f'{", ".join(list_recipes())} (default: {DEFAULT_RECIPE}), '
        'a YAML file, or the args.yaml of another run; of --task search, such a file only'
    )  # fmt: skip
    run.add_argument('--evaluate', action='store_true', help='only measure the model, or the run to resume')
    add_settings(parser, TrainSettings, {'run': run}, silent=NAMED)
    known = {f.name for f in dataclasses.fields(TrainSettings)}
    further = {f.name for f in dataclasses.fields(PersonSearchSettings)} - known - {'task'}
    group = parser.add_argument_group('person search (--task search)')
    add_settings(group, PersonSearchSettings, names=further)
    return parser


def _task_of(flags: dict[str, Any], recipe: str | None) -> str:
    """The task that is asked for, or that of the run to resume, or of the file of settings to begin with.

    Raises:
        InputError: a flag contradicts that, or is of another task.
    """
    source = TrainSettings.file_of(flags['resume']) if 'resume' in flags else recipe
    told = load_recipe(source).get('task', 'reid' if 'resume' in flags else None) if source else None
    if told not in (None, *TASKS):
        raise InputError(f'{source}: task {str(told)[:80]!r} is not one of {", ".join(TASKS)}')
    task = flags.pop('task', told or 'reid')
    if told and task != told:
        raise InputError(f'--task {task}: {source} holds the settings of another task, {told}')
    known = {f.name for f in dataclasses.fields(TASKS[task])}
    for name in flags:
        if name not in known:
            others = [other for other, kind in TASKS.items() if name in {f.name for f in dataclasses.fields(kind)}]
            raise InputError(f'{flag_of(name)} is for --task {others[0]}, and not for --task {task}: leave it out')
    return task


def _parse(argv: list[str] | None) -> tuple[Settings, bool]:
    """Settings, and whether to evaluate only."""
    flags = vars(create_parser().parse_args(argv))
    recipe, evaluate = flags.pop('recipe'), flags.pop('evaluate')
    if 'resume' in flags and recipe:
        raise InputError('--resume continues with the settings of its run: leave out --recipe')
    task = _task_of(flags, recipe)
    if task == 'search':
        return from_flags(PersonSearchSettings, flags, recipe), evaluate
    return from_flags(TrainSettings, flags, recipe or DEFAULT_RECIPE), evaluate


def parse_args(argv: list[str] | None = None) -> Settings:
    """Settings of a run: the recipe's (or those of the run to resume), under the flags given.

    Returns:
        Of the class that `TASKS` has for the task.

    Raises:
        InputError: an unknown recipe, a wrong setting in it, or flags that contradict each other.
    """
    return _parse(argv)[0]


@command
@flags_named(TrainSettings, PersonSearchSettings)
def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    settings, evaluate = _parse(argv)
    if isinstance(settings, PersonSearchSettings):
        if evaluate:
            print(person_search.evaluate_only(settings).result)
        else:
            person_search.train_person_search(settings)
    elif evaluate:
        measured = evaluate_only(settings)
        if is_primary():
            print(table([(name, e.ranking) for name, e in measured.evaluations.items()]))
            for name, e in measured.evaluations.items():
                for remark in e.remarks:
                    print(f'  {name}: {remark}')
    else:
        train(settings)


if __name__ == '__main__':
    raise SystemExit(main())
