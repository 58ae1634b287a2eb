"""Embeddings in other people's trackers: each is called on a short video, or reads a file that was exported for it.

The network gives the image itself, much smaller: another order of channels, another scale or another size than the
host is expected to feed makes that another vector, which is not so of a network without training.
"""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from msinet_timm.datasets import create_dataset
from msinet_timm.embedder import Embedder
from msinet_timm.export.export import export
from msinet_timm.export.hosts import HOSTS, write_roboflow
from msinet_timm.hub.calibration import Calibration
from msinet_timm.tracking import thresholds, ultralytics_callback, ultralytics_encoder

CONFIG = dict(
    input_size=(3, 64, 32), interpolation='bilinear', mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD,
    crop_pct=1.0, crop_mode='squash',
)  # fmt: skip
CALIBRATION = Calibration(0.8, 0.001, 0.9, 'people', 'net')
FRAMES = 5


class Thumbnail(nn.Module):
    """Normalised images [B, 3, H, W] to their colours in 8 rows of 4."""

    def __init__(self, config=CONFIG):
        super().__init__()
        self.pretrained_cfg = config
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return F.adaptive_avg_pool2d(self.scale * images, (8, 4)).flatten(1)


class Counted(Embedder):
    """Counts what it is asked for."""

    asked = 0

    def crops(self, *args, **kwargs):
        found = super().crops(*args, **kwargs)
        self.asked += len(found)
        return found


@pytest.fixture(scope='module')
def model():
    return Thumbnail().eval()


@pytest.fixture
def embedder(model):
    return Counted(model, 'cpu')


@pytest.fixture(scope='module')
def video():
    """RGB frames and boxes [2, 4]: two people of the sample on grey ground, who walk towards each other."""
    people = [
        np.asarray(Image.open(r.path).convert('RGB').resize((64, 128))) for r in create_dataset('sample').query[::9]
    ]
    found = []
    for number in range(FRAMES):
        frame, boxes = np.full((160, 320, 3), 120, np.uint8), []
        for person, left in zip(people[:2], (20 + 8 * number, 230 - 8 * number), strict=True):
            frame[16:144, left : left + 64] = person
            boxes.append((left, 16, left + 64, 144))
        found.append((frame, np.array(boxes, np.float32)))
    return found


def bgr(frame):
    return np.ascontiguousarray(frame[..., ::-1])


def cosines(found, expected):
    return F.cosine_similarity(torch.as_tensor(np.asarray(found)).double(), torch.as_tensor(expected).double())


def written(model, folder, host):
    return export(model, HOSTS[host].format, folder / f'model{HOSTS[host].suffix}', data_config=CONFIG, host=host)


BOXMOT = {
    'StrongSort': thresholds(CALIBRATION, 'boxmot.strongsort'),
    'BotSort': thresholds(CALIBRATION, 'boxmot.botsort'),
    'DeepOcSort': {'cmc_off': True},
    'HybridSort': thresholds(CALIBRATION, 'boxmot.hybridsort'),
    'BoostTrack': {'use_cmc': False, 'use_embeddings': True, 'aspect_ratio_thresh': 3},
}


@pytest.mark.parametrize('name', BOXMOT)
def test_boxmot_calls_an_embedder(embedder, video, name):
    boxmot = pytest.importorskip('boxmot')
    tracker = getattr(boxmot, name)(reid_model=embedder, **BOXMOT[name])
    for frame, boxes in video:
        tracks = tracker.update(np.c_[boxes, [[0.9, 0]] * 2].astype(np.float32), bgr(frame))
    assert embedder.asked == 2 * FRAMES
    assert len(tracks) == 2 and len({*tracks[:, 4]}) == 2


def test_boxmot_of_a_camera(embedder, video):
    boxmot = pytest.importorskip('boxmot')
    door = SimpleNamespace(get_features=functools.partial(embedder.get_features, camera='door'))
    tracker = boxmot.BotSort(reid_model=door, use_cmc=False)
    for frame, boxes in video[:2]:
        tracker.update(np.c_[boxes, [[0.9, 0]] * 2].astype(np.float32), bgr(frame))
    assert embedder.asked == 4


def test_boxmot_reads_the_export(model, embedder, video, tmp_path):
    pytest.importorskip('boxmot')
    from boxmot.reid.core import ReID

    (frame, boxes), path = video[0], written(model, tmp_path, 'boxmot')
    for half in (False, True):  # where BoxMOT halves what it feeds, the file computes in float32 all the same
        read = ReID(weights=path, device='cpu', half=half).model
        assert read.input_shape == (64, 32)  # of the file beside it
        found = read.get_features(boxes, bgr(frame))
        assert cosines(found, embedder.get_features(boxes, bgr(frame))).min() > 0.99


def test_deep_sort_realtime(embedder, video):
    deepsort = pytest.importorskip('deep_sort_realtime.deepsort_tracker')
    tracker = deepsort.DeepSort(embedder=None, **thresholds(CALIBRATION, 'deep_sort_realtime'))
    for frame, boxes in video:
        found = [([left, top, right - left, bottom - top], 0.9, 'person') for left, top, right, bottom in boxes]
        rows = embedder.crops(frame, [box for box, *_ in found], box_format='xywh')
        np.testing.assert_array_equal(rows, embedder.crops(frame, boxes))
        tracks = tracker.update_tracks(found, embeds=rows)
    assert [track.track_id for track in tracks if track.is_confirmed()] == ['1', '2']


