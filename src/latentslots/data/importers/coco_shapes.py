"""Shapes of COCO's instances: polygons and run lengths, checked before pycocotools decodes them.

Its C code trusts its input: it crashes on coordinates that are not finite, and fills what run
lengths leave out with what is in memory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from latentslots.data.errors import DataError

MARGIN = 1.0
"""How far outside of the image the points of a polygon may lie, in widths and heights of it."""
_FEWEST_NUMBERS = 6
"""Of a polygon: three points."""
_FIRST_LETTER, _LETTERS = 48, 64
_BITS, _SIGN, _MORE = 5, 0x10, 0x20


@dataclass(frozen=True)
class Shape:
    """The region of an instance: the union of its parts.

    Attributes:
        polygons: Lists of x and y by turns, in pixels.
        runs: Lists of run lengths, of background first and then by turns, down the columns.
        num_left_out: Polygons of fewer than three points, which are not among `polygons`.
    """

    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[tuple[int, ...], ...] = ()
    num_left_out: int = 0

    def __bool__(self) -> bool:
        """Whether it has a part."""
        return bool(self.polygons or self.runs)


def parse_shape(shape: Any, height: int, width: int) -> Shape:
    """Check the `segmentation` of an annotation.

    Args:
        shape: A list of polygons and run lengths, or run lengths alone, `{"size", "counts"}`.
        height: Height of the image.
        width: Width of the image.

    Returns:
        The shape, without polygons of fewer than three points; none of it is left of an annotation
        that is only a box.

    Raises:
        DataError: If it is anything else, or does not fit the image.
    """
    if shape is None:
        return Shape()
    if isinstance(shape, Mapping):
        return Shape(runs=(_parse_runs(shape, height, width),)) if shape else Shape()
    if not isinstance(shape, list):
        raise DataError(
            f"a segmentation must be polygons or run lengths, got {type(shape).__name__}"
        )
    polygons = [part for part in shape if not isinstance(part, Mapping)]
    parsed = [_parse_polygon(part, height, width) for part in polygons]
    runs = [_parse_runs(part, height, width) for part in shape if isinstance(part, Mapping)]
    kept = tuple(part for part in parsed if len(part) >= _FEWEST_NUMBERS)
    return Shape(kept, tuple(runs), len(parsed) - len(kept))


def decode_shape(shape: Shape, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Fill a shape.

    Raises:
        DataError: If pycocotools is not installed.
    """
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise DataError(
            "COCO's instances require pycocotools: pip install 'latentslots[coco]'"
        ) from None
    filled = np.zeros((height, width), bool)
    if shape.polygons:
        parts = coco.frPyObjects([list(part) for part in shape.polygons], height, width)
        filled |= coco.decode(coco.merge(parts)).astype(bool)
    for runs in shape.runs:
        values = np.arange(len(runs)) % 2 == 1
        filled |= np.repeat(values, runs).reshape(width, height).T
    return filled


def _parse_polygon(polygon: Any, height: int, width: int) -> tuple[float, ...]:
    if not isinstance(polygon, list):
        raise DataError(f"a polygon must be a list of numbers, got {_shorten(polygon)}")
    if len(polygon) % 2:
        raise DataError(f"a polygon must have an x and a y for each point, got {len(polygon)}")
    limits = (width, height)
    for index, number in enumerate(polygon):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise DataError(f"coordinates of a polygon must be numbers, got {_shorten(number)}")
        limit = limits[index % 2]
        if not math.isfinite(number) or not -MARGIN * limit <= number <= (1 + MARGIN) * limit:
            raise DataError(
                f"a polygon has the {'xy'[index % 2]} {number:g}, far outside of the image of "
                f"{width}x{height} pixels"
            )
    return tuple(map(float, polygon))


def _parse_runs(shape: Mapping[str, Any], height: int, width: int) -> tuple[int, ...]:
    size, counts = shape.get("size"), shape.get("counts")
    if size != [height, width]:
        raise DataError(
            f"run lengths must have the size [{height}, {width}] of the image, got {_shorten(size)}"
        )
    if isinstance(counts, str):
        runs = _uncompress(counts)
    elif isinstance(counts, list):
        runs = counts
    else:
        raise DataError(f"run lengths must be a text or a list of numbers, got {_shorten(counts)}")
    for run in runs:
        if isinstance(run, bool) or not isinstance(run, int) or run < 0:
            raise DataError(f"run lengths must be integers of 0 or more, got {_shorten(run)}")
    if sum(runs) != height * width:
        raise DataError(
            f"run lengths must fill the {height * width} pixels of the image, they have {sum(runs)}"
        )
    return tuple(runs)


def _uncompress(text: str) -> Sequence[int]:
    """Decode compressed run lengths.

    A number is in groups of five bits, the lowest first, as letters from `0` on; another bit says
    that there are more, and the highest bit of the last group is the sign. From the fourth number
    on, they are differences from the last but one.
    """
    runs: list[int] = []
    number = shift = 0
    for letter in text:
        code = ord(letter) - _FIRST_LETTER
        if not 0 <= code < _LETTERS:
            raise DataError(f"compressed run lengths have the letter {letter!r}")
        number |= (code & (_MORE - 1)) << shift
        shift += _BITS
        if code & _MORE:
            continue
        if code & _SIGN:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise DataError("compressed run lengths are cut off")
    return runs


def _shorten(value: Any) -> str:
    """Show a value in a message, which never repeats a whole file."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
