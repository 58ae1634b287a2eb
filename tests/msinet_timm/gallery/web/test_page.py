"""The page of a gallery in a browser: rendered people, whom the weights have never seen, are looked for and erased."""

import re
import shutil
import sys
import time

import pytest
from serving import serving

from msinet_timm.datasets import create_dataset
from msinet_timm.gallery import Gallery

sync_api = pytest.importorskip('playwright.sync_api')
BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason='no browser')

MODEL = 'msinet_x1_0.rendered_128x64'
TOKEN = 'a token of many characters'
HOSTILE = '<script>document.title="hostile"</script>'
NAMES = dict(zip('123456', ('door', 'yard', 'hall', HOSTILE, 'ramp', 'lift'), strict=True))
START = 1_777_640_400  # 2026-05-01T13:00:00Z
QUERIES = {record.identity: record for record in create_dataset('sample').query}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """The sample's people as tracklets, each of one camera; distractors have tracklets of their own."""
    folder = tmp_path_factory.mktemp('made') / 'people.gallery'
    records = create_dataset('sample').gallery
    with Gallery(folder, MODEL) as gallery:
        gallery.add_crops(
            [record.path for record in records],
            camera=[NAMES[record.camera] for record in records],
            time=[START + 60 * int(record.identity) + int(record.camera) for record in records],
            tracklet=[
                f'{record.identity}/{record.camera}' if record.identity in QUERIES else f'nobody/{place}'
                for place, record in enumerate(records)
            ],
        )
    return folder


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=['--no-sandbox', '--disable-gpu'])
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def shared(made):
    """A server for tests that change nothing."""
    with Gallery(shutil.copytree(made, made.parent / 'shared' / made.name)) as gallery, serving(gallery) as client:
        yield client


@pytest.fixture
def visit(browser):
    """Opens the page of a server, and looks afterwards whether it has asked other hosts or had errors."""
    contexts, found = [], []

    def open_page(client, **options):
        context = browser.new_context(base_url=str(client.base_url), locale='en-GB', timezone_id='UTC', **options)
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on('request', lambda request: found.append(request.url))
        page.on('pageerror', lambda error: found.append(f'error: {error}'))
        page.on('console', lambda message: 'Content Security' in message.text and found.append(message.text))
        page.on('dialog', lambda dialog: found.append(f'a dialog: {dialog.message}'))
        if page.goto('/').status == 200:
            page.wait_for_selector('#camera-list label')
        return page

    yield open_page
    for context in contexts:
        context.close()
    strange = [text for text in found if not re.match(r'http://127\.0\.0\.1:\d+/|blob:http://127\.0\.0\.1:\d+/', text)]
    assert not strange


def until(page, truth):
    """Waits for what JavaScript says; the page's policy forbids Playwright's own way, which is by `eval`."""
    end = time.monotonic() + 120
    while not page.evaluate(truth):
        assert time.monotonic() < end, truth
        page.wait_for_timeout(20)


def look(page, image=None):
    """Looks for an image; gives the tracklets that are shown, nearest first."""
    if image is not None:
        page.set_input_files('#file', image)
    with page.expect_response('**/api/search*') as answer:
        page.click('#search')
    if not answer.value.ok:
        page.wait_for_selector('#error:not([hidden])')
        return []
    until(page, "document.getElementById('status').textContent.match(/found/)")
    return page.locator('#found > li').evaluate_all('items => items.map(item => item.dataset.tracklet)')


def shown(page):
    return page.locator('#found .head h3').all_inner_texts()


@pytest.mark.slow
def test_the_right_one_is_first(shared, visit):
    """For three of four people, whom no weights have been trained on; crops of the query's camera are there, too."""
    page = visit(shared, viewport={'width': 800, 'height': 600})
    page.fill('#count', '3')
    right = 0
    for identity, record in QUERIES.items():
        names = look(page, record.path)
        assert shown(page) == names and len(names) == 3
        right += names[0].split('/')[0] == identity
    assert len(QUERIES) == 50 and right >= 38


def test_an_erasure_is_gone_after_reload(made, tmp_path, visit):
    record = QUERIES['22']
    with Gallery(shutil.copytree(made, tmp_path / made.name)) as gallery, serving(gallery) as client:
        page = visit(client)
        first = look(page, record.path)[0]
        assert first.startswith('22/')
        count = gallery.stats()['tracklets']
        assert f'{count} tracklets' in page.inner_text('#facts')
        erase = page.locator('#found > li').first.locator('button.danger')
        erase.click()
        assert first in page.inner_text('#erase')
        page.keyboard.press('Enter')  # "Keep" is what the keys are on
        page.wait_for_selector('#erase', state='hidden')
        assert shown(page)[0] == first and len(gallery.tracklets()) == count
        erase.click()
        page.click('#erase button.danger')
        until(page, "document.getElementById('status').textContent.match(/erased\\.$/)")
        assert first not in shown(page)
        page.reload()
        page.wait_for_selector('#camera-list label')
        assert f'{count - 1} tracklets' in page.inner_text('#facts') and shown(page) == []
        assert first not in look(page, record.path)
        page.click('#log summary')
        page.wait_for_selector('#entries tr')
        actions = page.locator('#entries tr td:nth-child(2)').all_inner_texts()
        assert actions == ['search', 'erase', 'search']


