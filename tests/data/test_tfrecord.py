"""TFRecord files that TensorFlow wrote, compared with the package `tfrecord`, and damaged files."""

import contextlib
import gzip
import io
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tfrecord import example_pb2, tfrecord_iterator

from latentslots.data.importers.tfrecord import (
    Feature,
    TFRecordError,
    parse_example,
    read_records,
)
from tests.data.records import example, framed, masked, write_records

FILES = sorted(
    path
    for path in (Path(__file__).parent / "tfrecord").iterdir()
    if path.suffix in (".tfrecord", ".gz")
)
SEQUENCES = ("sequence_example.tfrecord", "sequences.gz")
"""Files of `tf.train.SequenceExample`, whose features we do not read; no data set needs them."""


def listed(feature: Feature) -> list[Any]:
    if feature.kind == "bytes":
        return feature.byte_strings()
    if feature.kind == "float":
        return feature.floats().tolist()
    return feature.ints().tolist() if feature.kind == "int64" else []


def expected(feature: Any) -> tuple[str, list[Any]]:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return "none", []
    return kind.removesuffix("_list"), list(getattr(feature, kind).value)


def same(found: dict[str, Feature], theirs: Any) -> None:
    assert set(found) == set(theirs)
    for name, feature in found.items():
        assert (feature.kind, listed(feature)) == expected(theirs[name]), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_reads_what_the_tfrecord_package_reads(path: Path) -> None:
    compression = "gzip" if path.suffix == ".gz" else None
    theirs = [bytes(r) for r in tfrecord_iterator(str(path), compression_type=compression)]
    ours = list(read_records(path))
    assert len(ours) > 0
    assert [record.data for record in ours] == theirs
    for record in ours[:: max(1, len(ours) // 200)]:
        if path.name not in SEQUENCES:
            same(
                parse_example(record.data),
                example_pb2.Example.FromString(record.data).features.feature,
            )


def test_the_files_hold_every_kind() -> None:
    kinds = set()
    for path in FILES:
        for record in read_records(path):
            if path.name not in SEQUENCES:
                kinds |= {feature.kind for feature in parse_example(record.data).values()}
    assert kinds == {"bytes", "float", "int64"}


def test_numbers_of_every_size_and_sign() -> None:
    numbers = [0, 1, 127, 128, 300, 2**31, 2**62, 2**63 - 1, -1, -(2**63), *range(-5, 5)]
    record = example({"n": numbers, "x": [0.5, -1e30, float("inf")], "s": [b"", b"\x00\x00", b"a"]})
    assert expected(example_pb2.Example.FromString(record).features.feature["n"])[1] == numbers
    found = parse_example(record)
    assert found["n"].ints().tolist() == numbers
    assert found["x"].floats().tolist() == np.float32([0.5, -1e30, float("inf")]).tolist()
    assert found["s"].byte_strings() == [b"", b"\x00\x00", b"a"]


def test_unpacked_lists() -> None:
    """Protocol buffers allow packed and unpacked lists."""
    message = example_pb2.Example()
    message.features.feature["n"].int64_list.value.extend([1, 1000, -2])
    message.features.feature["x"].float_list.value.extend([1.5, 2.5])
    packed = message.SerializeToString()
    numbers = b"\x08\x01\x08\xe8\x07\x08" + b"\xfe" + b"\xff" * 8 + b"\x01"
    floats = b"\x0d" + struct.pack("<f", 1.5) + b"\x0d" + struct.pack("<f", 2.5)
    plain = Feature("int64", memoryview(numbers)).ints()
    assert plain.tolist() == parse_example(packed)["n"].ints().tolist()
    assert Feature("float", memoryview(floats)).floats().tolist() == [1.5, 2.5]


def test_lists_of_one_byte_strings() -> None:
    values = bytes(range(256))
    found = parse_example(example({"mask": [bytes([value]) for value in values]}))["mask"]
    assert found.one_byte_strings().tolist() == list(values)
    assert found.byte_strings() == [bytes([value]) for value in values]
    for strings in ([b"a", b"bc", b"d"], [b"", b"a", b"b"], [b"abcd"]):
        with pytest.raises(TFRecordError, match="must have one byte in each"):
            parse_example(example({"mask": strings}))["mask"].one_byte_strings()


@pytest.mark.parametrize("zipped", [False, True])
def test_reading_can_start_at_any_record(zipped: bool, tmp_path: Path) -> None:
    records = [bytes([n]) * n * 1000 for n in range(5)]
    path = write_records(tmp_path / "five", records, zipped=zipped)
    offsets = [record.offset for record in read_records(path)]
    assert offsets[0] == 0
    for number, offset in enumerate(offsets):
        rest = [record.data for record in read_records(path, offset=offset)]
        assert rest == records[number:]
    end = len(framed(records))
    assert list(read_records(path, offset=end)) == []
    with pytest.raises(TFRecordError, match=f"has {end} bytes"):
        list(read_records(path, offset=end + 1))


def test_streams_without_random_access() -> None:
    class Stream(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self.content = io.BytesIO(content)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self.content.readinto(
                memoryview(buffer)[:7]
            )  # few bytes at a time, as from a socket

    records = [b"one", b"two" * 1000]
    for content in (framed(records), gzip.compress(framed(records))):
        assert [r.data for r in read_records(Stream(content))] == records
        second = list(read_records(Stream(content), offset=len(framed(records[:1]))))
        assert [record.data for record in second] == records[1:]


def test_a_wrong_length_does_not_allocate_memory(tmp_path: Path) -> None:
    length = struct.pack("<Q", 2**40)
    (tmp_path / "wrong").write_bytes(length + masked(length) + b"short")
    with pytest.raises(TFRecordError, match="ends within a record, at byte 17"):
        list(read_records(tmp_path / "wrong"))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_truncated_anywhere_is_named(zipped: bool, tmp_path: Path) -> None:
    whole = write_records(tmp_path / "whole", [b"first", b"second"], zipped=zipped).read_bytes()
    boundaries = {0} if zipped else {0, len(framed([b"first"]))}
    for length in range(len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:length])
        if length in boundaries:
            assert len(list(read_records(path))) == (length > 0)
            continue
        with pytest.raises(TFRecordError, match=r"cut (ends within a record|is damaged|.*GZIP)"):
            list(read_records(path))


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    content = framed([b"first", b"second"])
    second = len(framed([b"first"]))
    for place in range(len(content)):
        for bit in range(8):
            broken = bytearray(content)
            broken[place] ^= 1 << bit
            path = tmp_path / "flipped"
            path.write_bytes(bytes(broken))
            begin = second if place >= second else 0
            with pytest.raises(TFRecordError, match=rf"flipped .*at byte {begin} is wrong"):
                list(read_records(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_damage_hangs_crashes_or_passes_unnoticed(path: Path, tmp_path: Path) -> None:
    """After random cuts and flips of real files, the records before the damage are unchanged."""
    draw, content = random.Random(0), path.read_bytes()
    records = list(read_records(path))
    whole, zipped = [record.data for record in records], path.suffix == ".gz"
    borders = {record.offset for record in records}
    broken_file = tmp_path / "broken"
    for _ in range(60 if len(content) < 10_000 else 12):
        broken = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        if draw.random() < 0.3:
            broken = broken[: draw.randrange(len(broken))]
        if bytes(broken) == content:
            continue
        broken_file.write_bytes(bytes(broken))
        found, refused = [], False
        try:
            found.extend(record.data for record in read_records(broken_file))
        except TFRecordError:
            refused = True
        assert found == whole[: len(found)]
        # A GZIP header has unused bits, and a plain file may end between two records.
        if not refused and found != whole:
            assert not zipped
            assert len(broken) in borders


def test_the_parser_survives_any_record() -> None:
    """Without checksums, it raises a `TFRecordError` at most."""
    draw = random.Random(1)
    whole = example({"n": [1, 2, 300], "x": [0.5], "s": [b"abc", b""]})
    for _ in range(3_000):
        broken = bytearray(whole[: draw.randrange(len(whole) + 1)])
        for _ in range(draw.randint(0, 3)):
            if broken:
                broken[draw.randrange(len(broken))] = draw.randrange(256)
        with contextlib.suppress(TFRecordError):
            for feature in parse_example(bytes(broken)).values():
                listed(feature)


def test_files_that_are_not_tfrecord(tmp_path: Path) -> None:
    with pytest.raises(TFRecordError, match=r"there is no file .*nowhere"):
        list(read_records(tmp_path / "nowhere"))
    (tmp_path / "text").write_text("This is a letter, not a TFRecord file.")
    with pytest.raises(TFRecordError, match="text is damaged, or not a TFRecord file"):
        list(read_records(tmp_path / "text"))
    (tmp_path / "empty").write_bytes(b"")
    assert list(read_records(tmp_path / "empty")) == []
    record = parse_example(example({"n": [1]}))
    with pytest.raises(TFRecordError, match="a list of bytes was expected, got one of int64"):
        record["n"].byte_strings()
    for kind in ("floats", "one_byte_strings"):
        with pytest.raises(TFRecordError, match="was expected, got one of int64"):
            getattr(record["n"], kind)()


def test_a_length_that_looks_like_gzip_is_a_length(tmp_path: Path) -> None:
    records = [bytes(0x8B1F), b"second"]
    path = write_records(tmp_path / "plain", records, zipped=False)
    assert path.read_bytes().startswith(b"\x1f\x8b\x00")
    assert [record.data for record in read_records(path)] == records
