"""Commands in this process, as a user meets them: one row is an input, an exit code, and what the message names."""

import pytest


def run(capsys, main, *argv):
    """Exit code of a command, and all that it prints; whatever is raised but argparse's exit fails the test."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in argv])
    except SystemExit as e:
        code = e.code
    found = capsys.readouterr()
    return code, found.out + found.err


def refused(capsys, main, *argv, names=(), code=2):
    """Runs a command that must end with one short message that names these texts."""
    found, text = run(capsys, main, *argv)
    assert found == code, text
    assert 'Traceback' not in text
    errors = [line for line in text.splitlines() if line.startswith('error: ')] if code == 2 else [text]
    if len(errors) != 1:
        pytest.fail(f'one error was expected:\n{text}')
    assert len(errors[0]) < 2000
    for name in names if not isinstance(names, str) else [names]:
        assert name in text
    return text
