"""Encoding and decoding of images, as files and Parquet columns hold them."""

import io
import logging
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from latentslots.data.errors import DataError
from latentslots.data.transforms import DEEP_MODES, to_rgb, used_bits

logger = logging.getLogger(__name__)

# All errors that PIL is known to raise for broken files. Any other error is a bug of this package
# and must surface as one.
DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
PARSING_ERRORS = (
    *DECODING_ERRORS,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
)
"""And those of PIL alone, in damaged files (tests/fuzz.py)."""
COMPRESS_LEVEL = 4
"""Level of PNGs: 2.6 times as fast as the default of 6, with 5 % more bytes for textured scenes."""
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff",
    ".avif", ".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".gif", ".mpo",
)  # fmt: skip
"""Endings of images, as far as PIL reads them."""
LOSSY_FORMATS = ("JPEG", "MPO", "AVIF", "JPEG2000")
"""Formats of images whose pixels are not those that were saved, apart from WebP."""
_WEBP_HEADER = 4096
_DARKEST = 16
"""Largest value, of 8 bits, in an image of three channels that is all but black: its 16 bits per
channel hold 12 or fewer."""
_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)

Encoded = bytes | bytearray | memoryview
ImageLike = Encoded | Image.Image | np.ndarray
"""Encoded bytes, which are stored unchanged, or pixels, which are encoded as PNG."""


def encode_image(image: ImageLike) -> bytes:
    """Encode an image losslessly; encoded bytes are returned unchanged.

    Args:
        image: Encoded bytes, a PIL image, or a uint8 array [H, W, 3] or [H, W].
    """
    if isinstance(image, Encoded):
        return bytes(image)
    if isinstance(image, np.ndarray):
        has_image_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not has_image_shape or image.size == 0:
            raise DataError(
                "an image array must be uint8 of shape [H, W, 3] or [H, W], "
                f"got {image.dtype} of shape {list(image.shape)}"
            )
        image = Image.fromarray(image)
    return _png(image if image.mode == "L" else to_rgb(image))


def encode_ids(ids: ImageLike) -> bytes:
    """Encode a segmentation as a PNG of 8 bits, or of 16 bits if an id is above 255.

    Args:
        ids: Encoded bytes, a PIL image of ids, or an integer or boolean array [H, W].
    """
    if isinstance(ids, Encoded):
        refuse_lossy(bytes(ids))
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


def ids_to_image(ids: np.ndarray) -> Image.Image:
    """Convert a segmentation `[H, W]` of integers to an image of 16 bits.

    Raises:
        DataError: If an id is not in 0..65535.
    """
    _check_range(ids)
    return Image.fromarray(ids.astype(np.uint16))


def _check_range(ids: np.ndarray) -> None:
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest > 65535:
        raise DataError(f"ids of a segmentation must be in 0..65535, got {lowest}..{highest}")


def read_header(encoded: bytes) -> tuple[tuple[int, int], str]:
    """Read size and mode of an encoded image without decoding its pixels.

    Returns:
        Width and height after the EXIF rotation, and PIL's mode.

    Raises:
        DataError: If the bytes are not an image, or a truncated PNG.
    """
    if encoded.startswith(b"\x89PNG") and b"IEND" not in encoded[-64:]:
        raise DataError(f"a PNG of {len(encoded)} bytes is truncated")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
            # PIL decodes a whole PNG to find its orientation, which few PNGs have.
            may_be_rotated = image.format != "PNG" or b"eXIf" in encoded
            rotated = may_be_rotated and image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
            return ((height, width) if rotated else (width, height)), image.mode
    except PARSING_ERRORS as error:
        raise DataError(f"{len(encoded)} bytes are not an image that can be read") from error


def decode(cell: Mapping[str, Any], *, where: str) -> Image.Image:
    """Decode one cell of an image column.

    All pixels are decoded at once, so that a truncated file is reported here.

    Args:
        cell: `{"bytes": ..., "path": ...}`; the bytes take precedence.
        where: Name of the cell in error messages, such as `row 7`.

    Raises:
        DataError: If the image is missing or broken.
    """
    encoded: Any = cell.get("bytes")
    path: Any = cell.get("path")
    name = f"{where} ({path})" if path else where
    if encoded is None and path is None:
        raise DataError(f"{name} holds no image")
    try:
        encoded = Path(path).read_bytes() if encoded is None else encoded
        image = Image.open(io.BytesIO(encoded))
        is_deep = len(image.getbands()) >= 3 and any(";16" in str(tile) for tile in image.tile)
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        image.load()
    except PARSING_ERRORS as error:
        raise DataError(f"{name} cannot be decoded: {_reason(error)}") from error
    if pages > 1:
        raise DataError(f"{name} has {pages} pages: save each of them as a file")
    if is_deep and np.asarray(image)[..., :3].max() < _DARKEST:
        raise DataError(
            f"{name} has 16 bits per channel, of which no more than 12 are used, so that it would "
            "be black: save it with 8 bits"
        )
    return image


def decode_ids(cell: Mapping[str, Any], *, where: str) -> Image.Image:
    """Decode one cell of a column of ids.

    Raises:
        DataError: If it is missing, broken, or was saved in a lossy format, so that its values are
            no ids any more.
    """
    image = decode(cell, where=where)
    encoded = cell.get("bytes")
    encoded = Path(cell["path"]).read_bytes() if encoded is None else encoded
    try:
        refuse_lossy(encoded)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return image


def refuse_lossy(encoded: bytes) -> None:
    """Refuse encoded ids in a format that changes values; the content counts, not the ending.

    Raises:
        DataError: If the format is lossy.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            name = image.format
    except PARSING_ERRORS:
        return  # which is reported where they are decoded
    # Lossless WebP is in a chunk VP8L; the lossy one is VP8 and a space.
    if name in LOSSY_FORMATS or (name == "WEBP" and b"VP8 " in encoded[:_WEBP_HEADER]):
        raise DataError(
            f"ids cannot be in a file of the format {name}, which changes them: save PNG instead"
        )


def read_image(path: str | os.PathLike[str]) -> tuple[bytes, Image.Image]:
    """Read an image file: its bytes and the decoded image.

    Raises:
        DataError: If the file is broken.
    """
    encoded = Path(path).read_bytes()
    return encoded, decode({"bytes": encoded, "path": None}, where=str(path))


def read_picture(path: str | os.PathLike[str]) -> tuple[bytes, Image.Image]:
    """Read an image file as `to_rgb` converts it: its bytes and the upright RGB image.

    Raises:
        DataError: If the file is broken, or has pixels that cannot be converted.
    """
    encoded, image = read_image(path)
    try:
        converted, bits = to_rgb(image), used_bits(image)
    except DECODING_ERRORS as error:
        raise DataError(f"{path} cannot be used: {error}") from error
    if image.mode in DEEP_MODES and bits < 16:
        logger.warning("%s has gray values of %d bits in a file of 16 or more", path, bits)
    return encoded, converted


def read_ids(path: str | os.PathLike[str]) -> Image.Image:
    """Read a segmentation: an image whose gray values or palette indices are ids.

    Raises:
        DataError: If the file is broken, or was saved in a lossy format.
    """
    encoded = Path(path).read_bytes()
    return decode_ids({"bytes": encoded, "path": None}, where=str(path))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=COMPRESS_LEVEL)
    return buffer.getvalue()


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a known format"
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    return str(error) or type(error).__name__
