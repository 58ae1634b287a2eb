"""The demonstration: weights that ship, before and after a short training on the sample that ships with them."""

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from timm.utils import random_seed

from msinet_eval.evaluation import evaluate
from msinet_eval.report import table, write_ranked_lists
from msinet_timm.commands import command, positive
from msinet_timm.settings import flags_named
from msinet_train.data.sources import load_data
from msinet_train.engine.loop import train
from msinet_train.engine.setup import create_model
from msinet_train.run.folder import holds_run

from .models import backbone_of
from .settings import TrainSettings


@command
@flags_named(TrainSettings)
def main(argv: list[str] | None = None) -> None:
    """Runs the demonstration; a run that was interrupted goes on, one that has ended is evaluated again."""
    parser = argparse.ArgumentParser(prog='python -m msinet_train.demo', description=__doc__)
    parser.add_argument('--output', default='runs/demo', metavar='DIR', help='run folder (default: runs/demo)')
    parser.add_argument('--epochs', type=positive, metavar='N', help='to train for (default: as in the recipe "demo")')
    demo = parser.parse_args(argv)
    start = time.perf_counter()

    changes = {} if demo.epochs is None else {'epochs': demo.epochs}
    if holds_run(Path(demo.output)):
        settings = TrainSettings.from_run(demo.output, **changes)
    else:
        settings = TrainSettings.from_recipe('demo', output=demo.output, **changes)
    dataset = next(iter(load_data(settings).measured.values()))
    random_seed(settings.seed)
    shipped = backbone_of(create_model(settings, num_classes=1))
    before = evaluate(shipped, dataset, height=settings.height, width=settings.width, workers=settings.workers)
    folder = train(settings).folder
    title = f'{settings.model} on {dataset.name} after {settings.epochs} epochs'
    after = evaluate(folder / 'last', dataset, workers=settings.workers, name=title)

    print(table([('as shipped', before.ranking), (f'trained for {settings.epochs} epochs', after.ranking)]))
    image = folder / 'ranked_lists.png'
    write_ranked_lists(image, after, title=title)
    if find_spec('matplotlib'):
        report = folder / 'report.html'
        after.report(report, command=' '.join(['python -m msinet_train.demo', *(argv or sys.argv[1:])]))
        print(f'report:       {report}')
    else:
        print('report:       left out, it needs matplotlib: pip install "msinet-timm[plot]"')
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    print(f'ranked lists: {image}\nmodel:        {folder / "last"}\ntime:         {minutes} min {seconds} s')


if __name__ == '__main__':
    raise SystemExit(main())
