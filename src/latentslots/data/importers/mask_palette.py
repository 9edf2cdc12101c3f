"""Ids of masks that are pictures: a file states which color is which id."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from latentslots.data.errors import DataError
from latentslots.files import read_json

Palette = Mapping[str, int]
"""Ids by color, which is written `#rrggbb` in lower case."""
_COLOR = re.compile("#[0-9a-fA-F]{6}")
_MODES = ("1", "L", "P", "RGB", "RGBA")


def read_palette(path: str | os.PathLike[str]) -> Palette:
    """Read a JSON file of ids by color: `{"#000000": 0, "#ff0000": 1}`; 0 is the background.

    Several colors may be the same id.

    Raises:
        DataError: If there is no such file, or it is no such object.
    """
    if not Path(path).is_file():
        raise DataError(f"there is no file {path}")
    try:
        content = read_json(Path(path))
    except ValueError as error:
        raise DataError(f"{path} is no palette: {error}") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f'{path} is no palette: it must be an object such as {{"#ff0000": 1}}')
    palette: dict[str, int] = {}
    for color, number in content.items():
        if not _COLOR.fullmatch(color):
            raise DataError(f"{path} is no palette: a color is written #rrggbb, got {color[:20]!r}")
        if type(number) is not int or not 0 <= number <= 65535:
            raise DataError(f"{path} is no palette: the id of {color} must be in 0..65535")
        if palette.setdefault(color.lower(), number) != number:
            raise DataError(f"{path} is no palette: it has two ids for {color.lower()}")
    return dict(sorted(palette.items()))


def ids_of_colors(mask: Image.Image, palette: Palette) -> Image.Image:
    """The ids of the colors of a mask: an image of 8 bits, or of 16 if an id is above 255.

    Raises:
        DataError: If a pixel is of another color, or not opaque.
    """
    if mask.mode not in _MODES:
        raise DataError(f"a mask of colors must have 8 bits per channel, got mode {mask.mode!r}")
    rgba = np.asarray(mask.convert("RGBA")).astype(np.int64)  # [H, W, 4]
    if (rgba[..., 3] < 255).any():
        raise DataError("a mask of colors must be opaque")
    colors = rgba[..., 0] * 65536 + rgba[..., 1] * 256 + rgba[..., 2]
    found, places, index = np.unique(colors, return_index=True, return_inverse=True)
    names = [f"#{color:06x}" for color in found.tolist()]
    for name, place in zip(names, places.tolist(), strict=True):
        if name not in palette:
            y, x = divmod(place, mask.width)
            raise DataError(f"the palette has no color {name}, which the mask has at ({x}, {y})")
    ids = np.array([palette[name] for name in names])[index.reshape(colors.shape)]
    return Image.fromarray(ids.astype(np.uint8 if ids.max() < 256 else np.uint16))
