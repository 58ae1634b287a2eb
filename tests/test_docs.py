"""Runs what the README and the pages of `docs/` print, and looks after the site, the notebook and the citation."""

import configparser
import contextlib
import importlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points, metadata
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import yaml
from films import cross, write_sequence

import msinet_timm
from msinet_timm.datasets import create_dataset

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / 'docs'
SAMPLE = Path(msinet_timm.__file__).parent / 'datasets' / 'sample'
FILES = sorted([*REPOSITORY.glob('*.md'), *DOCS.glob('**/*.md')])
TEXTS = {str(file.relative_to(REPOSITORY)): file.read_text(encoding='utf-8') for file in FILES}
BLOCKS = {
    name: re.findall(r'^```(bash|python)\n(.*?)^```', text, flags=re.MULTILINE | re.DOTALL)
    for name, text in TEXTS.items()
}
PAGES = [name for name, found in BLOCKS.items() if found]
COMMANDS = {entry.name: entry for entry in entry_points(group='console_scripts') if entry.name.startswith('msinet-')}

_INPUT = '--height 64 --width 32 --workers 0'
_TRAINING = f'--epochs 1 {_INPUT} --warmup-step 0'
_SMALL = f'{_TRAINING} --model msinet_x0_25'
#: What keeps a command short enough for a test; all else of it runs as printed. The longest start that fits counts.
SHORTER = {
    'make demo': f'-f {REPOSITORY}/Makefile -o .venv/.installed -o .venv/.demo BIN={Path(sys.executable).parent} '
    'ARGS="--epochs 1"',
    'msinet-train -ds': _SMALL,
    'msinet-train --recipe': _SMALL,
    'msinet-train --recipe small -ds market1501 sample': f'{_TRAINING} --model test_resnet',
    'msinet-train --recipe small -ds folder --data-dir crops --output runs/mine': _TRAINING,
    'msinet-train --recipe small -ds folder --data-dir crops --output runs/mine --model resnet18': f'{_TRAINING} '
    '--model test_resnet --no-pretrained',  # ImageNet's weights would have to be downloaded
    'msinet-train --recipe rendered': _TRAINING,
    'msinet-train --recipe unlabelled': f'{_TRAINING} --round-epochs 1',
    'msinet-train --resume': '--epochs 2',
    'msinet-train --task search': '--epochs 2 --min-size 64 --max-size 128 --model msinet_x0_25 --workers 0',
    'torchrun --standalone --nproc-per-node 2 -m msinet_train.cli': f'{_SMALL} --batch-size 32',
    'msinet-search -ds': '--epochs 1 --height 32 --width 16 --workers 0 --variant x0_25 --warmup-step 0 '
    '--batch-size 16',
    'msinet-search -ds market1501 --data-dir datasets --output runs/paths': '--epochs 1 --height 32 --width 16 '
    '--workers 0 --batch-size 16 --candidates 4 --tune-steps 1 --warmup-step 0',
    'msinet-train --recipe small -ds market1501 --data-dir datasets --output runs/found': _TRAINING,
    'msinet-search compare': '--random 0 --no-uniform --seeds 0 --epochs 1 --height 32 --width 16 --workers 0 '
    '--model msinet_x0_25 --warmup-step 0',
    'msinet-eval runs/market/best/model.safetensors': f'{_INPUT} --model msinet_x0_25',
    'python -m msinet_timm.benchmark': '--models msinet_x0_25 --forms eager fused --batch-sizes 1 --threads 1 '
    '--rounds 1',
    'msinet-hub adapt': '--crops 2 --workers 0',
    'msinet-data render --video': '--identities 4 --cameras 2 --seconds 0.2 --width 160 --height 96 --workers 1',
    'msinet-data render --video --output street': '--identities 6 --seconds 2 --width 160 --height 96 --workers 1',
    'msinet-data render --scenes': '--identities 8 --test-identities 4 --places 1 --cameras 2 --images 4 --width 320 '
    '--height 180 --workers 1',
    'msinet-data render': '--identities 4 --cameras 2 --images 2 --width 32 --height 64 --workers 1 '
    '--test-identities 1 --places 2',
}
_IN_PYTHON = "epochs=1, height=64, width=32, workers=0, warmup_step=0, model='test_resnet'"
#: The same for code.
SHORTER_CODE = {'epochs=5': _IN_PYTHON}
#: Commands of many seconds or several processes.
SLOW = (
    'make demo',
    'torchrun',
    'msinet-search',
    'supernet.safetensors',  # what a search has learnt
    'msinet-hub export',
    'load_exported',
    'msinet-data render',
    'rendered_scenes',  # of which is read what was rendered
    'msinet-track',
    'tracks/crops',
    'python -m',
    'msinet_x1_0-',  # what was exported
)
#: Other people's programs: blocks of Python that import one are run where it is installed.
HOSTS = (
    'boxmot', 'cv2', 'deep_sort_realtime', 'effdet', 'libreyolo', 'reid', 'segmentation_models_pytorch', 'transformers',
    'ultralytics',
)  # fmt: skip
#: Tested where they can be: all tests by themselves, installations from a wheel (tests/test_packaging.py), publishing
#: against a server of its own (tests/msinet_timm/test_hub.py), the site below.
ELSEWHERE = {
    'make test',
    'make test-all',
    'make lint',
    'make docs',
    'msinet-hub publish runs/mine/best --repo OWNER/NAME',
}
#: Words that call another command of the same name.
WORDS = {
    'msinet-data': ('render', 'list', 'check', 'convert'),
    'msinet-train': (),
    'msinet-eval': ('compare', 'pair', 'search', 'scenes'),
    'msinet-search': ('compare',),
    'msinet-track': (),
    'msinet-gallery': ('add', 'search', 'delete', 'merge', 'stats', 'reembed', 'serve', 'repair'),
    'msinet-hub': ('list', 'adapt', 'convert', 'verify', 'export', 'card', 'publish', 'ship'),
}
#: Exit codes other than 0: `check` has found something to look at.
ALLOWED = {'msinet-data check': (0, 1)}


