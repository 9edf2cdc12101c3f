"""Annotations of COCO: the JSON files of instances and panoptic segmentations."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentslots.data.errors import DataError
from latentslots.data.importers.coco_shapes import parse_shape
from latentslots.data.store.listing import find_file
from latentslots.files import read_json

logger = logging.getLogger(__name__)

Kind = Literal["instances", "panoptic"]
Id = int | str

_IDS = {
    "images": {"id"},
    "annotations": {"id", "image_id", "category_id"},
    "categories": {"id"},
}
"""Names of the ids of each part."""
_SEGMENT_IDS = ("id", "category_id")
"""Those of a panoptic segment."""


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its annotations.

    Attributes:
        path: The image file.
        height: Height in pixels.
        width: Width in pixels.
        license: Name of the license.
        segments: Its instances, each with a `shape`, or panoptic segments.
        png: The panoptic segmentation; empty for instances.
    """

    path: str
    height: int
    width: int
    license: str
    segments: tuple[dict[str, Any], ...]
    png: str = ""


def read_annotations(file: Path) -> dict[str, Any]:
    """Read a JSON file of annotations, and check the ids in it.

    Ids that are text in one place and numbers in another are made numbers.

    Raises:
        DataError: If it does not exist, is not COCO's, or an id occurs twice.
    """
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        content: dict[str, Any] = read_json(file)
        for part in ("images", "annotations", "categories"):
            content[part][:1]
        for part, ids in _IDS.items():
            for entry in content[part]:
                for name in ids & entry.keys():
                    entry[name] = _to_id(entry[name], name)
                if part != "annotations":
                    entry["id"]
        names = Counter(category_names(content).values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"an entry lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{file} is not a file of COCO's annotations: {reason}") from error
    for part in _IDS:
        counts = Counter(entry["id"] for entry in content[part] if "id" in entry)
        twice = next((number for number, count in counts.items() if count > 1), None)
        if twice is not None:
            raise DataError(f"{file} has two {part} with the id {twice!r}")
    for name, count in names.items():
        if count > 1:
            logger.warning("%d categories of %s are named %r: they become one", count, file, name)
    return content


def category_names(content: Mapping[str, Any]) -> dict[Id, str]:
    """Names of the categories by their ids, which are not consecutive."""
    categories = sorted(content["categories"], key=lambda category: _order(category["id"]))
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
    try:
        reader = _Reader(content, folder, file, kind)
        images = [reader.image(image) for image in content["images"]]
    except KeyError as error:
        raise DataError(f"{file} is not a file of COCO's {kind}: an entry lacks {error}") from error
    except DataError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not a file of COCO's {kind}: {error}") from error
    images = [images[index] for index in sorted(range(len(images)), key=reader.order)]
    _check(images, file, kind)
    total = len(content["annotations"])
    if reader.num_boxes:
        logger.warning("%d of %d annotations have no mask: left out", reader.num_boxes, total)
    if reader.num_thin:
        logger.warning("%d polygons have fewer than three points: left out", reader.num_thin)
    return images


class _Reader:
    """Checks the entries of a file of annotations."""

    def __init__(self, content: Mapping[str, Any], folder: Path, file: Path, kind: Kind) -> None:
        self.content, self.folder, self.file, self.kind = content, folder, file, kind
        self.num_boxes = self.num_thin = 0
        self.categories = {category["id"]: category for category in content["categories"]}
        self.licenses = {one["id"]: str(one["name"]) for one in content.get("licenses", ())}
        self.annotations_of: dict[Id, list[dict[str, Any]]] = {
            image["id"]: [] for image in content["images"]
        }
        for annotation in content["annotations"]:
            number = annotation["image_id"]
            if number not in self.annotations_of:
                raise DataError(
                    f"{file} has an annotation of the image {number!r}, but no such image"
                )
            self.annotations_of[number].append(annotation)

    def order(self, index: int) -> tuple[bool, Id]:
        """The place of the image of some index among the others."""
        return _order(self.content["images"][index]["id"])

    def image(self, image: Mapping[str, Any]) -> AnnotatedImage:
        """Read an image and its annotations."""
        height, width = (self._side(image, name) for name in ("height", "width"))
        annotations = self.annotations_of[image["id"]]
        segments: list[dict[str, Any]] = []
        png = ""
        if self.kind == "panoptic":
            if len(annotations) > 1:
                raise DataError(f"{self.file} has two annotations of the image {image['id']!r}")
            for annotation in annotations:
                png = str(find_file(self.file.with_suffix(""), annotation["file_name"]))
                segments = self._panoptic(annotation)
        else:
            instances = [self._instance(one, image, height, width) for one in annotations]
            segments = [one for one in instances if one["shape"]]
            self.num_boxes += len(instances) - len(segments)
        return AnnotatedImage(
            path=str(find_file(self.folder, image["file_name"])),
            height=height,
            width=width,
            license=self.licenses.get(image.get("license"), ""),
            segments=tuple(segments),
            png=png,
        )

    def _side(self, image: Mapping[str, Any], name: str) -> int:
        side = image[name]
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise DataError(
                f"{self.file}: the {name} of the image {image['id']!r} must be a number of pixels, "
                f"got {side!r}"
            )
        return side

    def _panoptic(self, annotation: Mapping[str, Any]) -> list[dict[str, Any]]:
        segments = [
            self._segment({**one, **{name: _to_id(one[name], name) for name in _SEGMENT_IDS}})
            for one in annotation["segments_info"]
        ]
        counts = Counter(segment["id"] for segment in segments)
        for number, count in counts.items():
            if count > 1 or not isinstance(number, int):
                problem = "has two segments with" if count > 1 else "has a segment with"
                raise DataError(
                    f"{self.file}: the image {annotation['image_id']!r} {problem} the id {number!r}"
                )
        return segments

    def _instance(
        self, annotation: Mapping[str, Any], image: Mapping[str, Any], height: int, width: int
    ) -> dict[str, Any]:
        segment = self._segment(annotation)
        try:
            shape = parse_shape(annotation.get("segmentation"), height, width)
        except DataError as error:
            raise DataError(
                f"{self.file}: the annotation {annotation.get('id')!r} of {image['file_name']} "
                f"cannot be read: {error}"
            ) from error
        self.num_thin += shape.num_left_out
        return {**segment, "shape": shape}

    def _segment(self, segment: Mapping[str, Any]) -> dict[str, Any]:
        number = segment["category_id"]
        if number not in self.categories:
            raise DataError(f"{self.file} has the category {number!r}, which it does not list")
        return {
            "id": segment.get("id"),
            "category": str(self.categories[number]["name"]),
            "is_thing": bool(self.categories[number].get("isthing", 1)),
            "crowd": bool(segment.get("iscrowd", 0)),
        }


def _to_id(value: Any, name: str) -> Id:
    """Return an id as a number, also if it is the number as text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{name} must be a number or a text, got {value!r}")
    # A text such as 007 stays one: it is another id than 7.
    is_number = isinstance(value, str) and value.isascii() and value.isdigit()
    return int(value) if is_number and str(int(value)) == value else value


def _order(number: Id) -> tuple[bool, Id]:
    """Sort numbers before texts."""
    return (isinstance(number, str), number)


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
