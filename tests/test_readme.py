"""Runs what the README prints, in order, in a folder where `datasets` holds the sample as Market-1501."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import msinet_timm

REPOSITORY = Path(__file__).parent.parent
SAMPLE = Path(msinet_timm.__file__).parent / 'datasets' / 'sample'
TEXT = (REPOSITORY / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(bash|python)\n(.*?)^```', TEXT, flags=re.MULTILINE | re.DOTALL)

# What keeps a command short enough for a test; all else of it runs as printed.
SHORTER = {
    'make demo': f'-f {REPOSITORY}/Makefile -o .venv/.installed BIN={Path(sys.executable).parent} ARGS="--epochs 1"',
    'msinet-train --recipe': '--epochs 1 --height 64 --width 32 --workers 0 --warmup-step 0',
    'msinet-train -ds': '--epochs 1 --height 64 --width 32 --workers 0',
    'torchrun --standalone --nproc-per-node 2 -m msinet_train.cli': '--epochs 1 --height 64 --width 32 --workers 0',
    'msinet-search -ds': '--epochs 1 --height 32 --width 16 --workers 0 --variant x0_25 --warmup-step 0',
    'msinet-search compare': '--random 0 --no-uniform --seeds 0 --epochs 1 --height 32 --width 16 --workers 0 '
    '--model msinet_x0_25 --warmup-step 0',
    'msinet-train --resume': '--epochs 2',
    'python -m msinet_timm.benchmark': '--models msinet_x0_25 --forms eager fused --batch-sizes 1 --threads 1 '
    '--rounds 1',
    'msinet-data render': '--identities 4 --cameras 2 --images 2 --samples 1 --width 32 --height 64 --workers 1',
}
# Runs all tests, this one among them; and installations, which test_packaging does from a wheel.
ELSEWHERE = ('make test', 'pip install')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('readme')
    shutil.copytree(SAMPLE, folder / 'datasets' / 'Market-1501-v15.09.15')
    for name, image in zip(('a.jpg', 'b.jpg'), sorted(SAMPLE.glob('query/*.jpg')), strict=False):
        shutil.copy(image, folder / name)
    write_embeddings(folder)
    return folder


def write_embeddings(folder):
    """Embeddings as another program may have left them."""
    rng, rows = np.random.default_rng(0), ['part,identity,camera']
    for part, count in (('query', 4), ('gallery', 12)):
        np.save(folder / f'{part}.npy', rng.standard_normal((count, 16)).astype(np.float32))
        rows += [f'{part},{k % 4},{k // 4 + (part == "gallery")}' for k in range(count)]
    (folder / 'labels.csv').write_text('\n'.join(rows) + '\n')


def commands(kind, text):
    return [text] if kind == 'python' else text.splitlines()


@pytest.mark.parametrize(
    'kind, command', [(kind, command) for kind, text in BLOCKS for command in commands(kind, text)]
)
def test_readme(folder, kind, command):
    if command.startswith(ELSEWHERE):
        assert command in ('make test', 'pip install .', 'pip install ".[render]"')
        return
    if kind == 'python':
        argv = [sys.executable, '-c', command]
    else:
        extra = next((flags for start, flags in SHORTER.items() if command.startswith(start)), '')
        argv = shlex.split(f'{command} {extra}')
    environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}
    result = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_readme_names_existing_files():
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', TEXT):
        assert (REPOSITORY / target).exists(), target
