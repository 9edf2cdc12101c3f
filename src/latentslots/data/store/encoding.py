"""Encoded pictures, as files and Parquet columns hold them, to and from PIL."""

import io
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from latentslots.data.errors import DataError
from latentslots.data.transforms import to_rgb

# Everything that PIL has been seen to raise on a broken file. An error that is not listed here is
# a defect of ours, and should surface as one.
BROKEN_PICTURE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
COMPRESS_LEVEL = 4
"""Of PNGs: 2.6 times as fast as the usual 6, for 5 % more bytes of a textured scene."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)

Encoded = bytes | bytearray | memoryview
Picture = Encoded | Image.Image | np.ndarray
"""Encoded bytes, which are kept as they came, or pixels, which become a PNG."""


def encode_image(image: Picture) -> bytes:
    """Encode an image losslessly, or pass on the bytes of one that is encoded already.

    Args:
        image: Encoded bytes, a PIL image, or a uint8 array [H, W, 3] or [H, W].
    """
    if isinstance(image, Encoded):
        return bytes(image)
    if isinstance(image, np.ndarray):
        is_picture = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not is_picture or image.size == 0:
            raise DataError(
                "an image array must be uint8 of shape [H, W, 3] or [H, W], "
                f"got {image.dtype} of shape {list(image.shape)}"
            )
        image = Image.fromarray(image)
    return _png(image if image.mode == "L" else to_rgb(image))


def encode_ids(ids: Picture) -> bytes:
    """Encode a segmentation as a PNG of 8 bits, or of 16 where an id is above 255.

    Args:
        ids: Encoded bytes, a PIL image of ids, or an integer or boolean array [H, W].
    """
    if isinstance(ids, Encoded):
        return bytes(ids)
    if isinstance(ids, Image.Image):
        ids = np.asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or not (ids.dtype == bool or ids.dtype.kind in "iu"):
        raise DataError(
            "a segmentation must be an array [H, W] of integers, "
            f"got {ids.dtype} of shape {list(ids.shape)}"
        )
    _check_range(ids)
    return _png(Image.fromarray(ids.astype(np.uint8 if ids.max() < 256 else np.uint16)))


def ids_picture(ids: np.ndarray) -> Image.Image:
    """A segmentation `[H, W]` of integers as a picture of 16 bits.

    Raises:
        DataError: If an id is not in 0..65535.
    """
    _check_range(ids)
    return Image.fromarray(ids.astype(np.uint16))


def _check_range(ids: np.ndarray) -> None:
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest > 65535:
        raise DataError(f"ids of a segmentation must be in 0..65535, got {lowest}..{highest}")


def picture_header(encoded: bytes) -> tuple[tuple[int, int], str]:
    """Read upright width and height, and the mode, from a picture's header, without decoding it.

    Raises:
        DataError: If it is no picture, or a PNG without its end.
    """
    if encoded.startswith(b"\x89PNG") and b"IEND" not in encoded[-64:]:
        raise DataError(f"a PNG of {len(encoded)} bytes breaks off before its end")
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            width, height = picture.size
            # PIL would decode a whole PNG to look for an orientation, which few of them have.
            may_be = picture.format != "PNG" or b"eXIf" in encoded
            turned = may_be and picture.getexif().get(_ORIENTATION) in _QUARTER_TURNS
            return ((height, width) if turned else (width, height)), picture.mode
    except BROKEN_PICTURE as error:
        raise DataError(f"{len(encoded)} bytes are not an image that can be read") from error


def decode(cell: Mapping[str, Any], *, where: str) -> Image.Image:
    """Decode one cell of an image column completely, so that a truncated file is found here.

    Args:
        cell: `{"bytes": ..., "path": ...}`; the bytes win where both are known.
        where: How a message names the cell, such as `row 7`.
    """
    encoded, path = cell["bytes"], cell["path"]
    name = f"{where} ({path})" if path else where
    if encoded is None and path is None:
        raise DataError(f"{name} holds no image")
    try:
        encoded = Path(path).read_bytes() if encoded is None else encoded
        picture = Image.open(io.BytesIO(encoded))
        picture.load()
    except BROKEN_PICTURE as error:
        raise DataError(f"{name} cannot be decoded: {_reason(error)}") from error
    return picture


def read_picture(path: str | os.PathLike[str]) -> tuple[bytes, Image.Image]:
    """Read a picture file whole: its bytes, and the decoded picture as proof that it is sound."""
    encoded = Path(path).read_bytes()
    return encoded, decode({"bytes": encoded, "path": None}, where=str(path))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=COMPRESS_LEVEL)
    return buffer.getvalue()


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a known format"
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    return str(error) or type(error).__name__
