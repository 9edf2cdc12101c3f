"""Importing NumPy arrays: an `.npz` file of images, optionally with masks."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value
from PIL import Image

from latentslots.data.errors import DataError
from latentslots.data.store.array_files import read_arrays
from latentslots.data.store.resumable import is_added, write_items
from latentslots.data.store.rows import RESERVED_COLUMNS
from latentslots.data.store.source_files import inspect_files, spec_fingerprint
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop
from latentslots.files import read_json

logger = logging.getLogger(__name__)

_BLOCK = 1_000
_TYPES = {"b": "bool", "i": "int64", "u": "int64", "f": "float64", "U": "string"}


def import_arrays(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str = "train",
    name: str | None = None,
    attributes: str | os.PathLike[str] | None = None,
    resolution: int | None = None,
    license: str | None = None,
    credit: str | None = None,
    progress: bool = False,
) -> Path:
    """Write the arrays of an `.npz` file as one split of a new or existing store.

    An interrupted import is resumed; a split that was made from the same file is kept.

    Args:
        source: File with `image` [N, H, W, 3], uint8, and optionally `mask` [N, H, W], integer ids
            with 0 for the background. `video` and `frame` [N] mark the images as frames of videos.
            Other arrays of shape [N] become columns; arrays of other shapes are dropped with a
            warning.
        out: Folder of the store.
        split: Split to write, which the store must not have yet.
        name: Name of the data set; by default the store's, or else the name of the folder.
        attributes: A JSON file, plain or gzipped, of the objects' attributes: for each image a
            list, whose item i belongs to the object with id i + 1, such as
            `[{"color": "red", "size": 20}, ...]`.
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
        license: License of the images.
        credit: Author to be named.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If an array or attribute is missing or invalid, or the store holds other data.
    """
    arrays = _read(Path(source))
    image, mask = _check(arrays, Path(source))
    columns = _columns(arrays, len(image))
    objects = None if attributes is None else _read_objects(Path(attributes), len(image))
    if objects is not None and mask is not None:
        _check_counts(Path(attributes or ""), objects, mask)
    crop = None if resolution is None else ResizeCenterCrop(resolution)
    files = [source] if attributes is None else [source, attributes]
    source_files = inspect_files(files, Path(source).parent, hashed=files)
    spec = {"files": source_files.fingerprint, "resolution": resolution}
    if is_added(Path(out), split, spec_fingerprint(spec)):
        return Path(out)
    writer = StoreWriter(
        out,
        split,
        name=name,
        license=license,
        credit=credit,
        segmentation=mask is not None,
        video="video" in columns,
        attributes=None if objects is None else objects.features,
        columns={
            column: Value(_TYPES[values.dtype.kind])
            for column, values in columns.items()
            if column not in RESERVED_COLUMNS
        },
        source=spec_fingerprint(spec),
    )

    def rows(numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        for row in numbers:
            pixels = Image.fromarray(image[row])
            ids = None if mask is None else Image.fromarray(_narrow(mask[row]))
            if crop is not None:
                pixels, ids = crop(pixels, ids)
            values = {column: array[row].item() for column, array in columns.items()}
            known = None if objects is None else objects.of_image(row)
            yield {"image": pixels, "segmentation": ids, "attributes": known, **values}

    # In one process: every other process would have to decompress the arrays again.
    write_items(
        writer,
        range(len(image)),
        rows,
        block_size=_BLOCK,
        spec=spec,
        source=source,
        workers=1,
        progress=progress,
    )
    return Path(out)


def _read(source: Path) -> dict[str, np.ndarray]:
    arrays = read_arrays(source)
    if "" in arrays:
        raise DataError(f"{source} holds a single array without a name: save it as an .npz file")
    return arrays


@dataclass(frozen=True)
class _Objects:
    """Attributes of the objects of every image, from a JSON file.

    Attributes:
        features: HF feature of each attribute by name.
        images: For each image, the values by name for each object.
    """

    features: Mapping[str, Any]
    images: list[list[dict[str, Any]]]

    def of_image(self, row: int) -> dict[str, list[Any]]:
        return {name: [known[name] for known in self.images[row]] for name in self.features}


def _read_objects(source: Path, num_images: int) -> _Objects:
    if not source.is_file():
        raise DataError(f"there is no file {source}")
    try:
        images = read_json(source)
    except ValueError as error:
        raise DataError(f"{source} cannot be read as JSON: {error}") from error
    if not isinstance(images, list) or len(images) != num_images:
        got = f"{len(images)}" if isinstance(images, list) else type(images).__name__
        raise DataError(
            f"{source} must be a list with one item per image ({num_images}), got {got}"
        )
    is_valid = all(
        isinstance(objects, list) and all(isinstance(values, dict) for values in objects)
        for objects in images
    )
    if not is_valid:
        raise DataError(f"{source} must hold, for every image, a list of objects' values by name")
    all_objects = [values for objects in images for values in objects]
    if not all_objects or not all_objects[0]:
        raise DataError(f"{source} holds no attribute of any object")
    names = set(all_objects[0])
    for image, objects in enumerate(images):
        for number, values in enumerate(objects):
            if set(values) != names:
                raise DataError(
                    f"{source}: object {number} of image {image} has {sorted(values)}, but the "
                    f"first object has {sorted(names)}"
                )
    try:
        return _Objects(Dataset.from_list(all_objects).features, images)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(
            f"{source}: the values of an attribute have no common type: {error}"
        ) from error


def _check_counts(source: Path, objects: _Objects, mask: np.ndarray) -> None:
    """Refuse ids without attributes; objects without pixels are allowed, as they may be hidden."""
    for row, (known, ids) in enumerate(zip(objects.images, mask, strict=True)):
        if len(known) < ids.max():
            raise DataError(
                f"{source}: image {row} has ids up to {ids.max()}, but attributes of {len(known)} "
                "objects"
            )


def _check(arrays: Mapping[str, np.ndarray], source: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if "image" not in arrays:
        raise DataError(f"{source} has no array 'image', only {', '.join(arrays) or 'nothing'}")
    image, mask = arrays["image"], arrays.get("mask")
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3 or image.size == 0:
        raise DataError(
            f"{source}: 'image' must be uint8 of shape [N, H, W, 3], "
            f"got {image.dtype} of shape {list(image.shape)}"
        )
    if mask is None:
        return image, None
    if mask.dtype.kind not in "biu" or mask.shape != image.shape[:3]:
        raise DataError(
            f"{source}: 'mask' must hold integers of shape {list(image.shape[:3])}, to match "
            f"'image', got {mask.dtype} of shape {list(mask.shape)}"
        )
    lowest, highest = int(mask.min()), int(mask.max())
    if lowest < 0 or highest > 65535:
        raise DataError(f"{source}: ids of 'mask' must be in 0..65535, got {lowest}..{highest}")
    return image, mask


def _columns(arrays: Mapping[str, np.ndarray], num_rows: int) -> dict[str, Any]:
    columns = {}
    for name, array in arrays.items():
        if name in ("image", "mask"):
            continue
        usable = name not in RESERVED_COLUMNS or name in ("video", "frame")
        if usable and array.shape == (num_rows,) and array.dtype.kind in _TYPES:
            columns[name] = array
        else:
            logger.warning(
                "array %r is dropped: %s of shape %s is not a column of %d values",
                name,
                array.dtype,
                list(array.shape),
                num_rows,
            )
    if "video" in columns:
        columns["video"] = columns["video"].astype(str)
    elif "frame" in columns:
        logger.warning("array 'frame' is dropped: there is no 'video'")
        del columns["frame"]
    return columns


def _narrow(ids: np.ndarray) -> np.ndarray:
    return ids.astype(np.uint8 if ids.max() < 256 else np.uint16)
