"""Images that cannot be used, or not as they are: one conversion for files and programs, and nothing ever waits."""

import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hostile import refused, run
from PIL import EpsImagePlugin, Image, ImageOps

from msinet_eval.cli import main as evaluate
from msinet_eval.commands.hub import main as hub
from msinet_eval.features.types import Features
from msinet_timm.cli.data import main as data
from msinet_timm.datasets import Record, create_dataset
from msinet_timm.datasets.archive import open_shard, read_image
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import FORMATS, load_image
from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(sys.platform == 'win32', reason='no such files')]


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=0, pretrained_cfg_overlay=dict(input_size=(3, 64, 32)))


@pytest.fixture
def embedder(model):
    return Embedder(model, 'cpu')


@pytest.fixture(scope='module')
def pixels():
    """Three crops [32, 16, 3] of 16 bits, whose upper 8 are all there is of them."""
    return np.random.default_rng(0).integers(0, 256, (3, 32, 16, 3), np.uint16) << 8


def grey(pixels):
    return pixels[..., 0]


def eight(pixels):
    return (pixels >> 8).astype(np.uint8)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def palette(image, **options):
    return image.convert('P'), options


# Name of the file -> image of pixels, and how it is saved.
KINDS = {
    'deep.png': lambda p: (Image.fromarray(grey(p)), {}),
    'deep.tif': lambda p: (Image.fromarray(grey(p)), {}),
    'deep.pgm': lambda p: (Image.fromarray(grey(p)), {}),
    'deep.jp2': lambda p: (Image.fromarray(grey(p)), {}),
    'big_endian.tif': lambda p: (Image.fromarray(grey(p).astype('>u2')), {}),
    'long.tif': lambda p: (Image.fromarray(grey(p).astype(np.int32)), {}),
    'palette.png': lambda p: palette(Image.fromarray(eight(p))),
    'palette.gif': lambda p: palette(Image.fromarray(eight(p))),
    'transparent.png': lambda p: palette(Image.fromarray(eight(p)), transparency=bytes([0, 128])),
    'alpha.png': lambda p: (Image.fromarray(np.dstack([eight(p), grey(eight(p))])), {}),
    'grey_alpha.png': lambda p: (Image.fromarray(eight(p)).convert('LA'), {}),
    'print.jpg': lambda p: (Image.fromarray(eight(p)).convert('CMYK'), {}),
    'video.tif': lambda p: (Image.fromarray(eight(p)).convert('YCbCr'), {}),
    'lab.tif': lambda p: (Image.merge('LAB', Image.fromarray(eight(p)).split()), {}),
    'bits.png': lambda p: (Image.fromarray(eight(p)).convert('1'), {}),
    'grey.jpg': lambda p: (Image.fromarray(eight(p)).convert('L'), {}),
    'turned.jpg': lambda p: (Image.fromarray(eight(p)), {'exif': turned()}),
    'turned_deep.png': lambda p: (Image.fromarray(grey(p)), {'exif': turned()}),
    'plain.webp': lambda p: (Image.fromarray(eight(p)), {'lossless': True}),
    'plain.bmp': lambda p: (Image.fromarray(eight(p)), {}),
}


@pytest.mark.parametrize('name', KINDS)
def test_a_file_and_its_opened_image(embedder, pixels, tmp_path, name):
    paths = []
    for number, one in enumerate(pixels):
        image, options = KINDS[name](one)
        paths.append(tmp_path / f'{number}_{name}')
        image.save(paths[-1], **options)
    expected = embedder(paths)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    opened = [Image.open(path) for path in paths]
    np.testing.assert_array_equal(embedder(opened), expected)
    np.testing.assert_array_equal(embedder(opened), expected)  # as it was, also where it has been decoded
    np.testing.assert_array_equal(embedder([np.asarray(load_image(str(path))) for path in paths]), expected)
    embedder.adapt({'files': paths, 'images': opened})
    embedder.observe('seen files', paths)
    embedder.observe('seen images', opened)
    by_camera = [embedder(paths, name) for name in ('files', 'images', 'seen files', 'seen images')]
    for found in by_camera[1:]:
        np.testing.assert_array_equal(found, by_camera[0])


def test_16_bits_keep_the_upper_8(embedder, pixels):
    expected = embedder(eight(pixels))
    np.testing.assert_array_equal(embedder(pixels), expected)
    np.testing.assert_array_equal(embedder(pixels.astype('>u2')), expected)
    np.testing.assert_array_equal(embedder(torch.tensor(pixels).permute(0, 3, 1, 2)), expected)
    frame, boxes = np.concatenate(list(pixels), axis=1), [[0, 0, 16, 32], [16, 0, 32, 32], [32, 0, 48, 32]]
    np.testing.assert_array_equal(embedder.crops(frame, boxes), embedder.crops(eight(frame), boxes))
    np.testing.assert_array_equal(embedder.crops(frame, boxes, bgr=True), embedder.crops(eight(frame), boxes, bgr=True))
    embedder.adapt({'wide': pixels, 'narrow': eight(pixels)})
    np.testing.assert_array_equal(embedder(pixels, 'wide'), embedder(pixels, 'narrow'))
    black = np.zeros((1, 32, 16, 3), np.uint16)
    np.testing.assert_array_equal(embedder(black), embedder(eight(black)))


