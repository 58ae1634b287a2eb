"""Imports of the packages go down the house, never up, also those inside functions; and nobody walks in circles.

A room is a folder, or a file that lies beside folders. The front door of a package, its `__init__.py`, shows what the
rooms behind it hold, and so stands above them.
"""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FOLDERS = {'msinet_timm': 'msinet_timm', 'msinet_eval': 'eval', 'msinet_train': 'train'}

#: Rooms from the roof to the ground: a room imports from those below it, and from itself.
HOUSE = """
msinet_train.benchmark_search  msinet_train.search_cli
msinet_train.benchmark
msinet_train.search
msinet_train.demo  msinet_train.cli
msinet_train.person_search
msinet_train.engine
msinet_train.losses
msinet_train.data  msinet_train.run  msinet_train.grouping
msinet_train.settings
msinet_train.camera_norm  msinet_train.mixstyle
msinet_train.curves  msinet_train.recipe  msinet_train.models  msinet_train.distributed

msinet_eval.__main__
msinet_eval.cli
msinet_eval.commands
msinet_eval.evaluation  msinet_eval.scenes
msinet_eval.report  msinet_eval.benchmark
msinet_eval.breakdown
msinet_eval.settings
msinet_eval.protocol
msinet_eval.models
msinet_eval.search
msinet_eval.features
msinet_eval.metrics

msinet_timm.cli  msinet_timm.benchmark
msinet_timm.gallery
msinet_timm.embedder  msinet_timm.tracking
msinet_timm.person_search
msinet_timm.hub  msinet_timm.export  msinet_timm.render  msinet_timm.detection
msinet_timm.datasets.tools
msinet_timm.datasets.shards
msinet_timm.datasets.readers
msinet_timm.datasets
msinet_timm.forms  msinet_timm.processes  msinet_timm.memory
msinet_timm.commands  msinet_timm.settings  msinet_timm.charts  msinet_timm.drawing
msinet_timm.models
msinet_timm.files
msinet_timm.errors
""".split()

#: Old names of modules, which import what has moved.
MOVED = {f'msinet_timm.{name}' for name in ('msinet', 'genotype', 'interactions', 'supernet', 'exported')}
MOVED.add('msinet_timm.datasets.benchmark')


def find_modules():
    """Files by the name of their module."""
    modules = {}
    for package, folder in FOLDERS.items():
        for path in (REPOSITORY / folder).rglob('*.py'):
            parts = path.relative_to(REPOSITORY / folder).with_suffix('').parts
            modules['.'.join((package, *(part for part in parts if part != '__init__')))] = path
    return modules


MODULES = find_modules()


def is_front_door(module):
    return MODULES[module].name == '__init__.py'


def imported_by(module, text=None):
    """Modules of ours that a module imports, wherever in it."""
    here = module.split('.') if is_front_door(module) else module.split('.')[:-1]
    for node in ast.walk(ast.parse(text or MODULES[module].read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            base = '.'.join([*above, *([node.module] if node.module else [])])
            names = [f'{base}.{alias.name}' if f'{base}.{alias.name}' in MODULES else base for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def room_of(module):
    """The longest name in the house that a module's begins with; a package's own name is a front door only."""
    found = [room for room in HOUSE if module == room or module.startswith(f'{room}.')]
    assert found, f'{module} has no room: add it to HOUSE, where it belongs'
    return HOUSE.index(max(found, key=len))


def faults(module, text=None):
    """What a module imports from above itself."""
    for name in imported_by(module, text):
        if is_front_door(name):
            allowed = not is_front_door(module) and not module.startswith(f'{name}.')
            if name not in HOUSE:  # msinet_timm, msinet_eval or msinet_train
                allowed &= list(FOLDERS).index(name) <= list(FOLDERS).index(module.partition('.')[0])
                yield from [] if allowed else [name]
                continue
        else:
            allowed = True
        if not allowed or room_of(name) < room_of(module):
            yield name


@pytest.mark.parametrize('module', sorted(m for m in MODULES if m not in MOVED and not is_front_door(m)))
def test_imports_go_down(module):
    assert not list(faults(module))


@pytest.mark.parametrize('module', sorted(m for m in MODULES if is_front_door(m)))
def test_front_doors_show_what_is_behind_them(module):
    assert all(name.startswith(module) or name.partition('.')[0] == 'msinet_timm' for name in imported_by(module))


def test_a_hidden_arrow_up_is_found():
    text = 'def f():\n    from msinet_eval.protocol import evaluate\n'
    assert list(faults('msinet_timm.embedder', text)) == ['msinet_eval.protocol']
    assert list(faults('msinet_eval.metrics.ranking', text)) == ['msinet_eval.protocol']
    assert not list(faults('msinet_train.engine.loop', text))


def test_no_circles():
    """Files, not rooms: the order in which Kahn's algorithm takes them away leaves none."""
    arrows = {m: set(imported_by(m)) - {m} for m in MODULES}
    while free := [m for m, names in arrows.items() if not names & arrows.keys()]:
        for module in free:
            del arrows[module]
    assert not arrows
