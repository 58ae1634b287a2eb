"""Ranked lists: what was found for a query, and an image of it for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from msinet_eval.features.types import Features
from msinet_eval.metrics.checks import Relatives
from msinet_eval.metrics.nearest import nearest
from msinet_timm.datasets.images import load_image
from msinet_timm.drawing import FAINT, INK, PAPER, draw_frame, load_font, paste_tile, shorten
from msinet_timm.files import replace_file

__all__ = [
    'Found',
    'Layout',
    'draw_ranked_lists',
    'list_found',
    'load_listed',
    'names',
    'pick_queries',
    'write_ranked_lists',
]


class Found(NamedTuple):
    """A gallery image near a query.

    Attributes:
        index: in the gallery.
        distance: Euclidean distance of the embeddings.
        kind: `'right'`, `'wrong'`, or `'removed'` where a rule has taken it out of the ranking.
        rank: 1 for the nearest; 0 where it was removed.
    """

    index: int
    distance: float
    kind: str
    rank: int


def pick_queries(average_precision: np.ndarray, count: int) -> np.ndarray:
    """Indices of queries evenly from worst to best average precision, without those that were skipped."""
    order = np.argsort(average_precision, kind='stable')[: np.isfinite(average_precision).sum()]
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]


def list_found(
    query: Features,
    gallery: Features,
    picked: Sequence[int],
    *,
    top: int = 10,
    removed: int = 2,
    same_clothes_removed: bool = False,
) -> list[list[Found]]:
    """What was found for a few queries, nearest first.

    Args:
        query: features of all queries.
        gallery: features of the gallery.
        picked: indices of the queries to list.
        top: ranks to list, fewer where the ranking is shorter.
        removed: most images of each query to list that a rule has removed, of those before the last rank listed.
        same_clothes_removed: as given to `msinet_eval.protocol.rank`.
    """
    asking = query.subset(torch.as_tensor(picked))
    labels = [features.labels(same_clothes_removed) for features in (asking, gallery)]
    relatives = Relatives(*labels, (len(asking), len(gallery)), torch.device('cpu'))
    shown = []
    for number, (indices, distances) in enumerate(nearest(asking.embeddings, gallery.embeddings, *labels, k=top)):
        _, own, out = relatives.of(slice(number, number + 1))
        kinds = ['right' if right else 'wrong' for right in np.isin(indices, own)]
        row = [Found(*f) for f in zip(indices.tolist(), distances.tolist(), kinds, range(1, top + 1), strict=False)]
        end = row[-1].distance if len(row) == top else float('inf')
        near = [f for f in _removed(asking, number, gallery, own[out]) if f.distance <= end]
        shown.append(sorted(row + near[:removed], key=lambda f: (f.distance, f.index)))
    return shown


def _removed(query: Features, number: int, gallery: Features, indices: torch.Tensor) -> list[Found]:
    """The gallery images that a rule takes out of a query's ranking, nearest first."""
    distances = (gallery.embeddings[indices] - query.embeddings[number]).norm(dim=1)
    found = [Found(i, d, 'removed', 0) for i, d in zip(indices.tolist(), distances.tolist(), strict=True)]
    return sorted(found, key=lambda f: (f.distance, f.index))