def test_turned_once(embedder, pixels, tmp_path):
    """An image that Pillow has turned upright stays so."""
    Image.fromarray(eight(pixels[0])).save(tmp_path / 'x.png', exif=turned())
    image, whole = Image.open(tmp_path / 'x.png'), (0, 0, 16, 32)
    upright = np.rot90(np.asarray(image), -1)
    for one in (image, image.crop(whole), ImageOps.exif_transpose(image)):
        np.testing.assert_array_equal(embedder([one]), embedder([upright]))


RANDOM = np.random.default_rng(0)
#: What may mean one thing or another -> words of its message.
AMBIGUOUS = {
    'float32': (RANDOM.random((8, 4, 3), np.float32), 'uint8.* float32'),
    'float64': (255 * RANDOM.random((8, 4, 3)), 'uint8.* float64'),
    'float16': (RANDOM.random((8, 4, 3)).astype(np.float16), 'uint8.* float16'),
    'int64': (RANDOM.integers(0, 256, (8, 4, 3)), 'uint8.* int64'),
    'int32': (RANDOM.integers(0, 256, (8, 4, 3), np.int32), 'uint8.* int32'),
    'bool': (RANDOM.random((8, 4, 3)) > 0.5, 'uint8.* bool'),
    'object': (np.full((8, 4, 3), None), 'uint8.* object'),
    'uint16': (RANDOM.integers(1, 256, (8, 4, 3), np.uint16), '255.*16 bits.*uint8'),
    'grey uint16': (RANDOM.integers(0, 60000, (8, 4), np.uint16), r'\[8, 4\] uint16.*Image.fromarray'),
    'four channels': (np.zeros((8, 4, 4), np.uint8), r'\[8, 4, 4\] uint8'),
    'tensor': (torch.rand(3, 8, 4), 'uint8.*float32'),
    'bf16 tensor': (torch.rand(3, 8, 4, dtype=torch.bfloat16), 'uint8.*bfloat16'),
    'uint16 tensor': (torch.full((3, 8, 4), 255).to(torch.uint16), '255.*16 bits.*uint8'),
    'F': (Image.fromarray(RANDOM.random((8, 4), np.float32)), 'fractional numbers.*8 bits'),
    'I': (Image.fromarray(RANDOM.integers(1, 256, (8, 4), np.int32)), 'above 255.*8 bits'),
    'I beyond': (Image.fromarray(np.full((8, 4), 1 << 16, np.int32)), 'beyond 16 bits.*8 bits'),
    'negative I': (Image.fromarray(np.full((8, 4), -1, np.int32)), 'beyond 16 bits.*8 bits'),
    'empty': (Image.new('RGB', (0, 4)), 'no pixels'),
}


@pytest.mark.parametrize('name', AMBIGUOUS)
def test_ambiguous_numbers(embedder, name):
    image, words = AMBIGUOUS[name]
    with pytest.raises(InputError, match=f'^image 0.*{words}'):
        embedder([image])
    with pytest.raises(InputError, match=f"^camera 'a': image 0.*{words}"):
        embedder.adapt({'a': [image]})
    with pytest.raises(InputError, match=f"^camera 'a': image 0.*{words}"):
        embedder.observe('a', [image])
    if isinstance(image, np.ndarray):
        with pytest.raises(InputError, match=f'^the frame.*{words}'):
            embedder.crops(image, [[0, 0, 2, 2]])


def test_opened_images_that_are_broken(embedder, tmp_path):
    Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / 'a.jpg')
    (tmp_path / 'a.jpg').write_bytes((tmp_path / 'a.jpg').read_bytes()[:900])
    with pytest.raises(InputError, match='^image 0: cannot read this image.*truncated'):
        embedder([Image.open(tmp_path / 'a.jpg')])
    closed = Image.open(tmp_path / 'a.jpg')
    closed.close()
    with pytest.raises(InputError, match='^image 0: cannot read this image'):
        embedder([closed])


def make(kind, path):
    """A file that is none; gives what has to be kept meanwhile."""
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'empty':
        path.touch()
    elif kind == 'loop':
        path.symlink_to(path.name)
    elif kind == 'socket':
        here = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            server = socket.socket(socket.AF_UNIX)
            server.bind(path.name)
        finally:
            os.chdir(here)
        return server
    else:
        path.symlink_to(kind)
    return None


