"""TFRecords: ours against the package `tfrecord`, at the shapes of MOVi and of CLEVR with masks.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/records.py

MOVi-E: videos of 24 frames of 256 px with both flows; the package reads all of a record, ours what
a row needs. CLEVR with masks: a byte string for each of 1,075,200 values, from one GZIP stream.
"""

import argparse
import gzip
import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from PIL import Image
from tfrecord.reader import tfrecord_loader

from latentslots.data.importers.movi_records import MoviOptions, video_rows
from latentslots.data.importers.tfrecord import parse_example, read_records

FRAMES, SIZE, COUNT = 24, 256, 20


def varints(values: np.ndarray) -> bytes:
    """Packed numbers below 2 ** 21."""
    wide = values.astype(np.uint32)
    columns = np.stack([wide & 127, wide >> 7 & 127, wide >> 14], axis=1)
    lengths = 1 + (wide > 127) + (wide > 16383)
    more = np.arange(3) < lengths[:, None] - 1
    kept = np.arange(3) < lengths[:, None]
    return (columns | more * 128).astype(np.uint8)[kept].tobytes()


def message(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    length, left = b"", len(content)
    while left > 127:
        length, left = length + bytes([left & 127 | 128]), left >> 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + content


def feature(value: Any) -> bytes:
    if isinstance(value, list):
        return message(1, b"".join(message(1, one) for one in value))
    if value.dtype == np.float32:
        return message(2, message(1, value.tobytes()))
    return message(3, message(1, varints(value.ravel())))


def record(values: dict[str, Any]) -> bytes:
    entries = [
        message(1, message(1, name.encode()) + message(2, feature(value)))
        for name, value in values.items()
    ]
    data = message(1, b"".join(entries))
    length = len(data).to_bytes(8, "little")
    return length + masked(length) + data + masked(data)


def masked(data: bytes) -> bytes:
    checksum = crc32c(data)
    value = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return value.to_bytes(4, "little")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def movi_video(random: np.random.Generator) -> dict[str, Any]:
    """As large as a real one: frames are photographs' noise over shapes, flows are smooth."""
    y, x = np.indices((SIZE, SIZE))
    base = np.stack([x, y, (x + y) // 2], axis=2)
    frames = [
        png((base + random.integers(0, 12, base.shape)).clip(0, 255).astype(np.uint8))
        for _ in range(FRAMES)
    ]
    ids = png(((x // 52) + 5 * (y // 64)).astype(np.uint8))
    flow = random.integers(0, 65536, (FRAMES, SIZE, SIZE, 2))

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    return {
        "video": frames,
        "segmentations": [ids] * FRAMES,
        "forward_flow": flow,
        "backward_flow": flow,
        "depth": [png((y * 256).astype(np.uint16))] * FRAMES,
        "metadata/video_name": [b"0"],
        "metadata/num_instances": np.array([COUNT]),
        "camera/positions": normal(FRAMES, 3),
        "camera/quaternions": normal(FRAMES, 4),
        "camera/field_of_view": normal(1),
        "camera/focal_length": normal(1),
        "instances/positions": normal(COUNT, FRAMES, 3),
        "instances/quaternions": normal(COUNT, FRAMES, 4),
        "instances/bboxes_3d": normal(COUNT, FRAMES, 8, 3),
        "instances/visibility": random.integers(0, 9999, (COUNT, FRAMES)),
        "instances/category": random.integers(0, 17, COUNT),
    }


def read_movi(path: Path) -> int:
    """All rows of all videos; returns how many frames."""
    taken = MoviOptions(variant="movi-e")
    return sum(len(list(video_rows(parse_example(one.data), taken))) for one in read_records(path))


def read_clevr(path: Path) -> int:
    """Images and masks; returns how many records."""
    found = 0
    for entry in read_records(path):
        features = parse_example(entry.data)
        features["image"].one_byte_strings().reshape(240, 320, 3)
        features["mask"].one_byte_strings().reshape(11, 240, 320).argmax(axis=0)
        found += 1
    return found


def measured(read: Callable[[Path], int], path: Path) -> tuple[float, int, float]:
    """In a process of its own: seconds, what it counts, and MiB beside those of the imports."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, read, path).result()


def _measured(read: Callable[[Path], int], path: Path) -> tuple[float, int, float]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here
    before = memory("VmRSS")
    start = time.perf_counter()
    count = read(path)
    return time.perf_counter() - start, count, memory("VmHWM") - before


def memory(which: str) -> float:
    """A figure of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--clevr", type=int, default=100, help="records of CLEVR with masks")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        movi = Path(folder) / "movi"
        video = record(movi_video(random))
        with movi.open("wb") as file:
            for _ in range(options.videos):
                file.write(video)
        seconds, frames, taken = measured(read_movi, movi)
        start = time.perf_counter()
        assert sum(1 for _ in tfrecord_loader(str(movi), None)) == options.videos
        theirs = time.perf_counter() - start
        print(
            f"MOVi-E, {options.videos} videos of {len(video) / 2**20:.1f} MiB: the package "
            f"{theirs:.2f} s, ours {seconds:.2f} s ({frames / seconds:.0f} frames/s), ratio "
            f"{theirs / seconds:.1f}; ours takes {taken:.0f} MiB"
        )

        clevr = Path(folder) / "clevr.gz"
        values = [bytes([n]) for n in random.integers(0, 256, 1000)]
        one = record({"image": values * 230 + values[:400], "mask": [b"\xff", b"\x00"] * 422_400})
        with gzip.open(clevr, "wb", compresslevel=1) as stream:
            for _ in range(options.clevr):
                stream.write(one)
        seconds, count, taken = measured(read_clevr, clevr)
        print(
            f"CLEVR with masks, {count} records: {count / seconds:.0f} records/s; takes "
            f"{taken:.0f} MiB"
        )


if __name__ == "__main__":
    main()
