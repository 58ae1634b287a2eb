import pytest

from msinet_timm.commands import command, format_table, progress
from msinet_timm.errors import InputError


def run(error):
    def main(argv):
        if error:
            raise error

    return command(main)([])


def test_exit_codes(capsys):
    assert run(None) == 0
    assert run(InputError('no such folder: x')) == 2
    assert capsys.readouterr().err == 'error: no such folder: x\n'
    assert run(KeyboardInterrupt()) == 130
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError())


def test_progress_is_silent_without_a_terminal(capsys):
    assert list(progress(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ''


def test_table_is_aligned():
    rows = [('', 'images'), ('query', 3), ('gallery', '1,000')]
    assert format_table(rows).splitlines() == ['         images', 'query         3', 'gallery   1,000']
    rows = [('a', 1, 'long name'), ('bcd', 10, '')]
    assert format_table(rows, '><').splitlines() == ['  a  1   long name', 'bcd  10']
