"""How a network of person search does on scenes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from msinet_timm.commands import progress
from msinet_timm.datasets.scenes import SceneSet
from msinet_timm.person_search import Found, PersonSearch

__all__ = ['COLUMNS', 'SceneMeasurement', 'find_people', 'measure_scenes']

COLUMNS = ['mAP', 'rank1', 'detection_AP', 'detection_recall']


@dataclass(frozen=True)
class SceneMeasurement:
    evaluations: Mapping[str, dict[str, float]]

    @property
    def main(self):
        return next(iter(self.evaluations.values()))

    def metrics(self) -> dict[str, float]:
        return {name: self.main[name] for name in COLUMNS}

    def __str__(self):
        return '  '.join(f'{name} {100 * value:.1f} %' for name, value in self.main.items())


def find_people(search: PersonSearch, scenes: SceneSet) -> tuple[dict[str, Found], np.ndarray]:
    """Everybody in the test scenes, by the path of the scene; and embeddings [Q, D] of who is asked for."""
    found = {scene.path: search(scene.path) for scene in progress(scenes.test, desc='scenes', unit='img', leave=False)}
    asked = [search.embed(query.scene.path, [query.box])[0] for query in scenes.queries]
    return found, np.stack(asked)


def iou(a, b):
    a, b = np.asarray(a, float).reshape(-1, 4), np.asarray(b, float).reshape(-1, 4)
    wh = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inter = np.maximum(wh, 0).prod(2)
    area = lambda x: (x[:, 2:] - x[:, :2]).prod(1)
    return inter / (area(a)[:, None] + area(b)[None] - inter)


def evaluate(scenes: SceneSet, found, asked) -> dict[str, float]:
    # detection
    rows, total = [], 0
    for scene in scenes.test:
        total += len(scene.boxes)
        f = found[scene.path]
        if not len(f.boxes):
            continue
        o = iou(f.boxes, scene.boxes) if scene.boxes else np.zeros((len(f.boxes), 0))
        taken = set()
        for k in range(len(f.boxes)):
            ok = [(o[k, j], j) for j in range(o.shape[1]) if j not in taken and o[k, j] >= 0.5]
            hit = bool(ok)
            if hit:
                taken.add(max(ok)[1])
            rows.append((f.scores[k], hit))
    rows.sort(key=lambda r: -r[0])
    hits = np.array([r[1] for r in rows], float)
    cum = hits.cumsum()
    prec = cum / np.arange(1, len(hits) + 1)
    ap = float((prec * hits).sum() / total)
    aps, top = [], []
    for q, e in zip(scenes.queries, asked):
        sims, labels, n = [], [], 0
        for scene in scenes.test:
            if scene.path == q.scene.path or (q.gallery is not None and scene.path not in q.gallery):
                continue
            gt = [b for b, i in zip(scene.boxes, scene.identities) if i == q.identity]
            n += bool(gt)
            f = found[scene.path]
            if not len(f.boxes):
                continue
            s = f.embeddings @ e
            lab = np.zeros(len(s))
            if gt:
                b = np.array(gt[0])
                w, h = b[2] - b[0], b[3] - b[1]
                thr = min(0.5, w * h / ((w + 10) * (h + 10)))
                o = iou(f.boxes, [b])[:, 0]
                for k in np.argsort(-s):
                    if o[k] >= thr:
                        lab[k] = 1
                        break
            sims.extend(s)
            labels.extend(lab)
        if not n:
            continue
        order = np.argsort(-np.array(sims))
        lab = np.array(labels)[order]
        c = lab.cumsum()
        aps.append(float((c / np.arange(1, len(lab) + 1) * lab).sum() / n))
        top.append(lab[0] if len(lab) else 0)
    return {'mAP': float(np.mean(aps)), 'rank1': float(np.mean(top)), 'detection_AP': ap, 'detection_recall': float(hits.sum() / total)}


def measure_scenes(search: PersonSearch, sets: Mapping[str, SceneSet]) -> SceneMeasurement | None:
    if not sets:
        return None
    return SceneMeasurement({name: evaluate(s, *find_people(search, s)) for name, s in sets.items()})
