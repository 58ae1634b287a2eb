"""The package as users get it: a wheel in an environment of its own, and the import."""

import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def run(*command, cwd):
    result = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """An environment with the wheel, far from the repository; dependencies come from the tests' own environment."""
    folder = tmp_path_factory.mktemp('wheel')
    # A copy, for what an earlier build has left in the repository would end up in the wheel.
    ignored = shutil.ignore_patterns('.git', '.venv', 'build', 'dist', '*.egg-info', 'runs', '__pycache__')
    source = shutil.copytree(REPOSITORY, folder / 'source', ignore=ignored)
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    run(*pip, 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', folder, source, cwd=folder)
    (wheel,) = folder.glob('msinet_timm-*.whl')
    venv.create(folder / 'env', with_pip=False)
    python = folder / 'env' / 'bin' / 'python'
    run(*pip, '--python', python, 'install', '--no-deps', wheel, cwd=folder)
    packages = run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=folder).strip()
    # Adds the folder alone: what is editable in it, such as this project, stays out.
    Path(packages, 'dependencies.pth').write_text('\n'.join({sysconfig.get_path('purelib'), *site.getsitepackages()}))
    return folder


@pytest.mark.slow
def test_wheel_works_without_the_repository(installed):
    script = """
import importlib.metadata, pathlib, sys, timm, msinet_timm, msinet_train, msinet_eval
from msinet_timm.datasets import create_dataset
from msinet_timm.hub.card import write_card
from msinet_timm.models.genotype import named_genotypes
from msinet_train.recipe import list_recipes
for package in (msinet_timm, msinet_train, msinet_eval):
    assert pathlib.Path(package.__file__).is_relative_to(sys.prefix), package.__file__
    assert (pathlib.Path(package.__file__).parent / 'py.typed').is_file()  # its type hints count
assert importlib.metadata.version('msinet-timm') == msinet_timm.__version__
sample = create_dataset('sample')
assert len(sample.train) > 100 and pathlib.Path(sample.root).is_relative_to(sys.prefix)
assert {'scratch', 'demo'} <= set(list_recipes()) and 'msmt' in named_genotypes()
assert timm.get_pretrained_cfg('msinet_x1_0.veri776').input_size == (3, 256, 256)
assert '# mine' in write_card('mine', 'A model.', (256, 128))
for name in ('train', 'eval', 'hub_configs', 'tests'):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f'{name} is installed as a package of its own')
"""
    run(installed / 'env' / 'bin' / 'python', '-c', script, cwd=installed)


@pytest.mark.slow
def test_commands_of_the_wheel(installed):
    for command in ('msinet-train', 'msinet-eval', 'msinet-data', 'msinet-hub'):
        assert command in run(installed / 'env' / 'bin' / command, '--help', cwd=installed)
    table = run(installed / 'env' / 'bin' / 'msinet-eval', 'color_histogram', '-ds', 'sample', cwd=installed)
    assert 'color_histogram on sample' in table


def test_import_is_fast_and_silent(tmp_path):
    script = """
import time, timm
start = time.perf_counter()
import msinet_timm
print(time.perf_counter() - start)
"""
    for _ in range(3):  # a busy machine may be slow by chance
        result = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0 and not result.stderr and len(result.stdout.split()) == 1
        if float(result.stdout) < 0.3:
            return
    pytest.fail(f'importing msinet_timm took {float(result.stdout):.2f} s')


def test_import_leaves_optional_and_own_packages_out(tmp_path):
    names = ('anny', 'moderngl', 'msinet_train', 'msinet_eval')
    script = f'import sys, msinet_timm; print([m for m in {names} if m in sys.modules])'
    assert run(sys.executable, '-c', script, cwd=tmp_path).strip() == '[]'
