"""CUHK-SYSU and PRW in small, as their files are laid out; boxes are left, top, width and height."""

import numpy as np
from PIL import Image


def structs(*rows):
    """A MATLAB struct array [1, N] of dictionaries with the same keys."""
    out = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for k, row in enumerate(rows):
        out[0, k] = tuple(row.values())
    return out


def cells(*items):
    """A MATLAB cell array [N, 1]."""
    out = np.empty((len(items), 1), dtype=object)
    out[:, 0] = items
    return out


def box(*sides, kind=np.uint8):
    return np.array([sides], dtype=kind)


def paint(path, size=(320, 240)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path.name)) + sum(path.name.encode()))
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)


def write_cuhk(root, boxes=None):
    """Two people in three training images, two in four test images; queries with galleries of 50 and 100 images."""
    from scipy.io import savemat

    boxes = boxes or {
        's1.jpg': [(10, 20, 200, 210), (5, 5, 20, 0)],  # one so large that its sums exceed a byte, one without area
        's2.jpg': [(11, 20, 40, 80), (100, 20, 30, 90)],
        's3.jpg': [(12, 20, 40, 80)],
        's4.jpg': [(13, 20, 40, 80), (90, 20, 30, 60)],
        's5.jpg': [(14, 20, 40, 80)],
        's6.jpg': [(15, 20, 40, 80), (101, 20, 30, 90)],
        's7.jpg': [(16, 20, 40, 80)],
    }
    for name in boxes:
        paint(root / 'Image' / 'SSM' / name)
    lists = root / 'annotation' / 'test' / 'train_test'
    lists.mkdir(parents=True, exist_ok=True)
    images = [
        dict(
            imname=name,
            nAppear=len(rows),
            box=structs(*(dict(idlocate=box(*row), ishard=0) for row in rows)) if rows else np.zeros((0, 0)),
        )
        for name, rows in boxes.items()
    ]
    savemat(root / 'annotation' / 'Images.mat', {'Img': structs(*images)})
    savemat(root / 'annotation' / 'pool.mat', {'pool': cells('s4.jpg', 's5.jpg', 's6.jpg', 's7.jpg')})

    def shown(name, *sides):
        where = box(*sides, kind=np.uint16) if sides else np.zeros((0, 0))
        return dict(imname=name, idlocate=where, ishard=0)

    def person(name, *scenes):
        return structs(dict(idname=name, nAppear=len(scenes), scene=structs(*scenes)))

    train = cells(
        person('p1', shown('s1.jpg', 10, 20, 200, 210), shown('s2.jpg', 11, 20, 40, 80)),
        person('p2', shown('s2.jpg', 100, 20, 30, 90)),
    )
    savemat(lists / 'Train.mat', {'Train': train})
    for size, more in ((50, ()), (100, (shown('s7.jpg'),))):
        asked = structs(
            dict(
                Query=structs(dict(**shown('s4.jpg', 13, 20, 40, 80), idname='p3')),
                Gallery=structs(shown('s5.jpg', 14, 20, 40, 80), shown('s6.jpg', 15, 20, 40, 80), *more),
            ),
            dict(
                Query=structs(dict(**shown('s6.jpg', 101, 20, 30, 90), idname='p4')),
                Gallery=structs(shown('s4.jpg', 90, 20, 30, 60), shown('s5.jpg'), *more),
            ),
        )
        savemat(lists / f'TestG{size}.mat', {f'TestG{size}': asked})
    return root


def write_prw(root):
    """Person 1 trains, 2 and 3 are asked for; each file calls its boxes otherwise."""
    from scipy.io import savemat

    frames = {
        'c1s1_000151': ('box_new', [(1, 10, 20, 30, 60), (-2, 100, 20, 30, 60)]),
        'c2s1_000176': ('anno_file', [(1, -4, 21, 30, 60)]),
        'c1s2_000201': ('anno_previous', [(2, 12, 22, 30, 60), (-2, 90, 10, 20, 50)]),
        'c1s2_000226': ('box_new', [(2, 13, 23, 30, 60), (3, 80, 20, 30, 60)]),
        'c3s2_000251': ('box_new', [(2, 14, 24, 30, 60)]),
        'c6s2_000276': ('box_new', [(3, 15, 25, 30, 60)]),
        'c6s2_000301': ('box_new', np.zeros((0, 5))),
    }
    (root / 'annotations').mkdir(parents=True, exist_ok=True)
    for name, (key, rows) in frames.items():
        paint(root / 'frames' / f'{name}.jpg')
        savemat(root / 'annotations' / f'{name}.jpg.mat', {key: np.array(rows, dtype=float)})
    names = list(frames)
    savemat(root / 'frame_train.mat', {'img_index_train': cells(*names[:2])})
    savemat(root / 'frame_test.mat', {'img_index_test': cells(*names[2:])})
    (root / 'query_info.txt').write_text('2 12 22 30 60 c1s2_000201\n3 80 20 30 60 c1s2_000226\n')
    return root
