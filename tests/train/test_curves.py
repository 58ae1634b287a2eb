import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from msinet_train import curves
from msinet_train.curves import main, write_comparison

pytestmark = pytest.mark.charts


def run(folder, mAP, first=0):
    """A run folder that was measured after every epoch."""
    folder.mkdir()
    rows = [f'{first + k},0.1,0.01,{value}' for k, value in enumerate(mAP)]
    (folder / 'summary.csv').write_text('\n'.join(['epoch,train_loss,train_lr,eval_mAP', *rows]) + '\n')
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the last figure."""
    figures = []
    create = curves.create_figure
    monkeypatch.setattr(curves, 'create_figure', lambda size: figures.append(create(size)) or figures[-1])
    return lambda: figures[-1].axes[0]


def test_runs_of_one_name_are_a_mean_and_a_range(tmp_path, drawn):
    a = [run(tmp_path / 'a0', [0.1, 0.2, 0.5]), run(tmp_path / 'a1', [0.3, 0.4, 0.5])]
    b = run(tmp_path / 'b', [0.6, 0.7], first=1)
    image = tmp_path / 'out.png'
    main([f'scratch={a[0]},{a[1]}', f'tuned={b}', '--output', str(image)])
    assert imread(image).shape[:2] == (400, 700)
    mean, single = drawn().lines
    np.testing.assert_allclose(mean.get_xydata(), [[1, 20], [2, 30], [3, 50]])
    np.testing.assert_allclose(single.get_xydata(), [[2, 60], [3, 70]])
    band = drawn().collections[0].get_paths()[0].vertices
    assert {(1, 10), (1, 30), (2, 20), (2, 40), (3, 50)} <= {tuple(np.round(v, 6)) for v in band}
    assert [t.get_text() for t in drawn().get_legend().get_texts()] == ['scratch (2 runs)', 'tuned']


def test_only_epochs_that_all_have_measured_count(tmp_path, drawn):
    groups = {'a': [run(tmp_path / 'a0', [0.1, 0.2]), run(tmp_path / 'a1', [0.4, 0.6], first=1)]}
    write_comparison(groups, tmp_path / 'out.png')
    np.testing.assert_allclose(drawn().lines[0].get_xydata(), [[2, 30]])


@pytest.mark.parametrize(
    ('group', 'flags', 'message'),
    [
        ('a=nowhere', [], 'nowhere: no run there (summary.csv is missing or empty)'),
        ('a=run', ['--column', 'eval_mINP'], 'run/summary.csv: nothing in the column eval_mINP; it has epoch'),
        ('run', [], 'run: write NAME=RUN or NAME=RUN,RUN,...'),
    ],
)
def test_wrong_runs_are_named(tmp_path, monkeypatch, capsys, group, flags, message):
    monkeypatch.chdir(tmp_path)
    run(tmp_path / 'run', [0.1])
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main([group, *flags]))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'curves.png').exists()


def test_curves_of_one_run(tmp_path):
    curves.write_curves(run(tmp_path / 'run', [0.1, 0.2]) / 'summary.csv', tmp_path / 'curves.png')
    assert Image.open(tmp_path / 'curves.png').width == 1500
