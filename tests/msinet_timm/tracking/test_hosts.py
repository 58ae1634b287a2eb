"""Embeddings for trackers, without the trackers: those are in `tests/hosts`."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm

from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.hub.calibration import Calibration
from msinet_timm.hub.folder import save_folder
from msinet_timm.tracking import TRACKERS, thresholds, ultralytics_callback, ultralytics_encoder

#: Embeddings at this Euclidean distance have a cosine of 0.68.
CALIBRATION = Calibration(0.8, 0.001, 0.9, 'people', 'net')
FRAME = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('model')
    save_folder(timm.create_model('msinet_x0_25', num_classes=0), path)
    CALIBRATION.save(path)
    return path


@pytest.mark.parametrize('tracker', TRACKERS)
def test_thresholds_tell_pairs_apart_as_the_calibration_does(tracker):
    """By what each tracker does with its setting, at distances just within and beyond."""
    settings = thresholds(CALIBRATION, tracker)
    accepts = {
        # boxes that do not overlap, which are 1 apart
        'boxmot.botsort': lambda d: (
            d / settings['unconfirmed_emb_scale'] <= settings['appearance_thresh'] and 1 <= settings['proximity_thresh']
        ),
        'boxmot.strongsort': lambda d: d <= settings['max_cos_dist'],
        'boxmot.hybridsort': lambda d: (
            d <= settings['longterm_reid_correction_thresh'] == settings['longterm_reid_correction_thresh_low']
        ),
        'ultralytics.botsort': lambda d: (
            d / 2 <= 1 - settings['appearance_thresh'] and not settings['proximity_thresh']
        ),
        'ultralytics.deepocsort': lambda d: (
            d / 2 <= 1 - settings['appearance_thresh'] and not settings['proximity_thresh']
        ),
        'deep_sort_realtime': lambda d: d <= settings['max_cosine_distance'],
        'deepstream': lambda d: 1 - d >= settings['minMatchingScore4ReidSimilarity'],
        'msinet_timm': lambda d: (2 * d) ** 0.5 <= settings['threshold'],
    }[tracker]
    angle = 2 * np.arcsin(CALIBRATION.threshold / 2)
    for times, within in ((0.999, True), (1.001, False)):
        pair = np.array([[1, 0], [np.cos(times * angle), np.sin(times * angle)]])
        assert CALIBRATION.same(np.linalg.norm(pair[0] - pair[1])) == within == accepts(1 - pair[0] @ pair[1])


@pytest.mark.parametrize(
    ('tracker', 'own', 'expected'),
    [  # twice the trackers' own weights where distances are half of what they expect
        ('boxmot.hybridsort', 0.4, {'EG_weight_high_score': 4.6, 'EG_weight_low_score': 1.3}),
        ('boxmot.hybridsort', 0.2, {'EG_weight_high_score': 9.2, 'EG_weight_low_score': 2.6}),
        ('boxmot.strongsort', 0.2, {'mc_lambda': 0.98}),
        ('boxmot.strongsort', 0.1, {'mc_lambda': 0.99}),
        ('boxmot.strongsort', 0.4, {'mc_lambda': 0.98}),
    ],
)
def test_weights_fit_the_range_of_distances(tracker, own, expected):
    settings = thresholds(Calibration(np.sqrt(2 * own), 0.001, 0.9, 'people', 'net'), tracker)
    assert {name: settings[name] for name in expected} == pytest.approx(expected)


def test_thresholds_of_a_folder(folder):
    embedder = Embedder(folder, 'cpu')
    assert embedder.thresholds('boxmot.strongsort') == pytest.approx({'max_cos_dist': 0.32, 'mc_lambda': 0.98})
    with pytest.raises(InputError, match="unknown tracker 'botsort', choose from: boxmot.botsort, "):
        embedder.thresholds('botsort')
    with pytest.raises(InputError, match='unknown tracker .*boxmot.botsort'):
        embedder.thresholds(['boxmot.botsort'])
    with pytest.raises(InputError, match="'boxmot.boosttrack' has no threshold for embeddings: it adds"):
        embedder.thresholds('boxmot.boosttrack')
    embedder.observe('door', FRAME[None].repeat(16, 0))
    with pytest.raises(InputError, match='does not hold for the cameras that have been learnt since'):
        embedder.thresholds('boxmot.strongsort')


def test_ultralytics_encoder(folder):
    embedder = Embedder(folder, 'cpu')
    boxes = np.array([[24, 32, 20, 40, 0], [200, 200, 9, 9, 1]], np.float32)  # the last column is a number
    first, second = ultralytics_encoder(embedder)(FRAME, boxes)
    np.testing.assert_array_equal(first, embedder.crops(FRAME, [[14, 12, 34, 52]], bgr=True)[0])
    assert second is None
    assert ultralytics_encoder(embedder)(FRAME, np.empty((0, 5), np.float32)) == []
    for wrong in (boxes[0], boxes[:, :3]):
        with pytest.raises(InputError, match=r'boxes must be \[N, 4\]: centre x, centre y, width, height'):
            ultralytics_encoder(embedder)(FRAME, wrong)
    for create in (ultralytics_encoder, ultralytics_callback):
        with pytest.raises(InputError, match="an embedder is needed, got 'msinet_x1_0'"):
            create('msinet_x1_0')
    with pytest.raises(InputError, match=r'boxes must be \[N, 4, 6 or 8\]: left'):
        embedder.get_features([[0, 0, 9, 9], [1, 2]], FRAME)


def test_ultralytics_callback(folder):
    embedder = Embedder(folder, 'cpu')
    tracker = SimpleNamespace(
        args=SimpleNamespace(with_reid=False, model='auto'), encoder=None, appearance_thresh=0.8, proximity_thresh=0.5
    )
    ultralytics_callback(embedder, **embedder.thresholds('ultralytics.botsort'))(SimpleNamespace(trackers=[tracker]))
    assert tracker.args.with_reid and tracker.args.model != 'auto'
    assert tracker.appearance_thresh == pytest.approx(0.84) and tracker.proximity_thresh == 0
    assert len(tracker.encoder(FRAME, np.array([[24, 32, 20, 40, 0]]))) == 1
    del tracker.encoder
    with pytest.raises(InputError, match='SimpleNamespace has no encoder: botsort and deepocsort'):
        ultralytics_callback(embedder)(SimpleNamespace(trackers=[tracker]))
    tracker.encoder = None
    with pytest.raises(InputError, match='SimpleNamespace has no max_cos_dist'):
        ultralytics_callback(embedder, max_cos_dist=0.2)(SimpleNamespace(trackers=[tracker]))
