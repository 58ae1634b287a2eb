"""Images of images: framed tiles with captions, as ranked lists, model cards and contact sheets show them."""

from PIL import Image, ImageDraw, ImageFont, ImageOps

__all__ = [
    'FAINT',
    'INK',
    'PAPER',
    'QUERY',
    'REMOVED',
    'RIGHT',
    'WRONG',
    'draw_frame',
    'load_font',
    'paste_tile',
    'shorten',
    'to_hex',
]

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]

# Colours that colour-blind people tell apart; the frames also differ in shape: solid, dashed and crossed, dotted
RIGHT: Color = (0, 158, 115)
WRONG: Color = (213, 60, 0)
REMOVED: Color = (120, 120, 132)
QUERY: Color = (40, 40, 40)
#: Of text, of what is less important, and of what is below.
INK: Color = (30, 30, 30)
FAINT: Color = (110, 110, 110)
PAPER: Color = (255, 255, 255)

_EDGE = (235, 235, 235)  # beside images of another shape than their tile
_COLORS = {'query': QUERY, 'right': RIGHT, 'wrong': WRONG, 'removed': REMOVED}
_DASHES = {'wrong': 9, 'removed': 3}


def to_hex(color: Color) -> str:
    """A colour as web pages and matplotlib take it."""
    return '#{:02x}{:02x}{:02x}'.format(*color)


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all captions, in pixels."""
    return ImageFont.load_default(size)


def shorten(text: str, length: int) -> str:
    """A text of at most `length` letters, at least 1: the middle of a longer one is left out."""
    if len(text) <= length:
        return text
    start = length // 2
    return f'{text[:start]}…{text[len(text) - (length - start - 1) :]}'


def paste_tile(canvas: Image.Image, image: Image.Image, box: Box) -> None:
    """Pastes an image into a box, as large as it fits."""
    left, top, right, bottom = box
    canvas.paste(ImageOps.pad(image, (right - left, bottom - top), color=_EDGE), (left, top))


def draw_frame(draw: ImageDraw.ImageDraw, box: Box, kind: str, width: int) -> None:
    """Frames a box from outside.

    Args:
        draw: of the canvas.
        box: left, top, right and bottom.
        kind: `query` and `right` are solid, `wrong` is dashed, with a cross inside, `removed` is dotted.
        width: of the frame, in pixels.
    """
    left, top, right, bottom = box
    color, dash = _COLORS[kind], _DASHES.get(kind)
    draw.rectangle((left - width, top - width, right + width - 1, bottom + width - 1), outline=color, width=width)
    for start in range(left + dash, right - dash, 2 * dash) if dash else ():
        for edge in (top - width, bottom):
            draw.rectangle((start, edge, start + dash - 1, edge + width - 1), fill=PAPER)
    for start in range(top + dash, bottom - dash, 2 * dash) if dash else ():
        for edge in (left - width, right):
            draw.rectangle((edge, start, edge + width - 1, start + dash - 1), fill=PAPER)
    if kind == 'wrong' and right - left > 2 * _CROSS:
        draw.rectangle((right - _CROSS, top, right - 1, top + _CROSS - 1), fill=color)
        for x0, x1 in ((right - _CROSS + 5, right - 6), (right - 6, right - _CROSS + 5)):
            draw.line((x0, top + 5, x1, top + _CROSS - 6), fill=PAPER, width=3)


_CROSS = 20  # side of its field, in pixels
