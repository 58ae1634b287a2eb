import itertools
import sys
import threading

import pytest

from msinet_timm.benchmark import __main__, rendering
from msinet_timm.benchmark.rendering import RenderTimes, measure_rendering, rendering_to_markdown
from msinet_timm.errors import InputError
from msinet_timm.render import raster

STEPS = ('people', 'poses', 'drawing', 'camera', 'other')


def test_table():
    seconds = dict(zip(STEPS, (1.0, 0.25, 2.5, 0.15, 0.1), strict=True))
    assert rendering_to_markdown(RenderTimes(40, seconds)).splitlines() == [
        '| images | images/s of a core | people | poses | drawing | camera | other |',
        '| --- | --- | --- | --- | --- | --- | --- |',
        '| 40 | 10.0 | 25 % | 6 % | 62 % | 4 % | 2 % |',
    ]


@pytest.mark.slow
def test_all_of_the_time_is_shared_out(monkeypatch):
    """A clock that ticks whenever it is asked: a step takes as many ticks as it has calls."""
    pytest.importorskip('anny')
    try:
        raster.load_renderer()
    except InputError as e:
        pytest.skip(str(e))
    monkeypatch.setattr(rendering, 'PASSERS', rendering.PASSERS[:2])
    result = measure_rendering(2, 32, 64, itertools.count().__next__)
    assert tuple(result.seconds) == STEPS and result.images == 23
    assert min(result.seconds.values()) > 0, result
    # a step that is counted twice, or as a part of another one, leaves less than nothing
    assert result.seconds['other'] < 0.2 * sum(result.seconds.values())


def test_command_without_packages(monkeypatch, capsys):
    monkeypatch.setattr(raster, '_here', threading.local())
    monkeypatch.setitem(sys.modules, 'moderngl', None)
    assert __main__.main(['--render']) == 2
    printed = capsys.readouterr()
    assert 'needs moderngl: pip install' in printed.err and not printed.out
    assert __main__.main(['--render', '--output', 'x']) == 2
    assert '--output is not for --render' in capsys.readouterr().err