def test_the_same_one_is_merged_and_erased_as_a_whole(made, tmp_path, visit):
    record = QUERIES['22']
    with Gallery(shutil.copytree(made, tmp_path / made.name)) as gallery, serving(gallery) as client:
        page = visit(client)
        names = look(page, record.path)[:3]
        boxes = page.locator('#found input[type=checkbox]')
        boxes.nth(0).check()
        assert page.locator('#merge').is_disabled()
        boxes.nth(1).check()
        boxes.nth(2).check()
        page.click('#merge')
        page.click('#join button.main')
        until(page, "document.getElementById('status').textContent.match(/are person-1 now/)")
        assert shown(page)[:3] == ['person-1'] * 3 and page.locator('#bar').is_hidden()
        assert {s.tracklet for s in gallery.tracklets(identity='person-1')} == set(names)
        page.reload()
        page.wait_for_selector('#camera-list label')
        look(page, record.path)
        assert shown(page)[:3] == ['person-1'] * 3
        page.locator('#found button.danger').first.click()
        page.get_by_label('All of person-1, in all tracklets').check()
        page.click('#erase button.danger')
        until(page, "document.getElementById('status').textContent.match(/erased\\.$/)")
        assert 'person-1' not in shown(page) and not {s.tracklet for s in gallery.tracklets()} & set(names)


def test_an_older_search_leaves_the_newer_one_busy(shared, visit):
    page = visit(shared)
    page.set_input_files('#file', QUERIES['22'].path)
    held = []
    page.route('**/api/search*', lambda route: held.append(route))
    page.click('#search')
    page.click('#search')
    until_here = time.monotonic() + 120
    while len(held) < 2 and time.monotonic() < until_here:
        page.wait_for_timeout(20)
    with page.expect_response('**/api/search*') as answer:
        held[0].continue_()
    answer.value.finished()
    page.wait_for_timeout(200)  # for what the page does with it
    assert page.evaluate('document.body.className') == 'busy'
    held[1].continue_()
    until(page, "document.body.className === ''")


def test_what_is_not_overwritten_yet_is_told(shared, visit):
    page = visit(shared)
    look(page, QUERIES['22'].path)
    page.route('**/api/crops?*', lambda route: route.fulfill(json={'crops': 3, 'settled': False}))
    page.locator('#found button.danger').first.click()
    page.click('#erase button.danger')
    until(page, "document.getElementById('status').textContent.match(/erased/)")
    assert page.inner_text('#status') == '3 crops erased; their bytes may still be on the disk, see the log.'


def test_names_stay_text(shared, visit):
    page = visit(shared)
    assert HOSTILE in page.inner_text('#camera-list')
    page.get_by_label(HOSTILE).check()
    assert look(page, QUERIES['22'].path)
    assert page.locator('#found .facts .camera').all_inner_texts() == [HOSTILE] * 10
    assert page.locator('#lanes .camera').inner_text() == HOSTILE
    assert page.evaluate('document.scripts.length') == 1 and page.title() == 'people.gallery'


def test_what_is_no_image_is_refused(shared, visit, tmp_path):
    page = visit(shared)
    large = tmp_path / 'large.jpg'
    with large.open('wb') as file:
        file.truncate(100 * 2**20)
    page.set_input_files('#file', large)
    assert page.inner_text('#error') == 'large.jpg has 100 MB: an image may have 20 MB.'
    assert page.locator('#search').is_disabled()
    renamed = tmp_path / 'renamed.jpg'
    with open(sys.executable, 'rb') as file:
        renamed.write_bytes(file.read(2**20))
    assert look(page, renamed) == []
    assert 'cannot read this image (it is none of JPEG, PNG' in page.inner_text('#error')
    assert look(page, QUERIES['22'].path)[0].startswith('22/')  # and it goes on
    assert page.locator('#error').is_hidden()


