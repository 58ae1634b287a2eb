import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from labelled import named
from PIL import Image

from msinet_eval.evaluation import evaluate, measure
from msinet_eval.features.extract import reid_data_config
from msinet_eval.features.types import Embedded, Features
from msinet_eval.models.baselines import BASELINES
from msinet_eval.report import html
from msinet_eval.report.html import MAX_BYTES, write_report
from msinet_timm.datasets import Protocol, create_dataset
from msinet_timm.drawing import REMOVED, RIGHT, WRONG
from msinet_timm.errors import InputError
from msinet_timm.hub.calibration import Calibration

BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = (
    '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
    '--disable-component-update --disable-sync --hide-scrollbars --force-device-scale-factor=1'
).split()
# what the page looks like to a browser, written where --dump-dom shows it
PROBE = """<script>addEventListener('load', () => {
  const images = [...document.images];
  document.title = `${images.length} ${images.filter(p => p.naturalWidth > 0).length} `
    + `${document.documentElement.scrollWidth} ${innerWidth} ${performance.getEntriesByType('resource')
      .filter(e => !e.name.startsWith('data:')).length}`;
})</script></body>"""


@pytest.fixture(scope='module')
def measured():
    """A short real evaluation: the smallest network, untrained, on the sample."""
    torch.manual_seed(0)
    model = timm.create_model('msinet_x0_25', num_classes=0)
    config, dataset = reid_data_config(model, 64, 32), create_dataset('sample')
    return evaluate(model, dataset, data_config=config, workers=0, name='a small <network>')


@pytest.fixture(scope='module')
def report(measured, tmp_path_factory):
    path = tmp_path_factory.mktemp('report') / 'report.html'
    write_report(path, [measured], command='msinet-eval x & y', chart_files=True)
    return path


def text_of(page):
    return ' '.join(re.sub(r'<style>.*?</style>|<[^>]+>', ' ', page, flags=re.S).split())


def browse(profile, *flags):
    command = [BROWSER, *FLAGS, f'--user-data-dir={profile}', *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason='no browser')
@pytest.mark.parametrize('width', [1240, 500])
def test_report_in_a_browser(report, tmp_path, width):
    probed, image = tmp_path / 'probed.html', tmp_path / 'shot.png'
    page = re.sub('<meta http-equiv=[^>]+>', '', report.read_text(encoding='utf-8')).replace('</body>', PROBE)
    probed.write_text(page, encoding='utf-8')
    dom = browse(tmp_path / 'profile', f'--window-size={width},900', '--dump-dom', probed.as_uri())
    images, loaded, needed, inner, requests = map(int, re.search('<title>(.+)</title>', dom)[1].split())
    assert images == loaded > 100 and requests == 0
    assert needed <= inner  # nothing sticks out to the right

    browse(tmp_path / 'profile', f'--window-size={width},6400', f'--screenshot={image}', report.as_uri())
    with Image.open(image) as shot:
        assert shot.size == (width, 6400)
        pixels = np.asarray(shot.convert('RGB')).reshape(-1, 3)
    counts = {color: int((pixels == color).all(1).sum()) for color in (RIGHT, WRONG, REMOVED)}
    assert all(count > 200 for count in counts.values()), counts
    assert counts[WRONG] > counts[RIGHT]  # it is untrained
    assert len(np.unique(pixels[::7], axis=0)) > 2000  # photographs are there


def test_report_fetches_nothing(report):
    page = report.read_text(encoding='utf-8')
    assert len(page) < MAX_BYTES and "default-src 'none'" in page and '<script' not in page
    sources = re.findall(r'(?:src|href)="([^"]+)"|url\(([^)]+)\)', page)
    assert sources and all(one.startswith('data:image/') and not other for one, other in sources)
    drawings = re.findall(r'data:image/svg\+xml;base64,([^"]+)', page)
    assert len(drawings) == 4
    for drawing in drawings:
        assert not re.search(r'href="(?!#)|url\((?!#)', base64.b64decode(drawing).decode())


