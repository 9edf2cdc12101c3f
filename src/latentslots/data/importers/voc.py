"""Importing PASCAL VOC 2012 (Everingham et al., 2015, https://doi.org/10.1007/s11263-014-0733-5).

Masks are palette PNGs of objects (`SegmentationObject`) and of classes (`SegmentationClass`), with
0 for the background and 255 for pixels that are not scored.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, List, Value
from datasets import Image as ImageFeature
from jaxtyping import UInt8
from PIL import Image

from latentslots.data.errors import DataError
from latentslots.data.importers.boxes import bounding_box
from latentslots.data.store.encoding import encode_ids, read_ids, read_picture
from latentslots.data.store.listing import find_file
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.source_files import inspect_files
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop
from latentslots.files import read_text

logger = logging.getLogger(__name__)

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
LISTS = {"train": "trainaug", "validation": "val"}
"""The usual lists of images: 10,582 for training and 1,449 for validation."""
VOID = 255
_BLOCK = 200


@dataclass(frozen=True, kw_only=True)
class VocOptions:
    """How VOC is imported.

    Attributes:
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
    """

    resolution: int | None = None


def import_voc(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: VocOptions | None = None,
    *,
    lists: dict[str, str] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write VOC as a store, or resume an interrupted import.

    The object of row `i` has the id `i + 1`; its class is the class of most of its pixels. An image
    without masks of objects, like most of `trainaug`, is for training only: none of its pixels are
    scored. The
    column `classes` has the class of every pixel, `k` for `CLASSES[k - 1]`, 0 for the background
    and 255 for pixels without a label; images without VOC's classes have those of SBD
    (`SegmentationClassAug`).

    Args:
        source: The folder `VOC2012`, or a folder that holds it or `VOCdevkit`.
        out: Folder of the store, new or of an interrupted import.
        options: Resolution of the images.
        lists: For each split, the name of a list in `ImageSets/Segmentation`; by default `LISTS`.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a file is missing, or the ids of a mask were lost.
    """
    options, lists = options or VocOptions(), LISTS if lists is None else lists
    out, root = Path(out), _root(Path(source))
    spec = {"program": "latentslots data import", "name": "voc", "lists": lists, **asdict(options)}
    for split, name in lists.items():
        names = _names(root, name)
        source_files = inspect_files((file for one in names for file in _files(root, one)), root)
        if is_written(out, split, spec, source_files):
            continue
        without = sum(not _masks(root, one)[0].is_file() for one in names)
        if without:
            logger.warning(
                "%d of %d images of %s have no masks of objects and are not scored",
                without,
                len(names),
                name,
            )
        writer = StoreWriter(
            out,
            split,
            kind="voc",
            license="see http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
            credit="Everingham et al., 2012; images from Flickr",
            segmentation=True,
            ignore=True,
            attributes={
                "category": ClassLabel(names=list(CLASSES)),
                "bboxes": List(Value("float32"), length=4),
            },
            columns={"classes": ImageFeature()},
            made_by=spec,
            source=source_files.fingerprint,
        )
        write_items(
            writer,
            [(str(root), one, options) for one in names],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{root}: {source_files.names_fingerprint}",
            workers=workers,
            progress=progress,
            expected_bytes=0 if options.resolution else source_files.num_bytes,
        )
    return out


def _root(source: Path) -> Path:
    for root in (source, source / "VOC2012", source / "VOCdevkit" / "VOC2012"):
        if (root / "JPEGImages").is_dir():
            return root
    raise DataError(f"{source} holds no VOC2012: there is no folder JPEGImages")


