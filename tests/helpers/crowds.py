"""Scenes in small, as `msinet-data render --scenes` lays them out: people of the sample before noise."""

import json

import numpy as np
from PIL import Image

from msinet_timm.datasets import create_dataset

SIZE = 192, 128
_PEOPLE = (4, 30, 24, 56), (70, 40, 95, 92), (140, 20, 166, 74)


def write_crowds(root, train=6, test=4, boxes=True):
    """Frames of two who are named and a stranger; four people train, or without `boxes` nobody, three are asked for."""
    rng = np.random.default_rng(0)
    crops = {}
    for record in create_dataset('sample').gallery:
        crops.setdefault(record.identity, []).append(record.path)
    crops = list(crops.values())
    rows = {'train': [], 'test': [], 'queries': []}
    for part, count, first, people in (('train', train, 0, 4), ('test', test, 4, 3)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            frame = Image.fromarray(rng.integers(60, 120, (*SIZE[::-1], 3), dtype=np.uint8))
            named = [first + (number + k) % people for k in range(2)]
            places = np.array(_PEOPLE) + rng.integers(-3, 4, (3, 1))
            for place, identity in zip(places.tolist(), (*named, 8 + number % 3), strict=True):
                shown = crops[identity % len(crops)]
                with Image.open(shown[number % len(shown)]) as crop:
                    width, height = place[2] - place[0], place[3] - place[1]
                    frame.paste(crop.convert('RGB').resize((width, height)), tuple(place[:2]))
            name = f'{part}/{number}.png'
            frame.save(root / name)
            row = {'image': name, 'camera': str(number % 2), 'boxes': places.tolist(), 'identities': [*named, -1]}
            rows[part].append(row if boxes or part == 'test' else {**row, 'boxes': [], 'identities': []})
    for identity in range(4, 7):
        row = next((row for row in rows['test'] if identity in row['identities']), None)
        if row:
            box = row['boxes'][row['identities'].index(identity)]
            rows['queries'].append({'image': row['image'], 'box': box, 'identity': identity})
    for part, lines in rows.items():
        (root / f'{part}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in lines))
    return root
