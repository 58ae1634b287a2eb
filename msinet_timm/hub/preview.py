"""The image on a model's page: a query, and what the model finds for it."""

from pathlib import Path

import torch.nn as nn
from PIL import Image, ImageDraw

from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.images import load_image
from msinet_timm.drawing import PAPER, draw_frame, paste_tile
from msinet_timm.files import replace_file

from .folder import embed_images

__all__ = ['draw_preview']

_FRAME, _CELL = 6, (96, 192)


def draw_preview(model: nn.Module, path: Path) -> None:
    """Draws a query of the sample and the five nearest of 30 images under other cameras, right ones framed green."""
    sample = create_dataset('sample')
    query = sample.query[0]
    asked = {r.identity for r in sample.query}
    others = [
        r for r in sample.gallery if r.identity in asked and (r.identity, r.camera) != (query.identity, query.camera)
    ]
    own = [r for r in others if r.identity == query.identity]
    records = [query, *own, *[r for r in others if r.identity != query.identity][:: max(1, len(others) // 30)]][:31]
    images = [load_image(r.path) for r in records]
    embeddings = embed_images(model, images)
    nearest = (embeddings[1:] @ embeddings[0]).topk(5).indices + 1
    same = [records[i].identity == query.identity for i in nearest.tolist()]
    kinds = ['query', *('right' if found else 'wrong' for found in same)]
    pitch = _CELL[0] + 3 * _FRAME
    sheet = Image.new('RGB', (len(kinds) * pitch, _CELL[1] + 2 * _FRAME), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (index, kind) in enumerate(zip([0, *nearest.tolist()], kinds, strict=True)):
        left = _FRAME + number * pitch
        box = left, _FRAME, left + _CELL[0], _FRAME + _CELL[1]
        paste_tile(sheet, images[index], box)
        draw_frame(draw, box, kind, _FRAME)
    replace_file(path, lambda partial: sheet.save(partial, format='PNG'))
