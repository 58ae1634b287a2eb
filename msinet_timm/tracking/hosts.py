"""In other people's trackers: what an `Embedder` does not speak by itself, and thresholds in a tracker's own unit."""

from collections.abc import Callable
from typing import Any

import numpy as np

from msinet_timm.errors import InputError
from msinet_timm.hub.calibration import Calibration

__all__ = ['TRACKERS', 'thresholds', 'ultralytics_callback', 'ultralytics_encoder']

#: By tracker, what a cosine distance (1 - cosine, 0 to 2) is in its settings.
_SETTINGS: dict[str, Callable[[float], dict[str, float]]] = {
    # tracks that are not confirmed yet have their distances divided by a number of its own; no embedding counts for
    # boxes that are farther apart (one minus their overlap) than the last setting
    'boxmot.botsort': lambda d: {'appearance_thresh': d, 'unconfirmed_emb_scale': 1.0, 'proximity_thresh': 1.0},
    # what is compared is the distance weighed by mc_lambda, and by the rest how far a box is from where it should be:
    # the tracker's own settings, 0.2 and 0.98, leave it all of the room (0.02 of 9.5, its limit), and no more
    'boxmot.strongsort': lambda d: {'max_cos_dist': d, 'mc_lambda': max(0.98, 1 - d / 10)},
    # overlaps of 0 to 1 are added to weighed distances, so that a weight is for one range of distances: the tracker has
    # 4.6 and 1.3 for a threshold of 0.4
    'boxmot.hybridsort': lambda d: {
        'longterm_reid_correction_thresh': d,
        'longterm_reid_correction_thresh_low': d,
        'EG_weight_high_score': 4.6 * 0.4 / d,
        'EG_weight_low_score': 1.3 * 0.4 / d,
    },
    # half the distance is compared with one minus the setting; no embedding counts for boxes that overlap by less than
    # the last one
    'ultralytics.botsort': lambda d: {'appearance_thresh': 1 - d / 2, 'proximity_thresh': 0.0},
    'ultralytics.deepocsort': lambda d: {'appearance_thresh': 1 - d / 2, 'proximity_thresh': 0.0},
    'deep_sort_realtime': lambda d: {'max_cosine_distance': d},
    'deepstream': lambda d: {'minMatchingScore4ReidSimilarity': 1 - d},
    'msinet_timm': lambda d: {'threshold': (2 * d) ** 0.5},
}
#: Trackers that are known to `thresholds`.
TRACKERS = tuple(_SETTINGS)
_WITHOUT = ('boxmot.deepocsort', 'boxmot.boosttrack', 'ultralytics.tracktrack', 'libreyolo.deepocsort')


def thresholds(calibration: Calibration, tracker: str) -> dict[str, float]:
    """A calibrated distance as a tracker's settings: what is farther apart is not held to be the same.

    With them go settings that the distance would have no effect without, or another one: embeddings count wherever a
    box is, and weights of distances fit their range.

    Args:
        calibration: of the model whose embeddings the tracker is given.
        tracker: one of `TRACKERS`.

    Returns:
        Values by the names that the tracker has for them.

    Raises:
        InputError: a tracker that is not known, or one that weighs distances and has no threshold of them.
    """
    tracker = str(tracker)
    if tracker in _WITHOUT:
        raise InputError(
            f"tracker '{tracker}' has no threshold for embeddings: it adds their similarity, weighed, to that of boxes"
        )
    if tracker not in _SETTINGS:
        raise InputError(f"unknown tracker '{tracker}', choose from: {', '.join(TRACKERS)}")
    # of two vectors of length 1, the squared Euclidean distance is twice the cosine distance
    return _SETTINGS[tracker](calibration.threshold**2 / 2)


def ultralytics_encoder(embedder: Any, camera: str | None = None) -> Callable[..., list[np.ndarray | None]]:
    """What Ultralytics' BoT-SORT, Deep OC-SORT and TrackTrack call their `encoder`.

    Args:
        embedder: an `msinet_timm.embedder.Embedder`.
        camera: that the frames are of, see `Embedder.crops`.

    Returns:
        Takes a frame [H, W, 3] uint8, blue first, and boxes [N, 4 or more]: centre x and y, width and height in pixels,
        whatever follows. Gives an embedding [D] float32 for each, None for one that covers nothing of the frame.

    Raises:
        InputError: something else than an `Embedder`; or, by what is returned, boxes of another form.
    """
    if not hasattr(embedder, 'crops'):
        raise InputError(f'an embedder is needed, got {embedder!r}: give msinet_timm.embedder.Embedder(...)')

    def encode(frame: np.ndarray, boxes: np.ndarray) -> list[np.ndarray | None]:
        rows = embedder.crops(
            frame, np.asarray(boxes)[..., :4], bgr=True, camera=camera, invalid='nan', box_format='cxcywh'
        )
        return [None if np.isnan(row[0]) else row for row in rows]

    return encode


def ultralytics_callback(embedder: Any, camera: str | None = None, **settings: float) -> Callable[[Any], None]:
    """Lets `YOLO.track` compare by an embedder: `model.add_callback('on_predict_batch_start', ...)`.

    Args:
        embedder: an `msinet_timm.embedder.Embedder`.
        camera: that the frames are of, see `Embedder.crops`.
        **settings: of the tracker, instead of those in its YAML file, as `Embedder.thresholds` gives them.

    Returns:
        The callback. It raises an InputError for a tracker that compares no embeddings, or lacks a setting.

    Raises:
        InputError: something else than an `Embedder`.
    """
    encoder = ultralytics_encoder(embedder, camera)

    def install(predictor: Any) -> None:
        for tracker in getattr(predictor, 'trackers', ()):
            for name in ('encoder', *settings):
                if not hasattr(tracker, name):
                    raise InputError(f'{type(tracker).__name__} has no {name}: botsort and deepocsort have one')
            # with 'auto', the tracker would be given maps of the detector instead of frames
            tracker.args.with_reid, tracker.args.model = True, 'msinet_timm'
            tracker.encoder = encoder
            for name, value in settings.items():
                setattr(tracker, name, value)

    return install
