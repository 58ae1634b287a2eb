"""Metrics of tracks, counted by hand."""

import numpy as np
import pytest

from msinet_timm.errors import InputError
from msinet_timm.tracking.metrics import measure_tracks
from msinet_timm.tracking.mot import Boxes

LEFT, RIGHT = (0, 0, 10, 20), (50, 0, 60, 20)


def boxes(*rows):
    """Rows of frame, identity and box."""
    frame, identity, box = zip(*rows, strict=True) if rows else ((), (), np.empty((0, 4)))
    return Boxes(np.array(frame, int), np.array(identity, int), np.array(box, float), np.ones(len(rows)))


def two(frames, left, right):
    return [(f, i, b) for f in frames for i, b in ((left, LEFT), (right, RIGHT))]


TRUTH = two(range(1, 5), 1, 2)


def test_all_found():
    assert measure_tracks([boxes(*TRUTH)], [boxes(*two(range(1, 5), 8, 5))]) == pytest.approx(
        {'HOTA': 1, 'IDF1': 1, 'MOTA': 1, 'switches': 0}
    )


def test_two_people_swap():
    """After half of the time each has the other's number."""
    found = measure_tracks([boxes(*TRUTH)], [boxes(*two((1, 2), 1, 2), *two((3, 4), 2, 1))])
    # of 8 boxes each, 4 are of the number that fits best; of those with one's number, 2 of 6 are of one
    expected = {'HOTA': (1 / 3) ** 0.5, 'IDF1': 2 * 4 / 16, 'MOTA': 1 - 2 / 8, 'switches': 2}
    assert found == pytest.approx(expected)


def test_one_missed_and_one_too_many():
    """One of two is found nowhere, and in each frame something is where nobody is."""
    found = measure_tracks([boxes(*TRUTH)], [boxes(*[(f, i, b) for f in range(1, 5) for i, b in
                                                     ((1, LEFT), (3, (90, 0, 99, 9)))])])  # fmt: skip
    # 4 right, 4 missed, 4 too many
    assert found == pytest.approx({'HOTA': (4 / 12) ** 0.5, 'IDF1': 8 / 16, 'MOTA': 0, 'switches': 0})


def test_identities_hold_across_cameras():
    """Right within each of two cameras, but one person has another number in the second: that is not a switch there."""
    truth = [boxes(*TRUTH), boxes(*TRUTH)]
    assert measure_tracks(truth, truth)['IDF1'] == 1
    found = measure_tracks(truth, [boxes(*TRUTH), boxes(*two(range(1, 5), 1, 3))])
    # of 16 boxes, the 4 of the second person's second half have a number that fits less
    assert found['IDF1'] == pytest.approx(2 * 12 / 32)


def test_nobody_found():
    assert measure_tracks([boxes(*TRUTH)], [boxes()])['IDF1'] == 0


def test_what_cannot_be_measured():
    with pytest.raises(InputError, match='the truth holds no boxes'):
        measure_tracks([boxes()], [boxes(*TRUTH)])
    with pytest.raises(InputError, match='1 cameras of tracks for 2 of truth'):
        measure_tracks([boxes(*TRUTH)] * 2, [boxes(*TRUTH)])
