import re

import pytest

from msinet_train.demo import main


@pytest.mark.charts
@pytest.mark.slow
def test_demo(tmp_path, capsys):
    run = tmp_path / 'demo'
    assert main(['--output', str(run), '--epochs', '1']) == 0
    first = capsys.readouterr().out
    header, shipped, trained, *rest = first.splitlines()
    assert header.split() == ['mAP', 'Rank-1', 'Rank-5', 'Rank-10', 'mINP']
    assert shipped.startswith('as shipped ') and trained.startswith('trained for 1 epochs ')
    assert shipped.split()[-5:] != trained.split()[-5:]
    image = re.search(r'ranked lists: (.+)', first)[1]
    assert image == str(run / 'ranked_lists.png') and (run / 'ranked_lists.png').stat().st_size > 10_000

    report = (run / 'report.html').read_text(encoding='utf-8')
    assert f'report:       {run / "report.html"}' in first and 'after 1 epochs</h1>' in report
    assert report.count('class="list"') == 12 and 'python -m msinet_train.demo --output' in report

    # Again: nothing is trained, the same metrics come out.
    assert main(['--output', str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [header, shipped, trained]


def test_wrong_epochs(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(['--output', str(tmp_path / 'demo'), '--epochs', '0'])
    assert error.value.code == 2 and 'at least 1' in capsys.readouterr().err
