"""Grids of images, each with a line or two below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anynet_dist.system.errors import UserError
from anynet_dist.system.files import atomic_path

SMALLEST_CELL, LARGEST_CELL = 96, 160
"""Sides in pixels; smaller images are enlarged by whole factors, larger ones shrunk."""
MARGIN, FONT_SIZE, LINE = 6, 12, 15
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
PAPER, INK = (255, 255, 255), (30, 30, 30)


def write_grid(
    out: Path, images: Sequence[NDArray[np.uint8]], captions: Sequence[str], columns: int = 8
) -> None:
    """Write images (H, W, 3) of any sizes as one picture, row by row; JPEG or PNG by the name's ending.

    A caption may have several lines; what is wider than its image is cut short. Raises UserError for another
    ending.
    """
    kind = FORMATS.get(out.suffix.lower())
    if kind is None:
        raise UserError(f"{out}: pictures are .png, .jpg or .jpeg files")
    shown = [_sized(Image.fromarray(image)) for image in images]
    columns = max(1, min(columns, len(shown)))
    side = max([SMALLEST_CELL, *(max(image.size) for image in shown)])
    lines = max([0, *(len(caption.splitlines()) for caption in captions)])
    width, height = side + MARGIN, side + MARGIN + lines * LINE
    rows = math.ceil(len(shown) / columns)
    grid = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), PAPER)
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(FONT_SIZE)
    for number, (image, caption) in enumerate(zip(shown, captions, strict=True)):
        x, y = MARGIN + number % columns * width, MARGIN + number // columns * height
        grid.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
        for line, text in enumerate(caption.splitlines()):
            draw.text((x, y + side + line * LINE), _cut(text, side, draw, font), INK, font)
    with atomic_path(out) as temporary:
        grid.save(temporary, format=kind, quality=90)


def _sized(image: Image.Image) -> Image.Image:
    side = max(image.size)
    if side > LARGEST_CELL:
        scale = LARGEST_CELL / side
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(size, Image.Resampling.LANCZOS)
    factor = max(1, SMALLEST_CELL // side)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _cut(
    text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