class Layout(NamedTuple):
    """Where things are in an image of ranked lists, in pixels."""

    cell_width: int
    cell_height: int = 176
    frame: int = 5
    gap: int = 10
    margin: int = 20
    header: int = 84
    caption: int = 38
    query_gap: int = 26

    def cell(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of an image inside its frame; column 0 is the query, 1 the nearest image."""
        pitch = 2 * self.frame + self.gap
        left = self.margin + self.frame + column * (self.cell_width + pitch) + (self.query_gap if column else 0)
        top = self.header + self.frame + row * (self.cell_height + pitch + self.caption)
        return left, top, left + self.cell_width, top + self.cell_height

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        """Width and height of the whole image."""
        _, _, right, bottom = self.cell(rows - 1, columns - 1)
        return right + self.frame + self.margin, bottom + self.frame + self.caption + self.margin // 2


def write_ranked_lists(path: str | Path, result, *, queries: int = 8, top: int = 10, title: str | None = None) -> None:
    """Writes a PNG of queries from worst to best, each with the images that are nearest to it.

    Images that a rule has removed from a ranking are shown in their places, without a rank.

    Args:
        path: file to write.
        result: an `EvaluationResult`; shown before re-ranking, if there is any.
        queries: how many to show.
        top: ranks for each, fewer where fewer are left.
        title: line above the image; None for the result's name, metrics and remarks.

    Raises:
        InputError: an unreadable image, or a file that cannot be written.
    """
    result = result.before_reranking()
    ranking = result.ranking
    metrics = f'{result.name}: mAP {100 * ranking.mAP:.1f} %, Rank-1 {100 * ranking.cmc[0]:.1f} %'
    image, _ = draw_ranked_lists(result, queries, top, title or '; '.join([metrics, *result.remarks]))
    words = f'{path}: cannot write the ranked lists'
    replace_file(path, lambda draft: image.save(draft, format='PNG', optimize=True), words)


def draw_ranked_lists(result, queries: int, top: int, title: str = '') -> tuple[Image.Image, Layout]:
    """The image that `write_ranked_lists` writes, and where things are in it."""
    query, gallery, precision = result.query, result.gallery, result.ranking.average_precision
    picked = pick_queries(precision, queries)
    lists = result.found(picked, top, removed=2)
    images = [load_listed(query, index) for index in picked]
    layout = _fit_layout(images)
    columns = max(top, *map(len, lists))
    canvas = Image.new('RGB', layout.size(len(picked), 1 + columns), PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, layout, title, canvas.width)
    for row, (index, image, found) in enumerate(zip(picked, images, lists, strict=True)):
        box = layout.cell(row, 0)
        paste_tile(canvas, image, box)
        draw_frame(draw, box, 'query', layout.frame)
        _draw_caption(draw, layout, box, f'AP {100 * precision[index]:.1f} %', '  '.join(names(query, index)))
        for column, (other, distance, kind, rank) in enumerate(found, start=1):
            box = layout.cell(row, column)
            paste_tile(canvas, load_listed(gallery, other), box)
            draw_frame(draw, box, kind, layout.frame)
            number = f'{rank}.  ' if rank else ''
            _draw_caption(draw, layout, box, f'{number}d {distance:.3f}', '  '.join(names(gallery, other)))
    return canvas, layout


def load_listed(features: Features, index: int) -> Image.Image:
    """The part of an image that was embedded.

    Raises:
        InputError: the file cannot be read.
    """
    box = (0, 0, 0, 0) if features.boxes is None else tuple(features.boxes[index].tolist())
    return load_image(features.paths[index], box if any(box) else None)


def names(features: Features, index: int) -> list[str]:
    """Identity and, where it is known, camera in a few letters each."""
    camera = [] if features.cameras is None else [f'cam {features.cameras[index]}']
    return [f'id {features.identities[index]}', *camera]


def _fit_layout(images: list[Image.Image]) -> Layout:
    """Cells as wide as most images are: people are tall, vehicles wide."""
    height = Layout._field_defaults['cell_height']
    aspect = float(np.median([image.width / image.height for image in images]))
    return Layout(cell_width=round(min(max(aspect * height, 88), 264)))


def _draw_caption(draw: ImageDraw.ImageDraw, layout: Layout, box, first: str, second: str) -> None:
    middle = (box[0] + box[2]) // 2
    top = box[3] + layout.frame + 3
    for line, text in enumerate((first, second)):
        font, width = load_font(14), box[2] - box[0] + 2 * layout.frame + layout.gap
        if font.getlength(text) > width:
            font = load_font(11)
        shown, length = text, len(text)
        while font.getlength(shown) > width and length > 1:
            length -= 1
            shown = shorten(text, length)
        draw.text((middle, top + 17 * line), shown, font=font, fill=FAINT if line else INK, anchor='ma')


def _draw_header(draw: ImageDraw.ImageDraw, layout: Layout, title: str, width: int) -> None:
    size = 22
    while size > 12 and load_font(size).getlength(title) > width - 2 * layout.margin:
        size -= 1
    draw.text((layout.margin, 14), title, font=load_font(size), fill=INK)
    swatch, x, y = 22, layout.margin + layout.frame, 49
    kinds = (
        ('query (worst at the top, best at the bottom)', 'query'),
        ('same identity', 'right'),
        ('another identity', 'wrong'),
        ('own camera or clothes: not ranked', 'removed'),
    )
    for text, kind in kinds:
        draw_frame(draw, (x, y, x + swatch, y + swatch), kind, 4)
        draw.text((x + swatch + 12, y + swatch // 2), text, font=load_font(15), fill=INK, anchor='lm')
        x += swatch + 12 + round(load_font(15).getlength(text)) + 34
    draw.text((x, y + swatch // 2), 'd = Euclidean distance', font=load_font(15), fill=FAINT, anchor='lm')