def absent(kind, command):
    """Hosts that a block of Python imports and that are not installed."""
    imported = re.findall(r'^(?:import|from) (.*?)(?: import .*)?$', command, re.MULTILINE) if kind == 'python' else ()
    names = {re.match(r'\w+', name.strip())[0] for found in imported for name in found.split(',')}
    return [name for name in names if name in HOSTS and not find_spec(name)]


def commands(page, slow):
    """The slow or the other commands of a page that are run here, a block of Python as one."""
    for kind, text in BLOCKS[page]:
        for command in [text] if kind == 'python' else text.splitlines():
            here = command not in ELSEWHERE and not command.startswith('pip install') and not absent(kind, command)
            if here and any(word in command for word in SLOW) == slow:
                yield kind, command


@pytest.fixture(scope='module')
def user(tmp_path_factory):
    """A user's folder: some people of the sample as Market-1501 and as `crops`, images, embeddings, trained models."""
    folder = tmp_path_factory.mktemp('user')
    market = folder / 'datasets' / 'Market-1501-v15.09.15'
    for image in sorted(SAMPLE.glob('*/*.jpg')):
        if int(image.name.split('_')[0]) <= 32:  # 16 identities to train on, 16 to test on, distractors and junk
            (market / image.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(image, market / image.parent.name)
    for record in create_dataset('sample').train[:288:2]:  # 24 people, of each every other image
        place = folder / 'crops' / f'person{record.identity}' / f'camera{record.camera}'
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.path, place)
    for record in create_dataset('sample').train[:200]:  # a tracker's crops: nobody says who is who
        names = ('door', 'yard', 'hall', 'gate', 'ramp', 'lift')
        place = folder / 'site' / names[int(record.camera) - 1] / record.identity
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.path, place)
    for name, image in zip(('a.jpg', 'b.jpg'), sorted(SAMPLE.glob('query/*.jpg')), strict=False):
        shutil.copy(image, folder / name)
    write_embeddings(folder)
    write_sequence(folder / 'films' / 'door', cross, 24)
    write_sequence(folder / 'films' / 'yard', lambda number: cross(number - 4), 28)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        start = f'msinet-train --recipe small -ds market1501 --data-dir datasets {_TRAINING}'
        run(f'{start} --model msinet_x0_25 --output runs/market')
        run(f'{start} --model test_resnet --output runs/resnet18')
        run('msinet-eval runs/market/best -ds market1501 --data-dir datasets --features features')
    for name in ('demo', 'mine'):
        shutil.copytree(folder / 'runs' / 'market', folder / 'runs' / name)
    return folder


def write_embeddings(folder):
    """Embeddings as another program may have left them."""
    rng, rows = np.random.default_rng(0), ['part,identity,camera']
    for part, count in (('query', 4), ('gallery', 12)):
        np.save(folder / f'{part}.npy', rng.standard_normal((count, 16)).astype(np.float32))
        rows += [f'{part},{k % 4},{k // 4 + (part == "gallery")}' for k in range(count)]
    (folder / 'labels.csv').write_text('\n'.join(rows) + '\n')


