"""Annotations of COCO: the JSON files of instances and panoptic segmentations."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentslots.data.errors import DataError

logger = logging.getLogger(__name__)

Kind = Literal["instances", "panoptic"]


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its annotations.

    Attributes:
        path: The image file.
        height: Height in pixels.
        width: Width in pixels.
        license: Name of the license.
        segments: Its instances or panoptic segments.
        png: The panoptic segmentation; empty for instances.
    """

    path: str
    height: int
    width: int
    license: str
    segments: tuple[dict[str, Any], ...]
    png: str = ""


def read_annotations(file: Path) -> dict[str, Any]:
    """Read a JSON file of annotations.

    Raises:
        DataError: If it does not exist, or is not COCO's.
    """
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for part in ("images", "annotations", "categories"):
            content[part][:1]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not a file of COCO's annotations: {error!r}") from error
    return content


def category_names(content: Mapping[str, Any]) -> dict[int, str]:
    """Names of the categories by their ids, which are not consecutive."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return {category["id"]: str(category["name"]) for category in categories}


def annotated_images(
    content: Mapping[str, Any], folder: Path, file: Path, kind: Kind
) -> list[AnnotatedImage]:
    """List the images with their annotations, in the order of their ids.

    Args:
        content: Content of the JSON file.
        folder: Folder of the images.
        file: The JSON file; the folder of panoptic segmentations is beside it.
        kind: Kind of the annotations.

    Raises:
        DataError: If an entry is invalid, or a file does not exist.
    """
    pngs: dict[int, str] = {}
    try:
        categories = {category["id"]: category for category in content["categories"]}
        licenses = {one["id"]: str(one["name"]) for one in content.get("licenses", ())}
        segments_of: dict[int, list[dict[str, Any]]] = {
            image["id"]: [] for image in content["images"]
        }
        for annotation in content["annotations"]:
            number = annotation["image_id"]
            if number not in segments_of:
                raise DataError(
                    f"{file} has an annotation of the image {number}, but no such image"
                )
            segments = [annotation]
            if kind == "panoptic":
                segments = annotation["segments_info"]
                pngs[number] = str(file.with_suffix("") / annotation["file_name"])
            segments_of[number] += [_segment(one, categories, file) for one in segments]
        images = [
            AnnotatedImage(
                path=str(folder / image["file_name"]),
                height=image["height"],
                width=image["width"],
                license=licenses.get(image.get("license"), ""),
                segments=tuple(segments_of[image["id"]]),
                png=pngs.get(image["id"], ""),
            )
            for image in sorted(content["images"], key=lambda image: image["id"])
        ]
    except KeyError as error:
        raise DataError(f"{file} is not a file of COCO's {kind}: an entry lacks {error}") from error
    except (TypeError, AttributeError) as error:
        raise DataError(f"{file} is not a file of COCO's {kind}: {error}") from error
    _check(images, file, kind)
    return images


def _segment(
    segment: Mapping[str, Any], categories: Mapping[int, Mapping[str, Any]], file: Path
) -> dict[str, Any]:
    number = segment["category_id"]
    if number not in categories:
        raise DataError(f"{file} has the category {number}, which it does not list")
    return {
        "id": segment.get("id"),
        "category": str(categories[number]["name"]),
        "is_thing": bool(categories[number].get("isthing", 1)),
        "crowd": bool(segment.get("iscrowd", 0)),
        "shape": segment.get("segmentation"),
    }


def _check(images: Sequence[AnnotatedImage], file: Path, kind: Kind) -> None:
    """Refuse missing files and annotations before anything is written."""
    if not images:
        raise DataError(f"{file} lists no image")
    repeated = [path for path, count in Counter(i.path for i in images).items() if count > 1]
    if repeated:
        raise DataError(f"{file} lists the image {repeated[0]} twice")
    for image in images:
        if not Path(image.path).is_file():
            raise DataError(f"{file} lists the image {image.path}, which does not exist")
        if kind == "panoptic" and not image.png:
            raise DataError(f"{file} has no annotation of the image {image.path}")
        if image.png and not Path(image.png).is_file():
            raise DataError(f"{file} lists the segmentation {image.png}, which does not exist")
    empty = sum(not image.segments for image in images)
    if empty:
        logger.warning("%d of %d images have no annotation: all background", empty, len(images))
