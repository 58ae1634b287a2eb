"""What HTML pages for people are made of: images inside the file, ranked lists, and the page around them."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from PIL import Image

from msinet_eval.features.types import Features
from msinet_timm.errors import InputError

from .ranked_lists import Found, load_listed

__all__ = [
    'LEGEND',
    'MAX_BYTES',
    'draw_found',
    'draw_list',
    'draw_query',
    'figure',
    'jpeg_encoder',
    'percent',
    'svg_image',
    'write_page',
]

#: A page is never larger.
MAX_BYTES = 5_000_000

# height in pixels and JPEG quality of images, tried until a page is small enough
_DETAILS = ((192, 84), (144, 80), (112, 74), (80, 66), (56, 60))

#: What the frames mean.
LEGEND = (
    '<ul class="legend"><li><i class="frame query"></i>query</li><li><i class="frame right"></i>same identity</li>'
    '<li><i class="frame wrong"></i>another identity</li>'
    '<li><i class="frame removed"></i>query’s own camera or clothes: removed by the rule, not ranked</li></ul>'
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

Encoder = Callable[[Image.Image], str]


def write_page(path: Path, title: str, draw: Callable[[Encoder], str]) -> None:
    """Writes a page with images as fine as 5 MB allow.

    Args:
        path: of the HTML file.
        title: of the window.
        draw: makes the page's body from a function that turns images into data URIs; called again with a coarser one
            where the page was too large.

    Raises:
        InputError: the page is too large even so, or cannot be written.
    """
    style = (files(__package__) / 'report.css').read_text(encoding='utf-8')
    for height, quality in _DETAILS:
        page = _PAGE.format(title=escape(title), style=style, body=draw(jpeg_encoder(height, quality))).encode()
        if len(page) <= MAX_BYTES:
            break
    else:
        raise InputError(f'{path}: the page would be larger than 5 MB: ask for fewer models or queries in it')
    try:
        path.write_bytes(page)
    except OSError as e:
        raise InputError(f'{path}: cannot write the page ({e.strerror})') from e


def jpeg_encoder(height: int, quality: int) -> Encoder:
    """A function from images to data URIs of JPEGs that are no higher than `height` pixels."""

    def encode(image: Image.Image) -> str:
        width = max(1, round(image.width * height / image.height))
        if image.height > height:
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, 'JPEG', quality=quality, optimize=True)
        return _data_uri('image/jpeg', file.getvalue())

    return encode


def svg_image(svg: bytes, description: str) -> str:
    """An image element."""
    return f'<img src="{_data_uri("image/svg+xml", svg)}" alt="{escape(description)}">'


def figure(heading: str, note: str, image: str, wide: bool = False) -> str:
    """A chart under its heading and a sentence on how to read it; `wide` if it takes the room of two."""
    style = ' class="full"' if wide else ''
    return (
        f'<figure{style}><figcaption><b>{escape(heading)}</b><span>{escape(note)}</span></figcaption>{image}</figure>'
    )


def percent(value: float, digits: int = 1) -> str:
    """A share of one as a number of percent, without the sign."""
    return f'{100 * value:.{digits}f}'


def draw_list(query: str, found: Iterable[str], wide: bool) -> str:
    """A row: the query's cell, and those of what was found.

    Args:
        query: of `draw_query`.
        found: each of `draw_found`.
        wide: whether images are wider than high, as those of vehicles are.
    """
    return f'<div class="list{" wide" if wide else ""}">{query}<div class="found">{"".join(found)}</div></div>'


def draw_query(query: Features, index: int, lines: Sequence[str], encode: Encoder) -> str:
    """A query's cell, with lines of text below its image, the first in bold."""
    return _cell('query', query, index, lines, encode, 'cell asked')


def draw_found(gallery: Features, found: Found, encode: Encoder) -> str:
    """The cell of a gallery image, with its rank and distance below."""
    first = str(found.rank) if found.rank else 'removed'
    lines = [first, f'd {found.distance:.3f}', *_names(gallery, found.index)]
    return _cell(found.kind, gallery, found.index, lines, encode, 'cell')


def _names(features: Features, index: int) -> list[str]:
    camera = [] if features.cameras is None else [f'cam {features.cameras[index]}']
    return [f'id {features.identities[index]}', *camera]


def _cell(kind: str, features: Features, index: int, lines: Sequence[str], encode: Encoder, style: str) -> str:
    source = encode(load_listed(features, index))
    name = escape(Path(features.paths[index]).name)
    spans = ''.join(f'<span>{escape(line)}</span>' for line in lines[1:])
    return (
        f'<figure class="{style}" title="{name}"><div class="frame {kind}"><img src="{source}" alt="{kind}: {name}">'
        f'</div><figcaption><b>{escape(lines[0])}</b>{spans}</figcaption></figure>'
    )


def _data_uri(kind: str, data: bytes) -> str:
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'
