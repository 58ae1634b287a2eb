"""How good tracks are, by TrackEval: HOTA, IDF1 and MOTA."""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import box_iou

from msinet_timm.errors import InputError, needs

from .mot import Boxes

__all__ = ['measure_tracks']


def measure_tracks(truth: Sequence[Boxes], found: Sequence[Boxes]) -> dict[str, float]:
    """Compares tracks of one or several cameras with the truth; identities hold across cameras.

    HOTA (Luiten et al., IJCV 2021) is the mean over thresholds of overlap from 0.05 to 0.95; IDF1 (Ristani et al.,
    ECCV 2016 workshops) and MOTA (Bernardin and Stiefelhagen, 2008) count boxes that overlap by half.

    Args:
        truth: boxes of each camera.
        found: of the same cameras, in the same order.

    Returns:
        `HOTA`, `IDF1` and `MOTA`, at most 1, and the number of `switches` of identities within a camera's track.

    Raises:
        InputError: other numbers of cameras, or no boxes to be found.
        MissingPackageError: TrackEval, an optional package, is missing.
    """
    with needs('tracking-test', 'measuring tracks'):
        from trackeval.metrics import CLEAR, HOTA, Identity
    if len(truth) != len(found):
        raise InputError(f'{len(found)} cameras of tracks for {len(truth)} of truth')
    if not sum(len(boxes.frame) for boxes in truth):
        raise InputError('the truth holds no boxes')
    data = _as_trackeval(truth, found)
    quiet = {'PRINT_CONFIG': False}
    clear = CLEAR(quiet).eval_sequence(data)
    return {
        'HOTA': float(np.mean(HOTA().eval_sequence(data)['HOTA'])),
        'IDF1': float(Identity(quiet).eval_sequence(data)['IDF1']),
        'MOTA': float(clear['MOTA']),
        'switches': int(clear['IDSW']),
    }


def _as_trackeval(truth: Sequence[Boxes], found: Sequence[Boxes]) -> dict:
    """One camera after another, as a sequence of TrackEval."""
    names = [np.unique(np.concatenate([boxes.identity for boxes in both])) for both in (truth, found)]
    data: dict = {'gt_ids': [], 'tracker_ids': [], 'similarity_scores': []}
    for true, tracked in zip(truth, found, strict=True):
        for frame in np.union1d(true.frame, tracked.frame):
            rows = true.frame == frame, tracked.frame == frame
            for key, boxes, own, row in zip(('gt_ids', 'tracker_ids'), (true, tracked), names, rows, strict=True):
                data[key].append(np.searchsorted(own, boxes.identity[row]))
            overlap = box_iou(torch.from_numpy(true.box[rows[0]]), torch.from_numpy(tracked.box[rows[1]]))
            data['similarity_scores'].append(overlap.numpy())
    for side, own, key in (('gt', names[0], 'gt_ids'), ('tracker', names[1], 'tracker_ids')):
        data[f'num_{side}_ids'] = len(own)
        data[f'num_{side}_dets'] = sum(map(len, data[key]))
    data['num_timesteps'] = len(data['gt_ids'])
    return data