def test_libreyolo(embedder, video):
    tracking = pytest.importorskip('libreyolo.tracking')
    from libreyolo.utils.results import Boxes, Results

    tracker = tracking.DeepOCSortTracker(embedder=functools.partial(embedder.crops, invalid='black'))
    for frame, boxes in video:
        found = Boxes(torch.tensor(boxes), torch.full((2,), 0.9), torch.zeros(2))
        tracks = tracker.update(Results(boxes=found, orig_shape=frame.shape[:2]), frame)
    assert embedder.asked == 2 * FRAMES and sorted(tracks.track_id.tolist()) == [1, 2]


def test_roboflow_reads_the_folder(video, tmp_path):
    reid, sv = pytest.importorskip('reid'), pytest.importorskip('supervision')
    import timm

    torch.manual_seed(0)
    model = timm.create_model('msinet_x0_25', num_classes=0).eval()
    embedder = Embedder(model, 'cpu')
    frame, boxes = video[0]
    write_roboflow(model, tmp_path, data_config=embedder.data_config)
    read = reid.ReIDModel.from_pretrained(str(tmp_path), device='cpu')
    found = read.extract_embeddings(sv.Detections(xyxy=boxes), bgr(frame))
    np.testing.assert_allclose(F.normalize(torch.tensor(found)), embedder.crops(frame, boxes), atol=1e-5)


@pytest.mark.slow
def test_opencv_reads_the_export(model, embedder, video, tmp_path):
    cv2 = pytest.importorskip('cv2')
    frame, boxes = video[0]
    net, found = cv2.dnn.readNetFromONNX(str(written(model, tmp_path, 'opencv'))), []
    for left, top, right, bottom in boxes.astype(int):
        net.setInput(cv2.dnn.blobFromImage(bgr(frame)[top:bottom, left:right], size=(32, 64), swapRB=True))
        found.append(net.forward()[0].copy())
    assert cosines(found, embedder.crops(frame, boxes)).min() > 0.99


@pytest.mark.slow
def test_ultralytics_reads_the_export(model, embedder, video, tmp_path):
    pytest.importorskip('ultralytics')
    from ultralytics.trackers.utils.reid import ReID

    # cuts 10 pixels more on each side, which is little of people who are large
    frame, boxes = video[0][0].repeat(4, 0).repeat(4, 1), 4 * video[0][1]
    read = ReID(str(written(model, tmp_path, 'ultralytics')), device='cpu')
    assert read.imgsz == (64, 32)
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    found = read(bgr(frame), np.c_[middle, size, [0, 1]])
    assert cosines(found, embedder.crops(frame, boxes)).min() > 0.95


@pytest.mark.parametrize('kind', ['botsort', 'deepocsort', 'tracktrack'])
def test_ultralytics_calls_an_embedder(embedder, video, kind):
    pytest.importorskip('ultralytics')
    from ultralytics.engine.results import Boxes
    from ultralytics.trackers.track import TRACKER_MAP
    from ultralytics.utils import ROOT, YAML, IterableSimpleNamespace

    settings = YAML.load(ROOT / 'cfg' / 'trackers' / f'{kind}.yaml')
    tracker = TRACKER_MAP[kind](IterableSimpleNamespace(**settings))
    chosen = {} if kind == 'tracktrack' else thresholds(CALIBRATION, f'ultralytics.{kind}')
    ultralytics_callback(embedder, **chosen)(SimpleNamespace(trackers=[tracker]))
    for frame, boxes in video:
        found = Boxes(np.c_[boxes, [[0.9, 0]] * 2].astype(np.float32), frame.shape[:2])
        tracks = tracker.update(found, bgr(frame))
    assert embedder.asked == 2 * FRAMES
    assert len(tracks) == 2 and len({*tracks[:, 4]}) == 2
    assert all(track.curr_feat is not None for track in tracker.tracked_stracks)
    (first, _), expected = ultralytics_encoder(embedder)(bgr(frame), found.xywh), embedder.crops(frame, boxes[:1])[0]
    np.testing.assert_allclose(first, expected, atol=1e-6)


def test_ultralytics_tracks_by_an_embedder(embedder, video, tmp_path):
    """Whatever an untrained detector finds; the callback is called when the trackers have been made."""
    ultralytics = pytest.importorskip('ultralytics')
    from ultralytics.utils import ROOT, YAML

    settings = YAML.load(ROOT / 'cfg' / 'trackers' / 'botsort.yaml')
    settings.update(track_high_thresh=0, track_low_thresh=0, new_track_thresh=0, gmc_method='none')
    YAML.save(tmp_path / 'tracker.yaml', settings)
    model = ultralytics.YOLO('yolo11n.yaml')
    chosen = thresholds(CALIBRATION, 'ultralytics.botsort')
    model.add_callback('on_predict_batch_start', ultralytics_callback(embedder, **chosen))
    options = dict(tracker=str(tmp_path / 'tracker.yaml'), conf=1e-9, max_det=3, imgsz=64, verbose=False, device='cpu')
    for frame, _ in video[:2]:
        model.track(bgr(frame), persist=True, **options)
    (tracker,) = model.predictor.trackers
    assert embedder.asked == 6 and tracker.appearance_thresh == pytest.approx(0.84)
    assert all(len(track.curr_feat) == embedder.size for track in tracker.tracked_stracks)