NONE = ['pipe', 'folder', 'socket', 'empty', 'loop', '/dev/zero', '/dev/null', '/proc/kmsg', 'missing']
WORDS = {'pipe': 'a pipe', 'folder': 'a folder', 'socket': 'a socket', 'empty': 'empty', '/proc/kmsg': 'empty'}
WORDS |= {'/dev/zero': 'a device', '/dev/null': 'a device', 'loop': 'symbolic links', 'missing': 'No such file'}


@pytest.mark.parametrize('kind', NONE)
def test_only_files_are_opened(embedder, tmp_path, kind):
    kept = make(kind, tmp_path / 'x.jpg')
    path, words = str(tmp_path / 'x.jpg'), WORDS[kind]
    with pytest.raises(InputError, match=f'^{path}: cannot read this image .*{words}'):
        load_image(path)
    for call in (embedder, lambda images: embedder.adapt({'a': images}), lambda images: embedder.observe('a', images)):
        with pytest.raises(InputError, match=f'x.jpg: .*{words}'):
            call([path])
    with pytest.raises(OSError, match=words):
        read_image(path)
    shard = str(tmp_path / 'x.tar')
    (tmp_path / 'x.jpg').rename(shard)
    if kind not in ('folder', 'loop'):
        with pytest.raises(InputError, match=f'x.tar/0.jpg: .*{words}'):
            load_image(f'{shard}/0.jpg')
    if kind not in ('loop', 'empty', '/proc/kmsg'):
        with pytest.raises(OSError, match=words), open_shard(shard):
            pass
    del kept


@pytest.fixture
def people(tmp_path, monkeypatch):
    """A folder of people in `people`, one of whose images is of another kind."""
    monkeypatch.chdir(tmp_path)

    def write(kind):
        for place in 'train/0/a train/0/b train/1/a train/1/b query/2/a gallery/2/b gallery/3/a'.split():
            folder = Path('people', place)
            folder.mkdir(parents=True)
            Image.fromarray(RANDOM.integers(0, 256, (48, 24, 3), np.uint8)).save(folder / '1.jpg')
        return make(kind, Path('people/gallery/2/b/x.jpg'))

    return write


@pytest.mark.parametrize('kind', ['pipe', '/dev/zero'])
def test_commands_open_files_alone(people, capsys, caplog, kind):
    people(kind)
    names = ['gallery/2/b/x.jpg', WORDS[kind]]
    flags = 'color_histogram', '-ds', 'folder', '--data-dir', 'people', '--workers', 0
    refused(capsys, evaluate, *flags, names=names)
    code, text = run(capsys, evaluate, *flags, '--skip-broken')
    assert code == 0 and all(name in caplog.text for name in names), text
    bad, good = 'people/gallery/2/b/x.jpg', 'people/gallery/2/b/1.jpg'
    refused(capsys, evaluate, 'pair', bad, good, '--model', 'color_histogram', '--threshold', 1, names=names)
    code, text = run(capsys, data, 'check', 'folder', 'people', '--contact-sheet', 's.png')
    assert code == 1 and all(name in text for name in names) and 'Traceback' not in text
    for layout in ('folder', 'market1501', 'shards'):
        refused(capsys, data, 'convert', 'folder', 'people', '--to', layout, '--output', f'as_{layout}', names=names)
    config = {'input_size': (3, 32, 16), 'interpolation': 'bilinear', 'mean': (0,) * 3, 'std': (1,) * 3}
    with pytest.raises(InputError, match=f'{bad}: .*{WORDS[kind]}'):
        ImageCache('memory').images(create_dataset('folder', 'people').gallery, config)
    for part, record in (('q', Record(good, 'a', 'a')), ('g', Record(bad, 'a', 'b'))):
        Features.of([record], torch.eye(1)).save(f'{part}.safetensors')
    for report in (('--ranked-lists', 'l.png'), ('--html', 'r.html')):
        refused(capsys, evaluate, '--embeddings', 'q.safetensors', 'g.safetensors', *report, names=names)


@pytest.mark.parametrize('kind', ['pipe', '/dev/zero'])
def test_shards_are_files(tmp_path, capsys, kind):
    make(kind, tmp_path / 'query-000000.tar')
    argv = 'color_histogram', '-ds', 'shards', '--data-dir', tmp_path, '--workers', 0
    refused(capsys, evaluate, *argv, names=['query-000000.tar', WORDS[kind]])


