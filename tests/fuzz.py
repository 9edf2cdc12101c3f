"""Mutated inputs for every reader: `python -m tests.fuzz --count 10000 [--only NAME ...]`.

A reader must raise one of the errors that commands print as one sentence, or return a result; it
must not raise anything else, crash, take longer than ten seconds, or need more than 2 GB. The test
suite runs a bounded form. A failure names the reader and the seed, by which it can be repeated.
"""

import argparse
import contextlib
import gzip
import json
import logging
import random
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

from latentslots.concepts import ConceptLibrary, LibraryInfo
from latentslots.config.io import dumps, load_config
from latentslots.data import StoreWriter
from latentslots.data.importers.clevr import import_clevr
from latentslots.data.importers.coco import import_coco
from latentslots.data.importers.tfrecord import parse_example, read_records
from latentslots.data.loading.stream import ImageStream
from latentslots.data.store.array_files import read_arrays
from latentslots.data.store.encoding import read_ids, read_picture
from latentslots.data.store.verify import verify
from latentslots.evaluation.mask_files import open_masks
from latentslots.files import read_json
from latentslots.pipelines.slot_output import SlotOutput
from latentslots.recipes import recipe
from latentslots.workflows.scenes import load_scene, save_scene
from tests.data.records import example, write_records

SECONDS, LARGEST_GROWTH = 10, 2 * 2**30
ALLOWED = (ValueError, OSError)
"""What commands print as one sentence."""
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        make: Writes valid files into a folder, and returns the one to mutate.
        read: Reads the folder, given the mutated file.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, cut, repeat or insert a part; as files get damaged, and as attacks do."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        kind = rng.randrange(7)
        place = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 2, 4, 8, 64, 512)), len(data) - place)
        if kind == 0 and length:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + length] = bytes(rng.choices(INTERESTING, k=length))
        elif kind == 2:
            data[place : place + length] = rng.randbytes(length)
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            del data[place : place + length]
        elif kind == 5:
            data[place:place] = data[place : place + length] * rng.choice((1, 3))
        else:
            digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
            if digits:
                at = rng.choice(digits)
                data[at : at + 1] = rng.choice((b"-1", b"1e999", b"NaN", b"99999999999", b"null"))
        if not data:
            break
    return bytes(data)


def picture(kind: str, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
        path = folder / f"a.{kind.lower()}"
        Image.fromarray(pixels).save(path, format=kind, **options)
        return path

    return make


def ids(folder: Path) -> Path:
    Image.fromarray(np.arange(192, dtype=np.uint16).reshape(12, 16)).save(folder / "ids.png")
    return folder / "ids.png"


def coco(folder: Path) -> Path:
    Image.new("RGB", (30, 20)).save(folder / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]},
            {"id": 2, "image_id": 7, "category_id": 3, "iscrowd": 1,
             "segmentation": {"size": [20, 30], "counts": [40, 60, 500]}},
        ],
    }  # fmt: skip
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


