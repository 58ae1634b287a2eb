"""MOTChallenge's files, right ones and others."""

import numpy as np
import pytest

from msinet_timm.errors import InputError
from msinet_timm.tracking.mot import read_boxes, read_sequence, write_boxes


def text(tmp_path, content, name='det.txt'):
    (tmp_path / name).write_text(content)
    return tmp_path / name


def test_what_is_written_is_read(tmp_path):
    rows = [(2, 7, (0.5, 1, 10.25, 21), 0.9), (1, -1, (-3, 0, 4, 8), 0.25)]
    write_boxes(tmp_path / 'a.txt', rows)
    found = read_boxes(tmp_path / 'a.txt')
    assert found.frame.tolist() == [1, 2] and found.identity.tolist() == [-1, 7]  # in the order of frames
    np.testing.assert_allclose(found.box, [(-3, 0, 4, 8), (0.5, 1, 10.25, 21)])
    np.testing.assert_allclose(found.score, [0.25, 0.9])


def test_confidences(tmp_path):
    assert read_boxes(text(tmp_path, '1,-1,0,0,5,9,-1\n2,-1,0,0,5,9,-1')).score.tolist() == [1, 1]
    assert read_boxes(text(tmp_path, '1,-1,0,0,5,9\n')).score.tolist() == [1]
    truth = text(tmp_path, '1,3,0,0,5,9,1,1,1\n1,4,0,0,5,9,0,8,1\n', 'gt.txt')
    assert read_boxes(truth).identity.tolist() == [3]  # the other one is not to be counted


@pytest.mark.parametrize('content', ['', '\n', '1,3,0,0,5,9,0,1,1\n'])
def test_a_camera_that_nobody_passed(tmp_path, content):
    found = read_boxes(text(tmp_path, content, 'gt.txt'))
    assert [len(column) for column in found] == [0] * 4 and found.box.shape == (0, 4)
    write_boxes(tmp_path / 'a.txt', [])
    assert not len(read_boxes(tmp_path / 'a.txt').frame)


@pytest.mark.parametrize(
    ('content', 'told'),
    [
        ('frame,id,x,y,w,h\n', 'line 1: "frame,id,x,y,w,h" is not as in MOTChallenge: frame, identity, left'),
        ('1 -1 0 0 5 9 1\n', 'with commas between'),
        ('1,-1,0,0,5\n', 'line 1'),
        ('1,-1,0,0,5,nan,1\n', 'line 1'),
        ('1,-1,0,0,5,9,1\n1.5,-1,0,0,5,9,1\n', 'line 2: frame 1.5, identity -1: frames are whole numbers from 1'),
        ('0,-1,0,0,5,9,1\n', 'line 1: frame 0'),
        ('1,-1,9,9,-5,4,1\n', 'line 1: a box of -5x4 pixels'),
        ('1,-1,0,0,5,9,87.5\n', 'frame 1 has a confidence of 87.5: 0 to 1 is expected'),
        ('1,-1,0,0,5,9,-1\n1,-1,0,0,5,9,0.5\n', 'frame 1 has a confidence of -1'),
        ('1,-1,0.1,0.2,0.05,0.3,0.9\n', 'no box is larger than 1.5 pixels'),
        ('[{"frame": 1}]\n', 'line 1'),
    ],
)
def test_other_layouts(tmp_path, content, told):
    with pytest.raises(InputError, match=r'det\.txt') as caught:
        read_boxes(text(tmp_path, content))
    assert told in str(caught.value)


def test_sequence(tmp_path):
    text(tmp_path, '[Sequence]\nname=door\nframeRate=25\nseqLength=3\n', 'seqinfo.ini')
    assert read_sequence(tmp_path) == ('door', tmp_path / 'img1', 25.0, 3)


@pytest.mark.parametrize('content', ['', '[Sequence]\n', '[Sequence]\nframeRate=x\nseqLength=3', 'frameRate=25'])
def test_no_sequence(tmp_path, content):
    text(tmp_path, content, 'seqinfo.ini')
    with pytest.raises(InputError, match='seqinfo.ini: cannot be read: frameRate and seqLength are needed'):
        read_sequence(tmp_path)


@pytest.mark.parametrize('values', ['frameRate=0\nseqLength=3', 'frameRate=25\nseqLength=0'])
def test_sequence_of_nothing(tmp_path, values):
    text(tmp_path, f'[Sequence]\n{values}', 'seqinfo.ini')
    with pytest.raises(InputError, match='frameRate must be greater than 0 and seqLength at least 1'):
        read_sequence(tmp_path)
