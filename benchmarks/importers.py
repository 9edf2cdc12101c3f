"""Cost of imports: images per second on one core, and bytes of the store, at real image sizes.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/importers.py

Each source is written in the layout of its authors, with textured scenes as images: the images of
the real data have more bytes, their masks about as many. The bytes of a store beyond those of its
images are masks and labels. Run it alone on its core.
"""

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops
from pycocotools import mask as coco_mask

from latentslots.data import SceneOptions, load_dataset, make_scenes, split_names
from latentslots.data.importers.arrays import import_arrays
from latentslots.data.importers.clevrtex import ClevrTexOptions, import_clevrtex
from latentslots.data.importers.coco import CocoOptions, import_coco
from latentslots.data.importers.dumps import import_dump
from latentslots.data.importers.ffhq import import_ffhq
from latentslots.data.importers.movi import import_movi
from latentslots.data.importers.movi_records import MoviOptions
from latentslots.data.importers.multi_object import MultiObjectOptions, import_multi_object
from latentslots.data.importers.voc import import_voc
from records import FRAMES, movi_video, png, record

SIZE, DISTINCT = 640, 40
PALETTE = np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes()
Scene = tuple[Image.Image, np.ndarray]


def scenes(folder: Path, count: int) -> list[Scene]:
    """Render square images and their ids, which are used repeatedly."""
    options = SceneOptions(kind="scenes-textured", size=SIZE)
    make_scenes(folder, options, num_train=count, num_validation=0, workers=1)
    return [(row["image"], np.asarray(row["segmentation"])) for row in load_dataset(folder)]


