"""Importing COCO (Lin et al., 2014, https://arxiv.org/abs/1405.0312), and data in its format.

Instances are polygons or run lengths in a JSON file; a panoptic segmentation (Kirillov et al.,
2019, https://arxiv.org/abs/1801.00868) is a PNG for each image, beside a JSON file.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import ClassLabel, List, Value
from jaxtyping import Bool, Int
from PIL import Image, ImageOps

from latentslots.data.errors import DataError
from latentslots.data.importers.boxes import bounding_box
from latentslots.data.store.encoding import ids_picture, read_picture
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.sources import source_of
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop, to_rgb

logger = logging.getLogger(__name__)

SPLITS = {"train": "train2017", "validation": "val2017"}
LICENSE = "annotations: CC-BY-4.0; of every image, see the column license"
CREDIT = "COCO Consortium, https://cocodataset.org"
_BLOCK = 200


@dataclass(frozen=True, kw_only=True)
class CocoOptions:
    """What is taken of COCO, and how.

    Attributes:
        kind: `instances`, or `panoptic`.
        overlap: Of instances, which owns a pixel that several claim: the `first` or the `last` in
            the file.
        ignore_overlap: Whether such pixels are also marked as not to be scored.
        crowd: Whether a region that holds a crowd is marked as not to be scored (`ignore`), an
            object like any other (`keep`), or left to the background (`drop`).
        stuff: Of a panoptic segmentation, whether grass, sky and their like are objects too.
        resolution: Resize the shortest side to this, and crop the center.
    """

    kind: Literal["instances", "panoptic"] = "instances"
    overlap: Literal["first", "last"] = "first"
    ignore_overlap: bool = False
    crowd: Literal["ignore", "keep", "drop"] = "ignore"
    stuff: bool = True
    resolution: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
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


@dataclass(frozen=True)
class _Picture:
    """One image and all that is said of it."""

    path: str
    height: int
    width: int
    license: str
    segments: tuple[dict[str, Any], ...]
    png: str = ""


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
    """Write COCO as a store; one that is half written is gone on with.

    The object of row `i` has the id `i + 1`; 0 is what nobody labeled. Images are stored as they
    came, unless they are resized.

    Args:
        source: Folder that holds `annotations/` and, by themselves or in `images/`, `train2017/`
            and `val2017/`.
        out: Folder of the store, new or half written.
        options: What to take, and how.
        splits: Of `SPLITS`; one alone where `annotations` is given.
        annotations: Of other data in COCO's format, the JSON file; `source` may be any folder.
        images: Of such data, the folder of the images, by default `source`.
        license: Of such data, their license; every image has its own beside it.
        credit: Of such data, whom to name as their author.
        workers: Processes; by default one per core.
        progress: Whether to show a bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a file is missing or none of COCO's, or annotations and images do not fit.
    """
    options = options or CocoOptions()
    out, root = Path(out), Path(source)
    spec = {"program": "latentslots data import", "name": "coco", **asdict(options)}
    if images is not None and annotations is None:
        raise DataError("a folder of images is for other data in COCO's format: name annotations")
    if annotations is not None and len(splits) != 1:
        raise DataError(f"one file of annotations makes one split, got {', '.join(splits)}")
    for split in splits:
        if split not in SPLITS and annotations is None:
            raise DataError(f"COCO has no split {split!r}, only {', '.join(SPLITS)}")
        if annotations is None:
            file = root / "annotations" / f"{options.kind}_{SPLITS[split]}.json"
            folder = _image_folder(root, SPLITS[split])
            license, credit = license or LICENSE, credit or CREDIT
        else:
            file, folder = Path(annotations), root if images is None else Path(images)
        content = _read(file)
        pictures = _pictures(content, folder, file, options)
        named = [name for p in pictures for name in (p.path, p.png) if name]
        made_of = source_of([file, *named], folder, whole=[file])
        if is_written(out, split, spec, made_of):
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
            source=made_of.fingerprint,
        )
        write_items(
            writer,
            [(picture, options) for picture in pictures],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{file}: {made_of.names}",
            workers=workers,
            progress=progress,
            expected_bytes=0 if options.resolution else made_of.num_bytes - file.stat().st_size,
        )
    return out


def _image_folder(root: Path, name: str) -> Path:
    for folder in (root / name, root / "images" / name):
        if folder.is_dir():
            return folder
    raise DataError(f"there is no folder {root / name}, nor {root / 'images' / name}")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for part in ("images", "annotations", "categories"):
            content[part][:1]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no file of COCO's annotations: {error!r}") from error
    return content


def _names(content: Mapping[str, Any]) -> dict[int, str]:
    """The categories' names, by their ids, which have gaps."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return {category["id"]: str(category["name"]) for category in categories}