def test_report_says_what_was_measured(report, measured):
    page = report.read_text(encoding='utf-8')
    text, ranking = text_of(page), measured.ranking
    assert 'a small &lt;network&gt;' in page and '<network>' not in page and 'msinet-eval x &amp; y' in page
    for figure in (ranking.mAP, ranking.cmc[0], ranking.cmc[4], ranking.cmc[9], ranking.mINP):
        assert f'{100 * figure:.1f}' in text
    assert '100 queries of 50 identities · 360 gallery images of 51 · 6 cameras' in text
    assert 'own identity and camera are removed' in text and 'input_size (3, 64, 32)' in text and 'timm 1.' in text
    for chart in ('CMC', 'Precision and recall', 'Distances of pairs', 'From camera to camera'):
        assert chart in text
    for kind in ('Worst', 'Median', 'Random'):
        assert f'{kind} queries' in text
    assert page.count('class="list"') == 12 and page.count('class="pair"') == 6
    worst = np.nanmin(ranking.average_precision)
    assert re.search(r'AP ([\d.]+) %', text)[1] == f'{100 * worst:.1f}'
    # each list has ten ranks, besides what was removed
    assert len(re.findall(r'<figcaption><b>10</b>', page)) == 12
    assert page.count('<b>removed</b>') == page.count('class="frame removed"') - 1 > 0  # one is in the legend


def test_report_has_charts_beside_it(report):
    names = {path.name for path in report.parent.iterdir()}
    kinds = ('cmc', 'precision_recall', 'distances', 'cameras')
    assert names == {'report.html', *(f'report_{kind}.png' for kind in kinds)}
    for kind in kinds:
        with Image.open(report.with_name(f'report_{kind}.png')) as image:
            assert image.format == 'PNG' and image.width == 920 and len(image.getcolors(10**6)) > 10


def test_the_same_report_twice_is_the_same_file(report, measured, tmp_path):
    write_report(tmp_path / 'again.html', [measured], command='msinet-eval x & y')
    assert (tmp_path / 'again.html').read_bytes() == report.read_bytes()
    write_report(tmp_path / 'other.html', [measured], command='msinet-eval x & y', seed=1)
    assert (tmp_path / 'other.html').read_bytes() != report.read_bytes()


def test_several_models_and_what_is_not_known(measured, tmp_path):
    model = BASELINES['color_histogram']()
    without = [replace(features, cameras=None) for features in (measured.query, measured.gallery)]
    options = dict(queries=3, top=4, title='Two of them')
    Calibration(0.5, 0.001, 0.9, 'a set', 'a model').save(tmp_path)
    about = dict(source={'model': str(tmp_path)}, model=model, data_config=reid_data_config(model))
    second = measure(Embedded(*without), name='second', notes=('a peculiar split',), **about)
    write_report(tmp_path / 'r.html', [measured, second], **options)
    page = (tmp_path / 'r.html').read_text(encoding='utf-8')
    text = text_of(page)
    assert '<h1>Two of them</h1>' in page and 'class="tiles"' not in page
    assert page.count('class="list"') == 2 * 3 * 2 and page.count('From camera to camera</b>') == 1
    assert 'the equal-error threshold' in text and 'the calibrated threshold' in text and 'A peculiar split.' in text
    assert 'Left out: ColorHistogram has no spatial features' in text
    write_report(tmp_path / 'r.html', [replace(second, model=None)], **options)
    assert 'Left out: only embeddings are known' in text_of((tmp_path / 'r.html').read_text(encoding='utf-8'))


def fabricate(folder, queries, gallery, identities, size, count=8):
    """Random features that share a few images of noise, which are as large as images get."""
    rng = np.random.default_rng(0)
    paths = [str(folder / f'{number}.jpg') for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path, quality=95)
    parts = []
    for number in (queries, gallery):
        embeddings = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(number, 6))).float())
        labels = [named(rng.integers(0, high, number)) for high in (identities, 30)]
        parts.append(Features(embeddings, *labels, tuple(paths[i % count] for i in range(number))))
    return parts


