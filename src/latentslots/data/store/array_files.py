"""Reading `.npy` and `.npz` files of others: the one way in which arrays come in."""

import logging
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from latentslots.data.errors import DataError

logger = logging.getLogger(__name__)

READING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    ArithmeticError,
    SyntaxError,
    RecursionError,
    MemoryError,
    RuntimeError,  # of an archive with a password
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises for files that are cut off, damaged, or none of its own: it reads their headers
as Python literals."""


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all arrays of a file by their names; that of an `.npy` file has the name ''.

    Arrays of Python objects, which only code from the file could restore, are left out with a line.

    Raises:
        DataError: If the file does not exist, or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    arrays: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                return {"": content}
            for name in content.files:
                array = _read_member(content, name)
                if array is None:
                    logger.warning("array %r of %s holds Python objects: left out", name, path)
                else:
                    arrays[name] = array
    except READING_ERRORS as error:
        raise DataError(f"{path} cannot be read as arrays: {_reason(error)}") from error
    return arrays


def _read_member(content: np.lib.npyio.NpzFile, name: str) -> np.ndarray | None:
    try:
        return content[name]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        return None


def _reason(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, EOFError):
        return "it is empty or cut off"
    if "pickle" in text or "Object arrays" in text:
        return "it is no file of NumPy, or holds Python objects"
    return text or type(error).__name__