def read_coco(file: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        import_coco(file.parent, Path(out, "s"), splits=["train"], annotations=file, workers=1)


def clevr(folder: Path) -> Path:
    images, scenes = folder / "images" / "val", folder / "scenes"
    images.mkdir(parents=True)
    scenes.mkdir()
    Image.new("RGB", (30, 20)).save(images / "CLEVR_val_000000.png")
    thing = {
        "shape": "cube", "color": "red", "material": "metal", "size": "large", "rotation": 3.5,
        "3d_coords": [1.0, 2.0, 0.5], "pixel_coords": [10, 12, 9.5],
    }  # fmt: skip
    scene = {"image_filename": "CLEVR_val_000000.png", "objects": [thing, thing]}
    file = scenes / "CLEVR_val_scenes.json"
    file.write_text(json.dumps({"scenes": [scene]}))
    return file


def read_clevr(file: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        import_clevr(file.parents[1], Path(out, "s"), splits=["validation"], workers=1)


def store(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    with StoreWriter(folder / "s", "train", segmentation=True) as writer:
        for _ in range(3):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            writer.add(pixels, segmentation=np.zeros((8, 8), np.uint8))
    return folder / "s" / "train" / "part-00000.parquet"


def read_store(file: Path) -> None:
    root = file.parents[1] if file.suffix == ".parquet" else file.parent
    verify(root)
    ImageStream(str(root), split="train", resolution=8, shuffle_buffer=2).spread(3)


def manifest(folder: Path) -> Path:
    store(folder)
    return folder / "s" / "dataset_info.json"


def scene(folder: Path) -> Path:
    masks = torch.rand(1, 3, 8, 8)
    save_scene(SlotOutput(slots=torch.rand(1, 3, 6), masks=masks), folder / "a.safetensors", "me")
    return folder / "a.safetensors"


def concepts(folder: Path) -> Path:
    info = LibraryInfo(
        pipeline="me", num_images=2, metric="euclidean", min_area=0.1, seed=0, silhouettes={}
    )
    crop = Image.new("RGB", (8, 8))
    ConceptLibrary(
        slots=torch.rand(4, 6),
        masks=torch.rand(4, 8, 8),
        concept=torch.tensor([0, 1, 0, 1]),
        image=torch.arange(4),
        crops=((crop,), (crop,)),
        info=info,
    ).save(folder / "c")
    return folder / "c" / "library.safetensors"


def concept_info(folder: Path) -> Path:
    return concepts(folder).with_name("library.json")


def config(folder: Path) -> Path:
    (folder / "a.json").write_text(dumps(recipe("lsd-smoke")))
    return folder / "a.json"


def arrays(packed: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (np.savez_compressed if packed else np.savez)(folder / "a.npz", mask=np.arange(64))
        return folder / "a.npz"

    return make


def array(folder: Path) -> Path:
    np.save(folder / "a.npy", np.arange(64).reshape(1, 8, 8))
    return folder / "a.npy"


def records(folder: Path) -> Path:
    masks = np.arange(40, dtype=np.uint8)
    values = {"size": 3, "name": b"cube", "place": [0.5, 1.5], "mask": masks}
    return write_records(folder / "a.tfrecord", [example(values)] * 3)


def read_tfrecord(file: Path) -> None:
    for record in read_records(file):
        parse_example(record.data)


def zipped(folder: Path) -> Path:
    file = folder / "a.json.gz"
    file.write_bytes(gzip.compress(json.dumps([[{"size": 3}]] * 5).encode()))
    return file


def read_zipped(file: Path) -> None:
    read_json(file)


READERS = {
    "png": Reader(picture("PNG"), read_picture),
    "jpeg": Reader(picture("JPEG"), read_picture),
    "tiff": Reader(picture("TIFF", compression="tiff_lzw"), read_picture),
    "webp": Reader(picture("WEBP"), read_picture),
    "gif": Reader(picture("GIF"), read_picture),
    "bmp": Reader(picture("BMP"), read_picture),
    "ids": Reader(ids, read_ids),
    "coco": Reader(coco, read_coco),
    "clevr": Reader(clevr, read_clevr),
    "config": Reader(config, load_config),
    "tfrecord": Reader(records, read_tfrecord),
    "store": Reader(store, read_store),
    "manifest": Reader(manifest, read_store),
    "scene": Reader(scene, lambda file: load_scene(file, "me")),
    "concepts": Reader(concepts, lambda file: ConceptLibrary.load(file.parent)),
    "concept info": Reader(concept_info, lambda file: ConceptLibrary.load(file.parent)),
    "npz": Reader(arrays(packed=True), read_arrays),
    "plain npz": Reader(arrays(packed=False), read_arrays),
    "npy": Reader(array, lambda file: open_masks(file).read("0")),
    "gzip": Reader(zipped, read_zipped),
}


class HangError(Exception):
    """A reader took too long."""


def on_alarm(signum: int, frame: FrameType | None) -> None:
    raise HangError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings of libraries nor lines of ours."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def fuzz(name: str, count: int, *, first: int = 0) -> dict[str, int]:
    """Read mutated files; returns how many were refused, and how many were read.

    Raises:
        AssertionError: For a reader that fails; it names the seed.
    """
    reader = READERS[name]
    numbers = {"refused": 0, "read": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    earlier = signal.signal(signal.SIGALRM, on_alarm)
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():
            file = reader.make(Path(folder))
            content = file.read_bytes()
            reader.read(file)
            for seed in range(first, first + count):
                file.write_bytes(mutate(content, random.Random(f"{name} {seed}")))
                signal.alarm(SECONDS)
                try:
                    reader.read(file)
                    numbers["read"] += 1
                except ALLOWED:
                    numbers["refused"] += 1
                except BaseException as error:
                    raise AssertionError(f"{name}, seed {seed}: {error!r}") from error
                finally:
                    signal.alarm(0)
    finally:
        signal.signal(signal.SIGALRM, earlier)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < LARGEST_GROWTH, f"{name} needed {grown / 2**30:.1f} GB"
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="inputs for every reader")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", nargs="*", default=list(READERS), choices=READERS)
    options = parser.parse_args()
    for name in options.only:
        started = time.monotonic()
        numbers = fuzz(name, options.count, first=options.first)
        seconds = time.monotonic() - started
        last = options.first + options.count - 1
        found = f"{numbers['refused']} refused, {numbers['read']} read"
        print(f"{name}: {found}; seeds {options.first} to {last}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
