"""Reading TFRecord files without TensorFlow.

A file is a sequence of records: length (uint64), masked CRC32C of the length, bytes, masked CRC32C
of the bytes, all little-endian; the whole may be one GZIP stream. The bytes are a protocol buffer,
`tf.train.Example`, which has named features. A feature is a list of byte strings, float32 or int64
values. See https://www.tensorflow.org/tutorials/load_data/tfrecord

The package `tfrecord` reads such files too, but it compares no checksum, so that damaged files go
unnoticed, decompresses a GZIP stream twice, and turns each value into a Python object. Here all
checksums are compared, a stream is read once with one record in memory, and features are decoded on
demand, whole lists of numbers into an array at once.
"""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from crc32c import crc32c
from jaxtyping import Float32, Int64, UInt8

from latentslots.data.errors import DataError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_GZIP_MAGIC = b"\x1f\x8b\x08"  # the third byte is the only compression method of the format
_CHUNK = 2**20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KINDS = {1: "bytes", 2: "float", 3: "int64"}


class TFRecordError(DataError):
    """A file is not a TFRecord file, or is damaged."""


class Record(NamedTuple):
    """One record: its offset in the file, or in the decompressed GZIP stream, and its bytes."""

    offset: int
    data: bytes


def read_records(
    source: str | os.PathLike[str] | BinaryIO | io.RawIOBase,
    *,
    offset: int = 0,
    name: str | None = None,
) -> Iterator[Record]:
    """Read the records of a file one by one, comparing both checksums of each.

    Args:
        source: A file, plain or GZIP, or an open stream of bytes.
        offset: Start of reading: the `offset` of a record, or the end of the file. A GZIP stream is
            decompressed up to there.
        name: Name of the file in error messages; by default its path.

    Raises:
        TFRecordError: If a checksum is wrong, or the file ends within a record. The message names
            the file and the offset.
    """
    if isinstance(source, str | os.PathLike):
        if not Path(source).is_file():
            raise TFRecordError(f"there is no file {source}")
        with open(source, "rb", _CHUNK) as file:
            yield from _records(cast("Any", file), name or str(source), offset)
        return
    buffered = io.BufferedReader(cast("Any", source), _CHUNK)
    try:
        yield from _records(buffered, name or "the stream", offset)
    finally:
        buffered.detach()  # otherwise it would close the caller's stream


def _records(buffered: Any, name: str, offset: int) -> Iterator[Record]:
    if buffered.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC):
        stream = _Stream(gzip.GzipFile(fileobj=buffered, mode="rb"), name)
        stream.skip(offset)
    elif buffered.seekable():
        if offset > (size := buffered.seek(0, os.SEEK_END)):
            raise TFRecordError(f"{name} has {size} bytes, so no record at byte {offset}")
        buffered.seek(offset)
        stream = _Stream(buffered, name, position=offset)
    else:
        stream = _Stream(buffered, name)
        stream.skip(offset)
    while True:
        begin = stream.position
        header = stream.read_up_to(_HEADER.size)
        if not header:
            return
        if len(header) < _HEADER.size:
            raise TFRecordError(f"{name} ends within a record, at byte {stream.position}")
        length, checksum = _HEADER.unpack(header)
        if _masked(header[:8]) != checksum:
            raise TFRecordError(
                f"{name} is damaged, or not a TFRecord file: the checksum of a length at byte "
                f"{begin} is wrong"
            )
        data = stream.read_up_to(length)
        footer = stream.read_up_to(_FOOTER.size)
        if len(footer) < _FOOTER.size:
            raise TFRecordError(f"{name} ends within a record, at byte {stream.position}")
        if _masked(data) != _FOOTER.unpack(footer)[0]:
            raise TFRecordError(
                f"{name} is damaged: the checksum of the record at byte {begin} is wrong"
            )
        yield Record(begin, data)


