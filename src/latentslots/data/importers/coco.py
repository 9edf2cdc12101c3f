"""Importing COCO (Lin et al., 2014, https://arxiv.org/abs/1405.0312), and data in its format.

Instances are polygons or run lengths in a JSON file. Panoptic segmentations (Kirillov et al., 2019,
https://arxiv.org/abs/1801.00868) are a PNG for each image and a JSON file.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import ClassLabel, List, Value
from jaxtyping import Bool, Int
from PIL import Image

from latentslots.data.errors import DataError
from latentslots.data.importers.boxes import bounding_box
from latentslots.data.importers.coco_annotations import (
    AnnotatedImage,
    Kind,
    annotated_images,
    category_names,
    read_annotations,
)
from latentslots.data.importers.coco_shapes import decode_shape
from latentslots.data.store.encoding import ids_to_image, read_ids, read_picture
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.source_files import inspect_files
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop

SPLITS = {"train": "train2017", "validation": "val2017"}
LICENSE = "annotations: CC-BY-4.0; of every image, see the column license"
CREDIT = "COCO Consortium, https://cocodataset.org"
_BLOCK = 200


@dataclass(frozen=True, kw_only=True)
class CocoOptions:
    """How COCO is imported.

    Attributes:
        kind: `instances` or `panoptic`.
        overlap: The instance that gets a pixel which several contain: the `first` or the `last` in
            the file.
        ignore_overlap: Exclude such pixels from scoring.
        crowd: What a region that holds a crowd becomes: excluded from scoring (`ignore`), an object
            like any other (`keep`), or background (`drop`).
        stuff: Include stuff, such as grass and sky, of a panoptic segmentation as objects.
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
    """

    kind: Kind = "instances"
    overlap: Literal["first", "last"] = "first"
    ignore_overlap: bool = False
    crowd: Literal["ignore", "keep", "drop"] = "ignore"
    stuff: bool = True
    resolution: int | None = None

    def __post_init__(self) -> None:
        """Reject values that are not allowed."""
        allowed = {
            "kind": ("instances", "panoptic"),
            "overlap": ("first", "last"),
            "crowd": ("ignore", "keep", "drop"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise DataError(
                    f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}"
                )


def import_coco(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: CocoOptions | None = None,
    *,
    splits: Sequence[str] = ("train", "validation"),
    annotations: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    license: str | None = None,
    credit: str | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write COCO as a store, or resume an interrupted import.

    The object of row `i` has the id `i + 1`; 0 are the pixels without a label. The bytes of images
    are stored unchanged, unless they are resized.

    Args:
        source: Folder that holds `annotations/`, and `train2017/` and `val2017/` either directly or
            in `images/`.
        out: Folder of the store, new or of an interrupted import.
        options: Kind of annotations, and how to convert them.
        splits: Names among `SPLITS`; a single one of any name with `annotations`.
        annotations: JSON file of other data in COCO's format; `source` may be any folder.
        images: Folder of the images of such data; by default `source`.
        license: License of such data, beside the license of every image.
        credit: Author of such data to be named.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a file is missing or not COCO's, or annotations and images do not match.
    """
    options = options or CocoOptions()
    out, root = Path(out), Path(source)
    spec = {"program": "latentslots data import", "name": "coco", **asdict(options)}
    if images is not None and annotations is None:
        raise DataError(
            "a folder of images applies to other data in COCO's format: give annotations, too"
        )
    if annotations is not None and len(splits) != 1:
        raise DataError(
            f"splits must be a single one if annotations are given, got {', '.join(splits)}"
        )
    for split in splits:
        if split not in SPLITS and annotations is None:
            raise DataError(f"COCO has no split {split!r}, only {', '.join(SPLITS)}")
        if annotations is None:
            file = root / "annotations" / f"{options.kind}_{SPLITS[split]}.json"
            folder = _image_folder(root, SPLITS[split])
            license, credit = license or LICENSE, credit or CREDIT
        else:
            file, folder = Path(annotations), root if images is None else Path(images)
        content = read_annotations(file)
        annotated = annotated_images(content, folder, file, options.kind)
        named = [name for image in annotated for name in (image.path, image.png) if name]
        source_files = inspect_files([file, *named], folder, hashed=[file])
        if is_written(out, split, spec, source_files):
            continue
        writer = StoreWriter(
            out,
            split,
            kind=f"coco-{options.kind}",
            license=license,
            credit=credit,
            segmentation=True,
            ignore=True,
            attributes=_features(content),
            columns={"license": Value("string")},
            made_by=spec,
            source=source_files.fingerprint,
        )
        write_items(
            writer,
            [(image, options) for image in annotated],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{file}: {source_files.names_fingerprint}",
            workers=workers,
            progress=progress,
            expected_bytes=0
            if options.resolution
            else source_files.num_bytes - file.stat().st_size,
        )
    return out