def test_nothing_reaches_ghostscript(tmp_path, monkeypatch):
    """Only formats that are images are tried, whatever a file is named."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *a, **k: started.append(1) or Image.new('RGB', (9, 9)).im)
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n'
    for name, content in {'x.jpg': eps, 'x.eps': eps, 'y.png': b'%!PS' + eps[4:], 'z.jpg': b'%PDF-1.4\n%%EOF'}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f'{name}: cannot read this image .*JPEG.*PNG.*TIFF'):
            load_image(str(tmp_path / name))
        with pytest.raises(InputError, match=f'{name}: cannot read this image'):
            load_image(str(tmp_path / name), content=content)
    assert not started


def test_formats(tmp_path):
    image = Image.new('RGB', (16, 8), (10, 200, 30))
    for format in [*FORMATS, 'MPO']:
        image.save(tmp_path / 'x.jpg', format=format)
        assert load_image(str(tmp_path / 'x.jpg')).size == (16, 8)
    for format in ('ICO', 'TGA', 'PCX', 'SGI', 'DDS', 'PDF'):
        image.save(tmp_path / 'x.jpg', format=format)
        with pytest.raises(InputError, match='x.jpg: cannot read this image'):
            load_image(str(tmp_path / 'x.jpg'))


def test_one_place_opens_images():
    """Nothing in the packages goes around `load_image`."""
    import msinet_eval
    import msinet_timm
    import msinet_train

    places = [Path(package.__file__).parent for package in (msinet_timm, msinet_eval, msinet_train)]
    found = [path for place in places for path in place.rglob('*.py') if re.search(r'Image\.open\(', path.read_text())]
    assert [path.name for path in found] == ['images.py']


FRAME = RANDOM.integers(0, 256, (40, 60, 3), np.uint8)
GOOD = [[0, 0, 20, 40], [20, 5, 60, 40], [-9, 3.5, 12, 99]]
BAD = {
    'empty': [5, 5, 5, 20],
    'turned': [20, 20, 5, 5],
    'outside': [60, 0, 90, 40],
    'above': [0, -20, 30, 0],
    'nan': [float('nan'), 0, 20, 20],
    'inf': [0, 0, float('inf'), 20],
    'all nan': [float('nan')] * 4,
}


@pytest.mark.parametrize('name', BAD)
def test_one_bad_box(embedder, name):
    embedder.adapt({'door': [FRAME[:, :20], FRAME[:, 20:40], FRAME[:, 40:]]})
    expected = {camera: embedder.crops(FRAME, GOOD, camera=camera) for camera in (None, 'door')}
    assert np.abs(expected[None] - expected['door']).max() > 1e-3
    boxes = [GOOD[0], BAD[name], *GOOD[1:], BAD[name]]
    for kind in (boxes, np.array(boxes), torch.tensor(boxes)):
        for camera, right in expected.items():
            found = embedder.crops(FRAME, kind, camera=camera, invalid='nan')
            assert found.dtype == np.float32 and np.isnan(found[[1, 4]]).all()
            np.testing.assert_array_equal(found[[0, 2, 3]], right)
        with pytest.raises(InputError, match='^box 1 .*invalid='):
            embedder.crops(FRAME, kind)
        with pytest.raises(InputError, match='^box 1 '):
            embedder.crops(FRAME, kind, invalid='error')
    found = embedder.crops(FRAME[..., ::-1], boxes, bgr=True, invalid='nan')
    np.testing.assert_array_equal(found[[0, 2, 3]], expected[None])
    assert np.isnan(embedder.crops(FRAME, [BAD[name]] * 2, invalid='nan')).all()
    assert embedder.crops(FRAME, [], invalid='nan').shape == (0, embedder.size)


def test_what_to_do_with_bad_boxes(embedder):
    with pytest.raises(InputError, match="invalid .*'error'.*'nan'.*'skip'"):
        embedder.crops(FRAME, GOOD, invalid='skip')
    for boxes in ([['a', 0, 1, 1]], [[None] * 4], [[0, 0, 1, 1], [0, 0]]):
        with pytest.raises(InputError, match='^boxes must be'):
            embedder.crops(FRAME, boxes, invalid='nan')


@pytest.mark.parametrize('flags', [('--images',), ('--int8', '--calibration-images')])
@pytest.mark.parametrize('kind', ['text', 'cut', 'pipe', 'empty'])
def test_export_names_a_broken_image(tmp_path, capsys, flags, kind):
    """Wherever it lies among many, of which only some are looked at closely."""
    for number in range(20):
        Image.fromarray(FRAME).save(tmp_path / f'{number:02d}.jpg')
    path = tmp_path / '11.jpg'
    whole = path.read_bytes()
    path.unlink()
    if kind in ('text', 'cut'):
        path.write_bytes(b'no image' if kind == 'text' else whole[: len(whole) // 2])
    else:
        make(kind, path)
    out = tmp_path / 'new' / 'm.onnx'
    argv = 'export', 'msinet_x1_0.sample', '--format', 'onnx', '--output', out, *flags, tmp_path
    refused(capsys, hub, *argv, names=['11.jpg', '1 of 20'])
    assert not out.exists()
