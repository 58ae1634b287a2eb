"""Disks that are small, full, or only to be read, and a Hub on this machine."""

import os
import shutil
import subprocess

import pytest
from local_hub import hub, hub_server  # noqa: F401


@pytest.fixture
def small_disk(tmp_path):
    """Makes a file system of so many kilobytes, which tests may fill."""
    mounted = []

    def mount(kilobytes):
        folder = tmp_path / f'disk{len(mounted)}'
        folder.mkdir()
        command = ['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'none', str(folder)]
        if shutil.which('mount') is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip('a small file system can only be mounted by root, on Linux')
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(['umount', '-l', str(folder)], check=True)


@pytest.fixture
def _umask():
    """As most people have it."""
    before = os.umask(0o022)
    yield
    os.umask(before)