def _image_folder(root: Path, name: str) -> Path:
    for folder in (root / name, root / "images" / name):
        if folder.is_dir():
            return folder
    raise DataError(f"there is no folder {root / name}, nor {root / 'images' / name}")


def _features(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "category": ClassLabel(names=list(dict.fromkeys(category_names(content).values()))),
        "is_thing": Value("bool"),
        "bboxes": List(Value("float32"), length=4),
        "area": Value("int32"),
    }


def _rows(items: Sequence[tuple[AnnotatedImage, CocoOptions]]) -> Iterator[dict[str, Any]]:
    for annotated, options in items:
        yield image_row(annotated, options)


def image_row(annotated: AnnotatedImage, options: CocoOptions) -> dict[str, Any]:
    """Read one image and its annotations as a row of the store.

    Raises:
        DataError: If a file is broken, or annotations and image do not match.
    """
    encoded, decoded = read_picture(annotated.path)
    width, height = decoded.size
    if (width, height) != (annotated.width, annotated.height):
        raise DataError(
            f"{annotated.path} is {width}x{height} pixels after its EXIF rotation, but its "
            f"annotations are for {annotated.width}x{annotated.height}"
        )
    segments = annotated.segments
    if options.kind == "panoptic":
        masks, void = _read_panoptic(annotated)
        if not options.stuff:
            kept = [k for k, segment in enumerate(segments) if segment["is_thing"]]
            segments, masks = tuple(segments[k] for k in kept), [masks[k] for k in kept]
    else:
        masks = [decode_shape(segment["shape"], height, width) for segment in segments]
        void = np.zeros((height, width), bool)
    ids, not_scored, objects = _combine(masks, segments, void, options)
    image: Any = encoded
    segmentation: Any = ids
    ignore: Any = not_scored.astype(np.uint8)
    if options.resolution is not None:
        crop, pixels = ResizeCenterCrop(options.resolution), decoded
        image, segmentation = crop(pixels, ids_to_image(ids))
        ids = np.asarray(segmentation)
        _, ignore = crop(pixels, Image.fromarray(ignore))
    return {
        "image": image,
        "segmentation": segmentation,
        "ignore": ignore,
        "attributes": {
            "category": [segments[k]["category"] for k in objects],
            "is_thing": [segments[k]["is_thing"] for k in objects],
            "bboxes": [bounding_box(ids == number) for number in range(1, len(objects) + 1)],
            "area": [int((ids == number).sum()) for number in range(1, len(objects) + 1)],
        },
        "license": annotated.license,
        "source": Path(annotated.path).name,
    }


def _combine(
    masks: Sequence[Bool[np.ndarray, "H W"]],
    segments: Sequence[Mapping[str, Any]],
    void: Bool[np.ndarray, "H W"],
    options: CocoOptions,
) -> tuple[Int[np.ndarray, "H W"], Bool[np.ndarray, "H W"], list[int]]:
    """Combine the masks of segments into one segmentation.

    Returns:
        The ids, the pixels that are not scored, and the index of each object's segment.
    """
    ids, ignore = np.zeros(void.shape, np.int64), void.copy()
    num_segments = np.zeros(void.shape, np.int64)
    crowds = np.zeros(void.shape, bool)
    objects: list[int] = []
    for k, (mask, segment) in enumerate(zip(masks, segments, strict=True)):
        if segment["crowd"] and options.crowd != "keep":
            crowds |= mask
            continue
        objects.append(k)
        num_segments += mask
        free = mask & (ids == 0) if options.overlap == "first" else mask
        ids[free] = len(objects)
    if options.crowd == "ignore":
        ignore |= crowds & (ids == 0)
    if options.ignore_overlap:
        ignore |= num_segments > 1
    return ids, ignore, objects


def _read_panoptic(
    annotated: AnnotatedImage,
) -> tuple[list[Bool[np.ndarray, "H W"]], Bool[np.ndarray, "H W"]]:
    """Read the masks of an image's segments, and of the pixels without a segment.

    An id is R + 256 G + 65536 B.
    """
    decoded = read_ids(annotated.png)
    if decoded.mode != "RGB" or decoded.size != (annotated.width, annotated.height):
        raise DataError(
            f"{annotated.png} must be an RGB image of {annotated.width}x{annotated.height} pixels, "
            f"got {decoded.mode} of {decoded.size[0]}x{decoded.size[1]}"
        )
    colors = np.asarray(decoded).astype(np.int64)
    numbers = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    listed = {segment["id"] for segment in annotated.segments}
    unlisted = set(np.unique(numbers).tolist()) - listed - {0}
    if unlisted:
        raise DataError(f"{annotated.png} has the segment {min(unlisted)}, which is not listed")
    return [numbers == segment["id"] for segment in annotated.segments], numbers == 0