def _features(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "category": ClassLabel(names=list(_names(content).values())),
        "is_thing": Value("bool"),
        "bboxes": List(Value("float32"), length=4),
        "area": Value("int32"),
    }


def _pictures(
    content: Mapping[str, Any], folder: Path, file: Path, options: CocoOptions
) -> list[_Picture]:
    """Every image with what is said of it, by the images' ids."""
    pngs: dict[int, str] = {}
    try:
        names = _names(content)
        things = {c["id"]: bool(c.get("isthing", 1)) for c in content["categories"]}
        licenses = {one["id"]: str(one["name"]) for one in content.get("licenses", ())}
        said: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            number = annotation["image_id"]
            if number not in said:
                raise DataError(
                    f"{file} has an annotation of the image {number}, and no such image"
                )
            segments = [annotation]
            if options.kind == "panoptic":
                segments = annotation["segments_info"]
                pngs[number] = str(file.with_suffix("") / annotation["file_name"])
            for segment in segments:
                category = segment["category_id"]
                if category not in names:
                    raise DataError(f"{file} has the category {category}, which it does not list")
                said[number].append(
                    {
                        "id": segment.get("id"),
                        "category": names[category],
                        "is_thing": things[category],
                        "crowd": bool(segment.get("iscrowd", 0)),
                        "shape": segment.get("segmentation"),
                    }
                )
        pictures = [
            _Picture(
                path=str(folder / image["file_name"]),
                height=image["height"],
                width=image["width"],
                license=licenses.get(image.get("license"), ""),
                segments=tuple(said[image["id"]]),
                png=pngs.get(image["id"], ""),
            )
            for image in sorted(content["images"], key=lambda image: image["id"])
        ]
    except KeyError as error:
        raise DataError(
            f"{file} is no file of COCO's {options.kind}: an entry lacks {error}"
        ) from error
    except (TypeError, AttributeError) as error:
        raise DataError(f"{file} is no file of COCO's {options.kind}: {error}") from error
    _check(pictures, file, options)
    return pictures


def _check(pictures: Sequence[_Picture], file: Path, options: CocoOptions) -> None:
    """Refuse what does not fit, before anything is written."""
    if not pictures:
        raise DataError(f"{file} names no image")
    doubled = [path for path, count in Counter(p.path for p in pictures).items() if count > 1]
    if doubled:
        raise DataError(f"{file} names the image {doubled[0]} twice")
    for picture in pictures:
        if not Path(picture.path).is_file():
            raise DataError(f"{file} names the image {picture.path}, which is not there")
        if options.kind == "panoptic" and not picture.png:
            raise DataError(f"{file} has no annotation of the image {picture.path}")
        if picture.png and not Path(picture.png).is_file():
            raise DataError(f"{file} names the segmentation {picture.png}, which is not there")
    empty = sum(not picture.segments for picture in pictures)
    if empty:
        logger.warning("%d of %d images have no annotation: all background", empty, len(pictures))


def _rows(work: Sequence[tuple[_Picture, CocoOptions]]) -> Iterator[dict[str, Any]]:
    for picture, options in work:
        yield picture_row(picture, options)