class _Stream:
    """A sequential reader with its position; errors of GZIP become a `TFRecordError`."""

    def __init__(self, file: io.BufferedIOBase, name: str, *, position: int = 0) -> None:
        self.file, self.name, self.position = file, name, position

    def read_up_to(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end.

        It reads in chunks, so that a wrong length does not allocate more memory than the file has.
        """
        chunks, left = [], size
        try:
            while left and (chunk := self.file.read(min(left, _CHUNK))):
                chunks.append(chunk)
                left -= len(chunk)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TFRecordError(
                f"{self.name} is damaged: its GZIP stream is truncated or invalid after byte "
                f"{self.position} of its content ({error})"
            ) from error
        self.position += size - left
        return b"".join(chunks)

    def skip(self, size: int) -> None:
        """Read and discard `size` bytes."""
        while size:
            skipped = len(self.read_up_to(min(size, _CHUNK)))
            if not skipped:
                raise TFRecordError(
                    f"{self.name} has {self.position} bytes and ends before the given offset"
                )
            size -= skipped


def _masked(data: bytes) -> int:
    checksum = crc32c(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@dataclass(frozen=True)
class Feature:
    """A list of values of one kind, decoded on demand.

    Attributes:
        kind: `bytes`, `float`, `int64`, or `none` for a feature without a list.
        payload: The encoded list.
    """

    kind: str
    payload: memoryview

    def byte_strings(self) -> list[bytes]:
        """Decode the list of byte strings.

        Raises:
            TFRecordError: If it is of another kind, or broken.
        """
        self._expect("bytes")
        return [
            bytes(value)
            for number, wire, value in _fields(self.payload)
            if number == 1 and wire == _BYTES and isinstance(value, memoryview)
        ]

    def one_byte_strings(self) -> UInt8[np.ndarray, " n"]:
        """Decode a list of byte strings with one byte each, as an array.

        Raises:
            TFRecordError: If it is of another kind, or a string has another length.
        """
        self._expect("bytes")
        packed = np.frombuffer(self.payload, np.uint8)
        # Each string is encoded as a tag (field 1, bytes), its length, and its content.
        if len(packed) % 3 == 0:
            triples = packed.reshape(-1, 3)
            if (triples[:, 0] == 0x0A).all() and (triples[:, 1] == 1).all():
                return triples[:, 2]
        raise TFRecordError("a list of byte strings must have one byte in each")

    def floats(self) -> Float32[np.ndarray, " n"]:
        """Decode the list of float32.

        Raises:
            TFRecordError: If it is of another kind, or broken.
        """
        self._expect("float")
        parts = []
        for number, wire, value in _fields(self.payload):
            if number == 1 and isinstance(value, memoryview):
                if wire not in (_BYTES, _FIXED32) or len(value) % 4:
                    raise TFRecordError("a list of floats is broken")
                parts.append(np.frombuffer(value, "<f4"))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def ints(self) -> Int64[np.ndarray, " n"]:
        """Decode the list of int64.

        Raises:
            TFRecordError: If it is of another kind, or broken.
        """
        self._expect("int64")
        parts = []
        for number, wire, value in _fields(self.payload):
            if number == 1 and wire == _BYTES and isinstance(value, memoryview):
                parts.append(_varints(np.frombuffer(value, np.uint8)))
            elif number == 1 and wire == _VARINT and isinstance(value, int):
                parts.append(np.array([value], np.uint64).view(np.int64))
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _expect(self, kind: str) -> None:
        if self.kind not in (kind, "none"):
            raise TFRecordError(f"a list of {kind} was expected, got one of {self.kind}")


def parse_example(data: bytes | memoryview) -> dict[str, Feature]:
    """Read the features of a record that holds a `tf.train.Example`, without decoding them.

    Raises:
        TFRecordError: If the record is not an Example.
    """
    return _features(
        part
        for number, wire, part in _fields(memoryview(data))
        if number == 1 and wire == _BYTES and isinstance(part, memoryview)
    )


def _features(parts: Iterator[memoryview]) -> dict[str, Feature]:
    return {name: _feature(value) for part in parts for name, value in _entries(part)}


def _entries(part: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Yield the names and values of a map, field 1 of a message."""
    for number, wire, entry in _fields(part):
        if number != 1 or wire != _BYTES or not isinstance(entry, memoryview):
            continue
        name, value = "", memoryview(b"")
        for which, kind, content in _fields(entry):
            if kind == _BYTES and isinstance(content, memoryview):
                if which == 1:
                    try:
                        name = str(content, "utf-8")
                    except UnicodeDecodeError:
                        raise TFRecordError("the name of a feature is not UTF-8") from None
                elif which == 2:
                    value = content
        yield name, value


def _feature(part: memoryview) -> Feature:
    feature = Feature("none", memoryview(b""))
    for number, wire, content in _fields(part):
        if number in _KINDS and wire == _BYTES and isinstance(content, memoryview):
            feature = Feature(_KINDS[number], content)
    return feature


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield number, wire type and content of the fields of a protocol buffer, without copying."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        wire = key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield key >> 3, wire, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise TFRecordError(f"a record is not an Example: a field has the wire type {wire}")
        if length > end - position:
            raise TFRecordError("a record is not an Example: a field is longer than the record")
        yield key >> 3, wire, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Decode a varint; returns it and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise TFRecordError("a record is not an Example: a varint does not end")


def _varints(packed: UInt8[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Decode packed varints, all at once."""
    ends = np.flatnonzero(packed < 0x80)
    if not len(packed):
        return np.zeros(0, np.int64)
    lengths = np.diff(ends, prepend=-1)
    if not len(ends) or ends[-1] != len(packed) - 1 or lengths.max() > 10:
        raise TFRecordError("a list of int64 is broken: a varint does not end")
    starts = ends - lengths + 1
    values = np.zeros(len(ends), np.uint64)
    for index in range(lengths.max()):
        longer = np.flatnonzero(lengths > index)
        byte = packed[starts[longer] + index].astype(np.uint64) & np.uint64(0x7F)
        values[longer] |= byte << np.uint64(7 * index)
    return values.view(np.int64)
