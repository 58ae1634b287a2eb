"""Ranked lists: what was found for a query, and an image of it for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from msinet_eval.features.types import Features
from msinet_eval.metrics.checks import Relatives
from msinet_eval.metrics.nearest import nearest
from msinet_eval.metrics.ranking import RankingResult
from msinet_timm.datasets.images import load_image
from msinet_timm.errors import InputError

__all__ = [
    'Found',
    'Layout',
    'draw_ranked_lists',
    'label',
    'list_found',
    'load_listed',
    'pick_queries',
    'write_ranked_lists',
]

# Colours that colour-blind people tell apart; the frames also differ in shape: solid, dashed and crossed, dotted
RIGHT = (0, 158, 115)
WRONG = (213, 60, 0)
REMOVED = (120, 120, 132)

_QUERY = (40, 40, 40)
_TEXT = (30, 30, 30)
_FAINT = (110, 110, 110)
_BACKGROUND = (255, 255, 255)


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


def write_ranked_lists(
    path: str | Path,
    query: Features,
    gallery: Features,
    result: RankingResult,
    *,
    queries: int = 8,
    top: int = 10,
    title: str = '',
    same_clothes_removed: bool = False,
) -> None:
    """Writes a PNG of queries from worst to best, each with the first images of its ranking.

    Images that a rule has removed from a ranking are shown in their places, without a rank.

    Args:
        path: file to write.
        query: features of all queries.
        gallery: features of the gallery.
        result: of `msinet_eval.protocol.rank(query, gallery)`.
        queries: how many to show.
        top: ranks for each, fewer where fewer are left.
        title: line above the image.
        same_clothes_removed: as given to `rank`.

    Raises:
        InputError: an unreadable image, or a file that cannot be written.
    """
    image = draw_ranked_lists(
        query, gallery, result, queries=queries, top=top, title=title, same_clothes_removed=same_clothes_removed
    )[0]
    try:
        image.save(path, format='PNG', optimize=True)
    except OSError as e:
        raise InputError(f'{path}: cannot write the ranked lists ({e})') from e


def draw_ranked_lists(
    query: Features,
    gallery: Features,
    result: RankingResult,
    *,
    queries: int,
    top: int,
    title: str = '',
    same_clothes_removed: bool = False,
) -> tuple[Image.Image, Layout]:
    """The image that `write_ranked_lists` writes, and where things are in it."""
    picked = pick_queries(result.average_precision, queries)
    lists = list_found(query, gallery, picked, top=top, same_clothes_removed=same_clothes_removed)
    images = [load_listed(query, index) for index in picked]
    layout = _fit_layout(images)
    columns = max(top, *map(len, lists))
    canvas = Image.new('RGB', layout.size(len(picked), 1 + columns), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, layout, title or 'Ranked lists', canvas.width)
    for row, (index, image, found) in enumerate(zip(picked, images, lists, strict=True)):
        box = layout.cell(row, 0)
        _paste(canvas, image, box)
        _solid_frame(draw, box, layout.frame, _QUERY)
        _draw_caption(draw, layout, box, f'AP {100 * result.average_precision[index]:.1f} %', label(query, index))
        for column, (other, distance, kind, rank) in enumerate(found, start=1):
            box = layout.cell(row, column)
            _paste(canvas, load_listed(gallery, other), box)
            frame, color = _FRAMES[kind]
            frame(draw, box, layout.frame, color)
            number = f'{rank}.  ' if rank else ''
            _draw_caption(draw, layout, box, f'{number}d {distance:.3f}', label(gallery, other))
    return canvas, layout


def load_listed(features: Features, index: int) -> Image.Image:
    """The part of an image that was embedded.

    Raises:
        InputError: the file cannot be read.
    """
    box = (0, 0, 0, 0) if features.boxes is None else tuple(features.boxes[index].tolist())
    return load_image(features.paths[index], box if any(box) else None)


def label(features: Features, index: int) -> str:
    """Identity and camera in a few letters."""
    camera = '' if features.cameras is None else f'  cam {features.cameras[index]}'
    return f'id {features.identities[index]}{camera}'


def _fit_layout(images: list[Image.Image]) -> Layout:
    """Cells as wide as most images are: people are tall, vehicles wide."""
    height = Layout._field_defaults['cell_height']
    aspect = float(np.median([image.width / image.height for image in images]))
    return Layout(cell_width=round(min(max(aspect * height, 88), 264)))


def _paste(canvas: Image.Image, image: Image.Image, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    canvas.paste(ImageOps.pad(image, (right - left, bottom - top), color=(235, 235, 235)), (left, top))


def _solid_frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], width: int, color: tuple) -> None:
    left, top, right, bottom = box
    draw.rectangle((left - width, top - width, right + width - 1, bottom + width - 1), outline=color, width=width)


def _broken_frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], width: int, color: tuple, dash: int):
    left, top, right, bottom = box
    _solid_frame(draw, box, width, color)
    for start in range(left + dash, right - dash, 2 * dash):
        for edge in (top - width, bottom):
            draw.rectangle((start, edge, start + dash - 1, edge + width - 1), fill=_BACKGROUND)
    for start in range(top + dash, bottom - dash, 2 * dash):
        for edge in (left - width, right):
            draw.rectangle((edge, start, edge + width - 1, start + dash - 1), fill=_BACKGROUND)


def _dotted_frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], width: int, color: tuple) -> None:
    _broken_frame(draw, box, width, color, dash=3)


def _crossed_frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], width: int, color: tuple) -> None:
    """A dashed frame, and a cross in the upper right corner."""
    _, top, right, _ = box
    _broken_frame(draw, box, width, color, dash=9)
    side = 20
    draw.rectangle((right - side, top, right - 1, top + side - 1), fill=color)
    for x0, x1 in ((right - side + 5, right - 6), (right - 6, right - side + 5)):
        draw.line((x0, top + 5, x1, top + side - 6), fill=_BACKGROUND, width=3)


_FRAMES = {'right': (_solid_frame, RIGHT), 'wrong': (_crossed_frame, WRONG), 'removed': (_dotted_frame, REMOVED)}


def _draw_caption(draw: ImageDraw.ImageDraw, layout: Layout, box, first: str, second: str) -> None:
    middle = (box[0] + box[2]) // 2
    top = box[3] + layout.frame + 3
    for line, text in enumerate((first, second)):
        font = _font(14)
        if font.getlength(text) > box[2] - box[0] + 2 * layout.frame + layout.gap:
            font = _font(11)
        draw.text((middle, top + 17 * line), text, font=font, fill=_FAINT if line else _TEXT, anchor='ma')


def _draw_header(draw: ImageDraw.ImageDraw, layout: Layout, title: str, width: int) -> None:
    size = 22
    while size > 12 and _font(size).getlength(title) > width - 2 * layout.margin:
        size -= 1
    draw.text((layout.margin, 14), title, font=_font(size), fill=_TEXT)
    swatch, x, y = 22, layout.margin + layout.frame, 49
    kinds = (
        ('query (worst at the top, best at the bottom)', _solid_frame, _QUERY),
        ('same identity', *_FRAMES['right']),
        ('another identity', *_FRAMES['wrong']),
        ('own camera or clothes: not ranked', *_FRAMES['removed']),
    )
    for text, frame, color in kinds:
        frame(draw, (x, y, x + swatch, y + swatch), 4, color)
        draw.text((x + swatch + 12, y + swatch // 2), text, font=_font(15), fill=_TEXT, anchor='lm')
        x += swatch + 12 + round(_font(15).getlength(text)) + 34
    draw.text((x, y + swatch // 2), 'd = Euclidean distance', font=_font(15), fill=_FAINT, anchor='lm')


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
