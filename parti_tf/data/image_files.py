"""Pictures as files: PNGs under names that say their caption, and grids with the captions written in."""

import functools
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Ours: the look of a grid, in pixels. Pictures narrower than a caption can be read at are enlarged.
_LEAST_WIDTH = 128
_GAP = 8
_FONT_SIZE = 13
_LINE_HEIGHT = 17
_BACKGROUND = (244, 244, 244)  # not white, so that the edge of a picture on white is seen
_TEXT_COLOUR = (20, 20, 20)
_UNFINISHED = ".unfinished"


def write_png(path: str | os.PathLike, image: np.ndarray) -> Path:
    """Writes a picture as a PNG file and gives its path; folders are made, and the file is there whole or not at all.

    Args:
      path: name of the file.
      image: uint8 [height, width, 3], RGB.

    Raises:
      ValueError: `image` has another rank or dtype.
    """
    _require_pictures(image, rank=3)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + _UNFINISHED)
    try:
        Image.fromarray(image).save(aside, format="PNG", optimize=True)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def write_samples(folder: str | os.PathLike, prompts: Sequence[str], images: np.ndarray) -> list[Path]:
    """Writes each sample of each prompt as its own PNG, `0000_a-red-heart_00.png`, and gives their paths.

    Args:
      folder: where the files go.
      prompts: captions, one for each row of `images`.
      images: uint8 [prompts, samples, height, width, 3], RGB.

    Raises:
      ValueError: `images` has another rank or dtype, or not one row for each prompt.
    """
    _require_pictures(images, rank=5)
    if len(prompts) != len(images):
        raise ValueError(f"{len(prompts)} prompts do not name {len(images)} rows of pictures")
    return [
        write_png(Path(folder) / f"{row:04d}_{file_stem(prompt)}_{sample:02d}.png", image)
        for row, prompt in enumerate(prompts)
        for sample, image in enumerate(images[row])
    ]


def file_stem(caption: str, max_length: int = 40) -> str:
    """Gives a caption as part of a file name: `A red heart!` -> `a-red-heart`; `picture` where nothing is left."""
    words = re.sub(r"[\W_]+", "-", caption.lower()).strip("-")
    return words[:max_length].rstrip("-") or "picture"


def labelled_grid(images: np.ndarray, labels: Sequence[str], columns: int) -> np.ndarray:
    """Gives pictures laid out in rows, with a label written above each.

    Neighbours in a row that share a label share one line of text. Small pictures are enlarged by a whole
    factor, so that their pixels stay what they are.

    Args:
      images: uint8 [count, height, width, 3], RGB.
      labels: text of each picture; "" writes nothing.
      columns: pictures in a row.

    Returns:
      uint8 [grid height, grid width, 3], RGB.

    Raises:
      ValueError: no pictures, another rank or dtype, not one label for each, or `columns` below 1.
    """
    _require_pictures(images, rank=4)
    if len(labels) != len(images) or not labels:
        raise ValueError(
            f"{len(labels)} labels do not name {len(images)} pictures; give at least one, and one for each"
        )
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be at least 1")
    columns = min(columns, len(images))
    factor = max(1, -(-_LEAST_WIDTH // images.shape[2]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    starts = range(0, len(images), columns)
    rows = [_draw_row(images[start : start + columns], labels[start : start + columns], columns) for start in starts]
    return np.pad(np.concatenate(rows), ((0, _GAP), (0, 0), (0, 0)), constant_values=_BACKGROUND[0])


def _draw_row(images: np.ndarray, labels: Sequence[str], columns: int) -> np.ndarray:
    height, width = images.shape[1:3]
    spans = [(label, len(list(group))) for label, group in itertools.groupby(labels)]
    texts = [_wrap(label, span * (width + _GAP) - _GAP) for label, span in spans]
    top = _GAP + _LINE_HEIGHT * max(map(len, texts))
    canvas = Image.new("RGB", (_GAP + columns * (width + _GAP), top + height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    firsts = itertools.accumulate((span for _, span in spans), initial=0)
    for column, lines in zip(firsts, texts, strict=False):  # one more first than spans
        position = (_GAP + column * (width + _GAP), _GAP // 2)
        draw.multiline_text(position, "\n".join(lines), _TEXT_COLOUR, _font(), spacing=_LINE_HEIGHT - _FONT_SIZE)
    for column, image in enumerate(images):
        canvas.paste(Image.fromarray(image), (_GAP + column * (width + _GAP), top))
    return np.asarray(canvas)


def _wrap(text: str, width: int) -> list[str]:
    """Gives the lines of a text that fit `width` pixels; a word too long for a line is broken."""
    lines: list[str] = []
    line = ""
    for piece in re.findall(r"\S+\s*", text):
        if line and _font().getlength((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        for character in piece:
            if line and not character.isspace() and _font().getlength(line + character) > width:
                lines.append(line)
                line = ""
            line += character
    return [*lines, line.rstrip()] if line else lines


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: Pillow's own default font has no letter beyond ASCII."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), _FONT_SIZE)


def _require_pictures(images: np.ndarray, rank: int) -> None:
    shape = tuple(images.shape)
    if images.dtype != np.uint8 or len(shape) != rank or shape[-1] != 3:
        raise ValueError(
            f"pictures are {images.dtype} {list(shape)}; they must be uint8 of rank {rank} with 3 channels"
        )
