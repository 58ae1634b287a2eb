import itertools

import pytest

from msinet_timm.benchmark import cameras, runs
from msinet_timm.benchmark.__main__ import main
from msinet_timm.benchmark.cameras import CAMERAS, CameraTimes, cameras_to_markdown, measure_cameras
from msinet_timm.benchmark.runs import Case

CASE = Case('msinet_x0_25', 'fused', 'float32')


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(runs, 'INPUT', (3, 64, 32))
    monkeypatch.setattr(cameras, 'INPUT', (3, 64, 32))
    monkeypatch.setattr(cameras, 'CROPS', 4)


def test_all_take_turns(monkeypatch):
    """Calls of the embedders, and of the clock around them, in the order in which they come."""
    calls = []

    class Embedder(cameras.Embedder):
        def __call__(self, images, names=None):
            calls.append((names, len(images), self.cameras))
            return super().__call__(images, names)

    monkeypatch.setattr(cameras, 'Embedder', Embedder)
    (found,) = measure_cameras([CASE], [4], [1], rounds=2, clock=itertools.count().__next__)
    known = dict.fromkeys(CAMERAS, 4)
    mixed = [*CAMERAS, CAMERAS[0]]
    assert calls == [(None, 4, {}), (CAMERAS[0], 4, known), (mixed, 4, known)] * 3
    assert found == CameraTimes(CASE, 4, 1, {name: [1, 1] for name in ('without', 'one', 'mixed')}, 1)


def test_table():
    seconds = {'without': [1.0, 0.8, 0.5], 'one': [1.0] * 3, 'mixed': [0.64] * 3}
    assert cameras_to_markdown([CameraTimes(CASE, 8, 2, seconds, 3.25)]).splitlines() == [
        '| model | form | precision | threads | batch | without | one camera | three, mixed | adapting |',
        '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
        '| msinet_x0_25 | fused | float32 | 2 | 8 | 10.0 | 8.0, -20.0 % | 12.5, +25.0 % | 3.2 s |',
    ]


def test_command(capsys):
    flags = ['--cameras', '--models', 'msinet_x0_25', '--batch-sizes', '2', '--threads', '1', '--rounds', '1']
    assert main(flags) == 0
    assert '| msinet_x0_25 | fused | float32 | 1 | 2 |' in capsys.readouterr().out
    for more, message in (
        (['--forms', 'onnx'], 'an Embedder does not run as onnx in float32'),
        (['--output', 'x'], '--output is not for --cameras'),
        (['--models', 'nonsense'], 'timm has no such model'),
    ):
        assert main([*flags, *more]) == 2
        assert message in capsys.readouterr().err