def test_a_part_by_pointer_and_keys(shared, visit):
    page = visit(shared)
    page.set_input_files('#file', QUERIES['22'].path)
    until(page, "document.getElementById('preview').naturalWidth")
    assert page.inner_text('#part') == 'The whole image.'
    place = page.locator('#preview').bounding_box()
    page.mouse.move(place['x'] + 0.25 * place['width'], place['y'] + 0.25 * place['height'])
    page.mouse.down()
    page.mouse.move(place['x'] + 0.75 * place['width'], place['y'] + 0.5 * place['height'], steps=3)
    page.mouse.up()
    width, height = page.evaluate('[preview.naturalWidth, preview.naturalHeight]')
    asked = []
    page.on('request', lambda request: 'search' in request.url and asked.append(request.url))
    look(page)
    box = [int(v) for v in re.search(r'box=(\d+)%2C(\d+)%2C(\d+)%2C(\d+)', asked[0]).groups()]
    assert box == pytest.approx([width / 4, height / 4, 3 * width / 4, height / 2], abs=1)
    page.click('#whole')
    page.focus('#stage')
    for key in ('ArrowDown', 'ArrowDown', 'ArrowLeft', 'Shift+ArrowDown', 'Shift+ArrowLeft'):
        page.keyboard.press(key)
    numbers = [int(v) for v in re.findall(r'\d+', page.inner_text('#part'))]
    steps = [max(1, width / 50), max(1, height / 50)]
    expected = [width / 2 - steps[0], height / 2 + steps[1], width / 4 - steps[0], height / 4 + steps[1]]
    assert numbers == pytest.approx(expected, abs=2)
    page.keyboard.press('Escape')
    assert page.inner_text('#part') == 'The whole image.'


def test_by_keys_alone(shared, visit):
    page = visit(shared)
    page.on('filechooser', lambda chooser: None)  # choosing is intercepted from now on, and not only from the key on
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.className') == 'skip'
    page.keyboard.press('Tab')
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.id') == 'file'
    with page.expect_file_chooser() as chooser:
        page.keyboard.press('Enter')
    chooser.value.set_files(QUERIES['22'].path)
    until(page, "document.activeElement.id === 'search'")
    page.keyboard.press('Enter')
    page.wait_for_selector('#found li')
    until(page, "document.activeElement.id === 'found'")
    page.keyboard.press('Tab')
    reached = set()
    for _ in range(12):
        reached.add(page.evaluate('document.activeElement.type || document.activeElement.className'))
        page.keyboard.press('Tab')
    assert {'checkbox', 'button'} <= reached


@pytest.mark.parametrize('way', ['paste', 'drop'])
def test_paste_and_drop(shared, visit, way):
    page = visit(shared)
    page.set_input_files('#file', QUERIES['22'].path)
    page.evaluate(
        """async way => {
          const bytes = await (await fetch('icon.svg')).blob();
          const data = new DataTransfer();
          data.items.add(new File([bytes], 'pasted.svg', {type: 'image/svg+xml'}));
          const event = way === 'paste' ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
            : new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true});
          document.body.dispatchEvent(event);
        }""",
        way,
    )
    assert look(page) == []
    assert 'it is none of JPEG' in page.inner_text('#error')  # what was pasted is what is sent


def test_filters_and_time_line(shared, visit):
    page = visit(shared)
    page.get_by_label('door').check()
    page.fill('#since', '2026-05-01T13:20')
    page.fill('#until', '2026-05-01T13:30')
    page.fill('#count', '3')
    names = look(page, QUERIES['22'].path)
    assert len(names) == 3 and all(name.endswith('/1') for name in names)
    assert page.locator('#lanes .mark').count() == 3
    assert page.locator('#lanes .camera').all_inner_texts() == ['door']
    place = names.index(min(names, key=lambda name: int(name.split('/')[0])))
    page.locator('#lanes .mark').filter(has_text=re.compile(f'^{place + 1}$')).click()
    assert page.url.endswith(f'#found-{place + 1}')


@pytest.mark.parametrize('scheme, width', [('light', 360), ('dark', 1280)])
def test_on_phones_and_by_night(shared, visit, scheme, width):
    page = visit(shared, viewport={'width': width, 'height': 740}, color_scheme=scheme)
    look(page, QUERIES['22'].path)
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    paper, ink = page.evaluate(
        """['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name].match(/\\d+/g)
           .reduce((sum, value) => sum + Number(value), 0))"""
    )
    assert (paper > ink) == (scheme == 'light') and abs(paper - ink) > 450
    images = page.locator('#found img')
    images.first.scroll_into_view_if_needed()
    until(page, "document.querySelector('#found img').naturalWidth")


def test_with_a_token(made, tmp_path, visit):
    with Gallery(shutil.copytree(made, tmp_path / made.name)) as gallery, serving(gallery, TOKEN) as client:
        refused = client.get('/')
        assert refused.status_code == 401 and '<' not in refused.text
        page = visit(client, http_credentials={'username': 'me', 'password': TOKEN})
        assert look(page, QUERIES['22'].path)[0].startswith('22/')
        until(page, "document.querySelector('#found img').naturalWidth")