def run(command):
    """Runs a line of a shell as this process, where it is one of this package's commands; gives its exit code."""
    name, *argv = shlex.split(command)
    if name in COMMANDS:
        return COMMANDS[name].load()(argv)
    if (name, *argv[:1]) == ('python', '-m'):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(sys, 'argv', ['', *argv[2:]])
            runpy.run_module(argv[1], run_name='__main__', alter_sys=True)
        return end.value.code or 0
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    result = subprocess.run([name, *argv], env={**os.environ, 'PATH': path}, capture_output=True, text=True)
    print(result.stderr)
    return result.returncode


def shortened(command):
    starts = [start for start in SHORTER if command.startswith(start)]
    return f'{command} {SHORTER[max(starts, key=len)]}' if starts else command


def run_page(page, user, folder, slow):
    """Runs a page's commands in a folder that holds what `user` does, but for what these commands make themselves."""
    chosen = list(commands(page, slow))
    made = {name for _, command in chosen for name in re.findall(r'(?:--output|--features) (\S+)', command)}
    shutil.copytree(user, folder, dirs_exist_ok=True)
    for name in made:
        shutil.rmtree(folder / name, ignore_errors=True)
    for kind, command in chosen:
        if kind == 'python':
            for long, short in SHORTER_CODE.items():
                command = command.replace(long, short)
            exec(compile(command, page, 'exec'), {'__name__': '__main__'})
            continue
        allowed = next((codes for start, codes in ALLOWED.items() if command.startswith(start)), (0,))
        assert run(shortened(command)) in allowed, f'{page}: {command}'
        written = re.findall(r'--(?:contact-sheet|output|ranked-lists|html|resume|summary|features) (\S+)', command)
        assert all(Path(name).exists() for name in written), f'{page}: {command}'