def varied(
    drawn: list[Scene], count: int, width: int, height: int
) -> Iterator[tuple[int, Image.Image, np.ndarray]]:
    """Yield number, image and ids of distinct images of a size."""
    for number in range(count):
        image, ids = drawn[number % len(drawn)]
        shift = 8 * (number // len(drawn))  # so that no two images have the same bytes
        image, ids = ImageChops.offset(image, shift, 0), np.roll(ids, shift, axis=1)
        small = Image.fromarray(ids.astype(np.uint8)).resize(
            (width, width), Image.Resampling.NEAREST
        )
        top = (width - height) // 2
        box = (0, top, width, top + height)
        yield number, image.resize((width, width)).crop(box), np.asarray(small.crop(box))


def save_palette(ids: np.ndarray, path: Path) -> None:
    image = Image.frombytes("P", ids.shape[::-1], ids.astype(np.uint8).tobytes())
    image.putpalette(PALETTE)
    image.save(path)


def write_coco(root: Path, drawn: list[Scene], count: int) -> None:
    """Write images of 640 x 480, and `annotations/` of instances and panoptic segments."""
    names = ("train2017", "annotations", "annotations/panoptic_train2017")
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    instances: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    segments: list[Any] = []
    for number, image, ids in varied(drawn, count, SIZE, 480):
        stem = f"{number:012d}"
        image.save(root / "train2017" / f"{stem}.jpg", quality=95)
        panoptic = np.zeros((*ids.shape, 3), np.uint8)
        panoptic[..., 0] = ids + 1
        Image.fromarray(panoptic).save(root / names[2] / f"{stem}.png")
        info = {"id": number, "file_name": f"{stem}.jpg", "width": SIZE, "height": 480}
        instances["images"].append({**info, "license": 1})
        found = [int(k) for k in np.unique(ids)]
        regions = {k: region(ids == k) for k in found}
        instances["annotations"] += [
            {
                "id": 100 * number + k,
                "image_id": number,
                "iscrowd": 0,
                "category_id": 1,
                **regions[k],
            }
            for k in found
            if k
        ]
        listed = [
            {"id": k + 1, "iscrowd": 0, "category_id": 1 + (k == 0)}
            | {name: regions[k][name] for name in ("area", "bbox")}
            for k in found
        ]
        segments.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": listed})
    kinds = [{"id": 1, "name": "thing", "isthing": 1}, {"id": 2, "name": "ground", "isthing": 0}]
    shared = {"images": instances["images"], "licenses": [{"id": 1, "name": "CC0", "url": "none"}]}
    written = {
        "instances_train2017.json": {**instances, "categories": kinds[:1]},
        "panoptic_train2017.json": {"annotations": segments, "categories": kinds},
    }
    for name, content in written.items():
        (root / "annotations" / name).write_text(json.dumps({**content, **shared}))


def region(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths, area and box of a mask."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    box = [float(value) for value in coco_mask.toBbox(encoded)]
    return {"segmentation": counts, "area": int(mask.sum()), "bbox": box}


def write_clevrtex(root: Path, drawn: list[Scene], count: int) -> None:
    """Write scenes of 320 x 240 with ids as palette PNGs."""
    for number, image, ids in varied(drawn, count, 320, 240):
        place = root / str(number // 1000)
        place.mkdir(parents=True, exist_ok=True)
        stem = f"CLEVRTEX_full_{number:06d}"
        image.save(place / f"{stem}.png")
        save_palette(ids, place / f"{stem}_flat.png")
        objects = [
            {
                "index": k,
                "shape": "cube",
                "size": "large",
                "rotation": 0.0,
                "3d_coords": [0.0, 0.0, 0.0],
                "pixel_coords": [0.0, 0.0, 0.0],
                "color": "none",
                "material": "whitemarble",
            }
            for k in range(1, int(ids.max()) + 1)
        ]
        content = {"num_objects": len(objects), "image_index": number, "objects": objects}
        (place / f"{stem}.json").write_text(
            json.dumps({**content, "ground_material": "whitemarble"})
        )


def write_voc(root: Path, drawn: list[Scene], count: int) -> None:
    """Write images of 500 x 375 with masks of objects and classes."""
    for name in ("JPEGImages", "ImageSets/Segmentation", "SegmentationObject", "SegmentationClass"):
        (root / name).mkdir(parents=True, exist_ok=True)
    stems = [f"2007_{number:06d}" for number in range(count)]
    for number, image, ids in varied(drawn, count, 500, 375):
        image.save(root / "JPEGImages" / f"{stems[number]}.jpg", quality=95)
        save_palette(ids, root / "SegmentationObject" / f"{stems[number]}.png")
        save_palette(np.minimum(ids, 1), root / "SegmentationClass" / f"{stems[number]}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{stem}\n" for stem in stems))


def write_faces(root: Path, drawn: list[Scene], count: int, *, size: int) -> None:
    root.mkdir()
    for number, image, _ in varied(drawn, count, size, size):
        image.save(root / f"{number:05d}.png")


def write_movi(root: Path, drawn: list[Scene], count: int) -> None:
    """Write shards of two videos of 24 frames of 256 px, with both flows (see `records.py`)."""
    root.mkdir()
    random, frames = np.random.default_rng(0), list(varied(drawn, count, 256, 256))
    videos = [frames[first : first + FRAMES] for first in range(0, count, FRAMES)]
    shards = -(-len(videos) // 2)
    for shard in range(shards):
        content = []
        for number, video in enumerate(videos[2 * shard : 2 * shard + 2]):
            values = movi_video(random)
            values["video"] = [png(np.asarray(image)) for _, image, _ in video]
            values["segmentations"] = [png(ids) for *_, ids in video]
            values["metadata/video_name"] = [f"{2 * shard + number}".encode()]
            content.append(record(values))
        file = root / f"movi_e-train.tfrecord-{shard:05d}-of-{shards:05d}"
        file.write_bytes(b"".join(content))


def write_clevr(root: Path, drawn: list[Scene], count: int) -> None:
    """Write a GZIP stream with a byte string for every value."""
    root.mkdir()
    each = [bytes([value]) for value in range(256)]
    with gzip.open(root / "records", "wb", compresslevel=6) as stream:
        for _, image, ids in varied(drawn, count, 320, 240):
            masks = (ids[None] == np.arange(11)[:, None, None]).astype(np.uint8) * 255
            values: dict[str, Any] = {
                "image": [each[value] for value in np.asarray(image).ravel()],
                "mask": [each[value] for value in masks.ravel()],
                "visibility": np.float32([(ids == k).any() for k in range(11)]),
                "pixel_coords": np.zeros(33, np.float32),
            }
            values |= {name: np.zeros(11, np.float32) for name in ("x", "y", "z", "rotation")}
            for name in ("size", "material", "shape", "color"):
                values[name] = [each[0]] * 11
            stream.write(record(values))


def write_arrays(root: Path, drawn: list[Scene], count: int) -> None:
    root.mkdir()
    images = list(varied(drawn, count, 100, 100))
    np.savez_compressed(
        root / "arrays.npz",
        image=np.stack([np.asarray(image) for _, image, _ in images]),
        mask=np.stack([ids for *_, ids in images]),
    )


def write_dump(root: Path, drawn: list[Scene], count: int) -> None:
    """Write frames of 256 px in the layout of the official script."""
    folder = root / "movi-e-train-with-label"
    for number, image, ids in varied(drawn, count, 256, 256):
        video, frame = f"{number // FRAMES:08d}", f"{number % FRAMES:08d}"
        for part in ("images", "labels"):
            (folder / part / video).mkdir(parents=True, exist_ok=True)
        image.save(folder / "images" / video / f"{frame}_image.png")
        Image.fromarray(ids).save(folder / "labels" / video / f"{frame}_segment.png")
        labels = json.dumps({"category": [1] * 23, "positions": [[0.0, 0.0, 1.0]] * 23})
        (folder / "labels" / video / f"{frame}_instances.json").write_text(labels)


@dataclass(frozen=True)
class Import:
    """A source, and how it is imported.

    Attributes:
        name: Label in the table.
        total: Images of the whole data set.
        write: Writes the source.
        read: Imports it.
        images: Images of the source; 0 for the number on the command line.
    """

    name: str
    total: int
    write: Callable[[Path, list[Scene], int], None]
    read: Callable[[Path, Path], object]
    images: int = 0


def clevrtex(source: Path, out: Path, **changes: Any) -> object:
    return import_clevrtex(source, out, ClevrTexOptions(variant="full", **changes), workers=1)


def coco(source: Path, out: Path, **changes: Any) -> object:
    return import_coco(source, out, CocoOptions(**changes), splits=["train"], workers=1)


def voc(source: Path, out: Path) -> object:
    return import_voc(source, out, lists={"train": "train"}, workers=1)


def faces(source: Path, out: Path, **changes: Any) -> object:
    return import_ffhq(source, out, workers=1, **changes)


def movi(source: Path, out: Path) -> object:
    options = MoviOptions(variant="movi-e")
    return import_movi(source, out, options, splits=["train"], workers=1)


def clevr(source: Path, out: Path, *, count: int, **changes: Any) -> object:
    options = MultiObjectOptions(kind="clevr-with-masks", **changes)
    return import_multi_object(source / "records", out, options, counts={"train": count})


def arrays(source: Path, out: Path) -> object:
    return import_arrays(source / "arrays.npz", out)


def dump(source: Path, out: Path) -> object:
    return import_dump(source, out, "lsd", workers=1)


CLEVR_RECORDS = 48
IMPORTS = (
    Import("movi-e, from a folder", 239_976, write_movi, movi, images=240),
    Import(
        "clevr-with-masks",
        100_000,
        write_clevr,
        partial(clevr, count=CLEVR_RECORDS),
        images=CLEVR_RECORDS,
    ),
    Import(
        "clevr-with-masks, crop to 128 px",
        100_000,
        write_clevr,
        partial(clevr, count=CLEVR_RECORDS, crop=True, resolution=128),
        images=CLEVR_RECORDS,
    ),
    Import("arrays, 100 px (NLVR)", 20_944, write_arrays, arrays),
    Import("lsd-dump, 256 px", 239_976, write_dump, dump),
    Import("coco", 123_287, write_coco, coco),
    Import("coco-panoptic", 123_287, write_coco, partial(coco, kind="panoptic")),
    Import(
        "coco-panoptic, to 256 px",
        123_287,
        write_coco,
        partial(coco, kind="panoptic", resolution=256),
    ),
    Import("clevrtex-full", 50_000, write_clevrtex, clevrtex),
    Import(
        "clevrtex-full, center to 128 px",
        50_000,
        write_clevrtex,
        partial(clevrtex, crop="center", resolution=128),
    ),
    Import("voc", 12_031, write_voc, voc),
    Import("ffhq, 128 px", 70_000, partial(write_faces, size=128), faces),
    Import(
        "ffhq, 1024 px to 256",
        70_000,
        partial(write_faces, size=1024),
        partial(faces, resolution=256),
    ),
)


def stored_bytes(out: Path) -> tuple[int, int]:
    """Bytes of a store, and of its images."""
    files = sum(path.stat().st_size for path in out.rglob("*.parquet"))
    columns = [load_dataset(out, split=one).data.column("image") for one in split_names(out)]
    return files, sum(len(cell["bytes"]) for column in columns for cell in column.to_pylist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400, help="images of each source")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        drawn = scenes(root / "scenes", min(DISTINCT, options.images))
        print("|  | images/s | image KiB | masks and labels KiB | minutes | masks and labels GiB |")
        print("|---|---|---|---|---|---|")
        for number, one in enumerate(IMPORTS):
            source, out = root / f"source-{number}", root / f"out-{number}"
            count = one.images or options.images
            one.write(source, drawn, count)
            start = time.perf_counter()
            one.read(source, out)
            rate = count / (time.perf_counter() - start)
            files, images = (size / count / 1024 for size in stored_bytes(out))
            minutes, gibibytes = one.total / rate / 60, one.total * (files - images) / 2**20
            print(
                f"| {one.name} | {rate:,.0f} | {images:.1f} | {files - images:.2f} "
                f"| {minutes:.0f} | {gibibytes:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
