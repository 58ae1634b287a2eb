"""The image on a model's page: a query, and what the model finds for it."""

from pathlib import Path

import torch.nn as nn
from PIL import Image, ImageOps

from msinet_timm.datasets import create_dataset

from .folder import embed_images

__all__ = ['draw_preview']

_FRAME, _HEIGHT = 6, 192
_RIGHT, _WRONG, _QUERY = '#1a9850', '#d73027', '#555555'


def draw_preview(model: nn.Module, path: Path) -> None:
    """Draws a query of the sample and the five nearest of 30 images under other cameras, right ones framed green."""
    sample = create_dataset('sample')
    query = sample.query[0]
    asked = {r.identity for r in sample.query}
    others = [r for r in sample.gallery if r.identity in asked and r[1:3] != query[1:3]]
    own = [r for r in others if r.identity == query.identity]
    records = [query, *own, *[r for r in others if r.identity != query.identity][:: max(1, len(others) // 30)]][:31]
    images = [Image.open(r.path).convert('RGB') for r in records]
    embeddings = embed_images(model, images)
    nearest = (embeddings[1:] @ embeddings[0]).topk(5).indices + 1
    tiles = [(images[0], _QUERY)]
    tiles += [(images[i], _RIGHT if records[i].identity == query.identity else _WRONG) for i in nearest.tolist()]
    framed = [ImageOps.expand(ImageOps.contain(image, (_HEIGHT, _HEIGHT)), _FRAME, color) for image, color in tiles]
    sheet = Image.new('RGB', (sum(tile.width + _FRAME for tile in framed), framed[0].height), 'white')
    left = 0
    for tile in framed:
        sheet.paste(tile, (left, 0))
        left += tile.width + _FRAME
    sheet.save(path)