def _names(root: Path, name: str) -> list[str]:
    """Read the names of the images in a list, all of which must exist."""
    file = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    if not file.is_file():
        hint = ""
        if name == "trainaug":
            hint = "; it is not part of VOC: download SBD's list, or use --lists train=train"
        raise DataError(f"there is no file {file}{hint}")
    try:
        lines = read_text(file).splitlines()
    except ValueError as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    # Some copies of trainaug list the paths of images and masks instead of names.
    names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    if not names:
        raise DataError(f"{file} lists no image")
    twice = next((one for one, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{file} lists the image {twice} twice")
    for one in names:
        if not _image(root, one).is_file():
            raise DataError(f"{file} lists the image {one}, which is not in {root / 'JPEGImages'}")
    return names


def _image(root: Path, name: str) -> Path:
    return find_file(root / "JPEGImages", f"{name}.jpg")


def _masks(root: Path, name: str) -> tuple[Path, Path]:
    """Paths of the masks of an image: objects and classes."""
    file = f"{name}.png"
    folders = root / "SegmentationObject", root / "SegmentationClass"
    return find_file(folders[0], file), find_file(folders[1], file)


def _files(root: Path, name: str) -> Iterator[Path]:
    """Yield the image and its existing masks."""
    yield _image(root, name)
    masks = (*_masks(root, name), root / "SegmentationClassAug" / f"{name}.png")
    yield from filter(Path.is_file, masks)


def _rows(items: Sequence[tuple[str, str, VocOptions]]) -> Iterator[dict[str, Any]]:
    for root, name, options in items:
        yield image_row(Path(root), name, options)


def image_row(root: Path, name: str, options: VocOptions) -> dict[str, Any]:
    """Read one image and its masks as a row of the store.

    Raises:
        DataError: If a file is broken, or image and masks do not match.
    """
    path = _image(root, name)
    encoded, decoded = read_picture(path)
    objects, classes = _masks(root, name)
    size = (decoded.height, decoded.width)
    ids = np.zeros(size, np.uint8)
    void = np.ones(size, bool)
    categories: list[str] = []
    if objects.is_file():
        numbers, class_of_pixel = _palette(objects, size), _palette(classes, size)
        void = numbers == VOID
        for number in sorted(set(np.unique(numbers).tolist()) - {0, VOID}):
            mask = numbers == number
            labeled = class_of_pixel[mask & (class_of_pixel != VOID)]
            label = int(np.bincount(labeled).argmax()) if len(labeled) else 0
            if not 1 <= label <= len(CLASSES):
                raise DataError(f"{classes} has no class where {objects.name} has object {number}")
            categories.append(CLASSES[label - 1])
            ids[mask] = len(categories)
    image: Any = encoded
    segmentation: Any = ids
    ignore: Any = void.astype(np.uint8)
    class_map: Any = Image.fromarray(_classes(root, name, size))
    if options.resolution is not None:
        crop, pixels = ResizeCenterCrop(options.resolution), decoded
        image, segmentation = crop(pixels, Image.fromarray(ids))
        ids = np.asarray(segmentation)
        _, ignore = crop(pixels, Image.fromarray(ignore))
        _, class_map = crop(pixels, class_map)
    return {
        "image": image,
        "segmentation": segmentation,
        "ignore": ignore,
        "attributes": {
            "category": categories,
            "bboxes": [bounding_box(ids == number) for number in range(1, len(categories) + 1)],
        },
        "classes": {"bytes": encode_ids(class_map), "path": None},
        "source": path.name,
    }


def _classes(root: Path, name: str, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """Read the class of every pixel; all are void if the image has no labels."""
    of_voc, of_sbd = _masks(root, name)[1], root / "SegmentationClassAug" / f"{name}.png"
    if of_voc.is_file():
        return _palette(of_voc, size)
    if not of_sbd.is_file():
        return np.full(size, VOID, np.uint8)
    mask = read_ids(of_sbd)  # gray values instead of a palette
    if mask.mode not in ("L", "P") or (mask.height, mask.width) != size:
        raise DataError(
            f"{of_sbd} must hold ids of {size[1]}x{size[0]} pixels, got {mask.mode} of "
            f"{mask.width}x{mask.height}"
        )
    return np.asarray(mask)


def _palette(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    mask = read_ids(path)
    if mask.mode != "P":
        raise DataError(
            f"{path} must be a palette PNG, got mode {mask.mode}: a conversion has lost its ids"
        )
    numbers = np.asarray(mask)
    if numbers.shape != size:
        raise DataError(
            f"{path} is {mask.width}x{mask.height} pixels, but its image is {size[1]}x{size[0]}"
        )
    return numbers