def picture_row(picture: _Picture, options: CocoOptions) -> dict[str, Any]:
    """The row of one image."""
    encoded, opened = read_picture(picture.path)
    size = ImageOps.exif_transpose(opened).size
    if size != (picture.width, picture.height):
        raise DataError(
            f"{picture.path} is {size[0]}x{size[1]} pixels when it stands upright, and its "
            f"annotations are for {picture.width}x{picture.height}"
        )
    segments = picture.segments
    if options.kind == "panoptic":
        masks, void = _panoptic(picture)
        if not options.stuff:
            kept = [k for k, segment in enumerate(segments) if segment["is_thing"]]
            segments, masks = tuple(segments[k] for k in kept), [masks[k] for k in kept]
    else:
        masks = [_decode(segment["shape"], picture) for segment in segments]
        void = np.zeros((picture.height, picture.width), bool)
    ids, ignore, objects = _owners(masks, segments, void, options)
    image: Any = encoded
    mask: Any = ids
    unsure: Any = ignore.astype(np.uint8)
    if options.resolution is not None:
        crop, pixels = ResizeCenterCrop(options.resolution), to_rgb(opened)
        image, mask = crop(pixels, ids_picture(ids))
        ids = np.asarray(mask)
        _, unsure = crop(pixels, Image.fromarray(unsure))
    return {
        "image": image,
        "segmentation": mask,
        "ignore": unsure,
        "attributes": {
            "category": [segments[k]["category"] for k in objects],
            "is_thing": [segments[k]["is_thing"] for k in objects],
            "bboxes": [bounding_box(ids == number) for number in range(1, len(objects) + 1)],
            "area": [int((ids == number).sum()) for number in range(1, len(objects) + 1)],
        },
        "license": picture.license,
        "source": Path(picture.path).name,
    }


def _owners(
    masks: Sequence[Bool[np.ndarray, "H W"]],
    segments: Sequence[Mapping[str, Any]],
    void: Bool[np.ndarray, "H W"],
    options: CocoOptions,
) -> tuple[Int[np.ndarray, "H W"], Bool[np.ndarray, "H W"], list[int]]:
    """Ids, what is not to be scored, and which segments the objects are."""
    ids, ignore = np.zeros(void.shape, np.int64), void.copy()
    claims = np.zeros(void.shape, np.int64)
    crowds = np.zeros(void.shape, bool)
    objects: list[int] = []
    for k, (mask, segment) in enumerate(zip(masks, segments, strict=True)):
        if segment["crowd"] and options.crowd != "keep":
            crowds |= mask
            continue
        objects.append(k)
        claims += mask
        free = mask & (ids == 0) if options.overlap == "first" else mask
        ids[free] = len(objects)
    if options.crowd == "ignore":
        ignore |= crowds & (ids == 0)
    if options.ignore_overlap:
        ignore |= claims > 1
    return ids, ignore, objects


def _panoptic(
    picture: _Picture,
) -> tuple[list[Bool[np.ndarray, "H W"]], Bool[np.ndarray, "H W"]]:
    """The masks of an image's segments, and what has none. An id is R + 256 G + 65536 B."""
    opened = read_picture(picture.png)[1]
    if opened.mode != "RGB" or opened.size != (picture.width, picture.height):
        raise DataError(
            f"{picture.png} must be an RGB image of {picture.width}x{picture.height} pixels, got "
            f"{opened.mode} of {opened.size[0]}x{opened.size[1]}"
        )
    colors = np.asarray(opened).astype(np.int64)
    numbers = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    known = {segment["id"] for segment in picture.segments}
    unknown = set(np.unique(numbers).tolist()) - known - {0}
    if unknown:
        raise DataError(f"{picture.png} has the segment {min(unknown)}, which is not listed")
    return [numbers == segment["id"] for segment in picture.segments], numbers == 0


def _decode(shape: Any, picture: _Picture) -> Bool[np.ndarray, "H W"]:
    """The mask of polygons or run lengths."""
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise DataError(
            "COCO's instances need pycocotools: pip install 'latentslots[coco]'"
        ) from None
    try:
        if isinstance(shape, list):
            runs = coco.merge(coco.frPyObjects(shape, picture.height, picture.width))
        elif isinstance(shape["counts"], list):
            runs = coco.frPyObjects(shape, picture.height, picture.width)
        else:
            runs = shape
        mask: Any = coco.decode(runs).astype(bool)
    except Exception as error:  # its C code raises all kinds of them, Exception itself among them
        raise DataError(
            f"{picture.path} has a segmentation that cannot be read: {error}"
        ) from error
    if mask.shape != (picture.height, picture.width):
        raise DataError(f"{picture.path} has a segmentation of another size: {mask.shape}")
    return mask
