"""Whether a run that goes on still learns from the people that it began with."""

from collections.abc import Sequence
from pathlib import Path

from msinet_timm.datasets.records import SPLIT, sort_names
from msinet_timm.datasets.trained import TRAINED_ON, Learnt, TrainedOn
from msinet_timm.errors import InputError

__all__ = ['check_people']


def check_people(folder: Path, now: TrainedOn, remarks: Sequence[str], program: str) -> None:
    """Refuses other identities than those that the classes of a checkpoint stand for.

    Args:
        folder: of the run, which has a checkpoint.
        now: what it would learn from.
        remarks: on the data sets, which tell of a split.
        program: command that the run is of.

    Raises:
        InputError: identities or data sets were added, removed or renamed, or the run cannot know it.
    """
    file = folder / TRAINED_ON
    if not file.is_file():  # of a run that an earlier version has begun
        if any(SPLIT in remark for remark in remarks):
            raise InputError(
                f'resume {folder}: it was begun by an earlier version, which split identities otherwise, so that some '
                f'that it was trained on would be tested on: {_another(folder, program)}'
            )
        return
    before = TrainedOn.load(file).sources
    names = [', '.join(learnt.dataset for learnt in sources) for sources in (before, now.sources)]
    if names[0] != names[1]:
        raise InputError(
            f'resume {folder}: it has learnt from {names[0]}, and not from {names[1]}: name the same data sets, or '
            f'{_another(folder, program)}'
        )
    changes = [change for pair in zip(before, now.sources, strict=True) if (change := _change(*pair))]
    if changes:
        raise InputError(
            f'resume {folder}: the identities to train on are no longer those that it began with, which its classes '
            f'stand for: {"; ".join(changes)}. Bring back what was there, or {_another(folder, program)}'
        )


def _another(folder: Path, program: str) -> str:
    if program != 'msinet-train':
        return 'begin another run by another --output'
    last = folder / 'last'
    weights = f', with its weights by --model {last}' if last.is_dir() else ''
    return f'begin another run: {program} --recipe {folder / "args.yaml"} --output DIR{weights}'


def _change(before: Learnt, now: Learnt) -> str:
    """What is different, in words; empty for nothing."""
    new, gone = set(now.identities) - set(before.identities), set(before.identities) - set(now.identities)
    told = [f'{len(names)} {what} ({_some(names)})' for what, names in (('added', new), ('gone', gone)) if names]
    return f'{now.dataset} in {now.root}: {", ".join(told)}' if told else ''


def _some(names: set[str]) -> str:
    return ', '.join(sort_names(names)[:3]) + (', ...' if len(names) > 3 else '')
