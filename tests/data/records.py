"""TFRecord files as TensorFlow writes them, for tests."""

import gzip
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values: Any) -> bytes:
    """A list of bytes, floats or integers, as the first value is; packed, as TensorFlow does.

    An array of uint8 is a list of byte strings with one byte each.
    """
    if isinstance(values, np.ndarray) and values.dtype == np.uint8:
        tag_and_length = np.broadcast_to(np.uint8([0x0A, 1]), (values.size, 2))
        return message(1, np.column_stack([tag_and_length, values.ravel()]).tobytes())
    several = isinstance(values, Sequence | np.ndarray) and not isinstance(values, bytes)
    values = list(values) if several else [values]
    if isinstance(values[0], bytes):
        return message(1, b"".join(message(1, value) for value in values))
    if isinstance(values[0], float | np.floating):
        return message(2, message(1, np.asarray(values, "<f4").tobytes()))
    return message(3, message(1, b"".join(varint(int(value)) for value in values)))


def example(features: Mapping[str, Any]) -> bytes:
    """A `tf.train.Example`."""
    entries = (
        message(1, message(1, name.encode()) + message(2, feature(values)))
        for name, values in features.items()
    )
    return message(1, b"".join(entries))


def masked(data: bytes) -> bytes:
    checksum = crc32c(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(records: Sequence[bytes]) -> bytes:
    out = []
    for record in records:
        length = struct.pack("<Q", len(record))
        out += [length, masked(length), record, masked(record)]
    return b"".join(out)


def write_records(path: Path, records: Sequence[bytes], *, zipped: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = framed(records)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if zipped else content)
    return path
