"""Results for people: a table of figures, and a picture of ranked lists."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from msinet_timm.commands import InputError
from msinet_timm.datasets.images import load_image

from .features import Features
from .metrics import RankingResult, nearest

__all__ = ['FIGURES', 'Layout', 'draw_ranked_lists', 'pick_queries', 'table', 'write_ranked_lists']

# green and red that colour-blind people tell apart; wrong pictures are also dashed and crossed
RIGHT = (0, 158, 115)
WRONG = (213, 60, 0)


def _rank(k: int) -> Callable[[RankingResult], float]:
    return lambda result: float(result.cmc[min(k, len(result.cmc)) - 1])


#: What a table shows of a result.
FIGURES: dict[str, Callable[[RankingResult], float]] = {
    'mAP': lambda result: result.mAP,
    'Rank-1': _rank(1),
    'Rank-5': _rank(5),
    'Rank-10': _rank(10),
    'mINP': lambda result: result.mINP,
}

_QUERY = (40, 40, 40)
_TEXT = (30, 30, 30)
_FAINT = (110, 110, 110)
_BACKGROUND = (255, 255, 255)


def table(rows: Sequence[tuple[str, RankingResult]]) -> str:
    """Aligned lines of text: a name and its mAP, Rank-1, Rank-5, Rank-10 and mINP in percent.

    A rank beyond the end of a short gallery's CMC curve is that curve's last figure, since there is nothing after it.
    Where the gallery was drawn several times, the standard deviation over the draws follows each mean.
    """
    lines = [['', *FIGURES]]
    for name, result in rows:
        cells = [f'{100 * figure(result):.1f}' for figure in FIGURES.values()]
        if result.draws:
            spreads = [result.spread(figure) for figure in FIGURES.values()]
            cells = [f'{cell} ±{100 * spread:.1f}' for cell, spread in zip(cells, spreads, strict=True)]
        lines.append([name, *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return '\n'.join(
        '  '.join([line[0].ljust(widths[0]), *(f.rjust(w) for f, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )


class Layout(NamedTuple):
    """Where things are in a picture of ranked lists, in pixels."""

    cell_width: int
    cell_height: int = 176
    frame: int = 5
    gap: int = 10
    margin: int = 20
    header: int = 84
    caption: int = 38
    query_gap: int = 26

    def cell(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a picture inside its frame; column 0 is the query, 1 the nearest picture."""
        pitch = 2 * self.frame + self.gap
        left = self.margin + self.frame + column * (self.cell_width + pitch) + (self.query_gap if column else 0)
        top = self.header + self.frame + row * (self.cell_height + pitch + self.caption)
        return left, top, left + self.cell_width, top + self.cell_height

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        """Width and height of the whole picture."""
        _, _, right, bottom = self.cell(rows - 1, columns - 1)
        return right + self.frame + self.margin, bottom + self.frame + self.caption + self.margin // 2


