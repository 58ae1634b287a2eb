"""Small films: people who are a pattern of colours each walk over textured ground and hide each other."""

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

SIZE = 240, 160  # width and height
PERSON = 32, 96
RATE = 10


class Thumbnail(nn.Module):
    """Normalised images [B, 3, H, W] to their colours in 8 rows of 4: a network that needs no training."""

    pretrained_cfg = dict(
        input_size=(3, 64, 32), interpolation='bilinear', mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0,
        crop_mode='squash',
    )  # fmt: skip

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return F.adaptive_avg_pool2d(self.scale * images, (8, 4)).flatten(1)


def person(number):
    """[96, 32, 3] how somebody looks."""
    colors = np.random.default_rng(number).integers(0, 256, (6, 2, 3))
    return colors.repeat(PERSON[1] // 6, 0).repeat(PERSON[0] // 2, 1).astype(np.uint8)


def walk(path, frames):
    """Frames [H, W, 3] and, for each, the boxes {person: (left, top, right, bottom)} that are seen.

    Args:
        path: for a person and the number of a frame, the left and top of the person; None for nobody.
        frames: how many.
    """
    ground = np.random.default_rng(99).integers(90, 150, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    for number in range(frames):
        frame, boxes = ground.copy(), {}
        for who, (left, top) in sorted(path(number).items(), key=lambda item: item[1][1]):
            box = max(0, left), max(0, top), min(SIZE[0], left + PERSON[0]), min(SIZE[1], top + PERSON[1])
            if box[2] - box[0] >= 8:
                shown = person(who)[box[1] - top : box[3] - top, box[0] - left : box[2] - left]
                frame[box[1] : box[3], box[0] : box[2]] = shown
                boxes[who] = box
        yield frame, boxes


def cross(number):
    """Two people who walk through each other, and a third who stands."""
    return {1: (4 * number - 20, 30), 2: (220 - 4 * number, 34), 3: (104, 8)}


def cross_later(number):
    """The same, seen by another camera three seconds later, and of another light."""
    return cross(number - 30) if number >= 30 else {}


def write_sequence(folder, path=cross, frames=60):
    """A folder in the layout of MOTChallenge, with all boxes as detections."""
    folder = Path(folder)
    for name in ('img1', 'gt', 'det'):
        (folder / name).mkdir(parents=True)
    truth, found = [], []
    for number, (frame, boxes) in enumerate(walk(path, frames), start=1):
        Image.fromarray(frame).save(folder / 'img1' / f'{number:06d}.jpg', quality=92)
        for who, (left, top, right, bottom) in boxes.items():
            row = f'{left},{top},{right - left},{bottom - top}'
            truth.append(f'{number},{who},{row},1,1,1\n')
            found.append(f'{number},-1,{row},0.9,-1,-1,-1\n')
    (folder / 'gt' / 'gt.txt').write_text(''.join(truth))
    (folder / 'det' / 'det.txt').write_text(''.join(found))
    (folder / 'seqinfo.ini').write_text(
        f'[Sequence]\nname={folder.name}\nimDir=img1\nframeRate={RATE}\nseqLength={frames}\nimWidth={SIZE[0]}\n'
        f'imHeight={SIZE[1]}\nimExt=.jpg\n'
    )
    return folder
