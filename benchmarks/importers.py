"""What an import costs: images a second on one core, and bytes of a store, at true shapes.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/importers.py

Each source is written as its authors publish it, with textured scenes as pictures: an image of the
real data has more bytes, and its masks have about as many. A store's bytes beside those of its
images are masks and labels. Run it alone on its core.
"""

import argparse
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
from latentslots.data.clevrtex import ClevrTexOptions, import_clevrtex
from latentslots.data.coco import CocoOptions, import_coco
from latentslots.data.ffhq import import_ffhq
from latentslots.data.voc import import_voc

SIZE, DISTINCT = 640, 40
PALETTE = np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes()
Scene = tuple[Image.Image, np.ndarray]


def scenes(folder: Path, count: int) -> list[Scene]:
    """Square images and their ids, which are used over and over."""
    options = SceneOptions(kind="scenes-textured", size=SIZE)
    make_scenes(folder, options, num_train=count, num_validation=0, workers=1)
    return [(row["image"], np.asarray(row["segmentation"])) for row in load_dataset(folder)]


def shown(
    drawn: list[Scene], count: int, width: int, height: int
) -> Iterator[tuple[int, Image.Image, np.ndarray]]:
    """Number, picture and ids of each image of a size."""
    for number in range(count):
        image, ids = drawn[number % len(drawn)]
        shift = 8 * (number // len(drawn))  # no two images have the same bytes
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
    """Photographs of 640 x 480, and `annotations/` of instances and of panoptic segments."""
    names = ("train2017", "annotations", "annotations/panoptic_train2017")
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    instances: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    segments: list[Any] = []
    for number, image, ids in shown(drawn, count, SIZE, 480):
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
    """Run lengths, area, and box."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    box = [float(value) for value in coco_mask.toBbox(encoded)]
    return {"segmentation": counts, "area": int(mask.sum()), "bbox": box}


def write_clevrtex(root: Path, drawn: list[Scene], count: int) -> None:
    """Scenes of 320 x 240 with ids as a palette PNG."""
    for number, image, ids in shown(drawn, count, 320, 240):
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
    """Photographs of 500 x 375 with masks of objects and classes."""
    for name in ("JPEGImages", "ImageSets/Segmentation", "SegmentationObject", "SegmentationClass"):
        (root / name).mkdir(parents=True, exist_ok=True)
    stems = [f"2007_{number:06d}" for number in range(count)]
    for number, image, ids in shown(drawn, count, 500, 375):
        image.save(root / "JPEGImages" / f"{stems[number]}.jpg", quality=95)
        save_palette(ids, root / "SegmentationObject" / f"{stems[number]}.png")
        save_palette(np.minimum(ids, 1), root / "SegmentationClass" / f"{stems[number]}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{stem}\n" for stem in stems))


def write_faces(root: Path, drawn: list[Scene], count: int, *, size: int) -> None:
    root.mkdir()
    for number, image, _ in shown(drawn, count, size, size):
        image.save(root / f"{number:05d}.png")


@dataclass(frozen=True)
class Import:
    """A source to write, and how it is imported."""

    name: str
    total: int
    write: Callable[[Path, list[Scene], int], None]
    read: Callable[[Path, Path], object]


def clevrtex(source: Path, out: Path, **changes: Any) -> object:
    return import_clevrtex(source, out, ClevrTexOptions(variant="full", **changes), workers=1)


def coco(source: Path, out: Path, **changes: Any) -> object:
    return import_coco(source, out, CocoOptions(**changes), splits=["train"], workers=1)


def voc(source: Path, out: Path) -> object:
    return import_voc(source, out, lists={"train": "train"}, workers=1)


def faces(source: Path, out: Path, **changes: Any) -> object:
    return import_ffhq(source, out, workers=1, **changes)


IMPORTS = (
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
    """Bytes of a store, and of the images in it."""
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
            one.write(source, drawn, options.images)
            start = time.perf_counter()
            one.read(source, out)
            rate = options.images / (time.perf_counter() - start)
            files, images = (size / options.images / 1024 for size in stored_bytes(out))
            whole = one.total / rate / 60, one.total * (files - images) / 2**20
            print(
                f"| {one.name} | {rate:,.0f} | {images:.1f} | {files - images:.2f} "
                f"| {whole[0]:.0f} | {whole[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
