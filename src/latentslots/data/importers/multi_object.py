"""Importing DeepMind's multi-object data sets, each a GZIP stream of TFRecords.

CLEVR with masks, Multi-dSprites, Objects Room and Tetrominoes (Kabra et al., 2019,
https://github.com/google-deepmind/multi_object_datasets; Apache-2.0). They store every value of an
image and of a mask as a separate byte string. A GZIP stream has no random access: it is read once,
from its beginning to the last record that is imported.

Dimensions: K entities, the background among them; H W pixels.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import List, Value
from jaxtyping import UInt8
from PIL import Image

from latentslots.data.errors import DataError
from latentslots.data.importers.tfrecord import (
    Feature,
    Record,
    TFRecordError,
    parse_example,
    read_records,
)
from latentslots.data.store.resumable import Workers, is_written, write_blocks
from latentslots.data.store.source_files import SourceFiles, inspect_files
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop

_BLOCK = 500
_NUMBER, _CODE = Value("float32"), Value("uint8")  # store/attributes.py reads codes as classes
_POINT = List(Value("float32"), length=3)
_SPRITES = {
    "x": _NUMBER,
    "y": _NUMBER,
    "shape": _CODE,
    "color": _POINT,
    "orientation": _NUMBER,
    "scale": _NUMBER,
}


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Layout of the records of one data set.

    Attributes:
        size: Height and width of the images.
        attributes: HF feature of every attribute of an entity, by name.
        counts: Records of each split, in the order of the stream.
        num_background: Entities that are background, the first ones.
        channels: Channels of the images.
        entities_last: Whether masks are `[H, W, K]` instead of `[K, H, W]`.
    """

    size: tuple[int, int]
    attributes: Mapping[str, Any]
    counts: Mapping[str, int]
    num_background: int = 1
    channels: int = 3
    entities_last: bool = False


# Splits as in Slot Attention (Locatello et al., 2020): the first 60,000 records for training, then
# 320 for validation; of CLEVR, 70,000 for training, and the rest in two halves, as is usual.
_DEFAULT_COUNTS = {"train": 60_000, "validation": 320}
LAYOUTS: dict[str, _Layout] = {
    "clevr-with-masks": _Layout(
        size=(240, 320),
        attributes={
            "x": _NUMBER,
            "y": _NUMBER,
            "z": _NUMBER,
            "pixel_coords": _POINT,
            "rotation": _NUMBER,
            "size": _CODE,
            "material": _CODE,
            "shape": _CODE,
            "color": _CODE,
        },
        counts={"train": 70_000, "validation": 15_000, "test": 15_000},
    ),
    "multi-dsprites-binarized": _Layout(
        size=(64, 64),
        attributes={**_SPRITES, "color": _NUMBER},
        counts=_DEFAULT_COUNTS,
        channels=1,
        entities_last=True,
    ),
    "multi-dsprites-colored-on-grayscale": _Layout(
        size=(64, 64), attributes=_SPRITES, counts=_DEFAULT_COUNTS, entities_last=True
    ),
    "multi-dsprites-colored-on-colored": _Layout(
        size=(64, 64), attributes=_SPRITES, counts=_DEFAULT_COUNTS, entities_last=True
    ),
    "objects-room": _Layout(size=(64, 64), attributes={}, counts=_DEFAULT_COUNTS, num_background=4),
    "tetrominoes": _Layout(
        size=(35, 35),
        attributes={"x": _NUMBER, "y": _NUMBER, "shape": _CODE, "color": _POINT},
        counts=_DEFAULT_COUNTS,
    ),
}
CLEVR_CROP = (64, 29, 256, 221)
"""Left, upper, right and lower edge of the usual crop of CLEVR, 192 x 192 pixels."""


@dataclass(frozen=True, kw_only=True)
class MultiObjectOptions:
    """How a data set is imported.

    Attributes:
        kind: One of `LAYOUTS`.
        crop: Crop the images of CLEVR as usual (`CLEVR_CROP`).
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
        max_objects: Drop images with more objects; 6 gives CLEVR6.
    """

    kind: str
    crop: bool = False
    resolution: int | None = None
    max_objects: int | None = None

    def __post_init__(self) -> None:
        """Reject values that are not allowed."""
        if self.kind not in LAYOUTS:
            raise DataError(f"kind must be one of {', '.join(LAYOUTS)}, got {self.kind!r}")
        if self.crop and self.kind != "clevr-with-masks":
            raise DataError(f"crop applies to clevr-with-masks only, got {self.kind}")
        if self.max_objects is not None and self.max_objects < 1:
            raise DataError(f"max_objects must be at least 1, got {self.max_objects}")


