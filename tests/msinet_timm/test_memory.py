import platform
import subprocess
import sys

import pytest

from msinet_timm import memory


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason="only glibc's allocator can be set")
def test_memory_is_kept():
    """The pages of what is freed stay with the process, so that the next step finds them."""
    code = (
        'import sys, pathlib, runpy\n'
        'assert sys.argv[2] == "default" or runpy.run_path(sys.argv[1])["keep_memory"]()\n'
        'memory = bytes(1) * 200_000_000\n'
        'del memory\n'
        'lines = pathlib.Path("/proc/self/status").read_text().splitlines()\n'
        'print(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")))'
    )
    default, kept = (
        int(subprocess.run([sys.executable, '-c', code, memory.__file__, how], capture_output=True, check=True).stdout)
        for how in ('default', 'kept')
    )
    assert kept - default > 150_000  # kB of 200 MB
