"""Importing PASCAL VOC 2012 (Everingham et al., 2015, https://doi.org/10.1007/s11263-014-0733-5).

Masks are palette PNGs: of objects (`SegmentationObject`) and of classes (`SegmentationClass`), 0
for the background and 255 for what is not to be scored.
"""

import logging
import os
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
from latentslots.data.store.encoding import encode_ids, read_picture
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.sources import source_of
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop

logger = logging.getLogger(__name__)

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
LISTS = {"train": "trainaug", "validation": "val"}
"""The usual lists of images: 10,582 to learn from, 1,449 to score."""
VOID = 255
_BLOCK = 200


@dataclass(frozen=True, kw_only=True)
class VocOptions:
    """What is taken of VOC.

    Attributes:
        resolution: Resize the shortest side to this, and crop the center.
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
    """Write VOC as a store; one that is half written is gone on with.

    The object of row `i` has the id `i + 1`; its class is that of most of its pixels. An image of
    a list that has no masks of objects, as most of `trainaug`, is there to learn from: nothing of
    it is scored. `classes` has the class of every pixel, `k` for the name `k - 1` of `CLASSES`, 0
    for the background and 255 for what nobody labeled; where VOC has none, those of SBD
    (`SegmentationClassAug`).

    Args:
        source: The folder `VOC2012`, or one that holds it or `VOCdevkit`.
        out: Folder of the store, new or half written.
        options: What to take.
        lists: For each split the name of a list in `ImageSets/Segmentation`; by default `LISTS`.
        workers: Processes; by default one per core.
        progress: Whether to show a bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a file is missing, or a mask has lost its ids.
    """
    options, lists = options or VocOptions(), LISTS if lists is None else lists
    out, root = Path(out), _root(Path(source))
    spec = {"program": "latentslots data import", "name": "voc", "lists": lists, **asdict(options)}
    for split, name in lists.items():
        names = _names(root, name)
        made_of = source_of((file for one in names for file in _files(root, one)), root)
        if is_written(out, split, spec, made_of):
            continue
        without = sum(not _masks(root, one)[0].is_file() for one in names)
        if without:
            logger.warning(
                "%d of %d images of %s have no masks of objects: not scored",
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
            source=made_of.fingerprint,
        )
        write_items(
            writer,
            [(str(root), one, options) for one in names],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{root}: {made_of.names}",
            workers=workers,
            progress=progress,
            expected_bytes=0 if options.resolution else made_of.num_bytes,
        )
    return out


def _root(source: Path) -> Path:
    for root in (source, source / "VOC2012", source / "VOCdevkit" / "VOC2012"):
        if (root / "JPEGImages").is_dir():
            return root
    raise DataError(f"{source} holds no VOC2012: there is no folder JPEGImages")


def _names(root: Path, name: str) -> list[str]:
    """The images of a list; each must be there."""
    file = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    if not file.is_file():
        hint = ""
        if name == "trainaug":
            hint = "; it is not part of VOC: fetch SBD's list, or take --lists train=train"
        raise DataError(f"there is no file {file}{hint}")
    # Some copies of trainaug list paths of images and masks instead of names.
    names = [Path(line.split()[0]).stem for line in file.read_text().splitlines() if line.strip()]
    if not names:
        raise DataError(f"{file} names no image")
    for one in names:
        if not _image(root, one).is_file():
            raise DataError(f"{file} names the image {one}, which is not in {root / 'JPEGImages'}")
    return names


def _image(root: Path, name: str) -> Path:
    return root / "JPEGImages" / f"{name}.jpg"


def _masks(root: Path, name: str) -> tuple[Path, Path]:
    """The objects of an image, and its classes."""
    file = f"{name}.png"
    return root / "SegmentationObject" / file, root / "SegmentationClass" / file


def _files(root: Path, name: str) -> Iterator[Path]:
    """The image, and those of its masks that are there."""
    yield _image(root, name)
    masks = (*_masks(root, name), root / "SegmentationClassAug" / f"{name}.png")
    yield from filter(Path.is_file, masks)


def _rows(work: Sequence[tuple[str, str, VocOptions]]) -> Iterator[dict[str, Any]]:
    for root, name, options in work:
        yield image_row(Path(root), name, options)


def image_row(root: Path, name: str, options: VocOptions) -> dict[str, Any]:
    """The row of one image.

    Raises:
        DataError: If its files are broken or do not fit together.
    """
    path = _image(root, name)
    encoded, picture = read_picture(path)
    objects, classes = _masks(root, name)
    size = (picture.height, picture.width)
    ids = np.zeros(size, np.uint8)
    void = np.ones(size, bool)
    categories: list[str] = []
    if objects.is_file():
        numbers, kinds = _palette(objects, size), _palette(classes, size)
        void = numbers == VOID
        for number in sorted(set(np.unique(numbers).tolist()) - {0, VOID}):
            mine = numbers == number
            seen = kinds[mine & (kinds != VOID)]
            kind = int(np.bincount(seen).argmax()) if len(seen) else 0
            if not 1 <= kind <= len(CLASSES):
                raise DataError(f"{classes} has no class where {objects.name} has object {number}")
            categories.append(CLASSES[kind - 1])
            ids[mine] = len(categories)
    image: Any = encoded
    mask: Any = ids
    ignore: Any = void.astype(np.uint8)
    everywhere: Any = Image.fromarray(_classes(root, name, size))
    if options.resolution is not None:
        crop, pixels = ResizeCenterCrop(options.resolution), picture.convert("RGB")
        image, mask = crop(pixels, Image.fromarray(ids))
        ids = np.asarray(mask)
        _, ignore = crop(pixels, Image.fromarray(ignore))
        _, everywhere = crop(pixels, everywhere)
    return {
        "image": image,
        "segmentation": mask,
        "ignore": ignore,
        "attributes": {
            "category": categories,
            "bboxes": [bounding_box(ids == number) for number in range(1, len(categories) + 1)],
        },
        "classes": {"bytes": encode_ids(everywhere), "path": None},
        "source": path.name,
    }


def _classes(root: Path, name: str, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """The class of every pixel; all void where nobody labeled the image."""
    own, added = _masks(root, name)[1], root / "SegmentationClassAug" / f"{name}.png"
    if own.is_file():
        return _palette(own, size)
    if not added.is_file():
        return np.full(size, VOID, np.uint8)
    mask = read_picture(added)[1]  # of gray values, not of a palette
    if mask.mode not in ("L", "P") or (mask.height, mask.width) != size:
        raise DataError(
            f"{added} must hold ids of {size[1]}x{size[0]} pixels, got {mask.mode} of "
            f"{mask.width}x{mask.height}"
        )
    return np.asarray(mask)


def _palette(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    mask = read_picture(path)[1]
    if mask.mode != "P":
        raise DataError(
            f"{path} has lost its ids: it is no palette PNG any more, but of mode {mask.mode}"
        )
    numbers = np.asarray(mask)
    if numbers.shape != size:
        raise DataError(
            f"{path} is {mask.width}x{mask.height} pixels, and its image {size[1]}x{size[0]}"
        )
    return numbers
