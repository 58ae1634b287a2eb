"""The charts of a report: what their legends and labels say."""

import numpy as np
import pytest

pytest.importorskip('matplotlib')

from msinet_eval.report.charts import draw_cmc, draw_precision_recall, to_svg

NAMES = ['_best', 'at $5 and $6', 'plain']


@pytest.mark.parametrize(
    'figure',
    [
        lambda: draw_cmc([(name, np.linspace(0.5, 1, 5)) for name in NAMES]),
        lambda: draw_precision_recall([(name, np.linspace(0, 1, 5), np.linspace(1, 0, 5)) for name in NAMES]),
    ],
)
def test_legends_show_names_as_they_are(figure):
    figure = figure()
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == NAMES
    colors = [handle.get_color() for handle in legend.legend_handles]
    curves = [line.get_color() for line in figure.axes[0].lines if line.get_marker() == 'None']
    assert colors == curves and len(set(colors)) == len(NAMES)
    drawn = to_svg(figure).decode()
    assert all(f'>{name}</text>' in drawn for name in NAMES)


@pytest.mark.parametrize('rank1', [0.5, 0.99])
def test_ticks_of_the_cmc_leave_its_label_room(rank1):
    ticks = draw_cmc([('model', np.linspace(rank1, 1, 50))]).axes[0].get_yticks()
    assert len(ticks) > 3 and all(tick == int(tick) for tick in ticks)
