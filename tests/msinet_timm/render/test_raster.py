"""What OpenGL draws: masks, shadows, and what is said where it cannot run."""

import functools
import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFilter

from msinet_timm.cli.data import main
from msinet_timm.datasets import create_dataset

TINY = dict(identities=2, cameras=2, images=2, width=32, height=64, seed=3, workers=1)
HELP = ('pip install "msinet-timm[render]"', 'apt-get install libegl1 libgl1-mesa-dri')


def shown(raster, identity=4, camera=2, kind='person', size=(64, 128)):
    """A scene of one person alone, and a function that renders it."""
    from msinet_timm.render.scene import compose

    view, place = raster.place(0, 'street', camera)
    person = functools.partial(raster.person, 0, 'street', size[1])
    scene = compose(person, view, 0, 'street', identity, camera, 0, kind)._replace(others=[])
    return scene, lambda scene: raster.render(scene, view, place, *size)


@pytest.mark.slow
def test_the_mask_is_where_the_person_is(raster):
    scene, render = shown(raster)
    light, alpha = render(scene)
    without, nobody = render(scene._replace(target=None))
    assert (nobody == 0).all() and set(np.unique(alpha)) <= {0, 0.25, 0.5, 0.75, 1}
    assert 0.1 < alpha.mean() < 0.6
    around = Image.fromarray((alpha > 0).astype(np.uint8)).filter(ImageFilter.MaxFilter(9))  # light is smoothed there
    outside = np.asarray(around) == 0
    assert (light[outside] <= without[outside] + 1e-5).all()  # a person only casts shadows there
    assert (np.abs(light - without)[outside].max(1) < 1e-5).mean() > 0.3
    assert (np.abs(light - without)[alpha == 1].max(1) > 1e-3).mean() > 0.9


@pytest.mark.slow
def test_who_stands_before_the_person_is_no_part_of_the_mask(raster):
    from msinet_timm.render.backgrounds import coloured
    from msinet_timm.render.meshes import box

    scene, render = shown(raster)
    free = render(scene)[1]
    middle = scene.target.position.mean(0)
    hidden = render(scene._replace(others=[coloured(box(0.8 * middle, [3, 0.1, 0.5]), 0.3)]))[1]
    assert (hidden <= free).all()
    rows = [(alpha > 0).any(1) for alpha in (free, hidden)]
    lost = rows[0] & ~rows[1]
    assert 0.1 < lost.sum() / rows[0].sum() < 0.6
    assert (free == hidden)[~((free > 0) & (hidden < free))].all()


@pytest.mark.slow
def test_shadows_fall_away_from_the_sun(raster):
    scene, render = shown(raster, camera=1)
    light, alpha = render(scene)
    without, _ = render(scene._replace(target=None))
    dark = (light.sum(2) < 0.8 * without.sum(2)) & (alpha == 0)
    assert dark.mean() > 0.02


@pytest.mark.slow
def test_masks_lie_where_no_reader_looks(raster, tmp_path):
    from msinet_timm.render import render_dataset

    counts = render_dataset(tmp_path, **TINY)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob('*.jpg')}
    render_dataset(tmp_path, **TINY, masks=True)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob('*.jpg')} == before
    masks = {p.relative_to(tmp_path / 'masks').with_suffix('.jpg') for p in tmp_path.rglob('*.png')}
    assert masks == {p.relative_to(tmp_path) for p in before}
    for path in masks:
        with Image.open((tmp_path / 'masks' / path).with_suffix('.png')) as mask:
            assert mask.mode == 'L' and mask.size == (32, 64)
            values = np.asarray(mask)
        if not path.name.startswith('0000'):  # some distractors are places
            assert values.max() > 200 and (values == 0).any()
    dataset = create_dataset('rendered', tmp_path)
    wanted = (counts['train'], counts['query'], counts['gallery'] - counts['junk'])
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == wanted


@pytest.mark.slow
def test_a_place_has_an_empty_mask(raster):
    from msinet_timm.render.image import render_image

    options = dict(seed=0, domain='mall', identity=1, camera=1, index=0, width=32, height=64)
    masks = [render_image(**options, kind=kind, mask=True).mask for kind in ('place', 'person')]
    assert [np.asarray(Image.open(io.BytesIO(mask))).max() > 0 for mask in masks] == [False, True]
    assert render_image(**options, kind='person').mask is None


@pytest.mark.slow
def test_each_renderer_keeps_its_own_things(raster, monkeypatch):
    """Each thread has one, and so have those that come after it: none may take what another one drew."""
    from msinet_timm.render.image import render_image

    def render():
        options = dict(width=32, height=64)
        return [render_image(0, 'street', 4, camera, 0, 'person', **options).image for camera in (1, 2)]

    first = render()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        for pool in (one, two, one):
            assert pool.submit(render).result() == first
            assert render() == first
    monkeypatch.setattr(raster, '_here', threading.local())
    assert render() == first
    monkeypatch.undo()
    assert render() == first
    assert len(set(first)) == 2


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='looks at the threads of a process')
def test_mesa_draws_without_threads_of_its_own(raster):
    """One of them may write to what another has freed, and nothing is gained by them."""
    code = (
        'import glob\n'
        'from msinet_timm.render.image import render_image\n'
        "render_image(0, 'street', 4, 1, 0, 'person', 32, 64)\n"
        "print(*(open(path).read().strip() for path in glob.glob('/proc/self/task/*/comm')))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != 'LP_NUM_THREADS'}
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert 'llvmpipe' not in ran.stdout


@pytest.mark.parametrize('missing', ['moderngl', 'EGL', 'driver'])
def test_what_is_missing_is_said(missing, tmp_path, monkeypatch, capsys):
    pytest.importorskip('moderngl')
    from msinet_timm.render import raster

    def fail(**options):
        raise Exception('eglInitialize failed (0x3001)')

    monkeypatch.setattr(raster, '_here', threading.local())
    if missing == 'moderngl':
        monkeypatch.setitem(sys.modules, 'moderngl', None)
    elif missing == 'EGL':
        monkeypatch.setattr(raster.ctypes.util, 'find_library', lambda name: 'libmissing.so.1')
    else:
        monkeypatch.setattr('moderngl.create_context', fail)
    assert main(['render', '--output', str(tmp_path / 'new')]) == 2
    errors = capsys.readouterr().err
    cause = {'moderngl': 'needs moderngl', 'EGL': 'libmissing.so.1', 'driver': 'eglInitialize failed'}[missing]
    assert cause in errors and all(text in errors for text in HELP) and 'Traceback' not in errors
    assert not (tmp_path / 'new').exists()