def import_multi_object(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: MultiObjectOptions,
    *,
    counts: Mapping[str, int] | None = None,
    progress: bool = False,
) -> Path:
    """Write one of the data sets as a store, or resume an interrupted import.

    Object `i` has the id `i + 1`; the entities that are background (in Objects Room the sky, the
    floor and two walls) have the id 0. Attributes are those of the records; their codes have no
    published names.

    Args:
        source: The GZIP file.
        out: Folder of the store, new or of an interrupted import.
        options: Data set, crop, resolution and largest number of objects.
        counts: Records of each split, in the order of the stream; by default the usual numbers.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If the file is of another kind, damaged, or has fewer records.
    """
    out, layout = Path(out), LAYOUTS[options.kind]
    counts = dict(layout.counts if counts is None else counts)
    if min(counts.values(), default=0) < 1:
        raise DataError(f"every split must have at least 1 record, got {counts}")
    spec = {
        "program": "latentslots data import",
        "kind": options.kind,
        "crop": options.crop,
        "resolution": options.resolution,
        "max_objects": options.max_objects,
        "counts": counts,
    }
    stream, first = _RecordStream(Path(source)), 0
    if not stream.path.is_file():
        raise DataError(f"there is no file {source}")
    source_files = inspect_files([stream.path], stream.path.parent)
    for split, count in counts.items():
        if not is_written(out, split, spec, source_files):
            sizes = {
                f"{number:07d}": min(_BLOCK, first + count - number)
                for number in range(first, first + count, _BLOCK)
            }
            write_blocks(
                _writer(out, split, options, spec, source_files),
                {name: (int(name), size) for name, size in sizes.items()},
                lambda block: _rows(stream, options, *block),
                spec=spec,
                source=source,
                workers=Workers(count=1),
                progress=progress,
                unit="image",
                sizes=sizes,
            )
        first += count
    return out


class _RecordStream:
    """A position in a GZIP stream, which can only move forward or restart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.records: Iterator[Record] = iter(())
        self.opened = False

    def take(self, first: int, count: int) -> Iterator[tuple[int, Record]]:
        """Yield `count` records from the record with the number `first` on."""
        if not self.opened or first < self.number:
            self.records, self.number, self.opened = read_records(self.path), 0, True
        while self.number < first + count:
            record = next(self.records, None)
            if record is None:
                raise DataError(
                    f"{self.path} has {self.number} records, fewer than the {first + count} of the "
                    "splits: choose smaller splits"
                )
            self.number += 1
            if self.number > first:
                yield self.number - 1, record


def _writer(
    out: Path,
    split: str,
    options: MultiObjectOptions,
    spec: Mapping[str, Any],
    source_files: SourceFiles,
) -> StoreWriter:
    return StoreWriter(
        out,
        split,
        kind=options.kind,
        license="Apache-2.0",
        credit="Kabra et al., 2019, https://github.com/google-deepmind/multi_object_datasets",
        segmentation=True,
        attributes=LAYOUTS[options.kind].attributes,
        made_by=spec,
        source=source_files.fingerprint,
    )


def _rows(
    stream: _RecordStream, options: MultiObjectOptions, first: int, count: int
) -> Iterator[dict[str, Any]]:
    for number, record in stream.take(first, count):
        try:
            row = record_row(parse_example(record.data), options)
        except (TFRecordError, KeyError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"record {number} of {stream.path} is not of {options.kind}: {reason}"
            ) from error
        if row is not None:
            yield row


def record_row(record: Mapping[str, Feature], options: MultiObjectOptions) -> dict[str, Any] | None:
    """Convert a record to a row of the store; `None` if it has too many objects."""
    layout = LAYOUTS[options.kind]
    pixels = _pixels(record["image"], layout)
    masks = _masks(record["mask"], layout)
    exists = np.ones(len(masks), bool)
    if "visibility" in record:
        exists = record["visibility"].floats() > 0
        if len(exists) != len(masks):
            raise ValueError(f"{len(masks)} masks for {len(exists)} entities")
    objects = [k for k in range(layout.num_background, len(masks)) if exists[k]]
    if "visibility" not in record:
        objects = [k for k in objects if masks[k].any()]
    if options.max_objects is not None and len(objects) > options.max_objects:
        return None
    ids = np.zeros(len(masks), np.uint8)
    ids[objects] = np.arange(1, len(objects) + 1)
    segmentation = ids[masks.argmax(axis=0)]
    image: Any = Image.fromarray(pixels)
    mask: Any = Image.fromarray(segmentation)
    if options.crop:
        image, mask = image.crop(CLEVR_CROP), mask.crop(CLEVR_CROP)
    if options.resolution is not None:
        image, mask = ResizeCenterCrop(options.resolution)(image, mask)
    row = {"image": image, "segmentation": mask}
    if layout.attributes:
        row["attributes"] = {
            name: _values(record[name], feature, len(masks))[objects]
            for name, feature in layout.attributes.items()
        }
    return row


def _pixels(feature: Feature, layout: _Layout) -> UInt8[np.ndarray, "H W ..."]:
    values = feature.one_byte_strings()
    height, width = layout.size
    if len(values) != height * width * layout.channels:
        raise ValueError(
            f"an image of {height} x {width} x {layout.channels} was expected, got {len(values)} "
            "values"
        )
    pixels = values.reshape(height, width, layout.channels)
    return np.ascontiguousarray(pixels[..., 0] if layout.channels == 1 else pixels)


def _masks(feature: Feature, layout: _Layout) -> UInt8[np.ndarray, "K H W"]:
    values = feature.one_byte_strings()
    height, width = layout.size
    if not len(values) or len(values) % (height * width):
        raise ValueError(f"masks of {height} x {width} were expected, got {len(values)} values")
    if layout.entities_last:
        return values.reshape(height, width, -1).transpose(2, 0, 1)
    return values.reshape(-1, height, width)


def _values(feature: Feature, hf_feature: Any, count: int) -> np.ndarray:
    """Read an attribute of all entities, `[K]` or `[K, 3]`."""
    values = feature.one_byte_strings() if feature.kind == "bytes" else feature.floats()
    rows = values.reshape(count, -1)
    return rows if isinstance(hf_feature, List) else rows[:, 0].astype(hf_feature.dtype)
