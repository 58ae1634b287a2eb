"""An image of what a gallery has found: the query, and crops with distances, verdicts, cameras and times."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from msinet_timm.datasets.images import load_image
from msinet_timm.drawing import FAINT, INK, PAPER, draw_frame, load_font, paste_tile, shorten
from msinet_timm.errors import InputError
from msinet_timm.files import replace_file
from msinet_timm.gallery import Match, format_time

__all__ = ['write_found']

_TILE, _GAP, _FRAME, _TEXT = (96, 192), 14, 4, 62
_KINDS = {'same': 'right', 'unsure': 'removed', 'other': 'wrong'}


def write_found(
    path: str | Path, query: Image.Image, found: Sequence[tuple[Match, bytes | None]], columns: int = 6
) -> None:
    """Writes what was found as tiles, row by row, after the query.

    Frames are solid for 'same', dotted for 'unsure' and dashed for 'other'.

    Args:
        path: of the image, whose suffix tells its format.
        query: what was searched for.
        found: crops, and their JPEGs where they were kept.
        columns: tiles in a row.

    Raises:
        InputError: it cannot be written, or no kind of image is named so.
    """
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise InputError(f'{path}: no kind of image is named so: name it .png or .jpg')
    width, height = _TILE[0] + 2 * _FRAME + _GAP, _TILE[1] + 2 * _FRAME + _GAP + _TEXT
    count = len(found) + 1
    rows, columns = -(-count // columns), min(columns, count)
    sheet = Image.new('RGB', (columns * width + _GAP, rows * height + _GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), load_font(11)
    for place in range(count):
        left = _GAP + _FRAME + place % columns * width
        top = _GAP + _FRAME + place // columns * height
        box = (left, top, left + _TILE[0], top + _TILE[1])
        if not place:
            kind, lines, image = 'query', ['query'], query
        else:
            match, jpeg = found[place - 1]
            crop = match.crop
            name = f'crop {crop.id}'
            image = load_image(name, content=jpeg) if jpeg else Image.new('RGB', _TILE, FAINT)
            kind = _KINDS.get(match.verdict, 'query')
            told = f'{place}  {match.distance:.3f}  {match.verdict or ""}'
            lines = [told, crop.identity or crop.tracklet, crop.camera or '', format_time(crop.time)]
        paste_tile(sheet, image, box)
        draw_frame(draw, box, kind, _FRAME)
        for number, line in enumerate(lines):
            at = left, top + _TILE[1] + _FRAME + 4 + 14 * number
            draw.text(at, shorten(line, 20), INK if number < 2 else FAINT, font)
    replace_file(path, lambda draft: sheet.save(draft), f'{path}: cannot write this image')
