import time

import pytest

from msinet_timm.benchmark.timing import in_turns, run_process, seconds_of
from msinet_timm.errors import InputError


class Clock:
    """Goes on by what calls take."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def call(self, name, *seconds):
        """A call that takes these seconds in turn."""
        left = iter(seconds)

        def run():
            self.now += next(left)
            self.calls.append(name)

        return run


def test_seconds_of_calls():
    clock = Clock()
    assert seconds_of(clock.call('a', 9, 1, 2), 2, warm_up=1, clock=clock) == [1, 2]
    assert seconds_of(clock.call('a', *[3] * 9), budget=7, clock=clock) == [3, 3, 3]
    assert seconds_of(lambda: time.sleep(0.01))[0] >= 0.01


def test_turns():
    clock = Clock()
    found = in_turns({'a': clock.call('a', 9, 1, 2), 'b': clock.call('b', 9, 3, 4)}, 2, clock)
    assert found == {'a': [1, 2], 'b': [3, 4]} and clock.calls == list('ababab')


def test_a_process_says_what_it_found(tmp_path, monkeypatch):
    (tmp_path / 'told.py').write_text(
        'import json, os, sys\nprint("words")\nprint(json.dumps([sys.argv[1:], os.environ["X"]]))\n'
        'sys.exit("4" in sys.argv)'
    )
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert run_process('told', '1', '2', environment={'X': 'y'}) == [['1', '2'], 'y']
    with pytest.raises(InputError, match='ended with exit code 1: see above'):
        run_process('told', '4', environment={'X': 'y'})
