"""An image of a data set: some identities of each part, each with its images in a row."""

import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from msinet_timm.datasets.images import UnreadableImageError, load_image
from msinet_timm.datasets.records import Record, ReIDDataset, sort_names
from msinet_timm.drawing import FAINT, INK, PAPER, WRONG, load_font, paste_tile
from msinet_timm.errors import InputError
from msinet_timm.files import replace_file

__all__ = ['draw_contact_sheet', 'write_contact_sheet']

CELL = (88, 176)
CAPTION = 18
LABEL = 130
GAP = 6


def write_contact_sheet(path: str | Path, dataset: ReIDDataset) -> None:
    """Writes `draw_contact_sheet(dataset)` as PNG.

    Raises:
        InputError: the file cannot be written, or is not named `.png`.
    """
    if Path(path).suffix.lower() != '.png':
        raise InputError(f'--contact-sheet {path}: the file name must end in .png')
    sheet = draw_contact_sheet(dataset)
    words = f'--contact-sheet {path}: cannot write'
    replace_file(path, lambda draft: sheet.save(draft, format='PNG', optimize=True), words)


def draw_contact_sheet(dataset: ReIDDataset, identities: int = 6, images: int = 10, seed: int = 0) -> Image.Image:
    """Random identities to train on and to find, each with up to so many images, evenly from all cameras.

    Of identities to find, queries come first. An image that cannot be read is left empty.
    """
    rows = []
    for label, parts in (('train', [dataset.train]), ('test', [dataset.query, dataset.gallery])):
        names = sort_names(r.identity for r in next((part for part in parts if part), ()))
        order = {camera: n for n, camera in enumerate(sort_names(r.camera for p in parts for r in p if r.camera))}
        for identity in sort_names(random.Random(seed).sample(names, min(identities, len(names)))):
            mine = [
                sorted((r for r in part if r.identity == identity), key=lambda r: (order.get(r.camera, 0), r.path))
                for part in parts
            ]
            shown = [record for part in mine for record in part]
            kinds = ' + '.join(str(len(part)) for part in mine if part)
            rows.append((f'{label}\nid {identity}\n{kinds} images', _evenly(shown, images)))
    width, height = CELL[0] + GAP, CELL[1] + CAPTION + GAP
    sheet = Image.new('RGB', (LABEL + images * width + GAP, max(1, len(rows)) * height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for y, (label, shown) in enumerate(rows):
        top = GAP + y * height
        draw.multiline_text((GAP, top), label, fill=INK, font=load_font(14))
        for x, record in enumerate(shown):
            _draw_cell(sheet, draw, LABEL + x * width, top, record)
    return sheet


def _evenly(records: Sequence[Record], count: int) -> list[Record]:
    count = min(count, len(records))
    return [records[i * len(records) // count] for i in range(count)]


def _draw_cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, record: Record) -> None:
    box = (left, top, left + CELL[0], top + CELL[1])
    try:
        paste_tile(sheet, load_image(record.path, record.box), box)
    except UnreadableImageError:
        draw.rectangle((*box[:2], box[2] - 1, box[3] - 1), outline=WRONG, width=2)
    caption = '' if record.camera is None else f'cam {record.camera}'
    draw.text((left, top + CELL[1] + 2), caption, fill=FAINT, font=load_font(12))
