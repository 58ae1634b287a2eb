"""Runs the commands of docs/fine-tuning.md, in order and shortened, on a few identities of the sample."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.records import sort_names

TEXT = (Path(__file__).parent.parent / 'docs' / 'fine-tuning.md').read_text(encoding='utf-8')
COMMANDS = [
    line for block in re.findall(r'^```bash\n(.*?)^```', TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]
# What keeps a command short enough for a test, and off the network; all else of it runs as printed.
SHORTER = {
    'msinet-train --recipe': '--epochs 2 --height 64 --width 32 --workers 0 --no-pretrained',
    'msinet-train --resume': '--epochs 3',
}
# Installation is tested from a wheel, publishing against a server of its own.
ELSEWHERE = ('pip install ".[plot]"', 'msinet-hub publish runs/mine/best --repo OWNER/NAME')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder that holds `crops`: identities, in them cameras."""
    folder = tmp_path_factory.mktemp('fine-tuning')
    records = create_dataset('sample').train
    chosen = sort_names(r.identity for r in records)[:24]
    for record in records:
        if record.identity in chosen:
            place = folder / 'crops' / f'person{record.identity}' / f'camera{record.camera}'
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(record.path, place)
    return folder


def test_number_of_commands():
    assert len(COMMANDS) < 10


@pytest.mark.parametrize('command', [c for c in COMMANDS if c not in ELSEWHERE])
def test_commands(folder, command):
    extra = next((flags for start, flags in SHORTER.items() if command.startswith(start)), '')
    environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}
    result = subprocess.run(
        shlex.split(f'{command} {extra}'), cwd=folder, env=environment, capture_output=True, text=True
    )
    allowed = (0, 1) if command.startswith('msinet-data check') else (0,)  # 1: it has found something to look at
    assert result.returncode in allowed, result.stderr
    written = re.findall(r'(?:--contact-sheet|--output|--ranked-lists|--resume) (\S+)', command)
    assert written and all((folder / name).exists() for name in written)


def test_links():
    for target in re.findall(r'\]\((?!http)([^)#]+)', TEXT):
        assert (Path(__file__).parent.parent / 'docs' / target).exists()
