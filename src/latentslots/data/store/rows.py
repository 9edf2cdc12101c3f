"""Validation and encoding of the rows of a store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, List, Value

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import ImageLike, encode_ids, encode_image, read_header
from latentslots.data.transforms import ID_MODES

RESERVED_COLUMNS = ("image", "segmentation", "ignore", "attributes", "video", "frame")
ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 16 * 2**20
_IMAGE_COLUMNS = ("image", "segmentation", "ignore")
_SIZES = "latentslots.sizes"


@dataclass(frozen=True)
class EncodedRow:
    """An encoded row.

    Attributes:
        row: Values by column.
        size: Width and height of the image.
        num_bytes: Size of its encoded images together.
    """

    row: dict[str, Any]
    size: tuple[int, int]
    num_bytes: int


class RowEncoder:
    """Validates and encodes rows.

    Args:
        segmentation: Whether rows have a segmentation.
        ignore: Whether rows may have an `ignore` mask.
        video: Whether rows are frames, with a `video` and a `frame`.
        attributes: HF feature of every attribute of an object, by name.
        columns: HF feature of every further column, by name; each has one value per image.

    Attributes:
        features: HF features of the rows.
        schema: Arrow schema of the rows.
    """

    def __init__(
        self,
        *,
        segmentation: bool = False,
        ignore: bool = False,
        video: bool = False,
        attributes: Mapping[str, Any] | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> None:
        self.attributes, columns = dict(attributes or {}), dict(columns or {})
        reserved = sorted(set(columns) & set(RESERVED_COLUMNS))
        if reserved:
            raise DataError(f"{reserved[0]!r} is the name of a standard column: rename the column")
        features: dict[str, Any] = {"image": Image()}
        if segmentation:
            features["segmentation"] = Image()
        if ignore:
            features["ignore"] = Image()
        if self.attributes:
            features["attributes"] = {k: List(v) for k, v in self.attributes.items()}
        if video:
            features |= {"video": Value("string"), "frame": Value("int32")}
        self.features = Features(features | columns)
        self.schema = self.features.arrow_schema

    def encode(self, row: Mapping[str, Any], *, where: str) -> EncodedRow:
        """Encode a row.

        Args:
            row: The arguments of `StoreWriter.add`; `None` means absent.
            where: Name of the row in error messages.

        Raises:
            DataError: If the row does not have the columns of this store, or an invalid value.
        """
        values = {name: value for name, value in row.items() if value is not None}
        source = values.pop("source", None)
        where += f" ({source})" if source else ""
        images = {name: values.pop(name) for name in _IMAGE_COLUMNS if name in values}
        self._check_columns({*images, *values}, where)
        if "attributes" in values:
            self._check_attributes(values["attributes"], where)
        encoded, size = self._encode_images(images, where)
        row = self._encode_values(values, where)
        row |= {column: {"bytes": data, "path": None} for column, data in encoded.items()}
        row["image"]["path"] = source
        return EncodedRow(row, size, sum(map(len, encoded.values())))

    def _check_columns(self, given: set[str], where: str) -> None:
        unknown = sorted(given - set(self.features))
        if unknown:
            raise DataError(f"{where} has a {unknown[0]!r}, which was not declared to the writer")
        missing = sorted(set(self.features) - given - {"ignore", "frame"})
        if missing:
            raise DataError(f"{where} has no {missing[0]!r}")

    def _encode_images(
        self, images: Mapping[str, ImageLike], where: str
    ) -> tuple[dict[str, bytes], tuple[int, int]]:
        try:
            encoded = {
                column: encode_image(image) if column == "image" else encode_ids(image)
                for column, image in images.items()
            }
            headers = {column: read_header(content) for column, content in encoded.items()}
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        width, height = headers["image"][0]
        for column, (other, mode) in headers.items():
            if column != "image" and mode not in ID_MODES:
                raise DataError(
                    f"{where}: the {column} must hold ids (mode {', '.join(ID_MODES)}), got mode "
                    f"{mode}"
                )
            if other != (width, height):
                raise DataError(
                    f"{where}: the {column} is {other[0]}x{other[1]} pixels, but its image is "
                    f"{width}x{height}"
                )
        return encoded, (width, height)

    def _encode_values(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        row = {}
        for column, value in values.items():
            try:
                row[column] = _plain(self.features[column], value)
                pa.array([row[column]], type=self.schema.field(column).type)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise DataError(f"{where} has an invalid value in {column!r}: {error}") from error
        return row

    def _check_attributes(
        self, values: Mapping[str, Sequence[Any] | np.ndarray], where: str
    ) -> None:
        if set(values) != set(self.attributes):
            raise DataError(
                f"{where} has the attributes {sorted(values)}, but {sorted(self.attributes)} were "
                "declared to the writer"
            )
        lengths = {name: len(value) for name, value in values.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{where}: its attributes have different lengths: {lengths}")


def size_metadata(smallest: Sequence[int], largest: Sequence[int]) -> dict[str, str]:
    """Parquet metadata that holds the range of widths and heights in a block of rows."""
    return {_SIZES: json.dumps([smallest, largest])}


def block_sizes(block: pq.ParquetFile) -> tuple[tuple[int, int], tuple[int, int]]:
    """Read the smallest and largest width and height from the metadata of a block of rows."""
    smallest, largest = json.loads(block.metadata.metadata[_SIZES.encode()])
    return tuple(smallest), tuple(largest)


def _plain(feature: Any, value: Any) -> Any:
    """Convert arrays to lists and class names to numbers; refuse numbers without a class."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(feature, dict):
        return {name: _plain(feature[name], item) for name, item in value.items()}
    if isinstance(feature, List):
        return [_plain(feature.feature, item) for item in value]
    return feature.encode_example(value) if isinstance(feature, ClassLabel) else value