@pytest.mark.parametrize('page', [page for page in PAGES if any(commands(page, slow=False))])
def test_commands(page, user, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page, user, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize('page', [page for page in PAGES if any(commands(page, slow=True))])
def test_slow_commands(page, user, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MSINET_GENOTYPES', str(tmp_path / 'genotypes'))
    run_page(page, user, tmp_path, slow=True)


def test_installations_name_extras_that_exist():
    extras = set(metadata('msinet-timm').get_all('Provides-Extra'))
    for name, text in TEXTS.items():
        for found in re.findall(r'pip\s+install(?:\s+-e)?\s+"\.\[([\w,]+)\]"', text):
            assert set(found.split(',')) <= extras, f'{name}: {found}'


def test_names_of_the_packages_exist():
    for name, text in TEXTS.items():
        if name == 'CHANGELOG.md':  # which names what is gone, too
            continue
        for found in re.findall(r'`(msinet_(?:timm|train|eval)[\w.]*)', text):
            assert resolve_name(found.rstrip('.')) is not None, name


def test_the_house_has_the_rooms_that_are_listed():
    """What stands in the first column are all folders of the packages, and the files beside them that are rooms."""
    rooms, package = set(), None
    for column in re.findall(r'^\| (\*?\*?`.*?`\*?\*?) \|', TEXTS['docs/house.md'], re.MULTILINE):
        if column.startswith('**'):
            package = column.strip('*`')
        elif package and '/' not in column and '.' not in column:
            rooms |= {f'{package}.{name}' for name in re.findall(r'\w+', column)}
    assert all(find_spec(room) for room in rooms)
    listed = configparser.ConfigParser()
    listed.read(REPOSITORY / 'setup.cfg')
    folders = {name for name in listed['options']['packages'].split() if name.count('.') == 1}
    assert len(rooms) > 20 and folders - rooms == {'msinet_timm.hub_configs'}


def help_of(run_main, *argv):
    """Flags that a command's help names."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        run_main([*argv, '--help'])
    return set(re.findall(r'--[a-z][\w-]*', output.getvalue()))


def test_flags_exist():
    """Flags in running text, too, are ones that some command takes."""
    known = {'--standalone', '--nproc-per-node', '--check'}  # of torchrun and ruff, and of trtexec:
    known |= {'--data-binary'}  # of curl
    known |= {'--renderer'}  # of the commits that rendered what the weights have learnt
    known |= {'--onnx', '--saveEngine', '--fp16', '--minShapes', '--optShapes', '--maxShapes'}
    for name, words in WORDS.items():
        for word in ('', *words):
            known |= help_of(COMMANDS[name].load(), *[word] * bool(word))
    for module in sorted({found for text in TEXTS.values() for found in re.findall(r'python -m\s+([\w.]+)', text)}):
        known |= help_of(importlib.import_module(f'{module}.__main__' if is_package(module) else module).main)
    for name, text in TEXTS.items():
        unknown = {
            flag for code in re.findall(r'`([^`]+)`', text) for flag in re.findall(r'--[a-z][\w-]*', code)
        } - known
        assert not unknown, f'{name}: {unknown}'


def is_package(module):
    return find_spec(module).submodule_search_locations is not None


def test_readme_is_short():
    assert len(TEXTS['README.md'].splitlines()) < 200


def test_readme_tells_the_distance_that_it_prints(capsys):
    (code,) = (text for kind, text in BLOCKS['README.md'] if kind == 'python')
    exec(compile(code, 'README.md', 'exec'), {'__name__': '__main__'})
    distance, threshold = re.search(r'# (\d\.\d+): up to (\d\.\d+)', code).groups()
    assert capsys.readouterr().out == f'distance {distance}\n'
    entry = json.loads((REPOSITORY / 'hub_configs' / 'msinet_x1_0.rendered.json').read_text(encoding='utf-8'))
    assert f'{entry["threshold"]["threshold"]:.2f}' == threshold


def anchors(text):
    """What the headings of a page can be reached by, as GitHub and MyST make it."""
    titles = re.findall(r'^#+ (.*)', re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', TEXTS)
def test_links_lead_somewhere(page):
    targets = re.findall(r'\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)', re.sub(r'`[^`\n]+`', '', TEXTS[page]))
    targets += [(target, '') for target in re.findall(r'<img src="(?!https?:)([^"]+)"', TEXTS[page])]
    for target, anchor in targets:
        file = (REPOSITORY / page).parent / target if target else REPOSITORY / page
        assert file.is_file(), f'{page}: {target}'
        if anchor:
            assert anchor in anchors(file.read_text(encoding='utf-8')), f'{page}: {target}#{anchor}'


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for name, text in TEXTS.items():
        for entries in re.findall(r'^```\{toctree\}\n(.*?)^```', text, flags=re.MULTILINE | re.DOTALL):
            names = [line for line in entries.splitlines() if line and not line.startswith(':')]
            listed |= {Path(name).parent / entry for entry in names}
    pages = {file.relative_to(REPOSITORY).with_suffix('') for file in [*DOCS.glob('**/*.md'), *DOCS.glob('*.ipynb')]}
    assert not {'search', 'genindex', 'py-modindex'} & {page.name for page in pages}  # Sphinx writes its own
    assert pages - listed == {Path('docs/index')} and listed <= pages


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::PendingDeprecationWarning')  # Sphinx's own
@pytest.mark.skipif(not find_spec('sphinx'), reason='needs Sphinx: pip install ".[docs]"')
def test_site_builds_without_a_warning(tmp_path, capsys):
    from sphinx.cmd.build import build_main

    code = build_main(['-W', '--keep-going', '-q', '-d', str(tmp_path / 'trees'), str(DOCS), str(tmp_path / 'site')])
    assert code == 0, capsys.readouterr().err
    reference = (tmp_path / 'site' / 'reference' / 'zoo.html').read_text()
    assert 'id="msinet_timm.embedder.Embedder"' in reference
    assert 'write_contact_sheet' in (tmp_path / 'site' / 'own_images.html').read_text()


@pytest.mark.slow
def test_notebook(tmp_path, monkeypatch):
    """Its cells of code run in order, in an empty folder, and leave a model and a report."""
    notebook = json.loads((DOCS / 'own_images.ipynb').read_text(encoding='utf-8'))
    cells = [''.join(cell['source']) for cell in notebook['cells'] if cell['cell_type'] == 'code']
    monkeypatch.chdir(tmp_path)
    scope = {'__name__': '__main__'}
    for number, cell in enumerate(cells):
        exec(compile(cell, f'cell {number}', 'exec'), scope)
    assert len(cells) > 4 and 'mAP' in Path('report.html').read_text(encoding='utf-8')


def test_notebook_holds_no_outputs():
    notebook = json.loads((DOCS / 'own_images.ipynb').read_text(encoding='utf-8'))
    code = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    assert notebook['nbformat'] == 4 and code
    assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in code)


def test_citation_names_version_and_paper():
    citation = yaml.safe_load((REPOSITORY / 'CITATION.cff').read_text(encoding='utf-8'))
    paper = citation['preferred-citation']
    assert citation['cff-version'] == '1.2.0' and {'message', 'title', 'authors'} <= citation.keys()
    assert citation['version'] == msinet_timm.__version__
    for author in paper['authors']:
        assert f'{author["family-names"]}, {author["given-names"]}' in ' '.join(TEXTS['README.md'].split())
    assert len(paper['authors']) == 9 and paper['doi'] in TEXTS['README.md']
    assert paper['title'] in TEXTS['README.md'].replace('{', '').replace('}', '')


def test_changes_name_the_version():
    assert re.search(rf'^## \[{re.escape(msinet_timm.__version__)}\]', TEXTS['CHANGELOG.md'], re.MULTILINE)