def pick_queries(average_precision: np.ndarray, count: int) -> np.ndarray:
    """Indices of queries evenly from worst to best average precision, without those that were skipped."""
    order = np.argsort(average_precision, kind='stable')[: np.isfinite(average_precision).sum()]
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]


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
    """Writes a PNG of queries from worst to best, each with the first pictures of its ranking.

    Args:
        path: file to write.
        query: features of all queries.
        gallery: features of the gallery.
        result: of `msinet_eval.protocol.rank(query, gallery)`.
        queries: how many to show.
        top: pictures for each, fewer where fewer are left.
        title: line above the picture.
        same_clothes_removed: as given to `rank`.

    Raises:
        InputError: an unreadable picture, or a file that cannot be written.
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
    """The picture that `write_ranked_lists` writes, and where things are in it."""
    picked = pick_queries(result.average_precision, queries)
    asking = query.subset(torch.as_tensor(picked))
    lists = nearest(
        asking.embeddings,
        gallery.embeddings,
        asking.identities,
        gallery.identities,
        asking.cameras,
        gallery.cameras,
        query_clothes=asking.clothes if same_clothes_removed else None,
        gallery_clothes=gallery.clothes if same_clothes_removed else None,
        k=top,
    )

    pictures = [_load(query, index) for index in picked]
    layout = _fit_layout(pictures)
    canvas = Image.new('RGB', layout.size(len(picked), 1 + top), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, layout, title or 'Ranked lists', canvas.width)
    for row, (index, picture, (found, distances)) in enumerate(zip(picked, pictures, lists, strict=True)):
        box = layout.cell(row, 0)
        _paste(canvas, picture, box)
        _solid_frame(draw, box, layout.frame, _QUERY)
        _draw_caption(draw, layout, box, f'AP {100 * result.average_precision[index]:.1f} %', _label(query, index))
        for column, (other, distance) in enumerate(zip(found, distances, strict=True), start=1):
            box = layout.cell(row, column)
            _paste(canvas, _load(gallery, other), box)
            frame = _solid_frame if gallery.identities[other] == query.identities[index] else _crossed_frame
            frame(draw, box, layout.frame, RIGHT if frame is _solid_frame else WRONG)
            _draw_caption(draw, layout, box, f'{column}.  d {distance:.3f}', _label(gallery, other))
    return canvas, layout


def _fit_layout(pictures: list[Image.Image]) -> Layout:
    """Cells as wide as most pictures are: people are tall, vehicles wide."""
    height = Layout._field_defaults['cell_height']
    aspect = float(np.median([picture.width / picture.height for picture in pictures]))
    return Layout(cell_width=round(min(max(aspect * height, 88), 264)))


def _load(features: Features, index: int) -> Image.Image:
    box = (0, 0, 0, 0) if features.boxes is None else tuple(features.boxes[index].tolist())
    return load_image(features.paths[index], box if any(box) else None)


def _label(features: Features, index: int) -> str:
    camera = '' if features.cameras is None else f'  cam {int(features.cameras[index])}'
    return f'id {int(features.identities[index])}{camera}'


def _paste(canvas: Image.Image, picture: Image.Image, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    canvas.paste(ImageOps.pad(picture, (right - left, bottom - top), color=(235, 235, 235)), (left, top))


def _solid_frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], width: int, color: tuple) -> None:
    left, top, right, bottom = box
    draw.rectangle((left - width, top - width, right + width - 1, bottom + width - 1), outline=color, width=width)


def _crossed_frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], width: int, color: tuple) -> None:
    """A dashed frame, and a cross in the upper right corner."""
    left, top, right, bottom = box
    _solid_frame(draw, box, width, color)
    dash = 9
    for start in range(left + dash, right - dash, 2 * dash):
        for edge in (top - width, bottom):
            draw.rectangle((start, edge, start + dash - 1, edge + width - 1), fill=_BACKGROUND)
    for start in range(top + dash, bottom - dash, 2 * dash):
        for edge in (left - width, right):
            draw.rectangle((edge, start, edge + width - 1, start + dash - 1), fill=_BACKGROUND)
    side = 20
    draw.rectangle((right - side, top, right - 1, top + side - 1), fill=color)
    for x0, x1 in ((right - side + 5, right - 6), (right - 6, right - side + 5)):
        draw.line((x0, top + 5, x1, top + side - 6), fill=_BACKGROUND, width=3)


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
        ('same identity', _solid_frame, RIGHT),
        ('another identity', _crossed_frame, WRONG),
    )
    for text, frame, color in kinds:
        frame(draw, (x, y, x + swatch, y + swatch), 4, color)
        draw.text((x + swatch + 12, y + swatch // 2), text, font=_font(15), fill=_TEXT, anchor='lm')
        x += swatch + 12 + round(_font(15).getlength(text)) + 34
    draw.text((x, y + swatch // 2), 'd = Euclidean distance', font=_font(15), fill=_FAINT, anchor='lm')


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