def test_fifty_thousand_queries(tmp_path):
    query, gallery = fabricate(tmp_path, 50_000, 100, 100, (32, 16))
    measure(Embedded(query, gallery), name='large').report(tmp_path / 'r.html')
    page = (tmp_path / 'r.html').read_text(encoding='utf-8')
    assert '50,000 queries of 100 identities' in page and len(page) < MAX_BYTES
    assert 'From camera to camera' not in page  # too many to be read


def test_images_are_made_smaller_until_the_report_is_small_enough(tmp_path, monkeypatch):
    query, gallery = fabricate(tmp_path, 20, 30, 5, (300, 150))
    measured = [measure(Embedded(query, gallery), name='noise')]

    def heights():
        write_report(tmp_path / 'r.html', measured, queries=1, top=2)
        page = (tmp_path / 'r.html').read_text(encoding='utf-8')
        found = {base64.b64decode(data) for data in re.findall(r'data:image/jpeg;base64,([^"]+)', page)}
        every = sum(map(len, re.findall('image/jpeg;base64,[^"]+', page)))
        return len(page), every, {Image.open(io.BytesIO(data)).height for data in found}

    size, images, largest = heights()
    assert largest == {192} and size < MAX_BYTES == 5_000_000
    monkeypatch.setattr(html, 'MAX_BYTES', size - images // 2)
    smaller, _, reduced = heights()
    assert smaller <= size - images // 2 and len(reduced) == 1 and max(reduced) < 192
    monkeypatch.setattr(html, 'MAX_BYTES', 10_000)
    with pytest.raises(InputError, match='larger than 5 MB'):
        heights()


def test_drawn_galleries_and_one_identity(tmp_path):
    query, gallery = fabricate(tmp_path, 1, 60, 10, (32, 16))
    evaluation = measure(Embedded(None, gallery), Protocol(draws=3), name='drawn')
    evaluation.report(tmp_path / 'r.html')
    text = text_of((tmp_path / 'r.html').read_text(encoding='utf-8'))
    spread = evaluation.ranking.spread(lambda r: r.mAP)
    assert f'± {100 * spread:.1f} over draws' in text and 'means over 3 random draws' in text

    alone = [replace(f, identities=('anna',) * len(f), cameras=None) for f in (query, gallery)]
    write_report(tmp_path / 'r.html', [measure(Embedded(*alone), name='one')])
    text = text_of((tmp_path / 'r.html').read_text(encoding='utf-8'))
    assert 'Distances of pairs' not in text and 'CMC' in text and 'nan' not in text


def test_bad_input(measured, tmp_path, monkeypatch):
    with pytest.raises(InputError, match='at least one evaluation'):
        write_report(tmp_path / 'r.html', [])
    with pytest.raises(InputError, match='cannot write the page'):
        write_report(tmp_path / 'nowhere' / 'r.html', [measured])
    lost = replace(measured, query=replace(measured.query, paths=('gone.jpg',) * 100))
    with pytest.raises(InputError, match='gone.jpg'):
        write_report(tmp_path / 'r.html', [lost])
    monkeypatch.setitem(__import__('sys').modules, 'matplotlib', None)
    with pytest.raises(InputError, match=re.escape('pip install "msinet-timm[plot]"')):
        write_report(tmp_path / 'r.html', [measured])


def test_results_of_one_table_have_the_same_ranks(measured, tmp_path):
    other = replace(measured, settings=replace(measured.settings, ranks=[1, 20]))
    with pytest.raises(InputError, match=r'evaluate with the same `ranks`, not \[1, 5, 10\] and \[1, 20\]'):
        write_report(tmp_path / 'r.html', [measured, other])
